"""Is systemd told how the warm process fares: that it serves, reads its file again, what is wrong with it?"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from helpers.installed import readable_folder
from helpers.machine import only_if_others_can_read_it
from helpers.pairs import PATIENCE
from helpers.residents import system_file
from helpers.single_shot import COMMAND, ending
from helpers.warm import until_it_serves

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Moves standard input to descriptor 3, as systemd passes sockets (sd_listen_fds(3)).
LISTEN_FDS = ["sh", "-c", 'exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ WATCHDOG_PID=${W:-$$} exec "$@"', "sh"]

RIGHT = "default { default { allow hide } }"
WRONG = "default { default { alow hide } }"


class Told:
    """systemd's end: what it is told."""

    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        daemon.settimeout(PATIENCE)

    def next(self) -> dict[str, str]:
        """Return the next message."""
        lines = self._daemon.recv(4096).decode("ascii").split("\n")
        return dict(line.split("=", 1) for line in lines)

    def nothing(self) -> bool:
        """Return whether there is no message."""
        return not select.select([self._daemon], [], [], 0)[0]

    def until(self, **wanted: str) -> dict[str, str]:
        """Return the first message that has these fields, the ends of whose values are given."""
        while True:
            message = self.next()
            if all(message.get(name, "").endswith(value) and name in message for name, value in wanted.items()):
                return message


@contextlib.contextmanager
def notifying(
    *options: str, abstract: bool = False, command: Sequence[str] = (*LISTEN_FDS, *COMMAND), **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], Told, Any]]:
    """A warm process that systemd has started, what it tells, and where it listens."""
    only_if_others_can_read_it()
    with readable_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        path = f"@identd-{os.getpid()}" if abstract else str(folder / "notify")
        daemon.bind(path.replace("@", "\0") if abstract else path)
        if not abstract:
            (folder / "notify").chmod(0o666)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            process = subprocess.Popen(
                [*command, *options], stdin=listener.fileno(), stderr=subprocess.DEVNULL,
                env={**os.environ, "NOTIFY_SOCKET": path, **environment},
            )  # fmt: skip
            address = listener.getsockname()
        with ending(process):
            yield process, Told(daemon), address


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_it_is_ready_when_it_serves(abstract: bool) -> None:
    """The first word is READY=1, with what it serves; it is root's no more by then. The last is STOPPING=1."""
    with notifying("-C", "/dev/null", abstract=abstract) as (process, told, address):
        message = told.next()
        assert message["READY"] == "1"
        assert f"127.0.0.1 port {address[1]}" in message["STATUS"]
        assert os.stat(f"/proc/{process.pid}").st_uid != 0 or os.geteuid() != 0
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(b"1,1\r\n")
            assert client.recv(100) == b"1,1:ERROR:NO-USER\r\n"
        process.send_signal(signal.SIGTERM)
        assert told.until(STOPPING="1")
        assert process.wait(PATIENCE) == 0


def test_a_reload() -> None:
    """RELOADING=1 with the time of the monotonic clock, then READY=1; the status says what is wrong with the file."""
    with system_file(RIGHT) as path, notifying("-C", str(path)) as (process, told, _):
        assert path.name not in told.until(READY="1")["STATUS"]
        process.send_signal(signal.SIGHUP)
        assert int(told.until(RELOADING="1")["MONOTONIC_USEC"]) > 0
        assert path.name not in told.until(READY="1")["STATUS"]
        path.write_text(WRONG)
        told.until(RELOADING="1")
        status = told.until(READY="1")["STATUS"]
        assert f"{path}:1:21: " in status and status.endswith("stays in force")
        path.write_text(RIGHT)
        told.until(RELOADING="1")
        assert path.name not in told.until(READY="1")["STATUS"]


def test_what_is_wrong_from_the_start() -> None:
    """It is ready all the same, and the status says where the error is; a user who is unknown is in it too."""
    with system_file(WRONG) as path, notifying("-C", str(path)) as (_, told, _):
        status = told.next()["STATUS"]
        assert f"{path}:1:21: " in status and status.endswith("nobody is named until that is mended")
        path.write_text('user "identd-none" { default { force hide } }')
        assert "identd-none" in told.until(READY="1")["STATUS"]


@pytest.mark.parametrize("whose", ["", "1"], ids=["ours", "another's"])
def test_the_watchdog(whose: str) -> None:
    """WATCHDOG=1 twice in the time that systemd gives, if it is we who are watched."""
    with notifying("-C", "/dev/null", WATCHDOG_USEC="200000", W=whose) as (process, told, _):
        told.until(READY="1")
        if not whose:
            for _ in range(3):
                told.until(WATCHDOG="1")
        process.send_signal(signal.SIGTERM)
        if whose:
            assert "WATCHDOG" not in told.next()


@pytest.mark.parametrize("where", ["/nonexistent/notify", "@", "/" + "x" * 200, "vsock:1:2", "", "nonsense"])
def test_nobody_who_is_told(where: str) -> None:
    """A socket that a sandbox hides, or that is none, ends nothing."""
    with notifying("-C", "/dev/null", NOTIFY_SOCKET=where, WATCHDOG_USEC="x") as (process, _, address):
        until_it_serves(process)
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(b"1,1\r\n")
            assert client.recv(100) == b"1,1:ERROR:NO-USER\r\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_under_a_superserver() -> None:
    """Where another process listens for us on standard input, that is the one which speaks to systemd."""
    with notifying("-C", "/dev/null", command=COMMAND) as (process, told, _):
        until_it_serves(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert told.nothing()
