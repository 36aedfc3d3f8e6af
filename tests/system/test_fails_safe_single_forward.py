"""Does a forwarded query come to an end, whomever the owner of a connection names?  (Attack D5 of issue 9.)"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import Person, inside, listen
from helpers.installed import free_port, until_it_listens
from helpers.machine import AS_NOBODY, NOBODY
from helpers.pairs import PATIENCE, everything
from helpers.residents import system_file
from helpers.single_shot import COMMAND, ending, handler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helpers.hosts import Town
    from helpers.residents import Resident

pytest_plugins = ["helpers.people"]

#: What lets everyone forward.
SYSTEM = "default { default { allow forward allow spoof } }"


class Counter:
    """An ident server that says nothing: how often it was asked, and whether those who asked have gone."""

    def __init__(self, listener: socket.socket, says: bytes = b"") -> None:
        self.asked = self.left = 0
        self._listener, self._says = listener, says
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._listener.settimeout(0.05)
        while self._listener.fileno() >= 0:
            with contextlib.suppress(OSError):  # a timeout: look again
                connection, _ = self._listener.accept()
                self.asked += 1
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(PATIENCE)
                    query = connection.recv(100)
                    if self._says:
                        connection.sendall(query.rstrip() + self._says + b"\r\n")
                    while connection.recv(100):
                        pass
                self.left += 1

    def until(self, name: str, count: int, seconds: float) -> bool:
        """Wait until a number is reached; return whether it is in time."""
        end = time.monotonic() + seconds
        while getattr(self, name) < count and time.monotonic() < end:
            time.sleep(0.01)
        return bool(getattr(self, name) >= count)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(PATIENCE)


@contextlib.contextmanager
def counting(host: str = "127.0.0.1", namespace: str = "", says: bytes = b"") -> Iterator[tuple[Counter, int]]:
    """An ident server on a free port."""
    with inside(namespace) if namespace else contextlib.nullcontext():
        listener = listen(host)
    port = listener.getsockname()[1]
    counter = Counter(listener, says)
    try:
        yield counter, port
    finally:
        counter.close()


@contextlib.contextmanager
def serving(folder: Path, *ports: int) -> Iterator[Path]:
    """A warm identd on some ports, each a process of its own and nobody's; give the file with what all of them log."""
    log = folder / "log"
    with system_file(SYSTEM) as path, contextlib.ExitStack() as stack, log.open("ab") as stderr:
        for port in ports:
            words = [*COMMAND, "-S", "-i", "-a", "127.0.0.1", "-p", str(port), "-C", str(path)]
            process: subprocess.Popen[bytes] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=stderr)
            stack.enter_context(ending(process))
            until_it_listens(process, port, log)
        yield log


def ask(port: int, query: str) -> bytes:
    """Ask whoever listens on a port."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(query.encode() + b"\r\n")
        return everything(client)


def login(carol: Resident, ports: str) -> bytes:
    """Return the reply that names her."""
    return f"{ports}:USERID:UNIX:{carol.name}\r\n".encode()


def test_not_to_ourselves_on_another_port(carol: Resident, ports: str, tmp_path: Path) -> None:
    """Her file names this identd, on a port that is not 113: she is named, and nobody else was asked."""
    port = free_port()
    carol.write(f"global {{ forward 127.0.0.1 {port} }}")
    with serving(tmp_path, port) as log:
        assert ask(port, ports) == login(carol, ports)
        time.sleep(0.5)
        assert log.read_text().count(" was told ") == 1


def test_two_identds_of_one_host(carol: Resident, ports: str, tmp_path: Path) -> None:
    """Her file names another identd of this host, which would ask it again: two are asked, and no more."""
    one, other = free_port(), free_port()
    carol.write(f"lport 1:65535 {{ forward 127.0.0.1 {other} }}")
    with serving(tmp_path, one, other) as log:
        assert ask(one, ports) == login(carol, ports)
        time.sleep(0.5)
        assert log.read_text().count(" was told ") == 2


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_a_forwarded_query_is_not_forwarded_again(carol: Resident, ports: str, uid: int) -> None:
    """Who asks from this host as the user that identd runs as is an identd that forwards; another user is not."""
    with counting(says=b":USERID:UNIX:bouncer") as (counter, port), system_file(SYSTEM) as path:
        carol.write(f"global {{ forward 127.0.0.1 {port} }}")
        with listen("127.0.0.1") as listener, Person(uid) as asker:
            asker.dial(listener.getsockname())
            accepted, _ = listener.accept()
            words = [*COMMAND, "-S", "-C", str(path)]
            process: subprocess.Popen[bytes] = subprocess.Popen(words, stdin=accepted.fileno(), **AS_NOBODY)
            accepted.close()
            with ending(process):
                source = "kept[-1].sendall(query.encode()); kept[-1].recv(1000).decode()"
                reply = asker.tell(source, query=f"{ports}\r\n")
        expected = login(carol, ports) if uid == NOBODY else f"{ports}:USERID:UNIX:bouncer\r\n".encode()
        assert (reply.encode(), counter.asked) == (expected, int(uid != NOBODY))


def test_not_back_to_the_asker(town: Town, carol: Resident) -> None:
    """Her file names the host that asks, on any port: that host is not asked, and she is named."""
    with Person(carol.uid, town.here) as person, town.listen(town.THERE) as irc, counting(
        town.THERE, town.there
    ) as (counter, port), system_file(SYSTEM) as path:
        carol.write(f"global {{ forward {town.THERE} {port} }}")
        ends = person.dial(irc.getsockname()[:2])
        ports = f"{ends[0][1]},{ends[1][1]}"
        with inside(town.here):
            listener = listen(town.HERE)
        with listener, inside(town.there), socket.create_connection(listener.getsockname()[:2], PATIENCE) as client:
            with listener.accept()[0] as accepted:
                words = ["ip", "netns", "exec", town.here, "setpriv", f"--reuid={NOBODY}", "--clear-groups"]
                process: subprocess.Popen[bytes] = subprocess.Popen(
                    [*words, *COMMAND, "-S", "-C", str(path)], stdin=accepted.fileno()
                )
            with ending(process):
                client.sendall(ports.encode() + b"\r\n")
                assert everything(client) == login(carol, ports)
        assert counter.asked == 0


@pytest.mark.parametrize("form", ["single", "warm"])
@pytest.mark.parametrize("wish", [SYSTEM, "default {{ default {{ force forward 127.0.0.1 {port} }} }}"])
def test_who_lost_the_client_asks_nobody(carol: Resident, ports: str, form: str, wish: str, tmp_path: Path) -> None:
    """A client that has gone needs no answer: the server that was asked on its behalf is let go at once."""
    with counting() as (counter, port):
        carol.write(f"global {{ forward 127.0.0.1 {port} }}")
        with system_file(wish.format(port=port) if "port" in wish else wish) as path, contextlib.ExitStack() as stack:
            if form == "single":
                client = stack.enter_context(handler("-C", str(path), **AS_NOBODY)).client
            else:
                own = free_port()
                words = [*COMMAND, "-S", "-i", "-a", "127.0.0.1", "-p", str(own), "-C", str(path)]
                process: subprocess.Popen[bytes] = subprocess.Popen(words, stderr=subprocess.DEVNULL)
                stack.enter_context(ending(process))
                until_it_listens(process, own, tmp_path / "none")
                client = stack.enter_context(socket.create_connection(("127.0.0.1", own), PATIENCE))
            client.sendall(ports.encode() + b"\r\n")
            assert counter.until("asked", 1, PATIENCE)
            client.close()
            assert counter.until("left", 1, 1.5)
