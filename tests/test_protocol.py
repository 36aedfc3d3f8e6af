"""Does the protocol class read queries and write replies as RFC 1413 and Twisted's documentation have it?"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identd import HiddenUser, IdentError, IdentServer, InvalidPort, NoUser
from identserver.protocol import Failure, parse_ports, parse_query

if TYPE_CHECKING:
    from collections.abc import Callable


class End:
    """One end of a connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port


class Wire:
    """A transport that keeps every write by itself."""

    def __init__(self, host: str = "192.0.2.1", peer: str = "192.0.2.2") -> None:
        self.writes: list[bytes] = []
        self.disconnecting = False
        self._ends = End(host, 113), End(peer, 40000)

    def getHost(self) -> End:
        return self._ends[0]

    def getPeer(self) -> End:
        return self._ends[1]

    def write(self, data: bytes) -> None:
        assert not self.disconnecting, "a write after the end"
        self.writes.append(data)

    def loseConnection(self) -> None:
        self.disconnecting = True


class Later:
    """What Twisted's Deferred is to the protocol: something with ``addCallbacks``."""

    def __init__(self) -> None:
        self._callbacks: tuple[Callable[[Any], object], Callable[[Any], object]] | None = None

    def addCallbacks(self, callback: Callable[[Any], object], errback: Callable[[Any], object]) -> None:
        self._callbacks = callback, errback

    def callback(self, result: Any) -> None:
        assert self._callbacks
        self._callbacks[0](result)

    def errback(self, error: BaseException) -> None:
        assert self._callbacks
        self._callbacks[1](Failure(error))


class Server(IdentServer):
    """A server whose lookups give what a test says, and that remembers what it was asked."""

    def __init__(self, result: Any = ("UNIX", "alice"), multi_query: bool = False) -> None:
        self.result = result
        self.multi_query = multi_query
        self.asked: list[Any] = []

    def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
        self.asked.append((serverAddress, clientAddress))
        result = self.result
        if isinstance(result, list):
            result = result.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result


def connected(server: IdentServer, wire: Wire | None = None) -> Wire:
    """Begin a connection and return its transport."""
    wire = wire or Wire()
    server.makeConnection(wire)
    return wire


def told(data: bytes, server: IdentServer | None = None) -> bytes | None:
    """Return the one reply to what a client sent; None for a connection that was dropped without one."""
    server = server or Server()
    wire = connected(server)
    server.dataReceived(data)
    assert wire.disconnecting
    assert len(wire.writes) <= 1, "a reply goes out in one write"
    return wire.writes[0] if wire.writes else None


@pytest.mark.parametrize(
    "line",
    [b"6193,23", b"6193, 23", b"6193 , 23", b" 6193,23", b"6193,23 ", b"\t6193\t,\t23\t", b"06193,00023"],
)
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_valid_queries(line: bytes, end: bytes) -> None:
    """White space may stand anywhere but inside an integer, leading zeros are digits, and a bare LF ends a line."""
    server = Server()
    assert told(line + end, server) == b"6193,23:USERID:UNIX:alice\r\n"
    assert server.asked == [(("192.0.2.1", 6193), ("192.0.2.2", 23))]


@pytest.mark.parametrize("ports", [(1, 1), (65535, 65535), (1, 65535), (80, 80)])
def test_the_limits_of_a_port(ports: tuple[int, int]) -> None:
    """Both ends of the range 1 to 65535 are ports."""
    server = Server()
    assert told(b"%d,%d\r\n" % ports, server) == b"%d,%d:USERID:UNIX:alice\r\n" % ports
    assert [asked[0][1] for asked in server.asked] == [ports[0]]


