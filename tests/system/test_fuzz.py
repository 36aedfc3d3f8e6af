"""Whole or octet by octet: one well-formed reply line for a pair, or a clean close, and never a crash?"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from helpers.conversation import REPLY, Server, converse, divided, outcome
from helpers.single_shot import handler
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from identd import HiddenUser, IdentError, InvalidPort, NoUser

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
