"""Does identd stand up to those who want it to be wrong, or away?  One test for each attack that once succeeded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import CLONE_NEWNET, checked, libc
from helpers.installed import free_port
from helpers.machine import only_if_others_can_read_it, program, run
from helpers.pairs import PATIENCE, everything
from helpers.residents import connected, resident, system_file
from helpers.single_shot import by_hand, driver, handler
from helpers.warm import warming

from identd import IdentServer
from identserver.start import EXIT_FAILED
from identserver.warm.lookups import Pending
from identserver.warm.workers import THREADS_PER_OWNER, Workers
from lookup.config.grammar import parse_system, parse_user
from lookup.config.policy import decide
from lookup.config.user_file import UserFile
from lookup.connection import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any


@pytest.fixture
def two_connections(needs_root: None) -> Iterator[tuple[bytes, bytes]]:
    """Queries about two users, each of whom hides behind a file that nobody else may read."""
    with contextlib.ExitStack() as stack:
        queries = []
        for _ in range(2):
            user = stack.enter_context(resident())
            user.home.chmod(0o700)
            user.write("global { hide }").chmod(0o600)
            queries.append(stack.enter_context(connected(user.uid)).encode())
        yield queries[0], queries[1]


def test_asking_about_another_user_first(two_connections: tuple[bytes, bytes]) -> None:
    """A process becomes one owner only, so that a query about a second one does not tell a name that he hides."""
    one, other = two_connections
    with system_file("default { default { allow hide } }") as path:
        options = ("-C", str(path))
        with handler("--multi-query", *options) as served:
            served.client.sendall(b"%b\r\n%b\r\n%b\r\n" % (one, other, one))
            served.client.shutdown(socket.SHUT_WR)
            replies = served.read()
        expected = b"%b:ERROR:HIDDEN-USER\r\n%b:ERROR:HIDDEN-USER\r\n%b:ERROR:HIDDEN-USER\r\n" % (one, other, one)
        assert replies == expected
        said = by_hand(b"%b\n%b\n%b\n" % (one, other, one), *options)
    assert said.stdout == expected
    assert said.status == 0


@pytest.mark.parametrize("reply", ["bob x", "bob\\tx", " bob x", "bob\\v" + "x" * 600, "\\x1fbob\\x1dx"])
def test_a_first_word_that_is_another_users_name(reply: str) -> None:
    """Clients that read one word (tcp_wrappers) may not be told another user's name with something behind it."""
    system = parse_system(b"default { default { allow spoof } }", "system", lambda names: {})

    def user_file() -> UserFile:
        return UserFile("user", parse_user(f'global {{ reply "{reply}" }}'.encode(), "user"))

    uids = {b"alice": 1001, b"bob": 1002}
    ends = ("127.0.0.1", 40000), ("127.0.0.1", 6667)
    decision = decide(1001, b"alice", *ends, system, user_file, uids.get, lambda host, port: "")
    assert decision.user == b"alice"


def test_an_interface_whose_name_is_another_ones_number(needs_root: None) -> None:
    """A scope is an interface's name before it is a number, or a link-local query is about another interface."""
    ip = program("ip")
    found: list[tuple[int, int]] = []

    def in_a_namespace_of_its_own() -> None:
        checked(libc.unshare(CLONE_NEWNET))
        run(ip, "link", "add", "name", "1", "type", "bridge")  # 1 is lo's number
        found.append((pack("fe80::1%1")[1], socket.if_nametoindex("1")))

    thread = threading.Thread(target=in_a_namespace_of_its_own)
    thread.start()
    thread.join()
    assert found
    assert found[0][0] == found[0][1]


class _Far:
    """A transport that keeps what it is told."""

    host, port, disconnecting = "127.0.0.1", 1, False

    def __init__(self) -> None:
        self.written = b""

    def getHost(self) -> _Far:
        return self

    getPeer = getHost

    def write(self, data: bytes) -> None:
        self.written += data

    def loseConnection(self) -> None:
        self.disconnecting = True


