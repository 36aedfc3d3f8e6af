"""Which connections of this host have these ports, or belong to this user?

Here the kernel's whole table of TCP sockets is walked, which takes a second where there are a million.
"""

from __future__ import annotations

import socket

from ..connection import pack
from ..errors import NoUser
from .candidates import held_by_a_process
from .sock_diag import SockDiag

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..connection import Address, Owner
    from .sock_diag import Found


def find_by_ports(server: Address, client: Address) -> Owner:
    """Like `sock_diag.find` when the hosts may be unknown (``""``): the ports decide."""
    held = []
    with SockDiag() as diag:
        local, remote = (pack(host)[0] if host else None for host in (server[0], client[0]))
        for each in _sockets(diag, server[1], client[1]):
            if each.state != "LISTEN" and local in (None, each.ends[0]) and remote in (None, each.ends[2]):
                held.append(each.owner())
        if not held:
            raise NoUser("no such connection")
        found = held_by_a_process(held, f"{server[1]},{client[1]}")
        diag.check_uid(found.uid)
    return found


def held_by(uid: int) -> list[Owner]:
    """Return every connection that a user holds."""
    with SockDiag() as diag:
        return [each.owner() for each in _sockets(diag) if each.uid == uid and each.inode and each.ends[3]]


def _sockets(diag: SockDiag, local_port: int = 0, remote_port: int = 0) -> Iterator[Found]:
    """Yield each TCP socket that has these ports; 0: any."""
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from diag.dump(family, local_port, remote_port)
