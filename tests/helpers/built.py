"""How do tests build a distribution of this checkout, which stays as it is?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.machine import ROOT, program, run, skip


def tracked() -> list[str]:
    """Return the files of the checkout."""
    if not (ROOT / ".git").exists():
        skip("needs a checkout")
    return run(program("git"), "-C", str(ROOT), "ls-files").stdout.splitlines()


def copy(sources: Path) -> list[str]:
    """Copy the files of the checkout, and return their names."""
    names = [name for name in tracked() if (ROOT / name).exists()]
    for name in names:
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, sources / name)
    return names


def set_up(sources: Path, *command: str, **environment: str) -> None:
    """Have setuptools make something of a copy."""
    python = next((one for one in (sys.executable, "/usr/bin/python3") if can_build(one)), "")
    if not python:
        skip("needs setuptools and wheel")
    done = subprocess.run(
        [python, "setup.py", "-q", *command], cwd=sources, env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def can_build(python: str) -> bool:
    """Say whether an interpreter can build a source distribution and a wheel."""
    try:
        return run(python, "-c", "import setuptools, wheel", check=False).returncode == 0
    except OSError:  # ENOENT: there is none
        return False
