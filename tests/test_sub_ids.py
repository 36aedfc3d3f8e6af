"""Whose are the uids of a container?"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import pytest

from lookup.connection import Unknown
from lookup.users import sub_ids as room
from lookup.users.sub_ids import SubIds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def subuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for /etc/subuid."""
    path = tmp_path / "subuid"
    monkeypatch.setattr(room, "SUBUID", str(path))
    return path


def test_ranges(subuid: Path) -> None:
    """The first and the last uid of a range are its user's, by name or by number; others are their own."""
    subuid.write_text("root:100000:65536\n1001:165536:65536\n\n# nonsense\nx:y:z\nroot:5:\nroot:500000:1\n")
    found = SubIds()
    assert found.have_changed()
    found.read()
    assert not found.have_changed()
    for uid, holder in {
        0: 0, 99999: 99999, 100000: 0, 165535: 0, 165536: 1001, 231071: 1001, 231072: 231072, 500000: 0, 500001: 500001,
        -1: -1, -2: -2,
    }.items():  # fmt: skip
        assert found.holder(uid) == holder


def test_a_name_that_nobody_has(subuid: Path) -> None:
    """It is one holder all the same, and no user."""
    subuid.write_text("identd-nobody:100000:10\nidentd-nobody:200000:10\nidentd-other:300000:10\n")
    found = SubIds()
    found.read()
    assert found.holder(100000) == found.holder(200009) < 0
    assert found.holder(300000) not in (found.holder(100000), 300000)


def test_no_file(subuid: Path) -> None:
    """Then everybody is their own."""
    found = SubIds()
    assert not found.have_changed()
    found.read()
    assert found.holder(100000) == 100000


def test_the_owner_of_a_range(subuid: Path) -> None:
    """Read anew each time: one user's uid, however many of their ranges fit, or nobody's; else it is not known."""
    assert room.owner_of(100000) is None
    subuid.write_text("root:100000:10\n0:100005:10\n1001:200000:10\n1002:200009:2\nidentd-nobody:300000:1\nx:y:z\n")
    assert [room.owner_of(uid) for uid in (99999, 100000, 100009, 100014)] == [None, 0, 0, 0]
    assert [room.owner_of(uid) for uid in (200008, 200010)] == [1001, 1002]
    for uid in (200009, 300000):
        found = room.owner_of(uid)
        assert isinstance(found, Unknown)
        assert f"uid {uid} is in ranges of " in found.reason


def test_a_file_that_fails(subuid: Path) -> None:
    """Whose a uid is is not known then."""
    subuid.mkdir()
    assert isinstance(room.owner_of(1), Unknown)


def test_the_file_is_read_while_others_look(subuid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks meanwhile finds what was known before, or what is known now."""
    subuid.write_text("root:100000:10\n1001:200000:10\n")
    found = SubIds()
    found.read()

    def read_meanwhile(firsts: list[int], uid: int) -> int:
        at = bisect_right(firsts, uid)
        subuid.write_text("")
        found.read()
        return at

    monkeypatch.setattr(room, "bisect_right", read_meanwhile)
    assert found.holder(200000) == 1001
    assert found.holder(200000) == 200000
