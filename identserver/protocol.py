"""What is a query, what is a reply, and when does a connection end?

Octets in, octets out, no I/O.
"""

from __future__ import annotations

import sys

from lookup.connection import MAX_USER_ID, IdentError, InvalidPort, can_be_sent, is_token, plain_host, port_number

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from lookup.connection import Address

    class EndpointLike(Protocol):
        """One end of a connection."""

        host: str
        port: int

    class Transport(Protocol):
        """What carries the octets of one connection."""

        def getHost(self) -> EndpointLike: ...
        def getPeer(self) -> EndpointLike: ...
        def write(self, data: bytes) -> object: ...
        def loseConnection(self) -> object: ...


#: Octets of pipelined queries that wait for the answer to an earlier one. One segment of 64 KiB must fit.
MAX_PIPELINED = 1 << 17

#: Octets of one token of a query. RFC 1413 sets no limit; a port has five, and both are echoed with INVALID-PORT.
MAX_TOKEN = 20

#: The octets of a token: printable ASCII but comma and colon.
_TOKEN = bytes(octet for octet in range(0x21, 0x7F) if octet not in b",:")


def parse_query(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the two tokens of a query line (RFC 1413 section 3), given without its end; None: it is no query."""
    # query  = *WSP token *WSP "," *WSP token *WSP
    # token  = 1*20( %x21-2B / %x2D-39 / %x3B-7E )    ; printable ASCII but comma and colon
    # WSP    = SP / %x09
    on_server, comma, on_client = line.partition(b",")
    tokens = on_server.strip(b" \t"), on_client.strip(b" \t")
    for token in tokens:
        if not 1 <= len(token) <= MAX_TOKEN or token.translate(None, _TOKEN):
            return None
    return tokens if comma else None


def parse_ports(line: bytes) -> tuple[int, int] | None:
    """Return the two ports of a query line; None: it has no two integers from 1 to 65535."""
    on_server, _, on_client = line.partition(b",")
    ports = port_number(on_server), port_number(on_client)
    # As most clients send it, it is digits and a comma. What else may be there is looked at only where it is not.
    if not (ports[0] and ports[1]):
        tokens = parse_query(line)
        if tokens is None:
            return None
        ports = port_number(tokens[0]), port_number(tokens[1])
    return ports if ports[0] and ports[1] else None


class Endpoint:
    """One end of a connection, as `IdentServer` reads it: ``host`` (text) and ``port``."""

    __slots__ = ("host", "port")

    def __init__(self, host: str = "", port: int = 0) -> None:
        self.host = host
        self.port = port


class Ends:
    """What every transport knows: the two ends of its connection. See `IdentServer.makeConnection`."""

    __slots__ = ("_host", "_peer")

    def __init__(self, host: Endpoint, peer: Endpoint) -> None:
        """:param host: this host's end. :param peer: the asker's."""
        self._host = host
        self._peer = peer

    def getHost(self) -> Endpoint:
        return self._host

    def getPeer(self) -> Endpoint:
        return self._peer


class Failure:
    """What `IdentServer._ebLookup` is told: the exception as ``value``, as Twisted's Failure has it."""

    def __init__(self, value: BaseException) -> None:
        self.value = value
        self.type = type(value)

    def check(self, *types: type[BaseException]) -> type[BaseException] | None:
        """Return the first of the classes that the exception is an instance of."""
        return next((kind for kind in types if isinstance(self.value, kind)), None)


class IdentServer:
    """The server's side of RFC 1413, with the published interface of ``twisted.protocols.ident.IdentServer``.

    Subclass it and override `lookup`. Whatever drives it calls `makeConnection`, then `dataReceived` with
    what the client sends, then `connectionLost`; a Twisted reactor calls exactly these.
    """

    #: Answer further queries on the same connection (RFC 1413 section 3 lets the server choose).
    multi_query = False
    #: Octets. A line that has not ended by then is an invalid query at once, so no more is ever buffered for one.
    MAX_LENGTH = 1000
    delimiter = b"\r\n"
    transport: Any = None

    def makeConnection(self, transport: Transport) -> None:
        """Begin a connection. ``transport``: see the names `getHost`, `getPeer`, `write`, `loseConnection`."""
        self.transport = transport
        self._buffer = bytearray()
        self._taking = self._looking_up = self._skipping = self._done = False
        self._task: Any = None
        self.connectionMade()

    def connectionMade(self) -> None:
        """Called once, when `transport` is there."""

    def connectionLost(self, reason: object = None) -> None:
        """Called once, at the end of the connection. Answers that come later are dropped."""
        self._done = True
        self.transport = None
        self._buffer.clear()
        if self._task is not None:
            self._task.cancel()

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent, in any portions. Lines are answered in order, one at a time."""
        if self._done:
            return
        busy = self._buffer or self._skipping or self._taking or not self._takes
        # One line and nothing else, as most clients send it: it needs no buffer.
        if not busy and 0 < len(data) <= self.MAX_LENGTH and data.find(b"\n") == len(data) - 1:
            self._taking = True
            self._take_line(data[:-1])
            self._taking = False
            return
        self._buffer += data
        self._take_lines()
        if self._looking_up and len(self._buffer) > MAX_PIPELINED:
            self.invalidQuery()

    @property
    def _takes(self) -> bool:
        """Whether the next line is taken at once."""
        return not (self._looking_up or self._done or getattr(self.transport, "disconnecting", False))

    def _take_lines(self) -> None:
        self._taking = True
        while self._takes:
            end = self._buffer.find(b"\n", 0, self.MAX_LENGTH)
            if end < 0:
                if len(self._buffer) >= self.MAX_LENGTH:
                    self._too_long()
                    continue
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if self._skipping:
                self._skipping = False
                continue
            self._take_line(line)
        self._taking = False

    def _take_line(self, line: bytes) -> None:
        self._done = not self.multi_query
        self.lineReceived(line[:-1] if line.endswith(b"\r") else line)

    def _too_long(self) -> None:
        line = bytes(self._buffer[: self.MAX_LENGTH])
        # The line's end, if it is here, still has to be skipped.
        del self._buffer[: self.MAX_LENGTH]
        if not self._skipping:
            self._skipping = True
            self._done = not self.multi_query
            self.lineLengthExceeded(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Called when a line has not ended within `MAX_LENGTH` octets; ``line`` is their beginning."""
        self.invalidQuery()

    def lineReceived(self, line: bytes) -> None:
        """Answer one query line, given without its end."""
        ports = parse_ports(line)
        if ports is not None:
            self.validQuery(*ports)
            return
        tokens = parse_query(line)
        if tokens is None:
            self.invalidQuery()
        else:
            self._answer(self._ebLookup, Failure(InvalidPort()), tokens[0].decode("ascii"), tokens[1].decode("ascii"))

    def invalidQuery(self) -> None:
        """Called when a line is no query: drop the connection, which a client must take as UNKNOWN-ERROR."""
        self._done = True
        if self.transport is not None:
            self.transport.loseConnection()

    def validQuery(self, portOnServer: int, portOnClient: int) -> None:
        """Called with the two ports of a query; looks the owner up and answers."""
        self._looking_up = True
        try:
            server, client = self.transport.getHost().host, self.transport.getPeer().host
            if ":" in server or ":" in client:
                server, client = plain_host(server), plain_host(client)
            result = self.lookup((server, portOnServer), (client, portOnClient))
        except Exception as error:
            self._answer(self._ebLookup, Failure(error), portOnServer, portOnClient)
            return
        if isinstance(result, tuple):
            self._answer(self._cbLookup, result, portOnServer, portOnClient)
        else:
            self._answer_later(result, portOnServer, portOnClient)

    def _answer_later(self, result: Any, sport: int, cport: int) -> None:
        """Answer with what comes by a Deferred or an awaitable. (Anything else is an answer.)"""

        def succeed(result: Any) -> None:
            self._answer(self._cbLookup, result, sport, cport)

        def fail(failure: Any) -> None:
            self._answer(self._ebLookup, failure, sport, cport)

        if hasattr(result, "addCallbacks"):
            result.addCallbacks(succeed, fail)
        elif hasattr(result, "__await__"):
            self._await(result, succeed, fail)
        else:
            succeed(result)

    def lookup(self, serverAddress: Address, clientAddress: Address) -> Any:
        """Find the owner of the connection between two ``(host, port)`` pairs. To be overridden.

        :param serverAddress: the end on this host.
        :param clientAddress: the end on the asker's.
        :return: ``(system, user)``, each text (or bytes), or a Deferred or an awaitable of that.
        :raises IdentError: or a subclass, which decides what the asker is told. Any other exception is
            logged with its traceback and told as UNKNOWN-ERROR.
        """
        raise IdentError("this server looks nothing up")

    def sendLine(self, line: bytes) -> None:
        """Send one line, in one write (several clients read no more than the first segment)."""
        if self.transport is not None:
            self.transport.write(line + self.delimiter)

    # RFC 1413 section 4, as this server writes it:
    # reply  = port-on-server "," port-on-client ":USERID:" opsys ["," charset] ":" user-id
    #        / port-on-server "," port-on-client ":ERROR:" error-type
    # No white space: what follows the last colon belongs to the user id (RFC 1413 section 6).

    def _cbLookup(self, result: tuple[str | bytes, str | bytes], sport: int, cport: int) -> None:
        system, user = result
        if isinstance(user, str):
            user = user.encode("utf-8", "surrogateescape")
        if isinstance(system, str):
            system = system.encode("utf-8", "surrogateescape")
        if system != b"UNIX":  # as nearly every reply has it
            opsys, comma, charset = system.decode("latin-1").partition(",")
            if not is_token(opsys) or (comma and not is_token(charset)):
                raise IdentError(f"a reply can't have this opsys: {system!r}")
        if not can_be_sent(user):
            raise IdentError(f"a reply can't have this user id: {user!r}")
        self.sendLine(b"%d,%d:USERID:%s:%s" % (sport, cport, system, user[:MAX_USER_ID]))

    def _ebLookup(self, failure: Any, sport: int | str, cport: int | str) -> None:
        # By name, so that the errors of twisted.protocols.ident mean here what they mean there.
        description = getattr(failure.value, "identDescription", None)
        if description is None:
            self.lookup_failed(failure.value)
            description = IdentError.identDescription
        self.sendLine(f"{sport},{cport}:ERROR:{description}".encode("ascii"))

    @property
    def busy(self) -> bool:
        """Whether a lookup is under way."""
        return self._looking_up

    @property
    def done(self) -> bool:
        """Whether the connection ends with the reply that is being sent, or has ended."""
        return self._done

    @property
    def unfinished(self) -> bool:
        """Whether a line has begun that has not ended."""
        return bool(self._buffer)

    def lookup_failed(self, error: BaseException) -> None:
        """Called with an exception of `lookup` that is no IdentError: log it with its traceback."""
        import logging  # 11 ms, and only after a failure

        logging.getLogger("identd").error("lookup failed", exc_info=error)

    def _answer(self, answer: Callable[..., None], value: Any, sport: int | str, cport: int | str) -> None:
        """Send one reply, then go on with the next line, or close."""
        try:
            if self.transport is not None:
                try:
                    answer(value, sport, cport)
                except Exception as error:
                    self._ebLookup(Failure(error), sport, cport)
        finally:
            self._looking_up = False
            if self.transport is not None:
                if self._done or not self.multi_query:
                    self.transport.loseConnection()
                elif not self._taking:
                    self._take_lines()

    def _await(self, awaitable: Any, succeed: Callable[[Any], None], fail: Callable[[Any], None]) -> None:
        """Wait for a coroutine or future on the loop that runs; without one, until it is done."""
        import asyncio  # 60 ms, and only for handlers that wait

        async def wait() -> None:
            try:
                result = await awaitable
            except (Exception, asyncio.CancelledError) as error:
                # The latter is no Exception: somebody cancelled what we wait for, or the client has gone.
                fail(Failure(error))
            else:
                succeed(result)

        reactor = sys.modules.get("twisted.internet.reactor")
        try:
            self._task = asyncio.get_running_loop().create_task(wait())
        except RuntimeError:
            if reactor is not None and getattr(reactor, "running", False):
                from twisted.internet.defer import ensureDeferred

                self._task = ensureDeferred(wait())
            else:
                asyncio.run(wait())
