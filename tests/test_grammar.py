"""What do configuration files say, and where are they wrong?"""

from __future__ import annotations

import _socket
import re
import signal
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from helpers.machine import skip
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lookup.config import grammar
from lookup.config.blocks import EVERYWHERE, HostName
from lookup.config.grammar import only_ours, parse_system, parse_user
from lookup.connection import ConfigError, Unknown
from lookup.users.names import LAST_UID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lookup.config.blocks import System, Uids
    from lookup.config.words import Notice

UIDS = {b"root": 0, b"alice": 1001, b"bob": 1002}

#: The size of the largest user file that is read.
LARGE = 64 * 1024

#: Seconds for a file that would take hours if the time grew with the square of its size.
HANG = 60


def uids(names: Iterable[bytes]) -> Uids:
    """Return the uids of three users, whoever lives on this host."""
    return {name: UIDS.get(name) for name in names}


def system(data: bytes) -> System:
    """Parse a system file of a host with three users."""
    return parse_system(data, "f", uids)


@pytest.fixture(autouse=True)
def _no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question leaves this process: there is no host but those in numbers."""

    def fail(name: bytes, *_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(_socket, "getaddrinfo", fail)


def test_system_file() -> None:
    """A system file's blocks, capabilities, forced statements and places are what it says."""
    parsed = system(
        b"# all\ndefault {\n default { allow spoof allow hide }\n to 10.0.0.0/8 fport 6667 { deny hide }\n}\n"
        b'USER "alice" { lport 1:9 { force reply "a" b } }\nuser 77 { default { Allow Numeric } }\n'
    )
    assert parsed.path == "f"
    assert parsed.default is not None
    everywhere, irc = parsed.default
    assert (everywhere.line, everywhere.capabilities, everywhere.force) == (3, frozenset({"spoof", "hide"}), None)
    assert everywhere.where is EVERYWHERE
    assert (irc.rule, irc.path, irc.capabilities) == ("f:4", "f", frozenset({"spoof"}))
    assert (irc.where.to, irc.where.fport) == ((b"\n\0\0\0", 8), (6667, 6667))
    assert (irc.where.from_, irc.where.lport) == (None, None)
    assert set(parsed.users) == {1001, 77}
    (alice,) = parsed.users[1001]
    assert alice.where.lport == (1, 9)
    assert alice.capabilities == frozenset()
    assert alice.force is not None
    assert (alice.force.kind, alice.force.arguments, alice.force.line) == ("reply", (b"a", b"b"), 6)
    assert parsed.users[77][0].capabilities == {"spoof", "hide", "numeric"}
    assert parsed.notices == []


def test_no_default_block() -> None:
    """A file without a default block has none, which is not an empty one."""
    assert system(b"").default is None
    assert system(b"user bob { default { deny hide } }").default is None


def test_user_file() -> None:
    """A user file's blocks are its filters and one statement each, in order."""
    one, two, three = parse_user(b"global { hide }\nfport 80 { FORWARD 127.1 113 }\n\nglobal{reply x}", "f")
    assert (one.where, one.statement.kind, one.statement.arguments) == (EVERYWHERE, "hide", ())
    assert (two.where.fport, two.statement.kind, two.statement.arguments) == ((80, 80), "forward", ("127.0.0.1", 113))
    assert (three.line, three.path, three.statement.arguments) == (4, "f", (b"x",))
    assert parse_user(b" # nothing", "f") == []


@pytest.mark.parametrize(("words", "proxy"), [("", ()), ("proxy", ("proxy",)), ("PROXY2", ("proxy2",))])
def test_forward_with_a_header(words: str, proxy: tuple[str, ...]) -> None:
    """A forward may say that a header tells who asked; it does so in both kinds of file, and only if it says so."""
    forward = f"forward ::1 113 {words}"
    (block,) = parse_user(f"global {{ {forward} }}".encode(), "f")
    assert block.statement.arguments == ("::1", 113, *proxy)
    assert str(block.statement) == " ".join(["forward ::1 113", *proxy])
    text = f"default {{ default {{ force {forward} }} to ::1 {{ force {forward} force hide }} }}"
    default = system(text.encode()).default
    assert default is not None and default[0].force is not None
    assert default[0].force.arguments == ("::1", 113, *proxy)


