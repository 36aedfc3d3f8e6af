#!/usr/bin/env python3
"""identd: an ident server (RFC 1413) that tells who owns a TCP connection of this host.

`IdentServer` is the protocol: bytes in, bytes out, no I/O. `Identd` is the one that asks `lookup`. A
blocking loop drives it over standard input and output; `main` finds out which kind of input that is.
"""

from __future__ import annotations

import errno
import gc
import os
import re
import stat
import sys
import time

from lookup.errors import HiddenUser, IdentError, InvalidPort, NoUser

TYPE_CHECKING = False  # typing takes 2 ms to import, and every connection may be a new process
if TYPE_CHECKING:
    import argparse
    import socket
    from collections import OrderedDict
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn, Protocol

    from lookup import Verdict
    from lookup.connection import Address, Owner
    from lookup.grammar import System

    class Endpoint(Protocol):
        host: str
        port: int

    class Transport(Protocol):
        def getHost(self) -> Endpoint: ...
        def getPeer(self) -> Endpoint: ...
        def write(self, data: bytes) -> object: ...
        def loseConnection(self) -> object: ...


__version__ = "1.0.0"
__all__ = ["HiddenUser", "IdentError", "IdentServer", "InvalidPort", "NoUser", "main"]

#: Seconds for one whole query (RFC 1413 section 3 advises 60 to 180).
QUERY_SECONDS = 60.0

#: Seconds for one lookup. Clients hold their user's login until the answer comes, and some give up after five.
LOOKUP_SECONDS = 4.0

#: Seconds to wait for the end of a client that sent more than its query. Closing with unread input
#: makes the kernel reset the connection, and the client may lose the reply.
LINGER_SECONDS = 1.0

#: Octets of pipelined queries that wait for the answer to an earlier one. One segment of 64 KiB must fit.
MAX_PIPELINED = 1 << 17

#: Octets of a user id (RFC 1413 section 6: at most 512).
MAX_USER_ID = 512

#: What the administrator allows, where --config names no other file. oidentd's, for identd takes its place.
CONFIG = "/etc/oidentd.conf"

#: RFC 1413 section 3.
IDENT_PORT = 113

#: Seconds without a connection after which the warm process gives the socket back to inetd or systemd.
IDLE_SECONDS = 600.0

#: Seconds for which a changed system file must have been left alone before it is read again.
REST_SECONDS = 0.2

#: Seconds that SIGTERM leaves to the queries under way.
FINISH_SECONDS = 5.0

#: Connections accepted before those that are open get their turn again.
ACCEPT_BATCH = 64

#: Octets taken from one client at a time. Pipelined queries that can be answered at once are answered in one go,
#: while every other client waits: some 20 of them.
TURN = 128

#: The kernel cuts it to net.core.somaxconn; a storm overflows the 5 or 100 that others ask for.
_BACKLOG = 65535

#: Descriptors that are not for connections: listeners, netlink, the log. Each thread may need another one.
SPARE_DESCRIPTORS = 64

#: Seconds for which there are fewer connections after the process ran out of descriptors all the same.
RECOVER_SECONDS = 60.0

_AT_THE_LIMIT = "the limit of connections is reached"

#: Messages that wait for room in the log's queue, seconds between two attempts, and seconds that the end waits.
MAX_UNSENT, SEND_AGAIN_SECONDS, FLUSH_SECONDS = 4096, 0.01, 0.5

#: Stand for an owner who is not known yet, and for no owner at all.
_ANYBODY, _NOBODY = -1, -2

#: Options that only mean something to who opens the listening socket himself.
_LISTENING = frozenset(("address", "port", "user", "group", "limit"))

#: The largest uid and gid: the one above it means to leave an id as it is (setresgid(2)).
_LAST_ID = (1 << 32) - 2

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

# tokens = *WSP token *WSP "," *WSP token *WSP
# token  = 1*20( %x21-2B / %x2D-39 / %x3B-7E )    ; printable ASCII but comma and colon
_TOKENS = re.compile(rb"[ \t]*([!-+\--9;-~]{1,20})[ \t]*,[ \t]*([!-+\--9;-~]{1,20})[ \t]*")

# opsys  = 1*64( %x21-2B / %x2D-39 / %x3B-7E )    ; RFC 1413 <token>; the comma would begin the charset
_OPSYS = r"[!-+\--9;-~]{1,64}"


def _port(token: bytes) -> int:
    """Return a query's integer (1 to 5 digits 0-9, leading zeros among them), or 0 when it is no port."""
    if token.isdigit() and len(token) <= 5 and int(token) <= 65535:
        return int(token)
    return 0


