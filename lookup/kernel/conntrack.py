"""How does this host translate a TCP connection, as the kernel's connection tracking (conntrack) has it?

One exact request (ctnetlink, linux/netfilter/nfnetlink_conntrack.h) is answered from the kernel's hash table by either
direction of an entry, at the same cost however many there are. Never a dump, which walks all of the table. It needs
CAP_NET_ADMIN in the user namespace that the network namespace belongs to.

An entry is no proof that somebody holds a connection: it outlives the socket by minutes, or days.
"""

from __future__ import annotations

import _socket as socket  # see sock_diag.py
import errno
import struct

from ..connection import IdentError, pack, unpack
from . import codec

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from typing import Any

    from ..connection import Address

    _Sizes = dict[int, Any]

_NETLINK_NETFILTER = 12  # linux/netlink.h
_NFNL_SUBSYS_CTNETLINK = 1 << 8  # linux/netfilter/nfnetlink.h
_IPCTNL_MSG_CT_NEW, _IPCTNL_MSG_CT_GET = _NFNL_SUBSYS_CTNETLINK | 0, _NFNL_SUBSYS_CTNETLINK | 1
_NLMSG_ERROR, _NLM_F_REQUEST = 2, 0x1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ERROR = struct.Struct("=i")  # struct nlmsgerr begins with it: a negative errno, or 0
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type, with two flags above it
_TCP = 6

#: Octets of each attribute that is read, by number; or what one holds in turn (`_message` has their names).
_TUPLE: _Sizes = {1: {1: 4, 2: 4, 3: 16, 4: 16}, 2: {1: 1, 2: 2, 3: 2}, 3: 2}
_SIZES: _Sizes = {1: _TUPLE, 2: _TUPLE, 4: {1: {1: 1}}, 8: 4, 12: 4, 18: 2}

#: Of the TCP connection as conntrack follows it (linux/netfilter/nf_conntrack_tcp.h).
STATES = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
    "SYN_SENT2",
)  # fmt: skip

#: Where in a request with so many octets of address what differs between two of them is, and how it is written: the
#: header's sequence number; the addresses; the ports. The codec builds one for each family.
_SEQUENCE, _NUMBER, _PORT = 8, struct.Struct("=I"), struct.Struct("!H")
_templates: dict[int, bytes] = {}

_class: Any = None


class ConntrackUnavailable(Exception):
    """Conntrack can't be asked: we may not, or the kernel has none. ``forbidden``: the former."""

    def __init__(self, reason: str, forbidden: bool = False) -> None:
        super().__init__(reason)
        self.forbidden = forbidden


class Flow:
    """One direction of a connection: ``source`` and ``destination`` as ``(host, port)``; ``zone``: its own, or 0."""

    __slots__ = ("destination", "source", "zone")

    def __init__(self, source: Address, destination: Address, zone: int = 0) -> None:
        self.source = source
        self.destination = destination
        self.zone = zone

    @property
    def ends(self) -> tuple[Address, Address]:
        """Source and destination."""
        return self.source, self.destination

    def __repr__(self) -> str:
        (host, port), (to, to_port) = self.ends
        return f"{host}:{port} -> {to}:{to_port}"


class Entry:
    """A TCP connection as conntrack has it.

    ``original``: the `Flow` of who began it, as it is sent; ``reply``: the one that comes back. The two mirror each
    other where nothing is translated. ``identifier``: the same for as long as the entry lives (CTA_ID); ``state``: one
    of `STATES`, ``""`` where it is not told; ``zone``: of both directions (CTA_ZONE), or 0; ``mark``: CTA_MARK, or 0.
    """

    __slots__ = ("identifier", "mark", "original", "reply", "state", "zone")

    def __init__(self, original: Flow, reply: Flow, identifier: int, state: str, zone: int = 0, mark: int = 0) -> None:
        self.original = original
        self.reply = reply
        self.identifier = identifier
        self.state = state
        self.zone = zone
        self.mark = mark

    @property
    def is_translated(self) -> bool:
        """Whether an address or a port of the connection is another one on its other side."""
        return self.original.ends != self.reply.ends[::-1]

    def socket_for(self, far: Address, ours: Address) -> tuple[Address, Address]:
        """Return the ends, local and remote, of the socket that a query means which names these two.

        :param far: the far end as the query has it; :param ours: the end on this host.
        :raises ValueError: the entry has no such direction.
        """
        if self.reply.ends == (far, ours):
            # Begun behind us (SNAT, masquerade), or here, to a destination that is translated.
            return self.original.ends
        if self.original.ends == (far, ours):
            # Begun by the far end: a published port, REDIRECT.
            return self.reply.ends
        raise ValueError("another entry")


