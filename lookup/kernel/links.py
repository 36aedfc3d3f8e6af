"""Into which other network namespace does this one send what is for an address?

Asked by rtnetlink(7), at the same cost however many namespaces there are, and without a privilege. A container can't
forge it without taking the address on the wire. Not through pyroute2: a query waits for this.
"""

from __future__ import annotations

import _socket as socket  # see sock_diag.py
import errno
import struct

from ..connection import IdentError
from .routes import attribute

#: In place of a namespace's number. LOCAL: the address is our own. OUTSIDE: it is another machine's, by a device that
#: leads into no namespace. ANYWHERE: that can't be told this way.
LOCAL, OUTSIDE, ANYWHERE = -2, -3, -4

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=i")

# linux/rtnetlink.h: requests, and the structs that they begin with (rtmsg, ndmsg, ifinfomsg, rtgenmsg, fib_rule_hdr).
_RTM_GETLINK, _RTM_GETROUTE, _RTM_GETNEIGH, _RTM_GETRULE, _RTM_NEWRULE = 18, 26, 30, 34, 32
_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_ROUTE, _NEIGHBOUR = struct.Struct("=BBBBBBBBI"), struct.Struct("=BxxxiHBB")
_LINK, _GENERAL, _RULE = struct.Struct("=BxHiII"), struct.Struct("=Bxxx"), struct.Struct("=BBBBBxxBI")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTN_LOCAL, _KIND = 1, 4, 5, 2, 7
_NDA_DST, _NDA_LLADDR, _NDA_MASTER, _NTF_MASTER, _AF_BRIDGE = 1, 2, 9, 0x02, 7
_IFLA_LINKINFO, _IFLA_INFO_KIND, _IFLA_LINK_NETNSID = 18, 1, 37
_NETNSA_NSID, _NETNSA_PID, _NETNSA_FD, _FRA_PRIORITY = 1, 2, 3, 6
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300

#: A whole request: which number has the network namespace of a process? And how many go to the kernel at a time: their
#: answers must fit in the default receive buffer (208 KiB).
_NSID_OF_PROCESS, _BATCH = struct.Struct("=IHHIIBxxxHHI"), 64

#: The priorities of the rules that every host has: the tables local, main and default (ip-rule(8)).
_USUAL = {0, 32766, 32767}

#: Kinds of virtual devices behind which there is no namespace of this host; a device without a kind is a real one.
_OUTWARDS = {b"", b"tun", b"wireguard", b"ppp"}


