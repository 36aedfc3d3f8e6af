"""Who may have the key of the pseudonyms?"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from helpers.machine import NOBODY, only_root

from lookup.config import key
from lookup.config.blocks import System
from lookup.config.pseudonym import Form, Pseudonyms
from lookup.connection import IdentError, Unknown
from lookup.users import names


@pytest.fixture(autouse=True)
def _no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests run in no unit of systemd's."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key."""
    path = tmp_path / "identd.key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o400)
    return path


def refused(path: Path) -> str:
    """Return why a key is not taken."""
    found = key.read(str(path))
    assert isinstance(found, Unknown)
    assert str(path) in found.reason
    return found.reason


def test_a_key(path: Path) -> None:
    """A key that only its user can read is taken, and makes the names that it should."""
    found = key.read(str(path))
    assert isinstance(found, Pseudonyms)
    assert found.name(1, Form(), b"", 0) == Pseudonyms(bytes(range(32))).name(1, Form(), b"", 0)


@pytest.mark.parametrize("mode", [0o404, 0o440, 0o402, 0o420, 0o401, 0o644])
def test_others_must_not_read_it(path: Path, mode: int) -> None:
    """Not even its group."""
    path.chmod(mode)
    assert f"mode {mode:04o}" in refused(path)


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), bytes(4096)])
def test_what_is_no_key(path: Path, content: bytes) -> None:
    """Half of one, or another file, is none."""
    path.chmod(0o600)
    path.write_bytes(content)
    assert "32 octets" in refused(path)


def test_no_file(tmp_path: Path) -> None:
    """What helps is said."""
    assert "identd --new-key" in refused(tmp_path / "none")


def test_no_regular_file(tmp_path: Path) -> None:
    """A FIFO holds nobody up."""
    os.mkfifo(tmp_path / "fifo", 0o400)
    assert "not a regular file" in refused(tmp_path / "fifo")


def test_another_users(path: Path) -> None:
    """Whoever owns it can read it."""
    only_root()
    os.chown(path, 1, 1)
    assert "belongs to uid 1" in refused(path)


@pytest.mark.parametrize("uid", [NOBODY, 99])
def test_nobody(path: Path, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Other services run as nobody, who would have the key too."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="nobody", pw_dir="/"))
    assert "not for nobody" in refused(path)


def test_who_can_not_be_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name service that fails is no proof that we are not nobody."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(names, "login", lambda uid: fail(IdentError("the name service can't be asked", uid)))
    assert "can't be found out: the name service can't be asked" in refused(path)


def fail(error: Exception) -> NoReturn:
    """Raise an error."""
    raise error


def test_the_key_of_a_unit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd's LoadCredential= brings it to the unit's user; an access list's mask looks like the group's rights."""
    assert key.place(None) == "/etc/identd.key"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert key.place(None) == str(path)
    path.chmod(0o440)
    assert isinstance(key.read(None), Pseudonyms)
    path.chmod(0o444)
    refused(path)
    assert key.place("/else") == "/else"
    path.unlink()
    assert key.place(None) == "/etc/identd.key"


def test_a_key_that_can_not_be_read_again(path: Path) -> None:
    """What was read as root counts for as long as it can't be read anew; a new key counts at once."""
    system = System("f")
    old = Pseudonyms(bytes(32))
    assert key.unlock(system, str(path), old).pseudonyms is None  # type: ignore[union-attr]
    system.needs_key = True
    found = key.unlock(system, str(path), old)
    assert found is system and isinstance(system.pseudonyms, Pseudonyms) and system.pseudonyms is not old
    path.chmod(0o444)
    key.unlock(system, str(path), old)
    assert system.pseudonyms is old
    key.unlock(system, str(path))
    assert isinstance(system.pseudonyms, Unknown)


def test_what_is_kept(path: Path) -> None:
    """Who is root, and about to be nobody, takes the key along; where there is none, nothing is."""
    only_root()
    assert isinstance(key.keep(str(path)), Pseudonyms)
    assert key.keep(str(path.parent / "none")) is None
    path.chmod(0o444)
    assert key.keep(str(path)) is None
