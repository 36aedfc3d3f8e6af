"""How many ident queries a second does a server answer, and how soon?

    python3 -m bench.load PORT [--queries N] [--concurrency C] [--miss] [--host ADDRESS]

Opens one TCP connection on loopback, then asks the server at ADDRESS:PORT N times who owns it (--miss: asks about a
connection that does not exist), C queries in flight, each over a connection of its own. Prints one line of JSON.
Exit status 0 only when nothing was wrong or lost. Loopback addresses only.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import pwd
import re
import select
import socket
import statistics
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds for one query that is asked alone: oidentd reads a table of 200,000 lines in half a second.
ASK_SECONDS = 30.0

#: A close that leaves nothing in TIME_WAIT behind, which /proc/net/tcp would list.
_NO_LINGER = struct.pack("ii", 1, 0)


class Question(NamedTuple):
    """A query line, and the pattern that the reply must match as a whole."""

    query: bytes
    reply: re.Pattern[bytes]


#: Seconds from the end of one query to the next, where they are asked one at a time.
BETWEEN_SECONDS = 0.0005

#: Nobody has a connection between these two ports.
MISS = Question(b"5,9\r\n", re.compile(rb"5 ?, ?9 ?: ?ERROR ?: ?NO-USER\r\n"))


class Load(NamedTuple):
    """What came back: counts, seconds for all, and the seconds from connect to reply of each, sorted."""

    answered: int
    wrong: int
    lost: int
    seconds: float
    times: list[float]

    @property
    def per_second(self) -> float:
        """True answers per second."""
        return self.answered / self.seconds

    def summary(self) -> dict[str, Any]:
        """Return the figures for JSON; a time is in milliseconds."""
        p50, p99, longest = (
            (round(1e3 * seconds, 3) for seconds in (
                statistics.median(self.times), self.times[int(len(self.times) * 0.99)], self.times[-1],
            ))
            if self.times else (None, None, None)
        )  # fmt: skip
        return {
            "answered": self.answered, "wrong": self.wrong, "lost": self.lost, "seconds": round(self.seconds, 3),
            "per_s": round(self.per_second), "p50_ms": p50, "p99_ms": p99, "max_ms": longest,
        }  # fmt: skip


@contextlib.contextmanager
def held(host: str = "127.0.0.1", uid: int | None = None, told: str | None = None) -> Iterator[Question]:
    """Hold a connection on loopback, and give the question who owns it.

    :param uid: the owner, where root asks; None: our own user.
    :param told: what the server is to call the owner; None: the login name.
    """
    user = os.geteuid()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(1)
        if uid is not None:
            os.seteuid(uid)
        try:
            # Not by create_connection(), which may have to import a codec that this user may not read.
            client = socket.socket(family)
            client.connect(listener.getsockname())
            server = listener.accept()[0]
        finally:
            if uid is not None:
                os.seteuid(user)
        with client, server:
            ports = client.getsockname()[1], listener.getsockname()[1]
            name = told or pwd.getpwuid(user if uid is None else uid).pw_name
            reply = rb"%d ?, ?%d ?: ?USERID ?: ?UNIX ?: ?%s\r\n" % (*ports, re.escape(name.encode()))
            yield Question(b"%d,%d\r\n" % ports, re.compile(reply))


def ask(port: int, question: Question, host: str = "127.0.0.1") -> float:
    """Ask once and return the seconds from connect to reply. :raises RuntimeError: the reply is another one.

    Some time passes before it returns. A server that sends its end with the reply still has to log and to close, and
    would otherwise do that at the cost of the next query.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as asker:
        # Not settimeout(), nor create_connection(): what they do is not the server's time.
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(ASK_SECONDS), 0))
        began = time.perf_counter()
        asker.connect((host, port))
        asker.send(question.query)
        reply = asker.recv(2048)
        took = time.perf_counter() - began
        if not question.reply.fullmatch(reply):
            raise RuntimeError(f"{question.query!r} was answered {reply!r}")
        asker.recv(1)
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    # Not asleep: a processor takes its time to wake up.
    ready = time.perf_counter() + BETWEEN_SECONDS
    while time.perf_counter() < ready:
        pass
    return took