@pytest.mark.parametrize(
    ("data", "capabilities"),
    [
        (b"default{default{allow spoof}} user bob{default{allow hide}}", {"spoof", "hide"}),
        (b"user bob{default{allow hide}} default{default{allow spoof}}", {"hide"}),
        (b"default{default{allow spoof}} user bob{default{deny spoof}}", set()),
        (b"default{default{allow spoof} fport 1{allow hide}} user bob{default{deny hide}}", {"spoof"}),
        (b"default{default{allow spoof}} default{fport 1{allow hide}} user bob{default{deny hide}}", {"spoof"}),
        (b"default{default{allow spoof}} default{default{deny spoof}} user bob{default{deny hide}}", set()),
        (b"default{default{force hide}} user bob{default{allow spoof}}", {"spoof"}),
        (b"default{default{allow spoof force hide}} user bob{default{deny numeric}}", set()),
        (b"default{default{force forward 127.1 1}} user bob{default{deny hide}}", set()),
        (b"default{default{force hide allow spoof}} user bob{default{deny numeric}}", {"hide", "spoof"}),
        (b"default{default{force hide deny hide}} user bob{default{allow spoof}}", {"spoof"}),
        (b"default{default{allow spoof}} user bob{default{force hide}}", set()),
        (b"default{default{allow spoof}} user bob{default{force hide deny numeric}}", {"hide"}),
        (b"default{default{allow spoof}} user bob{default{force reply x deny numeric}}", set()),
        (b"default{default{allow spoof}} user bob{default{force forward 127.1 1 deny hide}}", {"forward"}),
        (b"default{default{allow spoof}} user alice{default{allow hide}} user bob{default{deny random}}", {"spoof"}),
        (b"default{default{allow spoof}} user bob{default{allow hide} default{deny random}}", {"spoof"}),
    ],
)
def test_inheritance(data: bytes, capabilities: set[str]) -> None:
    """A block begins with what the inner default of the default blocks above it left, and a force leaves nothing."""
    assert system(data).users[1002][-1].capabilities == capabilities


def test_equal_blocks_inherit_what_stands_above_each() -> None:
    """Blocks that say the same are parsed once, but mean what their place makes of it."""
    same = b"{ to 10.0.0.0/8 { allow hide } }\n"
    default = b"default { default { allow spoof } }\n"
    data = b"user root " + same + b"user alice " + same + default + b"user bob " + same + b"user 7 " + same
    parsed = system(data)
    assert [ranges[0].capabilities for ranges in parsed.users.values()] == [{"hide"}] * 2 + [{"hide", "spoof"}] * 2
    assert [ranges[0].line for ranges in parsed.users.values()] == [1, 2, 4, 5]
    assert {ranges[0].where.to for ranges in parsed.users.values()} == {(b"\n\0\0\0", 8)}