def _plain(host: str) -> str:
    """Return an IPv4-mapped IPv6 address as IPv4 text, any other as it is."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


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
        self._buffer += data
        self._take_lines()
        if self._looking_up and len(self._buffer) > MAX_PIPELINED:
            self.invalidQuery()

    def _take_lines(self) -> None:
        self._taking = True
        while not (self._looking_up or self._done or getattr(self.transport, "disconnecting", False)):
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
            self._done = not self.multi_query
            self.lineReceived(line[:-1] if line.endswith(b"\r") else line)
        self._taking = False

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
        match = _TOKENS.fullmatch(line)
        if match is None:
            self.invalidQuery()
            return
        ports = _port(match[1]), _port(match[2])
        if all(ports):
            self.validQuery(*ports)
        else:
            tokens = match[1].decode("ascii"), match[2].decode("ascii")
            self._answer(self._ebLookup, Failure(InvalidPort()), *tokens)

    def invalidQuery(self) -> None:
        """Called when a line is no query: drop the connection, which a client must take as UNKNOWN-ERROR."""
        self._done = True
        if self.transport is not None:
            self.transport.loseConnection()

    def validQuery(self, portOnServer: int, portOnClient: int) -> None:
        """Called with the two ports of a query; looks the owner up and answers."""
        ports = portOnServer, portOnClient
        self._looking_up = True

        def succeed(result: Any) -> None:
            self._answer(self._cbLookup, result, *ports)

        def fail(failure: Any) -> None:
            self._answer(self._ebLookup, failure, *ports)

        try:
            server, client = _plain(self.transport.getHost().host), _plain(self.transport.getPeer().host)
            result = self.lookup((server, portOnServer), (client, portOnClient))
        except Exception as error:
            fail(Failure(error))
            return
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

    # reply  = port-on-server "," port-on-client ":USERID:" opsys ["," charset] ":" user-id
    #        / port-on-server "," port-on-client ":ERROR:" error-type
    # No white space: what follows the last colon belongs to the user id (RFC 1413 section 6).

    def _cbLookup(self, result: tuple[str | bytes, str | bytes], sport: int, cport: int) -> None:
        system, user = (
            field.encode("utf-8", "surrogateescape") if isinstance(field, str) else field for field in result
        )
        opsys, comma, charset = system.decode("latin-1").partition(",")
        # Compiled only for what is not sure to match.
        if system != b"UNIX" and not (re.fullmatch(_OPSYS, opsys) and (not comma or re.fullmatch(_OPSYS, charset))):
            raise IdentError(f"not to be sent as opsys: {system!r}")
        if not user or any(octet in user for octet in b"\0\r\n"):
            raise IdentError(f"not to be sent as user id: {user!r}")
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


class Options:
    """What the command line may change, and what holds without one."""

    timeout = QUERY_SECONDS
    error = False
    other: str | None = None
    charset: str | None = None
    reply: str | None = None
    reply_all: str | None = None
    quiet = False
    debug = False
    nosyslog = False
    multi_query = False
    server_address = ""
    client_address = ""
    check = False
    foreground = False
    stdio = False
    address: list[str] = []  # noqa: RUF012  (argparse makes a list of its own)
    port = IDENT_PORT
    user: str | None = None
    group: str | None = None
    limit: int | None = None
    idle: float | None = None
    config: str | None = None
    explain: str | None = None
    ignored: list[str] = []  # noqa: RUF012


class Log:
    """Where the process says what it did: syslog's daemon facility, or standard error.

    Nothing that goes wrong here may keep an answer from going out, so every failure is ignored.
    syslog(3) is not used because it waits when the daemon's queue is full.
    """

    DEBUG, INFO, ERROR = 7, 6, 3  # severities of RFC 5424 section 6.2.1
    _DAEMON = 3 << 3
    _PATH = "/dev/log"

    def __init__(self, options: Options, peer_on_stderr: bool = False) -> None:
        """:param peer_on_stderr: standard error is the client's connection, as inetd has it: never write there."""
        self._least = self.DEBUG if options.debug else self.ERROR if options.quiet else self.INFO
        self._journal = _is_the_journal(2)
        self._stderr = (options.nosyslog or self._journal or os.isatty(2)) and not peer_on_stderr
        self._syslog = not (options.nosyslog or self._stderr)
        self._socket: socket.socket | None = None
        #: What the daemon's queue had no room for; called when there is any; and how much was given up.
        self._unsent: list[bytes] = []
        self.remind: Callable[[], object] = bool
        self._lost = 0

    def write(self, severity: int, message: str) -> None:
        """Log one message; control characters, line ends and non-ASCII ones in it are escaped."""
        if severity > self._least:
            return
        escaped = ascii(message)[1:-1].encode("ascii")
        try:
            if self._stderr:
                prefix = b"<%d>" % severity if self._journal else b"identd: "
                self._write(prefix + escaped + b"\n")
            elif self._syslog:
                self._send(b"<%d>identd[%d]: %s" % (self._DAEMON | severity, os.getpid(), escaped))
        except OSError:
            # ENOSPC, EPIPE, EIO: standard error is full or gone. EMFILE: no socket can be had.
            pass

    def _write(self, line: bytes) -> None:
        """Write to standard error what it takes at once: the journal's stream, or a pipe, may be read by nobody."""
        import select

        room = select.poll()
        room.register(2, select.POLLOUT)
        while line and room.poll(0):
            # A descriptor with room takes as much as this without waiting (pipe(7), PIPE_BUF).
            line = line[os.write(2, line[: select.PIPE_BUF]) :]

    def _send(self, datagram: bytes) -> None:
        if len(self._unsent) < MAX_UNSENT:
            self._unsent.append(datagram)
        else:
            self._lost += 1
        self.send_again()

    def send_again(self) -> None:
        """Send what is unsent, as far as the daemon's queue (10 datagrams on most systems) has room."""
        if self._socket is None:
            import socket

            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        sent = 0
        for datagram in self._unsent:
            try:
                # Not connected, so that a daemon that was started anew is found again.
                self._socket.sendto(datagram, self._PATH)
            except BlockingIOError:
                break
            except OSError:  # ENOENT, ECONNREFUSED: nobody logs. EMSGSIZE: more than it would take
                pass
            sent += 1
        del self._unsent[:sent]
        if self._lost and not self._unsent:
            lost, self._lost = self._lost, 0
            self.write(self.ERROR, f"{lost} messages were lost, for the log took no more")
        if self._unsent:
            self.remind()

    def finish(self) -> None:
        """Send what is unsent before the process ends, unless the daemon is stuck."""
        deadline = time.monotonic() + FLUSH_SECONDS
        while self._unsent and time.monotonic() < deadline:
            time.sleep(0.002)
            self.send_again()


class NoLog(Log):
    """For what no client asked."""

    def write(self, severity: int, message: str) -> None:
        """Say nothing."""


def _is_the_journal(fd: int) -> bool:
    """Say whether a descriptor leads to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    status = _status(fd)
    return status is not None and os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Identd(IdentServer):
    """The server that identd is: asks `lookup`, tells what the options allow, logs what it told."""

    def __init__(self, options: Options, log: Log, run: Callable[..., Any]) -> None:
        """:param run: calls a function that may block: ``run(function, *arguments)``, result or awaitable."""
        self.multi_query = options.multi_query
        self._options = options
        self._log = log
        self._run = run
        self._note, self._severity = "", Log.INFO
        #: Whether a query was answered.
        self.answered = False

    def connectionMade(self) -> None:
        self.peer = self.transport.getPeer().host or "standard input"

    def lookup(self, serverAddress: Address, clientAddress: Address) -> Any:
        self._note, self._severity = "", Log.INFO
        if self._options.reply_all is not None:
            return "UNIX", self._options.reply_all
        return self._run(_lookup, serverAddress, clientAddress, self._options)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(f"a line that has not ended after {self.MAX_LENGTH} octets", line)

    def lineReceived(self, line: bytes) -> None:
        self._line = line
        if self.multi_query and os.geteuid() == 0:
            self._have_a_child_answer(line)
        else:
            super().lineReceived(line)

    def _have_a_child_answer(self, line: bytes) -> None:
        """Leave a line to a child, who may become the owner for good: the next line may be about another one."""
        import contextlib
        import select
        import signal

        from lookup import codec

        # The slowest of what every child needs is imported once.
        with contextlib.suppress(ImportError):  # without pyroute2, psutil answers
            codec.messages()
        # Nobody waits for a child: it may hang in its owner's home, and he may stop it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        transport = self.transport
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                super().lineReceived(line)
                self._log.finish()
                os.write(writer, bytes((transport.errno or transport.disconnecting,)))
            finally:
                os._exit(EXIT_OK)
        os.close(writer)
        room = select.poll()
        room.register(reader, select.POLLIN)
        in_time = room.poll((LOOKUP_SECONDS + LINGER_SECONDS) * 1e3)
        status = os.read(reader, 1) if in_time else b""  # nothing: it was killed
        os.close(reader)
        if status:
            transport.disconnecting = bool(status[0])
            transport.errno = status[0] if status[0] > 1 else 0
            transport.begin_query()
        else:
            if not in_time:
                os.kill(child, signal.SIGKILL)
            run, self._run = self._run, _nothing
            super().lineReceived(line)
            self._run = run

    def invalidQuery(self) -> None:
        self._refuse("an invalid query", self._line)

    def _refuse(self, what: str, line: bytes) -> None:
        self._log.write(Log.INFO, f"{self.peer} sent {what}: {ascii(line[:80])[2:-1]}")
        super().invalidQuery()

    def _cbLookup(self, result: Any, sport: int, cport: int) -> None:
        owner = getattr(result, "owner", None)
        if owner:
            self._note = self._about(result.login, owner.uid, result.verdict, f", {owner.source}")
            self._log.write(Log.DEBUG, f"found {owner!r}")
        system, user = result
        system = self._options.other or system
        if self._options.charset:
            system += "," + self._options.charset
        # As login names and arguments were decoded, so that the same octets go out.
        super()._cbLookup((system, os.fsencode(user)), sport, cport)

    def _ebLookup(self, failure: Any, sport: int | str, cport: int | str) -> None:
        error = failure.value
        self._note = f" ({error.detail})" if getattr(error, "detail", "") else ""
        if isinstance(error, IdentError) and error.identDescription == IdentError.identDescription:
            self._severity = Log.ERROR
        verdict: Any = getattr(error, "verdict", None)
        if verdict is not None:
            self._note = self._about(verdict.login, error.uid, verdict)
        if self._options.reply is not None and isinstance(error, NoUser):
            self._cbLookup(("UNIX", self._options.reply), int(sport), int(cport))
        else:
            if self._options.error and isinstance(error, IdentError):
                failure = Failure(IdentError(error.detail))
            super()._ebLookup(failure, sport, cport)

    def _about(self, login: str, uid: int, verdict: Verdict | None, source: str = "") -> str:
        """Return what the log has of an owner: who he is, which rule decided. Log what is wrong with his files."""
        who = f"{login}, uid {uid}" if login else f"uid {uid}"
        if verdict is None:
            return f" ({who}{source})"
        for logged, text in verdict.files:
            self._log.write(Log.ERROR if logged else Log.DEBUG, text)
        if verdict.posed:
            self._log.write(Log.INFO, f"{who} tried to pass for {verdict.posed}")
        return f" ({who}{source}, rule {verdict.rule})"

    def lookup_failed(self, error: BaseException) -> None:
        import traceback

        self._log.write(Log.ERROR, "".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def sendLine(self, line: bytes) -> None:
        super().sendLine(line)
        self.answered = True
        self._log.write(self._severity, f"{self.peer} was told {line.decode('latin-1')}{self._note}")


def _nothing(*_: object) -> None:
    """Look nothing up."""
    raise IdentError("the process that looked this up did not answer")


def _lookup(serverAddress: Address, clientAddress: Address, options: Options) -> Any:
    """Do all that one query needs, in a process that lives for it alone."""
    import lookup  # what it needs is imported once there is a query to look up
    from lookup.known import Known

    owner = lookup.find(serverAddress, clientAddress)
    known = Known(owner.uid, become_owner, watch=False)
    return lookup.told(owner, serverAddress, clientAddress, _policy(options), known)


def _policy(options: Options) -> Any:
    """Read the system file. :raises IdentError: naming somebody against it would be worse than naming nobody."""
    import lookup

    try:
        return lookup.load(options.config or CONFIG, options.config is not None)
    except lookup.ConfigError as error:
        raise IdentError(str(error)) from None


def become_owner(uid: int) -> None:
    """Give up root for good and become a connection's owner; root himself, for whom nothing is given up, as nobody.

    Whoever became one owner must not look at what is another's: see `Identd.lineReceived`.

    :raises IdentError: the kernel refuses, or he has no groups that could be told.
    """
    import pwd

    if os.geteuid() != 0:
        return
    try:
        entry = pwd.getpwuid(uid) if uid else pwd.getpwnam("nobody")
        os.initgroups(entry.pw_name, entry.pw_gid)
        _become(entry.pw_uid, entry.pw_gid)
    except (KeyError, OSError, UsageError) as error:
        # EPERM, EINVAL: a sandbox, or a user namespace without these ids. EAGAIN: his process limit.
        raise IdentError(f"root could not be given up: {error}", uid) from None


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that may block, for at most so many seconds; past them it is left to itself.

    A signal could not end it: the name service waits in C, where Python runs no signal handler.

    :raises IdentError: when it has not returned in time. Otherwise, whatever it raises.
    """
    # 1 ms, which pyroute2 would take in any case. Whichever thread imports it first counts as the main one, for which
    # the interpreter waits at its end.
    import threading

    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.extend((None, function(*arguments)))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise IdentError(f"the lookup took longer than {seconds:g} s")
    if outcome[0] is not None:
        raise outcome[0]
    return outcome[1]


