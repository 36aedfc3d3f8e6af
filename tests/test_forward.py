"""What does another ident server say of this connection?  Asked of real servers on loopback, good ones and others."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import Person, Town
from helpers.machine import skip
from helpers.pairs import reset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lookup.config import forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Address = tuple[str, int]

pytest_plugins = ["helpers.people"]

#: Seconds that nothing here takes unless something hangs.
HANGS = 30

#: What stands before the user id.
HEAD = b"6193,23:USERID:UNIX:"


class Server:
    """A server that does something with each connection. ``queries``: what it was asked; ``address``: where."""

    def __init__(self, serve: Callable[[socket.socket], object], host: str = "127.0.0.1") -> None:
        self.queries: list[bytes] = []
        self._serve = serve
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.bind((host, 0))
        self._listener.listen()
        self.address: Address = host, self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(HANGS)
                query = b""
                # Who asked may be gone before everything is said.
                with contextlib.suppress(OSError):
                    while not query.endswith(b"\n") and (more := connection.recv(100)):
                        query += more
                    if query == b"stop\n":
                        return
                    self.queries.append(query)
                    self._serve(connection)

    def ask(self) -> bytes | None:
        """Ask it, and return the user id; None: it names nobody. ``said``: what it does in place of that."""
        found = forward.ask(*self.address, 6193, 23)
        self.said = found if isinstance(found, str) else ""
        return found if isinstance(found, bytes) else None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        with socket.create_connection(self.address) as connection:
            connection.sendall(b"stop\n")
        self._thread.join(HANGS)
        self._listener.close()
        assert not self._thread.is_alive()


def saying(*parts: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    """Return what a server does that sends the parts of an answer one by one, and closes."""

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)

    return serve


def until_gone(connection: socket.socket) -> None:
    """Wait until the other end closes."""
    while connection.recv(100):
        pass


def octets(line: bytes) -> list[bytes]:
    """Return a line octet by octet."""
    return [line[at : at + 1] for at in range(len(line))]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the deadline pass soon."""
    monkeypatch.setattr(forward, "FORWARD_SECONDS", 0.2)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.7.7.7", "::1"])
def test_a_good_answer(host: str) -> None:
    """The query is one line with our ports, and the answer's user id comes back, from IPv4 and IPv6."""
    try:
        server = Server(saying(HEAD + b"alice\r\n"), host)
    except OSError:
        skip(f"needs the address {host}")
        raise
    with server:
        assert server.ask() == b"alice"
    assert server.queries == [b"6193,23\r\n"]


