"""Does the process that an inetd starts for one connection answer it, and end well whatever the client does?"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, IDENTD, ROOT, only_if_others_can_read_it, program, run, skip
from helpers.pairs import PATIENCE, Pair, connect, me, named, reset
from helpers.residents import system_file
from helpers.single_shot import COMMAND, Handler, by_hand, copied, driver, ending, feed, handler, start

if TYPE_CHECKING:
    from collections.abc import Iterator

#: KiB. What README promises of the installed command, started as nobody: that is how the shipped files start it.
MOST_MEMORY = 12 * 1024

#: A lookup that waits in C, as the name service does when its server is gone.
STUCK = "import pwd, time\npwd.getpwuid = lambda uid: time.sleep(3600)"


def test_one_query_one_reply(pair: Pair) -> None:
    """The owner of a connection is told, the connection closed, the exit status 0 and standard error empty."""
    with handler() as served:
        reply = served.ask(pair.query + b"\r\n")
        assert reply == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        assert served.log() == ""
        assert served.status() == 0


def test_runs_as_it_stands(pair: Pair) -> None:
    """The file is executable and finds its interpreter by itself."""
    assert os.access(IDENTD, os.X_OK)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    with handler(command=[str(IDENTD)], env={**os.environ, "PATH": path}) as served:
        assert served.ask(pair.query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        assert served.status() == 0


def test_runs_from_any_directory(pair: Pair, tmp_path: Path) -> None:
    """Its modules are found from wherever an inetd starts it, and with an empty environment."""
    with handler(cwd=tmp_path, env={}) as served:
        assert served.ask(pair.query + b"\r\n").startswith(pair.query + b":USERID:UNIX:")
        assert served.status() == 0


@pytest.mark.parametrize("query", [b"%b\r\n", b" %b \n", b"%b\n"])
def test_accepted_line_ends(pair: Pair, query: bytes) -> None:
    """A bare LF ends a query too."""
    with handler() as served:
        assert served.ask(query % pair.query).startswith(pair.query + b":USERID:")
        assert served.status() == 0


def test_the_query_connection_may_be_asked_about() -> None:
    """nmap asks about port 113 itself: the accepted socket is held by whoever accepted it."""
    with handler() as served:
        query = b"%d,%d" % (served.client.getpeername()[1], served.client.getsockname()[1])
        assert served.ask(query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (query, me().encode())


def test_nobody(pair: Pair) -> None:
    """A connection that does not exist is NO-USER: the listener on the local port is not its owner."""
    port = pair.listener.getsockname()[1]
    with handler() as served:
        query = b"%d,%d" % (port, pair.listener.getsockname()[1])
        assert served.ask(query + b"\r\n") == query + b":ERROR:NO-USER\r\n"
        assert served.status() == 0


@pytest.mark.parametrize("query", [b"0,5", b"65536,5", b"a,b"])
def test_invalid_port(query: bytes) -> None:
    """Tokens that are no ports are echoed."""
    with handler() as served:
        assert served.ask(query + b"\r\n") == query + b":ERROR:INVALID-PORT\r\n"
        assert served.status() == 0


@pytest.mark.parametrize("line", [b"\r\n", b"hello\r\n", b"1,2,3\r\n", b"\xff\xfe\0\r\n", b"x" * 1000])
def test_an_invalid_query_is_dropped(line: bytes) -> None:
    """The connection is closed cleanly without a reply."""
    with handler() as served:
        assert served.ask(line) == b""
        assert served.status() == 0


@pytest.mark.parametrize("data", [b"", b"1", b"1,2", b"1,2\r"])
def test_a_client_that_ends_before_its_query_does(data: bytes) -> None:
    """On a connection the end of input is no end of line: nothing is answered."""
    with handler() as served:
        served.client.sendall(data)
        served.client.shutdown(socket.SHUT_WR)
        assert served.read() == b""
        assert served.status() == 0


def test_a_client_that_ends_after_its_query(pair: Pair) -> None:
    """A client that shuts down its sending side at once still gets the reply."""
    with handler() as served:
        served.client.sendall(pair.query + b"\r\n")
        served.client.shutdown(socket.SHUT_WR)
        assert served.read().startswith(pair.query + b":USERID:")
        assert served.status() == 0


def test_the_reply_is_one_write(pair: Pair, tmp_path: Path) -> None:
    """Five real clients read no further than the first segment, so the kernel is given the whole reply at once."""
    trace = tmp_path / "trace"
    words = [program("strace"), "-f", "-s", "200", "-e", "trace=write,writev,sendto,sendmsg,send", "-o", str(trace)]
    with handler(command=[*words, *COMMAND]) as served:
        reply = served.ask(pair.query + b"\r\n")
        assert served.status() == 0
    text = reply.decode().replace("\r\n", "\\r\\n")
    calls = [line for line in trace.read_text().splitlines() if pair.query.decode() in line and "identd[" not in line]
    assert [text in call for call in calls] == [True], calls


def test_a_silent_client() -> None:
    """Who sends nothing is closed at the deadline, without a word, and the exit status is 0."""
    with handler("-t", "1") as served:
        assert served.read() == b""
        assert served.status() == 0


def send_until_it_ends(served: Handler, octets: bytes) -> None:
    """Go on sending until the process ends, which must be with status 0."""
    end = time.monotonic() + PATIENCE
    while served.process.poll() is None:
        assert time.monotonic() < end, "still running while the client goes on"
        with contextlib.suppress(OSError):
            served.client.send(octets)
        with contextlib.suppress(subprocess.TimeoutExpired):
            served.process.wait(0.05)
    assert served.status() == 0


def test_an_octet_at_a_time() -> None:
    """The deadline is the whole query's: a client that keeps sending single octets does not move it."""
    with handler("-t", "1") as served:
        send_until_it_ends(served, b" ")


