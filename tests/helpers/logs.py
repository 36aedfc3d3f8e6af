"""Where does a log go in the tests?  The daemon's end of /dev/log, and what nobody reads."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from helpers.pairs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def syslog(path: Path) -> Iterator[socket.socket]:
    """A syslog daemon's end of /dev/log."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        path.chmod(0o666)
        daemon.settimeout(PATIENCE)
        yield daemon


def received(daemon: socket.socket) -> list[bytes]:
    """Return the datagrams that have arrived."""
    datagrams = []
    daemon.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            datagrams.append(daemon.recv(65536))
    return datagrams


@contextlib.contextmanager
def deaf(kind: str) -> Iterator[tuple[int, dict[str, str]]]:
    """A descriptor for standard error that is never read from: the journal's stream, or a pipe."""
    if kind == "pipe":
        read, write = os.pipe()
        try:
            yield write, {}
        finally:
            os.close(read)
            os.close(write)
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        status = os.fstat(theirs.fileno())
        yield theirs.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def fill(fd: int) -> None:
    """Write until no more goes in, without leaving the descriptor non-blocking."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x")
    os.set_blocking(fd, True)


def fields_of(entry: bytes) -> dict[str, list[bytes]]:
    """Return the fields of an entry of the journal, as systemd.io/JOURNAL_NATIVE_PROTOCOL has it."""
    fields: dict[str, list[bytes]] = {}
    while entry:
        name, end, rest = entry.partition(b"\n")
        assert end
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            length = int.from_bytes(rest[:8], "little")
            value, entry = rest[8 : 8 + length], rest[8 + length :]
            assert len(value) == length and entry.startswith(b"\n")
            rest = entry[1:]
        fields.setdefault(name.decode("ascii"), []).append(value)
        entry = rest
    return fields
