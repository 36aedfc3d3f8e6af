"""How long does a warm process go on?"""

from __future__ import annotations

import os
from typing import Any

import pytest

from identserver import options as command_line
from identserver.log import NoLog
from identserver.warm import server


@pytest.mark.parametrize(("options", "idle"), [((), 600.0), (("--foreground",), 0.0), (("--idle", "7"), 7.0)])
def test_how_long_it_may_be_idle(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], idle: float) -> None:
    """Ten minutes under a superserver, for ever in the foreground, and what --idle says."""
    found: list[float] = []

    class Server:
        def __init__(self, listeners: Any, options: Any, log: Any, idle: float, loop: Any, *_: Any) -> None:
            found.append(idle)
            loop.close()

        def run(self) -> None:
            pass

    monkeypatch.setattr(server, "Server", Server)
    monkeypatch.setattr(server, "drop_privileges", lambda user, group: None)
    parsed = command_line.read([*options, "-C", os.devnull])
    server.serve_sockets([], parsed, NoLog(parsed))
    assert found == [idle]
