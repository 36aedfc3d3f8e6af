"""Does a single shot come to its end, whatever an owner does to whoever reads their file?  (D2, D4, P1, H2, H3.)"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.fuse import silence
from helpers.hosts import Person
from helpers.machine import AS_NOBODY, program
from helpers.residents import connected, resident, system_file
from helpers.single_shot import COMMAND, handler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.residents import Resident

pytest_plugins = ["helpers.people"]

#: She may hide, so that her file matters.
SYSTEM = "default { default { allow hide } }"

#: How many processes may be left behind for one owner, and seconds in which each query comes to an end.
FEW, DEADLINE = 4, 5.0

FORMS = pytest.mark.parametrize("who", [{}, AS_NOBODY], ids=["root", "nobody"])


@pytest.fixture
def hers() -> Iterator[Resident]:
    """A user whose file system and processes may be spoilt."""
    with resident() as user:
        yield user


@pytest.fixture
def query(hers: Resident) -> Iterator[bytes]:
    """A connection of theirs."""
    with connected(hers.uid) as ports:
        yield ports.encode()


def stuck() -> list[int]:
    """Return the threads of this host that wait for a FUSE file system."""
    found = []
    for wchan in Path("/proc").glob("[0-9]*/task/*/wchan"):
        with contextlib.suppress(OSError):  # it has ended
            if "request_wait" in wchan.read_text() or "fuse" in wchan.read_text():
                found.append(int(wchan.parent.name))
    return found


@FORMS
def test_a_file_system_that_never_answers(hers: Resident, query: bytes, who: dict[str, Any]) -> None:
    """D2. Each query has its reply and its process ends in time; few processes are left behind for her."""
    hers.write("global { hide }", hers.other_file)
    before = stuck()
    folder = hers.other_file.parent
    with system_file(SYSTEM) as path, silence(folder, hers.uid, hers.gid), contextlib.ExitStack() as every:
        began = time.monotonic()
        asked = [every.enter_context(handler("-C", str(path), **who)) for _ in range(8)]
        for one in asked:
            one.client.sendall(query + b"\r\n")
        for one in asked:
            assert one.read() in (query + b":ERROR:UNKNOWN-ERROR\r\n", query + b":ERROR:HIDDEN-USER\r\n")
            assert one.status() == 0
        # They share two processors.
        assert time.monotonic() - began < 2 * DEADLINE
        assert 1 <= len([thread for thread in stuck() if thread not in before]) <= FEW


@FORMS
def test_a_file_that_does_not_matter_is_not_waited_for(hers: Resident, query: bytes, who: dict[str, Any]) -> None:
    """D2. Where everything is forced, nobody waits for her file system; on one connection with many queries, too."""
    hers.write("global { hide }", hers.other_file)
    before = stuck()
    text = "default { default { force hide } }"
    with system_file(text) as path, silence(hers.other_file.parent, hers.uid, hers.gid):
        began = time.monotonic()
        with handler("-C", str(path), "--multi-query", **who) as one:
            one.client.sendall(6 * (query + b"\r\n"))
            one.client.shutdown(socket.SHUT_WR)
            assert one.read() == 6 * (query + b":ERROR:HIDDEN-USER\r\n")
            assert one.status() == 0
        assert time.monotonic() - began < DEADLINE
        assert len([thread for thread in stuck() if thread not in before]) <= FEW


#: Sends a signal to whatever is hers, if it is younger than this process.
HUNT = """
import os, signal, time
caught = set()
end = time.monotonic() + seconds
while time.monotonic() < end:
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            if pid not in caught and pid > os.getpid():
                os.kill(pid, number)
                caught.add(pid)
        except OSError:
            pass
