"""What is replied where a user's file, or what stands behind it, can't be had in time, or is long?"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.installed import readable_folder
from helpers.machine import program
from helpers.pairs import everything
from helpers.residents import Resident, connected, resident, system_file
from helpers.single_shot import COMMAND, driver, handler
from helpers.warm import Warm, pause, warming

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("needs_root")

#: What must not become "there is no file" (H2).
ERRORS = ("EMFILE", "ENFILE", "ENOMEM", "EIO", "ESTALE", "ELOOP")


@pytest.fixture
def alice() -> Iterator[tuple[Resident, bytes, Path]]:
    """A user who hides, a query about her, and a system file that lets her."""
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(resident())
        query = stack.enter_context(connected(user.uid)).encode() + b"\r\n"
        path = stack.enter_context(system_file("default { default { allow hide allow spoof } }"))
        user.write("global { hide }")
        yield user, query, path


def failing(path: Path, calls: str, error: str) -> list[str]:
    """Return a command that runs identd so that system calls about a file fail."""
    inject = f"inject={calls}:error={error}"
    return [program("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", inject, *COMMAND]


@pytest.mark.parametrize("calls", ["openat", "%stat", "read"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_file_that_fails_is_not_a_missing_file(
    alice: tuple[Resident, bytes, Path], error: str, calls: str
) -> None:
    """H2. She hides, and her file can't be read just now: in no form of service is her name told."""
    user, query, path = alice
    right = query.strip() + b":ERROR:HIDDEN-USER\r\n", query.strip() + b":ERROR:UNKNOWN-ERROR\r\n"
    command = failing(user.file, calls, error)
    with handler("-C", str(path), command=command) as served:
        assert served.ask(query) in right
    with warming("-C", str(path), command=command) as warm:
        assert warm.ask(query) in right
        assert warm.ask(query) in right


@pytest.mark.parametrize("error", ["ENOENT", "EACCES", "ENOTDIR"])
def test_a_file_that_is_not_there_for_us(alice: tuple[Resident, bytes, Path], error: str) -> None:
    """H2. These say that she wishes nothing: her login name."""
    user, query, path = alice
    right = b"%b:USERID:UNIX:%b\r\n" % (query.strip(), user.name.encode())
    with warming("-C", str(path), command=failing(user.file, "openat", error)) as warm:
        assert warm.ask(query) == right


HIDES = {
    "ProtectHome=yes": 'mkdir -m 0 -p "$1/inaccessible/dir"; mount --bind "$1/inaccessible/dir" "$2"',
    "ProtectHome=tmpfs": 'mount -t tmpfs -o mode=1777 none "$2"',
    "InaccessiblePaths=": 'mkdir -p "$1/inaccessible"; touch "$1/inaccessible/reg"; chmod 0 "$1/inaccessible/reg"; '
                          'mount --bind "$1/inaccessible/reg" "$3"',
    "PrivateTmp=yes": 'mkdir -p "$1/systemd-private-0/tmp"; mount --bind "$1/systemd-private-0/tmp" "$2"',
}  # fmt: skip


@pytest.mark.parametrize("how", HIDES)
def test_homes_that_a_sandbox_hides(alice: tuple[Resident, bytes, Path], how: str) -> None:
    """H2. What systemd puts over homes is not their absence: they may say "hide"."""
    user, query, path = alice
    right = query.strip() + b":ERROR:HIDDEN-USER\r\n", query.strip() + b":ERROR:UNKNOWN-ERROR\r\n"
    with readable_folder() as folder:
        script = f'set -e; mount -t tmpfs none "$1"; {HIDES[how]}; shift 3; exec "$@"'
        arguments = [str(folder), str(user.home.parent), str(user.file)]
        command = [program("unshare"), "-m", "sh", "-c", script, "sh", *arguments, *COMMAND]
        with handler("-C", str(path), command=command) as served:
            assert served.ask(query) in right
        with warming("-C", str(path), command=command) as warm:
            assert warm.ask(query) in right


# A long file.


