"""What is said of a file that the serving user can't read?  The first place that is closed, and what its mode lacks."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, NOBODY, ROOT, only_if_others_can_read_it, only_root, skip

from identserver import closed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOK = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from identserver import closed
print(closed.first_closed([("it", sys.argv[1])]), end="")
"""


@pytest.fixture
def file() -> Iterator[Path]:
    """A file that everybody can read, in a folder within a folder."""
    only_root()
    only_if_others_can_read_it()
    with readable_folder() as folder:
        (folder / "one" / "two").mkdir(parents=True)
        path = folder / "one" / "two" / "file"
        path.touch()
        yield path


def found(path: Path) -> str:
    """Return what nobody finds."""
    command = [sys.executable, "-c", LOOK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, **AS_NOBODY)
    return str(done.stdout)


def test_what_is_open(file: Path) -> None:
    """An open file is nothing to tell, nor one that is not there, or within an archive."""
    assert found(file) == found(file.with_name("none")) == found(file / "within") == ""


@pytest.mark.parametrize(
    ("name", "mode", "lacks"),
    [("one", 0o700, "o+x"), ("one/two", 0o711, "o+r"), ("one/two", 0o700, "o+rx"), ("one/two/file", 0o640, "o+r")],
)
def test_the_first_place_that_is_closed(file: Path, name: str, mode: int, lacks: str) -> None:
    """A folder on the way has to be passed, the last one to be listed, the file to be read."""
    place = file.parents[2] / name
    place.chmod(mode)
    if place != file:
        file.chmod(0o600)  # which is not the first
    right = f"{place} has mode {mode:04o}, which lacks {lacks}: try `chmod {lacks} {place}`, or install elsewhere"
    assert found(file) == f"uid {NOBODY} can't read it: {right}"


def test_a_link_into_a_closed_folder(file: Path) -> None:
    """The folder of the target is named: an interpreter in a virtual environment is a link into another place."""
    file.parent.chmod(0o700)
    link = file.parents[2] / "link"
    link.symlink_to(file)
    assert f"{file.parent} has mode 0700, which lacks o+" in found(link)
    round_and_round = file.parents[2] / "round"
    round_and_round.symlink_to(round_and_round)
    assert found(round_and_round) == ""


def test_whose_bits_count(file: Path) -> None:
    """The owner's or the group's, if it is us; an access control list has no bits."""
    os.chown(file, NOBODY, NOBODY)
    file.chmod(0o044)
    assert "lacks u+r" in found(file)
    os.chown(file, 0, NOBODY)
    file.chmod(0o604)
    assert "lacks g+r" in found(file)
    os.chown(file, 0, 0)
    file.chmod(0o644)
    # acl(5): the owner, one user, the group, the mask, others.
    entries = ((1, 6, -1), (2, 0, NOBODY), (4, 4, -1), (16, 4, -1), (32, 4, -1))
    packed = b"".join(struct.pack("<HHI", tag, mode, whose & 0xFFFFFFFF) for tag, mode, whose in entries)
    try:
        os.setxattr(file, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    except OSError:
        skip("needs a file system with access control lists")
    assert "closed all the same, by an access control list" in found(file)


def test_what_is_needed_is_there() -> None:
    """Each path is one that exists, with something of identd, of Python and of both packages."""
    needed = closed.needed()
    assert {whose for whose, _ in needed} == {"identd", "Python", "pyroute2", "psutil"}
    assert all(os.path.exists(path) for _, path in needed)
    assert closed.first_closed(needed) == ""
    assert closed.why(ImportError("No module named 'x'")) == "No module named 'x'"
