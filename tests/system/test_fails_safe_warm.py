"""Can one user, or one who fails, stop the warm process for the others, or make it tell what is hidden?"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.fuse import silence
from helpers.hosts import until
from helpers.pairs import PATIENCE, Pair, everything, named
from helpers.residents import Resident, connected, resident, system_file
from helpers.single_shot import COMMAND, ending
from helpers.warm import Warm, log_of, pause, until_it_serves, warming

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds within which every query is answered.
DEADLINE = 4.0


def _processor_seconds(pid: int) -> float:
    """Return how long a process has used a processor (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_listening_socket_that_is_shut_down(pair: Pair) -> None:
    """D7. Whoever shares it may call shutdown(2): it is given up, and the process ends: it has no other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen([*COMMAND, "-S"], stdin=listener.fileno(), stderr=subprocess.PIPE)
        with ending(process):
            until_it_serves(process)
            assert Warm(process, listener.getsockname()).ask(pair.query + b"\r\n") == named(pair)
            listener.shutdown(socket.SHUT_RDWR)
            assert process.wait(PATIENCE) == 0
            assert process.stderr is not None
            said = process.stderr.read().decode()
    assert said.count("listens no more: Invalid argument") == 1, said


def test_one_of_two_listening_sockets_is_shut_down(pair: Pair) -> None:
    """D7. The other one goes on being served, at no cost."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        command = ["bash", "-c", f'exec 3<&{one.fileno()} 4<&{other.fileno()} </dev/null; '
                   'LISTEN_FDS=2 LISTEN_PID=$$ exec "$@"', "bash", *COMMAND, "-S"]  # fmt: skip
        fds = (one.fileno(), other.fileno())
        process = subprocess.Popen(command, pass_fds=fds, stderr=subprocess.PIPE)
        with ending(process):
            until_it_serves(process)
            one.shutdown(socket.SHUT_RDWR)
            warm = Warm(process, other.getsockname())
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            before = _processor_seconds(process.pid)
            pause(1)
            assert _processor_seconds(process.pid) - before < 0.5
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            assert log_of(warm).count("listens no more") == 1


# A file system of a user's that never answers.


@pytest.fixture
def people(needs_root: None) -> Iterator[tuple[Resident, bytes, Resident, bytes, Path]]:
    """Alice and bob, a query about each, and a system file that allows them to hide and to spoof."""
    with contextlib.ExitStack() as stack:
        alice, bob = (stack.enter_context(resident()) for _ in range(2))
        queries = [stack.enter_context(connected(user.uid)).encode() + b"\r\n" for user in (alice, bob)]
        path = stack.enter_context(system_file("default { default { allow spoof allow hide } }"))
        (alice.home / ".config").mkdir()
        os.chown(alice.home / ".config", alice.uid, alice.gid)
        alice.write('global { reply "alias" }')
        bob.write('global { reply "bobby" }')
        yield alice, queries[0], bob, queries[1], path


def told(query: bytes, what: str) -> bytes:
    """Return the reply to a query."""
    return b"%b:%b\r\n" % (query.strip(), what.encode())


def test_a_file_system_that_hangs_stops_nobody_else(people: tuple[Resident, bytes, Resident, bytes, Path]) -> None:
    """D1. It is mounted a moment after she was answered about: she gets an error in time, all others their names.

    D2. The process ends in time while that lookup is under way. What can't be ended is another process, and few.
    """
    alice, about_alice, _, about_bob, path = people
    with warming("-C", str(path)) as warm, contextlib.ExitStack() as stack:
        pause(1.1)  # the file has to have rested
        assert warm.ask(about_alice) == told(about_alice, "USERID:UNIX:alias")
        assert warm.ask(about_bob) == told(about_bob, "USERID:UNIX:bobby")
        hanging = stack.enter_context(silence(alice.home / ".config", alice.uid, alice.gid))
        began = time.monotonic()
        clients = [stack.enter_context(warm.call()) for _ in range(20)]
        for client in clients:
            client.sendall(about_alice)
        until(lambda: hanging.requests > 0)
        for _ in range(20):
            asked = time.monotonic()
            assert warm.ask(about_bob) == told(about_bob, "USERID:UNIX:bobby")
            assert time.monotonic() - asked < 2
        failed = told(about_alice, "ERROR:UNKNOWN-ERROR")
        assert [everything(client) for client in clients] == [failed] * len(clients)
        assert time.monotonic() - began < DEADLINE + 2
        pause(1.1)
        for _ in range(3):  # as often as she likes: the processes left behind do not become more
            assert warm.ask(about_alice) == failed
        left = [pid for pid in descendants(warm.process.pid) if "fuse" in wchan(pid) or "request" in wchan(pid)]
        assert 1 <= len(left) <= 4, left
        last = stack.enter_context(warm.call())
        last.sendall(about_alice)
        assert warm.ask(about_bob) == told(about_bob, "USERID:UNIX:bobby")
        asked = time.monotonic()
        assert warm.end() == 0
        assert time.monotonic() - asked < DEADLINE + 2
    until(lambda: not any(map(is_there, left)))


def test_a_file_system_that_answers_again(people: tuple[Resident, bytes, Resident, bytes, Path]) -> None:
    """D2. Once it is given up nothing remains of it, and what her file says counts."""
    alice, about_alice, _, about_bob, path = people
    with warming("-C", str(path)) as warm:
        with silence(alice.home / ".config", alice.uid, alice.gid):
            assert warm.ask(about_alice) == told(about_alice, "ERROR:UNKNOWN-ERROR")
        until(lambda: warm.ask(about_alice) == told(about_alice, "USERID:UNIX:alias"))
        assert warm.ask(about_bob) == told(about_bob, "USERID:UNIX:bobby")
        before = warm.descriptors()
        assert warm.ask(about_alice) == told(about_alice, "USERID:UNIX:alias")
        until(lambda: warm.descriptors() <= before)  # the connection is closed after its reply was read


def test_busy_lookups_leave_room_for_others(people: tuple[Resident, bytes, Resident, bytes, Path]) -> None:
    """D3. She holds as many connections as there may be, each about herself: the surplus is refused at once."""
    alice, about_alice, _, about_bob, path = people
    with contextlib.ExitStack() as stack:
        warm = stack.enter_context(warming("-C", str(path), "--limit", "16", "-S", stderr=subprocess.PIPE))
        assert warm.ask(about_bob) == told(about_bob, "USERID:UNIX:bobby")
        stack.enter_context(silence(alice.home / ".config", alice.uid, alice.gid))
        began = time.monotonic()
        clients = []
        for _ in range(40):
            clients.append(stack.enter_context(warm.call()))
            clients[-1].sendall(about_alice)
        for _ in range(10):
            asked = time.monotonic()
            assert warm.ask(about_bob) == told(about_bob, "USERID:UNIX:bobby")
            assert time.monotonic() - asked < 1
        assert time.monotonic() - began < DEADLINE - 0.5, "they were answered while hers hang"
        failed = told(about_alice, "ERROR:UNKNOWN-ERROR")
        assert [everything(client) for client in clients] == [failed] * len(clients)
        log = log_of(warm)
    assert log.count("are refused") == 1
    assert log.count(f"uid {alice.uid}") >= len(clients), "the log says whose connection it was"


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(further for child in found for further in descendants(child))]


def wchan(pid: int) -> str:
    """Return where in the kernel a process waits (proc_pid_stack(5))."""
    try:
        return Path(f"/proc/{pid}/stack").read_text()
    except OSError:
        return ""


def is_there(pid: int) -> bool:
    """Return whether a process exists."""
    return Path(f"/proc/{pid}").exists()
