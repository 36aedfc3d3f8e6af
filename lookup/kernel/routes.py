"""Which device and gateway does a packet leave by, and which device has an address?

The kernel is asked by RTM_GETROUTE (rtnetlink(7)). Not through pyroute2: a query may wait for this.
"""

from __future__ import annotations

import _socket as socket  # see sock_diag.py
import errno
import struct

from ..connection import IdentError

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLMSG_ERROR = 2
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_UID = 1, 2, 4, 5, 25
_RTM_F_FIB_MATCH = 0x2000
_RTN_LOCAL = 2
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg; its eighth octet is the kind of the route
_ATTRIBUTES = _HEADER.size + _ROUTE.size  # where they begin
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_KIND = _HEADER.size + 7


def leaves_by(local: bytes, remote: bytes, uid: int, device: int) -> bool:
    """Return whether what a user sends between two addresses leaves by a device, or stays on this host.

    It is about sockets that are bound to no device. :raises IdentError: the kernel does not tell.
    """
    answer = _ask(remote, 0, (_RTA_SRC, local), (_RTA_UID, struct.pack("=I", uid)))
    return bool(answer) and (answer[_KIND] == _RTN_LOCAL or _device(answer) == device)


def device_of(address: bytes) -> int:
    """Return the index of the device that has an address of this host; 0: none has. :raises IdentError: see there."""
    answer = _ask(address, _RTM_F_FIB_MATCH)
    return _device(answer) if answer and answer[_KIND] == _RTN_LOCAL else 0


def gateway_to(address: bytes) -> bytes:
    """Return the address of the gateway that what goes to an address is sent to; nothing: none is.

    :raises IdentError: the kernel does not tell.
    """
    answer = _ask(address, 0)
    return attribute(answer, _ATTRIBUTES, _RTA_GATEWAY) if answer else b""


def _ask(remote: bytes, flags: int, *more: tuple[int, bytes]) -> bytes:
    """Return the kernel's answer about the route to an address; nothing: there is no route."""
    family = socket.AF_INET if len(remote) == 4 else socket.AF_INET6
    attributes = b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value for kind, value in ((_RTA_DST, remote), *more)
    )
    source = len(remote) * 8 if more else 0
    body = _ROUTE.pack(family, len(remote) * 8, source, 0, 0, 0, 0, 0, flags) + attributes
    try:
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        try:
            route.setblocking(False)  # the kernel has answered when send() returns
            route.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, 1, 1, 0) + body)
            answer, (sender, _) = route.recvfrom(65536)
        finally:
            route.close()
    except OSError as error:
        # EMFILE, ENFILE, ENOMEM, ENOBUFS: the process or the host has run out. EACCES, EPERM: a security module.
        raise IdentError(f"the kernel can't be asked for a route: {error.strerror}") from error
    if sender != 0 or len(answer) < _ATTRIBUTES:
        raise IdentError("the kernel's answer about a route makes no sense")
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _RTM_NEWROUTE:
        return answer
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    # No route; or one that says "unreachable", "prohibit" or "blackhole".
    if kind == _NLMSG_ERROR and -number in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
        return b""
    raise IdentError(f"the kernel does not tell a route: {errno.errorcode.get(-number, number)}")


def _device(answer: bytes) -> int:
    index = attribute(answer, _ATTRIBUTES, _RTA_OIF)
    return int(struct.unpack("=I", index)[0]) if len(index) == 4 else 0


def attribute(answer: bytes, offset: int, wanted: int) -> bytes:
    """Return the value of an attribute in a netlink message (rtnetlink(7)), ``b""``: it is not there.

    :param offset: where the attributes begin. :param wanted: the number of the one.
    """
    while offset + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, offset)
        if length < _ATTRIBUTE.size:
            break
        if kind == wanted:
            return answer[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return b""
