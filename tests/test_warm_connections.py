"""Has each connection of the warm process a protocol of its own, whatever fails?"""

from __future__ import annotations

import _socket
import errno
import os
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from identserver.protocol import IdentServer
from identserver.warm.accepting import accept
from identserver.warm.connections import TURN, Connections
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


def test_ready_and_nothing_there() -> None:
    """No call waits for a client that the loop takes for ready: before the query, nor after the reply."""
    ready: dict[int, Any] = {}
    loop: Any = SimpleNamespace(
        when_readable=ready.__setitem__, call_soon=lambda *_: None, leave=lambda fd: ready.pop(fd, None)
    )
    connections = Connections(Served, Deadlines(30), loop, SimpleNamespace(write=lambda *_: None, INFO=6))  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        # Whoever waits is woken up by the client's end, and ends the connection.
        late = threading.Timer(5, client.shutdown, [socket.SHUT_WR])
        late.start()
        connections.begin(*accept(listener), b"")
        (fd,) = ready
        ready[fd]()
        client.sendall(b"1,2\r\n" + b"x" * TURN)
        ready[fd]()
        assert client.recv(100) == b"1,2:ERROR:UNKNOWN-ERROR\r\n"
        for _ in range(2):
            ready[fd]()
        assert len(connections) == 1
        late.cancel()
        client.shutdown(socket.SHUT_WR)
        ready[fd]()
        assert not len(connections)