#: Files that are wrong: the place, and a part of the reason.
BROKEN_SYSTEM = [
    (b"x", 1, 1, "default or user expected, not x"),
    (b"\n  }", 2, 3, "default or user expected, not }"),
    (b"default", 1, 8, "{ expected, not the end of the file"),
    (b"default { }", 1, 11, "default, to, from, fport or lport expected, not }"),
    (b"default { default { } }", 1, 21, "allow, deny or force expected, not }"),
    (b"default { default { allow } }", 1, 27, "spoof"),
    (b"default { default { allow spoof hide } }", 1, 33, "allow, deny or force, or }, expected, not hide"),
    (b"default { default { allow reply } }", 1, 27, "expected, not reply"),
    (b"default { default { allow spoof }", 1, 34, "lport or } expected, not the end of the file"),
    (b"default { default { allow spoof", 1, 32, "the end of the file"),
    (b"default { global { allow spoof } }", 1, 11, "expected, not global"),
    (b"default { default { force allow } }", 1, 27, "expected, not allow"),
    (b"default { default { force reply } }", 1, 33, "a reply expected, not }"),
    (b"default { default { force reply hide } }", 1, 33, "quoted where it is a keyword, expected, not hide"),
    (b"default { default { force forward h } }", 1, 37, "a port expected, not }"),
    (b'default { default { force forward "h x" 9 } }', 1, 35, 'a host name expected, not "h x"'),
    (b"default { default { force forward ::1 0 } }", 1, 39, "a port from 1 to 65535"),
    (b"default { default { force forward ::1 } }", 1, 39, "a port expected, not }"),
    (b"default { default { force forward ::1 9 proxy3 } }", 1, 41, "or }, expected, not proxy3"),
    (b"default { default { force reply %s } }" % (b"x " * 256), 1, 33 + 2 * 255, "at most 255 replies expected"),
    (b"default { to 10.0.0.0/33 { deny hide } }", 1, 14, "from 0 to 32 expected after the slash, not 10.0.0.0/33"),
    (b"default { to { deny hide } }", 1, 14, "a host name expected, not {"),
    (b"default { to ::1 fport 0 { deny hide } }", 1, 24, "a port from 1 to 65535"),
    (b"default { to ::1 to ::2 { deny hide } }", 1, 18, "each filter once expected, not a second to"),
    (b"user", 1, 5, "a login name or a uid expected, not the end of the file"),
    (b'user "" { default { deny hide } }', 1, 6, 'a login name or a uid expected, not ""'),
    (b'user "\\0" { default { deny hide } }', 1, 6, "a login name or a uid expected"),
    (b"user default { default { deny hide } }", 1, 6, "quoted where it is a keyword"),
    (b"user -1 { default { deny hide } }", 1, 6, "a login name or a uid"),
    (b"user 4294967295 { default { deny hide } }", 1, 6, "a login name or a uid"),
    (b"user " + b"9" * 9000 + b" { default { deny hide } }", 1, 6, "a login name or a uid"),
    (b"user ' 7 ' { default { deny hide } }", 1, 8, "{ expected, not 7"),
    (b'user " 99999999999" { default { deny hide } }', 1, 6, "a login name or a uid"),
    (b"user bob {\ndefault { deny hide } }\nuser 1002 { default { deny hide } }", 3, 6, "1002 has one at line 2"),
    (b"user bob { default { deny hide } }\nuser \"x", 2, 6, "closing quote"),
    # The first error counts, though names are looked up last.
    (b"user bob { default { deny hide } }\nuser bob { default { deny hide } } }", 2, 6, "has one at line 1"),
    (b"user bob { default { deny hide } }\n}\nuser nobody-at-all { default { deny hide } }", 2, 1, "or user expected"),
    (b"\r\n\t/\r\n", 2, 2, "default or user expected"),
    (b"\xef\xbb\xbfx", 1, 4, "default or user expected, not x"),
]

BROKEN_USER = [
    (b"x", 1, 1, "global, to, from, fport or lport expected, not x"),
    (b"default { hide }", 1, 1, "global, to, from, fport or lport expected, not default"),
    (b"user alice { default { allow spoof } }", 1, 1, "expected, not user"),
    (b"global hide", 1, 8, "{ expected, not hide"),
    (b"global { }", 1, 10, "hide, random, random_numeric, numeric, pseudonym, reply or forward expected, not }"),
    (b"global { allow spoof }", 1, 10, "expected, not allow"),
    (b"global { spoof }", 1, 10, "expected, not spoof"),
    (b"global { hide#x\n }", 1, 10, "expected, not hide#x"),
    (b'global { reply"foo" }', 1, 10, 'expected, not reply"foo"'),
    (b"global { reply a reply b }", 1, 18, "} expected, not reply"),
    (b"global { hide } }", 1, 17, "expected, not }"),
    (b"global { hide", 1, 14, "} expected, not the end of the file"),
    (b'global { reply "a\n" }', 1, 16, "closing quote"),
    (b'global { reply "\\400" }', 1, 17, "\\377"),
    (b'global { reply "a" }\n"oops\n garbage', 2, 1, "closing quote"),
    (b"global { reply / }", 1, 16, "slash alone"),
    (b"global { forward ::1 9 proxy proxy2 }", 1, 30, "} expected, not proxy2"),
    (b'global { forward ::1 9 "proxy" }', 1, 24, '} expected, not "proxy"'),
    (b"fport 1 : 2 { hide }", 1, 9, "{ expected, not :"),
    (b"fport 1 fport 2 { hide }", 1, 9, "each filter once"),
    (b"to * { hide }", 1, 4, "a host name expected, not *"),
    (b"global { reply %s\"x }" % (b"x " * 30), 1, 16 + 60, "closing quote"),
    (b"global {\f reply foo }", 1, 9, "expected, not \\x0c"),
]


def assert_at(complaint: ConfigError | Notice, line: int, column: int, reason: str) -> None:
    """Check what a complaint says, and of which place."""
    assert (complaint.path, complaint.line, complaint.column) == ("f", line, column)
    assert reason in complaint.reason
    assert str(complaint) == f"f:{line}:{column}: {complaint.reason}"


