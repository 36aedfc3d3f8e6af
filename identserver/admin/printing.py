"""How is what --check and --explain find shown, on a pipe, on a terminal, and to a program?

On a pipe each row is a plain line. On a terminal all labels form a column, and what is wrong has a colour, unless the
environment has NO_COLOR (https://no-color.org). For programs (--json) nothing is shown until `finish`, which prints one
object.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NamedTuple


class Row(NamedTuple):
    """What was found: a short label, a text, and how bad it is (`FINE`, `WARNING`, `WRONG`)."""

    label: str
    text: str
    severity: str


#: How bad it is: nothing is; look at it; no true answer, or an error.
FINE, WARNING, WRONG = "", "warning", "wrong"

#: Labels that say by themselves how bad their text is. They are followed by a colon.
SEVERITIES = {"error": WRONG, "obstacle": WRONG, "wrong": WRONG, "warning": WARNING}

#: SGR sequences (ECMA-48): bold red, yellow; back to normal.
_COLOURS, _NORMAL = {WRONG: "\033[1;31m", WARNING: "\033[33m"}, "\033[0m"

#: Columns of the labels on a pipe (with a blank), and on a terminal.
_PIPE, _TERMINAL = 9, 10


class _Page:
    """What has been found so far, for `finish`; and whether it is shown at once."""

    def __init__(self) -> None:
        self.for_program = False
        self.rows: list[Row] = []


_page = _Page()


def printable(text: str) -> str:
    """Return one line in printable ASCII: users choose their homes' names, and write the files that are quoted."""
    return re.sub("[^ -~]", lambda found: ascii(found[0])[1:-1], text)


def begin(for_program: bool) -> None:
    """Begin a page. :param for_program: nothing is shown before `finish` prints it all as one JSON object."""
    _page.for_program = for_program
    _page.rows = []


def rows() -> list[Row]:
    """Return what this page has so far."""
    return list(_page.rows)


def row(label: str, text: str, severity: str | None = None, in_words: bool = True) -> None:
    """Show one finding.

    :param label: a word; ``""``: the text goes on from the row above.
    :param severity: None: what the label says (`SEVERITIES`).
    :param in_words: where there is no colour, say how bad it is; otherwise the text does that by itself.
    """
    if severity is None:
        severity = SEVERITIES.get(label, FINE)
    _page.rows.append(Row(label, text, severity))
    if _page.for_program:
        return
    if sys.stdout.isatty():
        # Nothing is wrapped, so that commands can be copied.
        print(_coloured(label, severity) + " " * max(_TERMINAL - len(label), 1) + printable(text))
    elif label in SEVERITIES:
        print(f"{label}: {printable(text)}")
    else:
        # There is no colour, so a word says it.
        said = f"{severity}: {text}" if severity and label and in_words else text
        print(printable(f"{label.ljust(_PIPE - 1 if label else _TERMINAL - 1)} {said}"))


def show(line: str) -> None:
    """Show one line: ``label: text`` for a label of `SEVERITIES`, ``label text`` with two blanks or the column between.

    Whatever else it is has no label, and is shown as it stands.
    """
    found = re.fullmatch(r"(\w+): (.*)", line, re.DOTALL)
    if found and found[1] in SEVERITIES:
        row(found[1], found[2])
        return
    found = re.fullmatch(rf"(?=.{{{_PIPE}}})([a-z]{{1,{_PIPE - 1}}}) +(.*)", line, re.DOTALL)
    if found and found.start(2) == _PIPE:
        row(found[1], found[2])
    elif line.startswith(" " * _TERMINAL):
        row("", line[_TERMINAL:])
    else:
        line_of_its_own(line)


def line_of_its_own(line: str, severity: str = FINE) -> None:
    """Show a line without a label: a heading, a verdict, what another program wrote."""
    _page.rows.append(Row("", line, severity))
    if not _page.for_program:
        print(_coloured(printable(line), severity) if sys.stdout.isatty() else printable(line))


def finish(**fields: Any) -> None:
    """End a page. For a program, print these fields and ``rows`` as one JSON object."""
    if not _page.for_program:
        return
    import json  # only for programs

    found = {**fields, "rows": [dict(zip(Row._fields, one)) for one in _page.rows]}
    print(json.dumps(_as_unicode(found)))


def _coloured(text: str, severity: str) -> str:
    """Return a text with a terminal's colour for how bad it is, unless the user wants none."""
    if not severity or not text or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"{_COLOURS[severity]}{text}{_NORMAL}"


def _as_unicode(value: Any) -> Any:
    """Return a value whose texts are Unicode: octets that are no UTF-8 (a file's name) become escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {key: _as_unicode(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_unicode(one) for one in value]
    return value
