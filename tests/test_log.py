"""Where does the log go when the daemon can't take it?"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from helpers.logs import fields_of, received, syslog

from identserver import log as room
from identserver.log import Log
from identserver.options import Options
from lookup.behind import Inside
from lookup.connection import Owner

if TYPE_CHECKING:
    from pathlib import Path


def test_a_message_that_is_too_long_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon's socket can't take is left out, and what was logged after it arrives."""
    monkeypatch.setattr(room, "_PATH", str(tmp_path / "log"))
    with syslog(tmp_path / "log") as daemon:
        log = Log(Options())
        log._stderr, log._syslog = False, True
        log.write(log.INFO, "x" * 10_000_000)
        log.write(log.INFO, "y")
        (line,) = received(daemon)
        assert line.endswith(b": y")
        assert log._socket is not None
        log._socket.close()


def test_what_was_lost_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a daemon that is stuck is bounded, and says afterwards how much is missing."""
    monkeypatch.setattr(room, "_PATH", str(tmp_path / "log"))
    monkeypatch.setattr(room, "MAX_UNSENT", 3)
    with syslog(tmp_path / "log") as daemon:
        log = Log(Options())
        log._stderr, log._syslog = False, True
        taken = 0
        while not log._unsent:
            log.write(log.INFO, "x")
            taken += 1
        for _ in range(7):
            log.write(log.INFO, "x")
        lines = received(daemon)
        log.send_again()
        lines += received(daemon)
        assert len(lines) == taken - 1 + 3 + 1
        assert lines[-1].endswith(b"5 messages were lost, because the log took no more")
        assert log._socket is not None
        log._socket.close()


@pytest.mark.parametrize("ended", [True, False])
def test_a_daemon_that_was_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """It gets what is logged from then on; also where somebody still has the old one's socket, once that is full."""
    monkeypatch.setattr(room, "_PATH", str(tmp_path / "log"))
    log = Log(Options())
    log._stderr, log._syslog = False, True
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(syslog(tmp_path / "log"))
        log.write(log.INFO, "first")
        assert received(old)[0].endswith(b": first")
        (tmp_path / "log").unlink()
        if ended:
            old.close()
        new = stack.enter_context(syslog(tmp_path / "log"))
        taken = 0 if ended else _full(log)
        log.write(log.INFO, "next")
        assert [line.rpartition(b" ")[2] for line in received(new)][-1] == b"next"
        assert not log._unsent
        assert ended or len(received(old)) == taken
        assert log._socket is not None
        log._socket.close()


def _full(log: Log) -> int:
    """Fill the queue of the daemon that a log is connected to; return how many messages that took."""
    assert log._socket is not None
    for taken in range(10_000):
        try:
            log._socket.send(b"<30>x")
        except BlockingIOError:
            return taken
    raise AssertionError("the queue has no end")


def test_what_is_escaped() -> None:
    """What is printable stays as it is, so that nothing is escaped twice; what others sent is told from an escape."""
    assert room.printable('plain \\x1b "text"') == b'plain \\x1b "text"'
    assert room.printable("\x1b\x7f\n\0\udcff\xe9\u65e5'\"") == b"\\x1b\\x7f\\n\\x00\\udcff\\xe9\\u65e5'\""
    assert room.printable(room.octets(b"\xff\\xff\n")) == b"\\xff\\\\xff\\n"


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the journal's socket is looked for."""
    monkeypatch.setattr("identserver.journal.PATH", str(tmp_path / "journal"))
    return tmp_path / "journal"


def at_the_journal(severity: int, message: str, fields: Any) -> tuple[bytes, Log]:
    """Log a message where standard error is a stream of the journal's; return what comes by that stream."""
    log = Log(Options())
    log.journal = log._stderr = log.takes_fields = True
    lines: list[bytes] = []
    log._write = lines.append  # type: ignore[method-assign,assignment]
    log.write(severity, message, fields)
    return b"".join(lines), log


def test_an_entry_with_fields(journal: Path) -> None:
    """One entry has the text of the line, its severity and name, and each value as it is: no value makes a field."""
    forging = b"x\nIDENT_OWNER=root\nPRIORITY\n" + (4).to_bytes(8, "little") + b"\xff\0\x1b\n"
    fields = [("IDENT_OWNER", b"jos\xc3\xa9"), ("IDENT_REPLY", forging), ("IDENT_RULE", b"a:1"), ("IDENT_RULE", b"")]
    with syslog(journal) as daemon:
        line, log = at_the_journal(Log.INFO, "one\ntwo", fields)
        (entry,) = received(daemon)
        log.finish()
        assert log._entries is not None and log._entries.all_taken()
        log._entries.close()
    assert line == b""
    assert fields_of(entry) == {
        "MESSAGE": [b"one\\ntwo"], "PRIORITY": [b"6"], "SYSLOG_FACILITY": [b"3"], "SYSLOG_IDENTIFIER": [b"identd"],
        "SYSLOG_PID": [b"%d" % os.getpid()], "IDENT_OWNER": [b"jos\xc3\xa9"], "IDENT_REPLY": [forging],
        "IDENT_RULE": [b"a:1", b""],
    }  # fmt: skip


@pytest.mark.parametrize("what", ["missing", "closed", "a file", "full", "too long"])
def test_a_journal_that_takes_no_entry(journal: Path, what: str) -> None:
    """Whatever keeps the entry out, the line goes by the stream, and nothing waits."""
    value = b"x"
    with contextlib.ExitStack() as stack:
        if what == "a file":
            journal.touch()
        elif what != "missing":
            daemon = stack.enter_context(syslog(journal))
            if what == "closed":
                daemon.close()
            elif what == "full":
                caller = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                caller.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        caller.sendto(b"x", str(journal))
            else:
                value = b"x" * 10_000_000
        line, log = at_the_journal(Log.ERROR, "a text", [("IDENT_REPLY", value)])
        assert log._entries is not None
        log._entries.close()
    assert line == b"<3>a text\n"


def test_a_severity_that_nobody_wants(journal: Path) -> None:
    """What the log does not want is no entry either, and what has no fields is a line."""
    with syslog(journal) as daemon:
        assert at_the_journal(Log.DEBUG, "a text", [("A", b"b")])[0] == b""
        assert at_the_journal(Log.INFO, "a text", None)[0] == b"<6>a text\n"
        assert received(daemon) == []


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("container 1a2b3c4d5e6f (docker)", "1a2b3c4d5e6f"),
        ("container a (b) c (machine)", "a (b) c"),
        ("unit box.service", "unit box.service"),
        ("/run/netns/box", "/run/netns/box"),
        ("", ""),
    ],
)
def test_a_containers_name_for_the_journal(place: str, name: str) -> None:
    """It is what the engine calls it; where no container is known, what the line has; nothing for who is here."""
    owner = Owner(1000, 7, "ESTABLISHED", ("10.0.0.1", 1), ("10.0.0.2", 2), "conntrack")
    assert Inside(owner, 1000, place=place).container == name
    assert owner.container == ""
