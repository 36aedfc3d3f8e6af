"""Does what goes between who asks and who may look keep its form, and is nothing else taken for it?"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup.kernel import wire
from lookup.kernel.wire import Found, Request

ports = st.integers(1, 65535)
hosts = st.one_of(st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(*[st.ip_addresses(v=6)] * 2)).map(
    lambda pair: tuple(str(host) for host in pair)
)
texts = st.text(max_size=40).map(lambda text: text.replace("\0", ""))
numbers = st.integers(0, (1 << 32) - 1)


@given(hosts, ports, ports, st.booleans(), st.booleans())
def test_a_request(pair: tuple[str, str], ours: int, far: int, local: bool, bound: bool) -> None:
    """It has a fixed length, and comes back as it was; IPv4-mapped addresses are IPv4's."""
    data = Request((pair[0], ours), (pair[1], far), local, bound).pack()
    assert len(data) == wire.REQUEST_SIZE
    if pair[0].startswith("::ffff:") == pair[1].startswith("::ffff:"):
        again = Request.unpack(data)
        assert (again.pack(), again.local, again.bound) == (data, local, bound)
        assert (again.server[1], again.client[1]) == (ours, far)


@given(
    st.integers(0, wire.FAILED), hosts, ports, numbers, numbers, st.integers(0, wire.OF_A_CONTAINER), texts, texts,
    st.lists(texts, max_size=5),
)  # fmt: skip
def test_an_answer(
    kind: int, pair: tuple[str, str], port: int, uid: int, inode: int, held: int, place: str, reason: str,
    steps: list[str],
) -> None:  # fmt: skip
    """It comes back as it was."""
    found = Found(
        kind, (pair[0], port), (pair[1], port), uid=uid, inode=inode, state=1, device=3, held=held, maker=uid,
        place=place, reason=reason, steps=steps,
    )  # fmt: skip
    again = Found.unpack(found.pack())
    assert again.pack() == found.pack()
    assert (again.kind, again.uid, again.inode, again.held, again.maker) == (kind, uid, inode, held, uid)
    assert (again.place, again.reason, again.steps) == (place, reason, steps)


def test_a_long_answer_is_cut() -> None:
    """Texts that are too long are cut off, the numbers never."""
    found = Found(wire.INSIDE, ("192.0.2.1", 1), ("192.0.2.2", 2), uid=7, place="x", steps=["é" * 3000] * 3)
    assert len(found.pack()) == wire.MAX_ANSWER
    again = Found.unpack(found.pack())
    assert (again.kind, again.uid, again.place) == (wire.INSIDE, 7, "x")


@pytest.mark.parametrize("change", [0, 1, 19, 20, 38])
@pytest.mark.parametrize("value", [0, 2, 255])
def test_what_is_no_request(change: int, value: int) -> None:
    """Another length, another family, a port of 0: refused, or another request."""
    data = bytearray(Request(("192.0.2.1", 1), ("192.0.2.2", 2)).pack())
    data[change] = value
    with contextlib.suppress(ValueError):
        assert Request.unpack(bytes(data)).pack()
    for wrong in (b"", bytes(data[:-1]), bytes(data) + b"x", bytes(len(data))):
        with pytest.raises(ValueError, match="no "):
            Request.unpack(wrong)


@given(st.binary(max_size=120))
def test_anything_else(data: bytes) -> None:
    """Whatever octets come, they are a request or an answer, or ValueError."""
    for kind in (Request, Found):
        with contextlib.suppress(ValueError):
            kind.unpack(data)


def test_a_long_place_leaves_the_rest() -> None:
    """Nor does a container's name push out what comes after it."""
    again = Found.unpack(Found(wire.HERE, ("192.0.2.1", 1), ("192.0.2.2", 2), uid=5, place="é" * 5000).pack())
    assert (again.kind, again.uid, again.reason) == (wire.HERE, 5, "")


@given(st.binary(min_size=wire.REQUEST_SIZE, max_size=wire.REQUEST_SIZE))
def test_octets_of_the_right_number(data: bytes) -> None:
    """What is a request has two addresses of one family and two ports, and nothing else."""
    with contextlib.suppress(ValueError):
        request = Request.unpack(data)
        assert (":" in request.server[0]) == (":" in request.client[0])
        assert 0 < request.server[1] < 65536
        assert 0 < request.client[1] < 65536
        assert Request.unpack(request.pack()).pack() == request.pack()


ANSWER = Found(wire.INSIDE, ("192.0.2.1", 1), ("192.0.2.2", 2), uid=7, held=wire.OF_A_CONTAINER, place="box").pack()


@given(st.integers(0, len(ANSWER)), st.binary(max_size=100))
def test_half_an_answer(at: int, data: bytes) -> None:
    """Whatever follows a part of one, it has a known kind, or is none."""
    with contextlib.suppress(ValueError):
        found = Found.unpack(ANSWER[:at] + data)
        assert found.kind <= wire.FAILED
        assert found.held <= wire.OF_A_CONTAINER