def get(source: Address, destination: Address) -> Entry | None:
    """Do `Conntrack.get` once, in the network namespace of this thread."""
    with Conntrack() as conntrack:
        return conntrack.get(source, destination)


def prepare() -> None:
    """Have the codec do now what it does once, which takes it 2 ms."""
    _template(4)


class Conntrack:
    """A netlink socket for conntrack, in the network namespace of its creation. Not for two threads at once."""

    def __init__(self) -> None:
        """:raises ConntrackUnavailable: nobody can be asked. :raises IdentError: there is no socket to be had."""
        self._sequence = 0
        #: The last entry, and what it was decoded from: the same is asked again after its socket was found.
        self._last: tuple[list[bytes], Entry] | None = None
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        except AttributeError:
            raise ConntrackUnavailable("this system has no AF_NETLINK") from None
        except OSError as error:
            # EPROTONOSUPPORT: a kernel without nfnetlink. EAFNOSUPPORT, EPERM, EACCES: a sandbox or security module.
            if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES):
                raise ConntrackUnavailable(f"no netlink socket: {error.strerror}") from None
            # EMFILE, ENFILE, ENOMEM: the process or the host has run out.
            raise IdentError(f"no netlink socket: {error.strerror}") from error
        # The kernel has answered when send() returns, so there is nothing to wait for.
        self._socket.setblocking(False)

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def get(self, source: Address, destination: Address, zone: int = 0) -> Entry | None:
        """Return the entry of which this is one direction, whichever; None: there is none.

        :param source: ``(host, port)`` of who sends in that direction. :param destination: of who receives.
        :param zone: of both directions. In zone 0 an entry is also found by a direction that a rule left there
            (``ct original zone set``: the reply).
        :raises ConntrackUnavailable: nobody can be asked. :raises IdentError: the answer makes no sense, or the kernel
            has run out. :raises ValueError: a host is not an address, or they are of two families.
        """
        # A scope means nothing to conntrack.
        packed = pack(source[0].partition("%")[0])[0], pack(destination[0].partition("%")[0])[0]
        if len(packed[0]) != len(packed[1]):
            raise ValueError("addresses of two families")
        try:
            self._socket.send(self._request(packed, source[1], destination[1], zone))
            data, (sender, _) = self._socket.recvfrom(65536)
        except OSError as error:
            # ECONNREFUSED: a kernel without nfnetlink. EPERM, EACCES: a security module.
            if error.errno in (errno.ECONNREFUSED, errno.EPERM, errno.EACCES):
                raise ConntrackUnavailable(f"the kernel takes no conntrack request: {error.strerror}") from None
            # ENOBUFS, ENOMEM: the kernel has run out. EAGAIN: it stayed silent.
            raise IdentError(f"conntrack: {error.strerror}") from error
        if sender != 0 or len(data) < _HEADER.size + _ERROR.size or _HEADER.unpack_from(data)[3] != self._sequence:
            raise IdentError("conntrack's answer makes no sense")
        kind = _HEADER.unpack_from(data)[1]
        if kind == _NLMSG_ERROR:
            _check_for_none(-_ERROR.unpack_from(data, _HEADER.size)[0])
            return None
        try:
            if kind != _IPCTNL_MSG_CT_NEW:
                raise ValueError(f"a message of type {kind}")
            entry = self._decoded(data)
            wanted = (unpack(packed[0]), source[1]), (unpack(packed[1]), destination[1])
            if wanted not in (entry.original.ends, entry.reply.ends):
                raise ValueError("another connection")
        except Exception as error:
            # The codec has its own exceptions, and lets those of struct through. TypeError: an attribute is missing.
            raise IdentError(f"conntrack's answer makes no sense: {type(error).__name__}: {error}") from None
        return entry

    def _request(self, packed: tuple[bytes, bytes], source_port: int, destination_port: int, zone: int) -> bytes:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        octets = len(packed[0])
        request = bytearray(_encoded(octets, zone) if zone else _template(octets))
        _NUMBER.pack_into(request, _SEQUENCE, self._sequence)
        # After the header, a struct nfgenmsg, and the headers of three attributes: each has another one before it.
        source = _HEADER.size + 4 + 3 * _ATTRIBUTE.size
        destination = source + octets + _ATTRIBUTE.size
        request[source : source + octets], request[destination : destination + octets] = packed
        # After the headers of CTA_TUPLE_PROTO and CTA_PROTO_NUM, its octet, and what fills it up.
        port = destination + octets + 3 * _ATTRIBUTE.size + 4
        _PORT.pack_into(request, port, source_port)
        _PORT.pack_into(request, port + 4 + _ATTRIBUTE.size, destination_port)
        return bytes(request)

    def _decoded(self, data: bytes) -> Entry:
        """Return the entry in a message. :raises Exception: it has none that makes sense."""
        length = _HEADER.unpack_from(data)[0]
        if length > len(data):
            raise ValueError("not a whole message")
        # After a struct nfgenmsg.
        known = _check_whole(data, _HEADER.size + 4, length, _SIZES)
        if self._last is None or self._last[0] != known:
            self._last = known, _decoded(data)
        return self._last[1]


