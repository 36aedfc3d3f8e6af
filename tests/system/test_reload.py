"""Does the warm process take over a new system file, all of it, and keep the old one where the new one is broken?"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until
from helpers.installed import readable_folder
from helpers.machine import only_if_others_can_read_it
from helpers.pairs import PATIENCE, Pair, me
from helpers.single_shot import COMMAND, driver, ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Seconds in which the file is looked at several times.
A_WHILE = 2.5


class Warm:
    """A warm process, its system file, its log."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, config: Path, log: Path) -> None:
        self.process = process
        self.port = port
        self.config = config
        self._log = log

    def ask(self, pair: Pair) -> str:
        """Return what is answered, without the ports."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
            client.sendall(pair.query + b"\r\n")
            reply = b"".join(iter(lambda: client.recv(4096), b""))
        return reply.decode().rstrip("\r\n").split(":", 1)[1]

    def comes_to(self, pair: Pair, name: str) -> None:
        """Wait until a reply has a name."""
        until(lambda: self.ask(pair) == f"USERID:UNIX:{name}")

    def logged(self, text: str) -> int:
        """Return how many lines of the log have a text."""
        return sum(text in line for line in self._log.read_text().splitlines())

    def says(self, text: str) -> None:
        """Wait until the log has a text."""
        until(lambda: self.logged(text) > 0)


def forcing(name: str) -> str:
    """Return a system file that has everyone told a name."""
    return f'default {{ default {{ force reply "{name}" }} }}\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the warm process can still look into when it has become nobody."""
    with readable_folder() as folder:
        yield folder


@contextlib.contextmanager
def warm(folder: Path, text: str, command: Sequence[str] = COMMAND) -> Iterator[Warm]:
    """Start a warm process as ourselves, on a socket of ours."""
    only_if_others_can_read_it()
    config, log = folder / "oidentd.conf", folder / "log"
    config.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as stderr:
        port = listener.getsockname()[1]
        process = subprocess.Popen([*command, "-S", "-C", str(config)], stdin=listener.fileno(), stderr=stderr)
    with ending(process):
        yield Warm(process, port, config, log)


def test_a_changed_file(folder: Path, pair: Pair) -> None:
    """A file that was rewritten in place counts a moment later, without a signal."""
    with warm(folder, forcing("one")) as server:
        server.comes_to(pair, "one")
        server.config.write_text(forcing("two, longer"))
        server.comes_to(pair, "two, longer")
        assert server.logged("the configuration was read again") == 1


def test_a_change_while_it_starts(folder: Path, pair: Pair, tmp_path: Path) -> None:
    """A file that changes between its first reading and the start of the loop is read again all the same."""
    change = (
        "from identserver.warm import server\nreal = server.drop_privileges\n"
        f"def drop(*who): open({str(folder / 'oidentd.conf')!r}, 'w').write({forcing('two, longer')!r}); real(*who)\n"
        "server.drop_privileges = drop\n"
    )
    with warm(folder, forcing("one"), driver(tmp_path, change)) as server:
        server.comes_to(pair, "two, longer")


def test_a_signal(folder: Path, pair: Pair) -> None:
    """At SIGHUP the file is read though nothing tells that it has changed."""
    with warm(folder, forcing("one")) as server:
        server.comes_to(pair, "one")
        status = server.config.stat()
        server.config.write_text(forcing("two"))
        os.utime(server.config, ns=(status.st_atime_ns, status.st_mtime_ns))
        server.process.send_signal(signal.SIGHUP)
        server.comes_to(pair, "two")
        assert server.process.poll() is None


def test_a_file_that_is_replaced(folder: Path, pair: Pair) -> None:
    """A file that another one is renamed over, of the same size and time, is noticed by its inode."""
    with warm(folder, forcing("one")) as server:
        server.comes_to(pair, "one")
        status = server.config.stat()
        new = folder / "new"
        new.write_text(forcing("two"))
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        new.replace(server.config)
        server.comes_to(pair, "two")


def test_nothing_of_the_old_one_stays(folder: Path, pair: Pair) -> None:
    """Grants, forces and inherited capabilities of the old file are gone with it."""
    old = f'default {{ default {{ allow spoof allow hide }} }} user {me()} {{ default {{ force reply "own" }} }}'
    with warm(folder, old) as server:
        server.comes_to(pair, "own")
        server.config.write_text("default { fport 1 { force hide } }")
        server.comes_to(pair, me())
        server.config.write_text("")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.logged("was read again") == 2)
        assert server.ask(pair) == f"USERID:UNIX:{me()}"