@pytest.mark.parametrize(("data", "line", "column", "reason"), BROKEN_SYSTEM)
def test_broken_system_files(data: bytes, line: int, column: int, reason: str) -> None:
    """The first error of a system file is told with its place and what was expected there."""
    with pytest.raises(ConfigError) as error:
        system(data)
    assert_at(error.value, line, column, reason)


@pytest.mark.parametrize(("data", "line", "column", "reason"), BROKEN_USER)
def test_broken_user_files(data: bytes, line: int, column: int, reason: str) -> None:
    """The first error of a user file is told with its place and what was expected there."""
    with pytest.raises(ConfigError) as error:
        parse_user(data, "f")
    assert_at(error.value, line, column, reason)


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        (b"alice", 1001), (b'"alice"', 1001), (b'"alice\\0x"', 1001), (b"1001", 1001), (b"+01001", 1001),
        (b'" \\t7"', 7), (b"-0", 0), (b"4294967294", 4294967294), (b"0" * 9000 + b"7", 7),
    ],
)  # fmt: skip
def test_users_by_name_and_number(name: bytes, uid: int) -> None:
    """A user is named by login name, or by uid as C's strtol reads it."""
    assert list(system(b"user %s { default { deny hide } }" % name).users) == [uid]


def test_a_login_name_of_digits_goes_before_the_uid() -> None:
    """A login name counts before the number that it looks like."""
    parsed = parse_system(b"user 1001 { default { deny hide } }", "f", lambda names: dict.fromkeys(names, 5))
    assert list(parsed.users) == [5]


@pytest.mark.parametrize("name", [b"nobody-at-all", b"0x7"])
def test_an_unknown_user_is_worth_a_notice(name: bytes) -> None:
    """F5. A user who is gone is no error: only their block has no effect; others count, before and after it."""
    block = b"user %s { default { deny hide } }\n"
    parsed = system(block % b"alice" + block % name + block % b"bob")
    assert list(parsed.users) == [1001, 1002]
    assert parsed.doubtful == []
    (notice,) = parsed.missing
    assert_at(notice, 2, 6, f"there is no user {name.decode()}: this block has no effect")
    assert notice in parsed.notices


def test_a_user_who_can_not_be_asked_for() -> None:
    """W1. A block whose user may be anybody is kept apart: it may be about whoever has none of their own."""
    failed = Unknown("broken for the test")
    parsed = parse_system(
        b"user gone { default { deny hide } }\nuser bob { default { allow hide } }",
        "f", lambda names: {name: failed if name == b"gone" else 1002 for name in names},
    )  # fmt: skip
    assert list(parsed.users) == [1002]
    assert [(ranges[0].line, unknown) for ranges, unknown in parsed.doubtful] == [(1, failed)]
    assert_at(parsed.missing[0], 1, 6, "who gone is can't be found out: broken for the test")


def test_two_names_of_one_user() -> None:
    """W9. Two names may become one user's at any time: that owner is unknown, and the rest of the file counts."""
    block = b"user %s { default { deny hide } }\n"
    data = block % b"bob" + block % b"robert" + block % b"7"
    parsed = parse_system(data, "f", lambda names: {name: 1002 if name[:1] in b"br" else None for name in names})
    assert parsed.twice[1002].reason == "f:1 and f:2 are both about uid 1002"
    assert set(parsed.users) == {7, 1002}
    assert_at(parsed.missing[0], 2, 6, "uid 1002 has one at line 1: nothing is replied about this user")


def test_those_who_have_the_names_by_now() -> None:
    """W9. The same rules are given to those whose names these are by now, without a second reading."""
    block = b"user %s { default { deny hide } }\n"
    parsed = system(b"default { default { deny hide } }\n" + block % b"bob" + block % b"7")
    again = parsed.assigned_again({b"bob": 2002, b"7": None})
    assert (list(parsed.users), list(again.users)) == ([1002, 7], [2002, 7])
    assert again.users[2002] is parsed.users[1002]
    assert (again.path, again.default, again.hosts) == (parsed.path, parsed.default, parsed.hosts)


