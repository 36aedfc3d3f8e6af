"""Are hosts and ports understood as configuration files name them?"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from helpers.machine import skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookup.config.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    monkeypatch.delattr(socket, "getaddrinfo")
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
    monkeypatch.delattr(socket, "getaddrinfo")
    with pytest.raises(ValueError, match=r"expected"):
        Names().network(text)


def test_host_names() -> None:
    """A host name stands for the first address that the resolver gives; one that is none is refused."""
    names = Names(30)
    first = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0]
    packed = socket.inet_pton(first[0], str(first[4][0]))
    assert names.network(b"localhost") == (packed, 8 * len(packed))
    assert names.host(b"localhost") == first[4][0]


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows no host, so that no question leaves this one."""

    def fail(name: bytes, *_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


def test_an_unknown_host_name(unknown: None) -> None:
    """A name that the resolver does not know is refused with its reason."""
    with pytest.raises(ValueError, match=r"a host name expected \(Name or service not known\)"):
        Names().network(b"nosuch.invalid")


def test_a_host_to_connect_to() -> None:
    """A host is one address, as text, with the scope that a link-local one needs."""
    names = Names()
    assert names.host(b"127.1") == "127.0.0.1"
    assert names.host(b"::ffff:127.0.0.1") == "127.0.0.1"
    assert names.host(b"fe80::1%eth9") == "fe80::1%eth9"
    with pytest.raises(ValueError, match="not a network"):
        names.host(b"10.0.0.0/8")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """A resolver that does not answer before the test ends; the list has what it was asked."""
    asked: list[object] = []
    over = threading.Event()

    def wait(name: object, *_: object) -> None:
        asked.append(name)
        over.wait(60)

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    monkeypatch.setattr(socket, "getservbyname", wait)
    yield asked
    over.set()


def test_a_stuck_resolver_ends_at_the_bound(stuck: list[object]) -> None:
    """All names of a file share one bound of time; past it none is asked for, and numbers are still understood."""
    names = Names(0.05)
    for _ in range(3):
        with pytest.raises(ValueError, match="in time"):
            names.network(b"stuck.invalid")
        with pytest.raises(ValueError, match="in time"):
            names.port(b"stuck")
    assert names.network(b"192.0.2.1") == (V4, 32)
    assert names.port(b"80") == 80
    # The thread may begin after we have stopped waiting for it.
    deadline = time.monotonic() + 60
    while not stuck and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stuck == [b"stuck.invalid"]


def test_a_name_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may name one host in every line; the resolver hears of it once."""
    asked = []
    real = socket.getaddrinfo

    def count(name: bytes, *arguments: object) -> object:
        asked.append(name)
        return real("127.0.0.1", None, type=socket.SOCK_STREAM)

    monkeypatch.setattr(socket, "getaddrinfo", count)
    names = Names()
    assert [names.network(b"somewhere.invalid") for _ in range(3)] == [(bytes([127, 0, 0, 1]), 32)] * 3
    assert asked == [b"somewhere.invalid"]


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
    """Whatever stands for a network has an address of 4 or 16 octets, its host bits clear."""
    names = Names()
    try:
        packed, bits = names.network(text)
    except ValueError:
        return
    assert len(packed) in (4, 16)
    assert int.from_bytes(packed, "big") % (1 << (8 * len(packed) - bits)) == 0