def _template(octets: int) -> bytes:
    found = _templates.get(octets)
    if found is None:
        found = _templates[octets] = _encoded(octets, 0)
    return found


def _encoded(octets: int, zone: int) -> bytes:
    """Return a request, with nothing but zeros for the two ends. :param octets: of an address."""
    version = "V4" if octets == 4 else "V6"
    request = _message()()
    request["header"]["type"] = _IPCTNL_MSG_CT_GET
    request["header"]["flags"] = _NLM_F_REQUEST
    request["nfgen_family"] = socket.AF_INET if version == "V4" else socket.AF_INET6
    request["version"] = request["res_id"] = 0
    addresses = [(f"CTA_IP_{version}_{end}", bytes(octets)) for end in ("SRC", "DST")]
    ports = [("CTA_PROTO_NUM", _TCP), ("CTA_PROTO_SRC_PORT", 0), ("CTA_PROTO_DST_PORT", 0)]
    flow = [("CTA_TUPLE_IP", {"attrs": addresses}), ("CTA_TUPLE_PROTO", {"attrs": ports})]
    request["attrs"] = [("CTA_TUPLE_ORIG", {"attrs": flow}), *([("CTA_ZONE", zone)] if zone else [])]
    request.encode()
    return bytes(request.data)


def _check_for_none(number: int) -> None:
    """Return where an errno means that there is no entry. Exceptions: see `Conntrack.get`."""
    if number == errno.ENOENT:
        return
    if number in (errno.EPERM, errno.EACCES):
        raise ConntrackUnavailable("conntrack answers only who has CAP_NET_ADMIN", forbidden=True)
    # EINVAL: no ctnetlink in this kernel. EOPNOTSUPP, EPROTONOSUPPORT: none for this family.
    if number in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
        raise ConntrackUnavailable("the kernel has no conntrack")
    # ENOMEM, ENOBUFS: it has run out. EAGAIN: a module is being loaded.
    raise IdentError(f"conntrack says {errno.errorcode.get(number, number)}")


def _decoded(data: bytes) -> Entry:
    """Return the entry in a message that is whole. :raises Exception: it has none that makes sense."""
    message = _message()(data)
    message.decode()
    info = message.get_attr("CTA_PROTOINFO")
    tcp = info.get_attr("CTA_PROTOINFO_TCP") if info is not None else None
    state = tcp.get_attr("CTA_PROTOINFO_TCP_STATE") if tcp is not None else None
    return Entry(
        _flow(message.get_attr("CTA_TUPLE_ORIG")),
        _flow(message.get_attr("CTA_TUPLE_REPLY")),
        message.get_attr("CTA_ID") or 0,
        STATES[state] if state is not None and state < len(STATES) else "",
        message.get_attr("CTA_ZONE") or 0,
        message.get_attr("CTA_MARK") or 0,
    )


