"""What do a connection, its owner and a reply look like?

Addresses as the kernel writes them, the `Owner` of a socket, the `Arrival` of a query by its own connection, and the
limits that RFC 1413 sets to a reply; the refusals that it may have instead of a name, what stands for a thing that is
not known, and what is wrong with a file or takes too long.

The refusals' names, and ``identDescription`` as what ``str()`` gives, are those of ``twisted.protocols.ident``, so that
code written for that module works here.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # what `socket` adds takes 6 ms, and enums cost each call
from struct import Struct, calcsize
from sys import byteorder

TYPE_CHECKING = False  # typing takes 2 ms to import; type checkers take this name for true
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    Result = TypeVar("Result")

    Address = tuple[str, int]

#: Where ident servers listen (RFC 1413 section 3).
IDENT_PORT = 113

#: Seconds for which a connection that waits to be accepted is looked at again before it is nobody's: clients ask that
#: early. And how long to wait before each look.
ACCEPT_SECONDS, ACCEPT_PAUSES = 0.2, (0.01, 0.02, 0.04, 0.06, 0.08)

#: Octets of a user id that are sent (RFC 1413 section 6); it is cut there when it is sent.
MAX_USER_ID = 512

#: For str.translate: takes the characters of a token away.
_IN_TOKENS = dict.fromkeys(character for character in range(ord("!"), ord("~") + 1) if chr(character) not in ",:")

#: The first 12 octets of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
MAPPED = bytes(10) + b"\xff\xff"

#: Addresses as `pack` returns them, for as long as there is room: they always mean the same.
_packed: dict[str, tuple[bytes, int]] = {}
_MOST_PACKED = 256

#: Interface indexes are 32 bits wide in netlink (struct inet_diag_sockid, linux/inet_diag.h).
_LARGEST_INDEX = 0xFFFFFFFF

#: States of a TCP socket as the kernel numbers them (include/net/tcp_states.h).
TCP_STATES = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
    "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV", "BOUND_INACTIVE",
)  # fmt: skip

# Python's socket has no names for these, or only from some release on.
_SOL_SOCKET, _SO_BINDTOIFINDEX, _SO_NETNS_COOKIE = 1, 62, 71  # asm-generic/socket.h
_SOL_IP, _IP_PKTINFO, _IP_PKTOPTIONS = 0, 8, 9  # linux/in.h
_SOL_IPV6, _IPV6_2292PKTOPTIONS, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 41, 6, 49, 50  # linux/in6.h

# Where a connection was meant to go (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h: the same number), as a
# struct sockaddr_in or sockaddr_in6.
_SO_ORIGINAL_DST, _SOCKADDR_IN, _SOCKADDR_IN6 = 80, Struct("!2xH4s8x"), Struct("!2xH4x16s4s")

_CMSGHDR = Struct("@Nii")  # struct cmsghdr: length, level, type; the next one begins at a multiple of a word
_WORD = calcsize("@N")
#: Where the index of the device is: struct in_pktinfo begins with it, struct in6_pktinfo has it after an address.
_IN_PKTINFO, _IN6_PKTINFO = 0, 16

#: The index of the loopback interface in each network namespace (LOOPBACK_IFINDEX, net/flow.h).
LOOPBACK = 1


class Owner:
    """A socket that some process holds, and who owns it.

    ``uid`` is the user id of the process that created or accepted the socket; ``inode`` the socket's
    (0 where the source does not have it); ``state`` its TCP state; ``server`` and ``client`` the two
    ``(host, port)`` ends as the query calls them; ``source`` who found it: ``"sock_diag"`` or ``"psutil"``;
    ``device`` the index of the device that the socket is bound to (0: none, or the source does not have it).
    """

    __slots__ = ("client", "device", "inode", "server", "source", "state", "uid")

    # What `behind.Inside` alone has.
    nameless = False
    reply = place = where = container = ""
    steps: tuple[str, ...] = ()
    # What `gateways.ByPorts` alone is.
    by_ports = False

    def __init__(
        self, uid: int, inode: int, state: str, server: Address, client: Address, source: str, device: int = 0
    ) -> None:
        self.uid = uid
        self.inode = inode
        self.state = state
        self.server = server
        self.client = client
        self.source = source
        self.device = device

    @property
    def key(self) -> int:
        """The uid, or another number for whoever has that uid in a container and is not the host's user."""
        return self.uid

    @property
    def ends(self) -> str:
        """Both ends as text, this host's first."""
        return " ".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in (self.server, self.client)
        )

    def __repr__(self) -> str:
        return f"{self.ends} {self.state} uid {self.uid} inode {self.inode} ({self.source})"


