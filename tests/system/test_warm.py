"""Does the warm process answer as the single-shot one does, and go on whatever clients and the name service do?"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conftest import IDENTD, Pair, connect, program, run
from hosts import (
    CLOSE_WAIT,
    FIN_WAIT2,
    SYN_SENT,
    TIME_WAIT,
    Person,
    Town,
    call,
    family_of,
    inside,
    listening,
    login,
    nameless_uid,
    other,
    table,
    until,
    welcome,
)
from installed import free_port, readable_folder, until_it_listens
from residents import connected, resident, system_file
from single_shot import COMMAND, PATIENCE, driver, ending, feed, handler, me, start
from warm import Warm, everything, log_of, needs_nobody_to_import, pause, until_it_serves, warming

import identd
from bench import load
from lookup.workers import THREADS_PER_OWNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hosts import Ends

pytest_plugins = ["people"]


def named(pair: Pair) -> bytes:
    """Return the right answer about a connection of ours."""
    return b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())


def reset(client: socket.socket) -> None:
    """Close a connection with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# The kernel's traps, from end to end: a query over the network about a connection of a real user.


class Question(NamedTuple):
    """A connection, who is to be told as its owner (or why nobody), and over which device the far end asks."""

    ends: Ends
    told: Person | str
    device: str = "lan"

    @property
    def reply(self) -> bytes:
        ports = b"%d,%d" % (self.ends[0][1], self.ends[1][1])
        if isinstance(self.told, str):
            return b"%b:ERROR:%b\r\n" % (ports, self.told.encode())
        try:
            return b"%b:USERID:UNIX:%b\r\n" % (ports, pwd.getpwuid(self.told.uid).pw_name.encode())
        except KeyError:
            return b"%b:USERID:OTHER:%d\r\n" % (ports, self.told.uid)

    def host(self, end: int) -> str:
        """Return the address of an end, a link-local one with its scope, which is called the same on both sides."""
        host = self.ends[end][0]
        return f"{host}%{self.device}" if host.startswith("fe80:") else host


