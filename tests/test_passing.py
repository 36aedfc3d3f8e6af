"""Do descriptors reach another process, and is what waits for that cheap to start?"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.machine import ROOT
from helpers.pairs import PATIENCE

from identserver import passing

#: What a single shot that was started as root, or that looks behind NAT, waits for nobody to import.
SLOW = {
    "argparse", "asyncio", "collections", "contextlib", "ctypes", "enum", "functools", "psutil", "pyroute2", "re",
    "selectors", "signal", "socket", "threading", "typing",
}  # fmt: skip

#: What the processes of a single shot import; and the last thing that one of them does.
STARTS = {
    "root": "import identserver.as_root",
    "seeker": """
import identserver.seeker
from lookup.kernel import holder, namespaces, search
search.prepare()
assert holder.place("/docker/" + 64 * "a")
identserver.seeker.capabilities.held()
search.search(search.Request(("127.0.0.1", 1), ("127.0.0.1", 2)))
""",
    "asker": """
from identserver.answer import Lookups
from identserver.options import read
Lookups(lambda: None, read(["-m"]))
""",
}


@pytest.mark.parametrize("which", STARTS)
def test_imports_nothing_slow(which: str) -> None:
    """Each of these takes milliseconds, and a whole query 30."""
    code = f"import sys\n{STARTS[which]}\nprint(*sorted({SLOW!r} & set(sys.modules)))"
    words = [sys.executable, "-S", "-c", code]  # whatever the machine imports at each start is not ours
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_a_descriptor_arrives() -> None:
    """With its message, and as another one of the same file; then that no other will come."""
    ours, theirs = passing.pair()
    reader, writer = os.pipe()
    try:
        passing.send(ours, b"one", writer)
        data, (fd,) = passing.receive(theirs, 10)
        assert data == b"one"
        os.write(fd, b"through")
        os.close(fd)
        assert os.read(reader, 10) == b"through"
        ours.close()
        assert passing.receive(theirs, 10) == (b"", [])
    finally:
        for each in (ours, theirs):
            each.close()
        for end in (reader, writer):
            os.close(end)


def test_a_message_without_one() -> None:
    """Somebody else's process may send that: there is none."""
    ours, theirs = passing.pair()
    try:
        ours.send(b"none")
        assert passing.receive(theirs, 10) == (b"none", [])
    finally:
        ours.close()
        theirs.close()
