"""Is every query answered when one warm process ends and the next one begins?"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from helpers.hosts import until
from helpers.machine import only_if_others_can_read_it
from helpers.pairs import PATIENCE, Pair, connect, everything, named
from helpers.single_shot import COMMAND, ending
from helpers.superservers import Driver, driving
from helpers.warm import Warm, until_it_serves

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.superservers"]

IDLE = 0.3
EXITS, QUERIES = 10, 1000

#: Queries of one round, and the seconds between two of them: they come for as long as an end and a start take.
_ROUND, _APART = 100, 0.002


@pytest.mark.parametrize("name", ["xinetd-wait", "inetd-wait"])
def test_idle_exits_under_load(name: str, installed: Path, needs_root: None) -> None:
    """A thousand queries that come around ten idle exits, the moment of the exit included: none is lost."""
    pids: set[int] = set()
    replies: list[bytes] = []
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(connect())
        driver = stack.enter_context(driving(name, installed, f"--idle={IDLE}"))
        pool = stack.enter_context(ThreadPoolExecutor(32))
        stack.enter_context(driver.log_taken())
        end = time.monotonic() + 3 * PATIENCE
        number = 0
        while (len(pids) <= EXITS or len(replies) < QUERIES) and time.monotonic() < end:
            replies += [reply.result() for reply in [_later(pool, driver, pair) for _ in range(_ROUND)]]
            pids |= {one.pid for one in _identds(driver)}
            # The first query of the next round: from a moment before the exit to a moment after it.
            time.sleep(IDLE + (number % 8 - 2) * 0.01)
            number += 1
        assert set(replies) == {named(pair)}
    assert len(pids) > EXITS, "it did not end when it was idle"
    assert len(replies) >= QUERIES


def _later(pool: ThreadPoolExecutor, driver: Driver, pair: Pair) -> Future[bytes]:
    """Send a query a moment from now, in a thread."""
    time.sleep(_APART)
    return pool.submit(driver.ask, pair.query + b"\r\n")


def _identds(driver: Driver) -> list[psutil.Process]:
    """Return the processes that serve at the moment."""
    found = []
    for process in driver.descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("identd" in word for word in process.cmdline()[1:3]):
                found.append(process)
    return found


@contextlib.contextmanager
def process_on(listener: socket.socket, *options: str) -> Iterator[Warm]:
    """Start identd on a listener that others keep open, as inetd does."""
    only_if_others_can_read_it()
    process: subprocess.Popen[bytes] = subprocess.Popen(
        [*COMMAND, *options], stdin=listener.fileno(), stderr=subprocess.DEVNULL
    )
    with ending(process):
        until_it_serves(process)
        yield Warm(process, listener.getsockname())


def test_who_comes_after_the_idle_exit_waits_for_the_next(pair: Pair) -> None:
    """Idle, it ends by itself with status 0; a client that comes then is answered by the next process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with process_on(listener, "--idle", "0.3") as first:
            assert first.ask(pair.query + b"\r\n") == named(pair)
            assert first.process.wait(PATIENCE) == 0
        with first.call() as client:
            client.sendall(pair.query + b"\r\n")
            with process_on(listener, "--idle", "0.3") as second:
                assert everything(client) == named(pair)
                assert second.process.wait(PATIENCE) == 0


def test_a_client_keeps_it_from_being_idle(pair: Pair) -> None:
    """Whoever is connected is no idleness, however silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener, process_on(listener, "--idle", "0.3") as warm:
        with warm.call() as client:
            with pytest.raises(subprocess.TimeoutExpired):
                warm.process.wait(1.5)
            client.sendall(pair.query + b"\r\n")
            assert everything(client) == named(pair)
        assert warm.process.wait(PATIENCE) == 0


def test_without_a_client_it_ends_too() -> None:
    """A process that was started for a client who has gone by then does not stay for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener, process_on(listener, "--idle", "0.3") as warm:
        assert warm.process.wait(PATIENCE) == 0


def test_idle_0_is_never(pair: Pair) -> None:
    """--idle 0: it stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener, process_on(listener, "--idle", "0") as warm:
        with pytest.raises(subprocess.TimeoutExpired):
            warm.process.wait(1.5)
        assert warm.ask(pair.query + b"\r\n") == named(pair)


def test_who_comes_after_sigterm_waits_for_the_next(pair: Pair) -> None:
    """A process that is told to end leaves newcomers in the queue, while it still has clients of its own."""
    query = pair.query + b"\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        first = stack.enter_context(process_on(listener))
        early = stack.enter_context(first.call())
        early.sendall(query[:3])
        # Its own wake-up, its parent, the listener, the client; then no listener any more.
        until(lambda: _watches(first) == 4)
        first.process.send_signal(signal.SIGTERM)
        until(lambda: _watches(first) == 3)
        late = stack.enter_context(first.call())
        late.sendall(query)
        early.sendall(query[3:])
        assert everything(early) == named(pair)
        assert first.process.wait(PATIENCE) == 0
        stack.enter_context(process_on(listener))
        assert everything(late) == named(pair)


def _watches(warm: Warm) -> int:
    """Return how many descriptors the event loop waits for (proc_pid_fdinfo(5))."""
    proc = Path(f"/proc/{warm.process.pid}")
    (epoll,) = (fd for fd in (proc / "fd").iterdir() if os.readlink(fd) == "anon_inode:[eventpoll]")
    return (proc / "fdinfo" / epoll.name).read_text().count("tfd:")
