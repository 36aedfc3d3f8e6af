"""Does the log say why another server named nobody, and why there is no netlink?  (F9, F12 and F16 of issue 10.)"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.hosts import forbid_netlink
from helpers.machine import AS_NOBODY
from helpers.pairs import PATIENCE
from helpers.residents import system_file
from helpers.single_shot import COMMAND, by_hand, driver, handler
from helpers.warm import log_of, warming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helpers.residents import Resident

pytest_plugins = ["helpers.people"]

#: What a server sends, and what is said of it; None: it sends nothing, "": nobody listens.
CASES: dict[str, tuple[bytes | None, str]] = {
    "refused": (b"", "refused the connection"),
    "silent": (None, "gave no reply within 0.3 s"),
    "no reply": (b"hello world", 'said "hello world", which is not a reply'),
    "an error": (b"PORTS:ERROR:NO-USER", "replied ERROR: NO-USER"),
    "wrong ports": (b"1,2:USERID:UNIX:x", "replied about wrong ports: 1,2, not PORTS"),
    "half a reply": (b"PORTS:USERID:UNIX:", 'said "PORTS:USERID:UNIX:", which is not a reply'),
}

#: Runs before identd: three seconds of silence are too long for a test.
HASTY = "from lookup.config import forward; forward.FORWARD_SECONDS = 0.3"


@contextlib.contextmanager
def servers(ports: str) -> Iterator[dict[str, int]]:
    """A server for each case: give their ports."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, (says, _) in CASES.items():
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found[name] = listener.getsockname()[1]
            if says != b"":
                listener.listen()
                stack.callback(listener.shutdown, socket.SHUT_RDWR)
                answer = None if says is None else says.replace(b"PORTS", ports.encode()) + b"\r\n"
                threading.Thread(target=_serve, args=(listener, answer), daemon=True).start()
        yield found


def _serve(listener: socket.socket, answer: bytes | None) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # EINVAL: shut down
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            connection.recv(100)
            if answer is not None:
                connection.sendall(answer)
            while answer is None and connection.recv(100):
                pass


def said(carol: Resident, port: int, case: str, ports: str) -> str:
    """Return the line of the log."""
    what = CASES[case][1].replace("PORTS", ports)
    return f"identd: uid {carol.uid}: the server at 127.0.0.1 port {port} {what}"


def test_a_users_own_forward(carol: Resident, ports: str, tmp_path: Path) -> None:
    """The warm process logs how a server failed that a user's file names, at its normal level; the user is named."""
    system = "default { default { allow forward allow spoof } }"
    with servers(ports) as listening, system_file(system) as path, warming(
        "-S", "-C", str(path), command=driver(tmp_path, HASTY), stderr=subprocess.PIPE
    ) as warm:
        for port in listening.values():
            carol.write(f"global {{ forward 127.0.0.1 {port} }}")
            assert warm.ask(ports.encode() + b"\r\n") == f"{ports}:USERID:UNIX:{carol.name}\r\n".encode()
        log = log_of(warm).splitlines()
    assert [line for line in log if "the server at" in line] == [
        said(carol, port, case, ports) for case, port in listening.items()
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_forward_that_is_forced(carol: Resident, ports: str, tmp_path: Path, case: str) -> None:
    """So does a single query's process where the system file names the server: the user is hidden."""
    with servers(ports) as listening:
        port = listening[case]
        with system_file(f"default {{ default {{ force forward 127.0.0.1 {port} }} }}") as path:
            with handler("-S", "-C", str(path), command=driver(tmp_path, HASTY)) as served:
                assert served.ask(ports.encode() + b"\r\n") == f"{ports}:ERROR:HIDDEN-USER\r\n".encode()
                log = served.log().splitlines()
            assert log[0] == said(carol, port, case, ports)
            assert len(log) == 2 and "HIDDEN-USER" in log[1]
            if case in ("refused", "an error"):
                words = [*driver(tmp_path, HASTY), "--explain", ports, "-C", str(path)]
                told = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
                assert f"rule     the server at 127.0.0.1 port {port} {CASES[case][1]}\n" in told.stdout


def test_a_server_without_an_address(carol: Resident, ports: str) -> None:
    """A host that has no address is nobody to ask, and the log says so."""
    with system_file("default { default { force forward nobody.invalid 113 } }") as path, handler(
        "-S", "-C", str(path)
    ) as served:
        assert served.ask(ports.encode() + b"\r\n").endswith(b":ERROR:HIDDEN-USER\r\n")
        log = served.log()
    assert f"identd: uid {carol.uid}: where to ask is not known: " in log and '"nobody.invalid"' in log


# Octets, once.


def test_octets_of_a_query() -> None:
    """What is no ASCII is escaped once, and a backslash too, so that nobody takes one for the other."""
    with handler("-S") as served:
        served.ask(b"\xff\\xff'\"\x1b\r\n")
        assert served.log() == "identd: 127.0.0.1 sent an invalid query: \\xff\\\\xff'\"\\x1b\n"
    assert by_hand(b"\xff\\\n").stderr == "identd: an invalid query: \\xff\\\\\n"


@pytest.mark.parametrize("form", FORMS)
def test_octets_of_names_and_files(carol: Resident, ports: str, form: str) -> None:
    """A reply, another's name in quotes, and a word of a file that can't be read: each is escaped once."""
    carol.write("global { hi\xffde }")
    with system_file('default { default { allow spoof } lport 1 { force reply "x\\x1b\\xff" } }') as path:
        log = _log(form, ports, "-C", str(path))
    assert re.search(r"expected, not hi\\xffde$", log, re.MULTILINE), log
    with system_file('default { default { force reply "x\\x1b\\xff\\\\" } }') as path:
        log = _log(form, ports, "-C", str(path))
    assert f"was told {ports}:USERID:UNIX:x\\x1b\\xff\\\\ (" in log


def _log(form: str, ports: str, *options: str) -> str:
    """Return what is logged about a query."""
    query = ports.encode() + b"\r\n"
    if form == "single":
        with handler("-S", *options) as served:
            served.ask(query)
            return served.log()
    with warming("-S", *options, stderr=subprocess.PIPE) as warm:
        warm.ask(query)
        return log_of(warm)


# No netlink.


@pytest.mark.parametrize("form", FORMS)
def test_no_netlink(carol: Resident, ports: str, form: str) -> None:
    """Where psutil is asked and sees nothing of other users, the query's line names netlink, which would have told."""
    query = ports.encode() + b"\r\n"
    if form == "single":
        with handler("-S", command=COMMAND, preexec_fn=forbid_netlink, **AS_NOBODY) as served:
            assert served.ask(query) == f"{ports}:ERROR:UNKNOWN-ERROR\r\n".encode()
            log = served.log()
    else:
        with warming("-S", preexec_fn=forbid_netlink, stderr=subprocess.PIPE, **AS_NOBODY) as warm:
            assert warm.ask(query) == f"{ports}:ERROR:UNKNOWN-ERROR\r\n".encode()
            log = log_of(warm)
    (line,) = (line for line in log.splitlines() if "was told" in line)
    assert "sock_diag can't be asked: no netlink socket: Address family not supported" in line
