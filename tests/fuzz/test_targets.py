"""Do strangers, users and the kernel find no way to break what reads them, in a few seconds for each target?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.machine import ROOT

from fuzz import corpus, targets

#: Seconds of each target: less than a minute for all. Releases are preceded by hours (CONTRIBUTING.md).
SECONDS = 6

#: Seconds that nothing here takes unless something hangs.
HANGS = 300


def fuzz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run targets. :param folder: takes what is found."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS)


def needs_atheris() -> None:
    """Skip where there is no fuzzer, which has wheels for few interpreters."""
    pytest.importorskip("atheris", reason="needs atheris")


def test_each_target_has_something_to_begin_with() -> None:
    """Each kind of input has a file of its own, and some good and bad octets."""
    assert targets()
    for target in targets().values():
        assert len(list(corpus(target).iterdir())) >= 2, target.stem
    assert {path.name for path in corpus(next(iter(targets().values()))).parent.iterdir()} == set(targets())


def test_what_the_targets_begin_with(tmp_path: Path) -> None:
    """Nothing is found in it, and that takes no fuzzer."""
    said = fuzz(tmp_path, "--once")
    assert (said.returncode, said.stderr) == (0, "")


def test_every_target(tmp_path: Path) -> None:
    """Nothing is found in a minute, all together."""
    needs_atheris()
    said = fuzz(tmp_path, "--seconds", str(SECONDS), "--jobs", "2")
    assert said.returncode == 0, said.stdout + said.stderr
    assert all(f"{name}: " in said.stdout for name in targets())
    assert list(tmp_path.iterdir()) == []


def test_a_fault_is_found(tmp_path: Path) -> None:
    """A target that fails is told, with the octets in a file."""
    needs_atheris()
    target = tmp_path / "planted.py"
    target.write_text(
        "from lookup.config.words import tokens\n\n"
        "def check(data):\n"
        "    assert not any(one.startswith(b'#') for one in tokens(data, 0, len(data))), 'planted'\n"
    )
    said = fuzz(tmp_path, str(target), "--seconds", "120")
    assert said.returncode == 1, said.stdout + said.stderr
    assert "planted" in said.stdout
    (found,) = tmp_path.glob("found-planted-crash-*")
    assert b"#" in found.read_bytes()
