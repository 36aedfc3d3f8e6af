"""Are hosts and ports understood as configuration files name them?"""

from __future__ import annotations

import _socket
import re
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from helpers.machine import skip
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lookup.config import names as room
from lookup.config.blocks import HostName
from lookup.config.names import Hosts, Names, Resolver
from lookup.connection import Unknown, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V4, V6 = bytes([192, 0, 2, 1]), socket.inet_pton(socket.AF_INET6, "2001:db8::1")


@pytest.mark.parametrize(
    ("text", "network"),
    [
        (b"192.0.2.1", (V4, 32)),
        (b"0xc0000201", (V4, 32)),
        (b"3221225985", (V4, 32)),
        (b"192.513", (V4, 32)),
        (b"0300.0.02.1", (V4, 32)),
        (b"0", (bytes(4), 32)),
        (b"2001:DB8::1", (V6, 128)),
        (b"::ffff:192.0.2.1", (V4, 32)),
        (b"::ffff:c000:201", (V4, 32)),
        (b"fe80::1%eth9", (socket.inet_pton(socket.AF_INET6, "fe80::1"), 128)),
        (b"192.0.2.0/24", (bytes([192, 0, 2, 0]), 24)),
        (b"192.0.2.255/24", (bytes([192, 0, 2, 0]), 24)),
        (b"0.0.0.0/0", (bytes(4), 0)),
        (b"192.0.2.1/32", (V4, 32)),
        (b"2001:db8::/32", (V6[:4] + bytes(12), 32)),
        (b"2001:db8::1/128", (V6, 128)),
        (b"::/0", (bytes(16), 0)),
        (b"::ffff:192.0.2.0/120", (bytes([192, 0, 2, 0]), 24)),
        (b"::ffff:0:0/96", (bytes(4), 0)),
    ],
)
def test_networks_in_numbers(monkeypatch: pytest.MonkeyPatch, text: bytes, network: tuple[bytes, int]) -> None:
    """Addresses in every form that the resolver takes, and networks, are understood without the resolver."""
    monkeypatch.delattr(_socket, "getaddrinfo")
    assert Names().network(text) == network


