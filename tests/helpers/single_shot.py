"""How do tests start identd?  As an inetd does, with a real TCP connection, and by hand, with a pipe."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.machine import IDENTD, ROOT, only_if_others_can_read_it, only_root, program, skip
from helpers.pairs import PATIENCE, connect, everything

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: The command, run as it stands in the source tree.
COMMAND = (sys.executable, str(IDENTD))


class Handler(NamedTuple):
    """An identd that an inetd has just started, and the far end of its connection."""

    client: socket.socket
    process: subprocess.Popen[bytes]

    def read(self) -> bytes:
        """Return all that the client gets until identd closes. Raises ConnectionResetError if it resets instead."""
        return everything(self.client)

    def ask(self, query: bytes) -> bytes:
        """Send a query and return all that comes until identd closes."""
        self.client.sendall(query)
        return self.read()

    def status(self) -> int:
        """Wait until identd ends by itself, and return its exit status."""
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        """Wait until identd ends by itself, and return what it wrote to standard error."""
        assert self.process.stderr is not None
        with self.process.stderr:
            text = self.process.stderr.read().decode("ascii")
        self.status()
        return text


@contextlib.contextmanager
def handler(
    *options: str, host: str = "127.0.0.1", peer: str = "", command: Sequence[str] = COMMAND, **popen: Any
) -> Iterator[Handler]:
    """Start identd as an inetd does: a connection on descriptors 0 and 1. Standard error is a pipe unless given."""
    with connect(host, peer) as (client, accepted, _):
        process = start([*command, *options], accepted, **popen)
        accepted.close()
        with ending(process):
            yield Handler(client, process)


def start(command: Sequence[str], accepted: socket.socket, **popen: Any) -> subprocess.Popen[bytes]:
    """Start a program with a socket on descriptors 0 and 1."""
    only_if_others_can_read_it()
    stderr = popen.pop("stderr", subprocess.PIPE)
    fd = accepted.fileno()
    process: subprocess.Popen[bytes] = subprocess.Popen(list(command), stdin=fd, stdout=fd, stderr=stderr, **popen)
    return process


@contextlib.contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Leave no process behind, and no pipe to it."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class Said(NamedTuple):
    """What a process said until its end."""

    stdout: bytes
    stderr: str
    status: int


def by_hand(lines: bytes, *options: str, command: Sequence[str] = COMMAND, **popen: Any) -> Said:
    """Run identd on a pipe, as ``echo 1,2 | identd`` does."""
    only_if_others_can_read_it()
    done = subprocess.run([*command, *options], input=lines, capture_output=True, timeout=PATIENCE, **popen)
    return Said(done.stdout, done.stderr.decode(), done.returncode)


def answered_by_both(query: bytes, *options: str) -> bytes:
    """Return the reply to one query, asked over a connection and by hand; both must be the same and end well."""
    with handler(*options) as served:
        reply = served.ask(query)
        assert served.status() == 0
    said = by_hand(query, *options)
    assert (said.stdout, said.status) == (reply, 0)
    return reply


def driver(tmp_path: Path, preparation: str) -> list[str]:
    """Return a command that runs some Python code, then identd in the same process."""
    script = tmp_path / "driver.py"
    root = str(IDENTD.parent)
    lines = ("import sys", f"sys.path.insert(0, {root!r})", preparation, "import identd", "sys.exit(identd.main())")
    script.write_text("\n".join(lines))
    return [sys.executable, str(script)]


def private_dev(tmp_path: Path, log: Path) -> list[str]:
    """Return the words to put before a command so that its /dev/log is a file of ours, if that exists by then.

    They run it in a mount namespace of its own, whose /dev holds little else. The file is mounted there, so that
    a user who may not look into ``tmp_path`` reaches it as they reach any /dev/log.
    """
    only_root()
    dev = tmp_path / "dev"
    dev.mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o mode=755 none '{dev}'
        for node in null zero full random urandom; do
            touch '{dev}'/$node
            mount --bind /dev/$node '{dev}'/$node
        done
        if [ -e '{log}' ]; then
            touch '{dev}/log'
            mount --bind '{log}' '{dev}/log'
        fi
        mount --rbind '{dev}' /dev
        exec "$@"
    """
    words = [program("unshare"), "-m", "sh", "-c", script, "sh"]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True, timeout=PATIENCE)
    if tried.returncode:
        skip(f"no mount namespace can be made: {tried.stderr.strip()}")
    return words


def feed(client: socket.socket, data: bytes) -> threading.Thread:
    """Send in the background, for as long as the far end takes it."""

    def send() -> None:
        with contextlib.suppress(OSError):
            client.sendall(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def copied(tmp_path: Path) -> list[str]:
    """Return the command as an installation has it: compiled, and started by what the entry point writes."""
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(IDENTD, site)
    for package in ("identserver", "lookup"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(site)], check=True, timeout=PATIENCE)
    code = f"import sys; sys.path[0] = {str(site)!r}; from identserver.start import main; sys.exit(main())"
    return [sys.executable, "-c", code]
