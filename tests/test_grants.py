"""Can what an administrator is told to write be pasted, and does it grant what it should?"""

from __future__ import annotations

import os
import re

import pytest

from identserver.admin.grants import grant
from lookup.config.blocks import quoted
from lookup.config.decision import Decision
from lookup.config.grammar import parse_system, parse_user
from lookup.config.policy import decide
from lookup.config.user_file import UserFile
from lookup.config.words import Notice, Words

NAMES = [
    b"alice", b"CORP\\alice", "jos\u00e9".encode(), b"o'neil", b'say "hi"', b"back\\slash'", b"\\'", b"force", b"user",
    b"1001", b"a b", b"x#y", b"{x}", b"jos\xe9", b"a\\", b"alice$",
]  # fmt: skip

UID = 4711


def decided(text: bytes, login: bytes) -> Decision:
    """Return what is decided about a user who wants to be x, in a system file without anything to notice."""
    notices: list[Notice] = []
    system = parse_system(text, "f", lambda names: {name: UID if name == login else None for name in names}, notices)
    slips = [notice for notice in notices if "inherit nothing" not in notice.reason]
    assert slips == []
    blocks = parse_user(b"global { reply x }", "g")
    return decide(
        UID, login, ("::1", 5), ("::1", 7000), system, lambda: UserFile("g", blocks), lambda name: None,
        lambda host, port: "is not asked",
    )  # fmt: skip


@pytest.mark.parametrize("login", NAMES, ids=ascii)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"default { default { deny spoof } }\n", b""),
        (b"default { default { deny spoof } to ::1 { deny hide } }\n", b""),
    ],
)
def test_a_block_of_their_own(before: bytes, after: bytes, login: bytes) -> None:
    """F4. Whatever a login name is made of, the block that is offered parses, is about that user, and grants it."""
    refused = decided(before, login)
    assert refused.lacking == ["spoof"]
    system = parse_system(before, "f", lambda names: {})
    advice = grant(system, "f", UID, os.fsdecode(login), refused)
    assert advice.isascii() and advice.isprintable()
    block = re.search("`(.*)`", advice)
    assert block is not None
    assert decided(before + block[1].encode() + after, login).user == b"x"


@pytest.mark.parametrize(
    ("ranges", "where"),
    [
        (b"default { deny spoof }", "`allow spoof` in the block for user alice in f"),
        (b"fport 1 { deny spoof }", "`default { allow spoof }` at the beginning in the block for user alice in f"),
    ],
)
def test_in_the_block_that_there_is(ranges: bytes, where: str) -> None:
    """Where the user has a block, no second one is offered: a line for it, or a range where none is about this."""
    text = b"default { default { deny spoof } }\nuser alice { %s }"
    decision = decided(text % ranges, b"alice")
    system = parse_system(text % ranges, "f", lambda names: dict.fromkeys(names, UID))
    advice = grant(system, "f", UID, "alice", decision)
    assert advice.endswith(where)
    pasted = advice.split("`")[1].encode()
    granted = ranges.replace(b"}", pasted + b" }") if pasted.startswith(b"allow") else pasted + b" " + ranges
    assert decided(text % granted, b"alice").user == b"x"


def test_without_a_system_file() -> None:
    """Where there is none, a whole block is offered."""
    assert grant(None, "f", UID, "alice") == (
        'the administrator can grant it: `user "alice" { default { allow spoof } }` in f'
    )


@pytest.mark.parametrize("name", [*NAMES, bytes(range(256)), b"'\"\\'\"", b"\\\\''"], ids=ascii)
def test_quotes(name: bytes) -> None:
    """A name in quotes is read as that very name."""
    if b"\0" not in name:
        assert Words(quoted(name).encode(), "f").text(0) == name
    assert quoted(name).isascii() and quoted(name).isprintable()
