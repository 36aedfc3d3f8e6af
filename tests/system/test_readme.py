"""Does what README.md shows work as it stands there?"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from helpers.machine import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_the_man_page_installs(tmp_path: Path) -> None:
    """The line for the man page works where its folder does not exist yet, as on a fresh Debian."""
    line = re.search(r"`(install [^`]*identd\.8[^`]*)`", (ROOT / "README.md").read_text())
    assert line is not None
    target = tmp_path / "man8" / "identd.8"
    command = line[1].replace("/usr/local/share/man/man8/identd.8", str(target)).split()
    assert str(target) in command
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    assert target.read_bytes() == (ROOT / "man" / "identd.8").read_bytes()


def test_the_handler_example_answers() -> None:
    """The subclass of ten lines, run as README has it, answers a query on a pipe."""
    readme = (ROOT / "README.md").read_text()
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    assert len(example[1].splitlines()) <= 20
    code = example[1] + "\nserver = Handler()\n"
    code += (
        "class Transport:\n"
        "    disconnecting = False\n"
        "    def getHost(self): return Endpoint('192.0.2.1', 113)\n"
        "    def getPeer(self): return Endpoint('192.0.2.2', 5)\n"
        "    def write(self, data): print(data)\n"
        "    def loseConnection(self): print('closed')\n"
        "from identserver.protocol import Endpoint\n"
        "server.makeConnection(Transport())\n"
        "server.dataReceived(b'6193, 23\\r\\n')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout == "b'6193,23:USERID:UNIX:alice\\r\\n'\nclosed\n", result.stderr
