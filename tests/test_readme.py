"""What README.md shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys

from conftest import ROOT


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
        "    def getHost(self): return identd.End('192.0.2.1', 113)\n"
        "    def getPeer(self): return identd.End('192.0.2.2', 5)\n"
        "    def write(self, data): print(data)\n"
        "    def loseConnection(self): print('closed')\n"
        "import identd\n"
        "server.makeConnection(Transport())\n"
        "server.dataReceived(b'6193, 23\\r\\n')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout == "b'6193,23:USERID:UNIX:alice\\r\\n'\nclosed\n", result.stderr
