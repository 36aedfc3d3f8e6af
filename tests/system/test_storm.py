"""Is a connection that somebody holds told truly while hundreds ask, and sockets with the same ports come and go?"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from helpers.hosts import Person, family_of
from helpers.machine import ROOT
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, ending
from helpers.warm import until_it_serves

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.people"]

#: Seconds, and how many ask at a time (of the form with a process for each query, which are slow, fewer in a sample).
SECONDS = float(os.environ.get("IDENTD_STORM_SECONDS", "3"))
ASKERS = {"warm": 200, "single": 200 if SECONDS > 10 else 20}

#: Processes of single queries at a time; the others wait in the backlog.
AT_ONCE = 8

HERE, HERE_6 = "127.0.0.1", "::1"


class Held(NamedTuple):
    """A connection that stays: both ends as the asker sees them, and the reply that is true of it."""

    kind: str
    ours: tuple[str, int]
    far: tuple[str, int]
    reply: bytes


@pytest.fixture
def held(alice_uid: int, bob_uid: int) -> Iterator[list[Held]]:
    """Two users' connections of every kind that somebody can hold."""
    found: list[Held] = []
    with contextlib.ExitStack() as stack:
        hosts = (f"127.0.0.{number}" for number in itertools.count(10))

        def far_end(host: str) -> socket.socket:
            listener = stack.enter_context(socket.create_server((host, 0), family=family_of(host)))
            listener.settimeout(PATIENCE)
            return listener

        def note(kind: str, uid: int, ours: int, far: tuple[str, int], host: str = HERE) -> None:
            query = b"%d,%d" % (ours, far[1])
            found.append(Held(kind, (host, ours), far, query + b":USERID:UNIX:" + pwd.getpwuid(uid)[0].encode()))

        for uid in (alice_uid, bob_uid):
            person = stack.enter_context(Person(uid))
            for kind in ("called", "half-closed", "over IPv6", "mapped"):
                host = HERE_6 if kind == "over IPv6" else next(hosts)
                listener = far_end(host)
                address = (host, listener.getsockname()[1])
                # With SO_REUSEADDR, so that others can have the same port for other far ends.
                source = ("::ffff:127.0.0.1" if kind == "mapped" else HERE_6 if ":" in host else HERE, 0)
                target = (f"::ffff:{host}", address[1]) if kind == "mapped" else address
                ours, _ = person.dial(target, source=source)
                accepted = stack.enter_context(listener.accept()[0])
                if kind == "half-closed":
                    accepted.shutdown(socket.SHUT_WR)
                note(kind, uid, ours[1], address, HERE_6 if ":" in host else HERE)
            host = next(hosts)
            port = person.tell("listener = listen('127.0.0.1'); listener.getsockname()[1]")
            caller = stack.enter_context(socket.create_connection((HERE, port), PATIENCE, source_address=(host, 0)))
            person.tell("kept.append(listener.accept()[0])")
            note("accepted", uid, port, caller.getsockname())
        yield found


@pytest.fixture(params=["warm", "single"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The name of a form, and the port on which it serves, over IPv4 and IPv6."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024) as listener:
        port: int = listener.getsockname()[1]
        if request.param == "warm":
            process = subprocess.Popen(
                COMMAND, stdin=listener.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with ending(process):
                until_it_serves(process)
                yield request.param, port
            return
        # As an inetd does; a listener without a time limit would hold its thread for ever.
        over = threading.Event()
        listener.settimeout(0.2)

        def serve() -> None:
            while not over.is_set():
                try:
                    accepted, _ = listener.accept()
                except OSError:  # nobody has come
                    continue
                with accepted:
                    accepted.setblocking(True)
                    fd = accepted.fileno()
                    subprocess.run(COMMAND, stdin=fd, stdout=fd, stderr=subprocess.DEVNULL, timeout=PATIENCE * 3)

        servers = [threading.Thread(target=serve) for _ in range(AT_ONCE)]
        for server in servers:
            server.start()
        try:
            yield request.param, port
        finally:
            over.set()
            for server in servers:
                server.join()


def ask(port: int, ours: tuple[str, int], far: tuple[str, int]) -> bytes:
    """Ask as the far end of a connection would, and return the reply; ``b""``: there is none."""
    with socket.socket(family_of(far[0])) as client:
        client.settimeout(PATIENCE * 3)
        client.bind((far[0], 0))
        client.connect((ours[0], port))
        client.sendall(b"%d,%d\r\n" % (ours[1], far[1]))
        with contextlib.suppress(ConnectionResetError):
            return everything(client).rstrip(b"\r\n")
        return b""


def come_and_go(uid: int, host: str, port: int, pairs: list[tuple[int, int]], seconds: float) -> None:
    """As another user, make and close connections with the ports of those that are held, and print what was said.

    Their far end has another address; its port and ours are the same. (This runs in a process of its own.)
    """
    os.setgroups([])
    os.setresuid(uid, uid, uid)
    name = pwd.getpwuid(uid).pw_name.encode()
    end = time.monotonic() + seconds
    listeners = {far: socket.create_server((host, far), backlog=64) for _, far in pairs}
    asked, wrong = 0, []
    while time.monotonic() < end:
        ours, far = random.choice(pairs)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # No TIME_WAIT, so that the port is free at once.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                connection.bind((HERE, ours))
                connection.connect((host, far))
            except OSError:
                continue
            with listeners[far].accept()[0]:
                kind = random.randrange(200)
                if kind == 0:
                    reply, right = ask(port, (HERE, ours), (host, far)), [b"USERID:UNIX:" + name]
                elif kind == 1:
                    # Closed while the query is under way: there is nobody, or it was asked about before.
                    closing = threading.Timer(random.random() / 50, connection.close)
                    closing.start()
                    reply = ask(port, (HERE, ours), (host, far))
                    closing.join()
                    right = [b"USERID:UNIX:" + name, b"ERROR:NO-USER", b"ERROR:UNKNOWN-ERROR", b""]
                else:
                    continue
                asked += 1
                if reply.partition(b":")[2] not in right:
                    wrong.append(reply.decode())
    print(json.dumps([asked, wrong]))


def test_not_one_wrong_name(
    held: list[Held], served: tuple[str, int], alice_uid: int, bob_uid: int
) -> None:
    """Each reply about what is held names its holder, and each about what comes and goes names its own user, if any."""
    form, port = served
    pairs = [(one.ours[1], one.far[1]) for one in held if one.kind not in ("over IPv6", "accepted")]
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests'), str(ROOT / 'tests/system')]!r}\n"
    code += "from test_storm import come_and_go; come_and_go(*eval(sys.argv[1]))"
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", code, repr((uid, f"127.0.1.{number}", port, pairs, SECONDS))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, uid in enumerate((alice_uid, bob_uid, 65534), 1)
    ]
    replies: list[tuple[Held, bytes]] = []
    end = time.monotonic() + SECONDS

    def keep_asking(number: int) -> None:
        for one in itertools.islice(itertools.cycle(held), number % len(held), None):
            replies.append((one, ask(port, one.ours, one.far)))
            if time.monotonic() > end:
                return

    askers = [threading.Thread(target=keep_asking, args=(number,)) for number in range(ASKERS[form])]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    said = []
    for process in crowd:
        output, errors = process.communicate(timeout=PATIENCE * 3)
        assert process.returncode == 0, errors
        said.append(json.loads(output))
    print(form, len(replies), said)
    assert [(one.kind, reply) for one, reply in replies if reply != one.reply] == []
    assert len(replies) >= len(askers)
    assert [wrong for _, wrong in said] == [[]] * len(crowd)
    assert sum(asked for asked, _ in said) > 0
