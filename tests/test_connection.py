"""Which connection is meant?  Addresses as text and as octets, and what is known of an owner."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

import pytest
from helpers.hosts import Town, family_of, inside
from helpers.machine import skip
from helpers.pairs import connect
from hypothesis import given
from hypothesis import strategies as st

from lookup import connection
from lookup.connection import (
    LOOPBACK,
    TCP_STATES,
    Arrival,
    IdentError,
    NoUser,
    Owner,
    asked_name,
    cookie_of,
    pack,
    the_only,
    unpack,
)

pytest_plugins = ["helpers.people"]

LOOPBACK_INDEX = socket.if_nametoindex("lo")


@pytest.mark.parametrize(
    ("host", "packed"),
    [
        ("127.0.0.1", (b"\x7f\0\0\1", 0)),
        ("0.0.0.0", (bytes(4), 0)),
        ("255.255.255.255", (b"\xff" * 4, 0)),
        ("::", (bytes(16), 0)),
        ("::1", (bytes(15) + b"\1", 0)),
        ("::1%0", (bytes(15) + b"\1", 0)),
        ("2001:DB8::1", (b"\x20\x01\x0d\xb8" + bytes(11) + b"\1", 0)),
        ("fe80::1%lo", (b"\xfe\x80" + bytes(13) + b"\1", LOOPBACK_INDEX)),
        ("fe80::1%7", (b"\xfe\x80" + bytes(13) + b"\1", 7)),
        ("fe80::1%4294967295", (b"\xfe\x80" + bytes(13) + b"\1", 4294967295)),
        ("::ffff:10.0.0.1", (b"\x0a\0\0\1", 0)),
        ("::FFFF:a00:1", (b"\x0a\0\0\1", 0)),
        ("::ffff:10.0.0.1%lo", (b"\x0a\0\0\1", 0)),
        ("::10.0.0.1", (bytes(12) + b"\x0a\0\0\1", 0)),
        ("64:ff9b::10.0.0.1", (b"\0\x64\xff\x9b" + bytes(8) + b"\x0a\0\0\1", 0)),
    ],
)
def test_pack(host: str, packed: tuple[bytes, int]) -> None:
    """An address becomes its octets and interface index; an IPv4-mapped one is IPv4, its neighbours are not."""
    assert pack(host) == packed


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "localhost", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4x", "1.2.3.4 ", "1.2.3.4%lo", "1.2.3.4%",
        "1:2", ":::", "::g", "[::1]", "::1/128", "fe80::1%", "fe80::1%no-such-device", "fe80::1%lo%lo", "fe80::1%-1",
        "fe80::1%4294967296", "fe80::1%" + 5000 * "1", "fe80::1%\u0662", "\uff11.2.3.4",
        "1.2.3.4\0", "::1\0", "fe80::1%lo\0", "\udcff", "::\udcff", "fe80::1%\udcff",
    ],
)  # fmt: skip
def test_what_is_no_address(host: str) -> None:
    """Any other text is a ValueError."""
    with pytest.raises(ValueError):
        pack(host)


@given(st.text() | st.text("0123456789abcdef:.%lo", max_size=30))
def test_any_text_is_an_address_or_a_value_error(host: str) -> None:
    """No text whatsoever raises anything else, and what is an address has octets that fit in a request."""
    try:
        packed, interface = pack(host)
    except ValueError:
        return
    assert len(packed) in (4, 16)
    assert 0 <= interface <= 0xFFFFFFFF


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_unpack_is_the_inverse_of_pack(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Octets become the address that they came from, an IPv4-mapped one its IPv4 address."""
    mapped = getattr(address, "ipv4_mapped", None)
    assert ipaddress.ip_address(unpack(pack(str(address))[0])) == (mapped or address)
    assert ipaddress.ip_address(unpack(address.packed)) == (mapped or address)


def owner(uid: int, inode: int = 1, host: str = "10.0.0.1") -> Owner:
    """Return somebody's connection."""
    return Owner(uid, inode, "ESTABLISHED", (host, 51234), ("fe80::9", 6667), "sock_diag")


def test_an_owner_shows_everything() -> None:
    """What stands in the log of a candidate: both ends, its state, uid, inode and source."""
    assert repr(owner(1000, 77)) == "10.0.0.1:51234 [fe80::9]:6667 ESTABLISHED uid 1000 inode 77 (sock_diag)"


def test_the_only_owner() -> None:
    """One socket, or several of one user, have an owner; it is one of them."""
    one, two = owner(1000, 1), owner(1000, 2)
    assert the_only([one], "1,2") is one
    assert the_only([one, two], "1,2") in (one, two)


def test_owners_who_differ() -> None:
    """Sockets of two users have none; the detail names the question and each candidate."""
    candidates = [owner(1000, 1), owner(0, 2, "10.0.0.3"), owner(1000, 3)]
    with pytest.raises(IdentError) as ambiguous:
        the_only(candidates, "51234,6667")
    assert not isinstance(ambiguous.value, NoUser)
    assert ambiguous.value.uid is None
    assert "51234,6667" in ambiguous.value.detail
    for candidate in candidates:
        assert repr(candidate) in ambiguous.value.detail