def test_it_does_not_wait_for_the_end() -> None:
    """A line is enough: a server may keep its connection open."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"alice\r\n")
        until_gone(connection)

    with Server(serve) as server:
        assert server.ask() == b"alice"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HEAD + b"alice\n", b"alice"),
        (HEAD + b"alice\r\nmore\r\n", b"alice"),
        (HEAD + b"alice\r\n" + HEAD + b"bob\r\n", b"alice"),
        (b" \t6193 , 23 : USERID\t: UNIX , UTF-8 : alice \r\n", b"alice"),
        (b"06193,023:USERID:OTHER:alice\r\n", b"alice"),
        (HEAD + b"two words\r\n", b"two"),
        (HEAD + b"a:b:c\r\n", b"a:b:c"),
        (HEAD + b":\r\n", b":"),
        (HEAD + b"!#~\t \n", b"!#~"),
        (HEAD + b"x" * 600 + b"\r\n", b"x" * 600),
        (HEAD + b"x" * (998 - len(HEAD)) + b"\r\n", b"x" * (998 - len(HEAD))),
        (HEAD + b"bob" + b" " * 900 + b"\r\n", b"bob"),
        (b"6193,23:USERID:U X , \t:alice\r\n", b"alice"),
    ],
)
def test_other_good_answers(answer: bytes, expected: bytes) -> None:
    """Blanks stand anywhere, the system is any, a blank ends the name, LF ends the line, of 1000 octets at most."""
    with Server(saying(answer)) as server:
        assert server.ask() == expected


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"\r\n" + HEAD + b"alice\r\n",
        b"6193,23:ERROR:NO-USER\r\n",
        b"6193,23:ERROR:HIDDEN-USER\r\n",
        b"6193,23:userid:UNIX:alice\r\n",
        b"6193,23:USERID:UNIX:\r\n",
        b"6193,23:USERID:UNIX: \t\r\n",
        b"6193,23:USERID::alice\r\n",
        b"6193,23:USERID: :alice\r\n",
        b"6193,23:USERID:alice\r\n",
        b"6193:USERID:UNIX:alice\r\n",
        b"6193,:USERID:UNIX:alice\r\n",
        b"-1,23:USERID:UNIX:alice\r\n",
        b"alice\r\n",
        HEAD + b"\0\r\n",
        HEAD + b"ali\0ce\r\n",
        HEAD + b"alice\0\r\n",
        HEAD[:10],
        HEAD,
        b"\xff\xfe\x00" * 100,
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
        b"1" * 100000,
        b"1,2:USERID:" + b"U" * 100000 + b":alice\r\n",
        b" " * 2000 + HEAD + b"alice\r\n",
        # No whole line.
        HEAD + b"alice",
        HEAD + b"alice\r",
        HEAD + b"bob" + b" " * 5000 + b"\r\n",
        HEAD + b"x" * (999 - len(HEAD)) + b"\r\n",
        # Octets that are not printable, wherever they are.
        *(HEAD + b"ali" + octet + b"ce\r\n" for octet in (b"\1", b"\x1b", b"\v", b"\f", b"\r", b"\x7f", b"\xff")),
        HEAD + b"al\xc3\xa9\r\n",
        HEAD + b"alice \x1b[2J\r\n",
        b"6193,23:USERID:U\0X:alice\r\n",
        b"6193,23:USERID:U\xfcX:alice\r\n",
        b"6193\v,23:USERID:UNIX:alice\r\n",
        HEAD + b"alice\r\r\n",
    ],
)
def test_no_answer(answer: bytes) -> None:
    """Errors, garbage, half a line, an endless one, an octet that is not printable: nobody is named."""
    with Server(saying(answer)) as server:
        assert server.ask() is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"6193,23:ERROR:NO-USER\r\n", "replied ERROR: NO-USER"),
        (b" 6193 , 23 : ERROR : HIDDEN-USER \n", "replied ERROR: HIDDEN-USER"),
        (b"0,0:ERROR:INVALID-PORT\r\n", "replied ERROR: INVALID-PORT"),
        (b"23,6193:USERID:UNIX:alice\r\n", "replied about wrong ports: 23,6193, not 6193,23"),
        (b"6193,24:USERID:UNIX:alice\r\n", "replied about wrong ports: 6193,24, not 6193,23"),
        (b"6193,%s:USERID:UNIX:alice\r\n" % (b"9" * 900), f"replied about wrong ports: 6193,{'9' * 20}, not 6193,23"),
        (b"hello world\r\n", 'said "hello world", which is not a reply'),
        (b'\xff\x1b[2J\\"\r\n', r'said "\xff\x1b[2J\\\"", which is not a reply'),
        (b"x" * 5000, f'said "{"x" * 80}", no line of at most 1000 octets, which is not a reply'),
        (HEAD + b"alice", 'said "6193,23:USERID:UNIX:alice", and closed within the line, which is not a reply'),
        (HEAD + b"\0\r\n", r'said "6193,23:USERID:UNIX:\x00", which is not a reply'),
        (b"6193,23:ERROR:\r\n", 'said "6193,23:ERROR:", which is not a reply'),
        (b"6193,23:ERROR:two words\r\n", 'said "6193,23:ERROR:two words", which is not a reply'),
        (b"", "closed the connection without a reply"),
        (b"\r\n", "sent an empty line, which is no reply"),
    ],
)
def test_what_it_says_instead(answer: bytes, said: str) -> None:
    """What a server does in place of naming somebody is told, each as such, in printable text of bounded length."""
    with Server(saying(answer)) as server:
        assert server.ask() is None
        assert server.said == said


def test_a_huge_user_id() -> None:
    """An endless name is no name, and is not read to its end."""
    with Server(saying(HEAD + b"x" * 1_000_000)) as server:
        assert server.ask() is None
        assert "no line of at most 1000 octets" in server.said


def test_an_answer_in_pieces() -> None:
    """A server may send octet by octet, as long as it comes to an end in time."""
    with Server(saying(*octets(HEAD + b"alice\r\n"), pause=0.001)) as server:
        assert server.ask() == b"alice"


def test_a_slow_answer(hasty: None) -> None:
    """The deadline is one for the whole answer: octets that trickle in do not put it off, and half a name is none."""
    answer = [HEAD + b"a", *octets(b"lice" * 200)]
    heard = []

    def serve(connection: socket.socket) -> None:
        for part in answer:
            connection.sendall(part)
            heard.append(part)
            time.sleep(0.02)

    with Server(serve) as server:
        assert server.ask() is None
    assert 0 < len(heard) < len(answer)


def test_a_silent_server(hasty: None) -> None:
    """A server that says nothing is left at the deadline."""
    with Server(until_gone) as server:
        assert server.ask() is None
        assert server.said == "gave no reply within 0.2 s"
    assert server.queries == [b"6193,23\r\n"]


def test_half_an_answer_and_silence(hasty: None) -> None:
    """A line without its end is none while more may come."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"ali")
        until_gone(connection)

    with Server(serve) as server:
        assert server.ask() is None
        assert server.said == "gave no whole reply within 0.2 s"


