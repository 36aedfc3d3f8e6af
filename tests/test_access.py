"""Is it known which mode keeps other users from a file, and is nobody told to open what is not theirs?"""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import Person
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, NOBODY, skip
from helpers.residents import access_list, set_access_list

from identserver.admin.access import fetch_as_nobody, kept_from_nobody, shell_word
from identserver.admin.permissions import CannotTell
from lookup.config import sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    #: What a list says: for the owner, users, the group, groups, the mask, others.
    List = tuple[int, dict[int, int], int, dict[int, int], int, int]

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
    """Whether the owner asks or nobody: what it says agrees with what nobody can really do."""
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


NOGROUP = pwd.getpwuid(NOBODY).pw_gid

#: Lists of a file.
LISTS: list[List] = [
    (6, {NOBODY: 0}, 4, {}, 4, 4),
    (6, {NOBODY: 4}, 0, {}, 4, 0),
    (6, {NOBODY: 4}, 0, {}, 1, 0),
    (6, {NOBODY: 4}, 0, {}, 1, 4),
    # The mask is empty: nobody looks at the list, and others count.
    (6, {NOBODY: 4}, 4, {}, 0, 0),
    (6, {NOBODY: 0}, 4, {}, 0, 4),
    (6, {1: 0}, 4, {}, 4, 4),
    (6, {1: 4}, 4, {}, 4, 0),
    (6, {}, 0, {NOGROUP: 0}, 4, 4),
    (6, {}, 0, {NOGROUP: 4}, 4, 0),
    (6, {}, 0, {NOGROUP: 4}, 1, 4),
    (6, {NOBODY: 4}, 0, {NOGROUP: 0}, 4, 0),
    (6, {NOBODY: 0}, 0, {NOGROUP: 4}, 4, 4),
    (6, {NOBODY: 7}, 7, {NOGROUP: 7}, 7, 7),
]


@pytest.mark.parametrize("group", [0, NOGROUP])
@pytest.mark.parametrize("entries", LISTS, ids=ascii)
def test_access_control_lists(file: Path, entries: List, group: int) -> None:
    """F8. What it says of a file with a list agrees with what nobody can really do, and so for a folder."""
    if ME != 0:
        skip("needs root")
    own, users, of_group, groups, mask, others = entries
    os.chown(file, 0, group)
    set_access_list(file, access_list(*entries))
    assert (kept_from_nobody(str(file), ME) == "") == nobody_reads(file)
    os.removexattr(file, "system.posix_acl_access")
    file.chmod(0o604)
    os.chown(file, 0, 0)
    # The same as permission to search.
    searched = {uid: permissions >> 2 for uid, permissions in users.items()}
    search = own | 1, searched, of_group >> 2, {gid: one >> 2 for gid, one in groups.items()}, mask >> 2, others >> 2
    os.chown(file.parent, 0, group)
    set_access_list(file.parent, access_list(*search))
    assert (kept_from_nobody(str(file), ME) == "") == nobody_reads(file)


@pytest.mark.parametrize(
    ("mode", "group", "entries", "command"),
    [
        (0o644, 0, (6, {NOBODY: 0}, 4, {}, 4, 4), "setfacl -m u:nobody:r {}"),
        (0o640, 0, (6, {1: 4}, 4, {}, 4, 0), "chmod o+r {}"),
        (0o604, NOGROUP, None, "chmod g+r {}"),
    ],
)
def test_the_command_fits_what_refuses(
    file: Path, mode: int, group: int, entries: List | None, command: str
) -> None:
    """Where a list or a group's bits decide, opening the file to others would not help."""
    if ME != 0:
        skip("needs root")
    os.chown(file, 0, group)
    file.chmod(mode)
    if entries is not None:
        set_access_list(file, access_list(*entries))
    assert not nobody_reads(file)
    assert kept_from_nobody(str(file), ME) == command.format(file)


def test_a_link_in_a_closed_folder(file: Path) -> None:
    """Not only what a link leads to has to be open, but every folder that the way there passes."""
    closed = file.parent.parent / "closed"
    closed.mkdir()
    (closed / "link").symlink_to("../deep/file")
    closed.chmod(0o755)
    assert kept_from_nobody(str(closed / "link"), ME) == ""
    closed.chmod(0o700)
    assert kept_from_nobody(str(closed / "link"), ME) == f"chmod o+x {closed}"
    assert ME != 0 or not nobody_reads(closed / "link")


@pytest.mark.parametrize(
    "line",
    [
        "nfs4 server:/home rw,vers=4.2",
        "cifs //server/home rw",
        "fuse.program program rw,user_id=0,group_id=0,allow_other",
    ],
)
def test_what_neither_mode_nor_list_decides(file: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Where a file server decides, or a program, it can't be told who may read a file."""
    mounted(monkeypatch, file, line)
    with pytest.raises(CannotTell, match="decides"):
        kept_from_nobody(str(file), ME)


def test_a_file_system_of_ones_own(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user mounts (sshfs) only they see, unless they say otherwise."""
    mounted(monkeypatch, file, "fuse.sshfs host: rw,user_id=0,group_id=0")
    assert "allow_other" in kept_from_nobody(str(file), ME)
    mounted(monkeypatch, file, "fuse.sshfs host: rw,user_id=0,group_id=0,allow_other,default_permissions")
    assert kept_from_nobody(str(file), ME) == ""


def mounted(monkeypatch: pytest.MonkeyPatch, file: Path, line: str) -> None:
    """Have a file lie on another file system, as far as /proc says."""
    mounts = file.parent.parent.parent / "mounts"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {file.parent} rw - {line}\n")
    monkeypatch.setattr(sandbox, "_MOUNTS", str(mounts))


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME", "jos\u00e9", "new\nline", "back\\slash", "x;y"])
def test_a_path_in_a_command(name: str) -> None:
    """What is to be pasted into a shell means the path, whatever is in it, and is printable ASCII."""
    word = shell_word(f"/tmp/{name}")
    assert word.isascii() and word.isprintable()
    bash = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert bash.stdout == f"/tmp/{name}".encode()


def test_a_home_that_is_not_there(file: Path) -> None:
    """F14. It is said that the home does not exist, in place of two files that do not."""
    home = str(file.parent / "none")
    assert fetch_as_nobody(ME, home).notes == [(False, f"the home {home} does not exist here")]
    assert [logged for logged, _ in fetch_as_nobody(ME, str(file.parent)).notes] == [False, False]


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