def test_a_broken_file(folder: Path, pair: Pair) -> None:
    """What was in force stays so; the error is logged once, with file, line, column; the mended file counts."""
    with warm(folder, forcing("one")) as server:
        server.comes_to(pair, "one")
        server.config.write_text("default {\n  default { alow spoof } }")
        error = f"{server.config}:2:13: allow, deny or force expected, not alow"
        server.says(f"{error}; the configuration that was read before stays in force")
        time.sleep(A_WHILE)
        assert server.logged("stays in force") == 1
        assert server.ask(pair) == "USERID:UNIX:one"
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.logged("stays in force") == 2)
        server.config.write_text(forcing("mended"))
        server.comes_to(pair, "mended")


@pytest.mark.parametrize("how", ["deleted", "a directory"])
def test_a_file_that_goes_away(folder: Path, pair: Pair, how: str) -> None:
    """A file that was named and is gone is an error, not permission: what was in force stays in force."""
    with warm(folder, forcing("one")) as server:
        server.comes_to(pair, "one")
        server.config.unlink()
        if how == "a directory":
            server.config.mkdir()
        server.says("stays in force")
        time.sleep(A_WHILE)
        assert server.logged("stays in force") == 1
        assert server.ask(pair) == "USERID:UNIX:one"
        if how == "a directory":
            server.config.rmdir()
        server.config.write_text(forcing("back"))
        server.comes_to(pair, "back")


def test_a_default_file_that_goes_away(folder: Path, pair: Pair) -> None:
    """Without a file at the default place nobody may do anything; one that appears there counts."""
    only_if_others_can_read_it()
    config, log = folder / "default.conf", folder / "default.log"
    config.write_text(forcing("one"))
    command = driver(folder, f"import identserver\nidentserver.CONFIG = {str(config)!r}")
    with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as stderr:
        port = listener.getsockname()[1]
        process = subprocess.Popen([*command, "-S"], stdin=listener.fileno(), stderr=stderr)
    with ending(process):
        server = Warm(process, port, config, log)
        server.comes_to(pair, "one")
        config.unlink()
        server.comes_to(pair, me())
        config.write_text(forcing("two"))
        server.comes_to(pair, "two")


#: A resolver that never answers about one name, and is slow about another.
STUCK = """
import _socket, socket, time
getaddrinfo = _socket.getaddrinfo
def resolve(host, *rest, **more):
    if host in (b"stuck.invalid", "stuck.invalid"):
        time.sleep(3600)
    if host in (b"slow.invalid", "slow.invalid"):
        time.sleep(1.2)
        host = "192.0.2.1"
    return getaddrinfo(host, *rest, **more)
_socket.getaddrinfo = resolve
"""


def test_a_resolver_that_hangs(folder: Path, pair: Pair) -> None:
    """While a name in the new file is looked up in vain, queries are answered by the old one.

    Then the new one counts, all but the block that is about that name; the log says so once, with its place.
    """
    with warm(folder, forcing("one"), driver(folder, STUCK)) as server:
        server.comes_to(pair, "one")
        server.config.write_text(forcing("new") + 'user 1 { to stuck.invalid { force hide } }')
        answers = 0
        until_logged = time.monotonic() + PATIENCE
        while not server.logged("did not answer in time") and time.monotonic() < until_logged:
            assert server.ask(pair) in ("USERID:UNIX:one", "USERID:UNIX:new")
            answers += 1
            time.sleep(0.05)
        assert answers > 5
        server.comes_to(pair, "new")
        assert server.logged(f"{server.config}:2:13: whom this block is about is not known") == 1
        server.config.write_text(forcing("two"))
        server.comes_to(pair, "two")


def test_an_older_reading_that_comes_last(folder: Path, pair: Pair) -> None:
    """A file whose names take long to look up does not win over the one that replaced it meanwhile."""
    with warm(folder, forcing("one"), driver(folder, STUCK)) as server:
        server.comes_to(pair, "one")
        server.config.write_text('default { default { force reply "older" } to slow.invalid { allow hide } }')
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        server.config.write_text(forcing("newer"))
        server.process.send_signal(signal.SIGHUP)
        server.comes_to(pair, "newer")
        time.sleep(A_WHILE)
        assert server.ask(pair) == "USERID:UNIX:newer"
