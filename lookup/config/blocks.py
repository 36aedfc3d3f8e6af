"""What does a block of a configuration file hold?"""

from __future__ import annotations

from ..connection import pack

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from ..connection import Address
    from .names import Network
    from .words import Notice, Words

    #: One end of a connection: the address as octets (none: it is not known), and the port.
    End = tuple[bytes, int]


def pack_end(address: Address) -> End:
    """Return one end of a connection as `Where.matches_packed` compares it: without a scope, IPv4-mapped ones as IPv4.

    :param address: ``(host, port)``; a host of ``""`` is in no network.
    :raises ValueError: the host is not an address.
    """
    host, port = address
    return pack(host.partition("%")[0])[0] if host else b"", port


class Where:
    """The filters of a block: which connections it is about. None: any.

    ``to`` and ``from_``: the far end's network and ours, each ``(address as octets, how many bits count)``;
    ``fport`` and ``lport``: the far end's ports and ours, each ``(first, last)``.
    """

    __slots__ = ("fport", "from_", "lport", "to")

    def __init__(self) -> None:
        self.to: Network | None = None
        self.from_: Network | None = None
        self.fport: tuple[int, int] | None = None
        self.lport: tuple[int, int] | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What two blocks about the same connections have in common."""
        return self.to, self.from_, self.fport, self.lport

    def matches(self, server: Address, client: Address) -> bool:
        """Return whether a connection is one of these, given our end and the far end of it as ``(host, port)``.

        IPv4-mapped addresses are IPv4's, families never mix, scopes are not compared; a host of ``""`` is in no
        network.

        :raises ValueError: a host is not an address.
        """
        return self.matches_packed(pack_end(server), pack_end(client))

    def matches_packed(self, server: End, client: End) -> bool:
        """Like `matches`, for ends that `pack_end` returned: a file may have thousands of blocks."""
        return (
            _is_among(client[1], self.fport)
            and _is_among(server[1], self.lport)
            and _is_within(client[0], self.to)
            and _is_within(server[0], self.from_)
        )


#: The filters of a block that has none.
EVERYWHERE = Where()


def _is_among(port: int, ports: tuple[int, int] | None) -> bool:
    return ports is None or ports[0] <= port <= ports[1]


def _is_within(packed: bytes, network: Network | None) -> bool:
    if network is None:
        return True
    address, bits = network
    if len(packed) != len(address):
        return False
    differ = int.from_bytes(packed, "big") ^ int.from_bytes(address, "big")
    return not differ >> (8 * len(address) - bits)


class _File:
    """What remains of a file's words for those who only need to know which file it is."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class _Placed:
    """What stands somewhere in a file: ``path``, ``line`` (from 1), and both as text.

    A pickle of it has the place, without the words of the file around it.
    """

    __slots__ = ("_line", "_words", "at")

    def __init__(self, words: Words | _File, at: int) -> None:
        self._words = words
        self._line = 0
        self.at = at

    def __getstate__(self) -> dict[str, object]:
        names = [name for kind in type(self).__mro__ for name in getattr(kind, "__slots__", ())]
        state = {name: getattr(self, name) for name in names}
        state["_words"], state["_line"] = _File(self.path), self.line
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def path(self) -> str:
        return self._words.path

    @property
    def line(self) -> int:
        # Found when it is asked for: of thousands of blocks, one decides.
        if not self._line and not isinstance(self._words, _File):
            self._line = self._words.place(self.at)[0]
        return self._line

    @property
    def rule(self) -> str:
        """The place as ``path:line``."""
        return f"{self.path}:{self.line}"


class Statement(_Placed):
    """What a block says: what is sent in place of the login name.

    ``kind``: the keyword; ``arguments``: the texts of a reply (octets), or the host's address as text and the
    port of a forward.
    """

    __slots__ = ("arguments", "kind")

    def __init__(self, kind: str, arguments: tuple[bytes, ...] | tuple[str, int], words: Words, at: int) -> None:
        super().__init__(words, at)
        self.kind = kind
        self.arguments = arguments

    def __str__(self) -> str:
        texts = (quoted(one) if isinstance(one, bytes) else str(one) for one in self.arguments)
        return " ".join((self.kind, *texts))


def quoted(name: bytes) -> str:
    """Return a name in quotes, in ASCII, on one line."""
    return '"' + ascii(name)[2:-1].replace("\\'", "'").replace('"', '\\"') + '"'


class Range(_Placed):
    """One block of the system file.

    ``where``: its filters; ``capabilities``: what it allows, by name, inherited ones included; ``force``: the
    statement that it forces on the user, or None. What forces a statement allows nothing.
    """

    __slots__ = ("capabilities", "force", "where")

    def __init__(
        self, where: Where, capabilities: frozenset[str], force: Statement | None, words: Words, at: int
    ) -> None:
        super().__init__(words, at)
        self.where = where
        self.capabilities = capabilities
        self.force = force


class UserBlock(_Placed):
    """One block of a user's file: its filters, and its statement."""

    __slots__ = ("statement", "where")

    def __init__(self, where: Where, statement: Statement, words: Words, at: int) -> None:
        super().__init__(words, at)
        self.where = where
        self.statement = statement


class System:
    """What the system file says.

    ``path``; ``default``: the ranges of its default block, or None without one; ``users``: the ranges of each
    uid's block; ``notices``: what its author surely did not mean.
    """

    __slots__ = ("default", "notices", "path", "users")

    def __init__(self, path: str) -> None:
        self.path = path
        self.default: list[Range] | None = None
        self.users: dict[int, list[Range]] = {}
        self.notices: list[Notice] = []
