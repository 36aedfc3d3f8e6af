"""Is it noticed what a file says and surely does not mean, and nothing else?"""

from __future__ import annotations

import re

import pytest

from lookup.config.grammar import parse_system, parse_user
from lookup.config.words import Notice
from lookup.connection import ConfigError


def of_user(data: bytes) -> list[Notice]:
    """Return the notices of a user's file."""
    notices: list[Notice] = []
    parse_user(data, "f", notices)
    return notices


def of_system(data: bytes) -> list[Notice]:
    """Return the notices of a system file on a host where everybody is a user."""
    notices: list[Notice] = []
    parse_system(data, "f", lambda names: {name: at for at, name in enumerate(names)}, notices)
    return notices


def error_of(data: bytes, *, system: bool = False) -> str:
    """Return what is wrong with a file."""
    with pytest.raises(ConfigError) as error:
        (of_system if system else of_user)(data)
    return str(error.value)


#: What follows ``reply``, how far into that the notice points, and what it says.
SLIPS: list[tuple[bytes, int, str]] = [
    # psotnic writes this, and so do people who know other files.
    (b'= "x"', 0, "= is one more reply here, and one of the 2 is picked at random"),
    (b": x", 0, ": is one more reply here"),
    (b"=> x", 0, "=> is one more reply here"),
    (b'="x"', 0, 'the quotes in ="x" belong to it'),
    (b"\xe2\x80\x9cx\xe2\x80\x9d", 0, 'only " quotes'),
    (b"\xe2\x80\x9emy name\xe2\x80\x9c", 0, "and each word is one more reply here"),
    (b"\xe2\x80\x98x\xe2\x80\x99", 0, 'only " quotes'),
    (b"\xc2\xabx\xc2\xbb", 0, 'only " quotes'),
    (b"\x93x\x94", 0, 'only " quotes'),
    (b"&quot;x&quot;", 0, 'only " quotes'),
    (b"&#8217;x&#8217;", 0, 'only " quotes'),
    (b"'x'", 0, "the quotes in 'x' belong to it"),
    (b"'my name'", 0, "one of the 2 is picked at random"),
    (b"`x`", 0, 'only " quotes'),
    (b"x;", 0, "x; is sent with its ;"),
    (b"x,", 0, "x, is sent with its ,"),
    (b"x ;", 2, "; is one more reply here"),
    (b'"x";', 3, "; is one more reply here"),
    (b'"a" , "b"', 4, ", is one more reply here, and one of the 3 is picked at random"),
    (b"x // note", 2, "neither a separator nor a comment (# begins one)"),
    (b'"x"y', 3, "the string before it ends at its second quote"),
    (b'"CORP\\alice"', 5, "\\\\a is a control character here, BEL; for a backslash, write two"),
    (b'"CORP\\bob"', 5, "\\\\b is a control character here, backspace"),
    (b'"CORP\\1st"', 5, "\\\\1 is a control character here, octet 1"),
    (b'"\\x1b[1m"', 1, "\\\\x1b is a control character here, ESC"),
    (b'"CORP\\smith"', 5, "\\\\s is s here, without the backslash"),
    (b'"CORP\\robert"', 0, "is never sent: the login name is (\\\\r is a control character here, CR)"),
    (b'"a\\0b"', 0, "is never sent"),
    (b'""', 0, "is never sent"),
    (b'"%ident%"', 0, "%ident% is sent as it stands"),
    (b'"%"', 0, "% is sent as it stands"),
    (b'"%s"', 0, "%s is sent as it stands"),
    (b'"$ident"', 0, "$ident is sent as it stands"),
    (b'"${USER}"', 0, "${USER} is sent as it stands"),
    (b'"<username>"', 0, "<username> is sent as it stands"),
    (b"%ident%", 0, "%ident% is sent as it stands"),
    (b"x\xc2\xa0", 0, "can't be seen"),
    (b'"elevenchars"', 0, "has 11 octets, and most IRC servers show 10 of them"),
    (b'"jos\xc3\xa9jos\xc3\xa9s"', 0, "has 11 octets"),
]


