"""What is a booted systemd in the tests, and how does identd get there?

A container is booted from a copy of this host's own system (an overlay: nothing of the host is changed), without
any network but a loopback interface of its own. There, identd is installed as an administrator would. `container`,
`single` and `warm` are fixtures: name this module in `pytest_plugins`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from helpers.installed import FROM_DISTRIBUTION, PYTHON, copy_sources, readable_folder
from helpers.machine import ROOT, program, run, skip
from helpers.pairs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS = ROOT / "systemd"

#: What a container runs: no more than is needed, whatever is enabled on the host.
TARGET = "[Unit]\nRequires=systemd-journald.service\nAfter=systemd-journald.service\nAllowIsolate=yes\n"

#: Asks from inside about the asking process' own connection to identd, and prints the reply without the ports.
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 113)) as client:
    query = b"%d,113" % client.getsockname()[1]
    client.sendall(query + b"\\r\\n")
    reply = b"".join(iter(lambda: client.recv(9999), b""))
assert reply.startswith(query + b":") and reply.endswith(b"\\r\\n"), reply
print(reply[len(query):].decode().strip())
"""


class Container:
    """A booted systemd, and commands in it."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes], init: int) -> None:
        self.root = root
        self.process = process
        self._enter = [program("nsenter"), "--target", str(init), "--all", "--"]

    def run(self, command: str, check: bool = True, given: str = "") -> str:
        """Run a shell command inside as root, and return what it wrote."""
        done = subprocess.run(
            [*self._enter, "sh", "-c", command], input=given, capture_output=True, text=True, timeout=PATIENCE * 3,
            check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self._journal()}"
        return done.stdout.strip()

    def _journal(self) -> str:
        journal = [*self._enter, "journalctl", "--no-pager", "-n", "40"]
        return subprocess.run(journal, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout

    def ask(self, user: str = "root", host: str = "127.0.0.1") -> str:
        """Have a user connect to identd, and return what it says of that very connection, after the ports."""
        return self.run(f"setpriv --reuid={user} --clear-groups {PYTHON} - {host}", given=ASK)

    def state(self, *units: str) -> list[str]:
        return self.run(f"systemctl is-active {' '.join(units)}", check=False).split()

    def main_pid(self) -> str:
        """Return the pid, as the container counts, of the identd that runs now."""
        for _ in range(200):
            units = self.run("systemctl list-units --plain --no-legend --state=running 'identd*.service'").split()
            if units:
                pid = self.run(f"systemctl show -P MainPID '{units[0]}'")
                # Before it is identd, it is systemd's, and its sandbox is not there yet.
                if "/opt/identd/bin/identd" in self.run(f"cat /proc/{pid}/cmdline", check=False):
                    return pid
            time.sleep(0.05)
        raise AssertionError(self._journal())


@contextlib.contextmanager
def booted(folder: Path, system: Path = Path("/")) -> Iterator[Container]:
    """Boot a copy of a system, of this host's if no other is given. :param folder: empty, of another file system."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    root = folder / "root"
    layers = f"lowerdir={system},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    if run("mount", "-t", "overlay", "-o", layers, "none", str(root), check=False).returncode:
        skip("no overlay can be mounted here")
    try:
        (root / "etc/systemd/system/identd-test.target").write_text(TARGET)
        copy_sources(root / "identd")
        shutil.rmtree(root / "opt" / "identd", ignore_errors=True)
        (root / "etc" / "oidentd.conf").unlink(missing_ok=True)
        log = folder / "console"
        # Without a systemd outside there is nobody to make a scope for the container.
        keep = [] if Path("/run/systemd/system").exists() else ["--keep-unit"]
        command = [
            program("systemd-nspawn"), "--quiet", *keep, "--register=no", "--private-network",
            # Without it systemd leaves IPAddressDeny= out, and says nothing.
            "--system-call-filter=bpf",
            # No random name: systemd takes none with an underscore.
            f"--machine=identd-{os.getpid()}", f"--directory={root}", "--boot", "systemd.unit=identd-test.target",
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield Container(root, process, _init(process, log))
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            process.wait()
    finally:
        run("umount", str(root))


def _init(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until systemd is up, and return its pid."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            skip(f"no container can be booted here: {log.read_text(errors='replace')[-500:]}")
        for child in psutil.Process(process.pid).children():
            enter = ["nsenter", "--target", str(child.pid), "--all", "--"]
            probe = [*enter, "systemctl", "is-active", "identd-test.target"]
            if run(*probe, check=False).stdout.strip() == "active":
                return int(child.pid)
        time.sleep(0.1)
    raise AssertionError(f"systemd does not come up: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def container() -> Iterator[Container]:
    """A booted systemd with identd installed in /opt/identd."""
    if os.geteuid() != 0:
        skip("needs root")
    for name in ("systemd-nspawn", "nsenter", "setpriv", "useradd"):
        program(name)
    with readable_folder() as folder:
        # An overlay's upper layer may not lie in its lower one.
        if run("mount", "-t", "tmpfs", "-o", "mode=755", "none", str(folder), check=False).returncode:
            skip("no file system can be mounted here")
        try:
            with booted(folder) as container:
                container.run(f"cd /identd && umask 022 && {FROM_DISTRIBUTION.replace('python3 ', PYTHON + ' ', 1)}")
                container.run("useradd --create-home identd-anna")
                yield container
        finally:
            run("umount", str(folder))


def header(name: str) -> list[str]:
    """Return the install lines in a unit's first comment."""
    text = (UNITS / name).read_text()
    lines = re.findall(r"^#   (.*)$", text.partition("[Unit]")[0], re.MULTILINE)
    assert len(lines) == 2
    return lines


@pytest.fixture
def single(container: Container) -> Container:
    """The container, with identd.socket installed and started as its header says."""
    return started(container, "identd.socket")


@pytest.fixture
def warm(container: Container) -> Container:
    """The container, with identd-wait.socket installed and started as its header says."""
    return started(container, "identd-wait.socket")


def started(container: Container, name: str) -> Container:
    """Install a socket and its service, and start it, as the socket's header says."""
    for line in header(name):
        container.run(f"cd /identd && {line}")
    return container