class Links:
    """A netlink socket for routes, links and namespaces, in the network namespace of its creation."""

    def __init__(self) -> None:
        """:raises IdentError: there is no socket to be had."""
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        except OSError as error:
            # EAFNOSUPPORT: a sandbox. EMFILE, ENFILE, ENOMEM: the process or the host has run out.
            raise IdentError(f"no netlink socket: {error.strerror}") from None
        # The kernel has answered when send() returns, so there is nothing to wait for.
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def number_of(self, fd: int) -> int:
        """Return the number that an open network namespace has for this one; -1: no link of ours has ever led there.

        :raises IdentError: the kernel does not tell.
        """
        answer = self._ask(_RTM_GETNSID, _GENERAL.pack(0), (_NETNSA_FD, _INDEX.pack(fd)))
        if not answer:
            return -1  # EINVAL: no network namespace, whatever it is
        found = attribute(answer, _HEADER.size + _GENERAL.size, _NETNSA_NSID)
        if len(found) != _INDEX.size:
            raise IdentError("the kernel does not tell which network namespaces are joined")
        return int(_INDEX.unpack(found)[0])

    def with_number(self, number: int, pids: list[int]) -> list[int]:
        """Return those of some processes whose network namespace has a number for this one. A hint: they may end.

        Needs no privilege, and opens nothing. Whose namespace is not told is left out.
        """
        found: list[int] = []
        for at in range(0, len(pids), _BATCH):
            batch = pids[at : at + _BATCH]
            first = self._sequence + 1 & 0xFFFF
            requests = b"".join(_NSID_OF_PROCESS.pack(
                _NSID_OF_PROCESS.size, _RTM_GETNSID, _NLM_F_REQUEST, first + index, 0, 0, 8, _NETNSA_PID, pid
            ) for index, pid in enumerate(batch))  # fmt: skip
            self._sequence = first + len(batch)
            try:
                self._socket.send(requests)
                for _ in batch:
                    answer, (sender, _) = self._socket.recvfrom(65536)
                    length, kind, _, sequence, _ = _HEADER.unpack_from(answer)
                    if sender != 0 or not 0 <= sequence - first < len(batch):
                        raise IdentError("the kernel's answer makes no sense")
                    # ESRCH: it has ended.
                    if kind == _RTM_NEWNSID and length == len(answer):
                        at_number = attribute(answer, _HEADER.size + _GENERAL.size, _NETNSA_NSID)
                        if at_number == _INDEX.pack(number):
                            found.append(batch[sequence - first])
            except OSError as error:
                # ENOBUFS, ENOMEM: the kernel has run out. EPERM, EACCES: a security module. EAGAIN: it stayed silent.
                raise IdentError(f"the kernel does not tell whose namespace is which: {error.strerror}") from None
        return found

    def sends_to(self, address: bytes) -> int:
        """Return the number of the namespace that packets for an address are sent into, or `LOCAL` and its like.

        :raises IdentError: the kernel can't be asked.
        """
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
        route = self._ask(_RTM_GETROUTE, body, (_RTA_DST, address))
        if not route:
            return OUTSIDE
        if route[_HEADER.size + _KIND] == _RTN_LOCAL:
            return LOCAL
        at = _HEADER.size + _ROUTE.size
        device, hop = attribute(route, at, _RTA_OIF), attribute(route, at, _RTA_GATEWAY) or address
        if len(device) != _INDEX.size:
            return ANYWHERE
        (index,) = _INDEX.unpack(device)
        number, kind = self._link(index)
        if kind != b"bridge" or number >= 0:
            return number if number >= 0 else OUTSIDE if kind in _OUTWARDS else ANYWHERE
        neighbour = self._ask(_RTM_GETNEIGH, _NEIGHBOUR.pack(family, index, 0, 0, 0), (_NDA_DST, hop))
        hardware = attribute(neighbour, _HEADER.size + _NEIGHBOUR.size, _NDA_LLADDR)
        if not hardware:
            return ANYWHERE
        body = _NEIGHBOUR.pack(_AF_BRIDGE, 0, 0, _NTF_MASTER, 0)
        port = self._ask(_RTM_GETNEIGH, body, (_NDA_LLADDR, hardware), (_NDA_MASTER, device))
        if not port:
            return ANYWHERE
        number, kind = self._link(_NEIGHBOUR.unpack_from(port, _HEADER.size)[1])
        return number if number >= 0 else OUTSIDE if kind in _OUTWARDS else ANYWHERE

    def has_rules(self, octets: int) -> bool:
        """Return whether more than a packet's destination may choose its route (ip-rule(8)), so that `sends_to` errs.

        :param octets: of the addresses. :raises IdentError: the kernel does not tell.
        """
        family = socket.AF_INET if octets == 4 else socket.AF_INET6
        for answer in self._dump(_RTM_GETRULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0)):
            priority = attribute(answer, _HEADER.size + _RULE.size, _FRA_PRIORITY)
            if (int(_INDEX.unpack(priority)[0]) if len(priority) == _INDEX.size else 0) not in _USUAL:
                return True
        return False

    def _link(self, index: int) -> tuple[int, bytes]:
        """Return the number of the namespace that a device leads into, -1: into none, and the kind of the device."""
        answer = self._ask(_RTM_GETLINK, _LINK.pack(0, 0, index, 0, 0))
        at = _HEADER.size + _LINK.size
        number = attribute(answer, at, _IFLA_LINK_NETNSID)
        kind = attribute(attribute(answer, at, _IFLA_LINKINFO), 0, _IFLA_INFO_KIND).rstrip(b"\0")
        if not answer:
            kind = b"?"  # it has gone
        return (int(_INDEX.unpack(number)[0]) if len(number) == _INDEX.size else -1), kind

    def _ask(self, kind: int, body: bytes, *attributes: tuple[int, bytes]) -> bytes:
        """Return the kernel's answer; nothing: it knows of no such thing."""
        self._send(kind, _NLM_F_REQUEST, body, attributes)
        for answer in self._messages():
            if _HEADER.unpack_from(answer)[1] != _NLMSG_ERROR:
                return answer
            number = -_INDEX.unpack_from(answer, _HEADER.size)[0]
            # EACCES: a route that says "prohibit"; otherwise a security module, like EPERM.
            forbidden = (errno.EPERM,) if kind == _RTM_GETROUTE else (errno.EPERM, errno.EACCES)
            if number in (errno.ENOMEM, errno.ENOBUFS, *forbidden):
                raise IdentError(f"the kernel does not tell where packets go: {errno.errorcode.get(number, number)}")
            # ENETUNREACH and its like: no route, or one that says so. ENOENT, ENODEV: no such neighbour, or port.
            # EINVAL, EOPNOTSUPP: a kernel before 5.0 does not answer about neighbours.
            return b""
        raise IdentError("the kernel's answer makes no sense")

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        self._send(kind, _NLM_F_REQUEST | _NLM_F_DUMP, body, ())
        found: list[bytes] = []
        while True:
            for answer in self._messages():
                if _HEADER.unpack_from(answer)[1] not in (_NLMSG_DONE, _NLMSG_ERROR):
                    found.append(answer)
                    continue
                number = -_INDEX.unpack_from(answer, _HEADER.size)[0]
                # EOPNOTSUPP, EAFNOSUPPORT: a kernel without such rules, or without IPv6.
                if number not in (0, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                    raise IdentError(f"the kernel does not tell its rules: {errno.errorcode.get(number, number)}")
                return found

    def _send(self, kind: int, flags: int, body: bytes, attributes: tuple[tuple[int, bytes], ...]) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        packed = b"".join(
            (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), number) + value).ljust((len(value) + 7) & ~3, b"\0")
            for number, value in attributes
        )
        length = _HEADER.size + len(body) + len(packed)
        try:
            self._socket.send(_HEADER.pack(length, kind, flags, self._sequence, 0) + body + packed)
        except OSError as error:
            # ENOBUFS, ENOMEM: the kernel has run out. EPERM, EACCES: a security module.
            raise IdentError(f"the kernel can't be asked for routes: {error.strerror}") from None

    def _messages(self) -> list[bytes]:
        """Return the messages of one datagram of the kernel's."""
        try:
            data, (sender, _) = self._socket.recvfrom(65536)
        except OSError as error:
            # ENOBUFS: out of memory. EAGAIN: it stayed silent.
            raise IdentError(f"the kernel does not answer about routes: {error.strerror}") from None
        if sender != 0:
            raise IdentError("the kernel's answer makes no sense")
        found = []
        at = 0
        while at + _HEADER.size + _INDEX.size <= len(data):
            length, *_, sequence, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size or sequence != self._sequence:
                break
            found.append(data[at : at + length])
            at += (length + 3) & ~3
        return found
