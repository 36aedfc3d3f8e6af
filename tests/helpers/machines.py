"""What is a machine behind the judged host, that has an ident server of its own?"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING

from helpers.hosts import inside
from helpers.pairs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: Makes of a query, as it came, what is said; None: nothing is said until the other end has gone.
    Says = Callable[[bytes], "bytes | None"]


#: The end of what is sent, whatever stands before it.
_QUERY = re.compile(rb"(\d{1,5},\d{1,5})\r\n\Z")


class Machine:
    """An ident server. ``says``: what it says; ``queries``: what it was asked."""

    def __init__(self) -> None:
        self.says: Says = replying(b"USERID:UNIX:bouncer")
        self.queries: list[bytes] = []
        self._listeners: list[socket.socket] = []

    def listen(self, host: str, port: int) -> None:
        """Serve an address of the network namespace that this thread is in."""
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listeners.append(listener)
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # EINVAL, EBADF: shut down
                return
            threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            query = b""
            while not _QUERY.search(query):
                more = connection.recv(1000)
                if not more:
                    return
                query += more
            self.queries.append(query)
            said = self.says(query)
            if said is not None:
                connection.sendall(said)
            while said is None and connection.recv(1000):
                pass

    def close(self) -> None:
        """Serve no more."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def replying(rest: bytes) -> Says:
    """Return what replies something about the ports of the query."""

    def says(query: bytes) -> bytes:
        found = _QUERY.search(query)
        assert found is not None
        return found[1] + b":" + rest + b"\r\n"

    return says


@contextlib.contextmanager
def machine(namespace: str, *hosts: str, port: int = 113) -> Iterator[Machine]:
    """An ident server in a network namespace."""
    server = Machine()
    try:
        with inside(namespace):
            for host in hosts:
                server.listen(host, port)
        yield server
    finally:
        server.close()
