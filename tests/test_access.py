"""Is it known which mode keeps other users from a file, and is nobody told to open what is not theirs?"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import Person
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, NOBODY, skip

from identserver.admin.access import kept_from_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Whose the files of these tests are.
ME = os.geteuid()


@pytest.fixture
def file() -> Iterator[Path]:
    """A file that everyone may read, two directories below one of ours."""
    with readable_folder() as folder:
        path = folder / "home" / "deep" / "file"
        path.parent.mkdir(parents=True)
        for one in (path.parent, path.parent.parent):
            one.chmod(0o755)
        path.write_text("")
        path.chmod(0o644)
        yield path


def nobody_reads(path: Path) -> bool:
    """Say whether nobody really can read a file."""
    return subprocess.run(["cat", str(path)], capture_output=True, check=False, **AS_NOBODY).returncode == 0


MODES = [(home, deep, file) for home in (0o755, 0o701, 0o750) for deep in (0o711, 0o700) for file in (0o604, 0o600)]


@pytest.mark.parametrize("modes", MODES, ids=[" ".join(map(oct, modes)) for modes in MODES])
def test_the_modes_of_a_path(file: Path, modes: tuple[int, int, int]) -> None:
    """What it says agrees with what nobody can really do, for who asks as the owner and as nobody."""
    if ME != 0:
        skip("needs root")
    paths = (file.parent.parent, file.parent, file)
    for path, mode in zip(reversed(paths), reversed(modes)):
        path.chmod(mode)
    said = kept_from_nobody(str(file), ME)
    assert (said == "") == nobody_reads(file)
    with Person(NOBODY) as person:
        person.tell("from identserver.admin.access import kept_from_nobody")
        assert person.tell("kept_from_nobody(path, uid)", path=str(file), uid=ME) == said


def test_what_is_said_helps(file: Path) -> None:
    """Done one after the other, the commands that it gives open the file, and no more than it takes."""
    file.chmod(0o600)
    file.parent.chmod(0o700)
    file.parent.parent.chmod(0o700)
    done: list[str] = []
    while command := kept_from_nobody(str(file), ME):
        assert len(done) < 3
        done.append(command)
        subprocess.run(command.split(), check=True)
    assert done == [f"chmod o+x {file.parent.parent}", f"chmod o+x {file.parent}", f"chmod o+r {file}"]
    assert [path.stat().st_mode & 0o7777 for path in (file.parent, file)] == [0o701, 0o604]


def test_no_file(file: Path) -> None:
    """What is not there is no matter of permission, not even in a directory that is closed."""
    file.unlink()
    file.parent.chmod(0o700)
    assert kept_from_nobody(str(file), ME) == ""
    assert kept_from_nobody(str(file.parent / "dir" / "file"), ME) == ""


def test_a_link(file: Path) -> None:
    """It is what a link leads to, and the way there, that must be open."""
    link = file.parent.parent.parent / "link"
    link.symlink_to(file)
    assert kept_from_nobody(str(link), ME) == ""
    file.parent.chmod(0o700)
    assert kept_from_nobody(str(link), ME) == f"chmod o+x {file.parent}"


def test_a_file_of_somebody_else(file: Path) -> None:
    """Nobody is told to open another's file or directory."""
    file.chmod(0o600)
    assert kept_from_nobody(str(file), ME + 1) == ""
    file.parent.chmod(0o700)
    assert kept_from_nobody(str(file), ME + 1) == f"{file.parent} is closed to other users"
