"""Does `IdentServer` do under a real Twisted reactor, over real TCP, what Twisted documents of its own?"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers.machine import ROOT
from helpers.pairs import PATIENCE
from helpers.single_shot import ending

from identd import HiddenUser, IdentError, IdentServer, InvalidPort, NoUser

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("twisted")

#: A server as its author writes it, on a reactor of its choice: the port that is asked about decides how a lookup ends.
SERVER = """
import asyncio, sys
sys.path.insert(0, {root!r})
if "asyncio" in sys.argv:
    from twisted.internet import asyncioreactor
    asyncioreactor.install(asyncio.new_event_loop())
from twisted.internet import defer, protocol, reactor, task
from twisted.protocols import ident
import identd

class Server(identd.IdentServer):
    multi_query = "multi" in sys.argv

    def lookup(self, serverAddress, clientAddress):
        return getattr(self, f"port{{serverAddress[1]}}")(f"{{clientAddress[0]}}")

    def port1(self, peer):
        return "UNIX", "at once " + peer

    def port2(self, peer):
        return task.deferLater(reactor, 0.1, lambda: ("UNIX", "a Deferred " + peer))

    def port3(self, peer):
        return defer.succeed(("UNIX", "a Deferred that has fired"))

    def port4(self, peer):
        return defer.fail(identd.HiddenUser())

    def port5(self, peer):
        def fail():
            raise identd.NoUser("later")
        return task.deferLater(reactor, 0.05, fail)

    def port6(self, peer):
        return task.deferLater(reactor, 0.05, lambda: 1 / 0)

    async def port7(self, peer):
        if "asyncio" in sys.argv:
            await asyncio.sleep(0.05)
        else:
            await task.deferLater(reactor, 0.05, lambda: None)
        return "UNIX", "a coroutine " + peer

    async def port8(self, peer):
        raise identd.NoUser("from a coroutine")

    async def port9(self, peer):
        return 1 / 0

    def port10(self, peer):
        raise ident.HiddenUser()

    def port11(self, peer):
        return task.deferLater(reactor, 3600, lambda: None)

