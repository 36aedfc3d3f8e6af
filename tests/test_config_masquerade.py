"""What does oidentd_masq.conf say of machines behind this one?"""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lookup.config import masquerade
from lookup.config.blocks import HostName
from lookup.config.masquerade import Entries, Entry, check, entries, first
from lookup.connection import ConfigError, IdentError, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The hosts that have names here; any other name can't be looked up.
HOSTS = {b"pc.lan": (b"\x0a\0\0\7",), b"six.lan": (bytes(15) + b"\1", b"\x0a\0\0\6")}


def resolve(name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
    """Return the addresses of a host name."""
    if bytes(name) not in HOSTS:
        return Unknown(f"the addresses of {name!r}")
    return tuple(one for one in HOSTS[bytes(name)] if len(one) == octets)


def reply(data: bytes, host: str) -> tuple[bytes, str] | None:
    """Return the name and the operating system that a file has for a host."""
    found = first(entries(data, "f"), host, resolve)
    return None if found is None else (found.name, found.opsys)


def refusal(ask: Callable[[], object]) -> str:
    """Return why nobody can be named."""
    with pytest.raises(IdentError) as caught:
        ask()
    return caught.value.detail


def wrong(data: bytes) -> list[str]:
    """Return what is wrong in a file."""
    found = [one if isinstance(one, ConfigError) else one.wrong for one in entries(data, "f")]
    return [str(one) for one in found if one is not None]


@pytest.mark.parametrize(
    ("line", "inside", "outside"),
    [
        (b"10.0.0.5 joe UNIX", ["10.0.0.5", "::ffff:10.0.0.5"], ["10.0.0.4", "::1"]),
        (b"10.0.0.5/32 joe UNIX", ["10.0.0.5"], ["10.0.0.4", "10.0.0.6"]),
        (b"0.0.0.0/0 joe UNIX", ["10.0.0.5", "255.255.255.255"], ["::1"]),
        (b"0.0.0.0/1 joe UNIX", ["127.0.0.1"], ["128.0.0.1"]),
        (b"10.0.0.9/255.255.255.0 joe UNIX", ["10.0.0.5"], ["10.0.1.5"]),
        (b"10.0.0.9/0.0.0.0 joe UNIX", ["1.2.3.4"], []),
        (b"10.0.0.5/255.0.0.255 joe UNIX", ["10.7.7.5"], ["10.0.0.6"]),
        (b"10.5 joe UNIX", ["10.0.0.5"], ["10.5.0.0"]),
        (b"::ffff:10.0.0.0/104 joe UNIX", ["10.9.9.9"], ["11.0.0.0"]),
        (b"fd00::/64 joe UNIX", ["fd00::", "fd00::ffff:1"], ["fd00:0:0:1::", "10.0.0.5"]),
        (b"fd00::7 joe UNIX", ["fd00::7"], ["fd00::8"]),
        (b"::/0 joe UNIX", ["fd00::7"], ["10.0.0.5"]),
        (b"pc.lan joe UNIX", ["10.0.0.7"], ["10.0.0.6", "::1"]),
        (b"pc.lan/24 joe UNIX", ["10.0.0.1"], ["10.0.1.7"]),
        (b"six.lan joe UNIX", ["10.0.0.6", "::1"], ["10.0.0.7"]),
        (b" \t10.0.0.5\tjoe   UNIX\r", ["10.0.0.5"], []),
        (b"10.0.0.5 joe UNIX what else", ["10.0.0.5"], []),
    ],
)
def test_whom_a_line_is_about(line: bytes, inside: list[str], outside: list[str]) -> None:
    """A host or a network of either family, whatever comes before it, and also as a last line without an end."""
    for data in (line, line + b"\n", b"# so\n\n  # so\n9.0.0.0/8 x X\nabcd::/16 x X\n" + line + b"\n9.0.0.1 y Y\n"):
        for host in inside:
            assert reply(data, host) == (b"joe", "UNIX"), (data, host)
        for host in outside:
            assert reply(data, host) is None, (data, host)


def test_a_byte_order_mark() -> None:
    """It is no part of the first word."""
    assert reply(b"\xef\xbb\xbf10.0.0.5 joe UNIX", "10.0.0.5") == (b"joe", "UNIX")


def test_the_first_line_counts() -> None:
    """Of several lines about a host, the first one counts; a network before it takes nothing from it otherwise."""
    data = b"10.0.0.0/8 lan UNIX\n127.0.0.0/24 wrong UNIX\n127.0.5.5 joe OTHER,UTF-8\n0.0.0.0/0 rest WIN32"
    assert reply(data, "10.0.0.5") == (b"lan", "UNIX")
    assert reply(data, "127.0.5.5") == (b"joe", "OTHER,UTF-8")
    assert reply(data, "127.0.5.6") == (b"rest", "WIN32")


NAME, OPSYS = "a name of at most 512 octets", "an operating system expected, with a character set after a comma"
BITS = "a number of bits from 0 to 32 or an IPv4 mask expected after the slash"

BROKEN = [
    (b"10.0.0.5", f"1:9: {NAME} expected, not the end of the line"),
    (b"10.0.0.5 joe", f"1:13: {OPSYS}, not the end of the line"),
    (b"10.0.0.5  joe  U:X ", f"1:16: {OPSYS}, not U:X"),
    (b"10.0.0.5 joe U,V,W", f"1:14: {OPSYS}, not U,V,W"),
    (b"10.0.0.5 joe U,", f"1:14: {OPSYS}, not U,"),
    (b"10.0.0.5 j\0e UNIX", f"1:10: {NAME} expected, not j\\x00e"),
    (b"10.0.0.5 %s UNIX" % (b"x" * 513), f"1:10: {NAME} expected, not {'x' * 40}..."),
    (b"10.0.0.5/33 joe UNIX", f"1:10: {BITS}, not 33"),
    (b"10.0.0.5/-1 joe UNIX", f"1:10: {BITS}, not -1"),
    (b"10.0.0.5/ joe UNIX", f"1:10: {BITS}, not 10.0.0.5/"),
    (b"::ffff:10.0.0.5/90 joe UNIX", f"1:17: {BITS}, not 90"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "error"), BROKEN)
def test_a_wrong_line_about_a_good_host(line: bytes, error: str) -> None:
    """It names its place, nobody is named for that host, whatever stands below, and other lines count."""
    data = line + b"\n10.0.0.6 joe UNIX\n0.0.0.0/0 rest UNIX"
    assert wrong(data) == [f"f:{error}"]
    assert refusal(lambda: reply(data, "10.0.0.5")) == f"f:{error}"
    assert reply(data, "10.0.0.6") == (b"joe", "UNIX")
    assert reply(data, "10.0.0.7") == (b"rest", "UNIX")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"10.0.0.256 joe UNIX", "1:1: an IPv4 address expected, of numbers up to 255, not 10.0.0.256"),
        (b" fd00:: joe UNIX\n fd00::x joe UNIX", "2:2: an IPv6 address expected, not fd00::x"),
        (b"* joe UNIX", "1:1: an address, a network or a host name expected, not *"),
        (b"fe80::1%lo joe UNIX", "1:1: an address without a scope (%) expected, not fe80::1%lo"),
        (b"/24 joe UNIX", "1:1: an address, a network or a host name expected, not the end of the line"),
    ],
)
def test_a_line_about_no_host(line: bytes, error: str) -> None:
    """It names its place, and is about nobody."""
    assert wrong(line) == [f"f:{error}"]
    assert reply(line + b"\n10.0.0.6 joe UNIX", "10.0.0.6") == (b"joe", "UNIX")