def test_unknown_hosts_are_worth_a_notice() -> None:
    """F2. That a host name has no addresses is no error: whoever checks a file is told, with its place."""
    notices: list[Notice] = []
    parsed = parse_system(b"default {\n to nosuch.invalid { force hide } }", "f", uids, notices)
    assert parsed.default is not None
    assert parsed.default[0].where.to == b"nosuch.invalid"
    assert_at(notices[0], 2, 5, "Name or service not known")
    assert notices == parsed.missing
    mine: list[Notice] = []
    (block,) = parse_user(b"to nosuch.invalid { hide }", "f", mine)
    assert block.where.to == b"nosuch.invalid"
    assert_at(mine[0], 1, 4, "Name or service not known")


#: What is noticed in a file that parses: the place, and a part of the reason.
SYSTEM_NOTICES = [
    (b"default { default {\n force hide\n deny spoof } }", 3, 2, "cancels the force"),
    (b"default { default {\n allow spoof\n force hide } }", 3, 2, "void"),
    (b"default { default { force hide\nforce numeric } }", 2, 1, "void"),
    (b"default { default { force spoof } }", 1, 21, "the login name is forced"),
    (b"default { default { deny hide } } /*", 1, 35, "no end"),
    (b"default { default { deny hide } }\ndefault { default { deny hide } }", 2, 1, "first, at line 1"),
    (b"default { default { deny hide } fport 9:1 { deny hide } }", 1, 39, "no port is from 9 to 1"),
    (b"default { fport 9 { deny hide } default { deny hide } }", 1, 11, "never applies: line 1's"),
    (b"default { fport 9 { deny hide } fport 9 { deny hide } }", 1, 11, "never applies"),
    (b"user bob { default { deny hide }\ndefault { deny spoof } }", 1, 12, "never applies: line 2's"),
    (b"user bob { default { deny hide } }\ndefault { default { allow hide } }", 2, 1, "inherit nothing"),
    (b"user bob { default { allow spoof_all } }", 1, 22, "without the capability spoof"),
]

USER_NOTICES = [
    (b"fport 1 { hide }\nglobal { hide }", 1, 1, "never applies: line 2's"),
    (b"fport 1 to ::1 { hide } to ::1 fport 1 { random }", 1, 1, "never applies"),
    (b"fport 2:1 { hide }", 1, 7, "no port is from 2 to 1"),
    (b"global { hide } /* x", 1, 17, "no end"),
]


@pytest.mark.parametrize(("data", "line", "column", "reason"), SYSTEM_NOTICES)
def test_system_notices(data: bytes, line: int, column: int, reason: str) -> None:
    """What a system file surely does not mean as it is written is noticed, once, where it stands."""
    (notice,) = system(data).notices
    assert_at(notice, line, column, reason)


@pytest.mark.parametrize(("data", "line", "column", "reason"), USER_NOTICES)
def test_user_notices(data: bytes, line: int, column: int, reason: str) -> None:
    """What a user file surely does not mean as it is written is noticed for whoever wants to know."""
    notices: list[Notice] = []
    blocks = parse_user(data, "f", notices)
    (notice,) = notices
    assert_at(notice, line, column, reason)
    assert len(parse_user(data, "f")) == len(blocks)


@pytest.mark.parametrize(
    "data",
    [
        b"default { default { allow spoof_all } } user bob { default { allow spoof } }",
        b"default { default { deny spoof } fport 1 { force hide } }\nuser bob { default { force reply \"a\" \";\" } }",
        b"default { default { allow spoof } } default { default { deny spoof } }"[:35],
    ],
)
def test_sane_files_are_worth_no_notice(data: bytes) -> None:
    """No notice is given of what may well be meant."""
    assert system(data).notices == []


#: What files are made of, and what they should not be.
SOUP = [
    b"default", b"user", b"global", b"{", b"}", b"allow", b"deny", b"force", b"spoof", b"hide", b"forward", b"reply",
    b"to", b"from", b"fport", b"lport", b"alice", b"1001", b"::1", b"10.0.0.0/8", b"1:2", b"http", b'"a b"', b'"',
    b"\\", b"#", b"/*", b"*/", b"\n", b"\xff", b"\0", b"x",
]  # fmt: skip


def check(data: bytes) -> None:
    """Parse as both kinds of file: a result or an error with a place inside, and nothing else."""
    for parse in (system, lambda data: parse_user(data, "f", [])):
        try:
            parse(data)
        except ConfigError as error:
            assert 1 <= error.line <= data.count(b"\n") + 1
            assert 1 <= error.column <= len(data.split(b"\n")[error.line - 1]) + 1
            assert "\n" not in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary())
