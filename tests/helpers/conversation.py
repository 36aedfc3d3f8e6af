"""What must become of the octets of a query, and who holds a conversation with the protocol class to see it?

How each line must end is said here a second time, in the words of RFC 1413's digest and without regular expressions, so
that the class is compared with something.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from identd import IdentServer
from identserver.protocol import Failure

REPLY = re.compile(
    rb"[!-+\--9;-~]{1,20},[!-+\--9;-~]{1,20}:"
    rb"(?:ERROR:(?:INVALID-PORT|NO-USER|HIDDEN-USER|UNKNOWN-ERROR)"
    rb"|USERID:[!-+\--9;-~]{1,64}(?:,[!-+\--9;-~]{1,64})?:[^\0\r\n]{1,512})\r\n"
)


class Outcome(NamedTuple):
    """What must become of some input."""

    pairs: list[tuple[bytes, bytes, bool]]  # two tokens, and whether they are ports
    closed: bool
    consumed: int  # octets that have been read as lines when the connection is closed


def tokens(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the two tokens of a line; None when it is no query."""
    parts = [part.strip(b" \t") for part in line.split(b",")]
    if len(parts) != 2:
        return None
    for part in parts:
        if not 1 <= len(part) <= 20 or any(not 0x21 <= octet <= 0x7E or octet == ord(":") for octet in part):
            return None
    return parts[0], parts[1]


def is_port(token: bytes) -> bool:
    """Say whether a token is an integer of 1 to 5 digits from 1 to 65535."""
    return len(token) <= 5 and all(octet in b"0123456789" for octet in token) and 1 <= int(token) <= 65535


def outcome(data: bytes, multi_query: bool) -> Outcome:
    """Say what must become of some input."""
    pairs: list[tuple[bytes, bytes, bool]] = []
    start = 0
    while True:
        end = data.find(b"\n", start)
        if end < 0 or end - start >= 1000:
            too_long = len(data) - start >= 1000
            return Outcome(pairs, too_long, start + 1000 if too_long else len(data))
        line = data[start:end]
        start = end + 1
        found = tokens(line[:-1] if line.endswith(b"\r") else line)
        if found is None:
            return Outcome(pairs, True, start)
        pairs.append((*found, all(map(is_port, found))))
        if not multi_query:
            return Outcome(pairs, True, start)


class End:
    """One end of a connection."""

    host = "192.0.2.1"
    port = 113


class Wire:
    """A transport that keeps every write, and refuses those after the end."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.disconnecting = False

    def getHost(self) -> End:
        return End()

    def getPeer(self) -> End:
        return End()

    def write(self, data: bytes) -> None:
        assert not self.disconnecting
        self.writes.append(data)

    def loseConnection(self) -> None:
        self.disconnecting = True


class Later:
    """A lookup that has not ended yet, as Twisted's Deferred is one."""

    def addCallbacks(self, callback: Any, errback: Any) -> None:
        self.callback, self.errback = callback, errback


class Server(IdentServer):
    """A server whose lookups end as a list says, round and round: at once, or when they are told to."""

    def __init__(self, results: list[Any], multi_query: bool, later: bool = False) -> None:
        self.multi_query = multi_query
        self._results = results
        self._later = later
        self._count = 0
        self.waiting: list[tuple[Later, Any]] = []

    def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
        result = self._results[self._count % len(self._results)]
        self._count += 1
        if self._later:
            self.waiting.append((Later(), result))
            return self.waiting[-1][0]
        if isinstance(result, type):
            raise result
        return result

    def lookup_failed(self, error: BaseException) -> None:
        """Log nothing: some thousand tracebacks help nobody."""

    def finish(self) -> None:
        """End the lookups that wait, one after another."""
        while self.waiting:
            later, result = self.waiting.pop(0)
            if isinstance(result, type):
                later.errback(Failure(result()))
            else:
                later.callback(result)


def converse(server: Server, portions: list[bytes]) -> Wire:
    """Give a server its input in portions, then finish whatever it waits for."""
    wire = Wire()
    server.makeConnection(wire)
    for portion in portions:
        server.dataReceived(portion)
    server.finish()
    server.connectionLost()
    return wire


def divided(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut some data in pieces of the given sizes; the rest is the last."""
    pieces = []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]
