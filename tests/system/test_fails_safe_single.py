"""Does one query fail safe, whatever happens to the process that answers it?  The attacks of issue 9, one by one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.machine import IDENTD, NOBODY, ROOT, program
from helpers.pairs import PATIENCE, Pair, me, named
from helpers.residents import system_file
from helpers.single_shot import COMMAND, handler
from helpers.warm import status, warming

pytest_plugins = ["helpers.people"]

# P6: capabilities.

#: What lets root keep its capabilities when it becomes somebody else.
KEEPING = "--securebits=+no_setuid_fixup"


def capabilities(pid: int) -> set[int]:
    """Return what a process has of the capabilities that it can use, take or hand on."""
    fields = status(pid)
    assert fields["Uid"].split() == [str(NOBODY)] * 4
    return {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")}


@pytest.mark.usefixtures("needs_root")
def test_no_capability_is_left_in_the_warm_process(pair: Pair) -> None:
    """A securebit would let nobody keep all of root's capabilities: they are given up all the same."""
    with warming(command=[program("setpriv"), KEEPING, *COMMAND]) as warm:
        assert capabilities(warm.process.pid) == {0}
        assert warm.ask(pair.query + b"\r\n") == named(pair)


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("options", [(), ("-u", "nobody")])
def test_no_capability_is_left_in_a_single_shot(pair: Pair, options: tuple[str, ...]) -> None:
    """So it is where a process answers one query: it has none when the query comes."""
    code = (
        "import os, sys; sys.path.insert(0, {root!r}); import identd, identserver.single as s\n"
        "read = s.SocketTransport.read\n"
        "def look(self):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    print([int(l[7:], 16) for l in lines if l[:6] in ('CapPrm', 'CapEff', 'CapAmb')], file=sys.stderr)\n"
        "    return read(self)\n"
        "s.SocketTransport.read = look\n"
        "sys.exit(identd.main(sys.argv[1:]))"
    ).format(root=str(ROOT))
    command = [program("setpriv"), KEEPING, sys.executable, "-c", code]
    with handler(*options, command=command) as served:
        assert served.ask(pair.query + b"\r\n") == named(pair)
        assert "[0, 0, 0]" in served.log()


@pytest.mark.usefixtures("needs_root")
def test_capabilities_that_cant_be_given_up() -> None:
    """Where the kernel refuses to take them, there is no start: no reply, and the log says why."""
    strace = [program("strace"), "-f", "-o", "/dev/null", "-e", "inject=capset:error=EPERM:when=1+"]
    with handler(command=[program("setpriv"), KEEPING, *strace, *COMMAND]) as served:
        assert served.read() == b""
        assert "can't become user nobody: Operation not permitted" in served.log()
        assert served.status() == 1
