"""How does a descriptor go to another process, and come from one (unix(7), SCM_RIGHTS)?

On the interpreter's own sockets: what `socket` adds takes 6 ms, and a single shot waits for it.
"""

from __future__ import annotations

import _socket as socket
from struct import Struct

#: A descriptor, as an int of C's.
_FD = Struct("=i")


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of what carries whole messages (SOCK_SEQPACKET). :raises OSError: there are none to be had."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, data: bytes, fd: int, flags: int = 0) -> None:
    """Send a message and a descriptor. :raises OSError: see sendmsg(2)."""
    channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(fd))], flags)


def receive(channel: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Return a message, ``b""`` where no other will come, and the descriptors with it: one at most.

    :param most: octets of the message. :raises OSError: see recvmsg(2).
    """
    data, ancillary, *_ = channel.recvmsg(most, socket.CMSG_LEN(_FD.size))
    fds: list[int] = []
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += [fd for (fd,) in _FD.iter_unpack(value[: len(value) - len(value) % _FD.size])]
    return data, fds