def test_a_deadline_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time left after the first part, the rest is not waited for, and half a name is none."""
    times = iter([0.0, 1.0, 1e9])
    monkeypatch.setattr(forward, "time", SimpleNamespace(monotonic=lambda: next(times)))

    def serve(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"ali")
        until_gone(connection)

    with Server(serve) as server:
        assert server.ask() is None
    assert list(times) == []


def test_a_reset() -> None:
    """A server that resets the connection names nobody, even if it began to."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"ali")
        time.sleep(0.05)
        reset(connection)

    with Server(serve) as server:
        assert server.ask() is None
        assert server.said == "reset the connection"


@contextlib.contextmanager
def nobody_listens(host: str = "127.0.0.1", backlog: int = -1) -> Iterator[Address]:
    """Keep a port that nobody listens on, or that nobody accepts from."""
    with socket.socket() as kept:
        kept.bind((host, 0))
        if backlog >= 0:
            kept.listen(backlog)
        yield kept.getsockname()


def test_nobody_listens() -> None:
    """A refused connection is no answer."""
    with nobody_listens() as address:
        assert forward.ask(*address, 6193, 23) == "refused the connection"


def test_nobody_accepts(hasty: None) -> None:
    """A server whose queue is full does not even answer the connection: it is left at the deadline."""
    with nobody_listens(backlog=0) as address, contextlib.ExitStack() as stack:
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(address)
        assert forward.ask(*address, 6193, 23) == "did not answer the connection within 0.2 s"


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "ident.invalid", "127.0.0.1.", "127.0.0.0/8", "fe80::1%no-device", "::1%", "*", "ü", "\udcff"],
)
def test_names_are_not_resolved(host: str) -> None:
    """Only an address is asked, as a resolver would keep no deadline: localhost has a server, and it hears nothing."""
    with Server(saying(HEAD + b"alice\r\n")) as server:
        said = forward.ask(host, server.address[1], 6193, 23)
        # getaddrinfo(3) takes "*" for every address of this host, at none of which anybody listens there.
        assert said == ("refused the connection" if host == "*" else "is not asked: that is not an address")
    assert server.queries == []


#: What a line may be made of.
PARTS = [b"6193", b",", b"23", b":", b"USERID", b"UNIX", b"ERROR", b" ", b"\t", b"\r", b"\n", b"\0", b"bob"]

