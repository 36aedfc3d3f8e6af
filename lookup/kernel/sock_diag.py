"""Which socket does a query mean, and who holds it, as the kernel has it in sock_diag(7)?

It is asked through pyroute2's codec. One exact request per try is answered from the kernel's hash table, at the same
cost on an idle host and on one with a million sockets; no privilege is needed. What walks the table is in `dumps`.
"""

from __future__ import annotations

import _socket as socket  # what `socket` adds takes 6 ms, and one query uses none of it
import errno
import os
import struct
import time
from _socket import ntohs

from ..connection import MAPPED, TCP_STATES, IdentError, NoUser, Owner, cookie_of, pack, unpack
from . import codec

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..connection import Address, Arrival
    from .devices import Devices

    #: Of a connection: address and port here, address and port of the far end.
    Ends = tuple[bytes, int, bytes, int]

#: How many requests go to the kernel in one datagram: their answers must fit in the default receive buffer (208 KiB).
_BATCH = 64

#: Octets. The kernel fills a dump's datagrams up to 32 KiB (netlink(7)).
_LARGEST_DATAGRAM = 65536

#: How many times a second the kernel's table may be walked for connections that are not answered yet: 10 ms each, where
#: there are 200,000 sockets.
MAX_WALKS = 10

#: When this process did so, in the last second: whoever asks once too often has the netlink socket opened anew.
_walks: list[float] = []

_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NO_COOKIE = 0xFFFFFFFFFFFFFFFF  # INET_DIAG_NOCOOKIE
_ALL_STATES = 0xFFFFFFFF
#: Of a connection, or of what is left of one: neither a listening socket nor one that is only bound.
_CONNECTED = _ALL_STATES & ~(1 << TCP_STATES.index("LISTEN") | 1 << TCP_STATES.index("BOUND_INACTIVE"))
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ERROR = struct.Struct("=i")  # struct nlmsgerr begins with it, and so does what ends a dump: a negative errno, or 0
#: What differs between two requests, and where it is in them: the header's sequence number; after the header, four
#: octets and idiag_states: the ports and addresses of inet_diag_sockid, then idiag_if.
_SEQUENCE = 8
_SOCKET_ID = struct.Struct(">HH16s16s")
_IDIAG_SPORT = _HEADER.size + 4 + 4
_IDIAG_IF = _IDIAG_SPORT + _SOCKET_ID.size
_NUMBER = struct.Struct("=I")  # both of them
#: Octets of a header and a struct inet_diag_msg; of a header and what an error or the end of a dump has at least.
_SHORTEST_MESSAGE, _SHORTEST_ERROR = _HEADER.size + 72, _HEADER.size + _ERROR.size
_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)

#: The inode of the first user namespace, where every uid is what it is (PROC_USER_INIT_INO, linux/proc_ns.h).
_FIRST_USER_NAMESPACE = 0xEFFFFFFD


class SockDiagUnavailable(Exception):
    """This system, or the sandbox that the process runs in, has no sock_diag for TCP."""


class _Nonsense(IdentError):
    """What came is no answer of the kernel's as we know them."""

    def __init__(self, what: str) -> None:
        super().__init__(f"sock_diag's answer makes no sense: {what}")


class _KernelError(IdentError):
    """The kernel answered with an errno that says nothing about a connection."""

    def __init__(self, number: int) -> None:
        super().__init__(f"sock_diag says {errno.errorcode.get(number, number)}")
        self.number = number


class Found(Owner):
    """A socket, as an inet_diag_msg describes it.

    ``packed``: the ends of its connection, with as many octets as they stand for (as text they are made when somebody
    wants that); ``cookie``: no other socket has it.
    """

    __slots__ = ("cookie", "packed")
    source = "sock_diag"

    def __init__(self, message: Any) -> None:
        (
            family, state, _, _, local_port, remote_port, local, remote, self.device, self.cookie, _, _, _,
            self.uid, self.inode,
        ) = message[codec.MEMBERS]  # fmt: skip
        if family == _AF_INET:
            local, remote = local[:4], remote[:4]
        else:
            # A dual-stack socket's IPv4 connection comes back as family 10 with IPv4-mapped addresses.
            local = local[12:] if local.startswith(MAPPED) else local
            remote = remote[12:] if remote.startswith(MAPPED) else remote
        self.packed = local, ntohs(local_port), remote, ntohs(remote_port)
        self.state = TCP_STATES[state]

    @property
    def server(self) -> Address:  # type: ignore[override]
        return unpack(self.packed[0]), self.packed[1]

    @property
    def client(self) -> Address:  # type: ignore[override]
        return unpack(self.packed[2]), self.packed[3]