@pytest.mark.parametrize(("replies", "at", "expected"), SLIPS, ids=[ascii(slip[0])[2:-1] for slip in SLIPS])
def test_slips(replies: bytes, at: int, expected: str) -> None:
    """F10. It has its place, and what it means now, in a user's file and where the system file forces it."""
    users, systems = b"\nglobal { reply ", b"default {\n default { force reply "
    for found, begin, line in (
        (of_user(users + replies + b" }"), users, 2),
        (of_system(systems + replies + b" } }"), systems, 2),
    ):
        assert [(notice.line, notice.column) for notice in found] == [(line, len(begin.split(b"\n")[1]) + at + 1)]
        assert expected.replace("\\\\", "\\") in found[0].reason.replace("\\\\", "\\")


SANE = [
    b'"o\'neil"', b"o'neil", b"x.y", b'"x.y"', b'"jos\xc3\xa9"', b"jos\xc3\xa9", b'"a;b"', b"a;b", b'"x;"', b"a=b",
    b'"="',
    b'"CORP\\\\alice"', b"CORP\\alice", b'"jos\\303\\251"', b'"say \\"hi\\""', b'"a,b"', b"a,b", b'"100%"', b"a_b-c",
    b'"it\\\'s"', b"~x", b"-", b'"$"', b"one two three", b'"tencharact"', b"x # a comment; and more", b"a/*b*/c",
    b"&co",
    b"\xc2", b"\xe2\x80", b"\xd0\x90\xd0\x91", b"\xe4\xbd\xa0",
]  # fmt: skip


@pytest.mark.parametrize("replies", SANE, ids=ascii)
def test_what_may_well_be_meant(replies: bytes) -> None:
    """F10. What may be meant as it stands is worth no notice."""
    assert of_user(b"global { reply " + replies + b"\n}") == []
    assert of_system(b"default { default { force reply " + replies + b"\n} }") == []


@pytest.mark.parametrize(
    ("data", "column", "expected"),
    [
        (b'user "CORP\\alice" { default { allow hide } }', 11, "\\a is a control character here, BEL"),
        (b"user 'bob' { default { allow hide } }", 6, "the quotes in 'bob' belong to it"),
        (b"user \xe2\x80\x9cbob\xe2\x80\x9d { default { allow hide } }", 6, 'only " quotes'),
    ],
)
def test_slips_in_names(data: bytes, column: int, expected: str) -> None:
    """The same mistakes in a user's name make a block for somebody who is not there."""
    (notice,) = of_system(data)
    assert (notice.line, notice.column) == (1, column)
    assert expected in notice.reason


def test_a_reply_as_long_as_a_file() -> None:
    """What is too long is no placeholder: to look for one takes a time that grows with the square of the length."""
    reply = b"${USER}" * 9_000
    assert [notice.reason for notice in of_user(b'global { reply "%b" }' % reply)] == [
        f"this reply has {len(reply)} octets, and most IRC servers show 10 of them"
    ]


def test_too_many_replies() -> None:
    """The first reply that does not count is named; a long one once for each statement; the system file takes more."""
    words = b"averylongword " * 22
    assert [notice.column for notice in of_user(b"global { reply " + words + b"}")] == [16, 16 + 20 * 14]
    assert len(of_system(b"default { default { force reply " + words + b"} }")) == 1


def test_notices_up_to_an_error() -> None:
    """What was read before an error is noticed all the same, and nothing behind it."""
    for parse, text in (
        (of_user, b"global { reply 'x' } global { hidde } global { reply 'y' }"),
        (of_system, b"default { default { force reply 'x' } } user bob { default { alow } } user 'y' {"),
    ):
        notices: list[Notice] = []
        with pytest.raises(ConfigError):
            if parse is of_user:
                parse_user(text, "f", notices)
            else:
                parse_system(text, "f", lambda names: dict.fromkeys(names, 1), notices)
        assert [notice.column for notice in notices] == [text.index(b"'x'") + 1]


@pytest.mark.parametrize("broken", [b'"', b"/"])
@pytest.mark.parametrize(("other", "line"), [(b"b", 3), (b"a", 2)])
def test_notices_before_a_broken_string(other: bytes, line: int, broken: bytes) -> None:
    """A string that can't be read is the error, unless there is one further up; what was noticed before is told."""
    replies = (b"a", b"'x'"), (other, b"y"), (b"c", broken)
    text = b" } }\n".join(b"user %s { default { force reply %s" % one for one in replies)
    notices: list[Notice] = []
    with pytest.raises(ConfigError) as caught:
        parse_system(text, "f", lambda names: {name: name[0] for name in names}, notices)
    assert caught.value.line == line
    assert [notice.column for notice in notices] == [text.index(b"'x'") + 1]


