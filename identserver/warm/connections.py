"""What becomes of a connection, from its first octet to its end?"""

from __future__ import annotations

import time
from fcntl import ioctl
from termios import FIONREAD

from lookup.connection import Arrival, asked_name

from ..answer import endpoint
from ..protocol import Ends

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import Any

    from ..answer import AnsweringServer
    from ..log import Log
    from .deadlines import Deadlines
    from .loop import Loop

#: Octets taken from one client at a time. Pipelined queries that can be answered at once are answered in one go,
#: while every other client waits: some 20 of them.
TURN = 128

#: Octets taken at a time of what comes beyond the query.
LEFTOVER = 4096

_SHUT_WR, _MSG_MORE = 1, 0x8000  # socket.SHUT_WR; linux/socket.h

#: Each call says that it may not wait, because to say so of the socket is a system call more (recv(2), send(2)).
_MSG_DONTWAIT = 0x40

#: What the kernel says, as an int, of a socket with nothing to read (tcp(7), SIOCINQ).
_NONE = bytes(4)


class Connection(Ends):
    """A client of the warm process: the transport that its protocol writes to."""

    __slots__ = (
        "_deadlines", "_log", "_loop", "_lost", "_on_end", "_protocol", "_settling", "_socket", "_unsent", "_watched",
        "arrival", "disconnecting",
    )  # fmt: skip

    def __init__(
        self, connected: socket.socket, address: Any, cookie: bytes, protocol: AnsweringServer, deadlines: Deadlines,
        loop: Loop, log: Log, on_end: Callable[[Connection], object],
    ) -> None:  # fmt: skip
        """:param connected: see `accepting.accept`. :param address: the client's, as accept() gives it.

        :param cookie: the listening socket's (`Arrival`).
        :param on_end: called once, when the socket is closed.

        :raises OSError: the client has gone.
        """
        self._socket = connected
        #: How the query came in.
        self.arrival = Arrival(connected, cookie)
        Ends.__init__(self, endpoint(asked_name(connected)), endpoint(address))  # super(): see AnsweringServer
        self._deadlines, self._loop, self._log, self._on_end = deadlines, loop, log, on_end
        self._unsent = b""
        self.disconnecting = self._lost = False
        #: Whether the loop watches it.
        self._watched = False
        #: Whether `_settle` will be called in any case, or no more.
        self._settling = True
        self._protocol = protocol
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
        else:
            self._send(data)
        self._settle_later()
        self._deadlines.query_is_over(self)  # the next query's deadline begins here

    def _send(self, data: bytes) -> None:
        try:
            if self._protocol.done:
                # With the last reply goes the end of what we send, in one segment: two take the kernel 17 us more.
                sent = self._socket.send(data, _MSG_DONTWAIT | _MSG_MORE)
                if sent == len(data):
                    self._socket.shutdown(_SHUT_WR)
            else:
                sent = self._socket.send(data, _MSG_DONTWAIT)
        except BlockingIOError:  # EAGAIN: the client does not read
            sent = 0
        except OSError:  # EPIPE, ECONNRESET, ENOTCONN: the client did not wait
            self._lost = self.disconnecting = True
            return
        self._unsent = data[sent:]

    def loseConnection(self) -> None:
        self.disconnecting = True
        self._settle_later()

    def _settle_later(self) -> None:
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._settle)

    def readable(self) -> None:
        """Take what the client sent."""
        try:
            data = self._socket.recv(TURN, _MSG_DONTWAIT)
        except BlockingIOError:  # EAGAIN: nothing yet
            self._settle()
            return
        except OSError as error:  # ECONNRESET, ETIMEDOUT: the client has gone
            self._left(f"left without a whole query: {error.strerror}")
            return
        if not data:
            if self._protocol.answered and not self._protocol.unfinished:
                self.abort()
            else:
                self._left("left without a whole query")
            return
        self._settling = True
        self._protocol.dataReceived(data)
        self._settle()

    def _settle(self) -> None:
        """Wait for what has to come next: the client's query, the answer, room to send it, or the end."""
        self._settling = False
        if self._lost:
            self.abort()
        elif self._unsent:
            self._leave()
            self._deadlines.wait_for_query(self)
            self._watched = True
            self._loop.when_writable(self._socket.fileno(), self._writable)
        elif self.disconnecting:
            self._finish()
        elif self._protocol.busy:
            self._leave()
            self._deadlines.query_is_over(self)
        else:
            self._deadlines.wait_for_query(self)
            if not self._watched:
                self._watched = True
                self._loop.when_readable(self._socket.fileno(), self.readable)

    def _leave(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.leave(self._socket.fileno())

    def _writable(self) -> None:
        self._leave()
        data, self._unsent = self._unsent, b""
        self.write(data)

    def _finish(self) -> None:
        """Close, but read first what came beyond the query: closing over it would be a reset."""
        self._protocol.connectionLost()
        try:
            # Not by recv(2), whose EAGAIN is an exception: that takes 3 us.
            if ioctl(self._socket.fileno(), FIONREAD, _NONE) != _NONE:
                self._socket.shutdown(_SHUT_WR)
                self._leave()
                self._deadlines.query_is_over(self)
                self._deadlines.wait_for_end(self)
                self._watched = True
                self._loop.when_readable(self._socket.fileno(), self._drain)
                return
        except OSError:  # ENOTCONN, ECONNRESET: the client has gone.
            pass
        self._close()

    def _drain(self) -> None:
        """Read what nobody needs, until the client's end or the deadline."""
        try:
            if self._socket.recv(LEFTOVER, _MSG_DONTWAIT):
                return
        except BlockingIOError:  # EAGAIN: nothing yet
            return
        except OSError:  # ECONNRESET: the client has gone
            pass
        self._close()

    def _left(self, how: str) -> None:
        self._log.write(self._log.INFO, f"{self._protocol.peer} {how}")
        self.abort()

    def expire(self) -> None:
        """End at the deadline."""
        if self.disconnecting:
            self._close()
        else:
            self._left("sent no whole query in time")

    def abort(self) -> None:
        """End now, without a reply."""
        self._protocol.connectionLost()
        self._close()

    def _close(self) -> None:
        self._settling = True  # nothing more has to be settled
        self._deadlines.forget(self)
        self._leave()
        try:  # noqa: SIM105 - which takes 1 us
            self._socket.close()
        except OSError:
            # EIO, EINTR and the like: the descriptor is given back all the same (close(2)).
            pass
        self._on_end(self)


class Connections:
    """The connections that are open."""

    def __init__(self, new_protocol: Callable[[], AnsweringServer], deadlines: Deadlines, loop: Loop, log: Log) -> None:
        """:param new_protocol: called for each connection."""
        self._new_protocol = new_protocol
        #: For the next connection: made while nobody waits.
        self._spare: AnsweringServer | None = None
        self._given = deadlines, loop, log, self._ended
        self._open: set[Connection] = set()
        self._none_since = time.monotonic()
        self._when_none: Callable[[], object] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, connected: socket.socket, address: Any, cookie: bytes) -> None:
        """Serve a client that was accepted. :param cookie: see `Connection`."""
        # Taken out first: whatever fails, no protocol serves two.
        protocol, self._spare = self._spare or self._new_protocol(), None
        try:
            connection = Connection(connected, address, cookie, protocol, *self._given)
        except OSError:  # ENOTCONN: it has been reset
            connected.close()
            return
        self._open.add(connection)
        connection.readable()
        self._spare = self._new_protocol()

    def _ended(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._none_since = time.monotonic()
            if self._when_none is not None:
                self._when_none()

    def none_since(self) -> float | None:
        """Return when the last connection ended; None while one is open."""
        return None if self._open else self._none_since

    def when_none(self, callback: Callable[[], object]) -> None:
        """Have a function called when no connection is open: now, or at the end of the last."""
        self._when_none = callback
        if not self._open:
            callback()

    def abort(self) -> None:
        """End all of them now, without a reply."""
        for connection in list(self._open):
            connection.abort()
