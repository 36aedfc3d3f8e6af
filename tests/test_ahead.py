"""Are an owner's files known to be absent without a child, only where that is true, and without ever waiting?"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
import tempfile
import threading
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
    """Return an empty home whose file system remembers what is not there; a tmpfs does not."""
    for place in tempfile.gettempdir(), "/var/tmp", "/root":
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=place) as folder:
            look_for_all(folder)
            if ahead.nothing_in(folder) is not None:
                yield Path(folder)
                return
    skip("no file system here remembers what is not there")


def look_for_all(home: str | Path) -> None:
    """Have the kernel look for every file, and remember what it finds."""
    for name in NAMES:
        os.path.exists(os.path.join(home, name))


def fetched(home: Path) -> user_file.Fetched:
    """Return what is found by looking."""
    return user_file.fetch(os.geteuid(), str(home), also=ALSO)


def test_no_file(home: Path) -> None:
    """What the kernel remembers is what looking finds, notes included."""
    remembered = ahead.nothing_in(str(home))
    assert remembered is not None
    assert remembered.dump() == fetched(home).dump()
    assert len(remembered.notes) == len(user_file.FILES)


@pytest.mark.parametrize("name", [*NAMES, ".config/identd/tcp"])
def test_a_file_or_a_folder_that_may_count(home: Path, name: str) -> None:
    """As soon as there is something to read, somebody has to read it."""
    home.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
    home.joinpath(name).touch()
    look_for_all(home)
    assert ahead.nothing_in(str(home)) is None


def test_an_empty_config_folder(home: Path) -> None:
    """A folder that many users have changes nothing."""
    home.joinpath(".config").mkdir()
    look_for_all(home)
    remembered = ahead.nothing_in(str(home))
    assert remembered is not None
    assert remembered.dump() == fetched(home).dump()


def test_what_is_not_remembered(home: Path) -> None:
    """Where nobody has looked yet, a child has to."""
    fresh = home / "fresh"
    fresh.mkdir()
    assert ahead.nothing_in(str(fresh)) is None


@pytest.mark.parametrize("folder", ["", ".config"])
def test_what_a_sandbox_may_have_hidden(home: Path, folder: str) -> None:
    """A folder of root's without permissions may lie over one that says "hide", and root walks through it."""
    only_root()
    home.joinpath(folder).mkdir(exist_ok=True)
    home.joinpath(folder).chmod(0)
    look_for_all(home)
    assert ahead.nothing_in(str(home)) is None
    home.joinpath(folder).chmod(0o700)
    assert ahead.nothing_in(str(home)) is not None


def test_no_home(home: Path) -> None:
    """A home that is missing, or no folder, is left to whoever looks: a sandbox may hide it."""
    os.path.exists(home / "missing/.config")
    assert ahead.nothing_in(str(home / "missing")) is None
    home.joinpath("file").touch()
    look_for_all(home / "file")
    assert ahead.nothing_in(str(home / "file")) is None


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
            nothing = ahead.nothing_in(str(home))
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
        asking = threading.Thread(target=lambda: found.append(ahead.nothing_in(str(home))), daemon=True)
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
    assert ahead.nothing_in(str(home)) is None
