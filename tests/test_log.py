"""Where does the log go when the daemon can't take it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.logs import received, syslog

from identserver import log as room
from identserver.log import Log
from identserver.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


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
