"""Which blocks may count, where it is not known whether each of them matches?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lookup.config.blocks import HostName, pack_end
from lookup.config.grammar import parse_system, parse_user
from lookup.config.selection import Selection
from lookup.connection import Unknown

if TYPE_CHECKING:
    from lookup.config.blocks import Uids

ENDS = pack_end(("127.0.0.1", 40000)), pack_end(("127.0.0.2", 1240))

#: Who cannot be asked for.
LOST = Unknown("the name service is down")


def resolve(name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
    """Know one name's addresses, one name that was not asked for yet, and no other."""
    assert octets == 4
    if name == b"here":
        return (bytes((127, 0, 0, 9)), bytes((127, 0, 0, 2)))
    return Unknown(f"{name!r}", unasked=name == b"later")


def of_the_user(file: str) -> tuple[list[int | None], Selection]:
    """Return the columns of the blocks that may count (None: none does)."""
    selection = Selection(ENDS, lambda *_: None)
    blocks = selection.blocks(parse_user(file.encode(), "f"), resolve)
    return [block and block.statement.arguments[0][0] - ord("a") for block in blocks], selection  # type: ignore


@pytest.mark.parametrize(
    ("file", "candidates"),
    [
        ("global{reply a} to 127.0.0.2{reply b}", [1]),
        ("global{reply a} to here{reply b}", [1]),
        ("global{reply a} to gone{reply b}", [1, 0]),
        ("to gone{reply a}", [0, None]),
        ("to gone{reply a} global{reply b}", [1]),
        ("global{reply a} to gone{reply b} from gone{reply c}", [2, 1, 0]),
        ("global{reply a} to gone fport 80{reply b}", [0]),
        ("global{reply a} to gone from 10.0.0.1{reply b}", [0]),
        ("global{reply a} to here from gone{reply b}", [1, 0]),
        ("", [None]),
    ],
)  # fmt: skip
def test_candidates(file: str, candidates: list[int | None]) -> None:
    """The last block that matches for sure, and those after it that may match."""
    found, selection = of_the_user(file)
    assert found == candidates
    assert (selection.doubt is None) == (len(candidates) == 1)


def test_what_was_not_asked_yet_comes_first() -> None:
    """Then nothing before it is looked at, as somebody has to ask first."""
    found, selection = of_the_user("to gone{reply a} to later{reply b} to gone{reply c}")
    assert found == [2, 1, None]
    assert selection.doubt is not None and selection.doubt.unasked


def rules(text: str, uid: int) -> list[int | None] | Unknown:
    """Return the lines of the ranges that may count for a uid; 1 is alice, 2 is bob, carol can't be asked for."""
    known: Uids = {b"alice": 1, b"bob": 2, b"bobby": 2, b"carol": LOST}
    system = parse_system(text.encode(), "f", lambda names: {name: known.get(name) for name in names})
    found = Selection(ENDS, lambda *_: None).rules(system, uid, resolve)
    return found if isinstance(found, Unknown) else [None if rule is None else rule.line for rule in found]


def test_rules() -> None:
    """A user's own block, else one that may be theirs, else the default block's range, else none."""
    system = "default{\ndefault{deny hide}\nto gone{force hide}}\nuser alice{\ndefault{allow hide}}"
    assert rules(system, 1) == [5]
    assert rules(system, 2) == [3, 2]
    assert rules("user alice{\nto gone{force hide}}", 1) == [2, None]
    assert rules("user alice{\nto 10.0.0.1{force hide}}", 1) == [None]


def test_a_block_that_may_be_anybodys() -> None:
    """Its user could not be asked for: it may be theirs who have no block of their own."""
    system = "default{\ndefault{deny hide}}\nuser carol{\ndefault{force hide}}\nuser alice{\ndefault{allow hide}}"
    assert rules(system, 1) == [6]
    assert rules(system, 2) == [4, 2]


def test_two_blocks_of_one_user() -> None:
    """Which of them counts is not known; others are not concerned. A number is a mistake in the file."""
    system = "default{\ndefault{deny hide}}\nuser bob{\ndefault{force hide}}\nuser bobby{\ndefault{allow hide}}"
    both = rules(system, 2)
    assert isinstance(both, Unknown) and "f:3 and f:5" in both.reason
    assert rules(system, 1) == [2]
