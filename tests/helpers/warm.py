"""How do tests start the warm process?  On a listening socket, as inetd's ``wait`` does, and in the foreground."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.hosts import until
from helpers.machine import only_if_others_can_read_it
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


@contextlib.contextmanager
def warming(
    *options: str, host: str = "127.0.0.1", command: Sequence[str] = COMMAND, **popen: Any
) -> Iterator[Warm]:
    """Start identd with a listening socket for standard input, and wait until it serves."""
    only_if_others_can_read_it()
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
