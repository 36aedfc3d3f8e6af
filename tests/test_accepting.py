"""Does the warm process accept connections, whatever fails?"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from identserver.warm.accepting import PAUSE_SECONDS, Acceptor
from identserver.warm.deadlines import Deadlines
from identserver.warm.loop import Loop


class Taken:
    """Connections of which none stays open."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __len__(self) -> int:
        return 0

    def begin(self, connected: Any, address: Any, cookie: bytes) -> None:
        """Count one."""
        connected.close()
        self.told.append(address[0])


def test_a_listener_that_can_not_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where epoll_ctl(2) fails once, one line says so, and it is tried again."""
    loop = Loop(lambda error: pytest.fail(str(error)))
    watch = loop.when_readable
    fails = [True]

    def when_readable(fd: int, call: Any) -> None:
        if fails and fails.pop():
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        watch(fd, call)

    monkeypatch.setattr(loop, "when_readable", when_readable)
    said: list[str] = []
    taken: Any = Taken()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        Acceptor([listener], 10, taken, Deadlines(60), loop, said.append, lambda: None).start()
        client.connect(listener.getsockname())
        loop.call_later(PAUSE_SECONDS * 3, loop.stop)
        loop.run()
        loop.leave(listener.fileno())
    loop.close()
    assert said == ["connections can't be waited for: Cannot allocate memory"]
    assert taken.told == ["127.0.0.1"]
