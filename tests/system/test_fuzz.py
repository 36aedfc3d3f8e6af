"""Octets, whole or one by one, give the same: one well-formed reply line for a pair, or a clean close; never a crash.

How each line must end is said here a second time, in the words of RFC 1413's digest and without regular expressions, so
that the class is compared with something.
"""

from __future__ import annotations

import contextlib
import re
import socket
from typing import Any, NamedTuple

from helpers.single_shot import handler
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from identd import HiddenUser, IdentError, IdentServer, InvalidPort, NoUser
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


_port = st.one_of(
    st.integers(-2, 70000).map(lambda number: b"%d" % number),
    st.integers(0, 70000).map(lambda number: b"%05d" % number),
    st.sampled_from([b"", b"0", b"1", b"65535", b"65536", b"+5", b"1_0", b"a", "٣".encode(), b"9" * 20, b"9" * 21]),
)
_blank = st.text(" \t", max_size=3).map(str.encode)
_query = st.tuples(
    _blank, _port, _blank, st.sampled_from([b","] * 8 + [b";", b"", b",,", b":"]), _blank, _port, _blank
).map(b"".join)
_line = st.one_of(_query, _query, _query, st.binary(max_size=40), st.just(b" " * 997 + b"1,2"))
_end = st.sampled_from([b"\r\n"] * 4 + [b"\n", b"\n", b"\r", b"", b"\r\r\n", b"\0\n"])
_input = st.one_of(
    st.lists(st.tuples(_line, _end).map(b"".join), max_size=6).map(b"".join),
    st.binary(max_size=64),
    st.tuples(st.binary(max_size=8), st.integers(980, 1020), _end).map(lambda long: long[0].ljust(long[1]) + long[2]),
)
_error = st.sampled_from([IdentError, NoUser, InvalidPort, HiddenUser, RuntimeError, KeyError, UnicodeError])
_common = st.sampled_from(["UNIX", b"OTHER", "UNIX,UTF-8", "x" * 600])
_field = st.one_of(st.text(max_size=8), st.binary(max_size=8), _common)
_result = st.one_of(st.tuples(_field, _field), st.none(), st.integers(), st.text(), st.tuples(_field), _error)


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


@settings(max_examples=600, deadline=None)
@given(_input, st.booleans(), st.lists(_result, min_size=1, max_size=4), st.lists(st.integers(0, 12), max_size=20))
@example(b"1,2\r\n", False, [("UNIX", "alice")], [])
@example(b"1,2\r\n" * 50, True, [("UNIX", "a\r\nb")], [3])
@example(b"x" * 999 + b"\n1,2\n", True, [None], [])
@example(b"x" * 1000 + b"\n1,2\n", True, [None], [])
def test_the_class(data: bytes, multi_query: bool, results: list[Any], cuts: list[int]) -> None:
    """The protocol class, whatever is sent, however it is cut, whatever the lookups give, at once or later."""
    expected = outcome(data, multi_query)
    wire = converse(Server(results, multi_query), [data])
    assert len(wire.writes) == len(expected.pairs), "one reply, in one write, for each pair"
    for reply, (left, right, valid) in zip(wire.writes, expected.pairs):
        assert REPLY.fullmatch(reply)
        if valid:
            assert reply.startswith(b"%d,%d:" % (int(left), int(right)))
            assert b":ERROR:INVALID-PORT" not in reply or InvalidPort in results
        else:
            assert reply == b"%b,%b:ERROR:INVALID-PORT\r\n" % (left, right)
    assert wire.disconnecting == expected.closed
    for later in (False, True):
        for portions in ([data[place : place + 1] for place in range(len(data))], divided(data, cuts), [data]):
            other = converse(Server(results, multi_query, later), portions)
            assert (other.writes, other.disconnecting) == (wire.writes, wire.disconnecting)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_input, st.booleans(), st.booleans())
@example(b"1,1\r\n", False, True)
@example(b"0,1\r\n1,1\r\n,\r\n", True, False)
@example(b"\xff" * 3000, False, False)
def test_the_process(data: bytes, multi_query: bool, octets: bool) -> None:
    """The process on a TCP connection: the replies that are due, a clean close, status 0, nothing on standard error."""
    expected = outcome(data, multi_query)
    with handler(*(["--multi-query"] if multi_query else [])) as served:
        if octets:
            served.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # No further than the process reads: what comes after its end is reset, and rightly so.
            for place in range(expected.consumed):
                served.client.send(data[place : place + 1])
        else:
            served.client.sendall(data)
        with contextlib.suppress(OSError):  # it may have closed already
            served.client.shutdown(socket.SHUT_WR)
        replies = served.read().splitlines(keepends=True)
        assert served.log() == ""
        assert served.status() == 0
    assert len(replies) == len(expected.pairs)
    for reply, (left, right, valid) in zip(replies, expected.pairs):
        assert REPLY.fullmatch(reply)
        if valid:
            assert reply.startswith(b"%d,%d:" % (int(left), int(right)))
        else:
            assert reply == b"%b,%b:ERROR:INVALID-PORT\r\n" % (left, right)