def test_a_query_in_octets(pair: Pair) -> None:
    """Within the deadline octets may come one by one."""
    with handler() as served:
        served.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in pair.query + b"\r\n":
            served.client.sendall(bytes([octet]))
        assert served.read() == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        assert served.status() == 0


@pytest.mark.parametrize("options", [(), ("--multi-query",)])
def test_a_client_that_vanishes(pair: Pair, options: tuple[str, ...]) -> None:
    """Who closes before reading the reply costs nothing: exit status 0, and nothing on standard error."""
    with handler(*options) as served:
        served.client.sendall(pair.query + b"\r\n")
        served.client.close()
        assert served.log() == ""
        assert served.status() == 0


@pytest.mark.parametrize("data", [b"", b"12", b"12,34\r\n"])
def test_a_client_that_resets(data: bytes) -> None:
    """A reset instead of a query, within one or instead of reading the reply: exit status 0, no traceback."""
    with handler() as served:
        served.client.sendall(data)
        reset(served.client)
        assert served.log() == ""
        assert served.status() == 0


def test_a_client_that_has_reset_before_the_start() -> None:
    """A connection that is dead when the process starts (a port scanner's): exit status 0, no traceback."""
    with connect() as (client, accepted, _):
        reset(client)
        with ending(start(COMMAND, accepted)) as process:
            assert process.stderr
            assert process.stderr.read() == b""
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("extra", [b"\r\n", b"3,4\r\n", b"x" * 5000, b"x" * (1 << 18)])
def test_input_beyond_the_query(pair: Pair, extra: bytes) -> None:
    """What a client sends after its query is not answered, and must not turn the close into a reset.

    A reset would discard the reply that the client has not read yet, and make its read fail.
    """
    with handler() as served:
        sender = feed(served.client, pair.query + b"\r\n" + extra)
        assert served.status() == 0  # all is over before the client reads
        sender.join()
        assert served.read() == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())


def test_input_beyond_an_invalid_query() -> None:
    """The clean close holds for a connection that is dropped, too."""
    with handler() as served:
        sender = feed(served.client, b"x" * (1 << 18))
        assert served.read() == b""
        assert served.status() == 0
        sender.join()


def test_a_client_that_never_stops_sending(pair: Pair) -> None:
    """Reading what came beyond the query has an end of its own."""
    with handler() as served:
        served.client.sendall(pair.query + b"\r\n")
        send_until_it_ends(served, b"x" * 1000)