def test_any_octets(data: bytes) -> None:
    """Any octets whatsoever are a file or an error."""
    check(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(st.sampled_from(SOUP), max_size=60).map(b" ".join))
def test_any_words(data: bytes) -> None:
    """Any words whatsoever are a file or an error."""
    check(data)


_CAPABILITY = st.sampled_from(
    ["spoof", "spoof_all", "spoof_privport", "hide", "random", "random_numeric", "numeric", "forward"]
)
_LINE = (
    st.builds("{} {}".format, st.sampled_from(["allow", "deny", "DENY"]), _CAPABILITY)
    | st.sampled_from(["force hide", "force reply x", 'force reply "a b" c', "force numeric", "force forward ::1 1"])
)  # fmt: skip
_FILTER = st.sampled_from(
    ["default", "fport 1:", "lport :9", "to ::1 from ::/0", "from 10.0.0.0/8 fport 6667", "default # x\n"]
)
_RANGE = st.builds("{} {{ {} }}".format, _FILTER, st.lists(_LINE, min_size=1, max_size=3).map("\n".join))
_RANGES = st.lists(_RANGE, min_size=1, max_size=3).map(" ".join)
_FILE = st.lists(st.tuples(st.sampled_from(["default", "user"]), _RANGES), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_FILE, st.integers(0, 400))
def test_well_formed_files(blocks: list[tuple[str, str]], cut: int) -> None:
    """Whatever is written by the grammar parses, and what is cut from it is a file or an error."""
    data = "\n".join(
        f"{kind} {n + 1 if kind == 'user' else ''} {{ {ranges} }}" for n, (kind, ranges) in enumerate(blocks)
    ).encode("ascii")
    parsed = system(data)
    assert set(parsed.users) == {n + 1 for n, (kind, _) in enumerate(blocks) if kind == "user"}
    assert (parsed.default is None) == all(kind == "user" for kind, _ in blocks)
    for ranges in (*parsed.users.values(), parsed.default or []):
        assert all(one.force is None or not one.capabilities for one in ranges)
    check(data[:cut])