@pytest.mark.parametrize(
    "text",
    [
        b"", b"*", b" ", b"192.0.2.1 ", b" 192.0.2.1", b"1.2.3.256", b"1.2.3.999", b"::1%lo", b"192.0.2.1%lo ", b"a\nb",
        b"fe80::1%", b"::g", b"1:2", b"192.0.2.0/33", b"192.0.2.0/", b"192.0.2.0/-1", b"192.0.2.0/255.255.255.0",
        b"/24", b"10/8", b"::/129", b"::ffff:192.0.2.0/95", b"host/24", b"192.0.2.0/8/8", b"a b", b"::ffff:\xff",
        b"\xff/3", b"192.0.2.0/0000000000", b"fe80::%lo/64", b"192.0.2.0/\xb2",
    ],
)  # fmt: skip
def test_what_names_no_network(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    """What can't be an address, a network or a host name is refused without the resolver."""
    monkeypatch.delattr(_socket, "getaddrinfo")
    with pytest.raises(ValueError, match=r"expected"):
        Names().network(text)


@pytest.mark.parametrize("understand", [Names.network, Names.host])
def test_host_names(monkeypatch: pytest.MonkeyPatch, understand: Callable[[bytes], object]) -> None:
    """F2, F3. A host name stays a name until a query needs its addresses: whoever reads a file asks nobody."""
    monkeypatch.delattr(_socket, "getaddrinfo")
    found = understand(b"nosuch.invalid")
    assert isinstance(found, HostName)
    assert found == b"nosuch.invalid"


def test_the_addresses_of_a_host_name() -> None:
    """F3. A host name stands for all addresses that the resolver gives, not for the first one."""
    found = Resolver(30).addresses(HostName(b"localhost"))
    assert not isinstance(found, Unknown)
    assert set(found) >= {pack(str(one[4][0]))[0] for one in socket.getaddrinfo("localhost", None)}


def answers(*hosts: str) -> list[tuple[object, ...]]:
    """Return addresses as getaddrinfo does."""
    return [(0, socket.SOCK_STREAM, 6, "", (host, 0)) for host in hosts]


def test_both_families_of_a_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """F3. All addresses count, once, those of either family to whoever asks for that family."""
    found = answers("127.0.0.3", "127.0.0.2", "fd00:fd::2", "127.0.0.3", "::ffff:127.0.0.4", "fe80::1%lo")
    monkeypatch.setattr(_socket, "getaddrinfo", lambda *_: found)
    resolver, name = Resolver(), HostName(b"net.example")
    v4 = tuple(bytes([127, 0, 0, last]) for last in (3, 2, 4))
    v6 = tuple(socket.inet_pton(socket.AF_INET6, text) for text in ("fd00:fd::2", "fe80::1"))
    assert resolver.addresses(name, 4) == v4
    assert resolver.addresses(name, 16) == v6
    assert set(resolver.addresses(name, 0)) == {*v4, *v6}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "known"), [(socket.EAI_NONAME, True), (socket.EAI_NODATA, True), (socket.EAI_AGAIN, False)]
)
def test_a_host_name_without_addresses_of_a_family(monkeypatch: pytest.MonkeyPatch, number: int, known: bool) -> None:
    """F2. A name that has addresses of the other family has none of this one only where the resolver says so."""

    def resolve(name: bytes, port: None, family: int, kind: int) -> object:
        if family == socket.AF_INET6:
            raise socket.gaierror(number, "told for the test")
        return answers("127.0.0.3")

    monkeypatch.setattr(_socket, "getaddrinfo", resolve)
    found = Resolver().addresses(HostName(b"net.example"), 16)
    assert isinstance(found, Unknown) == (not known)
    assert not known or found == ()


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows no host, so that no question leaves this one."""

    def fail(name: bytes, *_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(_socket, "getaddrinfo", fail)


@pytest.mark.parametrize("octets", [0, 4, 16])
def test_an_unknown_host_name(unknown: None, octets: int) -> None:
    """F2. What a name stands for that the resolver does not know is unknown, with the reason: no mistake in a file."""
    found = Resolver().addresses(HostName(b"nosuch.invalid"), octets)
    assert isinstance(found, Unknown)
    assert not found.unasked
    assert found.reason == 'the addresses of "nosuch.invalid": Name or service not known'


def test_a_host_to_connect_to() -> None:
    """A host is one address, as text, with the scope that a link-local one needs."""
    names = Names()
    assert names.host(b"127.1") == "127.0.0.1"
    assert names.host(b"::ffff:127.0.0.1") == "127.0.0.1"
    assert names.host(b"fe80::1%eth9") == "fe80::1%eth9"
    with pytest.raises(ValueError, match="a host expected"):
        names.host(b"10.0.0.0/8")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """A resolver that does not answer before the test ends; the list has what it was asked."""
    asked: list[object] = []
    over = threading.Event()

    def wait(name: object, *_: object) -> None:
        asked.append(name)
        over.wait(60)

    monkeypatch.setattr(_socket, "getaddrinfo", wait)
    monkeypatch.setattr(_socket, "getservbyname", wait)
    yield asked
    over.set()


def test_a_stuck_resolver_ends_at_the_bound(stuck: list[object]) -> None:
    """All names share one bound of time; past it none is asked for and each is unknown; numbers are understood."""
    names, resolver = Names(0.05), Resolver(0.05)
    for _ in range(3):
        for found in (
            resolver.addresses(HostName(b"stuck.invalid")), resolver.addresses(HostName(b"another.invalid"), 4),
            names.port(b"stuck"), names.port(b"another"), names.ports(b"1:stuck"),
        ):  # fmt: skip
            assert isinstance(found, Unknown)
            assert found.reason.endswith("in time")
    assert names.network(b"192.0.2.1") == (V4, 32)
    assert names.port(b"80") == 80
    # The thread may begin after we have stopped waiting for it.
    deadline = time.monotonic() + 60
    while len(stuck) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(stuck, key=str) == [b"stuck.invalid", "stuck"]


def test_a_name_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may name one host in every line; the resolver hears of it once for a query, whatever it says."""
    asked = []

    def count(name: bytes, *_: object) -> object:
        asked.append(name)
        if name == b"gone.invalid":
            raise socket.gaierror(socket.EAI_AGAIN, "told for the test")
        return answers("127.0.0.1")

    monkeypatch.setattr(_socket, "getaddrinfo", count)
    resolver = Resolver()
    for _ in range(3):
        assert resolver.addresses(HostName(b"somewhere.invalid"), 4) == (bytes([127, 0, 0, 1]),)
        assert isinstance(resolver.addresses(HostName(b"gone.invalid"), 4), Unknown)
    assert asked == [b"somewhere.invalid", b"gone.invalid"]


