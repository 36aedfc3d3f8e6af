"""What comes of a query when one of the system calls that it needs fails?

The calls are those that strace sees the process really make, from identd's first module on, so that a new one is
covered. Each is made to fail once, with each of six errors. A part of that runs each time, another one each day;
IDENTD_INJECT says how many failures are tried for each form of service: a number, or "all".
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, program
from helpers.residents import connected, resident, system_file
from helpers.single_shot import COMMAND, ending, handler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.residents import Resident

ERRORS = ("EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "EPERM")

#: How many failures are tried for each form where not all of them are.
SAMPLE = 40

#: Seconds for a query, those that strace takes included.
DEADLINE = 10.0

#: Seconds in which a second reply would come, where the connection does not end.
SECOND_REPLY_SECONDS = 1.0

#: Seconds for the start of the warm process, where it does not say that it serves.
START_SECONDS = 3.0

#: Calls that do not fail, or after which there is no process of which anything could be expected.
SPARED = {"exit", "exit_group", "execve", "rt_sigreturn", "restart_syscall"}

#: No call of the warm process fails before it serves. What may be missing when it starts is not what this is about.
FORMS = ["nobody", "root", "warm"]


class Scene(NamedTuple):
    """Whom a query is about, how it is served, and which replies are right."""

    form: str
    query: bytes
    options: tuple[str, ...]
    right: bytes


class Failure(NamedTuple):
    """The n-th call of a kind that a process makes."""

    call: str
    number: int


@pytest.fixture(scope="module")
def hers() -> Iterator[tuple[Resident, bytes]]:
    """A user with a file, and a connection of theirs."""
    with resident() as user, connected(user.uid) as ports:
        yield user, ports.encode()


@pytest.fixture(params=["named", "hidden"])
def scenes(request: pytest.FixtureRequest, hers: tuple[Resident, bytes]) -> Iterator[dict[str, Scene]]:
    """The forms of service: where she is named and nobody may do anything, and where she may hide and does."""
    user, query = hers
    user.write("global { hide }")
    hides = request.param == "hidden"
    with system_file("default { default { allow hide } }" if hides else "default { default { force spoof } }") as path:
        right = b"ERROR:HIDDEN-USER" if hides else b"USERID:UNIX:" + user.name.encode()
        yield {form: Scene(form, query, ("-S", "-C", str(path)), query + b":" + right + b"\r\n") for form in FORMS}


def served(scene: Scene, strace: list[str], ends: bool = True) -> tuple[bytes, float]:
    """Ask an identd that strace runs; return all that the client gets, and how long that takes.

    :param ends: whether the connection has to end: strace does not carry out the close that it makes fail.
    """
    if scene.form == "warm":
        return _served_warm(scene, strace, ends)
    who = AS_NOBODY if scene.form == "nobody" else {}
    with handler(*scene.options, command=[*strace, *COMMAND], stderr=subprocess.DEVNULL, **who) as one:
        began = time.monotonic()
        reply = _ask(one.client, scene.query, ends)
        one.status()
        return reply, time.monotonic() - began


def _served_warm(scene: Scene, strace: list[str], ends: bool) -> tuple[bytes, float]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [*strace, *COMMAND, *scene.options], stdin=listener.fileno(), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        address = listener.getsockname()
    with ending(process):
        try:
            assert process.stderr is not None
            # It says that it serves, or has ended, or could not say so.
            select.select([process.stderr], [], [], START_SECONDS)
            began = time.monotonic()
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(address) as client:
                return _ask(client, scene.query, ends), time.monotonic() - began
            return b"", 0.0
        finally:
            # strace, and what it runs: a session of ours.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _ask(client: socket.socket, query: bytes, ends: bool) -> bytes:
    client.settimeout(DEADLINE)
    reply = b""
    try:
        client.sendall(query + b"\r\n")
        while more := client.recv(1000):
            reply += more
            if not ends:
                client.settimeout(SECOND_REPLY_SECONDS)
    except ConnectionError:  # it ended without a reply, and the query was not read
        pass
    except TimeoutError:
        if ends or not reply:
            raise
    return reply


def failures(scene: Scene) -> list[Failure]:
    """Return which calls a query makes, as one process or another counts them."""
    with readable_folder() as folder:
        trace = folder / "trace"
        trace.touch()
        trace.chmod(0o666)
        reply, _ = served(scene, [program("strace"), "-f", "-o", str(trace)])
        lines = trace.read_text(errors="replace").splitlines()
    assert reply == scene.right
    begin = r"\baccept4?\(" if scene.form == "warm" else r"identserver/(__pycache__/)?start\."
    begun = False
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[Failure, None] = {}
    for line in lines:
        match = re.match(r"([0-9]+) +([a-z_0-9]+)\(", line)
        if match is None:
            continue
        counts[match[1], match[2]] += 1
        if begun and match[2] not in SPARED:
            found[Failure(match[2], counts[match[1], match[2]])] = None
        begun = begun or re.search(begin, line) is not None
    assert begun
    return list(found)


def chosen(found: list[Failure]) -> list[tuple[Failure, str]]:
    """Return what is to fail: everything, or another part of it each day."""
    every = [(failure, error) for failure in found for error in ERRORS]
    wanted = os.environ.get("IDENTD_INJECT", str(SAMPLE))
    if wanted == "all":
        return every
    return random.Random(time.strftime("%Y-%m-%d")).sample(every, min(int(wanted), len(every)))


@pytest.mark.parametrize("form", FORMS)
def test_no_failure_names_another(scenes: dict[str, Scene], form: str) -> None:
    """The right reply or an error comes, once and in time, or none where the call was needed to give one."""
    scene = scenes[form]
    allowed = {b"", scene.right, scene.query + b":ERROR:UNKNOWN-ERROR\r\n", scene.query + b":ERROR:HIDDEN-USER\r\n"}
    wrong = []
    outcomes: Counter[bytes] = Counter()
    found = failures(scene)
    for failure, error in chosen(found):
        inject = f"inject={failure.call}:error={error}:when={failure.number}"
        try:
            strace = [program("strace"), "-f", "-o", "/dev/null", "-e", inject]
            reply, took = served(scene, strace, ends=failure.call != "close")
        except (TimeoutError, subprocess.TimeoutExpired):
            reply, took = b"(nothing, and no end)", DEADLINE
        outcomes[reply] += 1
        if reply not in allowed or took >= DEADLINE:
            wrong.append((inject, reply, took))
    print(f"{len(found)} calls", outcomes)
    assert not wrong