@pytest.mark.parametrize(
    "tokens",
    [
        (b"0", b"5"),
        (b"5", b"0"),
        (b"00000", b"5"),
        (b"65536", b"5"),
        (b"5", b"65536"),
        (b"99999", b"99999"),
        (b"000080", b"5"),  # six digits
        (b"-1", b"5"),
        (b"+5", b"5"),
        (b"1_0", b"5"),
        (b"1.5", b"23"),
        (b"0x50", b"23"),
        (b"a", b"b"),
        (b"!", b"~"),
        (b"1" * 20, b"5"),
    ],
)
def test_invalid_ports(tokens: tuple[bytes, bytes]) -> None:
    """Two tokens that are not both ports are INVALID-PORT, echoed as they came, and nothing is looked up."""
    server = Server()
    assert told(b" %b\t, %b \r\n" % tokens, server) == b"%b,%b:ERROR:INVALID-PORT\r\n" % tokens
    assert server.asked == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b",",
        b"1,",
        b",1",
        b"1 1",
        b"123",
        b"1,2,3",
        b"1,,2",
        b"1 0,23",
        b"1,2 3",
        b"1:2,3",
        b"1,2:3",
        b"1,2\x00",
        b"\x001,2",
        b"1,2\x0b",
        b"1\x0c,2",
        b"1,\x1b[31m2",
        b"1,2\x7f",
        b"\xff,2",
        b"1,\xc2\xb2",  # a superscript two
        "١,٢".encode(),  # noqa: RUF001 - Arabic digits, which int() takes
        b"1" * 21 + b",5",
        b"1,2\r",
        b"\r1,2",
    ],
)
def test_invalid_queries(line: bytes) -> None:
    """What is neither is dropped without a reply, and nothing is looked up."""
    server = Server()
    assert told(line + b"\r\n", server) is None
    assert server.asked == []


#: What a query is, without its line's end, and what a port is: the specification. The program reads them without `re`.
QUERY = re.compile(rb"[ \t]*([!-+\-./0-9;-~]{1,20})[ \t]*,[ \t]*([!-+\-./0-9;-~]{1,20})[ \t]*")
PORT = re.compile(rb"0{0,4}[1-9]|0{0,3}[1-9][0-9]|0{0,2}[1-9][0-9]{2}|0?[1-9][0-9]{3}|[1-5][0-9]{4}"
                  rb"|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]")  # fmt: skip

_TOKENS = st.one_of(
    st.integers(0, 70_000).map(b"%d".__mod__), st.binary(max_size=3), st.from_regex(PORT, fullmatch=True),
    st.text(string.digits, max_size=22).map(str.encode), st.text(string.printable, max_size=22).map(str.encode),
)  # fmt: skip
_SPACES = st.text(" \t", max_size=3).map(str.encode)

#: Lines that are queries, or nearly so, and any others.
_LINES = st.one_of(
    st.tuples(_SPACES, _TOKENS, _SPACES, st.just(b","), _SPACES, _TOKENS, _SPACES).map(b"".join),
    st.from_regex(QUERY, fullmatch=True), st.binary(max_size=60),
    st.lists(st.sampled_from([b" ", b"\t", b",", b":", b"1", b"65536", b"~", b"\x7f", b"\n", b"\r", b"\0"])).map(
        b"".join
    ),
)  # fmt: skip


@given(_LINES)
@example(b"1" * 20 + b"," + b"~" * 20)
@example(b"1" * 21 + b",1")
@example(b"1,1\n")
def test_what_a_query_is(line: bytes) -> None:
    """What reads queries without regular expressions agrees with the one that says what they are, and so with ports."""
    match = QUERY.fullmatch(line)
    assert parse_query(line) == (match and match.groups())
    ports = [int(token) for token in match.groups() if PORT.fullmatch(token)] if match else []
    assert parse_ports(line) == (tuple(ports) if len(ports) == 2 else None)


def test_each_octet_in_a_query() -> None:
    """So they do about every octet, wherever it stands: before, in, between and after the tokens."""
    for octet, place in itertools.product(range(256), range(6)):
        line = b"12,34"[:place] + bytes([octet]) + b"12,34"[place:]
        match = QUERY.fullmatch(line)
        assert parse_query(line) == (match and match.groups()), line


def test_a_line_may_have_999_octets_and_its_end() -> None:
    """The longest line that is read: its end is the thousandth octet."""
    assert told(b"1,2".rjust(999) + b"\n") == b"1,2:USERID:UNIX:alice\r\n"


@pytest.mark.parametrize("octets", [1000, 1001, 5000])
def test_a_line_that_does_not_end_is_dropped(octets: int) -> None:
    """A line that has not ended after 1000 octets is an invalid query at once."""
    assert told(b"1,2".rjust(octets)) is None
    assert told(b"1,2".rjust(octets) + b"\r\n") is None


