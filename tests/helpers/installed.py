"""How does an administrator's identd get there?  README's install lines, run in a folder that every user may read."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.machine import ROOT, program, skip

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The interpreter of the installed identd. One that lives in somebody's home can't be run by other users.
PYTHON = "/usr/bin/python3"

#: README's lines, from PyPI and with the distribution's packages.
FROM_PYPI = "python3 -m venv /opt/identd && /opt/identd/bin/pip install ."
FROM_DISTRIBUTION = (
    "python3 -m venv --system-site-packages /opt/identd"
    " && /opt/identd/bin/pip install --no-build-isolation --no-index ."
)

#: What both install from, and no more of the tree.
SOURCES = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "identd.py", "identserver", "lookup",
           "man", "systemd", "xinetd.d", "docs")  # fmt: skip

#: Seconds. pip is slow where much else runs.
INSTALLING = 300.0


def replaced(text: str, old: str, new: str) -> str:
    """Replace every occurrence of a text, of which there must be one."""
    assert old in text, f"{old!r} is not in {text!r}"
    return text.replace(old, new)


@contextlib.contextmanager
def readable_folder() -> Iterator[Path]:
    """A folder of our own that every user may read, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="identd-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def copy_sources(target: Path) -> Path:
    """Copy what is installed, so that building leaves nothing in the repository."""
    target.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


def offline() -> list[str]:
    """Return the words before a command that keep it from every network, where we may."""
    return [program("unshare"), "--net"] if os.geteuid() == 0 else []


def install(line: str, folder: Path, *before: str) -> Path:
    """Run one of README's lines with ``folder``/identd for /opt/identd, and return the command that it installed.

    :param before: words to run the shell with.
    """
    if subprocess.run([PYTHON, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode:
        skip("needs python3-venv")
    line = replaced(line, "/opt/identd", str(folder / "identd"))
    line = re.sub("^python3 ", f"{PYTHON} ", line)
    sources = copy_sources(folder / "sources")
    # As an administrator's shell would: without what may point Python, in the tests' own, to other packages.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*before, "sh", "-c", f"umask 022 && {line}"],
        cwd=sources, env=environment, capture_output=True, text=True, timeout=INSTALLING, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "identd" / "bin" / "identd"


@contextlib.contextmanager
def from_distribution() -> Iterator[Path]:
    """The command identd, installed with the distribution's packages and without a network."""
    packages = "import psutil, pyroute2, wheel"
    if subprocess.run([PYTHON, "-c", packages], capture_output=True, check=False).returncode:
        skip("needs python3-psutil, python3-pyroute2 and python3-wheel")
    with readable_folder() as folder:
        yield install(FROM_DISTRIBUTION, folder, *offline())


def free_port() -> int:
    """Return a TCP port that nobody listens on, on any address."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind(("::", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Say whether anybody in this network namespace listens on a TCP port, without connecting to it."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float = 30.0) -> None:
    """Wait for a server. ``log``: what it said, for when it ends instead."""
    end = time.monotonic() + seconds
    while not listens(port):
        assert process.poll() is None, f"it ended: {log.read_text(errors='replace')}"
        assert time.monotonic() < end, f"it listens to nobody: {log.read_text(errors='replace')}"
        time.sleep(0.02)