class End:
    """One end of a connection, as `IdentServer` reads it: ``host`` (text) and ``port``."""

    def __init__(self, host: str = "", port: int = 0) -> None:
        self.host = host
        self.port = port


def _end(address: Any) -> End:
    """Translate what getsockname() gives: an IPv4-mapped host to plain IPv4, a link-local one with its scope."""
    host, port = _plain(address[0]), address[1]
    if len(address) == 4 and address[3] and ":" in host:
        from socket import if_indextoname

        try:
            host = f"{host}%{if_indextoname(address[3])}"
        except OSError:  # ENXIO: the interface went away; its number still tells it from others
            host = f"{host}%{address[3]}"
    return End(host, port)


class SocketTransport:
    """A connected socket that blocks, until the deadline of the query under way at the most."""

    errno = 0

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        """:param timeout: seconds for each whole query; 0: no deadline. :raises OSError: the peer has gone."""
        self._socket = connection
        self._host, self._peer = _end(connection.getsockname()), _end(connection.getpeername())
        self._timeout = timeout
        self.disconnecting = False
        self.begin_query()

    def begin_query(self) -> None:
        """Let a new deadline begin."""
        self._deadline = time.monotonic() + self._timeout if self._timeout else None

    def _wait_until(self, deadline: float | None) -> None:
        self._socket.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))

    def getHost(self) -> End:
        return self._host

    def getPeer(self) -> End:
        return self._peer

    def read(self) -> bytes:
        """Return what the client sent next, ``b""`` at its end. :raises OSError: the deadline, or a reset."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise TimeoutError
        self._wait_until(self._deadline)
        return self._socket.recv(4096)

    def write(self, data: bytes) -> None:
        try:
            self._wait_until(self._deadline)
            self._socket.sendall(data)
        except OSError:  # EPIPE, ECONNRESET: the client did not wait. A timeout: it reads nothing.
            self.disconnecting = True
        self.begin_query()

    def loseConnection(self) -> None:
        self.disconnecting = True

    def close(self) -> None:
        """End the sending side, then read what came beyond the query, so that no reset overtakes the reply."""
        import socket

        deadline = time.monotonic() + LINGER_SECONDS
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(0)
            unread = self._socket.recv(65536)
            while unread and time.monotonic() < deadline:
                self._wait_until(deadline)
                unread = self._socket.recv(65536)
        except OSError:
            # EAGAIN: nothing more came. ENOTCONN, ECONNRESET: the client has gone. A timeout: it stays on.
            pass


class TextTransport:
    """Standard input and output of someone who tests by hand. ``errno``: why replies can't be written."""

    errno = 0

    def __init__(self, host: str, peer: str) -> None:
        self._host, self._peer = End(host), End(peer)
        self.disconnecting = False

    def getHost(self) -> End:
        return self._host

    def getPeer(self) -> End:
        return self._peer

    def write(self, data: bytes) -> None:
        try:
            os.write(1, data)
        except BrokenPipeError:  # EPIPE: nobody reads on
            self.disconnecting = True
        except OSError as error:  # ENOSPC, EIO, EBADF: for main to tell
            self.errno = error.errno or errno.EIO
            self.disconnecting = True

    def loseConnection(self) -> None:
        """Nothing to lose: the input's end is the end."""

    def begin_query(self) -> None:
        """Nothing to do: nobody who tests by hand is hurried."""


class Sink(TextTransport):
    """Keeps what is written as ``reply``."""

    reply = b""

    def write(self, data: bytes) -> None:
        self.reply += data


class ByHand(Identd):
    """The server at the end of a pipe: every line is a query, and an invalid one ends nothing."""

    def __init__(self, options: Options, log: Log, run: Callable[..., Any]) -> None:
        super().__init__(options, log, run)
        self.multi_query = True

    def _refuse(self, what: str, line: bytes) -> None:
        _say(f"{what}: {ascii(line[:80])[2:-1]}")

    def _ebLookup(self, failure: Any, sport: int | str, cport: int | str) -> None:
        if getattr(failure.value, "detail", ""):
            _say(f"{sport},{cport}: {failure.value.detail}")
        super()._ebLookup(failure, sport, cport)


def _say(message: str) -> None:
    """Tell whoever started us, on one line of standard error, if there is one."""
    try:
        os.write(2, f"identd: {ascii(message)[1:-1]}\n".encode("ascii"))
    except OSError:  # ENOSPC, EPIPE: full, or nobody reads
        return


def _in_time(function: Callable[..., Any], *arguments: Any) -> Any:
    return within(LOOKUP_SECONDS, function, *arguments)


