"""Do the unit tests pass under the oldest and the newest of what is supported: interpreters, pyroute2, psutil?"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.machine import ROOT, skip

#: pyroute2 of Debian 12, and the first psutil whose wheels fit every Python 3.
OLDEST = ("pyroute2==0.7.2", "psutil==5.9.4")
NEWEST = ("pyroute2", "psutil")

#: Releases of pyroute2 with changes of their own.
RELEASES = [(f"pyroute2=={version}", "psutil") for version in ("0.7.2", "0.7.12", "0.8.1", "0.9.2", "0.9.5")]

#: Needs neither root nor other programs, and runs in seconds.
UNIT_TESTS = [
    "test_protocol.py", "test_connection.py", "test_users_names.py", "test_users_database.py",
    "test_words.py", "test_grammar.py", "test_policy.py", "test_codec.py", "test_sock_diag.py", "test_devices.py",
    "test_dumps.py", "test_conntrack.py", "test_processes.py", "test_workers.py",
]  # fmt: skip


#: Only the oldest pair under the oldest interpreter, and the newest under the newest: .ci/run has no time for more.
ONLY_ENDS = os.environ.get("IDENTD_INTERPRETERS") == "ends"

#: Everything is tried by .ci/full alone, which has trees of Debian as well.
EVERYTHING = bool(os.environ.get("IDENTD_TREES"))

#: Runs under way at a time. More would wait for the processors.
AT_ONCE = 3


class Run(NamedTuple):
    """How one combination's run ended."""

    not_installed: str | None
    status: int = 0
    output: str = ""


def interpreters() -> dict[tuple[int, int], str]:
    """Return one interpreter per supported minor version that this machine has, by version."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(":")]
    folders += [Path("/usr/bin"), Path("/usr/local/bin"), *Path.home().glob(".pyenv/versions/3.*/bin")]
    found: dict[tuple[int, int], str] = {}
    for folder in folders:
        for path in folder.glob("python3.*") if os.access(folder, os.R_OK | os.X_OK) else ():
            match = re.fullmatch(r"python3\.([0-9]+)", path.name)
            if match and int(match[1]) >= 9 and (3, int(match[1])) not in found:
                code = "import sys, venv, ensurepip; assert sys.version_info.releaselevel == 'final'"
                if subprocess.run([path, "-c", code], capture_output=True).returncode == 0:
                    found[3, int(match[1])] = str(path)
    return dict(sorted(found.items()))


def combinations() -> list[tuple[str, tuple[str, str]]]:
    """Return the newest pair under every interpreter, or the newest one, and the oldest pair under the oldest.

    In .ci/full, also each of `RELEASES` under the oldest and the newest interpreter.
    """
    found = list(interpreters().values())
    if not found:
        return []
    pairs = [(found[0], OLDEST), *((path, NEWEST) for path in found[-1 if ONLY_ENDS else 0 :])]
    if EVERYTHING:
        pairs += [(path, pair) for path in (found[0], found[-1]) for pair in RELEASES]
    return list(dict.fromkeys(pairs))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, tuple[str, str]], Run]:
    """Every combination's run. Some are under way at once, because each waits half of its time."""
    keys = combinations()
    folders = [tmp_path_factory.mktemp("venv") for _ in keys]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pending = [pool.submit(run, *key, folder) for key, folder in zip(keys, folders)]
        return {key: each.result() for key, each in zip(keys, pending)}


def run(interpreter: str, packages: tuple[str, str], folder: Path) -> Run:
    """Run the unit tests under an interpreter with a pair of packages, in a virtual environment of their own."""
    subprocess.run([interpreter, "-m", "venv", folder], check=True, timeout=300)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", "psutil"]
    install += ["pytest", "hypothesis", *packages]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if installed.returncode:
        return Run(f"pip could not install {packages}: {installed.stderr}")
    tests = [ROOT / "tests" / name for name in UNIT_TESTS]
    # Some tests need what only the whole suite has; there they run.
    own = ("IDENTD_NO_SKIP", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    return Run(None, result.returncode, result.stdout[-4000:] + result.stderr[-2000:])


@pytest.mark.parametrize(("interpreter", "packages"), combinations(), ids=lambda value: str(value))
def test_unit_tests_pass(
    interpreter: str, packages: tuple[str, str], runs: dict[tuple[str, tuple[str, str]], Run]
) -> None:
    """The unit tests pass under this interpreter with this pair of packages."""
    done = runs[interpreter, packages]
    if done.not_installed:
        skip(done.not_installed)
    assert done.status == 0, done.output