port = reactor.listenTCP(0, protocol.Factory.forProtocol(Server), interface="::" if "dual" in sys.argv else "127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
"""


class Reactor:
    """A process that runs a Twisted server, and what clients of it do."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        self.process = process
        self.port = int(process.stdout.readline())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def ask(self, query: bytes) -> bytes:
        """Return all that comes until the server closes."""
        with self.connect() as client:
            client.sendall(query)
            return b"".join(iter(lambda: client.recv(4096), b""))

    def stop(self) -> str:
        """End the process and return what it wrote to standard error."""
        self.process.terminate()
        assert self.process.stderr
        return self.process.stderr.read().decode()


@contextlib.contextmanager
def reactor(*arguments: str) -> Iterator[Reactor]:
    """Run a server on a reactor of its own."""
    script = SERVER.format(root=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with ending(process):
        yield Reactor(process)


def test_an_ipv4_client_of_a_dual_stack_server() -> None:
    """The peer's address is given as plain IPv4, not in the form that an IPv6 socket has for it."""
    with reactor("dual") as served:
        assert served.ask(b"1,2\r\n") == b"1,2:USERID:UNIX:at once 127.0.0.1\r\n"


REPLIES = [
    (1, b"USERID:UNIX:at once 127.0.0.1"),
    (2, b"USERID:UNIX:a Deferred 127.0.0.1"),
    (3, b"USERID:UNIX:a Deferred that has fired"),
    (4, b"ERROR:HIDDEN-USER"),
    (5, b"ERROR:NO-USER"),
    (6, b"ERROR:UNKNOWN-ERROR"),
    (7, b"USERID:UNIX:a coroutine 127.0.0.1"),
    (8, b"ERROR:NO-USER"),
    (9, b"ERROR:UNKNOWN-ERROR"),
    (10, b"ERROR:HIDDEN-USER"),
]


@pytest.mark.parametrize("kind", ["default", "asyncio"])
def test_one_query_a_connection(kind: str) -> None:
    """Values, Deferreds, coroutines and errors of all kinds: one reply each over TCP, then the connection ends."""
    with reactor(kind) as server:
        for port, reply in REPLIES:
            assert server.ask(b"%d,2\r\n" % port) == b"%d,2:%b\r\n" % (port, reply)
        assert server.ask(b"0,2\r\n") == b"0,2:ERROR:INVALID-PORT\r\n"
        assert server.ask(b"nonsense\r\n") == b""
        assert server.ask(b"x" * 1000) == b""
        assert server.ask(b"1,2\r\n1,2\r\n") == b"1,2:USERID:UNIX:at once 127.0.0.1\r\n"
        log = server.stop()
    assert log.count("ZeroDivisionError: division by zero") == 2, "ports 6 and 9, with their tracebacks"
    assert "Unhandled" not in log and "NoUser" not in log


@pytest.mark.parametrize("kind", ["default", "asyncio"])
def test_many_queries_on_a_connection(kind: str) -> None:
    """All of them pipelined in one segment are answered in order, however long each takes."""
    with reactor(kind, "multi") as server, server.connect() as client:
        client.sendall(b"".join(b"%d,2\r\n" % port for port, _ in REPLIES))
        expected = b"".join(b"%d,2:%b\r\n" % (port, reply) for port, reply in REPLIES)
        got = b""
        while len(got) < len(expected) and (data := client.recv(4096)):
            got += data
        assert got == expected
        client.sendall(b"1,")
        client.sendall(b"2\r\nnonsense\r\n")
        assert b"".join(iter(lambda: client.recv(4096), b"")) == b"1,2:USERID:UNIX:at once 127.0.0.1\r\n"


def test_a_client_that_waits_holds_up_nobody() -> None:
    """While one client's Deferred has not fired, others are answered; the one that leaves costs nothing."""
    with reactor("default") as server:
        with server.connect() as waiting:
            waiting.sendall(b"11,2\r\n")
            assert server.ask(b"2,2\r\n") == b"2,2:USERID:UNIX:a Deferred 127.0.0.1\r\n"
        assert server.ask(b"1,2\r\n") == b"1,2:USERID:UNIX:at once 127.0.0.1\r\n"
        with server.connect() as leaving:
            leaving.sendall(b"2,2\r\n")
        assert server.ask(b"2,2\r\n") == b"2,2:USERID:UNIX:a Deferred 127.0.0.1\r\n"
        assert "Traceback" not in server.stop()


# What Twisted publishes as the tests of its own server, in our words: the same steps, replies without white space.


class Fixed(IdentServer):
    """A server that gives the result, or raises the exception, that it is told to."""

    result: Any = None
    exception: Exception | None = None

    def lookup(self, serverAddress: Any, clientAddress: Any) -> Any:
        if self.exception is not None:
            raise self.exception
        return self.result


def lines_of(server: IdentServer) -> list[bytes]:
    """Connect a server to Twisted's own test transport, with ``sendLine`` replaced: return the list of its lines."""
    testing = pytest.importorskip("twisted.internet.testing")
    server.makeConnection(testing.StringTransport())
    lines: list[bytes] = []
    server.sendLine = lines.append  # type: ignore[assignment,method-assign]
    return lines


@pytest.mark.parametrize(
    ("exception", "name"),
    [(IdentError(), b"UNKNOWN-ERROR"), (NoUser(), b"NO-USER"), (InvalidPort(), b"INVALID-PORT"),
     (HiddenUser(), b"HIDDEN-USER"), (ArithmeticError(), b"UNKNOWN-ERROR")],
)  # fmt: skip
def test_published_errors(exception: Exception, name: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Each refusal is told by its name; another exception as UNKNOWN-ERROR, and it alone is logged."""
    server = Fixed()
    lines = lines_of(server)
    server.exception = exception
    server.lineReceived(b"123, 345")
    assert lines == [b"123,345:ERROR:" + name]
    assert len(caplog.records) == isinstance(exception, ArithmeticError)


@pytest.mark.parametrize("name", ["IdentError", "NoUser", "InvalidPort", "HiddenUser"])
def test_errors_of_twisteds_module(name: str) -> None:
    """A lookup written for Twisted's module may go on raising that module's own errors."""
    ident = pytest.importorskip("twisted.protocols.ident")
    server = Fixed()
    lines = lines_of(server)
    server.exception = getattr(ident, name)()
    server.lineReceived(b"123,345")
    assert lines == [b"123,345:ERROR:" + str(server.exception).encode()]


@pytest.mark.parametrize("ports", [b"-1, 0", b"0, 0", b"0, 1", b"65536, 1", b"1, 65536"])
def test_published_out_of_range_ports(ports: bytes) -> None:
    """Ports out of range are INVALID-PORT, with the numbers as they came."""
    server = Fixed()
    lines = lines_of(server)
    server.lineReceived(ports)
    assert lines == [ports.replace(b" ", b"") + b":ERROR:INVALID-PORT"]


def test_published_success() -> None:
    """A value is told as USERID, once per line received."""
    server = Fixed()
    lines = lines_of(server)
    server.result = ("SYS", "USER")
    server.lineReceived(b"123, 456")
    assert lines == [b"123,456:USERID:SYS:USER"]


def test_published_success_through_a_deferred() -> None:
    """Twisted's own Deferred, fired before or after it is returned, gives the same line."""
    defer = pytest.importorskip("twisted.internet.defer")
    server = Fixed()
    server.multi_query = True
    lines = lines_of(server)
    server.result = defer.succeed(("SYS", "USER"))
    server.lineReceived(b"123, 456")
    server.result = later = defer.Deferred()
    server.lineReceived(b"123, 457")
    assert lines == [b"123,456:USERID:SYS:USER"]
    later.callback(("SYS", "USER"))
    assert lines == [b"123,456:USERID:SYS:USER", b"123,457:USERID:SYS:USER"]


def test_a_failed_deferred() -> None:
    """Twisted's Failure is understood: ``_ebLookup`` reads the exception from its ``value``."""
    defer = pytest.importorskip("twisted.internet.defer")
    server = Fixed()
    server.multi_query = True
    lines = lines_of(server)
    for error in (NoUser(), HiddenUser()):
        server.result = defer.fail(error)
        server.lineReceived(b"123, 456")
    assert lines == [b"123,456:ERROR:NO-USER", b"123,456:ERROR:HIDDEN-USER"]
