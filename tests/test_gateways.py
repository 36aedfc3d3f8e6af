"""Which askers are gateways that may ask by ports alone, and whose connection do they mean?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from lookup import gateways
from lookup.config.blocks import HostName
from lookup.connection import IdentError, NotAccepted, NoUser, Owner, Unknown
from lookup.gateways import Gateways

if TYPE_CHECKING:
    from collections.abc import Callable

SERVER, CLIENT = ("10.0.0.2", 40000), ("10.0.0.1", 6667)


def owner(uid: int, far: str = "192.0.2.9") -> Owner:
    """Return somebody with these ports."""
    return Owner(uid, 1, "ESTABLISHED", SERVER, (far, 6667), "sock_diag")


def raising(error: Exception) -> Callable[..., Owner]:
    """Return what finds nobody."""

    def find(*_: object) -> Owner:
        raise error

    return find


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the kernel's table has for the ports, in place of asking: an owner or an error; then each that was asked."""
    found: list[Any] = [owner(1)]

    def find(local_port: int, remote_port: int, is_far: Callable[[bytes], bool]) -> Owner:
        found.append((local_port, remote_port))
        if isinstance(found[0], Exception):
            raise found[0]
        assert isinstance(found[0], Owner)
        return found[0]

    monkeypatch.setattr(gateways, "find_for_gateway", find)
    return found


@pytest.mark.parametrize(
    ("names", "inside", "outside"),
    [
        (["10.0.0.1"], ["10.0.0.1", "::ffff:10.0.0.1"], ["10.0.0.2", "::1", ""]),
        (["10.0.0.0/24", "fd00::/8"], ["10.0.0.255", "fd12::1"], ["10.0.1.0", "fe80::1%lo"]),
        (["0.0.0.0/0"], ["10.0.0.1"], ["::1"]),
        (["fe80::1"], ["fe80::1%lo"], ["fe80::2%lo"]),
        ([], [], ["10.0.0.1"]),
    ],
)
def test_who_is_trusted(names: list[str], inside: list[str], outside: list[str]) -> None:
    """Those whose address is named, or lies in a network that is."""
    found = Gateways(names)
    assert all(found.trusts(host) and found.may_trust(host) for host in inside)
    assert not any(found.trusts(host) or found.may_trust(host) for host in outside)


def test_a_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands for all its addresses, and for none while it can't be looked up; it is asked for once in a while."""
    asked: list[bytes] = []

    class Resolver:
        def addresses(self, name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
            asked.append(bytes(name))
            return (b"\x0a\0\0\1", b"\x0a\0\0\2") if name == b"gate.lan" else Unknown("no such name")

    monkeypatch.setattr(gateways, "Resolver", Resolver)
    found = Gateways(["gone.lan", "gate.lan", "192.0.2.1"])
    assert found.may_trust("10.9.9.9") and not found.trusts("") and asked == []
    assert found.trusts("192.0.2.1") and asked == []
    assert found.trusts("10.0.0.1") and found.trusts("10.0.0.2") and not found.trusts("10.0.0.3")
    assert asked == [b"gone.lan", b"gate.lan"]


def test_other_askers(table: list[Any]) -> None:
    """Others are answered as without: the table is not walked for them, whatever comes of it."""
    trusted = Gateways(["192.0.2.1"])
    assert trusted.find(SERVER, CLIENT, lambda: owner(7)).uid == 7
    with pytest.raises(NoUser):
        trusted.find(SERVER, CLIENT, raising(NoUser("none")))
    assert len(table) == 1


def test_a_gateway(table: list[Any]) -> None:
    """By both addresses, by the ports alone, or not at all; and never one of two."""
    trusted = Gateways(["10.0.0.1"])
    found = trusted.find(SERVER, CLIENT, raising(NoUser("none")))
    assert (found.uid, found.by_ports, found.client) == (1, True, ("192.0.2.9", 6667))
    assert table.pop() == (40000, 6667)
    own = trusted.find(SERVER, CLIENT, lambda: owner(1, "10.0.0.1"))
    assert (own.by_ports, own.client[0]) == (False, "10.0.0.1")
    with pytest.raises(IdentError) as refused:
        trusted.find(SERVER, CLIENT, lambda: owner(2, "10.0.0.1"))
    assert type(refused.value) is IdentError and "uid 1 " in refused.value.detail and "uid 2 " in refused.value.detail
    table[0] = NoUser("none with these ports")
    assert trusted.find(SERVER, CLIENT, lambda: owner(2, "10.0.0.1")).uid == 2
    with pytest.raises(NoUser):
        trusted.find(SERVER, CLIENT, raising(NoUser("none")))


@pytest.mark.parametrize("error", [NotAccepted("soon"), IdentError("unknown")])
def test_what_stands(table: list[Any], error: Exception) -> None:
    """A connection that nobody has accepted yet, or that can't be found out, is not another one with the same ports."""
    with pytest.raises(type(error)):
        Gateways(["10.0.0.1"]).find(SERVER, CLIENT, raising(error))
    assert len(table) == 1


def test_a_machine_behind_is_meant(table: list[Any]) -> None:
    """Where conntrack knows the connection as another machine's, no socket here with these ports is meant."""
    error = NoUser("another machine's")
    error.server = ("10.1.0.2", 40000)  # type: ignore[attr-defined]
    with pytest.raises(NoUser):
        Gateways(["10.0.0.1"]).find(SERVER, CLIENT, raising(error))
    assert len(table) == 1


def test_so_many_a_second(table: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole table is walked a limited number of times a second; past it, nobody is named."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    trusted = Gateways(["10.0.0.1"])
    for second in range(2):
        now = 100.0 + second
        for _ in range(gateways.MOST):
            trusted.find(SERVER, CLIENT, raising(NoUser("none")))
        with pytest.raises(IdentError) as refused:
            trusted.find(SERVER, CLIENT, raising(NoUser("none")))
        assert "times a second" in refused.value.detail
    assert len(table) == 1 + 2 * gateways.MOST


def test_what_is_far() -> None:
    """The loopback's addresses and this host's own are not far."""
    for near in (b"\x7f\0\0\1", b"\x7f\1\2\3", bytes(15) + b"\1"):
        assert not gateways._is_far(near)
    assert gateways._is_far(b"\xc0\0\2\1")