def connected_over_ipv4(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who connected, over IPv4."""
    with call(town, alice) as (ends, _far):
        yield Question(ends, alice)


def connected_over_ipv6(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who connected, over IPv6."""
    with call(town, alice, town.THERE_6) as (ends, _far):
        yield Question(ends, alice)


def accepted(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who accepted."""
    with welcome(town, alice, town.HERE, town.HERE) as (ends, _far):
        yield Question(ends, alice)


def listener_only(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Nothing but a listener has the port."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    yield Question(((town.HERE, port), (town.THERE, 6667)), "NO-USER")


def not_accepted(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Nobody has accepted the connection yet."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), socket.create_connection((town.HERE, port)) as caller:
        yield Question(((town.HERE, port), caller.getsockname()), "NO-USER")


def time_wait(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """What remains of a closed connection, of which the kernel says uid 0."""
    with call(town, alice) as (ends, far):
        alice.tell("kept.pop().close()")
        far.close()
        until(lambda: table(town.here, ends) == (TIME_WAIT, 0, 0))
        yield Question(ends, "NO-USER")


def orphaned(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Its holder has closed the connection, its peer has not."""
    with call(town, alice) as (ends, _far):
        alice.tell("kept.pop().close()")
        until(lambda: table(town.here, ends) == (FIN_WAIT2, 0, 0))
        yield Question(ends, "NO-USER")


def half_closed_by_the_peer(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The peer sends no more."""
    with call(town, alice) as (ends, far):
        far.shutdown(socket.SHUT_WR)
        until(lambda: (table(town.here, ends) or [0])[0] == CLOSE_WAIT)
        yield Question(ends, alice)


def half_closed_by_its_holder(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The holder sends no more, and still holds it."""
    with call(town, alice) as (ends, _far):
        alice.tell("kept[-1].shutdown(socket.SHUT_WR)")
        until(lambda: (table(town.here, ends) or [0])[0] == FIN_WAIT2)
        yield Question(ends, alice)


def not_answered(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The peer has not consented yet (SYN_SENT): a firewall asks then. Its listener's queue is full."""
    with town.listen(town.THERE) as listener:
        listener.listen(0)
        alice.dial(listener.getsockname())
        ends = alice.dial(listener.getsockname(), wait=False)
        assert (table(town.here, ends) or [0])[0] == SYN_SENT
        yield Question(ends, alice)


def dual_stack(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A `::` socket of which the peer is an IPv4 one."""
    with welcome(town, alice, "::", town.HERE, socket.AF_INET6) as (ends, _far):
        yield Question(ends, alice)


def link_local(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A link-local connection."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, _far):
        yield Question(ends, alice)


def link_local_on_two_links(town: Town, alice: Person, bob: Person) -> Iterator[Question]:
    """Two users have the same ports and addresses on two links: the link that the query comes over decides."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, far), listening(
        town, town.THERE_LINK, far.getsockname()[1]
    ):
        bob.dial((f"{town.THERE_LINK}%vpn", ends[1][1]), source=(f"{town.HERE_LINK}%vpn", ends[0][1]))
        yield Question(ends, alice, "lan")
        yield Question(ends, bob, "vpn")


def bound_to_a_device(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A socket that is bound to a device, which hides it from requests without one."""
    with call(town, alice, town.THERE, town.elsewhere, device="vpn") as (ends, _far):
        yield Question(ends, alice)


def two_devices_two_owners(town: Town, alice: Person, bob: Person) -> Iterator[Question]:
    """Two users' connections differ in the device alone: nobody is named."""
    with call(town, alice, town.THERE, device="lan") as (ends, far), listening(
        town, town.THERE, far.getsockname()[1]
    ):
        bob.dial(ends[1], source=ends[0], device="vpn")
        yield Question(ends, "UNKNOWN-ERROR")


def without_passwd_entry(town: Town, *_: Person) -> Iterator[Question]:
    """An owner who has no name."""
    with Person(nameless_uid(), town.here) as stranger, call(town, stranger) as (ends, _far):
        yield Question(ends, stranger)


def another_asker(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Whoever asks from another address than the peer's learns nothing."""
    with call(town, alice) as (ends, _far):
        yield Question(other(ends, client=town.MUTED), "NO-USER")


def another_server(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A query that comes to another address of this host is about another connection."""
    with call(town, alice) as (ends, _far):
        yield Question(other(ends, server=town.HERE_TOO), "NO-USER")


TRAPS = (
    connected_over_ipv4, connected_over_ipv6, accepted, listener_only, not_accepted, time_wait, orphaned,
    half_closed_by_the_peer, half_closed_by_its_holder, not_answered, dual_stack, link_local, link_local_on_two_links,
    bound_to_a_device, two_devices_two_owners, without_passwd_entry, another_asker, another_server,
)  # fmt: skip


def ask_as_the_peer(town: Town, question: Question, port: int) -> socket.socket:
    """Send a query from the far end's address to identd on ours, and return the asker's socket."""
    with inside(town.elsewhere if question.device == "vpn" else town.there):
        asker = socket.socket(family_of(question.host(0)))
    asker.settimeout(PATIENCE)
    try:
        asker.bind(_address(town, question, 1, 0))
        asker.connect(_address(town, question, 0, port))
        asker.sendall(b"%d,%d\r\n" % (question.ends[0][1], question.ends[1][1]))
    except BaseException:
        asker.close()
        raise
    return asker


def _address(town: Town, question: Question, end: int, port: int) -> Any:
    """Return an address with its scope as a number of the asker's host."""
    with inside(town.elsewhere if question.device == "vpn" else town.there):
        return socket.getaddrinfo(question.host(end), port)[0][4]


def by_a_single_shot(town: Town, question: Question) -> bytes:
    """Ask an identd that was started for this one query."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(town.listen(question.host(0), town.here))
        asker = stack.enter_context(ask_as_the_peer(town, question, listener.getsockname()[1]))
        connection, _ = listener.accept()
        with connection, inside(town.here):
            process = stack.enter_context(ending(start(COMMAND, connection)))
        reply = everything(asker)
        assert process.wait(PATIENCE) == 0
        return reply


@pytest.fixture(scope="module")
def foreground(town: Town) -> Iterator[int]:
    """The port of a warm identd that has opened its own socket, on all addresses of the host."""
    needs_nobody_to_import()
    with inside(town.here):
        port = free_port()
        process = subprocess.Popen(
            [*COMMAND, "--foreground", "--port", str(port)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    with ending(process):
        until_it_serves(process)
        yield port


@pytest.mark.parametrize("trap", TRAPS, ids=[trap.__name__ for trap in TRAPS])
def test_the_kernels_traps(
    town: Town, alice: Person, bob: Person, foreground: int, trap: Callable[..., Iterator[Question]]
) -> None:
    """Both drivers give the one right answer, the warm one when it meets the owner first and again."""
    for question in trap(town, alice, bob):
        replies = {"single": by_a_single_shot(town, question)}
        for time_ in ("first", "again"):
            with ask_as_the_peer(town, question, foreground) as asker:
                replies[time_] = everything(asker)
        assert replies == dict.fromkeys(("single", "first", "again"), question.reply)


# What a client may send, and what the options make of it. QUERY and NAME stand for a connection of ours.

#: Options, what is sent, what comes back.
EXCHANGES: list[tuple[tuple[str, ...], bytes, bytes]] = [
    ((), b"QUERY\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b" QUERY \n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\r\nQUERY\r\n1,1\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\r\n" + b"x" * 5000, b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\r\n" + b"x" * (1 << 18), b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"1,1\r\n", b"1,1:ERROR:NO-USER\r\n"),
    ((), b"0,5\r\n", b"0,5:ERROR:INVALID-PORT\r\n"),
    ((), b"65536,5\r\n", b"65536,5:ERROR:INVALID-PORT\r\n"),
    ((), b"a,b\r\n", b"a,b:ERROR:INVALID-PORT\r\n"),
    ((), b"\r\n", b""),
    ((), b"hello\r\n", b""),
    ((), b"1,2,3\r\n", b""),
    ((), b"\xff\xfe\0\r\n", b""),
    ((), b"x" * 1000, b""),
    ((), b"x" * (1 << 18), b""),
    ((), b"", b""),
    ((), b"1", b""),
    ((), b"1,2", b""),
    ((), b"1,2\r", b""),
    (("-e",), b"1,1\r\n", b"1,1:ERROR:UNKNOWN-ERROR\r\n"),
    (("-e",), b"a,b\r\n", b"a,b:ERROR:UNKNOWN-ERROR\r\n"),
    (("-e",), b"QUERY\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    (("-o",), b"QUERY\r\n", b"QUERY:USERID:OTHER:NAME\r\n"),
    (("-oWIN32", "-c", "UTF-8"), b"QUERY\r\n", b"QUERY:USERID:WIN32,UTF-8:NAME\r\n"),
    (("-oWIN32", "-c", "UTF-8"), b"1,1\r\n", b"1,1:ERROR:NO-USER\r\n"),
    (("-c", "US-ASCII"), b"QUERY\r\n", b"QUERY:USERID:UNIX,US-ASCII:NAME\r\n"),
    (("-r", "guest"), b"1,1\r\n", b"1,1:USERID:UNIX:guest\r\n"),
    (("-r", "guest"), b"QUERY\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    (("-r", "guest"), b"0,1\r\n", b"0,1:ERROR:INVALID-PORT\r\n"),
    (("-R", " a:b "), b"QUERY\r\n", b"QUERY:USERID:UNIX: a:b \r\n"),
    (("-R", " a:b "), b"0,1\r\n", b"0,1:ERROR:INVALID-PORT\r\n"),
    (("-oOS", "-cX", "-e", "-r", "guest"), b"1,1\r\n", b"1,1:USERID:OS,X:guest\r\n"),
    (
        ("--multi-query",), b"QUERY\r\n0,1\r\nQUERY\n1,1\r\n",
        b"QUERY:USERID:UNIX:NAME\r\n0,1:ERROR:INVALID-PORT\r\nQUERY:USERID:UNIX:NAME\r\n1,1:ERROR:NO-USER\r\n",
    ),
    (("--multi-query",), b"QUERY\r\nhello\r\n1,2\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    (("--multi-query",), b"1,1\n" * 1000, b"1,1:ERROR:NO-USER\r\n" * 1000),
    (("--multi-query", "-e", "-R", "x"), b"1,1\r\n0,0\n", b"1,1:USERID:UNIX:x\r\n0,0:ERROR:UNKNOWN-ERROR\r\n"),
]  # fmt: skip


@pytest.fixture(scope="module")
def warm_by_options() -> Iterator[Callable[[tuple[str, ...]], Warm]]:
    """A warm identd for each set of options, started when it is first wanted."""
    with contextlib.ExitStack() as stack:
        started: dict[tuple[str, ...], Warm] = {}

        def get(options: tuple[str, ...]) -> Warm:
            if options not in started:
                started[options] = stack.enter_context(warming(*options))
            return started[options]

        yield get


def converse(client: socket.socket, sent: bytes) -> bytes:
    """Send, end the sending side, and return all that comes."""
    sender = feed(client, sent)
    received = b""
    if len(sent) < 100_000:
        sender.join()
        with contextlib.suppress(OSError):  # identd has hung up already
            client.shutdown(socket.SHUT_WR)
    received = everything(client)
    sender.join()
    return received


@pytest.mark.parametrize(("options", "sent", "expected"), EXCHANGES)
@pytest.mark.parametrize("form", ["single", "warm"])
def test_exchanges(
    form: str, options: tuple[str, ...], sent: bytes, expected: bytes, pair: Pair,
    warm_by_options: Callable[[tuple[str, ...]], Warm],
) -> None:  # fmt: skip
    """What comes back for what is sent is the same from both drivers, and ends without a reset."""
    for word, value in ((b"QUERY", pair.query), (b"NAME", me().encode())):
        sent, expected = sent.replace(word, value), expected.replace(word, value)
    if form == "single":
        with handler(*options) as served:
            assert converse(served.client, sent) == expected
            assert served.status() == 0
        return
    with warm_by_options(options).call() as client:
        assert converse(client, sent) == expected


def test_ipv6() -> None:
    """A query over IPv6 is about an IPv6 connection."""
    with warming(host="::1") as warm:
        with connect("::1", socket.AF_INET6) as pair:
            assert warm.ask(pair.query + b"\r\n") == named(pair)
        with connect() as pair:
            assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:NO-USER\r\n"


def test_two_sockets_of_systemd(pair: Pair, tmp_path: Path) -> None:
    """Sockets that systemd passes are all served, by one process, IPv4 and IPv6."""
    needs_nobody_to_import()
    ports = free_port(), free_port()
    listens = [f"--listen=127.0.0.1:{ports[0]}", f"--listen=[::1]:{ports[1]}"]
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [program("systemd-socket-activate"), *listens, sys.executable, "-B", str(IDENTD), "-S"],
            stdin=subprocess.DEVNULL, stderr=output,
        )  # fmt: skip
    with ending(process), connect("::1", socket.AF_INET6) as pair6:
        for port in ports:
            until_it_listens(process, port, said)
        four, six = (Warm(process, (host, port)) for host, port in zip(("127.0.0.1", "::1"), ports))
        for _ in range(3):
            assert six.ask(pair6.query + b"\r\n") == named(pair6)
            assert four.ask(pair.query + b"\r\n") == named(pair)
        assert four.end() == 0
    serving = f"serving 127.0.0.1 port {ports[0]}, ::1 port {ports[1]}"
    assert said.read_text().count(serving) == 1


def passing(fds: list[int], count: str = "") -> list[str]:
    """Return a command that starts identd with descriptors as systemd passes them (sd_listen_fds(3))."""
    moves = " ".join(f"{number}<&{fd}" for number, fd in enumerate(fds, 3))
    passed = f'exec {moves} </dev/null; LISTEN_FDS={count or len(fds)} LISTEN_PID=$$ exec "$@"'
    return ["bash", "-c", passed, "bash", *COMMAND]


#: What systemd might be told to pass beside a listener, and a word of the complaint about it.
ODD: dict[str, tuple[Callable[[socket.socket, socket.socket], int], str]] = {
    "a UNIX socket": (lambda _, unix: unix.fileno(), "another family"),
    "a connection": (lambda connection, _: connection.fileno(), "no listening socket"),
    "a file": (lambda *_: 0, "can't be served"),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ODD)
def test_sockets_of_several_kinds(pair: Pair, kind: str, first: bool) -> None:
    """One line says which descriptor can't be served, status 2; nothing is served by halves."""
    get, word = ODD[kind]
    with socket.socket(socket.AF_UNIX) as unix, open(os.devnull, "rb") as null:
        odd = get(pair.server, unix) or null.fileno()
        fds = [odd, pair.listener.fileno()] if first else [pair.listener.fileno(), odd]
        # Out of the way of the numbers that they will have.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in fds]
        try:
            done = subprocess.run(
                passing(high), pass_fds=high, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        finally:
            for fd in high:
                os.close(fd)
    assert (done.stdout, done.returncode) == ("", 2)
    assert re.fullmatch(rf"identd: descriptor {3 if first else 4} .*{word}.*\n", done.stderr), done.stderr


def test_a_number_of_sockets_that_is_none() -> None:
    """So it is with variables that no systemd sets."""
    done = subprocess.run(passing([], "x"), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stderr, done.returncode) == ("identd: LISTEN_FDS is no number: 'x'\n", 2)


def test_limits_are_raised(pair: Pair) -> None:
    """The soft limit of descriptors is the hard one, and the listener's queue what the kernel allows."""
    command = [program("prlimit"), "--nofile=64:4096", *COMMAND]
    with warming(command=command) as warm:
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        limits = Path(f"/proc/{warm.process.pid}/limits").read_text()
        assert re.search(r"^Max open files +4096 +4096 ", limits, re.MULTILINE)
        found = run(program("ss"), "-Hltn", f"sport = :{warm.address[1]}").stdout.split()
        assert int(found[2]) == int(Path("/proc/sys/net/core/somaxconn").read_text())


def test_the_listener_is_given_back_as_it_came(pair: Pair) -> None:
    """Whoever gets the socket next may count on it to block, or not to."""
    for blocking in (True, False):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(blocking)
            process = subprocess.Popen([*COMMAND], stdin=listener.fileno(), stderr=subprocess.DEVNULL)
            with ending(process):
                warm = Warm(process, listener.getsockname())
                assert warm.ask(pair.query + b"\r\n") == named(pair)
                assert warm.end() == 0
            assert os.get_blocking(listener.fileno()) == blocking


def test_reply_all_reads_no_file(pair: Pair, tmp_path: Path) -> None:
    """With -R the system file does not matter, neither at the start, nor later, nor at SIGHUP."""
    with warming("-R", "guest", "-S", "-C", str(tmp_path / "none"), stderr=subprocess.PIPE) as warm:
        assert warm.ask(pair.query + b"\r\n") == pair.query + b":USERID:UNIX:guest\r\n"
        (tmp_path / "none").write_text("broken")
        warm.process.send_signal(signal.SIGHUP)
        pause(2 * identd.REST_SECONDS)
        assert warm.ask(pair.query + b"\r\n") == pair.query + b":USERID:UNIX:guest\r\n"
        assert "none" not in log_of(warm)


def test_every_query_is_logged(pair: Pair) -> None:
    """One line for each, with who asked, what was told and the uid, whether he was met before or not."""
    with warming("-S", "-C", os.devnull, stderr=subprocess.PIPE) as warm:
        for _ in range(3):
            assert warm.ask(pair.query + b"\r\n") == named(pair)
        lines = log_of(warm).splitlines()
    told = f"127.0.0.1 was told {named(pair).decode().strip()} ({me()}, uid {os.geteuid()}, sock_diag, rule no rule)"
    assert sum(told in line for line in lines) == 3


# Clients of every kind, beside honest ones.


def test_bad_clients_beside_honest_ones(pair: Pair) -> None:
    """Silent, slow, resetting and vanishing clients cost the honest ones no answer; slow ones get theirs as well."""
    query = pair.query + b"\r\n"
    with warming() as warm, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(warm.call()) for _ in range(60)]
        slow = [stack.enter_context(warm.call()) for _ in range(20)]
        for octet in query:
            for client in slow:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.send(bytes([octet]))
            for start_ in (b"", b"1,", query):
                hasty = warm.call()
                hasty.sendall(start_)
                reset(hasty)
                with warm.call() as leaving:
                    leaving.sendall(start_)
            assert warm.ask(query) == named(pair)
        assert [everything(client) for client in slow] == [named(pair)] * len(slow)
        for client in silent:
            client.sendall(query)
        assert [everything(client) for client in silent] == [named(pair)] * len(silent)


@pytest.mark.parametrize("start_", [b"", b"1,"])
def test_a_silent_client_is_ended_at_the_deadline(pair: Pair, start_: bytes) -> None:
    """Whoever has not sent a whole query in time is closed without a word; the others go on."""
    with warming("-t", "1", "-S", stderr=subprocess.PIPE) as warm:
        with warm.call() as silent:
            silent.sendall(start_)
            assert everything(silent) == b""
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        assert "127.0.0.1 sent no whole query in time" in log_of(warm)


def test_octets_do_not_move_the_deadline() -> None:
    """The deadline is the whole query's, not an octet's."""
    with warming("-t", "1") as warm, warm.call() as client:
        for _ in range(400):  # 40 s
            with contextlib.suppress(OSError):
                client.send(b" ")
            if select.select([client], [], [], 0.1)[0]:
                break
        else:
            pytest.fail("still open while the client goes on")


def test_no_deadline(pair: Pair) -> None:
    """-t 0: a client may take its time."""
    with warming("-t", "0") as warm, warm.call() as client:
        client.sendall(pair.query)
        pause(1.5)
        client.sendall(b"\r\n")
        assert everything(client) == named(pair)


def test_each_query_has_its_own_deadline(pair: Pair) -> None:
    """With --multi-query an answer begins a new deadline, which ends a client that asks no more."""
    with warming("--multi-query", "-t", "2") as warm, warm.call() as client:
        for _ in range(3):
            pause(1)
            client.sendall(pair.query + b"\r\n")
            assert client.recv(4096) == named(pair)
        assert everything(client) == b""


def test_lingering_has_an_end(pair: Pair) -> None:
    """A client that goes on after its query gets its reply, and is not listened to for ever."""
    with warming() as warm:
        before = warm.descriptors()
        with warm.call() as client:
            client.sendall(pair.query + b"\r\n" + b"x" * 1000)
            assert everything(client) == named(pair)
            with pytest.raises(OSError, match=r"reset|pipe"):
                for _ in range(400):  # 20 s
                    client.send(b"x" * 100)
                    pause(0.05)
            until(lambda: warm.descriptors() <= before + 1)


def test_a_client_that_reads_nothing(pair: Pair) -> None:
    """Answers that a client does not take are not heaped up, and hold up nobody; the deadline ends it."""
    query = b"1,1\r\n" * 200
    with warming("--multi-query", "-t", "2", "-R", "x" * 512) as warm, contextlib.ExitStack() as stack:
        gluttons = [stack.enter_context(warm.call()) for _ in range(5)]
        for glutton in gluttons:
            glutton.settimeout(0.2)
            with contextlib.suppress(OSError):
                for _ in range(20_000):
                    glutton.sendall(query)
            with warm.call() as honest:
                honest.sendall(pair.query + b"\r\n")
                assert honest.recv(4096) == pair.query + b":USERID:UNIX:" + b"x" * 512 + b"\r\n"
        assert _resident(warm) < 64 << 10
        until(lambda: not any(_still_open(warm, client) for client in gluttons))


def _resident(warm: Warm) -> int:
    """Return KiB of memory."""
    (line,) = (line for line in Path(f"/proc/{warm.process.pid}/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1])


def _still_open(warm: Warm, client: socket.socket) -> bool:
    """Say whether identd has its end of a connection open (proc_net_tcp(5))."""
    ours, theirs = client.getsockname()[1], warm.address[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if (int(local[-4:], 16), int(remote[-4:], 16)) == (theirs, ours):
            return state in ("01", "08")
    return False


def test_a_storm() -> None:
    """3,000 queries, 400 in flight: none wrong, none lost."""
    with warming() as warm, load.held() as question:
        for asked in (question, load.MISS):
            result = load.run(warm.address[1], asked, 3000, 400)
            assert (result.answered, result.wrong, result.lost) == (3000, 0, 0)


def test_nothing_grows(pair: Pair) -> None:
    """Descriptors and threads are as many after 2,000 mixed connections as after 200."""
    query = pair.query + b"\r\n"

    def mixed(number: int) -> None:
        client = warm.call()
        client.sendall((query, b"1,1\r\n", b"hello\r\n", b"", b"1,", query + b"x" * 3000)[number % 6])
        if number % 4 == 0:
            reset(client)
            return
        with client:
            if number % 6 < 3:
                everything(client)

    with warming() as warm, ThreadPoolExecutor(16) as pool:
        list(pool.map(mixed, range(200)))
        assert warm.ask(query) == named(pair)
        until(lambda: warm.descriptors() < 16)
        before = warm.descriptors(), warm.threads()
        list(pool.map(mixed, range(2000)))
        assert warm.ask(query) == named(pair)
        until(lambda: warm.descriptors() <= before[0])
        assert warm.threads() <= before[1] + 1


# At the limits.


def test_at_the_limit(pair: Pair) -> None:
    """The connection that has waited longest without a whole query makes room; this is logged once."""
    with warming("--limit", "8", "-S", "-q", stderr=subprocess.PIPE) as warm:
        with contextlib.ExitStack() as stack:
            silent = []
            for _ in range(8):
                silent.append(stack.enter_context(warm.call()))
                silent[-1].sendall(b"1")
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            with contextlib.suppress(ConnectionResetError):
                assert everything(silent[0]) == b""
            assert not select.select(silent[1:], [], [], 0.5)[0], "others were ended too"
            for _ in range(20):
                assert warm.ask(pair.query + b"\r\n") == named(pair)
            more = [stack.enter_context(warm.call()) for _ in range(8)]
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            more[-1].sendall(pair.query + b"\r\n")
            assert everything(more[-1]) == named(pair)
        assert log_of(warm).count("the limit of connections") == 1


def test_a_query_under_way_does_not_make_room(pair: Pair, tmp_path: Path) -> None:
    """Who waits for an answer keeps his place; the newcomer waits in the kernel's queue until there is room."""
    slow = "import pwd, time\nreal = pwd.getpwuid\npwd.getpwuid = lambda uid: (time.sleep(1), real(uid))[1]"
    with warming("--limit", "1", command=driver(tmp_path, slow)) as warm, warm.call() as first:
        first.sendall(pair.query + b"\r\n")
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        assert everything(first) == named(pair)


def test_out_of_descriptors(pair: Pair) -> None:
    """The service goes on, right answers included, and one line says why connections are ended."""
    words = [program("prlimit"), "--nofile=48:48"]
    with contextlib.ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, "rb"))
        inherited = [os.dup(null.fileno()) for _ in range(24)]
        for fd in inherited:
            stack.callback(os.close, fd)
        command = [*words, *COMMAND, "-S", "-q"]
        with warming(command=command, stderr=subprocess.PIPE, pass_fds=inherited) as warm:
            with contextlib.ExitStack() as clients:
                silent = [clients.enter_context(warm.call()) for _ in range(100)]
                for _ in range(20):
                    assert warm.ask(pair.query + b"\r\n") == named(pair)
                silent[-1].sendall(pair.query + b"\r\n")
                assert everything(silent[-1]) == named(pair)
            log = log_of(warm)
    assert log.count("Too many open files") == 1
    assert "Traceback" not in log


def test_no_more_threads(needs_root: None) -> None:
    """Where no thread can be started answers are UNKNOWN-ERROR, with one line in the log; later all is well again."""
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(login())
        pair = stack.enter_context(connect())
        words = [program("prlimit"), "--nproc=1:100"]
        command = [*words, *COMMAND, "-S", "-u", user.pw_name]
        warm = stack.enter_context(warming(command=command, stderr=subprocess.PIPE))
        assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
        # As that very user, for root may lack CAP_SYS_RESOURCE (prlimit(2)).
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        raise_ = [program("prlimit"), f"--pid={warm.process.pid}", "--nproc=100:100"]
        subprocess.run([*as_user, *raise_], check=True, timeout=PATIENCE)
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        log = log_of(warm)
    assert log.count("no thread for what may block") == 1
    assert "Traceback" not in log


# What blocks.


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
        assert time.monotonic() - began < identd.LOOKUP_SECONDS + 1
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


def test_a_stuck_home(needs_root: None, tmp_path: Path) -> None:
    """A home directory that hangs holds up its owner's answers alone, when a configuration has it looked at."""
    with contextlib.ExitStack() as stack:
        stuck = stack.enter_context(blocking())
        alice = stack.enter_context(login())
        bob = stack.enter_context(login())
        config = stuck.fifo.with_name("conf")
        config.write_text("default { default { allow spoof } }\n")
        preparation = STUCK_HOME.format(home=alice.pw_dir, fifo=str(stuck.fifo))
        warm = stack.enter_context(warming("--config", str(config), command=driver(tmp_path, preparation)))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        queries = {}
        for user in (alice, bob):
            ends = stack.enter_context(Person(user.pw_uid)).dial(listener.getsockname())
            queries[user.pw_name] = b"%d,%d" % (ends[0][1], ends[1][1])
        waiting = [stack.enter_context(warm.call()) for _ in range(2 * THREADS_PER_OWNER)]
        for client in waiting:
            client.sendall(queries[alice.pw_name] + b"\r\n")
        answer = b"%b:USERID:UNIX:%b\r\n" % (queries[bob.pw_name], bob.pw_name.encode())
        for _ in range(100):
            assert warm.ask(queries[bob.pw_name] + b"\r\n") == answer
        failed = queries[alice.pw_name] + b":ERROR:UNKNOWN-ERROR\r\n"
        assert [everything(client) for client in waiting] == [failed] * len(waiting)
        assert warm.end() == 0, "stuck threads are not waited for"


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
        lies = f"import lookup.users as u\nreal = u.entry\nu.entry = lambda uid: (real(uid)[0], {str(home)!r})"
        warm = stack.enter_context(warming("--config", str(config), command=driver(tmp_path, lies)))
        pair = stack.enter_context(connect())
        for _ in range(3):
            assert warm.ask(pair.query + b"\r\n") == named(pair)


# The end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_queries_in_flight_are_finished(pair: Pair, tmp_path: Path, number: int) -> None:
    """After the signal those who have asked are answered, newcomers are not, and silent clients hold up nothing."""
    slow = "import pwd, time\nreal = pwd.getpwuid\npwd.getpwuid = lambda uid: (time.sleep(2), real(uid))[1]"
    with warming(command=driver(tmp_path, slow)) as warm, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(warm.call())] if number == signal.SIGTERM else []
        asking = [stack.enter_context(warm.call()) for _ in range(3)]
        for client in asking:
            client.sendall(pair.query + b"\r\n")
        until(lambda: warm.threads() > 1)
        pause(0.2)  # the three queries have been read by then
        warm.process.send_signal(number)
        assert [everything(client) for client in asking] == [named(pair)] * len(asking)
        if silent:  # without one it has ended by now
            with contextlib.suppress(OSError):
                assert warm.ask(pair.query + b"\r\n") == b""
        assert warm.process.wait(PATIENCE) == 0
        with contextlib.suppress(ConnectionResetError):
            assert [everything(client) for client in silent] == [b""] * len(silent)


def test_the_end_does_not_wait_for_silent_clients(pair: Pair) -> None:
    """FINISH_SECONDS after the signal it ends, whoever has not sent a query; but not much sooner."""
    with warming() as warm, warm.call() as silent:
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        began = time.monotonic()
        assert warm.end() == 0
        assert identd.FINISH_SECONDS - 0.5 < time.monotonic() - began < 2 * identd.FINISH_SECONDS
        assert identd.FINISH_SECONDS == 5.0, "what the issue and the man page promise"
        with contextlib.suppress(ConnectionResetError):
            assert everything(silent) == b""


@pytest.mark.parametrize(("options", "idle"), [((), 600.0), (("--foreground",), 0.0), (("--idle", "7"), 7.0)])
def test_how_long_it_may_be_idle(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], idle: float) -> None:
    """Ten minutes under a superserver, for ever in the foreground, and what --idle says."""
    found: list[float] = []

    class Server:
        def __init__(self, listeners: Any, options: Any, log: Any, idle: float, *_: Any) -> None:
            found.append(idle)

        def run(self) -> None:
            pass

    monkeypatch.setattr(identd, "Server", Server)
    monkeypatch.setattr(identd, "drop_privileges", lambda user, group: None)
    parsed = identd.parse([*options, "-C", os.devnull])
    identd.serve_sockets([], parsed, identd.NoLog(parsed))
    assert found == [idle]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_when_nothing_is_under_way(pair: Pair, number: int) -> None:
    """Exit status 0, nothing on standard error."""
    with warming("-q", stderr=subprocess.PIPE) as warm:
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        assert warm.end(number) == 0
        assert warm.process.stderr is not None
        assert warm.process.stderr.read() == b""


# A log that nobody reads.


@contextlib.contextmanager
def deaf(kind: str) -> Iterator[tuple[int, dict[str, str]]]:
    """A descriptor for standard error that is never read from: the journal's stream, or a pipe."""
    if kind == "pipe":
        read, write = os.pipe()
        try:
            yield write, {}
        finally:
            os.close(read)
            os.close(write)
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        status = os.fstat(theirs.fileno())
        yield theirs.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def fill(fd: int) -> None:
    """Write until no more goes in, without leaving the descriptor non-blocking."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x")
    os.set_blocking(fd, True)


@pytest.mark.parametrize("kind", ["journal", "pipe"])
def test_a_log_that_nobody_reads(pair: Pair, kind: str) -> None:
    """A journal that hangs, or a pipe that is full, costs no answer, in neither form."""
    with deaf(kind) as (fd, variables):
        environment = {**os.environ, **variables}
        with warming("-d", "-S", stderr=fd, env=environment) as warm:
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            fill(fd)
            for _ in range(20):
                assert warm.ask(pair.query + b"\r\n") == named(pair)
            assert warm.end() == 0
        with handler("-d", "-S", stderr=fd, env=environment) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert served.status() == 0


def test_a_long_message_reaches_whoever_reads(tmp_path: Path, pair: Pair) -> None:
    """What is longer than a pipe takes at once arrives whole."""
    bug = "import pwd\ndef getpwuid(uid): raise RuntimeError('x' * 20000 + 'END')\npwd.getpwuid = getpwuid"
    with warming("-S", stderr=subprocess.PIPE, command=driver(tmp_path, bug)) as warm:
        assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
        assert "x" * 20000 + "END" in log_of(warm)