def test_pipelined_queries_in_order(pair: Pair) -> None:
    """With --multi-query, several lines in one segment are all answered, in order; a client that ends is left."""
    name = me().encode()
    with handler("--multi-query") as served:
        served.client.sendall(pair.query + b"\r\n0,1\r\n" + pair.query + b"\n1,1\r\n")
        served.client.shutdown(socket.SHUT_WR)
        assert served.read() == (
            b"%b:USERID:UNIX:%b\r\n0,1:ERROR:INVALID-PORT\r\n%b:USERID:UNIX:%b\r\n1,1:ERROR:NO-USER\r\n"
            % (pair.query, name, pair.query, name)
        )
        assert served.status() == 0


def test_pipelined_queries_without_the_option(pair: Pair) -> None:
    """Without --multi-query only the first line is answered."""
    with handler() as served:
        assert served.ask(pair.query + b"\r\n1,1\r\n2,2\r\n").count(b"\n") == 1
        assert served.status() == 0


def test_multi_query_has_a_deadline_for_each_query(pair: Pair) -> None:
    """After an answer the next query has its own deadline; a client that asks no more is closed."""
    with handler("--multi-query", "-t", "1") as served:
        reply = served.ask(pair.query + b"\r\n")
        assert reply == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        assert served.status() == 0


@pytest.mark.parametrize("who", ["root", "nobody"])
def test_multi_query_goes_on_beyond_the_first_deadline(pair: Pair, who: str) -> None:
    """Whoever asks again before his deadline may go on, also where root leaves each answer to a child."""
    if os.geteuid() == 0 and who == "nobody":
        only_if_others_can_read_it()
    popen = AS_NOBODY if who == "nobody" and os.geteuid() == 0 else {}
    with handler("--multi-query", "-t", "2", **popen) as served:
        for _ in range(4):
            served.client.sendall(pair.query + b"\r\n")
            assert served.client.recv(100).startswith(pair.query + b":USERID:")
            time.sleep(1.2)
        served.client.shutdown(socket.SHUT_WR)
        assert served.status() == 0


STOPPED = """
import os, signal
from lookup.config import user_file
def fetch(*_): os.kill(os.getpid(), signal.SIGSTOP)
user_file.fetch = fetch
"""

@pytest.mark.parametrize("number", ["SIGSTOP", "SIGKILL"])
@pytest.mark.parametrize(
    ("allowed", "right"), [("allow hide allow spoof", b"ERROR:UNKNOWN-ERROR"), ("allow spoof", b"USERID:UNIX:root")]
)
def test_a_child_that_is_stopped(
    needs_root: None, pair: Pair, tmp_path: Path, number: str, allowed: str, right: bytes
) -> None:
    """An owner who stops or kills the child that reads their file holds up nothing but that answer.

    Where they may hide, they may have wished to: UNKNOWN-ERROR. Where they may not, they are named.
    """
    command = driver(tmp_path, STOPPED.replace("SIGSTOP", number))
    system = f"default {{ default {{ {allowed} }} }}"
    with system_file(system) as path, handler("--multi-query", "-C", str(path), command=command) as served:
        served.client.sendall(pair.query + b"\r\n0,1\r\n")
        served.client.shutdown(socket.SHUT_WR)
        assert served.read() == pair.query + b":" + right + b"\r\n0,1:ERROR:INVALID-PORT\r\n"
        assert served.status() == 0


def test_children_that_nobody_waits_for(needs_root: None, pair: Pair) -> None:
    """A parent that ignores its children's ends, and so would have identd do the same, changes nothing."""
    command = ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *COMMAND]
    said = by_hand((pair.query + b"\n") * 3, command=command)
    assert said.stdout == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode()) * 3
    assert said.status == 0


def test_multi_query_ends_at_an_invalid_line(pair: Pair) -> None:
    """An invalid line ends the connection; what stood before it is answered."""
    with handler("--multi-query") as served:
        assert served.ask(pair.query + b"\r\nhello\r\n1,2\r\n").count(b"\n") == 1
        assert served.status() == 0


@contextlib.contextmanager
def owned(host: str, peer: str = "") -> Iterator[bytes]:
    """A connection between two addresses; the query about its client's end."""
    with connect(host, peer) as pair:
        yield pair.query


