"""Which sockets does the warm process listen on: inherited ones made whole, or its own?"""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterable, Sequence

#: The kernel cuts it to net.core.somaxconn; a storm overflows the 5 or 100 that others ask for.
BACKLOG = 65535


def full(sockets: Iterable[_socket.socket]) -> list[socket.socket]:
    """Return the library's sockets, which can accept, in place of the interpreter's."""
    return [socket.socket(fileno=each.detach()) for each in sockets]


def own_listeners(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Open listening sockets. :raises OSError: one can't be had."""
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