def test_a_lookup_that_somebody_cancels() -> None:
    """A handler whose future is cancelled answers, where it would leave its client waiting for ever."""

    class Cancelled(IdentServer):
        def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            return future

        def lookup_failed(self, error: BaseException) -> None:
            """Not worth a line here."""

    async def ask() -> _Far:
        far, server = _Far(), Cancelled()
        server.makeConnection(far)
        server.dataReceived(b"1,2\r\n")
        for _ in range(9):
            await asyncio.sleep(0)
        return far

    far = asyncio.run(ask())
    assert far.written == b"1,2:ERROR:UNKNOWN-ERROR\r\n"
    assert far.disconnecting


def test_a_job_that_waits_for_stuck_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that finds all of its owner's threads stuck is done when one of these jobs ends, whoever looks after it."""
    loop = asyncio.new_event_loop()
    workers = Workers(loop, lambda what: None)
    monkeypatch.setattr(workers, "_count_stuck", lambda: setattr(workers, "_stuck", workers._threads))
    release = threading.Event()
    done: list[str] = []

    def take(result: str) -> None:
        done.append(result)
        if len(done) == THREADS_PER_OWNER + 1:
            loop.stop()

    def work(arguments: list[str]) -> Iterator[str]:
        release.wait(PATIENCE)
        yield from arguments

    for number in range(THREADS_PER_OWNER + 1):
        pending = Pending(loop, PATIENCE, TimeoutError())
        pending.addCallbacks(take, take)
        workers.call(1, pending, work, str(number), alone=True)
    conditions: list[Callable[[], bool]] = [
        lambda: len(workers._busy) == THREADS_PER_OWNER, workers._turns.empty
    ]  # fmt: skip
    for holds in conditions:
        while not holds():
            loop.run_until_complete(asyncio.sleep(0.01))
    monkeypatch.setattr(workers, "_watch", lambda: None)
    release.set()
    loop.run_forever()
    loop.close()
    assert sorted(done) == [str(number) for number in range(THREADS_PER_OWNER + 1)]


def test_clients_that_pipeline_without_end(tmp_path: Path) -> None:
    """The queries of one client that are answered in one go are few, so that the others get their turn."""
    log, greedy, queries = tmp_path / "log", 8, 2048 // 4
    with log.open("wb") as stderr, warming(
        "--multi-query", "--nosyslog", "-C", os.devnull, stderr=stderr
    ) as warm, contextlib.ExitStack() as stack:
        warm.process.send_signal(signal.SIGSTOP)
        clients = [stack.enter_context(warm.call()) for _ in range(greedy)]
        for client in clients:
            client.sendall(b"1,1\n" * queries)
        honest = stack.enter_context(warm.call())
        honest.sendall(b"2,2\r\n")
        warm.process.send_signal(signal.SIGCONT)
        assert honest.recv(100) == b"2,2:ERROR:NO-USER\r\n"
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert everything(client) == b"1,1:ERROR:NO-USER\r\n" * queries
    told = [line.partition(" was told ")[2] for line in log.read_text().splitlines()]
    before = told[: next(i for i, line in enumerate(told) if line.startswith("2,2:"))]
    # All the greedy ones were there before it, and each had one turn of 128 octets at the most.
    assert sum(line.startswith("1,1:") for line in before) <= greedy * 128 // 4


def test_a_file_that_is_swapped_while_it_is_checked(needs_root: None, tmp_path: Path) -> None:
    """--check does not wait on a FIFO that a user puts in place of the file that it has just read."""
    program("useradd")
    only_if_others_can_read_it()
    swap = (
        "import os\nfrom lookup.config import user_file\nread = user_file.read\n"
        "def swapping(*arguments, **more):\n"
        "    found = read(*arguments, **more)\n"
        "    os.remove(found.path); os.mkfifo(found.path)\n"
        "    return found\n"
        "user_file.read = swapping"
    )
    with resident() as user, system_file("") as path:
        user.write("global { hide }")
        said = by_hand(b"", "-C", str(path), "--check", "--user", user.name, command=driver(tmp_path, swap))
    assert f"user     {user.file}" in said.stdout.decode()


def test_an_interpreter_that_is_closed_to_nobody(tmp_path: Path) -> None:
    """What can't be imported, once root is given up, is told on one line and not in a traceback."""
    said = by_hand(b"", "-i", "-p", str(free_port()), "-C", os.devnull,
                   command=driver(tmp_path, "sys.modules['asyncio'] = None"))  # fmt: skip
    assert said.status == EXIT_FAILED
    assert re.fullmatch(r"identd: .*asyncio.*\n", said.stderr)