@contextmanager
def no_hang() -> Iterator[None]:
    """Fail a test that would run for hours."""

    def fail(*_: object) -> None:
        raise AssertionError(f"still parsing after {HANG} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "data",
    [
        unit * (LARGE // len(unit))
        for unit in (
            b"{", b"}", b'"', b'"\\', b'\\"', b'"\n', b'"a" ', b"/*", b"/* */", b"*/ /*\n", b"#", b"#\n", b"#\r", b"/",
            b"/ ", b"\n", b" ", b"\r", b"\0", b"\\8", b"x", b"x ",
            b"global{hide}", b"global{hide}\n", b"fport 1:2{hide}", b"fport 2:1{hide}\n",
            b"default{default{deny hide}}\n", b"default{default{force hide}fport 1{force spoof deny hide}}\n",
            b"global{reply , , , ,}", b"to ", b"user ", b"user alice{default{deny hide}}", b"global{reply//*//}",
        )
    ]
    + [
        b"global { reply " + b"x " * (LARGE // 2) + b"}",
        b'global { reply "' + b"\\x41" * (LARGE // 4) + b'" }',
        b'global { reply "' + b"\\x41" * (LARGE // 4),
        b'global { reply "' + b'\\"' * (LARGE // 2),
        b"default { default { " + b"allow spoof " * (LARGE // 12) + b"} }",
        b"default { default { " + b"force spoof deny hide " * (LARGE // 22) + b"} }",
        b"default { " + b"default { deny hide } " * (LARGE // 22) + b"}",
        b"user bob { " + b"fport 9 { force hide } " * (LARGE // 23) + b"}",
        b"fport " + b"9" * LARGE + b" { hide }",
        b"to " + b"1." * (LARGE // 2) + b" { hide }",
        b"to " + b":" * LARGE + b" { hide }",
        b"user " + b"9" * LARGE + b" { default { deny hide } }",
        b"\xef\xbb\xbf" * (LARGE // 3),
    ],
    ids=lambda data: f"{data[:24]!r}",
)  # fmt: skip
def test_hostile_files_take_no_longer_than_others(data: bytes) -> None:
    """The time for a file of 64 KiB grows with its size, not with the square of it."""
    with no_hang():
        check(data)


def test_reading_a_file_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """F2. No host name is looked up before a query needs it; of half a file, half an address would look like one."""
    monkeypatch.delattr(_socket, "getaddrinfo")
    whole = b'to identd-host { reply "x" } to 127.0.0.1 { forward identd-other 1113 }'
    for end in range(len(whole) - 1):
        with suppress(ConfigError):
            parse_user(whole[:end], "f")
    first, second = parse_user(whole, "f")
    assert first.where.to == HostName(b"identd-host")
    assert isinstance(first.where.to, HostName)
    assert second.statement.arguments == (HostName(b"identd-other"), 1113)
    assert isinstance(second.statement.arguments[0], HostName)


def test_two_thousand_blocks() -> None:
    """A file with thousands of blocks is parsed to the last one, line and all."""
    try:
        socket.getservbyname("ssh", "tcp")
    except OSError:
        skip("needs the service ssh in /etc/services")
    data = b"".join(b"user %d { to 10.0.0.0/8 fport ssh { allow spoof allow hide } }\n" % n for n in range(2000))
    parsed = system(data)
    assert len(parsed.users) == 2000
    assert all(ranges[0].line == uid + 1 for uid, ranges in parsed.users.items())
    assert parsed.users[1999][0].where.fport == (22, 22)


@given(text=st.one_of(st.text("0123456789+- \t\n\v\f\ra", max_size=16).map(str.encode), st.binary(max_size=4)))
@example(text=b"0")
@example(text=b"-0")
@example(text=b"00000000000000001000")
@example(text=b"4294967296")
@example(text=b"+")
def test_uids_are_what_the_expression_takes(text: bytes) -> None:
    """A number is a uid, or meant as one, where the expressions say so, which are the specification."""
    match = re.fullmatch(grammar.UID, text)
    uid = int(match[1] + match[2]) if match else -1
    assert grammar.number_of(text) == (uid if uid <= LAST_UID else -1)
    assert grammar.is_any_number(text) is bool(re.fullmatch(grammar.ANY_NUMBER, text))


ONLY_OURS = [
    (b"default { to 10.0.0.0/8 { allow hide } }", "1:14: a network"),
    (b"default { from ::ffff:10.0.0.1 { allow hide } }", "1:16: an IPv4 address in this form"),
    (b"default { to .example.org { allow hide } }", "1:14: a network by name"),
    (b"default { default { allow hide\n deny pseudonym } }", "2:2: pseudonym"),
    (b"default { default { force pseudonym 9 } }", "1:21: pseudonym"),
    (b"default { default { allow noident } }", "1:21: noident"),
    (b"default { default { default_hide } }", "1:21: default_hide"),
    (b"default { default { default_reply x } }", "1:21: default_reply"),
    (b"default {\n default { allow hide } }\r\n\r\n", "2:26: a CR at a line's end"),
    (b"\xef\xbb\xbfdefault { default { allow hide } }", "1:1: a byte order mark"),
]


@pytest.mark.parametrize(("data", "expected"), ONLY_OURS)
def test_only_ours(data: bytes, expected: str) -> None:
    """What oidentd refuses, and identd takes, is listed with its place."""
    (notice,) = only_ours(data, "f", False)
    assert str(notice) == "f:{}: only identd understands this: {}".format(*expected.split(": "))


def test_all_of_it_is_listed() -> None:
    """Each of many blocks that say the same; and what a user's file has, up to an error."""
    block = b"user %d { to 10.0.0.0/8 { default_hide allow fakeid } }\n"
    data = b"".join(block % number for number in range(3))
    assert [notice.line for notice in only_ours(data, "f", False)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [n.line for n in only_ours(b"global { forward ::1 9\nproxy2 }", "f", True)] == [2]
    user = b"global { pseudonym }\nto .a.b { hide }\nto 10.0.0.0/8 { wrong }\nto 10.0.0.0/8 { hide }"
    assert [notice.line for notice in only_ours(user, "f", True)] == [1, 2, 3]


def test_what_both_understand() -> None:
    """oidentd's own language is not listed, whatever words it has for text; nor a CR in a comment."""
    for data in (
        b'default { default { force reply pseudonym "noident" default_hide } } # a comment\r\n',
        b"user proxy { default { force forward proxy2 113 } }",
        b"user daily { to 10.0.0.1 from ::1 fport 6660:6669 { allow spoof deny hide } }",
    ):
        assert only_ours(data, "f", False) == []
    assert only_ours(b"to irc.example.org { reply per-asker }", "f", True) == []
