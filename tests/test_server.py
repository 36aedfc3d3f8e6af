"""How long does a warm process go on?"""

from __future__ import annotations

import os
from typing import Any

import pytest
from helpers.pairs import PATIENCE

from identserver import options as command_line
from identserver.log import NoLog
from identserver.warm import server
from identserver.warm.loop import Loop


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


def test_a_look_that_fails() -> None:
    """Deadlines are looked after again, and the idle end too, whatever went wrong (MemoryError, say)."""
    looks: list[float] = []
    loop = Loop(lambda error: None)

    class Failing(server.Server):
        def __init__(self) -> None:
            self._loop, self._shortest = loop, 0.01

        def _look_after(self) -> float:
            looks.append(0.0)
            if len(looks) == 3:
                loop.stop()
            raise MemoryError

    loop.call_soon(Failing()._tick)
    loop.call_later(PATIENCE, loop.stop)
    loop.run()
    loop.close()
    assert len(looks) == 3
