"""Does a pseudonym stand for one user, and tell nobody else who that is?"""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup.config.parser import LONGEST, SHORTEST
from lookup.config.pseudonym import TURNS, Form, Pseudonyms
from lookup.users.names import LAST_UID

KEY = bytes(range(32))
ASKER, OTHER = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
DAY, NEXT = "2026-11-26", "2026-11-27"

#: What release 2.0.0 called uid 1001: as `pseudonym`, and as `pseudonym per-asker daily 12`.
FIXED = [b"im8ed6bce", b"e0pop6z8y59v"]

UIDS = st.integers(0, LAST_UID)
FORMS = st.tuples(
    st.sampled_from(["", "per-asker"]), st.sampled_from(["", "daily"]), st.integers(SHORTEST, LONGEST).map(str)
).map(Form)
ASKERS = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@given(UIDS, FORMS, ASKERS, st.integers(0, TURNS - 1))
def test_who_has_the_key_turns_it_back(uid: int, form: Form, asker: bytes, turn: int) -> None:
    """Every uid's name, in every form and turn, is letters and digits, and stands for that uid alone."""
    made = Pseudonyms(KEY)
    name = made.name(uid, form, asker, turn, DAY)
    assert re.fullmatch(rb"[a-z][a-z0-9]{%d}" % (form.length - 1), name)
    assert made.opened(name, form, asker, DAY) == (uid, turn)


@given(st.binary(max_size=40), FORMS)
def test_what_is_no_pseudonym(name: bytes, form: Form) -> None:
    """Whatever is given is turned back to a user whose name it is, or to none."""
    made = Pseudonyms(KEY)
    opened = made.opened(name, form, ASKER, DAY)
    assert opened is None or made.name(opened[0], form, ASKER, opened[1], DAY) == name


@pytest.mark.parametrize("length", [0, 1, SHORTEST - 1, LONGEST + 1, 50, 300])
def test_what_is_too_short_or_too_long(length: int) -> None:
    """No statement makes a name of such a length: it is nobody's, and no error."""
    assert Pseudonyms(KEY).opened(b"a" * length, Form((str(length),)), ASKER, DAY) is None


def test_two_users_never_share_one() -> None:
    """Nor do neighbours' names have more in common than strangers': each sign of the name differs by the uid."""
    made = Pseudonyms(KEY)
    names = [made.name(uid, Form(), ASKER, turn) for uid in range(1000) for turn in range(2)]
    assert len(set(names)) == len(names)
    for at in range(9):
        assert len({name[at] for name in names}) == (26 if at == 0 else 36)


def test_what_is_mixed_in() -> None:
    """The same name for every asker and day; but one for each asker, or day, where the form says so."""
    made = Pseudonyms(KEY)

    def names(*words: str) -> list[bytes]:
        form = Form(words)
        return [made.name(1001, form, asker, 0, day) for asker, day in ((ASKER, DAY), (OTHER, DAY), (ASKER, NEXT))]

    same, another, later = names()
    assert same == another == later
    same, another, later = names("per-asker")
    assert same == later != another
    same, another, later = names("daily")
    assert same == another != later
    assert len({*names(), *names("per-asker"), *names("daily"), *names("per-asker", "daily")}) == 1 + 2 + 2 + 3


def test_the_day_is_the_days_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the time zone of the host is, a day begins at the same moment."""
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2026, 11, 26, 0, 0, 0, 3, 330, 0)))
    made = Pseudonyms(KEY)
    assert made.name(1001, Form(("daily",)), ASKER, 0) == made.name(1001, Form(("daily",)), ASKER, 0, DAY)


def test_without_the_key_nothing_is_told() -> None:
    """Another key makes other names, and turns these back to nobody or somebody else."""
    made, other = Pseudonyms(KEY), Pseudonyms(bytes(32))
    name = made.name(1001, Form(), ASKER, 0)
    assert other.name(1001, Form(), ASKER, 0) != name
    assert other.opened(name, Form(), ASKER, DAY) != (1001, 0)


def test_names_outlive_a_release() -> None:
    """A ban holds, and an old log can be read, whichever identd made the name: these are fixed."""
    made = Pseudonyms(KEY)
    assert [made.name(1001, Form(words), ASKER, 0, DAY) for words in ((), ("per-asker", "daily", "12"))] == FIXED
