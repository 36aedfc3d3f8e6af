"""Is the port served again when the superserver that handed it over is started anew?"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers.hosts import until
from helpers.machine import only_if_others_can_read_it
from helpers.pairs import PATIENCE, everything
from helpers.residents import system_file
from helpers.single_shot import COMMAND, driver, ending
from helpers.superservers import Driver, driving, started_anew
from helpers.warm import pause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytest_plugins = ["helpers.superservers"]

#: Seconds within which it is served again.
AGAIN = 15.0

#: Starts a program, and waits for nothing: as a superserver does.
SUPERSERVER = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(3600)"


def asked_until_it_answers(driver: Driver) -> tuple[bytes, float]:
    """Ask again and again, as clients do; return the reply, and how long it took."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if reply := driver.ask(b"1,1\r\n"):
                return reply, time.monotonic() - began
        assert time.monotonic() < began + AGAIN, "nobody answers any more"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "number"),
    # How Debian's boot script ends xinetd; how one ends inetd; how the kernel ends both.
    [("xinetd-wait", signal.SIGQUIT), ("inetd-wait", signal.SIGTERM), ("xinetd-wait", signal.SIGKILL)],
)
def test_a_superserver_that_is_started_anew(needs_root: None, installed: Path, name: str, number: int) -> None:
    """Another identd answers within 15 s; the old one finishes what is under way, and ends."""
    with driving(name, installed) as old:
        assert old.ask(b"1,1\r\n") == b"1,1:ERROR:NO-USER\r\n"
        (served,) = [one for one in old.descendants() if one.parent() == psutil.Process(old.process.pid)]
        with old.call() as client:
            client.sendall(b"2,")
            assert old.ask(b"1,1\r\n") == b"1,1:ERROR:NO-USER\r\n"  # so that it was accepted before
            with started_anew(old, number) as again:
                client.sendall(b"2\r\n")
                assert everything(client) == b"2,2:ERROR:NO-USER\r\n"
                until(lambda: not served.is_running() or served.status() == psutil.STATUS_ZOMBIE)
                reply, took = asked_until_it_answers(again)
                assert reply == b"1,1:ERROR:NO-USER\r\n"
                assert took < AGAIN
                assert served.pid not in [one.pid for one in again.descendants()]


@contextlib.contextmanager
def under_a_parent(
    *options: str, command: Sequence[str] = COMMAND, **popen: Any
) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process, Any]]:
    """A process, which is all that a superserver is here, the identd that it has started, and where that listens."""
    only_if_others_can_read_it()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        parent = subprocess.Popen(
            [sys.executable, "-c", SUPERSERVER, *command, *options], stdin=fd, stdout=subprocess.PIPE, **popen
        )
        address = listener.getsockname()
    with ending(parent):
        assert parent.stdout is not None
        identd = psutil.Process(int(parent.stdout.readline()))
        try:
            yield parent, identd, address
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                identd.kill()


def ask(address: Any, query: bytes = b"1,1\r\n") -> bytes:
    """Ask, and return all that comes until the end."""
    with socket.create_connection(address, PATIENCE) as client:
        client.sendall(query)
        return everything(client)


def refused(address: Any) -> bool:
    """Return whether nobody listens."""
    try:
        socket.create_connection(address, PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_no_process_of_ours_holds_the_port() -> None:
    """While a client is served, and a process waits to read users' files, the port is free as soon as that is known."""
    with system_file("default { default { allow hide } }") as path, under_a_parent("-C", str(path)) as found:
        parent, identd, address = found
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(b"2,")
            assert ask(address) == b"1,1:ERROR:NO-USER\r\n"
            parent.kill()
            until(lambda: refused(address))
            assert identd.is_running()
            assert identd.children(), "it has a process that reads files"
            client.sendall(b"2\r\n")
            assert everything(client) == b"2,2:ERROR:NO-USER\r\n"
        until(lambda: not identd.is_running() or identd.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_where_a_parent_can_not_be_watched(tmp_path: Path, number: int) -> None:
    """An older kernel, or a sandbox, is no reason to stop: it is served on, as long as identd lives."""
    code = f"import os\ndef refuse(*_): raise OSError({number}, os.strerror({number}))\nos.pidfd_open = refuse"
    with under_a_parent(command=driver(tmp_path, code)) as (parent, identd, address):
        assert ask(address) == b"1,1:ERROR:NO-USER\r\n"
        parent.kill()
        parent.wait()
        pause(0.2)
        assert ask(address) == b"1,1:ERROR:NO-USER\r\n"
        assert identd.is_running()


def test_a_socket_of_its_own_outlives_the_parent() -> None:
    """Sockets that came in another way (LISTEN_FDS) are no superserver's: whoever started identd may leave."""
    words = ["sh", "-c", 'exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "sh", *COMMAND]
    with under_a_parent(command=words) as (parent, identd, address):
        assert ask(address) == b"1,1:ERROR:NO-USER\r\n"
        parent.kill()
        parent.wait()
        pause(0.2)
        assert ask(address) == b"1,1:ERROR:NO-USER\r\n"
        assert os.getpid() != identd.pid