ANSWERS = st.one_of(
    st.binary(max_size=3000),
    st.lists(st.sampled_from(PARTS), max_size=20).map(b"".join),
    st.binary(max_size=1500).map(HEAD.__add__),
    st.text("alice:, \t\r\x7fé", max_size=1100).map(lambda text: HEAD + text.encode("latin-1") + b"\r\n"),
)


def test_any_octets() -> None:
    """Whatever comes back: nobody, or a name that stands in it, fits on a reply line, and has no blanks."""
    answer = b""

    def serve(connection: socket.socket) -> None:
        connection.sendall(answer)

    @settings(max_examples=300, deadline=None)
    @given(ANSWERS)
    @example(HEAD + b"x" * (998 - len(HEAD)) + b"\r\n")
    @example(HEAD + b"x" * (999 - len(HEAD)) + b"\r\n")
    def ask(octets: bytes) -> None:
        nonlocal answer
        answer = octets
        name = server.ask()
        if name is None:
            assert server.said.isascii() and server.said.isprintable() and len(server.said) < 500
            return
        line, end, _ = octets.partition(b"\n")
        assert end and len(line) < forward.MAX_LINE
        assert not line.removesuffix(b"\r").translate(None, bytes(range(32, 127)) + b"\t")
        assert name and not set(name) & set(b"\t ")
        assert name in line
        assert b"USERID" in line[: line.index(name)] or line.count(name) > 1

    with Server(serve) as server:
        ask()


#: Runs on each of the hosts: an ident server on all of its addresses.
SERVE = """
import threading
listener = socket.create_server(("", 113), family=socket.AF_INET6, dualstack_ipv6=True)
def serve():
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"1,2:USERID:UNIX:somebody\\r\\n")
threading.Thread(target=serve, daemon=True).start()
"""

#: Runs on one of them: ask the other, or itself.
ASK = "from lookup.config import forward; forward.ask(host, port, 1, 2)"


@pytest.mark.parametrize(
    "host",
    [Town.HERE, Town.HERE_TOO, "127.0.0.1", "127.0.0.9", "0.0.0.0", "::1", Town.HERE_6, f"{Town.HERE_LINK}%lan"],
)
def test_we_do_not_ask_ourselves(quiet_town: Town, host: str) -> None:
    """Whatever address of this host is named, nobody is asked at its ident port: we would ask again, without end."""
    with Person(0, quiet_town.here) as person:
        person.tell(SERVE)
        assert person.tell("socket.create_connection((host, 113)).close()", host=host) is None
        assert person.tell(ASK, host=host, port=113).startswith("is not asked: the query would come back")
        person.tell("listener = socket.create_server(('', 0), family=socket.AF_INET6, dualstack_ipv6=True)")
        person.tell("threading.Thread(target=serve, daemon=True).start()")
        port = person.tell("listener.getsockname()[1]")
        assert person.tell(ASK, host=host, port=port) == b"somebody"
        never = "forward.ask(host, port, 1, 2, also_here=False)"
        assert person.tell(never, host=host, port=port) == "is not asked: that is this host"


@pytest.mark.parametrize("nonlocal_bind", [0, 1])
@pytest.mark.parametrize("host", [Town.THERE, Town.THERE_6, f"{Town.THERE_LINK}%lan"])
def test_other_hosts_are_asked(quiet_town: Town, host: str, nonlocal_bind: int) -> None:
    """Another host is asked at the ident port, even where IPv4 addresses can be bound that are not ours."""
    with Person(0, quiet_town.there) as there, Person(0, quiet_town.here) as here:
        there.tell(SERVE)
        setting = "/proc/sys/net/ipv4/ip_nonlocal_bind"
        here.tell("from pathlib import Path; Path(setting).write_text(str(on))", setting=setting, on=nonlocal_bind)
        assert here.tell(ASK, host=host, port=113) == b"somebody"
        assert here.tell("forward.ask(host, port, 1, 2, also_here=False)", host=host, port=113) == b"somebody"