def test_the_states_are_the_kernels() -> None:
    """A real socket's state, as the kernel numbers it, has the name that the kernel's headers give it."""
    with connect() as pair, socket.socket() as unused:
        states = [
            TCP_STATES[one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]
            for one in (unused, pair.listener, pair.client)
        ]
    assert states == ["CLOSE", "LISTEN", "ESTABLISHED"]
    assert (TCP_STATES[6], TCP_STATES[8], TCP_STATES[13]) == ("TIME_WAIT", "CLOSE_WAIT", "BOUND_INACTIVE")


# By which device and in which network namespace did a query come in? Asked of real sockets.


@pytest.mark.parametrize(("host", "peer"), [("127.0.0.1", ""), ("::1", ""), ("::", "127.0.0.1"), ("::", "::1")])
def test_over_loopback(host: str, peer: str) -> None:
    """What this host sends to itself comes in by the loopback interface."""
    with connect(host, peer) as pair:
        arrival = Arrival(pair.server)
        assert (arrival.bound, arrival.device()) == (0, LOOPBACK)
        assert arrival.cookie == cookie_of(pair.client) != b""


@pytest.mark.parametrize("device", ["", "lan"])
@pytest.mark.parametrize(("near", "dual"), [(Town.HERE, False), (Town.HERE_6, False), (Town.HERE, True)])
def test_over_a_device(town: Town, near: str, dual: bool, device: str) -> None:
    """The kernel tells the device that a connection came in by, and the one that the listening socket is bound to."""
    with inside(town.here):
        listener = socket.create_server(
            ("" if dual else near, 0), family=socket.AF_INET6 if dual else family_of(near), dualstack_ipv6=dual
        )
        lan = socket.if_nametoindex("lan")
    with listener:
        if device:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        with inside(town.there):
            caller = socket.create_connection((near, listener.getsockname()[1]))
        with caller, listener.accept()[0] as accepted:
            arrival = Arrival(accepted)
            assert (arrival.bound, arrival.device()) == (lan if device else 0, lan)
            assert arrival.cookie == cookie_of(listener) != cookie_of(caller)


def test_a_socket_that_was_closed() -> None:
    """Where the client has gone meanwhile nothing is known, and nothing is raised."""
    with connect() as pair:
        pair.server.close()
        arrival = Arrival(pair.server)
        assert (arrival.bound, arrival.device(), arrival.cookie) == (0, 0, b"")


# The refusals, and the names that Twisted has for them.

SENT = {
    "IdentError": "UNKNOWN-ERROR",
    "NoUser": "NO-USER",
    "InvalidPort": "INVALID-PORT",
    "HiddenUser": "HIDDEN-USER",
}


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent(name: str) -> None:
    """`str` of a refusal is the error-type of RFC 1413 section 6, whatever its detail."""
    error = getattr(connection, name)("the detail", 1000)
    assert str(error) == error.identDescription == SENT[name]


@pytest.mark.parametrize("name", SENT)
def test_what_is_logged(name: str) -> None:
    """The detail and the uid are there for the log, and may be left out."""
    kind = getattr(connection, name)
    error = kind("the detail", 1000)
    assert (error.detail, error.uid, error.args) == ("the detail", 1000, ("the detail",))
    assert (kind().detail, kind().uid) == ("", None)
    assert "the detail" not in str(error)


@pytest.mark.parametrize("name", [name for name in SENT if name != "IdentError"])
def test_every_refusal_is_an_ident_error(name: str) -> None:
    """Whoever handles `IdentError` handles all of them, and none of them is another."""
    kind = getattr(connection, name)
    assert kind.__bases__ == (connection.IdentError,)


@pytest.mark.parametrize("name", SENT)
def test_twisted_has_the_same_names(name: str) -> None:
    """Each name and identDescription is that of `twisted.protocols.ident`."""
    try:
        from twisted.protocols import ident
    except ImportError:
        skip("needs twisted")
    assert getattr(ident, name).identDescription == SENT[name]


class _Translated:
    """A connection of which conntrack says where it was meant to go."""

    def __init__(self, original: tuple[str, int]) -> None:
        self._original = original

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 113

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.9", 50000

    def getsockopt(self, *_: int) -> bytes:
        host, port = self._original
        return struct.pack("!2xH4s8x", port, socket.inet_aton(host))


@pytest.mark.parametrize(
    ("original", "name"),
    [
        (("192.0.2.1", 113), ("192.0.2.1", 113)),
        (("10.0.0.7", 113), ("10.0.0.7", 113)),
        (("192.0.2.9", 113), ("192.0.2.9", 113)),
        (("192.0.2.9", 50000), ("192.0.2.1", 113)),
    ],
    ids=["not translated", "led here", "for the asker's other port", "an entry that begins with our packet"],
)
def test_where_a_query_was_meant_to_go(original: tuple[str, int], name: tuple[str, int]) -> None:
    """An entry that was made in the middle of a connection may have its beginning at our end."""
    translated: Any = _Translated(original)
    assert asked_name(translated) == name
