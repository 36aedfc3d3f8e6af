"""Is a file told from others without its file system being asked?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.fuse import silence
from helpers.machine import NOBODY

from lookup.kernel.unsynced import identity


def test_the_same_file(tmp_path: Path) -> None:
    """By whichever path, from whichever folder; another file is another."""
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "one").touch()
        (tmp_path / "two").symlink_to("one")
        assert identity(str(tmp_path / "one")) == identity("two", folder)
        assert identity("one", folder) != identity(str(tmp_path))
        status = (tmp_path / "one").stat()
        assert identity("one", folder) == (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
        with pytest.raises(FileNotFoundError):
            identity("three", folder)
    finally:
        os.close(folder)


def test_a_file_system_that_never_answers(tmp_path: Path) -> None:
    """It is not asked."""
    with silence(tmp_path, NOBODY, NOBODY) as mounted:
        assert identity(str(tmp_path)) != identity("/")
        assert mounted.requests == 0
