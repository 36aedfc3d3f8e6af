"""Which of several sockets with the same ends is meant, and by which device is it reached?"""

from __future__ import annotations

import _socket as socket  # see sock_diag.py
import os

from ..connection import LOOPBACK, IdentError, NotAccepted, NoUser, pack, the_only

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..connection import Arrival, Owner
    from .sock_diag import Ends

#: In which a connection may wait in accept()'s queue; and before that for the far end to confirm it, or to say
#: something (TCP_DEFER_ACCEPT).
UNACCEPTED = {"ESTABLISHED", "CLOSE_WAIT", "SYN_RECV", "NEW_SYN_RECV"}

_LOOPBACK_6 = bytes(15) + b"\1"


def reached_by(device: int, ends: Ends, found: dict[int, Owner]) -> dict[int, Owner]:
    """Leave out the sockets that are bound to no device, and whose packets leave by another one than this.

    :param device: what the query's own socket is bound to.
    """
    from . import routes  # only where the listening socket is bound to a device

    return {
        cookie: owner
        for cookie, owner in found.items()
        if owner.device or routes.leaves_by(ends[0], ends[2], owner.uid, device)
    }


def devices_for(arrival: Arrival, ends: Ends) -> list[int]:
    """Return the devices that a socket may be bound to if it is the one that is asked about, and was not found so far.

    :raises IdentError: the kernel does not tell by which one the query came in.
    """
    device = arrival.device()
    if not device:
        raise IdentError("no such connection without a device, and by which device the query came in is not known")
    if device != LOOPBACK or (_is_loopback(ends[0]) and _is_loopback(ends[2])):
        return [] if device == arrival.bound else [device]
    from . import routes  # only where this host asks itself

    # What is bound to a device and sends to that device's own address stays on this host.
    devices = {device, *(routes.device_of(one) for one in {ends[0], ends[2]} if not _is_loopback(one))}
    return sorted(devices - {0, arrival.bound})


def _is_loopback(address: bytes) -> bool:
    """Return whether an address is one of the loopback interface's own."""
    return address[0] == 127 if len(address) == 4 else address == _LOOPBACK_6


def own_ends(arrival: Arrival) -> tuple[Ends, int] | None:
    """Return the ends of the query's own connection, and its inode; None: it has none any more."""
    try:
        inode = os.fstat(arrival.socket.fileno()).st_ino
        (host, port, *_), (far, far_port, *_) = arrival.socket.getsockname(), arrival.socket.getpeername()
        return (pack(host)[0], port, pack(far)[0], far_port), inode
    except (OSError, ValueError):
        # EBADF, ENOTCONN: it has been closed, or reset.
        return None


def families(ends: Ends) -> tuple[int, ...]:
    """Return the families of sockets that may have these ends: an IPv6 socket may have those of IPv4."""
    return (socket.AF_INET, socket.AF_INET6) if len(ends[0]) == 4 else (socket.AF_INET6,)


def without_claims(
    address: bytes, found: dict[int, Owner], is_ours: Callable[[bytes], object] | None
) -> dict[int, Owner]:  # fmt: skip
    """Leave out what anybody may have made: a socket without an answer, with an address that is not this host's.

    Everybody may bind one to another machine's address, or a container's (IPV6_FREEBIND, ipv6(7)), and IPv6 lets it
    connect from there. The connection that the far end knows with these ends is that machine's, or nobody's.

    :param address: their end here. :param is_ours: see `SockDiag`.
    :raises NoUser: none is left. :raises IdentError: the kernel does not tell its addresses.
    """
    if is_ours is None:
        from . import routes

        is_ours = routes.device_of
    if is_ours(address):
        return found
    left = {cookie: owner for cookie, owner in found.items() if owner.state != "SYN_SENT"}
    if not left:
        raise NoUser("no such connection: its end here is no address of this host")
    return left


def held_by_a_process(found: list[Owner], ports: str) -> Owner:
    """Return the owner, leaving out the sockets without inode, whose uid 0 means nothing.

    They are closed ones that the kernel finishes (TIME_WAIT, FIN_WAIT2, LAST_ACK), and new ones that
    nobody has accepted yet.

    :param found: at least one; :param ports: the question, for the error.
    :raises NoUser: no process holds one; `NotAccepted`: not yet.
    :raises IdentError: which one is meant is not sure.
    """
    held = [owner for owner in found if owner.inode]
    if not held:
        kind = NotAccepted if any(owner.state in UNACCEPTED for owner in found) else NoUser
        raise kind(f"no process holds the connection: {found[0]!r}")
    for owner in held if len(held) < len(found) else ():
        if owner.state == "SYN_SENT":
            # The far end has not answered. If it knows a connection with these ends it is the other one.
            for other in found:
                if not other.inode and (other.server, other.client) == (owner.server, owner.client):
                    raise IdentError(f"{ports} may be a connection that no process holds: {other!r}, not {owner!r}")
    return the_only(held, ports)
