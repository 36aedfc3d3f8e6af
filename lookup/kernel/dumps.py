"""Which connections of this host have these ports, or belong to this user?

Here the kernel's whole table of TCP sockets is walked, which takes a second where there are a million.
"""

from __future__ import annotations

import itertools
import socket
import struct

from ..connection import IdentError, NoUser, pack
from .candidates import held_by_a_process
from .sock_diag import SockDiag

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..connection import Address, Owner
    from .sock_diag import Found

#: How many connections `with_ports` and `with_far_end` return.
MOST = 1000

# linux/inet_diag.h: the attribute with a program that the kernel runs on each socket; one step of it: code, where to go
# on if it is so, and if not; what it compares a far end with: family, octets in bits, port (-1: any).
_REQ_BYTECODE, _BC_D_COND = 1, 8
_ATTRIBUTE, _STEP, _HOST = struct.Struct("=HH"), struct.Struct("=BBH"), struct.Struct("=BBxxi")


def find_by_ports(server: Address, client: Address) -> Owner:
    """Like `sock_diag.find` when the hosts may be unknown (``""``): the ports decide."""
    held: list[Owner] = []
    with SockDiag() as diag:
        local, remote = (pack(host)[0] if host else None for host in (server[0], client[0]))
        for each in _sockets(diag, server[1], client[1]):
            if each.state != "LISTEN" and local in (None, each.packed[0]) and remote in (None, each.packed[2]):
                held.append(each)
        if not held:
            raise NoUser("no such connection")
        found = held_by_a_process(held, f"{server[1]},{client[1]}")
        diag.check_uid(found.uid)
    return found


def find_for_gateway(local_port: int, remote_port: int, is_far: Callable[[bytes], bool]) -> Owner:
    """Return the owner of the only connection that has these ports, whatever its addresses.

    :param is_far: whether a far end, as octets, can be meant.
    :raises NoUser: there is none that a process holds. :raises IdentError: there are several, of different owners or of
        ones that are not known any more.
    """
    asked = f"{local_port},{remote_port}"
    with SockDiag() as diag:
        sockets = (each for each in _sockets(diag, local_port, remote_port) if each.state != "LISTEN")
        found: list[Owner] = [each for each in sockets if is_far(each.packed[2])]
        if not found:
            raise NoUser(f"no connection with another host has the ports {asked}")
        owner = held_by_a_process(found, asked)
        for other in found:
            if not other.inode and (other.server, other.client) != (owner.server, owner.client):
                raise IdentError(f"{asked} may be a connection that no process holds: {other!r}, not {owner!r}")
        diag.check_uid(owner.uid)
    return owner


def with_ports(local_port: int, remote_port: int) -> list[Owner]:
    """Return the connections that have these ports, and what is left of such, whether a process holds them or not."""
    with SockDiag() as diag:
        return _connections(_sockets(diag, local_port, remote_port))


def with_far_end(far: Address) -> list[Owner]:
    """Return the connections to an address and port, and what is left of such. :raises ValueError: not an address."""
    packed = pack(far[0])[0]
    condition = _HOST.pack(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, len(packed) * 8, -1) + packed
    length = _STEP.size + len(condition)
    # Past the program's end: that is no match.
    program = _STEP.pack(_BC_D_COND, length, length + _STEP.size) + condition
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + length, _REQ_BYTECODE) + program
    with SockDiag() as diag:
        return _connections(_sockets(diag, 0, far[1], attribute))


def _connections(sockets: Iterator[Found]) -> list[Owner]:
    connected = (each for each in sockets if each.packed[3] and each.state != "LISTEN")
    return list(itertools.islice(connected, MOST))


def held_by(uid: int) -> list[Owner]:
    """Return every connection that a user holds."""
    with SockDiag() as diag:
        return [each for each in _sockets(diag) if each.uid == uid and each.inode and each.packed[3]]


def _sockets(diag: SockDiag, local_port: int = 0, remote_port: int = 0, more: bytes = b"") -> Iterator[Found]:
    """Yield each TCP socket that has these ports; 0: any. :param more: see `SockDiag.dump`."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for each in diag.dump(family, local_port, remote_port, more=more):
            # Linux 6.8 and newer add each socket that is bound and not connected, whatever its port.
            if local_port in (0, each.packed[1]) and remote_port in (0, each.packed[3]):
                yield each
