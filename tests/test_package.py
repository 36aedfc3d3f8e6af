"""Is a source distribution whole, and does every package of ours carry the same version and the same files?"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest
from helpers.machine import ROOT, run, skip

import identd

if TYPE_CHECKING:
    from pathlib import Path


def tracked() -> list[str]:
    """Return the files of the checkout."""
    try:
        return run("git", "-C", str(ROOT), "ls-files").stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        skip("needs a checkout and git")


def test_the_source_distribution_is_whole(tmp_path: Path) -> None:
    """It has every file of the repository, and nothing else but what setuptools writes."""
    names = tracked()
    sources = tmp_path / "sources"
    for name in names:
        if (ROOT / name).exists():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, sources / name)
    python = next((one for one in (sys.executable, "/usr/bin/python3") if has_setuptools(one)), "")
    if not python:
        skip("needs setuptools")
    command = [python, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=sources, capture_output=True, check=True, timeout=120)
    with tarfile.open(next(tmp_path.glob("identd-*.tar.gz"))) as archive:
        inside = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    assert {name for name in names if (ROOT / name).exists()} - inside == set()
    assert {name for name in inside - set(names) if not name.startswith("identd.egg-info/")} == {"PKG-INFO"}


def has_setuptools(python: str) -> bool:
    """Say whether an interpreter can build a source distribution."""
    try:
        return run(python, "-c", "import setuptools", check=False).returncode == 0
    except OSError:  # ENOENT: there is none
        return False


def test_the_wheel_has_what_administrators_need() -> None:
    """Manual pages, units and xinetd's file are installed; where man and --install-service look for them."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    installed = {file: folder for folder, files in settings["options.data_files"].items() for file in files.split()}
    expected = {}
    for path in tracked():
        folder, _, name = path.rpartition("/")
        if folder == "man":
            expected[path] = f"share/man/man{name[-1]}"
        elif folder in ("systemd", "xinetd.d"):
            expected[path] = f"share/identd/{folder}"
    assert installed == expected


def test_debian_has_the_same_version() -> None:
    """The package's changelog begins with the version of the code."""
    first = (ROOT / "debian" / "changelog").read_text().partition("\n")[0]
    found = re.fullmatch(r"identd \(([^)-]+)\) \w+; urgency=\w+", first)
    assert found is not None, first
    assert found[1] == identd.__version__


@pytest.mark.parametrize("name", ["identd@.service", "identd-wait.service"])
def test_the_units_start_what_the_lines_install(name: str) -> None:
    """The path that --install-service and the package put another in place of is there, once for all that counts."""
    text = (ROOT / "systemd" / name).read_text()
    assert re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE) == ["/opt/identd/bin/python3 -I /opt/identd/bin/identd"]
