"""Has each connection of the warm process a protocol of its own, whatever fails?"""

from __future__ import annotations

import _socket
import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from identserver.protocol import IdentServer
from identserver.warm.connections import Connections
from identserver.warm.deadlines import Deadlines


class Served(IdentServer):
    """Keeps whom it serves."""

    answered = False
    peer = ""


def test_no_protocol_serves_two() -> None:
    """A connection that can't be watched (ENOSPC) is left open: the next one has another protocol."""
    made: list[Served] = []
    fails = [True]

    def when_readable(fd: int, call: Any) -> None:
        if fails and fails.pop():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def new() -> Any:
        made.append(Served())
        return made[-1]

    loop: Any = SimpleNamespace(when_readable=when_readable, call_soon=lambda *_: None, leave=lambda fd: None)
    connections = Connections(new, Deadlines(30), loop, SimpleNamespace(write=lambda *_: None))  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends = []
        for number in range(3):
            client = socket.create_connection(listener.getsockname())
            fd, address = listener._accept()  # type: ignore[attr-defined]
            accepted = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fd)
            ends += [client, accepted]
            if number:
                connections.begin(accepted, address, b"")
            else:
                with pytest.raises(OSError, match="No space"):
                    connections.begin(accepted, address, b"")
    transports = [one.transport for one in made if one.transport is not None]
    assert len(transports) == len(set(map(id, transports))) == 3
    for end in ends:
        end.close()