len(caught)
"""


@contextlib.contextmanager
def hunted(uid: int, number: int, seconds: float) -> Iterator[Person]:
    """Have a user send a signal to each new process of theirs, for some seconds."""
    with Person(uid) as hunter:
        threading.Thread(
            target=hunter.tell, args=(HUNT,),
            kwargs={"seconds": seconds, "number": int(number)}, daemon=True,
        ).start()  # fmt: skip
        yield hunter


def write_slowly(user: Resident) -> None:
    """Leave a file that looks as if it were being written, so that it is read for a while."""
    user.write("global {")
    os.utime(user.file)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_the_owner_stops_whatever_is_theirs(hers: Resident, query: bytes, number: int) -> None:
    """D4. A process that became her can be stopped and killed by her: the client has one reply in time all the same."""
    with system_file(SYSTEM) as path, hunted(hers.uid, number, 6.0):
        for _ in range(3):
            write_slowly(hers)
            began = time.monotonic()
            with handler("-C", str(path)) as served:
                reply = served.ask(query + b"\r\n")
                assert time.monotonic() - began < DEADLINE
                assert served.status() == 0
            errors = (query + b":ERROR:UNKNOWN-ERROR\r\n", query + b":ERROR:HIDDEN-USER\r\n")
            assert reply in (*errors, b"%b:USERID:UNIX:%b\r\n" % (query, hers.name.encode()))


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_one_reply_to_each_of_several_queries(hers: Resident, query: bytes, number: int) -> None:
    """P1. However she stops the processes that read her file: each query has one reply, as only the parent writes."""
    with system_file(SYSTEM) as path, hunted(hers.uid, number, 10.0):
        write_slowly(hers)
        with handler("--multi-query", "-C", str(path)) as served:
            served.client.sendall(2 * (query + b"\r\n"))
            served.client.shutdown(socket.SHUT_WR)
            lines = served.read().splitlines()
            assert served.status() == 0
    assert len(lines) == 2
    assert all(line.startswith(query + b":") for line in lines)


@FORMS
@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM", "EIO", "ESTALE", "ELOOP"])
@pytest.mark.parametrize("call", ["openat", "newfstatat", "read"])
def test_a_file_that_cant_be_read(hers: Resident, query: bytes, who: dict[str, Any], error: str, call: str) -> None:
    """H2. That her file can't be opened, looked at or read is not "there is none": it says that she hides."""
    hers.write("global { hide }")
    inject = [program("strace"), "-f", "-o", "/dev/null", "-P", str(hers.file), "-e", f"inject={call}:error={error}"]
    with system_file(SYSTEM) as path, handler("-C", str(path), command=[*inject, *COMMAND], **who) as served:
        reply = served.ask(query + b"\r\n")
        assert served.status() == 0
    assert reply in (query + b":ERROR:UNKNOWN-ERROR\r\n", query + b":ERROR:HIDDEN-USER\r\n")


@FORMS
@pytest.mark.parametrize("system", ["default { default { allow spoof } }", "default { default { deny hide } }"])
def test_who_may_not_hide_is_named(hers: Resident, query: bytes, who: dict[str, Any], system: str) -> None:
    """H3. Her file hangs, and she could not hide by it: she is named."""
    hers.write("global { hide }", hers.other_file)
    folder = hers.other_file.parent
    with system_file(system) as path, silence(folder, hers.uid, hers.gid), handler("-C", str(path), **who) as served:
        assert served.ask(query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (query, hers.name.encode())


@FORMS
def test_the_log_has_the_uid_of_whoever_is_not_named(hers: Resident, query: bytes, who: dict[str, Any]) -> None:
    """H3. Once the kernel has told the owner, the log has them, whatever becomes of the query."""
    hers.write("global { hide }", hers.other_file)
    folder = hers.other_file.parent
    with system_file(SYSTEM) as path, silence(folder, hers.uid, hers.gid), handler("-SC", str(path), **who) as served:
        assert b":ERROR:" in served.ask(query + b"\r\n")
        (line,) = [line for line in served.log().splitlines() if "was told" in line]
    assert f"uid {hers.uid}" in line