class Arrival:
    """What the kernel knows of a query's own connection, by its socket. Nothing here needs a privilege.

    ``bound``: the index of the device that the socket is bound to, with its listener or by a link-local address; 0:
    none. ``cookie``: which network namespace the socket is in, as the kernel counts them; b"": the kernel has no
    such cookie (before Linux 5.14).
    """

    __slots__ = ("bound", "cookie", "socket")

    def __init__(self, connection: socket.socket, cookie: bytes | None = None) -> None:
        """:param cookie: of the socket that it was accepted from: both are in one namespace. None: it is asked for."""
        self.socket = connection
        try:
            self.bound = connection.getsockopt(_SOL_SOCKET, _SO_BINDTOIFINDEX)
        except OSError:
            # ENOPROTOOPT: before Linux 5.1, or another system. EBADF: it has been closed meanwhile.
            self.bound = 0
        self.cookie = cookie_of(connection) if cookie is None else cookie

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
    try:
        return one.getsockopt(_SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        # ENOPROTOOPT: before Linux 5.14, or another system. EBADF: it has been closed meanwhile.
        return b""


def pack(host: str) -> tuple[bytes, int]:
    """Return an address as its octets (4 or 16) and its interface index (0: none given).

    :param host: IPv4 or IPv6 text, a link-local one with its scope (``fe80::1%eth0``, ``fe80::1%2``).
        An IPv4-mapped IPv6 address is its IPv4 address.
    :raises ValueError: it is not an address, or no interface has the scope's name.
    """
    found = _packed.get(host)
    if found is None:
        found = _pack(host)
        if "%" not in host:  # which device has a name may change
            if len(_packed) >= _MOST_PACKED:
                _packed.clear()
            _packed[host] = found
    return found


def _pack(host: str) -> tuple[bytes, int]:
    address, percent, scope = host.partition("%")
    try:
        if ":" not in address:
            if percent:
                raise ValueError(f"an IPv4 address has no scope: {host!r}")
            return inet_pton(AF_INET, address), 0
        packed = inet_pton(AF_INET6, address)
        if packed.startswith(MAPPED):
            return packed[12:], 0
        return packed, _interface(scope) if percent else 0
    except OSError:
        # No errno (inet_pton), ENODEV (if_nametoindex): it is not one here.
        raise ValueError(f"not an IP address: {host!r}") from None


def _interface(scope: str) -> int:
    from _socket import if_nametoindex

    try:
        return if_nametoindex(scope)
    except OSError:
        # ENODEV: no interface has that name; but one may be called "2" (getaddrinfo(3) asks in this order too).
        if not (scope.isascii() and scope.isdigit()) or int(scope) > _LARGEST_INDEX:
            raise
    return int(scope)


def unpack(packed: bytes) -> str:
    """Return an address as text: the inverse of `pack`, without a scope."""
    if len(packed) == 16 and packed.startswith(MAPPED):
        packed = packed[12:]
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def the_only(owners: list[Owner], ports: str) -> Owner:
    """Return the owner of all sockets that fit, where they have the same one.

    :param owners: the sockets that fit the question, at least one.
    :param ports: the question, for the error.
    :raises IdentError: they belong to different users; its detail names the candidates.
    """
    if len({owner.uid for owner in owners}) > 1:
        _ambiguous(owners, ports)
    return owners[0]


def _ambiguous(owners: list[Owner], ports: str) -> NoReturn:
    candidates = "; ".join(map(repr, owners))
    raise IdentError(f"{ports} fits {len(owners)} connections of different owners: {candidates}")


def can_be_sent(user_id: bytes) -> bool:
    """Return whether a reply can hold a user id (RFC 1413 section 6): it has octets, and no NUL, CR or LF.

    What is longer than `MAX_USER_ID` is cut when it is sent.
    """
    return bool(user_id) and not (b"\0" in user_id or b"\r" in user_id or b"\n" in user_id)


def is_token(text: str) -> bool:
    """Return whether a reply can hold a text as its opsys or charset.

    token = 1*64( %x21-2B / %x2D-39 / %x3B-7E )    ; RFC 1413 section 6; "," and ":" separate
    """
    return 1 <= len(text) <= 64 and not text.translate(_IN_TOKENS)


def asked_name(connection: socket.socket) -> tuple[Any, ...]:
    """Return the name that an accepted socket has for its far end: what getsockname() gives, or another one.

    A rule of the administrator's (REDIRECT, DNAT) may have led the connection here from another address, whose own
    connections are others, with the same ports perhaps. It takes no privilege to see.

    :raises OSError: the socket is closed, or the far end has gone.
    """
    name: tuple[Any, ...] = connection.getsockname()
    try:
        # An IPv6 socket may have a connection of IPv4's.
        if len(name) == 2 or ":" not in plain_host(name[0]):
            told = connection.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size)
            (port, packed), scope = _SOCKADDR_IN.unpack(told), b""
        else:
            told = connection.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
            port, packed, scope = _SOCKADDR_IN6.unpack(told)
    except OSError:
        # ENOENT: conntrack has no entry. ENOPROTOOPT, EOPNOTSUPP: the kernel has none, or not for this kind (MPTCP).
        return name
    host, ours = unpack(packed), _plain_end(name)
    if (host, port) == ours or (host, port) == _plain_end(connection.getpeername()):
        # Nothing led it here; or the entry begins with a packet of ours, because conntrack had forgotten the
        # connection, or has it in two zones.
        return name
    if host == ours[0]:
        # A port alone is another one where a port of ours is led to another.
        return (name[0], port, *name[2:])
    return (host, port, 0, int.from_bytes(scope, byteorder)) if ":" in host else (host, port)


