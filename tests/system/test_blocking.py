"""Who is answered while a name service, a home or a file holds somebody up?"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from helpers.hosts import Person, login, nameless_uid, until
from helpers.installed import readable_folder
from helpers.pairs import connect, everything, named
from helpers.residents import connected, resident, system_file
from helpers.single_shot import driver
from helpers.warm import warming

from bench import load
from identserver.answer import LOOKUP_SECONDS
from identserver.warm.workers import THREADS_PER_OWNER

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stuck(NamedTuple):
    """What a test has blocked: for whom, and the FIFO whose opening it waits for."""

    uid: int
    fifo: Path

    def release(self) -> None:
        """Let everything that waits go on, now and later."""
        self.fifo.unlink()
        self.fifo.touch()

    def wake(self) -> int:
        """Open the FIFO for those who wait for that."""
        return os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)


@contextlib.contextmanager
def blocking() -> Iterator[Stuck]:
    """Make a FIFO that everyone may read; opening it blocks in the kernel, as an NFS server's absence does."""
    with readable_folder() as folder:
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        fifo.chmod(0o644)
        stuck = Stuck(nameless_uid(), fifo)
        yield stuck


STUCK_NSS = """
import os, pwd
real = pwd.getpwuid
def getpwuid(uid):
    if uid == {uid}:
        os.close(os.open({fifo!r}, os.O_RDONLY))
    return real(uid)
pwd.getpwuid = getpwuid
"""


def test_a_stuck_name_service(needs_root: None, tmp_path: Path) -> None:
    """Queries for whom it is stuck are UNKNOWN-ERROR in the end, however many; all others are answered meanwhile."""
    with contextlib.ExitStack() as stack:
        stuck = stack.enter_context(blocking())
        alice = stack.enter_context(login())
        command = driver(tmp_path, STUCK_NSS.format(uid=stuck.uid, fifo=str(stuck.fifo)))
        warm = stack.enter_context(warming(command=command))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        queries = {}
        for uid in (stuck.uid, alice.pw_uid, 0):
            ends = stack.enter_context(Person(uid)).dial(listener.getsockname())
            queries[uid] = b"%d,%d" % (ends[0][1], ends[1][1])
        waiting = [stack.enter_context(warm.call()) for _ in range(3 * THREADS_PER_OWNER)]
        began = time.monotonic()
        for client in waiting:
            client.sendall(queries[stuck.uid] + b"\r\n")
        for _ in range(100):
            for uid, name in ((alice.pw_uid, alice.pw_name), (0, "root")):
                expected = b"%b:USERID:UNIX:%b\r\n" % (queries[uid], name.encode())
                assert warm.ask(queries[uid] + b"\r\n") == expected
        failed = queries[stuck.uid] + b":ERROR:UNKNOWN-ERROR\r\n"
        assert [everything(client) for client in waiting] == [failed] * len(waiting)
        # Some clients wait for no more than five seconds.
        assert time.monotonic() - began < LOOKUP_SECONDS + 1
        assert warm.threads() <= 1 + THREADS_PER_OWNER + 2
        woken = stuck.wake()
        stuck.release()
        os.close(woken)
        until(lambda: warm.ask(queries[stuck.uid] + b"\r\n") != failed)
        assert warm.ask(queries[stuck.uid] + b"\r\n") == b"%b:USERID:OTHER:%d\r\n" % (queries[stuck.uid], stuck.uid)


STUCK_HOME = """
import os
def blocking(real):
    def call(path, *arguments, **options):
        if isinstance(path, str) and path.startswith({home!r}):
            os.close(os.open({fifo!r}, os.O_RDONLY))
        return real(path, *arguments, **options)
    return call
os.stat, os.lstat, os.open = map(blocking, (os.stat, os.lstat, os.open))
"""


