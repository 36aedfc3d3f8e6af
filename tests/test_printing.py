"""How is what --check and --explain find shown, on a pipe, on a terminal, and to a program?"""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING

import pytest

from identserver.admin import printing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = (("query", "1,2"), ("obstacle", "no netlink"), ("", "allow it"), ("warning", "nobody listens"))


@pytest.fixture(autouse=True)
def page() -> Iterator[None]:
    """A page of its own for each test."""
    printing.begin(for_program=False)
    yield
    printing.begin(for_program=False)


class Terminal(io.StringIO):
    """A terminal that has colours."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a terminal that has colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def show_rows() -> None:
    """Show some rows."""
    for row in ROWS:
        printing.row(*row)


def on_a_terminal(show: Callable[[], None]) -> list[str]:
    """Return the lines that are shown on a terminal."""
    # pytest puts its own standard output in place for each phase of a test.
    with contextlib.redirect_stdout(Terminal()) as terminal:
        show()
    return terminal.getvalue().splitlines()


def test_on_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """There are plain lines, without colour, that a program of old still finds."""
    show_rows()
    assert capsys.readouterr().out.splitlines() == [
        "query    1,2", "obstacle: no netlink", "          allow it", "warning: nobody listens",
    ]  # fmt: skip


def test_the_terminal(coloured: None) -> None:
    """The texts stand below one another, and what is wrong has a colour."""
    query, obstacle, remedy, warning = on_a_terminal(show_rows)
    assert query == "query     1,2"
    assert obstacle == "\033[1;31mobstacle\033[0m  no netlink"
    assert remedy == "          allow it"
    assert warning == "\033[33mwarning\033[0m   nobody listens"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_colour(coloured: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Whoever wants no colour, or can't see any, gets none."""
    monkeypatch.setenv(name, value)
    assert on_a_terminal(show_rows)[1] == "obstacle  no netlink"


def test_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is shown before the end, which is one object with the fields and every row."""
    printing.begin(for_program=True)
    show_rows()
    assert capsys.readouterr().out == ""
    printing.show("error: oidentd.conf:1: no")
    printing.finish(well=False, path="caf\udce9")
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["well"], found["path"]) == (False, "caf\\xe9")
    assert found["rows"][0] == {"label": "query", "text": "1,2", "severity": ""}
    assert found["rows"][-1] == {"label": "error", "text": "oidentd.conf:1: no", "severity": "wrong"}
    assert [row["severity"] for row in found["rows"]] == ["", "wrong", "", "warning", "wrong"]


LINES = {
    "system   /etc/oidentd.conf": ("system", "/etc/oidentd.conf", ""),
    "warning: a: b": ("warning", "a: b", "warning"),
    "          a remedy": ("", "a remedy", ""),
    "the answer is true": ("", "the answer is true", ""),
    "identd 2.0.0, Python 3.11": ("", "identd 2.0.0, Python 3.11", ""),
}


@pytest.mark.parametrize(("line", "row"), LINES.items(), ids=LINES)
def test_a_line_has_a_label(capsys: pytest.CaptureFixture[str], line: str, row: tuple[str, str, str]) -> None:
    """A line that is given whole is shown as it stands, and found by its label."""
    printing.show(line)
    assert capsys.readouterr().out == f"{line}\n"
    assert printing.rows() == [row]


def test_nothing_is_done_to_a_terminal() -> None:
    """Users choose the names of their homes: what would move a cursor is escaped."""
    shown = on_a_terminal(lambda: printing.row("file", "/home/\033[2Jx\n/é"))
    assert shown == ["file      /home/\\x1b[2Jx\\n/\\xe9"]