def median(warm: Warm, query: bytes, times: int = 60) -> float:
    """Return how long a reply takes, in seconds."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        warm.ask(query)
        took.append(time.monotonic() - began)
    return statistics.median(took)


@contextlib.contextmanager
def asking(warm: Warm, query: bytes, clients: int) -> Iterator[None]:
    """Have so many clients ask all the time."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            warm.ask(query)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_long_file_is_its_owners_trouble(alice: tuple[Resident, bytes, Path]) -> None:
    """D6. Eight clients ask about her, whose file has 3,800 blocks: others wait a little longer at most."""
    user, query, path = alice
    with resident() as bob, connected(bob.uid) as ports, warming("-q", "-C", str(path)) as warm:
        about_bob = ports.encode() + b"\r\n"
        user.write("global { hide }")
        pause(1.1)
        with asking(warm, query, 8):
            short = median(warm, about_bob)
        user.write("to 1.2.3.4{hide}" * 3800)
        pause(1.1)
        with asking(warm, query, 8):
            long = median(warm, about_bob)
    # 3 is right; a machine that does other things as well needs room.
    assert long < 4 * short + 0.002, (long, short)


# A name service that is slow.

SLOW = """
import pwd, time
real = pwd.getpwuid
def getpwuid(uid):
    if {first} <= uid < {first} + {count}:
        time.sleep({seconds})
    return real(uid)
pwd.getpwuid = getpwuid
"""


@contextlib.contextmanager
def subuid(line: str) -> Iterator[None]:
    """Add a line to /etc/subuid."""
    path = Path("/etc/subuid")
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + line.encode() + b"\n")
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


@contextlib.contextmanager
def sockets(uids: range) -> Iterator[list[bytes]]:
    """Make a connection for each uid; yield queries about them."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        queries = []
        for uid in uids:
            os.seteuid(uid)
            try:
                client = stack.enter_context(socket.socket())
            finally:
                os.seteuid(0)
            client.connect(listener.getsockname())
            stack.enter_context(listener.accept()[0])
            queries.append(b"%d,%d\r\n" % (client.getsockname()[1], client.getpeername()[1]))
        yield queries


def test_the_uids_of_a_container_count_as_their_users(
    alice: tuple[Resident, bytes, Path], tmp_path: Path
) -> None:
    """D8. The name service takes a minute about 80 uids that she may use: bob is answered within 2 s."""
    user, _, _ = alice
    first = 1_700_000_000
    slow = driver(tmp_path, SLOW.format(first=first, count=65536, seconds=60))
    with contextlib.ExitStack() as stack:
        stack.enter_context(subuid(f"{user.name}:{first}:65536"))
        queries = stack.enter_context(sockets(range(first, first + 80)))
        bob = stack.enter_context(resident())
        about_bob = stack.enter_context(connected(bob.uid)).encode() + b"\r\n"
        warm = stack.enter_context(warming(command=slow))
        pause(1)
        clients = []
        for query in queries * 4:
            clients.append(stack.enter_context(warm.call()))
            clients[-1].sendall(query)
        pause(0.5)
        for _ in range(3):
            began = time.monotonic()
            assert warm.ask(about_bob) == b"%b:USERID:UNIX:%b\r\n" % (about_bob.strip(), bob.name.encode())
            assert time.monotonic() - began < 2
            pause(1.1)  # he is no longer remembered
        assert all(b":ERROR:UNKNOWN-ERROR" in everything(client) for client in clients)
        assert warm.threads() < 16


RENAMED = """
import pwd, time
def getpwuid(uid, real=pwd.getpwuid):
    found = real(uid)
    if uid == {uid}:
        name = open({path!r}).read()
        time.sleep(1.6)
        found = pwd.struct_passwd((name, *found[1:]))
    return found
pwd.getpwuid = getpwuid
"""


def test_a_name_counts_from_when_it_was_asked_for(alice: tuple[Resident, bytes, Path], tmp_path: Path) -> None:
    """W10. The name service takes 1.6 s: after that a name is too old to be told once more."""
    user, query, _ = alice
    with readable_folder() as folder, contextlib.ExitStack() as stack:
        name = folder / "name"
        name.write_text("old")
        command = driver(tmp_path, RENAMED.format(uid=user.uid, path=str(name)))
        warm = stack.enter_context(warming(command=command))
        assert b":UNIX:old" in warm.ask(query)
        name.write_text("new")
        assert b":UNIX:new" in warm.ask(query)
