"""Which connections is a block about, and how does it show itself?"""

from __future__ import annotations

import ipaddress
from typing import Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup.config.blocks import EVERYWHERE, Where, quoted
from lookup.config.grammar import parse_user

AnyAddress = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def where(filters: str) -> Where:
    """Return the filters of a block as a user file gives them."""
    (block,) = parse_user(filters.encode("ascii") + b" { hide }", "f")
    return block.where


SERVER, CLIENT = ("192.0.2.1", 40000), ("198.51.100.7", 6667)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ("global", True),
        ("to 198.51.100.7", True),
        ("to 192.0.2.1", False),
        ("from 192.0.2.1", True),
        ("from 198.51.100.7", False),
        ("fport 6667", True),
        ("fport 40000", False),
        ("lport 40000", True),
        ("lport 6667", False),
        ("fport 6000:7000 lport 30000: to 198.51.100.0/24 from 192.0.2.0/24", True),
        ("fport 6000:7000 lport 30000: to 198.51.100.0/24 from 192.0.3.0/24", False),
        ("fport 6668:7000 to 198.51.100.7", False),
        ("fport 7000:6000", False),
        ("to ::ffff:198.51.100.7", True),
        ("to ::/0", False),
        ("to 0.0.0.0/0", True),
    ],
)
def test_matches(filters: str, matches: bool) -> None:
    """All filters of a block must match: ``to`` and ``fport`` the far end, ``from`` and ``lport`` ours."""
    assert where(filters).matches(SERVER, CLIENT) is matches


def test_mapped_ends_and_scopes() -> None:
    """An IPv4-mapped end is its IPv4 address, and a scope is not compared."""
    assert where("to 198.51.100.0/24").matches(SERVER, ("::ffff:198.51.100.7", 1))
    assert where("to fe80::1").matches(SERVER, ("fe80::1%lo", 1))
    assert where("to fe80::1%eth9").matches(SERVER, ("fe80::1%nosuch0", 1))


def test_an_unknown_host() -> None:
    """A host that is not known is in no network, and no obstacle to blocks without an address."""
    unknown = ("", 6667)
    assert EVERYWHERE.matches(unknown, unknown)
    assert where("fport 6667").matches(unknown, unknown)
    assert not where("to 0.0.0.0/0").matches(unknown, unknown)
    with pytest.raises(ValueError, match="address"):
        EVERYWHERE.matches(("nonsense", 1), CLIENT)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_networks_are_those_of_the_library(address: AnyAddress, base: AnyAddress, bits: int) -> None:
    """A network holds the addresses that the standard library finds in it."""

    def plain(one: AnyAddress) -> AnyAddress:
        return getattr(one, "ipv4_mapped", None) or one

    base, address = plain(base), plain(address)
    network = ipaddress.ip_network((base, min(bits, base.max_prefixlen)), strict=False)
    assert where(f"to {network}").matches(SERVER, (str(address), 1)) == (address in network)
    assert where(f"to {network}").matches(SERVER, (str(base), 1))


def test_statements_show_themselves() -> None:
    """A statement is shown as it could stand in the file, on one line."""
    user = b'global { reply foo "b\\n\\"r\'s" }\nfport 1 { hide }\nto ::1 { forward 127.1 113 }'
    blocks = parse_user(user, "f")
    assert [str(block.statement) for block in blocks] == [
        'reply "foo" "b\\n\\"r\'s"',
        "hide",
        "forward 127.0.0.1 113",
    ]
    assert [(block.path, block.line, block.rule, block.statement.line) for block in blocks] == [
        ("f", line, f"f:{line}", line) for line in (1, 2, 3)
    ]
    assert quoted(b"\xff'\"") == '"\\xff\'\\""'
