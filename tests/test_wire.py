"""Is whatever comes over the wire a request or an answer of the fixed form, or refused?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lookup.kernel import wire
from lookup.kernel.wire import MAX_ANSWER, REQUEST_SIZE, Found, Request

if TYPE_CHECKING:
    from lookup.connection import Address

ENDS = ("192.0.2.1", 113), ("192.0.2.2", 40000)
ENDS_6 = ("2001:db8::1", 113), ("fe80::2", 40000)

REQUEST = Request(*ENDS).pack()
ANSWER = Found(wire.INSIDE, *ENDS, uid=1000, inode=7, held=wire.OF_A_CONTAINER, place="a box", reason="").pack()


@pytest.mark.parametrize("ends", [ENDS, ENDS_6])
@pytest.mark.parametrize("local", [False, True])
def test_a_request_comes_as_it_was_sent(ends: tuple[Address, Address], local: bool) -> None:
    """Addresses, ports, one bit: always the same size."""
    data = Request(*ends, local).pack()
    assert len(data) == REQUEST_SIZE
    request = Request.unpack(data)
    assert (request.server, request.client, request.local) == (*ends, local)


def test_an_answer_comes_as_it_was_sent() -> None:
    """Numbers and texts; a scope is none of an address here."""
    sent = Found(
        wire.INSIDE, *ENDS_6, uid=4_000_000_000, inode=1 << 63, state=1, device=7, held=wire.OF_A_CONTAINER,
        maker=1001, place="docker-é", reason="why", steps=["one", "two"],
    )  # fmt: skip
    got = Found.unpack(sent.pack())
    assert {name: getattr(got, name) for name in Found.__slots__} == {
        name: getattr(sent, name) for name in Found.__slots__
    }


def test_an_answer_has_a_largest_size() -> None:
    """Texts are cut off, within a letter as well; numbers never."""
    got = Found.unpack(Found(wire.HERE, *ENDS, uid=5, place="é" * 5000, steps=["x" * 5000]).pack())
    assert (got.uid, got.server, got.client, got.kind) == (5, *ENDS, wire.HERE)
    assert len(got.pack()) == MAX_ANSWER


@given(st.one_of(st.binary(max_size=2 * REQUEST_SIZE), st.binary(min_size=REQUEST_SIZE, max_size=REQUEST_SIZE)))
@example(b"")
@example(REQUEST + b"\0")
@example(REQUEST[:-1])
def test_any_octets_for_a_request(data: bytes) -> None:
    """They are two addresses of one family and two ports, or are refused by the one exception."""
    check_request(data)


def check_request(data: bytes) -> None:
    """Check what octets are as a request."""
    with contextlib.suppress(ValueError):
        request = Request.unpack(data)
        assert len(data) == REQUEST_SIZE
        assert (":" in request.server[0]) == (":" in request.client[0])
        assert 0 < request.server[1] < 65536
        assert Request.unpack(request.pack()).pack() == request.pack()


@given(st.integers(0, REQUEST_SIZE - 1), st.integers(0, 255))
@example(0, 2)
@example(REQUEST_SIZE - 1, 16)
def test_any_octet_of_a_request(at: int, octet: int) -> None:
    """The same for a request of which one octet is another."""
    check_request(REQUEST[:at] + bytes([octet]) + REQUEST[at + 1 :])


@given(st.binary(max_size=200), st.integers(0, len(ANSWER)))
def test_any_octets_for_an_answer(data: bytes, at: int) -> None:
    """They are an answer of a known kind, or are refused: nobody is named by half of one."""
    for octets in (data, ANSWER[:at] + data):
        with contextlib.suppress(ValueError):
            found = Found.unpack(octets)
            assert found.kind <= wire.FAILED
            assert found.held <= wire.OF_A_CONTAINER
