"""Is what a user's file says unknown, and never nothing, where it can't be read?"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lookup.config import user_file
from lookup.connection import IdentError

XDG, HOME = user_file.FILES

NUMBERS = [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EPERM, errno.ETIMEDOUT]


def says(name: str) -> str:
    """Return a file's content."""
    return f'global {{ reply "{name}" }}\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of ours with both files, which nobody has changed of late."""
    (tmp_path / ".config").mkdir()
    for name in user_file.FILES:
        (tmp_path / name).write_text(says(name))
        os.utime(tmp_path / name, (1, 1))
    return tmp_path


def reason(home: Path | str) -> str:
    """Return why it is not known what our file says."""
    with pytest.raises(IdentError, match="UNKNOWN-ERROR") as failed:
        user_file.read(os.getuid(), str(home))
    assert failed.value.uid == os.getuid()
    return failed.value.detail


def descriptors() -> list[str]:
    """Return what this process has open."""
    return os.listdir("/proc/self/fd") if sys.platform == "linux" else []


def test_a_home_with_too_long_a_name() -> None:
    """H2. ENAMETOOLONG is not absence: the kernel did not look there, so what their file says is unknown."""
    assert reason("/" + "x" * 5000).endswith(": File name too long")


def test_an_input_error(home: Path) -> None:
    """H2. What a file says that EIO keeps from us is unknown, and the next one does not count in its place."""
    if sys.platform != "linux":
        pytest.skip("needs /proc/self/mem")
    (home / XDG).unlink()
    (home / XDG).symlink_to("/proc/self/mem")  # address 0 of no process can be read
    assert reason(home) == f"{home / XDG}: Input/output error"


@pytest.mark.parametrize("name", user_file.FILES)
@pytest.mark.parametrize("call", ["stat", "open", "fstat", "read"])
@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_no_error_is_absence(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str, number: int) -> None:
    """H2. Whichever call fails, and however: what the file says is unknown, with the reason. No descriptor leaks."""
    if name == HOME:
        (home / XDG).unlink()
    real = getattr(os, call)

    def fail(target: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(target, int) or str(target) == str(home / name):
            raise OSError(number, os.strerror(number))
        return real(target, *arguments, **named)

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        assert reason(home) == f"{home / name}: {os.strerror(number)}"
    assert descriptors() == before
    assert user_file.read(os.getuid(), str(home)).path == str(home / name)


@pytest.mark.parametrize("call", ["stat", "open"])
@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EACCES], ids=errno.errorcode.get)
def test_what_is_an_answer(home: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """H2. That there is none, or that it is closed to us, is one: the next file counts, and the log has no word."""
    real = getattr(os, call)

    def fail(target: Any, *arguments: Any, **named: Any) -> Any:
        if str(target) == str(home / XDG):
            raise OSError(number, os.strerror(number))
        return real(target, *arguments, **named)

    monkeypatch.setattr(os, call, fail)
    found = user_file.read(os.getuid(), str(home))
    assert found.path == str(home / HOME)
    assert found.notes == [(False, f"{home / XDG}: {os.strerror(number)}")]
