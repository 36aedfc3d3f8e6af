"""How was identd started, and how is that served?

Where one connection started it (inetd's ``nowait``, xinetd's ``wait = no``, systemd's ``Accept=yes``, tcpserver), this
process serves it here, as every module more takes its time. For anything else another room does.
"""

from __future__ import annotations

import errno
import gc
import os
import stat
import sys
import time

from lookup.connection import IdentError, asked_name

from . import Options, UsageError
from .answer import (
    LINGER_SECONDS,
    AnsweringServer,
    Lookups,
    endpoint,
    keep_key,
    load_system_file,
    may_have_system_file,
)
from .log import Log, say, status_of
from .protocol import Ends

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence
    from typing import Any

    from lookup.config.blocks import System
    from lookup.connection import Arrival

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

#: The device /dev/null (Linux' admin-guide/devices.txt).
_NULL = (1, 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run identd, and return its exit status: `EXIT_OK`, `EXIT_FAILED` or `EXIT_USAGE`.

    :param argv: the arguments without the program's name; None: the process' own.
    """
    shielded = shield_the_peer()
    _unblock_signals()
    log = Log(Options(), shielded)
    try:
        argv = sys.argv[1:] if argv is None else argv
        options, operands = Options(), []
        if argv:
            from .options import left_over, read  # larger than most modules, and of no use without arguments

            options, operands = read(argv), left_over(argv)
            log = Log(options, shielded)
        return _run(options, log, operands)
    except (UsageError, IdentError, OSError, ImportError) as error:
        # EBADF: standard input is closed. EADDRINUSE, EACCES: a port. EPERM: privileges. ENOSPC: a pipe's end.
        # ImportError: Python, or its packages, are closed to the user that we became.
        log.fail(_reason(error))
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_OK
    except Exception as error:
        if not (shielded or log.journal):
            raise
        # A mistake of ours. Nobody sees the traceback, so the log has it.
        import traceback

        log.fail("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        return EXIT_FAILED


def _reason(error: Exception) -> str:
    """Return why we end, in one sentence."""
    if isinstance(error, ImportError):
        from .closed import why  # seldom needed

        return why(error)
    reason = getattr(error, "strerror", "") or getattr(error, "detail", "") or str(error)
    path = getattr(error, "filename", None)
    return f"{os.fsdecode(path)}: {reason}" if isinstance(path, (str, bytes)) else str(reason)


def _unblock_signals() -> None:
    """Let every signal come, whatever whoever started us has blocked: SIGTERM ends us, SIGALRM what reads for us."""
    from _signal import SIG_SETMASK, pthread_sigmask  # type: ignore[import-not-found]  # the interpreter has it

    pthread_sigmask(SIG_SETMASK, ())


def _run(options: Options, log: Log, operands: Sequence[str]) -> int:
    """Do what the options and standard input ask for."""
    ignored = [f"'{operand}' has no meaning here and is ignored" for operand in dict.fromkeys(operands)]
    if options.check:
        if operands:
            raise UsageError(f"'{operands[0]}' is left over: neither an option nor an option's argument")
        from .admin.check import check

        return check(options)
    if options.explain is not None:
        from .admin.explain import explain

        return explain(options)
    if options.new_key:
        from .admin.key import new_key

        return new_key(options)
    if options.install_service is not None:
        from .admin.install import install_service

        return install_service(options)
    if options.reveal is not None:
        from .admin.reveal import reveal

        return reveal(options)
    if options.form:
        from lookup.users import formats  # noqa: F401  (now: root may be given up before it is used)
    own = options.foreground and not options.stdio
    sockets = [] if own else inherited()
    background = not (sockets or own or options.stdio) and (options.listens or _is_a_daemon())
    if own or background:
        from .warm.listeners import own_listeners

        sockets = [*own_listeners(options.address, options.port)]
    if not sockets:
        from .by_hand import serve_lines

        for warning in ignored:
            say(warning)
        serve_lines(options, log, _lookups(options, log).look_up)
    elif is_listening(sockets[0]):
        from .warm.listeners import full
        from .warm.server import serve_sockets

        for warning in [*ignored, *_what_counts(options)]:
            log.write(Log.ERROR, warning)
        serve_sockets(full(sockets), options, log, background)
    else:
        if not options.multi_query:
            gc.disable()  # collecting while modules are imported is 6 % of a process that lives for one query
        lookups = _lookups(options, log)  # kept to the end: the kernel closes what it has
        serve_connection(sockets[0], options, log, lookups.look_up)
        # Everything is sent. Tidying the interpreter up takes 3 ms more, and a lookup that hangs could hold it up.
        os._exit(EXIT_OK)
    return EXIT_OK


def _what_counts(options: Options) -> Sequence[str]:
    """Return what the log says at the start of options that version 1.0.0 has ignored."""
    if not (options.masquerade or options.proxy):
        return ()
    from .elsewhere import what_counts

    return what_counts(options)


def _lookups(options: Options, log: Log) -> Lookups:
    """Return what looks queries up. Root is given up first, for good: it does not read what clients send.

    :raises UsageError, OSError: root can't be given up.
    """
    kept = None

    def load() -> System | None:
        return load_system_file(options, kept=kept)

    ask = None
    if options.masquerade:
        from .seeker import begin  # only for whoever wants that; before root is given up

        seeker = begin(options, log)
        ask = seeker.ask if seeker else None
    if os.geteuid() == 0 and (options.user is not None or options.group is not None):
        from .privileges import drop_privileges

        kept = keep_key(options)
        drop_privileges(options.user, options.group)
    configured = options.reply_all is None and may_have_system_file(options)
    if os.geteuid() != 0:
        return Lookups(load, options, ask=ask, ahead=configured)
    from . import as_root  # only for root

    return as_root.lookups(options, load, configured, ask)


def shield_the_peer() -> bool:
    """Keep what goes to standard output and error (help, a traceback) off the client's connection, where inetd puts it.

    :return: whether standard error led there.
    """
    stdin, stderr = status_of(0), status_of(2)
    shielded = _same_socket(stdin, stderr)
    if shielded or stderr is None:  # closed: what is opened next might take its number
        _to_null(2)
    if _same_socket(stdin, status_of(1)):
        from _socket import AF_UNIX, dup, socket

        with_family = socket(fileno=dup(0))
        # What is no connection of a client's is somebody's who tests by hand.
        if with_family.family != AF_UNIX:
            _to_null(1)
        with_family.close()
    return shielded


def _same_socket(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return bool(
        one and other and stat.S_ISSOCK(one.st_mode) and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
    )


def _to_null(fd: int) -> None:
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # ENOENT, EACCES: a root folder without devices. EMFILE: no descriptor
        os.close(fd)
        return
    if null != fd:
        os.dup2(null, fd)
        os.close(null)


def inherited() -> list[_socket.socket]:
    """Return the TCP sockets that started us: descriptor 3 and up (systemd, sd_listen_fds(3)), or standard input.

    :return: listening ones, or one that is connected; none where standard input is something else. They are the
        interpreter's own sockets, all that one query needs; `listeners.full` makes the library's of them.
    :raises UsageError: they are of no kind that can be served. :raises OSError: standard input is closed.
    """
    fds = _descriptors()
    status = status_of(fds[0])
    if status is None and fds == [0]:
        raise OSError(errno.EBADF, "standard input is closed")
    if fds == [0] and status is not None and not stat.S_ISSOCK(status.st_mode):
        return []
    import _socket as socket  # see lookup/connection.py

    sockets = []
    for fd in fds:
        name = f"descriptor {fd}" if fd else "standard input"
        try:
            found = socket.socket(fileno=fd)
        except OSError as error:  # EBADF: closed. ENOTSOCK: a FIFO, a file
            raise UsageError(f"{name} can't be served: {error.strerror}") from None
        if found.family not in (socket.AF_INET, socket.AF_INET6):
            found.detach()
            if fd == 0:
                return []
            raise UsageError(f"{name} is a socket of another family than IPv4 and IPv6")
        if found.type != socket.SOCK_STREAM:
            raise UsageError(f"{name} is a socket of another kind than TCP (socket_type must be stream)")
        if len(fds) > 1 and not is_listening(found):
            raise UsageError(f"{name} is no listening socket, and one among several has to be")
        sockets.append(found)
    return sockets


def _descriptors() -> list[int]:
    """Return the descriptors that systemd passed, or standard input alone. :raises UsageError: LISTEN_FDS is none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return [0]
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        raise UsageError(f"LISTEN_FDS is no number: {count!r}")
    return list(range(3, 3 + int(count))) or [0]


def is_listening(candidate: _socket.socket) -> bool:
    """Say whether a socket takes connections (socket(7), SO_ACCEPTCONN)."""
    import _socket as socket

    return bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_a_daemon() -> bool:
    """Say whether we were started as a daemon is, without saying so, as upstream's unit for oidentd does.

    Then we are root, and standard input is /dev/null, as where a boot script or a unit starts a daemon. Not where
    systemd passes sockets, even if to another process.
    """
    status = status_of(0)
    if os.geteuid() != 0 or status is None or not stat.S_ISCHR(status.st_mode) or "LISTEN_FDS" in os.environ:
        return False
    return (os.major(status.st_rdev), os.minor(status.st_rdev)) == _NULL


class SocketTransport(Ends):
    """A connected socket that blocks, until the deadline of the query under way at the most."""

    def __init__(self, connection: _socket.socket, timeout: float) -> None:
        """:param timeout: seconds for each whole query; 0: no deadline. :raises OSError: the peer has gone."""
        self._socket = connection
        super().__init__(endpoint(asked_name(connection)), endpoint(connection.getpeername()))
        self._timeout = timeout
        self.disconnecting = False
        self._begin_query()

    def _begin_query(self) -> None:
        """Let a new deadline begin."""
        self._deadline = time.monotonic() + self._timeout if self._timeout else None

    def _wait_until(self, deadline: float | None) -> None:
        self._socket.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))

    @property
    def arrival(self) -> Arrival:
        """How the query came in."""
        from lookup.connection import Arrival  # once there is a query to look up

        return Arrival(self._socket)

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
        self._begin_query()

    def loseConnection(self) -> None:
        self.disconnecting = True

    def close(self) -> None:
        """End the sending side, then read what came beyond the query, so that no reset overtakes the reply."""
        import _socket as socket  # see lookup/connection.py

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


def serve_connection(connection: _socket.socket, options: Options, log: Log, look_up: Callable[..., Any]) -> None:
    """Answer one connection and end it. :param look_up: see `AnsweringServer`."""
    try:
        transport = SocketTransport(connection, options.timeout)
    except OSError:  # ENOTCONN: the client went away before we started
        log.write(Log.INFO, "a client has gone before its query")
        return
    protocol = AnsweringServer(options, log, look_up)
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
    protocol.say_why_nobody()
    log.finish()


def serve_for_root() -> None:
    """Serve the connection on standard input without giving root up: `--check`'s own, which holds its other end.

    Where root tries identd in a clone under a closed home, nobody else could read it. The arguments are the process'.
    """
    from .options import read

    options = read(sys.argv[1:])
    serve_connection(inherited()[0], options, Log(options), Lookups(lambda: load_system_file(options), options).look_up)
