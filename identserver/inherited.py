"""Which sockets do we serve: inherited ones, or listening ones of our own?"""

from __future__ import annotations

import errno
import os
import stat

from lookup.connection import plain_host

from .log import status_of
from .options import UsageError

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    import _socket
    import socket
    from collections.abc import Iterable, Sequence
    from typing import Any

#: The kernel cuts it to net.core.somaxconn; a storm overflows the 5 or 100 that others ask for.
BACKLOG = 65535


#: The device /dev/null (Linux' admin-guide/devices.txt).
_NULL = (1, 3)


class Endpoint:
    """One end of a connection, as `IdentServer` reads it: ``host`` (text) and ``port``."""

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


def endpoint(address: Any) -> Endpoint:
    """Translate what getsockname() gives: an IPv4-mapped host to plain IPv4, a link-local one with its scope."""
    host, port = plain_host(address[0]), address[1]
    if len(address) == 4 and address[3] and ":" in host:
        from _socket import if_indextoname

        try:
            host = f"{host}%{if_indextoname(address[3])}"
        except OSError:  # ENXIO: the interface went away; its number still tells it from others
            host = f"{host}%{address[3]}"
    return Endpoint(host, port)


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
        interpreter's own sockets, all that one query needs; `full` makes the library's of them.
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


def is_started_as_a_daemon() -> bool:
    """Say whether standard input is /dev/null, as where a boot script or a unit starts a daemon.

    Not where systemd passes sockets, even if to another process.
    """
    status = status_of(0)
    if status is None or not stat.S_ISCHR(status.st_mode) or "LISTEN_FDS" in os.environ:
        return False
    return (os.major(status.st_rdev), os.minor(status.st_rdev)) == _NULL


def is_listening(candidate: _socket.socket) -> bool:
    """Say whether a socket takes connections (socket(7), SO_ACCEPTCONN)."""
    import _socket as socket

    return bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def full(sockets: Iterable[_socket.socket]) -> list[socket.socket]:
    """Return the library's sockets, which can accept, in place of the interpreter's."""
    import socket  # 6 ms, which the warm process pays once

    return [socket.socket(fileno=each.detach()) for each in sockets]


def own_listeners(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Open listening sockets. :raises OSError: one can't be had."""
    import socket

    if not addresses:
        if socket.has_dualstack_ipv6():
            try:
                return [socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)]
            except OSError as error:
                # Its own text is Python's. EADDRINUSE: somebody has it, on whichever address. EACCES: below 1024
                raise OSError(error.errno, f"port {port}: {os.strerror(error.errno or 0)}") from None
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
            # EADDRINUSE: somebody has it. EACCES: a port below 1024. EADDRNOTAVAIL: no address of this host
            raise OSError(error.errno, f"{address} port {port}: {error.strerror}") from None
        listener.listen(BACKLOG)
    return listeners


def listener_name(listener: socket.socket) -> str:
    """Return where a socket listens, as text for the log."""
    host, port = listener.getsockname()[:2]
    return f"{host} port {port}"
