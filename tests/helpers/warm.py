"""How do tests start the warm process?  On a listening socket, as inetd's ``wait`` does, and in the foreground."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from conftest import IDENTD, ROOT, skip
from hosts import until
from single_shot import COMMAND, PATIENCE, ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: What becomes of root when nothing else is said.
NOBODY = 65534

#: What the process needs after it has given root up.
_NEEDED = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import asyncio, psutil, pyroute2, identd, lookup"


class Warm(NamedTuple):
    """A warm identd, and where it listens."""

    process: subprocess.Popen[bytes]
    address: Any

    def call(self, timeout: float = PATIENCE) -> socket.socket:
        """Connect to it."""
        client = socket.socket(socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET)
        client.settimeout(timeout)
        client.connect(self.address)
        return client

    def ask(self, query: bytes) -> bytes:
        """Send, and return all that comes until identd closes. Raises ConnectionResetError if it resets instead."""
        with self.call() as client:
            client.sendall(query)
            return everything(client)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal that ends it, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def descriptors(self) -> int:
        """Return how many it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """Return how many it has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))


def everything(client: socket.socket) -> bytes:
    """Return all that comes until the far end closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))


@contextlib.contextmanager
def warming(
    *options: str, host: str = "127.0.0.1", command: Sequence[str] = COMMAND, **popen: Any
) -> Iterator[Warm]:
    """Start identd with a listening socket for standard input, and wait until it serves."""
    needs_nobody_to_import()
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        popen.setdefault("stdout", subprocess.DEVNULL)
        popen.setdefault("stderr", subprocess.DEVNULL)
        process: subprocess.Popen[bytes] = subprocess.Popen([*command, *options], stdin=listener.fileno(), **popen)
        address = listener.getsockname()
    with ending(process):
        until_it_serves(process)
        yield Warm(process, address)


def until_it_serves(process: subprocess.Popen[bytes]) -> None:
    """Wait for the moment from which on signals find their handlers (proc_pid_status(5), SigCgt)."""

    def serves() -> bool:
        assert process.poll() is None, f"it ended with status {process.returncode}"
        return bool(int(status(process.pid)["SigCgt"], 16) >> (signal.SIGHUP - 1) & 1)

    until(serves)


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def log_of(warm: Warm) -> str:
    """End a process whose standard error is a pipe, and return what it has written there."""
    assert warm.process.stderr is not None
    warm.process.send_signal(signal.SIGTERM)
    text = warm.process.stderr.read().decode("ascii")
    assert warm.process.wait(PATIENCE) == 0
    return text


def pause(seconds: float) -> None:
    """Let time pass of which the test is about the passing."""
    time.sleep(seconds)


@functools.cache
def _nobody_can_import() -> bool:
    command = [sys.executable, "-c", f"import os; os.setgroups([]); os.setresgid(*3 * [{NOBODY}]);"
               f" os.setresuid(*3 * [{NOBODY}]); {_NEEDED}"]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE, cwd="/").returncode == 0


def needs_nobody_to_import() -> None:
    """Skip a test whose identd could not go on after giving root up: its interpreter is root's alone."""
    if os.geteuid() == 0 and not _nobody_can_import():
        skip(f"needs an interpreter and a source tree that nobody may read, not {sys.executable} and {IDENTD}")