def test_no_octet_above_the_limit_is_waited_for() -> None:
    """The 1000th octet decides, even when they come one by one."""
    server = Server()
    wire = connected(server)
    for _ in range(999):
        server.dataReceived(b" ")
    assert not wire.disconnecting
    server.dataReceived(b" ")
    assert wire.disconnecting and not wire.writes


def test_line_length_exceeded_is_called_once_with_what_there_was() -> None:
    """A subclass can see lines that are too long, and answer the next."""
    seen = []

    class Tolerant(Server):
        def lineLengthExceeded(self, line: bytes) -> None:
            seen.append(line)

    server = Tolerant(multi_query=True)
    wire = connected(server)
    server.dataReceived(b"x" * 2500)
    server.dataReceived(b"x\r\n1,2\r\n")
    assert seen == [b"x" * 1000]
    assert wire.writes == [b"1,2:USERID:UNIX:alice\r\n"]


def test_line_received_gets_lines_without_their_ends() -> None:
    """``lineReceived`` is called with each line, whichever way it ended."""
    seen = []

    class Lines(IdentServer):
        multi_query = True

        def lineReceived(self, line: bytes) -> None:
            seen.append(line)

    server = Lines()
    connected(server)
    server.dataReceived(b"a\r\nb\nc\r")
    server.dataReceived(b"\nd")
    assert seen == [b"a", b"b", b"c"]


@pytest.mark.parametrize("portions", [1, 2, 3, 7])
def test_portions_do_not_matter(portions: int) -> None:
    """A query may arrive in pieces of any size."""
    server = Server()
    wire = connected(server)
    query = b"6193, 23\r\n"
    for start in range(0, len(query), portions):
        server.dataReceived(query[start : start + portions])
    assert wire.writes == [b"6193,23:USERID:UNIX:alice\r\n"]
    assert wire.disconnecting