def find(server: Address, client: Address, arrival: Arrival | None = None) -> Owner:
    """Return who holds the connection between two endpoints of which ``server`` is on this host.

    :param server: ``(host, port)`` of the local end; :param client: of the far end.
    :param arrival: how the query came in. Without it, sockets that are bound to any device fit.
    :raises NoUser: there is no such connection, or no process holds it; `NotAccepted`: not yet.
    :raises IdentError: the kernel answered with an error, sockets of different owners fit, the query came in by
        another network namespace, or the owner's uid may mean somebody else here.
    :raises SockDiagUnavailable: another source must be asked.
    :raises ValueError: a host is not an address.
    """
    with SockDiag() as diag:
        return diag.find(server, client, arrival)


class SockDiag:
    """A netlink socket of the family sock_diag, in the network namespace of its creation.

    Not for two threads at once, nor for both sides of a fork.
    """

    def __init__(self, is_ours: Callable[[bytes], object] | None = None) -> None:
        """:param is_ours: says whether an address is one of that namespace; None: the thread that asks is in there."""
        self._is_ours, self._sequence = is_ours, 0
        self._request, self._message = codec.messages()
        self._exact: dict[int, bytearray] = {}
        self._devices: Devices | None = None
        self._has_tcp_diag = False
        self._has_every_uid: bool | None = None
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        except AttributeError:
            raise SockDiagUnavailable("this system has no AF_NETLINK") from None
        except OSError as error:
            # EAFNOSUPPORT, EPROTONOSUPPORT: no netlink, or no sock_diag, in this kernel or sandbox.
            # EPERM, EACCES: a seccomp filter or security module (RestrictAddressFamilies= gives EAFNOSUPPORT).
            if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES):
                raise SockDiagUnavailable(f"no netlink socket: {error.strerror}") from None
            # EMFILE, ENFILE, ENOMEM: the process or the host has run out.
            raise IdentError(f"no netlink socket: {error.strerror}") from error
        # The kernel has answered when send() returns, so there is nothing to wait for.
        self._socket.setblocking(False)
        self._cookie = cookie_of(self._socket)

    def __enter__(self) -> SockDiag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def find(self, server: Address, client: Address, arrival: Arrival | None = None) -> Owner:
        """See the function `find`."""
        local, scope = pack(server[0])
        remote, remote_scope = pack(client[0])
        if len(local) != len(remote):
            raise NoUser("the two addresses are of different families")
        if arrival is not None and (arrival.cookie != self._cookie or not arrival.cookie):
            self._check_namespace(arrival)
        scope = scope or remote_scope
        ends = local, server[1], remote, client[1]
        found = self._holder(ends, scope or (arrival.bound if arrival is not None else 0))
        if arrival is not None and arrival.bound and found:
            from .candidates import reached_by  # only where the listening socket is bound to a device, or link-local

            found = reached_by(arrival.bound, ends, found)
        if not found and not scope:
            # A socket bound to a device (SO_BINDTODEVICE) is hidden from a request without that interface.
            found = self._holders(ends, self._interfaces(arrival, ends))
        if not found:
            self._check_tcp_diag()
            raise NoUser("no such connection")
        owners = list(found.values())
        if len(owners) > 1 or owners[0].state == "SYN_SENT" or not owners[0].inode:
            from .candidates import held_by_a_process, without_claims  # only for few connections

            if any(owner.state == "SYN_SENT" for owner in owners):
                found.update(self._with_these_ends(ends, scope))
                found = without_claims(local, found, self._is_ours)
            owners = [held_by_a_process(list(found.values()), f"{server[1]},{client[1]}")]
        if not self._has_every_uid:
            self.check_uid(owners[0].uid)
        return owners[0]

    def _holder(self, ends: Ends, interface: int) -> dict[int, Owner]:
        """Ask for the connection; return the socket found, if there is one, by its cookie.

        :param interface: the index of the one that the socket may be bound to; 0: none.
        """
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._send(self._request_for(ends, interface))
        return self._told(ends)

    def _told(self, ends: Ends) -> dict[int, Owner]:
        """Return the socket that the kernel answers with, by its cookie, if it is of that connection."""
        # With no such connection the kernel answers with whoever listens on the local port.
        found: dict[int, Owner] = {}
        for each in self._receive(errno.ENOENT)[0]:
            if each.packed == ends:
                found[each.cookie] = each
        return found

    def _holders(self, ends: Ends, interfaces: list[int]) -> dict[int, Owner]:
        """Ask for the connection once per interface; return each socket found, once, by its cookie."""
        found = {}
        for start in range(0, len(interfaces), _BATCH):
            batch = interfaces[start : start + _BATCH]
            self._sequence = (self._sequence + 1) & 0xFFFFFFFF
            requests = bytearray()
            for interface in batch:
                requests += self._request_for(ends, interface)
            self._send(requests)
            for _ in batch:
                found.update(self._told(ends))
        return found

    def _check_namespace(self, arrival: Arrival) -> None:
        """Rule out that the query came in by another network namespace, whose connections may have the same ends.

        (One with our own cookie did not.)

        :raises IdentError: it did, or nothing shows that it did not.
        """
        if arrival.cookie or self._cookie or not self._shows(arrival):
            raise IdentError("the query came in by another network namespace than the one that identd is in")

    def _shows(self, arrival: Arrival) -> bool:
        """Return whether the query's own connection is among those that are asked about here."""
        from .candidates import own_ends  # only where the kernel has no cookie

        own = own_ends(arrival)
        return own is not None and any(
            owner.inode == own[1] for owner in self._holder(own[0], arrival.bound).values()
        )

    def _with_these_ends(self, ends: Ends, scope: int) -> dict[int, Owner]:
        """Return every socket with these ends, whatever device it is bound to unless they have a scope, by its cookie.

        The kernel gives a connection ends that another one has whose socket is bound to a device. Until the far end has
        answered, nothing shows whose these are, and an exact request finds only the later one.

        :raises IdentError: that was asked for too often in the last second.
        """
        from .candidates import families  # only for few connections

        now = time.monotonic()
        _walks[:] = [began for began in _walks if began > now - 1]
        if len(_walks) >= MAX_WALKS:
            raise IdentError(f"more than {MAX_WALKS} queries a second about connections without an answer so far")
        _walks.append(now)
        found: dict[int, Owner] = {}
        for family in families(ends):
            for each in self.dump(family, ends[1], ends[3], states=_CONNECTED):
                if each.packed == ends and (not scope or each.device in (0, scope)):
                    found[each.cookie] = each
        return found

    def check_uid(self, uid: int) -> None:
        """Rule out that a uid means another user here than on the host. :raises IdentError: it may."""
        if self._has_every_uid is None:
            try:
                self._has_every_uid = os.stat("/proc/self/ns/user").st_ino == _FIRST_USER_NAMESPACE
            except OSError:
                # ENOENT, EACCES: no /proc, or a kernel without user namespaces.
                self._has_every_uid = False
        if not self._has_every_uid:
            from ..user_namespace import check_owner  # only within a user namespace

            check_owner(uid)

    def _request_for(self, ends: Ends, interface: int) -> bytearray:
        """Return the exact request for a connection: what the codec built for its family, with these numbers in it."""
        local, local_port, remote, remote_port = ends
        template = self._exact.get(len(local))
        if template is None:
            template = self._exact[len(local)] = self._encode(local, 0, remote, 0, _NLM_F_REQUEST)
        _NUMBER.pack_into(template, _SEQUENCE, self._sequence)
        _SOCKET_ID.pack_into(template, _IDIAG_SPORT, local_port, remote_port, local, remote)
        _NUMBER.pack_into(template, _IDIAG_IF, interface)
        return template

    def _interfaces(self, arrival: Arrival | None, ends: Ends) -> list[int]:
        """Return the indices of the interfaces that the socket may be bound to, where it was not found at once."""
        if arrival is not None:
            from .candidates import devices_for

            return devices_for(arrival, ends)
        if self._devices is None:
            from .devices import Devices

            self._devices = Devices()
        return self._devices.indices()

    def dump(
        self, family: int, local_port: int = 0, remote_port: int = 0, protocol: int = socket.IPPROTO_TCP,
        states: int = _ALL_STATES, more: bytes = b"",
    ) -> Iterator[Found]:  # fmt: skip
        """Yield each socket of a family; a port of 0: any. Walks the kernel's whole table.

        :param more: attributes of the request, which narrow it down.
        :raises SockDiagUnavailable: the kernel has no handler for the protocol.
        """
        unspecified = bytes(4 if family == socket.AF_INET else 16)
        ends = unspecified, local_port, unspecified, remote_port
        request = self._encode(*ends, _NLM_F_REQUEST | _NLM_F_DUMP, protocol=protocol, states=states) + more
        struct.pack_into("=I", request, 0, len(request))
        self._send(request)
        try:
            while True:
                found, ended = self._receive()
                yield from found
                if ended:
                    return
        except _KernelError as error:
            # ENOENT: the kernel has no handler for the protocol. (For one connection it means: there is none.)
            if error.number == errno.ENOENT:
                raise SockDiagUnavailable("the kernel has no tcp_diag") from None
            raise

    def _check_tcp_diag(self) -> None:
        """Rule out that there is nobody to ask: without tcp_diag the kernel answers ENOENT to everything."""
        if not self._has_tcp_diag:
            if not self.answers_for(socket.IPPROTO_TCP):
                raise SockDiagUnavailable("the kernel has no tcp_diag")
            self._has_tcp_diag = True

    def answers_for(self, protocol: int) -> bool:
        """Return whether the kernel has a handler for an IP protocol: a dump of no state at all costs it nothing."""
        try:
            for _ in self.dump(socket.AF_INET, protocol=protocol, states=0):
                pass
        except SockDiagUnavailable:
            return False
        return True

    def _encode(
        self, local: bytes, local_port: int, remote: bytes, remote_port: int, flags: int,
        protocol: int = socket.IPPROTO_TCP, states: int = _ALL_STATES,
    ) -> bytearray:  # fmt: skip
        """Build one inet_diag_req_v2 (linux/inet_diag.h)."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        request = self._request()
        request["header"]["type"] = _SOCK_DIAG_BY_FAMILY
        request["header"]["flags"] = flags
        request["header"]["sequence_number"] = self._sequence
        request["sdiag_family"] = socket.AF_INET if len(local) == 4 else socket.AF_INET6
        request["sdiag_protocol"] = protocol
        request["idiag_states"] = states
        request["idiag_sport"] = local_port
        request["idiag_dport"] = remote_port
        request["idiag_src"] = local.ljust(16, b"\0")
        request["idiag_dst"] = remote.ljust(16, b"\0")
        request["idiag_if"] = 0
        request["idiag_cookie"] = _NO_COOKIE
        request.encode()
        return bytearray(request.data)

    def _send(self, requests: bytearray) -> None:
        try:
            self._socket.send(requests)
        except OSError as error:
            # ECONNREFUSED: netlink is there, but nothing in the kernel listens for sock_diag.
            # EPERM, EACCES: a security module forbids it.
            if error.errno in (errno.ECONNREFUSED, errno.EPERM, errno.EACCES):
                raise SockDiagUnavailable(f"the kernel takes no sock_diag request: {error.strerror}") from None
            # ENOBUFS, ENOMEM: the kernel has run out of memory.
            raise IdentError(f"sock_diag request: {error.strerror}") from error

    def _receive(self, ignore: int = 0) -> tuple[list[Found], bool]:
        """Return the sockets of one datagram, and whether it ends a dump.

        :param ignore: an errno that means an empty answer.
        :raises IdentError: the kernel answered with another errno, or not at all.
        """
        # 0 is the kernel; other processes may write to a netlink socket too. Another sequence number: the
        # late answer to a request that failed.
        sender = sequence = -1
        while sender != 0 or sequence != self._sequence:
            try:
                data, (sender, _) = self._socket.recvfrom(_LARGEST_DATAGRAM)
            except OSError as error:
                # ENOBUFS: answers overran the receive buffer. EAGAIN: the kernel stayed silent.
                raise IdentError(f"sock_diag answer: {error}") from error
            if len(data) >= _HEADER.size:
                length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if kind == _SOCK_DIAG_BY_FAMILY and length == len(data) >= _SHORTEST_MESSAGE:
            return [self._decode(data)], False  # the answer to an exact request
        return self._take_apart(data, ignore)

    def _take_apart(self, data: bytes, ignore: int) -> tuple[list[Found], bool]:
        """Return what `_receive` does, of a datagram with any number of messages."""
        found = []
        offset = 0
        while offset < len(data):
            if offset + _HEADER.size > len(data):
                raise _Nonsense("it ends within a header")
            length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
            message = data[offset : offset + length]
            offset += (length + 3) & ~3
            if kind == _SOCK_DIAG_BY_FAMILY and len(message) == length >= _SHORTEST_MESSAGE:
                found.append(self._decode(message))
                continue
            if kind not in (_NLMSG_ERROR, _NLMSG_DONE) or not _SHORTEST_ERROR <= length == len(message):
                raise _Nonsense(f"a message of type {kind}, {length} octets long, of which {len(message)} came")
            # Not by the codec, which takes 5 us: a query that finds nothing gets one of these for each interface.
            number = -_ERROR.unpack_from(message, _HEADER.size)[0]
            if number == 0:
                if kind != _NLMSG_DONE or ignore:
                    raise _Nonsense("success, and nothing with it")
                return found, True
            if number != ignore:
                raise _KernelError(number)
        return found, False

    def _decode(self, data: bytes) -> Found:
        family, state = data[_HEADER.size], data[_HEADER.size + 1]
        if family not in (_AF_INET, _AF_INET6) or not 1 <= state < len(TCP_STATES):
            raise _Nonsense(f"address family {family}, TCP state {state}")
        message = self._message(data, _HEADER.size)
        try:
            message.decode()
        except Exception as error:
            # The codec has its own exceptions, and lets those of struct through.
            raise _Nonsense(f"{type(error).__name__}: {error}") from None
        return Found(message)
