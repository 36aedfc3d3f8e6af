"""By which device, and in which network namespace, did a query come in?"""

from __future__ import annotations

from _socket import AF_INET
from struct import Struct, calcsize
from sys import byteorder

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    import _socket as socket

# Python's socket has no names for these, or only from some release on.
_SOL_SOCKET, _SO_BINDTOIFINDEX, _SO_NETNS_COOKIE = 1, 62, 71  # asm-generic/socket.h
_SOL_IP, _IP_PKTINFO, _IP_PKTOPTIONS = 0, 8, 9  # linux/in.h
_SOL_IPV6, _IPV6_2292PKTOPTIONS, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 41, 6, 49, 50  # linux/in6.h

_CMSGHDR = Struct("@Nii")  # struct cmsghdr: length, level, type; the next one begins at a multiple of a word
_WORD = calcsize("@N")
#: Where the index of the device is: struct in_pktinfo begins with it, struct in6_pktinfo has it after an address.
_IN_PKTINFO, _IN6_PKTINFO = 0, 16

#: The index of the loopback interface in each network namespace (LOOPBACK_IFINDEX, net/flow.h).
LOOPBACK = 1


class Arrival:
    """What the kernel knows of a query's own connection, by its socket. Nothing here needs a privilege.

    ``bound``: the index of the device that the socket is bound to, with its listener or by a link-local address; 0:
    none. ``cookie``: which network namespace the socket is in, as the kernel counts them; b"": the kernel has no
    such cookie (before Linux 5.14).
    """

    __slots__ = ("bound", "cookie", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        try:
            self.bound = connection.getsockopt(_SOL_SOCKET, _SO_BINDTOIFINDEX)
        except OSError:
            # ENOPROTOOPT: before Linux 5.1, or another system. EBADF: it has been closed meanwhile.
            self.bound = 0
        try:
            self.cookie = connection.getsockopt(_SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            # ENOPROTOOPT: before Linux 5.14, or another system. EBADF: it has been closed meanwhile.
            self.cookie = b""

    def device(self) -> int:
        """Return the index of the device that the connection came in by; 0: the kernel does not tell.

        What this host sends to itself comes in by the loopback interface, whichever address it is for.
        """
        if self.socket.family == AF_INET:
            level, wish, options, kind, offset = _SOL_IP, _IP_PKTINFO, _IP_PKTOPTIONS, _IP_PKTINFO, _IN_PKTINFO
        else:
            level, wish, options = _SOL_IPV6, _IPV6_RECVPKTINFO, _IPV6_2292PKTOPTIONS
            kind, offset = _IPV6_PKTINFO, _IN6_PKTINFO
        try:
            self.socket.setsockopt(level, wish, 1)
            told = self.socket.getsockopt(level, options, 256)
        except OSError:
            # ENOPROTOOPT, EOPNOTSUPP: another system, another kind (MPTCP). EBADF: it has been closed meanwhile.
            return 0
        return _index_in(told, level, kind, offset)


def _index_in(told: bytes, *wanted: int) -> int:
    """Return the index of a device in control messages (cmsg(3)); 0: none.

    :param wanted: the level and type of the message that has it, and where it is in there.
    """
    start = 0
    while start + _CMSGHDR.size <= len(told):
        length, level, kind = _CMSGHDR.unpack_from(told, start)
        at = start + _CMSGHDR.size + wanted[2]
        if level == wanted[0] and kind == wanted[1] and at + 4 <= start + length <= len(told):
            return int.from_bytes(told[at : at + 4], byteorder)  # type: ignore[arg-type, unused-ignore]
        start += max(length + _WORD - 1, _CMSGHDR.size) // _WORD * _WORD
    return 0


def cookie_of(one: socket.socket) -> bytes:
    """Return which network namespace a socket is in, as the kernel counts them; b"": it does not tell."""
    return Arrival(one).cookie