def test_where_the_guide_for_quassel_is_right() -> None:
    """F12. Of the lines above a force it is said that they are void, and nothing more about what they would mean."""
    notices = of_system(
        b"default { default { deny spoof } }\n"
        b"user alice { default {\nallow spoof\nallow spoof_all\nforce forward 127.0.0.1 10113\n} }"
    )
    (notice,) = notices
    assert (notice.line, notice.column) == (5, 1)
    assert "makes the lines above it in its block void" in notice.reason


@pytest.mark.parametrize(
    ("data", "system", "expected"),
    [
        (b"global { reply x }", True, "default or user expected, not global: that is for users' files"),
        (b"to ::1 { hide }", True, "default or user expected, not to: that is for users' files"),
        (b"default { global { hide } }", True, "lport expected, not global: that is for users' files"),
        (b"default { default { reply x } }", True, "force expected, not reply: alone, that is for users' files"),
        (b"user a { default { allow reply } }", True, "fakeid expected, not reply (replies are allowed by spoof)"),
        (b"default { default { allow hide } }", False, "lport expected, not default: that is for the system file"),
        (b"user a { default { allow hide } }", False, "lport expected, not user: that is for the system file"),
        (b"global { force reply x }", False, "forward expected, not force: that is for the system file"),
        (b"default { default { force forward 10.0.0.0/8 113 } }", True, "a host expected, not the network 10.0.0.0/8"),
    ],
)
def test_what_is_for_the_other_file(data: bytes, system: bool, expected: str) -> None:
    """F12. What oidentd's manual shows for the one file and people write into the other is said to be that."""
    error = error_of(data, system=system)
    assert expected in error
    assert error.count("not ") == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"global { hide; }", "not hide;: only a blank or a brace may follow hide"),
        (b'global { reply="x" }', 'not reply="x": only a blank or a brace may follow reply'),
        (b'global { reply: "x" }', "not reply:: only a blank or a brace may follow reply"),
        (b'global { reply\xc2\xa0"x" }', "only a blank or a brace may follow reply"),
        (b"\xe2\x80\x8bglobal { hide }", "can't be seen"),
        ("global { hide }".encode("utf-16"), "the file seems to be in UTF-16"),
        (b"global { hidden }", "not hidden"),
        (b"global { replyx }", "not replyx"),
    ],
)
def test_errors_of_the_same_kind(data: bytes, expected: str) -> None:
    """Where such a mistake does not parse, the error says what is wrong with the word."""
    assert error_of(data).endswith(expected) or expected in error_of(data).partition("expected, not ")[2]


@pytest.mark.parametrize(
    ("data", "system"),
    [
        (b"x", False), (b"global { x }", False), (b"global { hide x", False), (b"to ::1 x", False),
        (b"to 1.2.3.400 {", False),
        (b"to 10.0.0.1%eth0 {", False), (b"to 10.0.0.0/99 {", False), (b"fport 0 {", False), (b"fport 0:x:y {", False),
        (b"x", True), (b"default { x", True), (b"default { default { x", True), (b"default { default { deny x", True),
        (b"default { default { deny reply } }", True), (b"default { default { force x", True),
        (b"default { default { force forward 10.0.0.0/8 1", True), (b"default { default { allow hide x", True),
        (b"default { default { allow hide } x", True), (b"user { ", True),
    ],
)  # fmt: skip
def test_nothing_is_expected_twice(data: bytes, system: bool) -> None:
    """F12. What could stand there is listed once, and what does stand there is said once."""
    reason = error_of(data, system=system).partition(" ")[2]
    listed = re.split(r",? or |, ", reason.partition(" expected")[0])
    assert len(set(listed)) == len(listed), reason
    stands = data.split()[-1].decode() if data.endswith(b"x") else ""
    assert len(re.findall(rf"\b{stands}\b", reason)) == 1 if stands else reason.count("not ") <= 1, reason