def serve_connection(connection: socket.socket, options: Options, log: Log) -> None:
    """Answer one connection (inetd ``nowait``, systemd ``Accept=yes``, tcpserver) and end it."""
    if not options.multi_query:
        gc.disable()  # collecting while modules are imported is 6 % of a process that lives for one query
    try:
        transport = SocketTransport(connection, options.timeout)
    except OSError:  # ENOTCONN: the client went away before we started
        log.write(Log.INFO, "a client has gone before its query")
        return
    protocol = Identd(options, log, _in_time)
    protocol.makeConnection(transport)
    while not transport.disconnecting:
        try:
            data = transport.read()
        except OSError as error:  # ECONNRESET, ETIMEDOUT: the client has gone. A timeout: the deadline has passed.
            log.write(Log.INFO, f"{protocol.peer} sent no whole query: {error or 'the deadline has passed'}")
            break
        if not data:
            if protocol.unfinished or not protocol.answered:
                log.write(Log.INFO, f"{protocol.peer} left without a whole query")
            break
        protocol.dataReceived(data)
    protocol.connectionLost()
    transport.close()
    log.finish()


class Pending:
    """An answer that is still to come, for `IdentServer` to wait for."""

    def __init__(self) -> None:
        self.settled = False
        self.timer: Any = None
        self._callbacks: Any = None

    def addCallbacks(self, succeed: Callable[[Any], None], fail: Callable[[Any], None]) -> None:
        self._callbacks = succeed, fail

    def settle(self, result: Any) -> None:
        """Hand over the result, or an exception. Only the first one counts."""
        if self.settled:
            return
        self.settled = True
        self.timer.cancel()
        succeed, fail = self._callbacks
        if isinstance(result, BaseException):
            fail(Failure(result))
        else:
            succeed(result)


