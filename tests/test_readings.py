"""What does each client of the table make of a name?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup.config.readings import MOST, READERS, readings, spellings

#: For the beginning of a row of the table: names, and what these clients read in them.
READ = {
    "all that": [(b"bob ", b"bob ")],
    "Exim": [(b" bob x ", b"bob x")],
    "tcp wrappers": [(b"\tbob x", b"bob"), (b"bob", b"bob")],
    "qmail": [(b"b o\tb", b"bob")],
    "Squid": [(b"x: bob", b"bob"), (b"bob:x", b"x")],
    "InspIRCd 3, 4": [(b"x:b ob@y", b"bob"), (b"~bob", b"")],
    "InspIRCd 1, 2": [(b"bob:x", b"bob")],
    "ircd-hybrid, charybdis": [(b"^~b:o[b@x", b"bob"), (b"b~ob", b"b~ob")],
    "ircd-hybrid (8.2)": [(b"~bob:x", b"bob"), (b"^bob x", b"bob"), (b"b[ob", b"b[ob")],
    "IRCnet's ircd: without": [(b":b@o[b", b"bob"), (b"bob:x", b"bob:x")],
    "IRCnet's ircd, where": [(b"b@ob", b"-bob")],
    "sendmail: only": [(b"<b:o b>", b"bob"), (b"b~ob", b"b~ob")],
    "sendmail's addresses": [(b"x <bob@y>", b"bob"), (b"bob@x", b"bob")],
    "loggers": [(b"\x01bob\x80", b"bob")],
    "those that keep": [(b"(b*o&b)", b"bob"), (b"b.o-b_", b"b.o-b_")],
}


@pytest.mark.parametrize(("clients", "reader"), READERS, ids=[clients for clients, _ in READERS])
def test_a_row_of_the_table(clients: str, reader: object) -> None:
    """Each row reads as its clients do, and `readings` has what it reads."""
    cases = next(cases for begin, cases in READ.items() if clients.startswith(begin))
    assert callable(reader)
    for name, read in cases:
        assert reader(name) == read
        assert not read or read in readings(name)


def test_no_row_is_left_out() -> None:
    """Each case is one row's."""
    assert all(sum(clients.startswith(begin) for clients, _ in READERS) == 1 for begin in READ)
    assert len(READ) == len(READERS)


@pytest.mark.parametrize(
    "name", [b"bobbybobbyX", b"~bobbybobbyXY", b"bobbybobby" + b"x" * 600, b" " * 100 + b"bobbybobby"]
)
def test_cut_names(name: bytes) -> None:
    """A client that cuts a name may reach another: IRC servers after ten octets, any after a whole buffer."""
    assert b"bobbybobby" in readings(name)
    if len(name) > 100:
        assert b"bob" in readings(name)


def test_upper_and_lower_case() -> None:
    """A name is one name, however it is written."""
    assert spellings(b"boB") == [b"boB", b"bob", b"BOB", b"Bob"]
    assert {b"bob", b"BOB", b"Bob"} <= set(readings(b"~boB"))


@given(st.binary(min_size=1, max_size=700))
def test_any_name(name: bytes) -> None:
    """The name itself comes first, nothing comes twice, nothing is empty, and there is an end of it."""
    found = readings(name)
    assert found[0] == name
    assert len(found) == len(set(found)) < 5000
    assert b"" not in found


@pytest.mark.parametrize("piece", [b".", b"a!", b"bob ", b"~", b"\v"])
def test_a_name_as_long_as_a_file(piece: bytes) -> None:
    """What is far beyond what is sent is not read: a query about a user with such a reply costs no more than others."""
    found = readings(piece * (65_000 // len(piece)))
    assert max(map(len, found)) <= MOST + 2, "a client adds a sign, and another one behind it"
    assert found == readings((piece * MOST)[:MOST])


@given(st.text("abcxyz089", min_size=1, max_size=8))
def test_a_plain_name_costs_few_questions(name: str) -> None:
    """Letters and digits, eight of them at most, are read in no other way than in capitals."""
    assert len(readings(name.encode())) <= 4
