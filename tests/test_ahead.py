"""Are an owner's files known to be absent without a child, only where that is true, and without ever waiting?"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.fuse import silence
from helpers.hosts import libc
from helpers.machine import only_root, skip

import lookup.kernel
from identserver import ahead, reader
from lookup.config import user_file
from lookup.connection import Unknown
from lookup.kernel import unsynced
from lookup.owner import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A connection, for which other files may count.
ALSO = 1, 2, "192.0.2.8", False

#: linux/prctl.h and linux/securebits.h.
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 1 << 2

#: The names under which files of a user's count.
NAMES = [*user_file.FILES, user_file.REGISTERED_IN]


@pytest.fixture
def home() -> Iterator[Path]:
    """Return an empty home on a file system of the kernel's own that remembers what is not there; a tmpfs does not."""
    for place in tempfile.gettempdir(), "/var/tmp", "/root":
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=place) as folder:
            empty, full = Path(folder, "empty"), Path(folder, "full")
            empty.mkdir()
            full.mkdir()
            os.chmod(folder, 0o755)
            look_for_all(empty)
            write(full / user_file.FILES[0], "")
            look_for_all(full)
            if at_once(empty) and at_once(full):
                yield empty
                return
    skip("there is no ext4, xfs or the like here")


def at_once(home: str | Path, uid: int | None = None) -> user_file.Fetched | None:
    """Return what is known without waiting. :param uid: of the owner; None: ours."""
    return ahead.at_once(os.geteuid() if uid is None else uid, str(home))


def look_for_all(home: str | Path) -> None:
    """Have the kernel look for every file, and remember what it finds."""
    for name in NAMES:
        os.path.exists(os.path.join(home, name))


def write(path: Path, text: str) -> None:
    """Write a file that nobody has changed for a while, and have it remembered."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))
    path.read_bytes()


def fetched(home: Path) -> user_file.Fetched:
    """Return what is found by looking."""
    return user_file.fetch(os.geteuid(), str(home), also=ALSO)


def test_no_file(home: Path) -> None:
    """What the kernel remembers is what looking finds, notes included."""
    remembered = at_once(home)
    assert remembered is not None
    assert remembered.dump() == fetched(home).dump()
    assert len(remembered.notes) == len(user_file.FILES)


@pytest.mark.parametrize("text", ['global { reply "x" }\n', "# nothing\n", "", "what is this"])
@pytest.mark.parametrize("name", user_file.FILES)
def test_a_file(home: Path, name: str, text: str) -> None:
    """What it says is the same as when a child reads it, whatever that is."""
    write(home / name, text)
    look_for_all(home)
    known = at_once(home)
    assert known is not None
    one, other = user_file.parse(known), user_file.parse(fetched(home))
    assert one.path == str(home / name)
    assert (one.path, one.report(), str(one.error)) == (other.path, other.report(), str(other.error))
    assert [str(block.statement) for block in one.blocks] == [str(block.statement) for block in other.blocks]


def test_the_first_file_counts(home: Path) -> None:
    """The one in .config, and then the other one is not even looked at."""
    write(home / user_file.FILES[0], 'global { reply "first" }')
    home.joinpath(user_file.FILES[1]).symlink_to("/dev/shm/nowhere")
    look_for_all(home)
    known = at_once(home)
    assert known is not None
    assert known.dump() == fetched(home).dump()


@pytest.mark.parametrize("what", ["new", "a FIFO", "a folder", "another's", "large", "on a tmpfs", "leased", "on disk"])
def test_a_file_that_a_child_has_to_read(home: Path, what: str) -> None:
    """One that is being written, that is not to be read, or that can't be read without waiting."""
    file = home / ".oidentd.conf"
    write(file, 'global { reply "x" }' if what != "large" else "#" * (user_file.MAX_SIZE + 1))
    with contextlib.ExitStack() as stack:
        if what == "new":
            os.utime(file)
        elif what in ("a FIFO", "a folder"):
            file.unlink()
            os.mkfifo(file) if what == "a FIFO" else file.mkdir()
        elif what == "another's":
            only_root()
            os.chown(file, 1, 1)
        elif what == "on a tmpfs":
            file.unlink()
            elsewhere = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))) / "file"
            elsewhere.touch()
            file.symlink_to(elsewhere)
            os.utime(file, (1, 1))
        elif what == "leased":
            # Whoever opens it waits until the holder has given the lease back, for 45 s (fcntl(2), F_SETLEASE).
            signal.signal(signal.SIGIO, signal.SIG_IGN)
            stack.callback(signal.signal, signal.SIGIO, signal.SIG_DFL)
            holder = os.open(file, os.O_RDWR)
            stack.callback(os.close, holder)
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        elif what == "on disk":
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        look_for_all(home)
        began = time.monotonic()
        assert at_once(home) is None
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("missing", ["_MOUNTS", "_DESCRIPTORS"])
def test_a_root_folder_without_proc(home: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """That /proc is not there says nothing about the file."""
    write(home / ".oidentd.conf", "global { hide }")
    look_for_all(home)
    assert at_once(home) is not None
    monkeypatch.setattr(unsynced, missing, "/nowhere")
    assert at_once(home) is None


def test_what_a_program_has_registered(home: Path) -> None:
    """It counts before the user's files, and a child looks at it."""
    write(home / ".oidentd.conf", 'global { reply "x" }')
    look_for_all(home)
    assert at_once(home) is not None
    home.joinpath(user_file.REGISTERED_IN).mkdir(parents=True)
    look_for_all(home)
    assert at_once(home) is None


def test_an_empty_config_folder(home: Path) -> None:
    """A folder that many users have changes nothing."""
    home.joinpath(".config").mkdir()
    look_for_all(home)
    remembered = at_once(home)
    assert remembered is not None
    assert remembered.dump() == fetched(home).dump()


def test_what_is_not_remembered(home: Path) -> None:
    """Where nobody has looked yet, a child has to."""
    fresh = home / "fresh"
    fresh.mkdir()
    assert at_once(fresh) is None


@pytest.mark.parametrize("folder", ["", ".config"])
def test_what_a_sandbox_may_have_hidden(home: Path, folder: str) -> None:
    """A folder of root's without permissions may lie over one that says "hide", and root walks through it."""
    only_root()
    home.joinpath(folder).mkdir(exist_ok=True)
    home.joinpath(folder).chmod(0)
    look_for_all(home)
    assert at_once(home) is None
    home.joinpath(folder).chmod(0o700)
    assert at_once(home) is not None


def test_no_home(home: Path) -> None:
    """A home that is missing, or no folder, is left to whoever looks: a sandbox may hide it."""
    os.path.exists(home / "missing/.config")
    assert at_once(home / "missing") is None
    home.joinpath("file").touch()
    look_for_all(home / "file")
    assert at_once(home / "file") is None


def seen_by_nobody(home: Path, keep_capabilities: bool = False) -> str:
    """Return the notes of what nobody's process finds known of a home; "": nothing is known.

    :param keep_capabilities: whether it may read everything all the same.
    """
    nobody = pwd.getpwnam("nobody").pw_uid
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if keep_capabilities:
                libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
            os.setresuid(nobody, nobody, nobody)
            nothing = at_once(home)
            if nothing is not None:
                same = nothing.dump() == user_file.fetch(0, str(home), also=ALSO).dump()
                os.write(theirs, repr([same, *nothing.notes]).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with open(ours, encoding="ascii") as told:
        return told.read()


def test_a_closed_home(home: Path) -> None:
    """A home that is closed to us says nothing, as when somebody looks. So are most homes of Debian's users."""
    only_root()
    home.joinpath(".oidentd.conf").write_text("global { hide }")
    home.chmod(0o700)
    notes = [(False, f"{home / name}: Permission denied") for name in user_file.FILES]
    assert seen_by_nobody(home) == repr([True, *notes])


def test_a_closed_home_and_a_process_that_may_read_all(home: Path) -> None:
    """With CAP_DAC_READ_SEARCH no home is closed, so the mode does not say enough."""
    only_root()
    look_for_all(home)
    home.chmod(0o700)
    assert "Permission denied" in seen_by_nobody(home)
    assert seen_by_nobody(home, keep_capabilities=True) == ""


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o070])
def test_a_home_that_may_be_closed(home: Path, mode: int) -> None:
    """An access control list may open a home to us where its mode gives something to the group; then a child looks."""
    only_root()
    home.joinpath(".oidentd.conf").write_text("global { hide }")
    home.chmod(mode)
    assert seen_by_nobody(home) == ""