def test_a_name_that_can_not_be_looked_up() -> None:
    """It may be any host's: the reply is what a later line says only if it says the same."""
    assert reply(b"gone.lan joe UNIX\n0.0.0.0/0 joe UNIX\n", "10.0.0.5") == (b"joe", "UNIX")
    assert reply(b"10.0.0.5 ann UNIX\ngone.lan joe UNIX\n", "10.0.0.5") == (b"ann", "UNIX")
    for data in (b"gone.lan joe UNIX\n", b"gone.lan joe UNIX\n0.0.0.0/0 ann UNIX\n", b"gone.lan joe\n0.0.0.0/0 joe U"):
        said = refusal(functools.partial(reply, data, "10.0.0.5"))
        assert said.startswith("f:1 may be about 10.0.0.5: the addresses of")


def test_the_file(tmp_path: Path) -> None:
    """It is read anew for each question; only the default one may be missing; what can't be read is no empty file."""
    path = tmp_path / "masq"
    assert Entries(str(path), required=False).find("10.0.0.5") is None
    machines = Entries(str(path), required=True)
    assert refusal(lambda: machines.find("10.0.0.5")) == f"{path}: no such file"
    path.write_bytes(b"10.0.0.5 joe UNIX")
    found = machines.find("10.0.0.5")
    assert found is not None and (found.name, found.rule) == (b"joe", f"{path}:1")
    path.write_bytes(b"10.0.0.5 ann UNIX")
    found = machines.find("10.0.0.5")
    assert found is not None and found.name == b"ann"
    path.write_bytes(b"#" * (masquerade.MAX_SIZE + 1))
    assert refusal(lambda: machines.find("10.0.0.5")) == f"{path}: more than {masquerade.MAX_SIZE} octets"
    folder = Entries(str(tmp_path), required=False)
    assert refusal(lambda: folder.find("10.0.0.5")) == f"{tmp_path}: Is a directory"