def test_how_long_addresses_in_the_system_file_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """W10. They count from the question; without an answer they are asked for again sooner, and the last one holds."""
    now, asked = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found: list[tuple[bytes, ...] | Unknown] = [(V4,)]

    def ask(name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
        asked.append(now[0])
        now[0] += 1.6
        return found[0]

    hosts, name = Hosts(), HostName(b"net.example")
    assert [hosts.addresses(name, 4, ask) for _ in range(2)] == [(V4,)] * 2
    assert asked == [1000]
    now[0] = 1000 + room.HOST_SECONDS - 0.1
    assert hosts.addresses(name, 4, ask) == (V4,)
    assert len(asked) == 1
    found[0] = Unknown("told for the test")
    now[0] += 0.1
    assert hosts.addresses(name, 4, ask) == (V4,)
    assert len(asked) == 2
    now[0] = asked[1] + room.UNANSWERED_SECONDS
    assert hosts.addresses(name, 4, ask) == (V4,)
    assert len(asked) == 3
    now[0] = 1000 + room.KEPT_SECONDS
    assert hosts.addresses(name, 4, ask) is found[0]


def test_what_nobody_was_asked_is_not_remembered() -> None:
    """That the loop could not ask says nothing to the worker who can."""
    hosts, name = Hosts(), HostName(b"net.example")
    unasked = Unknown("not now", unasked=True)
    assert hosts.addresses(name, 4, lambda name, octets: unasked) is unasked
    assert hosts.addresses(name, 4, lambda name, octets: (V4,)) == (V4,)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        (b"1240", (1240, 1240)),
        (b"01240", (1240, 1240)),
        (b"0" * 9000 + b"7", (7, 7)),
        (b"+1240", (1240, 1240)),
        (b" \t\n\v\f\r1240", (1240, 1240)),
        (b"1:65535", (1, 65535)),
        (b"1240:", (1240, 65535)),
        (b":1240", (1, 1240)),
        (b":", (1, 65535)),
        (b"", (1, 1)),
        (b"1: +2", (1, 2)),
        (b"9:1", (9, 1)),
    ],
)
def test_ports(text: bytes, ports: tuple[int, int]) -> None:
    """Ports are decimal numbers as C's strtol takes them; either end of a range may be left out."""
    assert Names().ports(text) == ports


@pytest.mark.parametrize(
    "text",
    [
        b"0", b"65536", b"99999999999", b"4294967297", b"-1", b"1 ", b"0x4d8", b"1:2:3", b"::", b"nosuchsvc", b"HTTP",
        b"0:5", b"5:0", b" ", b"+", b"+ 1", b"1_0", b"\xb2", b"\xff", b"\0", b"9" * 9000, b"1 :2", b"+-1",
    ],
)  # fmt: skip
def test_what_is_no_port(text: bytes) -> None:
    """Everything else is refused."""
    with pytest.raises(ValueError, match="expected"):
        Names().ports(text)


def test_an_empty_port_to_connect_to() -> None:
    """Only a filter may leave a port out."""
    with pytest.raises(ValueError, match="expected"):
        Names().port(b"")


def test_services() -> None:
    """A port may be the name or an alias of a TCP service, in its own case."""
    try:
        ssh = socket.getservbyname("ssh", "tcp")
    except OSError:
        skip("needs the service ssh in /etc/services")
    names = Names()
    assert names.ports(b"ssh:") == (ssh, 65535)
    assert names.port(b"ssh") == ssh
    with pytest.raises(ValueError, match="expected"):
        names.port(b"SSH")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=30) | st.text("0123456789abfx.:/%", max_size=30).map(str.encode))
def test_any_text_is_a_network_or_none(unknown: None, text: bytes) -> None:
    """Whatever stands for a network has an address of 4 or 16 octets, its host bits clear; or it is a name."""
    try:
        found = Names().network(text)
    except ValueError:
        return
    if isinstance(found, HostName):
        assert found == text
        assert isinstance(Resolver().addresses(found), Unknown)
        return
    packed, bits = found
    assert len(packed) in (4, 16)
    assert int.from_bytes(packed, "big") % (1 << (8 * len(packed) - bits)) == 0


_TEXTS = st.one_of(
    st.text("0123456789abcdefABCDEFxX.+- \t\n\v\f\r*\0\x7fz:/", max_size=24).map(str.encode), st.binary(max_size=6)
)


@given(text=_TEXTS)
@example(text=b"0x")
@example(text=b"1.2.3.4.")
@example(text=b"0xg")
@example(text=b"+")
def test_what_is_read_from_octets(text: bytes) -> None:
    """Numbers, addresses and what is no name are what the expressions take, which are the specification."""
    port = re.fullmatch(room.PORT, text)
    assert room.port_digits(text) == (port[1] if port else b"")
    assert room.is_ipv4(text) is bool(re.fullmatch(room.IPV4, text))
    assert room.is_no_name(text) is bool(re.fullmatch(room.NO_NAME, text))