def test_a_file_system_that_never_answers(home: Path) -> None:
    """It is not even asked."""
    found = []
    with silence(home, os.geteuid(), os.getegid()) as silent:
        asking = threading.Thread(target=lambda: found.append(at_once(home)), daemon=True)
        asking.start()
        asking.join(10)
        assert found == [None]
        assert silent.requests == 0


def facts_of(home: str) -> Facts:
    """Return what is known of an owner with a home."""
    facts = Facts(os.geteuid())
    facts._login, facts._home = ("UNIX", "somebody"), home
    return facts


def test_who_finds_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's memory where it has an answer, else a child; nobody for an owner without a home or a login name."""
    ends = ("192.0.2.7", 1), ("192.0.2.8", 2)
    found = ahead.begin(facts_of(str(home)), *ends)
    assert isinstance(found, ahead.Known)
    assert found.about == (os.geteuid(), str(home), ALSO)
    assert found.result().dump() == fetched(home).dump()
    found.close()
    home.joinpath(".oidentd.conf").write_text("global { hide }")
    child = ahead.begin(facts_of(str(home)), *ends)
    assert isinstance(child, reader.Reading)
    assert child.result().dump() == fetched(home).dump()
    assert ahead.begin(facts_of(""), *ends) is None
    unknown = facts_of(str(home))
    monkeypatch.setattr(unknown, "login", lambda: Unknown("for a test"))
    assert ahead.begin(unknown, *ends) is None


@pytest.mark.parametrize("missing", ["platform", "_ctypes"])
def test_a_system_without_such_calls(home: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Then a child looks, as everywhere else."""
    if missing == "platform":
        monkeypatch.setattr(sys, "platform", "another")
    else:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delitem(sys.modules, "lookup.kernel.unsynced")
        monkeypatch.delattr(lookup.kernel, "unsynced")
    assert at_once(home) is None
