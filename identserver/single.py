"""How is one connection served by one process?

This is inetd's ``nowait``, xinetd's ``wait = no``, systemd's ``Accept=yes``, and tcpserver.
"""

from __future__ import annotations

import gc
import time

from .answer import LINGER_SECONDS, AnsweringServer
from .inherited import Ends, endpoint
from .log import Log

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import Any

    from lookup.kernel.arrival import Arrival

    from .options import Options


class SocketTransport(Ends):
    """A connected socket that blocks, until the deadline of the query under way at the most."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        """:param timeout: seconds for each whole query; 0: no deadline. :raises OSError: the peer has gone."""
        self._socket = connection
        super().__init__(endpoint(connection.getsockname()), endpoint(connection.getpeername()))
        self._timeout = timeout
        self.disconnecting = False
        self._begin_query()

    def _begin_query(self) -> None:
        """Let a new deadline begin."""
        self._deadline = time.monotonic() + self._timeout if self._timeout else None

    def _wait_until(self, deadline: float | None) -> None:
        self._socket.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))

    @property
    def arrival(self) -> Arrival:
        """How the query came in."""
        from lookup.kernel.arrival import Arrival  # once there is a query to look up

        return Arrival(self._socket)

    def read(self) -> bytes:
        """Return what the client sent next, ``b""`` at its end. :raises OSError: the deadline, or a reset."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise TimeoutError
        self._wait_until(self._deadline)
        return self._socket.recv(4096)

    def write(self, data: bytes) -> None:
        try:
            self._wait_until(self._deadline)
            self._socket.sendall(data)
        except OSError:  # EPIPE, ECONNRESET: the client did not wait. A timeout: it reads nothing.
            self.disconnecting = True
        self._begin_query()

    def loseConnection(self) -> None:
        self.disconnecting = True

    def close(self) -> None:
        """End the sending side, then read what came beyond the query, so that no reset overtakes the reply."""
        import _socket as socket  # see lookup/connection.py

        deadline = time.monotonic() + LINGER_SECONDS
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(0)
            unread = self._socket.recv(65536)
            while unread and time.monotonic() < deadline:
                self._wait_until(deadline)
                unread = self._socket.recv(65536)
        except OSError:
            # EAGAIN: nothing more came. ENOTCONN, ECONNRESET: the client has gone. A timeout: it stays on.
            pass


def serve_connection(connection: socket.socket, options: Options, log: Log, look_up: Callable[..., Any]) -> None:
    """Answer one connection and end it. :param look_up: see `AnsweringServer`."""
    if not options.multi_query:
        gc.disable()  # collecting while modules are imported is 6 % of a process that lives for one query
    try:
        transport = SocketTransport(connection, options.timeout)
    except OSError:  # ENOTCONN: the client went away before we started
        log.write(Log.INFO, "a client has gone before its query")
        return
    protocol = AnsweringServer(options, log, look_up)
    protocol.makeConnection(transport)
    while not transport.disconnecting:
        try:
            data = transport.read()
        except OSError as error:  # ECONNRESET, ETIMEDOUT: the client has gone. A timeout: the deadline has passed.
            log.write(Log.INFO, f"{protocol.peer} sent no whole query: {error or 'the deadline has passed'}")
            break
        if not data:
            if protocol.unfinished or not protocol.answered:
                log.write(Log.INFO, f"{protocol.peer} left without a whole query")
            break
        protocol.dataReceived(data)
    protocol.connectionLost()
    transport.close()
    protocol.say_why_nobody()
    log.finish()


def serve_for_root() -> None:
    """Serve the connection on standard input without giving root up: `--check`'s own, which holds its other end.

    Where root tries identd in a clone under a closed home, nobody else could read it. The arguments are the process'.
    """
    # Here, because no query needs them.
    import sys

    from .answer import Lookups, load_system_file
    from .inherited import inherited
    from .options import read

    options = read(sys.argv[1:])
    found = Lookups(lambda: load_system_file(options))
    serve_connection(inherited()[0], options, Log(options), found.look_up)
