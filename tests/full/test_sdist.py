"""Do the unit tests pass where there is no checkout: from an unpacked source distribution?"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

from helpers.built import copy, set_up
from helpers.installed import readable_folder

if TYPE_CHECKING:
    from pathlib import Path


def unpacked(folder: Path) -> Path:
    """Build the source distribution, and return the folder that it unpacks to."""
    copy(folder / "sources")
    set_up(folder / "sources", "sdist", "--dist-dir", str(folder))
    with tarfile.open(next(folder.glob("identd-*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked")
    (sources,) = (folder / "unpacked").iterdir()
    return sources


def test_the_unit_tests_pass() -> None:
    """They do, and what skips needs a checkout, or a program that is not there."""
    own = ("IDENTD_NO_SKIP", "IDENTD_TREES", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    with readable_folder() as folder:
        sources = unpacked(folder)
        tests = sorted(str(path) for path in (sources / "tests").glob("test_*.py"))
        assert tests
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
        command += ["--basetemp", str(folder / "tmp"), *tests]
        done = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert skipped
    assert [line for line in skipped if "needs a checkout" not in line and "needs the program" not in line] == []
