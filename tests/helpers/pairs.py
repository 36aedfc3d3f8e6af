"""How do tests make a TCP connection, and what is the right reply to a query about it?"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


#: Seconds. Far above what anything takes; it only keeps what is broken from holding the tests.
PATIENCE = 40.0

LOOPBACK = "127.0.0.1"


class Pair(NamedTuple):
    """A TCP connection of this process with itself: both ends, and the listener that made it."""

    client: socket.socket
    server: socket.socket
    listener: socket.socket

    @property
    def query(self) -> bytes:
        """The query about the client's end, as a program at the server's end would ask it."""
        return b"%d,%d" % (self.client.getsockname()[1], self.client.getpeername()[1])


@contextlib.contextmanager
def connect(host: str = LOOPBACK, peer: str = "") -> Iterator[Pair]:
    """Open a connection as a client and an inetd do, and close it afterwards.

    :param host: what the listener is bound to; :param peer: what the client connects to, if not that.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        if host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Resolved, because bind() itself drops the scope of a link-local address.
        listener.bind(socket.getaddrinfo(host, 0, family, socket.SOCK_STREAM)[0][4])
        listener.listen()
        address = (peer or host, listener.getsockname()[1])
        with socket.create_connection(address, PATIENCE) as client, listener.accept()[0] as server:
            yield Pair(client, server, listener)


def me() -> str:
    """Return our own login name: the right answer about every connection that a test makes."""
    return pwd.getpwuid(os.geteuid()).pw_name


def named(pair: Pair, opsys: str = "UNIX", name: str = "") -> bytes:
    """Return the reply that names the owner of a connection of ours."""
    return b"%b:USERID:%b:%b\r\n" % (pair.query, opsys.encode(), (name or me()).encode())


def everything(client: socket.socket) -> bytes:
    """Return all that comes until the far end closes. Raises ConnectionResetError if it resets instead."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def reset(client: socket.socket) -> None:
    """Close a connection with a reset: SO_LINGER with no time (socket(7))."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