class Server:
    """The warm process: one event loop that answers every connection of the listening sockets.

    The loop is asyncio's; its streams are not used, for they take three times as long as the whole rest of a
    query. Whatever may block happens in threads, each query's share of it within LOOKUP_SECONDS.
    """

    def __init__(
        self, listeners: list[socket.socket], options: Options, log: Log, idle: float,
        system: System | None, seen: tuple[int, ...],
    ) -> None:  # fmt: skip
        """:param idle: seconds without a connection after which to end; 0: never.

        :param system: what is allowed; :param seen: of the system file, before it was read.
        """
        import asyncio
        from collections import OrderedDict

        import lookup
        from lookup import sock_diag
        from lookup.known import Forgotten, Known, Memory
        from lookup.workers import ON_ITS_OWN, Workers

        self.options, self.log = options, log
        self.loop = asyncio.new_event_loop()
        self._listeners = listeners
        self._limit = _raise_descriptor_limit()
        if options.limit is not None:
            self._limit = min(self._limit, options.limit)
        self._most = self._limit
        self._idle = idle
        self._since = time.monotonic()
        self._open: set[Connection] = set()
        #: In the order of their deadlines: those that may send, and those that only have to end.
        self.waiting: OrderedDict[Connection, float] = OrderedDict()
        self.lingering: OrderedDict[Connection, float] = OrderedDict()
        self._workers = Workers(self.loop, self.complain)
        self._memory, self._known, self._forgotten, self._on_its_own = Memory(), Known, Forgotten, ON_ITS_OWN
        self._lookup, self._sock_diag = lookup, sock_diag
        self._system, self._seen = system, seen
        self._changed = seen, 0.0
        #: How many times the system file was read again, and which of them counts.
        self._readings = self._in_force = 0
        self._diag: Any = None
        self._complaints: dict[str, float] = {}
        self._accepting = self._stopping = self._reminded = False

    def run(self) -> None:
        """Serve until idle, or until SIGTERM or SIGINT."""
        import signal

        were_blocking = [os.get_blocking(listener.fileno()) for listener in self._listeners]
        for listener in self._listeners:
            listener.setblocking(False)
            listener.listen(_BACKLOG)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stop)
        self.loop.add_signal_handler(signal.SIGHUP, self.reload)
        self._accept_again()
        self._tick()
        self.log.remind = self._remember_the_log
        self.log.write(Log.INFO, f"serving {', '.join(map(_name, self._listeners))}")
        try:
            self.loop.run_forever()
        finally:
            self.log.finish()
            for listener, blocking in zip(self._listeners, were_blocking):
                # Inetd's or systemd's next server gets them as we got them.
                os.set_blocking(listener.fileno(), blocking)
            for connection in list(self._open):
                connection.abort()
            if self._diag is not None:
                self._diag.close()
            self.loop.close()
            if self._workers.any_busy:
                os._exit(EXIT_OK)  # a stuck thread would be waited for

    def _remember_the_log(self) -> None:
        if not self._reminded:
            self._reminded = True
            self.loop.call_later(SEND_AGAIN_SECONDS, self._send_log_again)

    def _send_log_again(self) -> None:
        self._reminded = False
        self.log.send_again()

    def stop(self) -> None:
        """Accept no more, finish what is under way, end."""
        if not self._stopping:
            self._stopping = True
            self._accept_no_more()
            self.loop.call_later(FINISH_SECONDS, self.loop.stop)
            self._end_if_done()

    def _look_for_a_change(self, now: float) -> None:
        """Read the system file again once whoever changes it has left it alone: a half of it may parse, too."""
        signature = _signature(self.options)
        if signature != self._changed[0]:
            self._changed = signature, now
        if signature != self._seen and now - self._changed[1] >= REST_SECONDS:
            self.reload()

    def reload(self) -> None:
        """Read the system file again, in a thread, for names in it may have to be looked up."""
        if self.options.reply_all is not None:
            return
        self._seen = _signature(self.options)
        self._readings += 1
        number = self._readings

        def put_in_force(system: System | None) -> None:
            # Threads may overtake each other, and a later reading has the newer file.
            if number > self._in_force:
                self._in_force, self._system = number, system
                self.log.write(Log.INFO, "the configuration was read again")

        self._in_thread(_NOBODY, self._load, None).addCallbacks(put_in_force, self._keep)

    def _load(self, once: list[None]) -> Iterator[System | None]:
        """Run in a thread."""
        for _ in once:
            yield self._lookup.load(self.options.config or CONFIG, self.options.config is not None)

    def _keep(self, failure: Failure) -> None:
        self.log.write(Log.ERROR, f"{getattr(failure.value, 'detail', failure.value)}; what was in force stays so")

    def query_deadline(self) -> float:
        """Return when a query that begins now must have come."""
        return time.monotonic() + self.options.timeout if self.options.timeout else float("inf")

    def _end_if_done(self) -> None:
        if self._stopping and not self._open:
            self.loop.stop()

    def _tick(self) -> None:
        """End what has passed its deadline, and the process when it is idle."""
        now = time.monotonic()
        self._look_for_a_change(now)
        for line in (self.waiting, self.lingering):
            while line and next(iter(line.values())) <= now:
                next(iter(line)).expire()
        if self._idle and not self._stopping and not self._open and now - self._since >= self._idle:
            self.stop()
            return
        ends = [next(iter(line.values())) for line in (self.waiting, self.lingering) if line]
        if self._idle and not self._open:
            ends.append(self._since + self._idle)
        if self._changed[0] != self._seen:
            ends.append(self._changed[1] + REST_SECONDS)
        # Anything that begins later has its deadline at least so much later.
        shortest = min(filter(None, (self.options.timeout, self._idle, LINGER_SECONDS)))
        self.loop.call_later(min(max(min(ends, default=now + shortest) - now, 0.01), shortest), self._tick)

    # Accepting

    def _accept_again(self) -> None:
        if not self._accepting and not self._stopping:
            self._accepting = True
            for listener in self._listeners:
                self.loop.add_reader(listener, self._accept, listener)

    def _accept_no_more(self) -> None:
        self._accepting = False
        for listener in self._listeners:
            self.loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            full = len(self._open) >= self._limit
            if full and not (self.lingering or self.waiting):
                self.complain(_AT_THE_LIMIT)
                self._pause()
                return
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # ECONNABORTED, EPERM, EPROTO, ENETDOWN ...: that connection is gone, others wait (accept(2)).
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    if error.errno == errno.EMFILE:
                        # We came with more of them open than was reckoned with. The name service needs some too.
                        self._limit = max(len(self._open) * 3 // 4, 1)
                        self.loop.call_later(RECOVER_SECONDS, setattr, self, "_limit", self._most)
                    made_room = self._make_room(f"no more connections: {error.strerror}")
                    while made_room and len(self._open) > self._limit:
                        made_room = self._make_room(_AT_THE_LIMIT)
                    if not made_room:
                        self._pause()
                    return
                continue
            if full:
                # Only now, for there may have been no newcomer to make room for.
                self._make_room(_AT_THE_LIMIT)
            self._begin(connection, address)

    def _begin(self, socket_: socket.socket, address: Any) -> None:
        try:
            connection = Connection(self, socket_, address)
        except OSError:  # ENOTCONN: it has been reset
            socket_.close()
            return
        self._open.add(connection)
        connection.readable()

    def _make_room(self, reason: str) -> bool:
        """End the connection that has waited longest without sending a whole query."""
        self.complain(reason)
        for line in (self.lingering, self.waiting):
            if line:
                next(iter(line)).abort()
                return True
        return False

    def _pause(self) -> None:
        """Leave new connections in the kernel's queue until one of ours has ended, or for a moment."""
        self._accept_no_more()
        self.loop.call_later(0.1, self._accept_again)

    def complain(self, what: str) -> None:
        """Log trouble that every connection may meet, once a minute."""
        now = time.monotonic()
        if now >= self._complaints.get(what, 0):
            self._complaints[what] = now + 60
            self.log.write(Log.ERROR, what)

    def ended(self, connection: Connection) -> None:
        """Take note that a connection is closed."""
        self._open.discard(connection)
        self._since = time.monotonic()
        self._end_if_done()

    # Looking up

    def look_up(
        self, function: Callable[..., Any], server: Address, client: Address, options: Options
    ) -> Any:
        """Do what ``function`` does, but ask the kernel at once, and leave only what may block to a thread."""
        try:
            if self._diag is None:
                self._diag = self._sock_diag.SockDiag()
            owner = self._diag.find(server, client)
        except NoUser:
            raise
        except IdentError:
            # Answers to what failed may still arrive on that socket.
            if self._diag is not None:
                self._diag.close()
                self._diag = None
            raise
        except self._sock_diag.SockDiagUnavailable:
            return self._find_in_thread(server, client)
        known = self._memory.recall(owner.uid)
        if known is not None:
            try:
                return self._lookup.told(owner, server, client, self._system, known)
            except self._forgotten:
                pass
        return self._in_thread(owner.uid, self._tell, (owner, server, client, self._system))

    def _find_in_thread(self, server: Address, client: Address) -> Pending:
        """Look up where psutil, which takes its time, has to find the owner first: two jobs within one deadline."""
        pending = self._pending(_ANYBODY)

        def found(owner: Owner) -> None:
            self._workers.call(owner.uid, pending, self._tell, (owner, server, client, self._system))

        finding = self._in_thread(_ANYBODY, self._find, (server, client), alone=True)
        finding.addCallbacks(found, lambda failure: pending.settle(failure.value))
        return pending

    def _find(self, questions: list[tuple[Address, Address]]) -> Iterator[Owner]:
        """Run in a thread."""
        for server, client in questions:
            yield self._lookup.find(server, client)

    def _tell(self, questions: list[Any]) -> Iterator[Any]:
        """Run in a thread: find out what is to be told of one owner's connections, and have the loop know it too.

        What the name service and his files say is asked for once, after all of these queries have come. But each
        question to another server, which may take as long as all the rest, gets a thread.
        """
        known = self._known(questions[0][0].uid, forwards=len(questions) == 1)
        for owner, server, client, system in questions:
            try:
                yield self._lookup.told(owner, server, client, system, known)
            except self._forgotten:
                yield self._on_its_own
            except Exception as error:
                yield error
        self._memory.keep(known)

    def _in_thread(self, uid: int, function: Callable[..., Any], argument: Any, alone: bool = False) -> Pending:
        """Call what may block in a thread, and give up on it after LOOKUP_SECONDS."""
        pending = self._pending(uid)
        self._workers.call(uid, pending, function, argument, alone)
        return pending

    def _pending(self, uid: int) -> Pending:
        pending = Pending()
        pending.timer = self.loop.call_later(
            LOOKUP_SECONDS, pending.settle, IdentError(f"the lookup took longer than {LOOKUP_SECONDS:g} s", uid)
        )
        return pending


class Connection:
    """A client of the warm process: the transport that its protocol writes to."""

    __slots__ = (
        "_host", "_lost", "_peer", "_reading", "_server", "_settling", "_socket", "_unsent",
        "disconnecting", "protocol",
    )  # fmt: skip

    def __init__(self, server: Server, connected: socket.socket, address: Any) -> None:
        """:raises OSError: the client has gone."""
        connected.setblocking(False)
        self._server, self._socket = server, connected
        self._host, self._peer = _end(connected.getsockname()), _end(address)
        self._unsent = b""
        self.disconnecting = self._lost = False
        self._reading = False
        self._settling = True
        self.protocol = Identd(server.options, server.log, server.look_up)
        self.protocol.makeConnection(self)

    def getHost(self) -> End:
        return self._host

    def getPeer(self) -> End:
        return self._peer

    def write(self, data: bytes) -> None:
        self._settle_later()
        self._server.waiting.pop(self, None)  # the next query's deadline begins here
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # EPIPE, ECONNRESET: the client did not wait
            self._lost = self.disconnecting = True
            return
        self._unsent = data[sent:]

    def loseConnection(self) -> None:
        self.disconnecting = True
        self._settle_later()

    def _settle_later(self) -> None:
        if not self._settling:
            self._settling = True
            self._server.loop.call_soon(self._settle)

    def readable(self) -> None:
        """Take what the client sent."""
        try:
            data = self._socket.recv(TURN)
        except BlockingIOError:
            self._settle()
            return
        except OSError as error:  # ECONNRESET, ETIMEDOUT
            self._left(f"left without a whole query: {error.strerror}")
            return
        if not data:
            if self.protocol.answered and not self.protocol.unfinished:
                self.abort()
            else:
                self._left("left without a whole query")
            return
        self._settling = True
        self.protocol.dataReceived(data)
        self._settle()

    def _settle(self) -> None:
        """Wait for what has to come next: the client's query, the answer, room to send it, or the end."""
        self._settling = False
        server = self._server
        if self._lost:
            self.abort()
        elif self._unsent:
            self._pause_reading()
            server.waiting.setdefault(self, server.query_deadline())
            server.loop.add_writer(self._socket, self._writable)
        elif self.disconnecting:
            self._finish()
        elif self.protocol.busy:
            self._pause_reading()
            server.waiting.pop(self, None)
        else:
            server.waiting.setdefault(self, server.query_deadline())
            if not self._reading:
                self._reading = True
                server.loop.add_reader(self._socket, self.readable)

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._server.loop.remove_reader(self._socket)

    def _writable(self) -> None:
        self._server.loop.remove_writer(self._socket)
        data, self._unsent = self._unsent, b""
        self.write(data)

    def _finish(self) -> None:
        """Close, but read first what came beyond the query: closing over it would be a reset."""
        self.protocol.connectionLost()
        self._server.waiting.pop(self, None)
        self._pause_reading()
        try:
            if self._socket.recv(65536):
                self._socket.shutdown(1)  # SHUT_WR
                self._server.lingering[self] = time.monotonic() + LINGER_SECONDS
                self._reading = True
                self._server.loop.add_reader(self._socket, self._drain)
                return
        except OSError:  # EAGAIN: nothing more came. ENOTCONN, ECONNRESET: the client has gone.
            pass
        self._close()

    def _drain(self) -> None:
        try:
            if self._socket.recv(65536):
                return
        except BlockingIOError:
            return
        except OSError:  # ECONNRESET
            pass
        self._close()

    def _left(self, how: str) -> None:
        self._server.log.write(Log.INFO, f"{self.protocol.peer} {how}")
        self.abort()

    def expire(self) -> None:
        """End at the deadline."""
        if self.disconnecting:
            self._close()
        else:
            self._left("sent no whole query in time")

    def abort(self) -> None:
        """End now, without an answer."""
        self.protocol.connectionLost()
        self._close()

    def _close(self) -> None:
        self._settling = True  # nothing more is to be settled
        server = self._server
        server.waiting.pop(self, None)
        server.lingering.pop(self, None)
        self._pause_reading()
        if self._unsent:
            server.loop.remove_writer(self._socket)
        self._socket.close()
        server.ended(self)


def serve_lines(options: Options, log: Log) -> None:
    """Answer every line of standard input, until its end. :raises OSError: the replies can't be written."""
    transport = TextTransport(options.server_address, options.client_address)
    protocol = ByHand(options, log, _in_time)
    protocol.makeConnection(transport)
    while not transport.disconnecting and (data := os.read(0, 65536)):
        protocol.dataReceived(data)
    if protocol.unfinished:
        protocol.dataReceived(b"\n")
    protocol.connectionLost()
    log.finish()
    if transport.errno:
        raise OSError(transport.errno, os.strerror(transport.errno))


def _parser() -> argparse.ArgumentParser:
    """Return the command line's grammar; its letters and meanings are oidentd's where oidentd has them."""
    import argparse  # 16 ms, and only when there are arguments

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(message)

    def seconds(text: str) -> float:
        value = float(text)
        if not 0 <= value < 1e9:
            raise ValueError
        return value

    class _Ignored(argparse.Action):
        """Takes an option of oidentd's that has no meaning here, for a warning."""

        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            namespace.ignored = [*namespace.ignored, self.option_strings[-1]]

    def number(text: str) -> int:
        if not 1 <= int(text) < 1 << 31:
            raise ValueError
        return int(text)

    def port(text: str) -> int:
        found = _port(text.encode())
        if not found:
            from socket import getservbyname

            try:
                found = getservbyname(text, "tcp")
            except OSError:
                raise argparse.ArgumentTypeError(f"no port from 1 to 65535, nor a service: {text!r}") from None
        return found

    def reply(text: str) -> str:
        if not text or any(character in text for character in "\0\r\n"):
            raise argparse.ArgumentTypeError("a reply is one line and not empty: no NUL, CR or LF")
        return text

    def token(text: str) -> str:
        if not re.fullmatch(_OPSYS, text):
            raise argparse.ArgumentTypeError(f"1 to 64 printable ASCII characters but ',' and ':', not {text!r}")
        return text

    def address(text: str) -> str:
        from lookup.connection import pack

        pack(text)
        return text

    parser = Parser(
        prog="identd",
        description="Answer ident queries (RFC 1413): who owns a TCP connection of this host? Standard input"
        " decides how: a connected socket (inetd, xinetd, systemd) brings one query, a listening one is served,"
        " anything else is read as one query a line. But with -a, -p, -u, -g or -l, and neither -i nor -I,"
        " identd listens and goes to the background.",
        epilog="Exit status: 0 done, 1 --check or the start failed, 2 a bad option.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("-t", "--timeout", type=seconds, metavar="SECONDS", help="for one whole query (default 60; 0: for ever)")
    add("-e", "--error", action="store_true", help="send UNKNOWN-ERROR in place of every other error")
    add("-o", "--other", nargs="?", const="OTHER", type=token, metavar="OS",
        help="send OTHER, or OS if attached, as the operating system")  # fmt: skip
    add("-c", "--charset", type=token, help="name a character set in replies")
    add("-r", "--reply", type=reply, help="the name to send when a lookup finds nobody")
    add("-R", "--reply-all", type=reply, metavar="REPLY", help="the name to send for every query; nothing is looked up")
    add("-q", "--quiet", action="store_true", help="log errors only")
    add("-d", "--debug", action="store_true", help="log what the kernel said, and which source answered")
    add("-S", "--nosyslog", action="store_true", help="log to standard error")
    add("-I", "--stdio", action="store_true", help="serve standard input, as without this option")
    add("-C", "--config", metavar="FILE", help=f"what users may do (default {CONFIG})")
    add("-i", "--foreground", action="store_true", help="open a listening socket of our own, and serve it")
    add("-a", "--address", action="append", type=address, help="of the listening socket (repeatable; default: all)")
    add("-p", "--port", type=port, help=f"listen on this port (default {IDENT_PORT})")
    add("-u", "--user", help="run as this user (default, as root: nobody); with --check, whose file to read")
    add("-g", "--group", help="run as this group (default: the user's)")
    add("-l", "--limit", type=number, metavar="N", help="connections at once (default: what descriptors allow)")
    add("--idle", type=seconds, metavar="SECONDS", help="end after so long without a client (default 600; -i: never)")
    add("--multi-query", action="store_true", help="answer several queries on one connection")
    add("--server-address", type=address, metavar="ADDRESS", help="this host's end, for queries by hand")
    add("--client-address", type=address, metavar="ADDRESS", help="the far end, for queries by hand")
    add("--check", action="store_true", help="show that a real query gets a true answer here, or why not")
    add("--explain", nargs="?", const="", metavar="PORT,PORT", help="say what would be answered for port-on-server and"
        " port-on-client, and why; without: for each connection of yours")  # fmt: skip
    for name, long in (("-m", "--masquerade"), ("-M", "--masquerade-first")):
        add(name, long, action=_Ignored, nargs=0, help=argparse.SUPPRESS)
    for forward in (("-f", "--forward"), ("--forward-last",)):
        add(*forward, type=port, action=_Ignored, nargs="?", const=IDENT_PORT, help=argparse.SUPPRESS)
    add("-P", "--proxy", action=_Ignored, help=argparse.SUPPRESS)
    add("-v", "--version", action="version", version=f"identd {__version__}")
    return parser


class UsageError(Exception):
    """The command line can't be obeyed; the text says why."""


#: Options that oidentd 3 does not have. Where an abbreviation fits one of its own too, that one is meant.
_OURS = frozenset(("--check", "--client-address", "--explain", "--forward-last", "--idle", "--multi-query",
                   "--server-address"))  # fmt: skip


def _as_getopt_reads(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return arguments as getopt_long(3), which oidentd has, understands them: each option in full, its value attached.

    Operands, which it ignores, are left out. What it can't understand stays, for the parser to complain about.
    """
    actions = parser._option_string_actions
    found = []
    left = list(argv)
    while left:
        argument = left.pop(0)
        if argument == "--":
            break
        if argument.startswith("--"):
            name, attached, value = argument.partition("=")
            fitting = [name] if name in actions else [long for long in actions if long.startswith(name)]
            theirs = [long for long in fitting if long not in _OURS] or fitting
            letters, name = "", theirs[0] if len(theirs) == 1 else ""
        elif argument.startswith("-") and argument != "-":
            name, letters, attached, value = argument[:2], argument[2:], "", ""
        else:
            continue
        action = actions.get(name)
        if action is None:
            found.append(argument)
            continue
        if action.nargs == 0:
            if letters:
                left.insert(0, f"-{letters}")
        elif letters:
            attached, value = "=", letters
        elif not attached and left and (action.nargs is None or (name == "--explain" and not left[0].startswith("-"))):
            attached, value = "=", left.pop(0)
        found.append(action.option_strings[-1] + attached + value)
    return found


def parse(argv: Sequence[str]) -> Options:
    """Return the options that a command line sets. :raises UsageError: it can't be obeyed."""
    options = Options()
    if argv:
        parser = _parser()
        parser.parse_args(_as_getopt_reads(argv, parser), namespace=options)
    if options.quiet and options.debug:
        raise UsageError("--quiet and --debug contradict each other")
    return options


def check(options: Options) -> int:
    """Show that a query gets a true answer here; then read the configuration and list what is wrong with it."""
    import platform

    from lookup import obstacles

    print(f"identd {__version__}, {obstacles.versions()}, {platform.system()} {platform.release()}")
    answer_is_true = check_answer()
    files_are_right = check_files(options)  # as a user, which nothing after it could undo
    print("the answer is true" if answer_is_true else "no true answer")
    return EXIT_OK if files_are_right and answer_is_true else EXIT_FAILED


def check_files(options: Options) -> bool:
    """Print what is wrong with the system file, and with --user with that user's; say whether there is no error."""
    from lookup import users

    right = _check_system_file(options)
    if options.user is None:
        return right
    uid = users.uid_of(os.fsencode(options.user))
    if uid is None:
        uid = int(options.user) if options.user.isdecimal() else -1
    if not 0 <= uid <= _LAST_ID:
        raise UsageError(f"no such user: {options.user}")
    return _check_users_file(uid) and right


def _check_system_file(options: Options) -> bool:
    import lookup
    from lookup import access

    path = options.config or CONFIG
    notices: list[Any] = []
    error = None
    try:
        system = lookup.load(path, options.config is not None, notices)
    except lookup.ConfigError as broken:
        error = broken
    for notice in notices:
        print(f"warning: {notice}")
    if error is not None:
        print(f"error: {error}")
        return False
    kept = access.kept_from_nobody(path, 0) if system else ""
    if kept:
        print(f"warning: {path}: an identd that is not started as root can't read it, and names nobody ({kept})")
    print(f"system   {path if system else f'no {path}: nobody may do anything'}")
    return True


def _check_users_file(uid: int) -> bool:
    from lookup import ConfigError, access, grammar, users, wishes

    become_owner(uid)
    found = wishes.read(uid, users.home(uid))
    right = True
    for bad, note in found.notes:
        right = right and not bad
        print(f"error: {note}" if bad else f"file     {note}")
    if found.path:
        kept = access.kept_from_nobody(found.path, uid)
        if kept:
            print(f"warning: {found.path}: an identd of another user, such as nobody, can't read it ({kept})")
        notices: list[Any] = []
        try:
            # By now it may be another file: one that never ends, or a FIFO.
            with open(os.open(found.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
                grammar.parse_user(file.read(wishes.MAX_SIZE) or b"", found.path, notices)
        except ConfigError as error:
            if found.error is None:  # else it has been told
                right = False
                print(f"error: {error}")
        for notice in notices:
            print(f"warning: {notice}")
    print(f"user     {found.path or 'no file that counts'}")
    return right


def check_answer() -> bool:
    """Show on a real connection that a fresh identd tells the truth here; say what stands in the way."""
    import socket

    from lookup import obstacles, users

    try:
        expected = ":".join(users.login(os.geteuid()))
    except IdentError as error:
        expected = f"unknown ({error.detail})"
    query, reply, log = "", "", ""
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(
            listener.getsockname()
        ) as asked:
            listener.accept()[0].close()  # its peer holds the connection that is asked about
            query = f"{asked.getsockname()[1]},{asked.getpeername()[1]}"
            began = time.monotonic()
            reply, log = _ask_a_fresh_identd(listener, query)
            took = time.monotonic() - began
    except OSError as error:
        print(f"obstacle: no connection over loopback: {error.strerror or error}\n          try `ip link set lo up`")
    else:
        source = re.search(r"uid [0-9]+, (\w+)", log)
        print(f"query    {query}\nreply    {reply or 'none'}\nsource   {source[1] if source else 'none'}")
        print(f"time     {took * 1e3:.0f} ms, the start of a process included")
    true = bool(query) and reply == f"{query}:USERID:{expected}"
    for obstacle, remedy in obstacles.obstacles():
        print(f"obstacle: {obstacle}\n          {remedy}")
    if query and not true:
        print(f"wrong: the owner of that connection is {expected}; the fresh identd said:\n{log or 'nothing'}")
    return true


def _ask_a_fresh_identd(listener: socket.socket, query: str) -> tuple[str, str]:
    """Start identd on a connection of its own, ask it, and return its reply and what it wrote to standard error."""
    import socket
    import subprocess

    # Whatever we may wish to be called, the login name is expected.
    system, text = os.pipe()
    os.write(text, b"default { default { force spoof } }")
    os.close(text)
    command = [sys.executable, os.path.abspath(__file__), "--debug", "--nosyslog", "--config", f"/dev/fd/{system}"]
    with socket.create_connection(listener.getsockname()) as asker:
        with listener.accept()[0] as handed_over:
            process = subprocess.Popen(
                command, stdin=handed_over.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=[system],
            )  # fmt: skip
        os.close(system)
        asker.settimeout(LOOKUP_SECONDS + 2)
        reply = b""
        try:
            asker.sendall(query.encode("ascii") + b"\r\n")
            while not reply.endswith(b"\n") and (more := asker.recv(1024)):
                reply += more
        except OSError:  # ECONNRESET: it died. A timeout: it hangs.
            reply = b""
        try:
            log = process.communicate(timeout=LINGER_SECONDS + 1)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            log = process.communicate()[1]
    return reply.decode("latin-1").rstrip("\r\n"), log.decode("ascii", "replace").rstrip("\n")


def explain(options: Options) -> int:
    """Say what would be answered now, and why, step by step."""
    # All that follows needs them, and root's interpreter may stand where nobody may not look.
    import lookup
    from lookup import ConfigError, forward, policy, processes, sock_diag  # noqa: F401
    from lookup.explain import Explanation

    uid = os.getuid()
    path = options.config or CONFIG
    system: System | ConfigError | None
    try:
        system = lookup.load(path, options.config is not None)
    except ConfigError as error:
        system = error
    if os.geteuid() == 0:
        drop_privileges(options.user, options.group)
        print(f"as       {options.user or 'nobody'}, like the warm process and the files for inetd, xinetd and systemd")
        if not isinstance(system, ConfigError) and system is not None and not os.access(path, os.R_OK):
            print(f"but      {path} was read as root: an identd that is not started as root answers UNKNOWN-ERROR")

    explanation = Explanation(lookup, system, path)

    def explained(server: Address, client: Address) -> list[str]:
        return list(explanation.steps(server, client, lambda outcome: _reply(outcome, server, client, options)))

    if options.explain:
        match = _TOKENS.fullmatch(os.fsencode(options.explain))
        ports = (_port(match[1]), _port(match[2])) if match else (0, 0)
        if not all(ports):
            raise UsageError(f"two ports expected, PORT-ON-SERVER,PORT-ON-CLIENT, not {options.explain!r}")
        for step in explained((options.server_address, ports[0]), (options.client_address, ports[1])):
            print(_printable(step))
        return EXIT_OK
    try:
        with sock_diag.SockDiag() as diag:
            owners = diag.held_by(uid)
    except sock_diag.SockDiagUnavailable as error:
        raise IdentError(f"the kernel can't be asked which connections are yours ({error}): name one's ports") from None
    for owner in owners:
        reply = explained(owner.server, owner.client)[-1]
        print(_printable(f"{owner.ends} {reply.partition(' ')[2].strip()}"))
    if not owners:
        print(f"uid {uid} has no TCP connection")
    return EXIT_OK


def _printable(text: str) -> str:
    """Return a line that does nothing to a terminal; users write the files that it quotes."""
    return re.sub("[^ -~]", lambda found: ascii(found[0])[1:-1], text)


def _reply(outcome: Any, server: Address, client: Address, options: Options) -> str:
    """Return the line that a client gets for an answer, or for an exception."""

    def run(*_: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    transport = Sink(server[0], client[0])
    protocol = Identd(options, NoLog(options), run)
    protocol.makeConnection(transport)
    protocol.dataReceived(b"%d,%d\n" % (server[1], client[1]))
    return transport.reply.decode("latin-1").rstrip("\r\n")


def _shield_the_peer() -> bool:
    """Keep what goes to standard error (a traceback, say) off the client's connection, where inetd puts it.

    :return: whether it led there.
    """
    stdin, stderr = _status(0), _status(2)
    shielded = bool(
        stdin and stderr and stat.S_ISSOCK(stdin.st_mode)
        and (stdin.st_dev, stdin.st_ino) == (stderr.st_dev, stderr.st_ino)
    )  # fmt: skip
    if shielded or stderr is None:  # closed: what is opened next might take its number
        null = os.open(os.devnull, os.O_WRONLY)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)
    return shielded


def _status(fd: int) -> os.stat_result | None:
    try:
        return os.fstat(fd)
    except OSError:  # EBADF: closed
        return None


def _inherited() -> list[socket.socket]:
    """Return the TCP sockets that started us: descriptor 3 and up (systemd, sd_listen_fds(3)), or standard input.

    :return: listening ones, or one that is connected; none where standard input is something else.
    :raises UsageError: they are of no kind that can be served. :raises OSError: standard input is closed.
    """
    fds = [0]
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        count = os.environ.get("LISTEN_FDS", "")
        if not count.isdecimal():
            raise UsageError(f"LISTEN_FDS is no number: {count!r}")
        fds = list(range(3, 3 + int(count))) or fds
    status = _status(fds[0])
    if status is None and fds == [0]:
        raise OSError(errno.EBADF, "standard input is closed")
    if fds == [0] and status is not None and not stat.S_ISSOCK(status.st_mode):
        return []
    import socket  # 6 ms, which a pipe does not need

    sockets = []
    for fd in fds:
        name = f"descriptor {fd}" if fd else "standard input"
        try:
            inherited = socket.socket(fileno=fd)
        except OSError as error:  # EBADF: closed. ENOTSOCK: a FIFO, a file
            raise UsageError(f"{name} can't be served: {error.strerror}") from None
        if inherited.family not in (socket.AF_INET, socket.AF_INET6):
            inherited.detach()
            if fd == 0:
                return []
            raise UsageError(f"{name} is a socket of another family than IPv4 and IPv6")
        if inherited.type != socket.SOCK_STREAM:
            raise UsageError(f"{name} is a socket of another kind than TCP (socket_type must be stream)")
        if len(fds) > 1 and not _is_listening(inherited):
            raise UsageError(f"{name} is no listening socket, and one among several has to be")
        sockets.append(inherited)
    return sockets


def _own_listeners(addresses: list[str], port: int) -> list[socket.socket]:
    """Open listening sockets. :raises OSError: one can't be had."""
    import socket

    if not addresses:
        if socket.has_dualstack_ipv6():
            return [socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)]
        addresses = ["0.0.0.0"]
    listeners = []
    for address in addresses:
        family, _, _, _, where = socket.getaddrinfo(address, port, flags=socket.AI_NUMERICHOST)[0]
        # The whole four-tuple, so that a link-local address keeps its scope.
        listener = socket.socket(family, socket.SOCK_STREAM)
        listeners.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind(where)
        except OSError as error:
            raise OSError(error.errno, f"{address} port {port}: {error.strerror}") from None
        listener.listen(_BACKLOG)
    return listeners


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{host} port {port}"


def _raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one; return how many connections it leaves room for."""
    import resource

    from lookup.workers import MAX_THREADS

    hard: int = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - SPARE_DESCRIPTORS - MAX_THREADS, hard // 2, 1)


def drop_privileges(user: str | None, group: str | None) -> None:
    """Give up root for good: groups, gid, uid, in this order, saved ones included (setresuid(2)).

    :param user: login name or uid; None: ``nobody`` when we are root, else nothing changes.
    :param group: group name or gid; None: the user's.
    :raises UsageError: there is no such user or group. :raises OSError: the kernel refuses.
    """
    import grp
    import pwd

    if user is None and group is None and os.geteuid() != 0:
        return
    user = user or "nobody"
    wanted = f"user: {user}"
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        gid = entry.pw_gid
        if group is not None:
            wanted = f"group: {group}"
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
            if gid > _LAST_ID:
                raise KeyError(group)
    except KeyError:
        raise UsageError(f"no such {wanted}") from None
    try:
        os.setgroups([])
        _become(entry.pw_uid, gid)
    except OSError as error:
        # EPERM: we are not root, or in a sandbox. EINVAL: a user namespace without these ids.
        raise OSError(error.errno, f"can't become user {user}: {error.strerror}") from None


def _become(uid: int, gid: int) -> None:
    """Take on a gid and a uid, and make sure that nothing of root is left (setresuid(2))."""
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or uid == 0:
        raise UsageError(f"root can't be given up for uid {uid}")


def _signature(options: Options) -> tuple[int, ...]:
    """Return what changes whenever the system file does; nothing where it is not read."""
    if options.reply_all is not None:
        return ()
    try:
        status = os.stat(options.config or CONFIG)
    except OSError:  # ENOENT, EACCES: none to see
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def serve_sockets(listeners: list[socket.socket], options: Options, log: Log, background: bool = False) -> None:
    """Serve listening sockets from one warm process (inetd ``wait``, systemd ``Accept=no``, or our own).

    :param background: leave whoever started us behind, once nothing can go wrong any more.
    :raises IdentError: the system file can't be obeyed. :raises UsageError, OSError: root can't be given up.
    """
    # Before it is read, so that a change meanwhile is noticed.
    seen = _signature(options)
    system = _policy(options) if options.reply_all is None else None
    drop_privileges(options.user, options.group)
    idle = options.idle
    if idle is None:
        idle = 0.0 if options.foreground or background else IDLE_SECONDS
    server = Server(listeners, options, log, idle, system, seen)
    if background:
        server.log = _go_to_the_background(options)
    server.run()


def _go_to_the_background(options: Options) -> Log:
    """Go on as a daemon, as oidentd does (daemon(7)); the process that was started ends well. :raises OSError: no fork.

    :return: the log from here on: standard error leads nowhere, unless it is what ``--nosyslog`` asks for.
    """
    if options.config is not None:
        options.config = os.path.abspath(options.config)
    if os.fork():
        os._exit(EXIT_OK)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1) if options.nosyslog else (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    return Log(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run identd, and return its exit status.

    :param argv: the arguments without the program's name; None: the process' own.
    """
    shielded = _shield_the_peer()
    log = Log(Options(), shielded)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.check:
            return check(options)
        if options.explain is not None:
            return explain(options)
        log = Log(options, shielded)
        for name in options.ignored:
            log.write(Log.ERROR, f"{name} has no meaning here and is ignored")
        own = options.foreground and not options.stdio
        sockets = [] if own else _inherited()
        background = not sockets and not own and not options.stdio and bool(vars(options).keys() & _LISTENING)
        if own or background:
            sockets = _own_listeners(options.address, options.port)
        if not sockets:
            serve_lines(options, log)
        elif _is_listening(sockets[0]):
            serve_sockets(sockets, options, log, background)
        else:
            if os.geteuid() == 0 and (options.user is not None or options.group is not None):
                drop_privileges(options.user, options.group)
            serve_connection(sockets[0], options, log)
    except (UsageError, IdentError, OSError, ImportError) as error:
        # EBADF: standard input is closed. EADDRINUSE, EACCES: a port. EPERM: privileges. ENOSPC: a pipe's end.
        # ImportError: Python, or its packages, are closed to the user that we became.
        message = getattr(error, "strerror", "") or getattr(error, "detail", "") or str(error)
        _say(message)
        if shielded:
            log.write(Log.ERROR, message)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_OK
    return EXIT_OK


def _is_listening(inherited: socket.socket) -> bool:
    import socket

    return bool(inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


if __name__ == "__main__":
    sys.exit(main())