@pytest.mark.parametrize("may_hide", [True, False])
def test_a_stuck_home(needs_root: None, tmp_path: Path, may_hide: bool) -> None:
    """A home directory that hangs holds up its owner's answers alone, when a configuration has it looked at.

    Where she may hide, it may have said so: UNKNOWN-ERROR. Where she may only choose another name, she is named.
    """
    with contextlib.ExitStack() as stack:
        stuck = stack.enter_context(blocking())
        alice = stack.enter_context(login())
        bob = stack.enter_context(login())
        config = stuck.fifo.with_name("conf")
        config.write_text(f"default {{ default {{ allow spoof {'allow hide' if may_hide else ''} }} }}\n")
        preparation = STUCK_HOME.format(home=alice.pw_dir, fifo=str(stuck.fifo))
        warm = stack.enter_context(warming("--config", str(config), command=driver(tmp_path, preparation)))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        queries = {}
        for user in (alice, bob):
            ends = stack.enter_context(Person(user.pw_uid)).dial(listener.getsockname())
            queries[user.pw_name] = b"%d,%d" % (ends[0][1], ends[1][1])
        waiting = [stack.enter_context(warm.call()) for _ in range(2 * THREADS_PER_OWNER)]
        began = time.monotonic()
        for client in waiting:
            client.sendall(queries[alice.pw_name] + b"\r\n")
        answer = b"%b:USERID:UNIX:%b\r\n" % (queries[bob.pw_name], bob.pw_name.encode())
        for _ in range(100):
            assert warm.ask(queries[bob.pw_name] + b"\r\n") == answer
        right = "ERROR:UNKNOWN-ERROR" if may_hide else f"USERID:UNIX:{alice.pw_name}"
        told = b"%b:%b\r\n" % (queries[alice.pw_name], right.encode())
        assert [everything(client) for client in waiting] == [told] * len(waiting)
        assert time.monotonic() - began < LOOKUP_SECONDS + 1
        assert warm.end() == 0, "processes that are stuck are not waited for"


def test_a_storm_while_a_file_is_rewritten(needs_root: None) -> None:
    """A bouncer that connects again, many users at once, and rewrites its file for each, is answered with its names."""
    with contextlib.ExitStack() as stack:
        alice = stack.enter_context(resident())
        query = stack.enter_context(connected(alice.uid)).encode()
        system = stack.enter_context(system_file("default { default { allow spoof } }"))
        warm = stack.enter_context(warming("-q", "-C", str(system)))
        done = threading.Event()

        def rewrite() -> None:
            number = 0
            while not done.wait(0.01):
                number += 1
                alice.file.write_text(f'global {{ reply "bnc{number}" }}\n')
                os.chown(alice.file, alice.uid, alice.gid)

        writer = threading.Thread(target=rewrite)
        writer.start()
        try:
            told = re.compile(rb"%b:USERID:UNIX:(bnc[0-9]+|%b)\r\n" % (query, alice.name.encode()))
            result = load.run(warm.address[1], load.Question(query + b"\r\n", told), 1000, 400)
        finally:
            done.set()
            writer.join()
    assert (result.answered, result.wrong, result.lost) == (1000, 0, 0)


def test_a_fifo_for_a_file(needs_root: None, tmp_path: Path) -> None:
    """A FIFO as ~/.oidentd.conf is passed over at once."""
    with readable_folder() as home, contextlib.ExitStack() as stack:
        config = home / "conf"
        config.write_text("default { default { allow spoof } }\n")
        os.mkfifo(home / ".oidentd.conf")
        os.chown(home / ".oidentd.conf", 12345, 12345)
        lies = f"import lookup.users.names as u\nreal = u.entry\nu.entry = lambda uid: (real(uid)[0], {str(home)!r})"
        warm = stack.enter_context(warming("--config", str(config), command=driver(tmp_path, lies)))
        pair = stack.enter_context(connect())
        for _ in range(3):
            assert warm.ask(pair.query + b"\r\n") == named(pair)