def test_what_check_says(tmp_path: Path) -> None:
    """Errors and warnings have their places: lines that never count, words that don't, hosts that there are not."""
    path = tmp_path / "masq"
    path.write_bytes(
        b"10.0.0.0/8 lan UNIX\n10.1.0.0/16 sub UNIX\n10.0.0.5 joe\n0.0.0.0/0 rest UNIX # all\n"
        b"127.0.0.1 x UNIX\nfd00::/8 y UNIX too much\nfd00::1 z UNIX\n1.2.3.4/x a b\nident.invalid w UNIX\n* v UNIX\n"
    )
    count, errors, notices = check(str(path), True)
    assert count == 9
    assert [(error.line, error.column) for error in errors] == [(3, 13), (8, 9), (10, 1)]
    told = [(notice.line, notice.column, notice.reason.partition(":")[2].partition(",")[0]) for notice in notices]
    covered = " line {} is about this"
    assert told[:-1] == [
        (2, 1, covered.format(1)), (3, 1, covered.format(1)), (5, 1, covered.format(4)), (6, 17, " a name"),
        (7, 1, covered.format(6)), (8, 1, covered.format(4)),
    ]  # fmt: skip
    assert (notices[-1].line, notices[-1].column) == (9, 1) and "ident.invalid" in notices[-1].reason
    assert check(str(tmp_path / "none"), False) == (0, [], [])
    assert [str(error) for error in check(str(tmp_path / "none"), True)[1]] == [f"{tmp_path}/none: no such file"]


# Any file.

ADDRESSES = st.sampled_from(["10.0.0.5", "10.0.1.5", "10.128.0.1", "192.0.2.7", "fd00::5", "fd00:1::5", "::1"])
BITS_OF_NETWORKS = st.sampled_from([0, 1, 8, 24, 32, 64, 128])
NETWORKS = st.builds(
    lambda host, bits: f"{host}/{min(bits, 128 if ':' in host else 32)}", ADDRESSES, BITS_OF_NETWORKS
)  # fmt: skip
NAMES = st.sampled_from(["joe", "ann", "x" * 512, "~", "\xe9", "a:b"])
LINES = st.tuples(st.sampled_from(["", " ", "\t"]), ADDRESSES | NETWORKS, NAMES, st.sampled_from(["", " # c", "\r"]))


@given(st.lists(LINES, max_size=8), ADDRESSES, st.sampled_from(["", "\n"]))
def test_any_good_file(lines: list[tuple[str, str, str, str]], host: str, end: str) -> None:
    """The name is that of the first line whose network has the host."""
    text = "\n".join(f"{before}{network} {name}\tUNIX{after}" for before, network, name, after in lines) + end
    expected = None
    for _, network, name, _ in lines:
        if ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False):
            expected = name.encode("latin-1"), "UNIX"
            break
    assert wrong(text.encode("latin-1")) == []
    assert reply(text.encode("latin-1"), host) == expected


WORDS = st.sampled_from(
    [b"10.0.0.5", b"/", b"/24", b"::1", b"fd00::", b"joe", b" ", b"\n", b"\t", b"#", b"UNIX", b",", b"%"]
)


@given(st.binary(max_size=200) | st.lists(WORDS, max_size=30).map(b"".join), ADDRESSES)
@example(b"10.0.0.5/99999999999999999999999 joe UNIX", "10.0.0.5")
@example(b"::ffff:10.0.0.5/" + b"9" * 5000 + b" joe UNIX", "10.0.0.5")
@example(b"10.0.0.5\n10.0.0.5 joe UNIX", "10.0.0.5")
def test_any_octets(data: bytes, host: str) -> None:
    """Whatever a file holds: a name that stands in it and can be sent, nobody, or an error with a place in the file."""
    lines = data.split(b"\n")
    for one in entries(data, "f"):
        error = one if isinstance(one, ConfigError) else one.wrong
        place = error or one
        assert 1 <= place.line <= len(lines) and 1 <= place.column <= len(lines[place.line - 1]) + 1
        assert error is None or error.reason.isprintable()
        if isinstance(one, Entry) and one.wrong is None:
            assert one.name in lines[one.line - 1] and 1 <= len(one.name) <= 512
            assert not set(one.name) & set(b"\0\r\n\t ")
    try:
        found = reply(data, host)
    except IdentError as refused:
        assert refused.detail.startswith("f:")
        return
    assert found is None or found[0] in data