def _plain_end(name: tuple[Any, ...]) -> Address:
    """Return the address and the port in a socket's name."""
    return plain_host(name[0].partition("%")[0]), name[1]


def plain_host(host: str) -> str:
    """Return an IPv4-mapped IPv6 address as IPv4 text, any other as it is."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def port_number(digits: bytes) -> int:
    """Return the port that 1 to 5 digits 0-9 are, leading zeros among them; 0: they are no port."""
    number = int(digits) if digits.isdigit() and len(digits) <= 5 else 0
    return number if number <= 65535 else 0


class IdentError(Exception):
    """The owner could not be found out: RFC 1413 section 6, ``UNKNOWN-ERROR``.

    :param detail: the cause, for the log; it is never sent to the asker.
    :param uid: the owner's user id where it is known, for the log.
    """

    identDescription = "UNKNOWN-ERROR"

    def __init__(self, detail: str = "", uid: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.uid = uid

    def __str__(self) -> str:
        return self.identDescription


class NoUser(IdentError):
    """No such connection, or no process holds it: ``NO-USER``."""

    identDescription = "NO-USER"


class NotAccepted(NoUser):
    """The connection waits for some process to accept it: who looks again in a moment may find its holder."""


class InvalidPort(IdentError):
    """A port in the query is not a number from 1 to 65535: ``INVALID-PORT``."""

    identDescription = "INVALID-PORT"


class HiddenUser(IdentError):
    """The owner is known, and hidden as they or the administrator asked: ``HIDDEN-USER``.

    ``decision``: why, where a configuration decided (a `config.decision.Decision`); ``owner``: whose socket it is.
    """

    identDescription = "HIDDEN-USER"
    decision: Any = None
    owner: Any = None


class Unknown:
    """Stands for a value that is not known.

    ``reason``: why, for the log. ``unasked``: nobody has asked yet, as asking may block; otherwise it was asked, and
    could not be found out.
    """

    __slots__ = ("reason", "unasked")

    def __init__(self, reason: str = "", unasked: bool = False) -> None:
        self.reason = reason
        self.unasked = unasked

    def __repr__(self) -> str:
        return f"Unknown({self.reason!r}, unasked={self.unasked})"


class ConfigError(Exception):
    """A configuration file does not parse, or can't be read.

    ``path``; ``line`` and ``column`` of the wrong word, from 1, in octets (0: the file as a whole);
    ``reason``: what was expected, or what is wrong.
    """

    def __init__(self, path: str, line: int, column: int, reason: str) -> None:
        super().__init__(path, line, column, reason)
        self.path = path
        self.line = line
        self.column = column
        self.reason = reason

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.reason}"


def within(seconds: float, function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function that may block, in a thread of its own, and wait for it for so many seconds at most.

    Past them the thread is left to itself: it ends when the call returns, or with the process. A signal could not end
    it, because the name service waits in C, where Python runs no signal handler.

    :raises TimeoutError: it has not returned in time. :raises OSError: there is no thread to be had.
        Otherwise, whatever the function raises.
    """
    import _thread  # what `threading` adds takes 3 ms

    results: list[Result] = []
    errors: list[BaseException] = []
    running = _thread.allocate_lock()

    def call() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)
        finally:
            running.release()

    running.acquire()
    try:
        # Not by threading.Thread, whose start() waits without end for a thread that had no memory to begin with.
        _thread.start_new_thread(call, ())
    except RuntimeError as error:
        # EAGAIN: a limit on processes or memory.
        raise OSError(str(error)) from None
    running.acquire(timeout=seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