def test_ipv6() -> None:
    """A query over IPv6 is about an IPv6 connection."""
    with owned("::1") as query, handler(host="::1") as served:
        assert served.ask(query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (query, me().encode())
    with owned("127.0.0.1") as query, handler(host="::1") as served:
        assert served.ask(query + b"\r\n") == query + b":ERROR:NO-USER\r\n"


@pytest.mark.parametrize(("host", "peer"), [("127.0.0.1", ""), ("::", "127.0.0.1")])
def test_ipv4_on_a_dual_stack_listener(host: str, peer: str) -> None:
    """An IPv4-mapped peer is an IPv4 peer in the lookup, whichever family its sockets have, and in the log."""
    with owned(host, peer) as query, handler("-S", "-d", host="::", peer="127.0.0.1") as served:
        assert served.ask(query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (query, me().encode())
        log = served.log()
        assert "127.0.0.1" in log and "ffff" not in log


LINK_LOCAL = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from helpers.pairs import connect
from helpers.single_shot import handler
with connect("fe80::7%eth0") as pair, handler("-S", host="fe80::7%eth0") as served:
    print(served.ask(pair.query + b"\\r\\n").decode().replace(pair.query.decode(), "PORTS"), end="")
    print(served.log(), served.status())
"""


def test_link_local(needs_root: None) -> None:
    """An IPv6 link-local connection is found by its scope, where the same address exists on two interfaces."""
    ip = program("ip")
    namespace = f"identd-{uuid.uuid4().hex[:8]}"
    made = run(ip, "netns", "add", namespace, check=False)
    if made.returncode:
        skip(f"no network namespace can be made: {made.stderr.strip()}")
    try:
        run(ip, "-n", namespace, "link", "set", "lo", "up")
        for names in (("eth0", "eth1"), ("eth2", "eth3")):
            run(ip, "-n", namespace, "link", "add", names[0], "type", "veth", "peer", "name", names[1])
            for name in names:
                run(ip, "-n", namespace, "link", "set", name, "up")
        for name in ("eth2", "eth0"):
            run(ip, "-n", namespace, "addr", "add", "fe80::7/64", "dev", name, "nodad")
        said = run(ip, "netns", "exec", namespace, sys.executable, "-c", LINK_LOCAL.format(root=str(ROOT)))
        reply, log = said.stdout.splitlines()[:2]
        assert reply == f"PORTS:USERID:UNIX:{me()}"
        assert "fe80::7%eth0" in log
        assert said.stdout.endswith(" 0\n")
    finally:
        run(ip, "netns", "del", namespace)


def listen_fds(pid: str) -> list[str]:
    """The words that move standard input to descriptor 3, as systemd passes sockets (sd_listen_fds(3))."""
    return ["sh", "-c", f'exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID={pid} exec "$@"', "sh", *COMMAND]


def test_listen_fds(pair: Pair) -> None:
    """systemd passes the connection on descriptor 3 where StandardInput= does not say socket."""
    with handler(command=listen_fds("$$")) as served:
        assert served.ask(pair.query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        assert served.status() == 0


def test_listen_fds_of_another_process() -> None:
    """The variables count only for the process that they name: a child's environment may still hold its parent's."""
    with handler(command=listen_fds("1")) as served:
        assert served.read() == b""  # standard input is /dev/null: there is no query to answer
        assert served.status() == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_datagram_socket(family: socket.AddressFamily) -> None:
    """An inetd entry with the wrong socket_type is told so, in one line."""
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        said = subprocess.run(COMMAND, stdin=datagrams.fileno(), capture_output=True, text=True, timeout=PATIENCE)
    assert said.returncode in (1, 2)
    assert said.stdout == ""
    assert said.stderr.count("\n") == 1
    assert "stream" in said.stderr


def test_a_closed_standard_input() -> None:
    """Without descriptor 0 there is nothing to do: one line says so."""
    said = run("sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, check=False)
    assert said.returncode in (1, 2)
    assert said.stdout == ""
    assert said.stderr.count("\n") == 1
    assert "standard input" in said.stderr


@pytest.mark.parametrize("options", [(), ("-t", "1")])
def test_a_lookup_that_hangs(pair: Pair, tmp_path: Path, options: tuple[str, ...]) -> None:
    """A name service that never answers is an UNKNOWN-ERROR, whatever -t says, and the process ends all the same."""
    with handler(*options, command=driver(tmp_path, STUCK)) as served:
        assert served.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
        assert served.status() == 0


def test_a_lookup_that_hangs_by_hand(pair: Pair, tmp_path: Path) -> None:
    """The same on a pipe, whose further lines are answered nevertheless."""
    said = by_hand(pair.query + b"\n1,1\n", command=driver(tmp_path, STUCK))
    assert said.stdout == pair.query + b":ERROR:UNKNOWN-ERROR\r\n1,1:ERROR:NO-USER\r\n"
    assert said.status == 0


def test_a_lookup_that_fails(pair: Pair, tmp_path: Path) -> None:
    """A bug in the lookup is UNKNOWN-ERROR for the client; the log has the traceback, escaped in one line."""
    bug = "import pwd\ndef getpwuid(uid): raise RuntimeError('a\\nbug')\npwd.getpwuid = getpwuid"
    with handler("-S", command=driver(tmp_path, bug)) as served:
        assert served.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
        (line,) = (line for line in served.log().splitlines() if "Traceback" in line)
        assert "RuntimeError: a\\nbug" in line
        assert served.status() == 0


@pytest.mark.parametrize(
    "options", [("-OO",), ("-X", "importtime"), ("-W", "error"), ("-X", "dev", "-W", "error"), ("-v",), ("-I", "-S")]
)
def test_however_python_is_started(pair: Pair, options: tuple[str, ...]) -> None:
    """What stands in for modules while the codec is imported is as good without docstrings, while Python reports."""
    paths = "".join(f"sys.path.append({path!r});" for path in sys.path if path.endswith("-packages"))
    code = f"import sys; sys.argv[0] = 'identd'; {paths} sys.path.insert(0, {str(ROOT)!r})"
    code += "; import identd; identd.main()"
    with handler(command=[sys.executable, *options, "-c", code], stderr=subprocess.DEVNULL) as served:
        assert served.ask(pair.query + b"\r\n") == named(pair)
        assert served.status() == 0


MEASURE = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_memory(pair: Pair) -> None:
    """The installed command, which finds its modules compiled, needs at most 12 MiB at its peak."""
    popen = {}
    if os.geteuid() == 0:
        only_if_others_can_read_it()
        popen = AS_NOBODY
    with readable_folder() as folder:
        # A small parent in between: a process' peak begins with what the one it was forked from has at exec.
        command = [sys.executable, "-I", "-S", "-c", MEASURE, *copied(folder)]
        with handler(command=command, **popen) as served:
            assert served.ask(pair.query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
            peak = int(served.log())
            assert served.status() == 0
    assert resource.getpagesize() // 1024 < peak <= MOST_MEMORY


# By hand, on a pipe.


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b""])
def test_a_pipe(pair: Pair, end: bytes) -> None:
    """``echo 51234,22 | identd``: the ports decide; the end of input is an end of line too."""
    said = by_hand(pair.query + end)
    assert said == (b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode()), "", 0)


def test_every_line_of_a_pipe(pair: Pair) -> None:
    """Each line is answered until the end; an invalid one is named on standard error, and ends nothing."""
    lines = b"0,1\nhello \x1b[31m\n\n%b\n%b\n1,1" % (b"x" * 3000, pair.query)
    said = by_hand(lines)
    assert said.stdout == (
        b"0,1:ERROR:INVALID-PORT\r\n%b:USERID:UNIX:%b\r\n1,1:ERROR:NO-USER\r\n" % (pair.query, me().encode())
    )
    assert said.status == 0
    errors = said.stderr.splitlines()
    assert len(errors) == 4, "hello, the empty line, the long one, and no such connection"
    assert "x1b[31m" in errors[0]
    assert all(line.isascii() and line.isprintable() for line in errors)


def test_a_pipe_that_brings_lines_one_after_another(pair: Pair) -> None:
    """A line is answered when it is there, not at the end of input."""
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with ending(process):
        assert process.stdin and process.stdout
        for _ in range(2):
            process.stdin.write(pair.query[:3])
            process.stdin.flush()
            process.stdin.write(pair.query[3:] + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_an_empty_pipe() -> None:
    """No input, no output."""
    assert by_hand(b"") == (b"", "", 0)


def test_a_file(pair: Pair, tmp_path: Path) -> None:
    """A regular file as standard input is read like a pipe."""
    queries = tmp_path / "queries"
    queries.write_bytes(pair.query + b"\n1,1\n")
    with queries.open() as stdin:
        said = subprocess.run(COMMAND, stdin=stdin, capture_output=True, timeout=PATIENCE)
    assert said.stdout == b"%b:USERID:UNIX:%b\r\n1,1:ERROR:NO-USER\r\n" % (pair.query, me().encode())


def test_a_local_socket(pair: Pair) -> None:
    """A socket that is no TCP (rsh, some supervisors) has no addresses: it is read like a pipe."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        process = start(COMMAND, theirs)
        theirs.close()
        with ending(process):
            ours.sendall(pair.query + b"\n")
            assert ours.recv(4096) == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
            ours.shutdown(socket.SHUT_WR)
            assert process.wait(PATIENCE) == 0


def test_the_reader_of_a_pipe_goes_away() -> None:
    """``identd | head -1``: no traceback when nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    try:
        said = subprocess.run(
            [*COMMAND, "-S"], input=b"0,1\n" * 3, stdout=write, stderr=subprocess.PIPE, timeout=PATIENCE
        )
    finally:
        os.close(write)
    assert b"Traceback" not in said.stderr
    assert said.returncode in (0, 1)


def test_a_full_disk_under_standard_output() -> None:
    """Replies that can't be written are an error of one line, and the exit status 1."""
    with open("/dev/full", "wb") as full:
        said = subprocess.run(COMMAND, input=b"0,1\n", stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert said.stderr.count(b"\n") == 1
    assert b"No space left" in said.stderr
    assert said.returncode == 1


@contextlib.contextmanager
def ambiguous() -> Iterator[tuple[bytes, str, str]]:
    """Two connections with the same ports, one ours, one of uid 65533: the query, and the local addresses of both."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        port = listener.getsockname()[1]
        ours = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stack.enter_context(listener.accept()[0])
        os.seteuid(65533)  # a socket belongs to who creates it
        try:
            theirs = stack.enter_context(socket.socket())
        finally:
            os.seteuid(0)
        theirs.bind(("127.0.0.2", ours.getsockname()[1]))
        theirs.connect(("127.0.0.1", port))
        stack.enter_context(listener.accept()[0])
        yield b"%d,%d" % (ours.getsockname()[1], port), "127.0.0.1", "127.0.0.2"


def test_ports_that_fit_several_owners(needs_root: None) -> None:
    """Ports that fit connections of different owners are UNKNOWN-ERROR, with the candidates on standard error."""
    with ambiguous() as (query, ours, theirs):
        said = by_hand(query + b"\n")
        assert said.stdout == query + b":ERROR:UNKNOWN-ERROR\r\n"
        assert said.status == 0
        for candidate in (ours, theirs, "uid 0", "uid 65533"):
            assert candidate in said.stderr
        assert by_hand(query + b"\n", "--server-address", ours).stdout == query + b":USERID:UNIX:root\r\n"
        assert by_hand(query + b"\n", "--server-address", theirs).stdout == query + b":USERID:OTHER:65533\r\n"
        both = "--client-address", "127.0.0.1"
        assert by_hand(query + b"\n", *both).stdout == query + b":ERROR:UNKNOWN-ERROR\r\n"
        assert by_hand(query + b"\n", *both, "--server-address", ours).stdout == query + b":USERID:UNIX:root\r\n"
        assert by_hand(query + b"\n", "--client-address", "127.0.0.9").stdout == query + b":ERROR:NO-USER\r\n"


def test_an_ambiguous_query_over_a_connection(needs_root: None) -> None:
    """Over a connection its addresses decide, so the same ports are no riddle."""
    with ambiguous() as (query, *_), handler() as served:
        assert served.ask(query + b"\r\n") == query + b":USERID:UNIX:root\r\n"
