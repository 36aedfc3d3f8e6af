"""Is anything left of an older version where this one was installed over it?"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.installed import PYTHON, copy_sources, readable_folder
from helpers.machine import ROOT, skip

import identserver

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Modules that 1.0.0 had, and that are no part of the program any more.
GONE = (
    "errors", "known", "wishes", "workers", "explain", "access", "obstacles", "words", "grammar", "sock_diag", "codec",
)  # fmt: skip


def installed_modules(venv: Path) -> set[str]:
    """Return the modules of identd in a virtual environment, as paths below its site-packages."""
    (packages,) = venv.glob("lib/python3*/site-packages")
    ours = ("identd.py", "identserver/**/*.py", "lookup/**/*.py")
    return {str(path.relative_to(packages)) for pattern in ours for path in packages.glob(pattern)}


def pip_install(venv: Path, sources: Path) -> None:
    """Install from a folder with what the distribution has, as README's second line does."""
    command = [str(venv / "bin" / "pip"), "install", "-q", "--no-build-isolation", "--no-index", "--no-deps", "."]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def venv() -> Iterator[Path]:
    """An empty virtual environment that sees the distribution's packages."""
    if subprocess.run([PYTHON, "-c", "import ensurepip, wheel"], capture_output=True, check=False).returncode:
        skip("needs python3-venv and python3-wheel")
    with readable_folder() as folder:
        subprocess.run([PYTHON, "-m", "venv", "--system-site-packages", folder / "venv"], check=True, timeout=120)
        yield folder / "venv"


def test_an_upgrade_leaves_no_old_module(venv: Path) -> None:
    """After 1.0.0, whose rooms had other names, pip leaves only modules that this version has."""
    old = copy_sources(venv.parent / "old")
    for name in GONE:
        (old / "lookup" / f"{name}.py").write_text('"""A room of 1.0.0?"""\n')
    (old / "identserver" / "__init__.py").write_text('__version__ = "1.0.0"\n')
    pip_install(venv, old)
    assert {f"lookup/{name}.py" for name in GONE} <= installed_modules(venv)
    pip_install(venv, copy_sources(venv.parent / "new"))
    expected = {
        str(path.relative_to(ROOT))
        for pattern in ("identd.py", "identserver/**/*.py", "lookup/**/*.py") for path in ROOT.glob(pattern)
    }  # fmt: skip
    assert installed_modules(venv) == expected
    said = subprocess.run([venv / "bin" / "identd", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"identd {identserver.__version__}"