def _check_whole(data: bytes, at: int, end: int, sizes: _Sizes) -> list[bytes]:
    """Make sure of attributes: the codec reads past the end of a short one, and takes the first of two.

    :return: those that are read. :raises ValueError: one is not as the kernel writes it.
    """
    seen = set()
    known = []
    while at < end:
        length, number = _ATTRIBUTE.unpack_from(data, at) if at + _ATTRIBUTE.size <= end else (0, 0)
        number &= 0x3FFF
        size = sizes.get(number)
        if not _ATTRIBUTE.size <= length <= end - at or number in seen:
            raise ValueError("an attribute that is not whole, or there twice")
        seen.add(number)
        if isinstance(size, dict):
            _check_whole(data, at + _ATTRIBUTE.size, at + length, size)
        elif size is not None and length != _ATTRIBUTE.size + size:
            raise ValueError(f"an attribute of {length - _ATTRIBUTE.size} octets in place of {size}")
        if size is not None:
            known.append(data[at : at + length])
        at += length + 3 & ~3
    return known


def _flow(attribute: Any) -> Flow:
    addresses, ports = attribute.get_attr("CTA_TUPLE_IP"), attribute.get_attr("CTA_TUPLE_PROTO")
    if ports.get_attr("CTA_PROTO_NUM") != _TCP:
        raise ValueError("a protocol that is not TCP")
    hosts = [
        unpack(bytes(addresses.get_attr(f"CTA_IP_V4_{end}") or addresses.get_attr(f"CTA_IP_V6_{end}")))
        for end in ("SRC", "DST")
    ]
    return Flow(
        (hosts[0], int(ports.get_attr("CTA_PROTO_SRC_PORT"))),
        (hosts[1], int(ports.get_attr("CTA_PROTO_DST_PORT"))),
        attribute.get_attr("CTA_TUPLE_ZONE") or 0,
    )


def _message() -> Any:
    """Return the message class: struct nfgenmsg and the attributes that are used here."""
    global _class
    if _class is None:
        netlink = codec.netlink()

        def attributes(name: str, *known: tuple[int, str, str], **nested: Any) -> Any:
            return type(name, (netlink.nla,), {"nla_map": known, **nested})

        addresses = attributes(
            "addresses", (1, "CTA_IP_V4_SRC", "cdata"), (2, "CTA_IP_V4_DST", "cdata"),
            (3, "CTA_IP_V6_SRC", "cdata"), (4, "CTA_IP_V6_DST", "cdata"),
        )  # fmt: skip
        ports = attributes(
            "ports", (1, "CTA_PROTO_NUM", "uint8"), (2, "CTA_PROTO_SRC_PORT", "be16"),
            (3, "CTA_PROTO_DST_PORT", "be16"),
        )  # fmt: skip
        flow = attributes(
            "flow", (1, "CTA_TUPLE_IP", "addresses"), (2, "CTA_TUPLE_PROTO", "ports"), (3, "CTA_TUPLE_ZONE", "be16"),
            addresses=addresses, ports=ports,
        )  # fmt: skip
        tcp = attributes("tcp", (1, "CTA_PROTOINFO_TCP_STATE", "uint8"))
        info = attributes("info", (1, "CTA_PROTOINFO_TCP", "tcp"), tcp=tcp)
        known = (
            (1, "CTA_TUPLE_ORIG", "flow"), (2, "CTA_TUPLE_REPLY", "flow"), (3, "CTA_STATUS", "be32"),
            (4, "CTA_PROTOINFO", "info"), (8, "CTA_MARK", "be32"), (12, "CTA_ID", "be32"), (18, "CTA_ZONE", "be16"),
        )  # fmt: skip
        fields = (("nfgen_family", "B"), ("version", "B"), ("res_id", ">H"))
        _class = type("nfct_msg", (netlink.nlmsg,), {"fields": fields, "nla_map": known, "flow": flow, "info": info})
    return _class
