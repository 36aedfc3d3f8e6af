"""Does the warm process answer, and go on, whatever clients do, until it is ended?"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import (
    login,
    until,
)
from helpers.installed import free_port, until_it_listens
from helpers.machine import IDENTD, only_if_others_can_read_it, program, run
from helpers.pairs import PATIENCE, Pair, connect, everything, me, named, reset
from helpers.single_shot import COMMAND, driver, ending
from helpers.warm import Warm, log_of, pause, warming

from bench import load
from identserver.warm.reloading import REST_SECONDS
from identserver.warm.server import FINISH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable



def test_ipv6() -> None:
    """A query over IPv6 is about an IPv6 connection."""
    with warming(host="::1") as warm:
        with connect("::1") as pair:
            assert warm.ask(pair.query + b"\r\n") == named(pair)
        with connect() as pair:
            assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:NO-USER\r\n"


def test_two_sockets_of_systemd(pair: Pair, tmp_path: Path) -> None:
    """Sockets that systemd passes are all served, by one process, IPv4 and IPv6."""
    only_if_others_can_read_it()
    ports = free_port(), free_port()
    listens = [f"--listen=127.0.0.1:{ports[0]}", f"--listen=[::1]:{ports[1]}"]
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [program("systemd-socket-activate"), *listens, sys.executable, "-B", str(IDENTD), "-S"],
            stdin=subprocess.DEVNULL, stderr=output,
        )  # fmt: skip
    with ending(process), connect("::1") as pair6:
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
    only_if_others_can_read_it()
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
        pause(2 * REST_SECONDS)
        assert warm.ask(pair.query + b"\r\n") == pair.query + b":USERID:UNIX:guest\r\n"
        assert "none" not in log_of(warm)


def test_every_query_is_logged(pair: Pair) -> None:
    """One line for each, with the uid, who asked and what was told, whether he was met before or not."""
    with warming("-S", "-C", os.devnull, stderr=subprocess.PIPE) as warm:
        for _ in range(3):
            assert warm.ask(pair.query + b"\r\n") == named(pair)
        lines = log_of(warm).splitlines()
    uid, reply = os.geteuid(), named(pair).decode().strip()
    told = f"identd: uid {uid}: 127.0.0.1 was told {reply} ({me()}, uid {uid}, sock_diag, no rule)"
    assert sum(line == told for line in lines) == 3


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
    with warming() as warm, warm.call() as client:
        client.sendall(pair.query + b"\r\n" + b"x" * 1000)
        assert everything(client) == named(pair)

        def is_listened_to() -> bool:
            with contextlib.suppress(OSError):
                client.send(b"x" * 100)
            return _is_held(warm, client)

        until(lambda: not is_listened_to())
        # What comes now is answered with a reset.
        with pytest.raises(OSError, match=r"reset|pipe"):
            until(lambda: not client.send(b"x"))


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
        until(lambda: not any(_is_held(warm, client) for client in gluttons))


def _resident(warm: Warm) -> int:
    """Return KiB of memory."""
    (line,) = (line for line in Path(f"/proc/{warm.process.pid}/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1])


def _is_held(warm: Warm, client: socket.socket) -> bool:
    """Say whether identd still holds its end of a connection (proc_net_tcp(5): what no process holds has no inode)."""
    ours, theirs = client.getsockname()[1], warm.address[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(end[-4:], 16) for end in fields[1:3]] == [theirs, ours]:
            return fields[9] != "0"
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
    """Who waits for an answer keeps their place; the newcomer waits in the kernel's queue until there is room."""
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
        # As that very user: root may lack CAP_SYS_RESOURCE (prlimit(2)).
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        raise_ = [program("prlimit"), f"--pid={warm.process.pid}", "--nproc=100:100"]
        subprocess.run([*as_user, *raise_], check=True, timeout=PATIENCE)
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        log = log_of(warm)
    assert log.count("no thread for what may block") == 1
    assert "Traceback" not in log


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
        assert FINISH_SECONDS - 0.5 < time.monotonic() - began < 2 * FINISH_SECONDS
        assert FINISH_SECONDS == 5.0, "what the issue and the man page promise"
        with contextlib.suppress(ConnectionResetError):
            assert everything(silent) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_when_nothing_is_under_way(pair: Pair, number: int) -> None:
    """Exit status 0, nothing on standard error."""
    with warming("-q", stderr=subprocess.PIPE) as warm:
        assert warm.ask(pair.query + b"\r\n") == named(pair)
        assert warm.end(number) == 0
        assert warm.process.stderr is not None
        assert warm.process.stderr.read() == b""