def test_the_base_class_knows_nobody() -> None:
    """Without a subclass every valid query is UNKNOWN-ERROR, and an invalid port still that."""
    assert told(b"1,2\r\n", IdentServer()) == b"1,2:ERROR:UNKNOWN-ERROR\r\n"
    assert told(b"0,2\r\n", IdentServer()) == b"0,2:ERROR:INVALID-PORT\r\n"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (IdentError(), b"UNKNOWN-ERROR"),
        (NoUser("detail"), b"NO-USER"),
        (InvalidPort(), b"INVALID-PORT"),
        (HiddenUser(), b"HIDDEN-USER"),
        (type("Busy", (NoUser,), {})(), b"NO-USER"),
    ],
)
def test_refusals(error: Exception, name: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """An IdentError, or a subclass, is told by its name, raised or through a Deferred; it is no failure to log."""
    assert told(b"1,2\r\n", Server(error)) == b"1,2:ERROR:%b\r\n" % name
    later = Later()
    server = Server(later)
    wire = connected(server)
    server.dataReceived(b"1,2\r\n")
    later.errback(error)
    assert wire.writes == [b"1,2:ERROR:%b\r\n" % name]
    assert not caplog.records


def test_any_other_exception_is_logged_and_told_as_unknown(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in a lookup costs its own query: UNKNOWN-ERROR, the traceback logged, the connection still there."""
    server = Server([ZeroDivisionError("oops"), ("UNIX", "alice")], multi_query=True)
    wire = connected(server)
    server.dataReceived(b"1,2\r\n3,4\r\n")
    assert wire.writes == [b"1,2:ERROR:UNKNOWN-ERROR\r\n", b"3,4:USERID:UNIX:alice\r\n"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError and record.exc_info[2] is not None


@pytest.mark.parametrize("result", [None, 5, "alice", ("UNIX",), ("UNIX", "alice", "x"), ("UNIX", None), (1, 2), ()])
def test_a_result_that_is_no_pair(result: Any) -> None:
    """A lookup that returns something else is an UNKNOWN-ERROR, never a crash."""
    assert told(b"1,2\r\n", Server(result)) == b"1,2:ERROR:UNKNOWN-ERROR\r\n"


@pytest.mark.parametrize(
    ("result", "reply"),
    [
        (("UNIX", "alice"), b"UNIX:alice"),
        ((b"UNIX", b"alice"), b"UNIX:alice"),
        (("OTHER", "1000"), b"OTHER:1000"),
        (("UNIX,UTF-8", "älice"), "UNIX,UTF-8:älice".encode()),
        (("UNIX", "a:b c"), b"UNIX:a:b c"),
        (("UNIX", " alice "), b"UNIX: alice "),
        (("UNIX", b"\xff\x01"), b"UNIX:\xff\x01"),
        (("UNIX", "caf\udce9"), b"UNIX:caf\xe9"),  # how Python carries an octet that is no UTF-8
        (("X" * 64, "alice"), b"X" * 64 + b":alice"),
        (("UNIX", "a" * 512), b"UNIX:" + b"a" * 512),
        (("UNIX", "a" * 600), b"UNIX:" + b"a" * 512),
    ],
)
def test_what_a_reply_holds(result: Any, reply: bytes) -> None:
    """Names go out as they are, cut to 512 octets."""
    assert told(b"1,2\r\n", Server(result)) == b"1,2:USERID:%b\r\n" % reply


@pytest.mark.parametrize("octet", ["\0", "\r", "\n"])
@pytest.mark.parametrize("place", ["{}alice", "al{}ice", "alice{}", "a" * 600 + "{}"])
def test_a_name_that_would_break_the_line_is_never_sent(octet: str, place: str) -> None:
    """NUL, CR or LF in a user id makes the lookup an UNKNOWN-ERROR."""
    assert told(b"1,2\r\n", Server(("UNIX", place.format(octet)))) == b"1,2:ERROR:UNKNOWN-ERROR\r\n"


@pytest.mark.parametrize(
    "result",
    [
        ("", "alice"),
        ("UNIX", ""),
        ("UN:IX", "alice"),
        ("UN IX", "alice"),
        ("UNIX\r\n", "alice"),
        ("UNIX\n", "alice"),
        ("UNIX,", "alice"),
        ("UNIX,a,b", "alice"),
        (",UTF-8", "alice"),
        ("X" * 65, "alice"),
        ("ÜNIX", "alice"),
    ],
)
def test_an_operating_system_that_is_no_token_is_never_sent(result: tuple[str, str]) -> None:
    """RFC 1413's token: 1 to 64 printable ASCII characters, and the same for the character set."""
    assert told(b"1,2\r\n", Server(result)) == b"1,2:ERROR:UNKNOWN-ERROR\r\n"


def test_one_query_unless_multi_query() -> None:
    """By default the first line is answered, then the connection is closed and everything after is dropped."""
    server = Server()
    wire = connected(server)
    server.dataReceived(b"1,2\r\n3,4\r\n")
    server.dataReceived(b"5,6\r\n")
    assert wire.writes == [b"1,2:USERID:UNIX:alice\r\n"]
    assert wire.disconnecting
    assert len(server.asked) == 1


def test_multi_query_answers_in_order() -> None:
    """With ``multi_query`` every line is answered, in one write each, until an invalid one ends it."""
    server = Server(multi_query=True)
    wire = connected(server)
    server.dataReceived(b"1,2\r\n0,4\r\n5,6\r\n7,")
    server.dataReceived(b"8\r\n")
    assert wire.writes == [
        b"1,2:USERID:UNIX:alice\r\n",
        b"0,4:ERROR:INVALID-PORT\r\n",
        b"5,6:USERID:UNIX:alice\r\n",
        b"7,8:USERID:UNIX:alice\r\n",
    ]
    assert not wire.disconnecting
    server.dataReceived(b"nonsense\r\n9,9\r\n")
    assert wire.disconnecting
    assert len(wire.writes) == 4


def test_pipelined_lines_wait_for_the_first_answer() -> None:
    """Answers keep the order of the queries even when the first is awaited and the others are there at once."""
    first, second = Later(), Later()
    server = Server([first, ("UNIX", "bob"), second, ("UNIX", "dora")], multi_query=True)
    wire = connected(server)
    server.dataReceived(b"1,1\r\n2,2\r\n3,3\r\n4,4\r\n")
    assert wire.writes == [] and len(server.asked) == 1
    first.callback(("UNIX", "alice"))
    assert wire.writes == [b"1,1:USERID:UNIX:alice\r\n", b"2,2:USERID:UNIX:bob\r\n"]
    server.dataReceived(b"5,5")
    second.errback(NoUser())
    assert wire.writes[2:] == [b"3,3:ERROR:NO-USER\r\n", b"4,4:USERID:UNIX:dora\r\n"]


def test_an_invalid_line_behind_a_pending_query_does_not_cost_its_answer() -> None:
    """The line that ends the connection waits for its turn too."""
    later = Later()
    server = Server(later, multi_query=True)
    wire = connected(server)
    server.dataReceived(b"1,1\r\nnonsense\r\n")
    assert not wire.disconnecting
    later.callback(("UNIX", "alice"))
    assert wire.writes == [b"1,1:USERID:UNIX:alice\r\n"]
    assert wire.disconnecting


def test_a_thousand_pipelined_queries() -> None:
    """Many lines in one segment are answered without deep recursion."""
    server = Server(multi_query=True)
    wire = connected(server)
    server.dataReceived(b"1,2\r\n" * 5000)
    assert wire.writes == [b"1,2:USERID:UNIX:alice\r\n"] * 5000


def test_what_waits_behind_a_pending_query_is_bounded() -> None:
    """A client that pipelines without end is dropped; what it sent does not pile up."""
    server = Server(Later(), multi_query=True)
    wire = connected(server)
    sent = 0
    while not wire.disconnecting and sent < 1 << 24:
        server.dataReceived(b"1,2\r\n" * 1000)
        sent += 5000
    assert wire.disconnecting
    assert sent >= 1 << 16, "one whole segment must fit"


def test_an_answer_after_the_end_is_dropped() -> None:
    """A lookup that ends after the connection did writes nothing and raises nothing."""
    for outcome in (("UNIX", "alice"), NoUser()):
        later = Later()
        server = Server(later)
        wire = connected(server)
        server.dataReceived(b"1,2\r\n")
        server.connectionLost("gone")
        if isinstance(outcome, Exception):
            later.errback(outcome)
        else:
            later.callback(outcome)
        assert wire.writes == []
        server.dataReceived(b"3,4\r\n")
        assert len(server.asked) == 1


def test_no_line_is_taken_after_lose_connection() -> None:
    """A subclass that ends the connection itself gets no further lines."""

    class Once(Server):
        def lineReceived(self, line: bytes) -> None:
            super().lineReceived(line)
            self.transport.loseConnection()

    server = Once(multi_query=True)
    wire = connected(server)
    server.dataReceived(b"1,2\r\n3,4\r\n")
    assert wire.writes == [b"1,2:USERID:UNIX:alice\r\n"]


def test_connection_made_has_the_transport() -> None:
    """``connectionMade`` is called once, after ``transport`` is set."""
    seen = []

    class Greeted(Server):
        def connectionMade(self) -> None:
            seen.append(self.transport)

    wire = connected(Greeted())
    assert seen == [wire]


def test_subclasses_may_override_every_step() -> None:
    """``invalidQuery``, ``validQuery``, ``_cbLookup`` and ``_ebLookup`` are called as Twisted documents them."""
    calls: list[Any] = []

    class Watching(IdentServer):
        multi_query = True

        def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
            if serverAddress[1] == 9:
                raise NoUser
            return "UNIX", "alice"

        def invalidQuery(self) -> None:
            calls.append("invalid")

        def validQuery(self, portOnServer: int, portOnClient: int) -> None:
            calls.append(("valid", portOnServer, portOnClient))
            super().validQuery(portOnServer, portOnClient)

        def _cbLookup(self, result: Any, sport: int, cport: int) -> None:
            calls.append(("cb", result, sport, cport))
            super()._cbLookup(result, sport, cport)

        def _ebLookup(self, failure: Any, sport: int | str, cport: int | str) -> None:
            calls.append(("eb", type(failure.value), failure.check(IdentError), sport, cport))
            super()._ebLookup(failure, sport, cport)

    server = Watching()
    wire = connected(server)
    server.dataReceived(b"1,2\r\nx\r\n9,8\r\n")
    assert calls == [
        ("valid", 1, 2),
        ("cb", ("UNIX", "alice"), 1, 2),
        "invalid",
        ("valid", 9, 8),
        ("eb", NoUser, IdentError, 9, 8),
    ]
    assert wire.writes == [b"1,2:USERID:UNIX:alice\r\n", b"9,8:ERROR:NO-USER\r\n"]


def test_an_address_may_have_a_scope() -> None:
    """Addresses reach ``lookup`` as pairs of host text and port, a link-local host with its scope."""
    server = Server()
    connected(server, Wire("fe80::1%eth0", "fe80::2%eth0"))
    server.dataReceived(b"1,2\r\n")
    assert server.asked == [(("fe80::1%eth0", 1), ("fe80::2%eth0", 2))]


def test_a_coroutine_without_a_loop() -> None:
    """``async def lookup`` works where no event loop runs: it is run to its end."""

    class Slow(Server):
        async def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
            await asyncio.sleep(0)
            return super().lookup(serverAddress, clientAddress)

    assert told(b"1,2\r\n", Slow()) == b"1,2:USERID:UNIX:alice\r\n"
    assert told(b"1,2\r\n", Slow(NoUser())) == b"1,2:ERROR:NO-USER\r\n"


def test_a_coroutine_on_a_loop() -> None:
    """On a running asyncio loop the answers come when they are there, in the order of the queries."""

    async def scenario() -> tuple[list[bytes], list[bytes]]:
        gate = asyncio.Event()

        class Slow(Server):
            async def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
                if serverAddress[1] == 1:
                    await gate.wait()
                return super().lookup(serverAddress, clientAddress)

        server = Slow([("UNIX", "alice"), KeyError("x"), ("UNIX", "bob")], multi_query=True)
        wire = connected(server)
        server.dataReceived(b"1,1\r\n2,2\r\n3,3\r\n")
        await asyncio.sleep(0.01)
        before = list(wire.writes)
        gate.set()
        while len(wire.writes) < 3:
            await asyncio.sleep(0.001)
        return before, wire.writes

    before, after = asyncio.run(asyncio.wait_for(scenario(), 30))
    assert before == []
    assert after == [b"1,1:USERID:UNIX:alice\r\n", b"2,2:ERROR:UNKNOWN-ERROR\r\n", b"3,3:USERID:UNIX:bob\r\n"]


def test_a_future_on_a_loop() -> None:
    """Any awaitable will do, not coroutines alone."""

    async def scenario() -> list[bytes]:
        future = asyncio.get_running_loop().create_future()
        server = Server(future)
        wire = connected(server)
        server.dataReceived(b"1,2\r\n")
        future.set_result(("UNIX", "alice"))
        while not wire.disconnecting:
            await asyncio.sleep(0.001)
        return wire.writes

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == [b"1,2:USERID:UNIX:alice\r\n"]


def test_the_end_of_a_connection_ends_its_coroutine() -> None:
    """When the client goes away, the coroutine that looks up is cancelled."""

    async def scenario() -> list[str]:
        ended = []

        class Slow(Server):
            async def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.append("cancelled")

        server = Slow()
        wire = connected(server)
        server.dataReceived(b"1,2\r\n")
        await asyncio.sleep(0.01)
        server.connectionLost()
        await asyncio.sleep(0.01)
        assert wire.writes == []
        return ended

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == ["cancelled"]


def test_every_printable_character_in_a_token() -> None:
    """A token holds every printable ASCII character but comma and colon, and nothing else."""
    for code in range(256):
        character = bytes([code])
        printable = chr(code) in string.printable and not chr(code).isspace() and chr(code) not in ",:"
        expected = b"a%bb,5:ERROR:INVALID-PORT\r\n" % character if printable else None
        assert told(b"a%bb,5\r\n" % character) == expected, character


def test_errors_are_their_descriptions() -> None:
    """``str()`` of a refusal is what is told, as with Twisted's errors, and a detail never shows in it."""
    assert [str(kind("detail")) for kind in (IdentError, NoUser, InvalidPort, HiddenUser)] == [
        "UNKNOWN-ERROR",
        "NO-USER",
        "INVALID-PORT",
        "HIDDEN-USER",
    ]
    assert all(issubclass(kind, IdentError) for kind in (NoUser, InvalidPort, HiddenUser))
