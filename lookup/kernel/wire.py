"""What goes to whoever may look behind NAT and into other network namespaces, and what comes back?

A request has addresses and ports, nothing else; an answer says whose socket was found, and how. Both have a fixed form,
so that they can go between two processes (SOCK_SEQPACKET), of which one parses what strangers send and may do nothing,
and the other has capabilities and parses only this.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from ..connection import pack, unpack

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..connection import Address

#: What became of a request. STANDS: nothing means another socket, so what was found without asking counts. HERE: it
#: means a socket of this network namespace; INSIDE: of another one. NOT_ACCEPTED: it waits there for a process to
#: accept it. NOBODY: no socket of this host is meant; UNSEEN: the same, but not everything could be looked into.
#: FAILED: it can't be found out.
STANDS, HERE, INSIDE, NOT_ACCEPTED, NOBODY, UNSEEN, FAILED = range(7)

#: Who holds a socket of another network namespace: processes of the host's, or of a container (whose root directory is
#: another one). UNASKED: nobody looked, as it is a socket of our own network namespace.
UNASKED, OF_THE_HOST, OF_A_CONTAINER = range(3)

#: Octets of an answer, at most: of its texts, what is too much is cut off. Letters of a container's name.
MAX_ANSWER, MAX_PLACE = 4096, 256

#: In place of a uid: there is none.
NO_UID = 0xFFFFFFFF

_FLAGS = Struct("!B")
_END = Struct("!16sHB")
_NUMBERS = Struct("!BBIIQBI")

#: Octets of a request.
REQUEST_SIZE = _FLAGS.size + 2 * _END.size


class Request:
    """Which connection is asked about.

    ``server``: our end as the query names it; ``client``: the far end; addresses without a scope. ``local``: whether a
    socket of this network namespace was found with these ends already: then only another one is of interest.
    ``bound``: whether the query came in by a socket that is bound to a device: then the only question is whether the
    connection is translated.
    """

    __slots__ = ("bound", "client", "local", "server")

    def __init__(self, server: Address, client: Address, local: bool = False, bound: bool = False) -> None:
        self.server = server
        self.client = client
        self.local = local
        self.bound = bound

    def pack(self) -> bytes:
        """Return the request as `REQUEST_SIZE` octets. :raises ValueError: a host is not an address."""
        return _FLAGS.pack(self.local | self.bound << 1) + _packed(self.server) + _packed(self.client)

    @classmethod
    def unpack(cls, data: bytes) -> Request:
        """Return the request that some octets are. :raises ValueError: they are none."""
        if len(data) != REQUEST_SIZE or data[0] > 3:
            raise ValueError("no request")
        server, client = _unpacked(data, _FLAGS.size), _unpacked(data, _FLAGS.size + _END.size)
        if (":" in server[0]) != (":" in client[0]) or not (server[1] and client[1]):
            raise ValueError("no request")
        return cls(server, client, bool(data[0] & 1), bool(data[0] & 2))


class Found:
    """What was found.

    ``kind``: see `STANDS`; ``reason``: why, where nobody was found, or conntrack could not be asked.
    ``server`` and ``client``: the ends, local and remote, of the socket that is meant, as they are in its own network
    namespace or on the machine behind.

    For `HERE`, `INSIDE` and `NOT_ACCEPTED`: ``uid``, ``inode``, ``state``, ``device`` as `Owner` has them; for
    `INSIDE`: ``held``, who holds it (see `UNASKED`); ``maker``: the uid that owns the holders' user namespace, where
    that is neither the host's nor one in somebody else's container, else `NO_UID`; ``place``: the container, as text,
    or ``""``.

    ``steps``: how it was found, a text each, for people.
    """

    __slots__ = (
        "client", "device", "held", "inode", "kind", "maker", "place", "reason", "server", "state", "steps", "uid",
    )  # fmt: skip

    def __init__(
        self, kind: int, server: Address, client: Address, *, uid: int = NO_UID, inode: int = 0, state: int = 0,
        device: int = 0, held: int = UNASKED, maker: int = NO_UID, place: str = "", reason: str = "",
        steps: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.kind = kind
        self.server = server
        self.client = client
        self.uid = uid
        self.inode = inode
        self.state = state
        self.device = device
        self.held = held
        self.maker = maker
        self.place = place
        self.reason = reason
        self.steps = list(steps)

    def pack(self) -> bytes:
        """Return the answer as `MAX_ANSWER` octets at most."""
        numbers = _NUMBERS.pack(self.kind, self.held, self.uid, self.maker, self.inode, self.state, self.device)
        texts = "\0".join([self.place[:MAX_PLACE], self.reason, *self.steps]).encode("utf-8", "replace")
        return (numbers + _packed(self.server) + _packed(self.client) + texts)[:MAX_ANSWER]

    @classmethod
    def unpack(cls, data: bytes) -> Found:
        """Return the answer that some octets are. :raises ValueError: they are none."""
        try:
            kind, held, uid, maker, inode, state, device = _NUMBERS.unpack_from(data)
        except StructError:
            raise ValueError("no answer") from None
        at = _NUMBERS.size
        server, client = _unpacked(data, at), _unpacked(data, at + _END.size)
        place, *texts = data[at + 2 * _END.size :].decode("utf-8", "replace").split("\0")
        if kind > FAILED or held > OF_A_CONTAINER or not texts:
            raise ValueError("no answer")
        return cls(
            kind, server, client, uid=uid, inode=inode, state=state, device=device, held=held, maker=maker,
            place=place, reason=texts[0], steps=texts[1:],
        )  # fmt: skip


def _packed(end: Address) -> bytes:
    host = pack(end[0].partition("%")[0])[0]
    return _END.pack(host.ljust(16, b"\0"), end[1], len(host))


def _unpacked(data: bytes, at: int) -> Address:
    try:
        host, port, length = _END.unpack_from(data, at)
    except StructError:
        raise ValueError("no address") from None
    if length not in (4, 16):
        raise ValueError("no address")
    return unpack(host[:length]), port
