"""How is a line shown so that it does nothing to a terminal?"""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """Return one line in printable ASCII: users choose their homes' names, and write the files that are quoted."""
    return re.sub("[^ -~]", lambda found: ascii(found[0])[1:-1], text)


def show(line: str) -> None:
    """Print one line. Whatever --check and --explain print goes through here."""
    print(printable(line))