class _Asker:
    """One query in flight: its socket, when it began, and what came of its reply so far."""

    __slots__ = ("began", "reply", "socket")

    def __init__(self, family: int) -> None:
        self.began = time.perf_counter()
        self.socket = socket.socket(family)
        self.socket.setblocking(False)
        self.reply = b""


class _Generator:
    """The queries in flight.

    It has to take less time for a query than the server does, or it is measured in the server's place. So it asks
    epoll(7) itself, and a query goes out as soon as connect(2) has returned, which on loopback is connected then.
    """

    def __init__(self, address: tuple[str, int], question: Question, queries: int) -> None:
        self._address, self._question, self._queries = address, question, queries
        self._family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._epoll = select.epoll()
        self._askers: dict[int, _Asker] = {}
        self._started = self._answered = self._wrong = 0
        self._times: list[float] = []

    def run(self, concurrency: int, timeout: float) -> Load:
        began = time.perf_counter()
        for _ in range(min(concurrency, self._queries)):
            self._start()
        while self._askers and time.perf_counter() - began < timeout:
            for fd, events in self._epoll.poll(1):
                if events == select.EPOLLOUT:
                    self._send(fd)
                else:
                    self._receive(fd)
        seconds = time.perf_counter() - began
        for unanswered in self._askers.values():
            unanswered.socket.close()
        self._epoll.close()
        lost = self._queries - self._answered - self._wrong
        return Load(self._answered, self._wrong, lost, seconds, sorted(self._times))

    def _start(self) -> None:
        while self._started < self._queries:
            self._started += 1
            asker = _Asker(self._family)
            asker.socket.connect_ex(self._address)
            try:
                asker.socket.send(self._question.query)
            except BlockingIOError:  # EAGAIN: the server's queue is full, so it is not connected yet
                wanted = select.EPOLLOUT
            except OSError:  # ECONNREFUSED, ECONNRESET: the server is not there, or hung up
                asker.socket.close()
                continue
            else:
                wanted = select.EPOLLIN
            self._askers[asker.socket.fileno()] = asker
            self._epoll.register(asker.socket.fileno(), wanted)
            break

    def _send(self, fd: int) -> None:
        try:
            self._askers[fd].socket.send(self._question.query)
        except OSError:  # as above
            self._end(fd)
        else:
            self._epoll.modify(fd, select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        asker = self._askers[fd]
        try:
            data = asker.socket.recv(2048)
        except OSError:  # ECONNRESET: the server hung up
            data = b""
        asker.reply += data
        if data and not asker.reply.endswith(b"\n"):
            return
        if asker.reply.endswith(b"\n"):
            if self._question.reply.fullmatch(asker.reply):
                self._answered += 1
                self._times.append(time.perf_counter() - asker.began)
            else:
                self._wrong += 1
        self._end(fd)

    def _end(self, fd: int) -> None:
        self._askers.pop(fd).socket.close()  # which epoll(7) sees
        self._start()


def run(
    port: int, question: Question, queries: int, concurrency: int, host: str = "127.0.0.1", timeout: float = 120.0
) -> Load:
    """Ask so many times, so many at once, each over a TCP connection of its own.

    :param timeout: seconds for all; what has not been answered by then is lost.
    """
    return _Generator((host, port), question, queries).run(concurrency, timeout)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--miss", action="store_true")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for the whole run")
    options = parser.parse_args()
    if not ipaddress.ip_address(options.host).is_loopback:
        parser.error("loopback addresses only")
    with held(options.host) as question:
        question = MISS if options.miss else question
        load = run(options.port, question, options.queries, options.concurrency, options.host, options.timeout)
    print(json.dumps({"port": options.port, "concurrency": options.concurrency, **load.summary()}))
    return 1 if load.wrong or load.lost else 0


if __name__ == "__main__":
    sys.exit(main())
