"""What does a block of a configuration file hold?"""

from __future__ import annotations

from ..connection import Unknown, pack

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Union

    from ..connection import Address
    from .names import Hosts, Network
    from .pseudonym import Pseudonyms
    from .words import Notice, Words

    #: One end of a connection: the address as octets (none: it is not known), and the port.
    End = tuple[bytes, int]

    #: Returns the addresses of a host name: those of 4 or of 16 octets, or (0) all of them.
    Resolve = Callable[["HostName", int], Union[tuple[bytes, ...], Unknown]]

    #: What follows a statement's keyword: see `Statement`.
    Arguments = tuple[Union[bytes, str, "HostName", int, Unknown], ...]

    #: The uids that login names have.
    Uids = dict[bytes, Union[int, Unknown, None]]


class HostName(bytes):
    """A name in place of an address. It stands for all its addresses, of both families, at the time of the query."""

    __slots__ = ()


class Domain(bytes):
    """The far ends whose address has a name below this one, with a dot before it: ``.example.org``."""

    __slots__ = ()

    @classmethod
    def named(cls, text: bytes) -> Domain | None:
        """Return the domain that is written ``.example.org`` or ``*.example.org``; None: it is something else.

        :raises ValueError: it is no domain; the text says what was expected.
        """
        if not text.startswith((b".", b"*.")):
            return None
        name = text.removeprefix(b"*").rstrip(b".").lower()
        if not name or b".." in name or not all(33 <= octet < 127 and octet not in b"*/" for octet in name):
            raise ValueError("a domain expected after the dot")
        return cls(name)

    def about(self, address: bytes) -> Asked:
        """Return the question whether an address has a name in this domain."""
        asked = Asked(b"%s %s" % (address.hex().encode("ascii"), self))
        asked.domain, asked.address = self, address
        return asked


class Asked(HostName):
    """Stands for an address, if that has a name in a domain (`confirmed_names`), and for no address otherwise."""

    domain: Domain
    address: bytes


#: What other files of a user's are for: a connection that a program has registered; those of older servers, that the
#: user is hidden, and a reply. What comes after the word for one that could not be read.
REGISTERED, NOIDENT, FAKEID, UNREAD = "registered", "noident", "fakeid", "?"


def unresolved(name: HostName, octets: int) -> Unknown:
    """Stand for the resolver where there is none to ask."""
    return Unknown(f"the addresses of {quoted(name)}: nobody was asked")


def pack_end(address: Address) -> End:
    """Return one end of a connection as `Where.matches_packed` compares it: without a scope, IPv4-mapped ones as IPv4.

    :param address: ``(host, port)``; a host of ``""`` is in no network.
    :raises ValueError: the host is not an address.
    """
    host, port = address
    return pack(host.partition("%")[0])[0] if host else b"", port


class Where:
    """The filters of a block: which connections it is about. None: any.

    ``to`` and ``from_``: the far end's network and ours, each ``(address as octets, how many bits count)``, or a
    `HostName`, or for ``to`` a `Domain`; ``fport`` and ``lport``: the far end's ports and ours, each ``(first,
    last)``, or `Unknown`: the name of a service could not be looked up.
    """

    __slots__ = ("fport", "from_", "lport", "to")

    def __init__(self) -> None:
        self.to: Network | HostName | Domain | None = None
        self.from_: Network | HostName | None = None
        self.fport: tuple[int, int] | Unknown | None = None
        self.lport: tuple[int, int] | Unknown | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What two blocks about the same connections have in common."""
        return self.to, self.from_, self.fport, self.lport

    def matches(self, server: Address, client: Address, resolve: Resolve = unresolved) -> bool | Unknown:
        """Return whether a connection is one of these, given our end and the far end of it as ``(host, port)``.

        IPv4-mapped addresses are IPv4's, families never mix, scopes are not compared; a host of ``""`` is in no
        network. `Unknown`: that depends on a name that can't be looked up.

        :raises ValueError: a host is not an address.
        """
        return self.matches_packed(pack_end(server), pack_end(client), resolve)

    def matches_packed(self, server: End, client: End, resolve: Resolve = unresolved) -> bool | Unknown:
        """Like `matches`, for ends that `pack_end` returned: a file may have thousands of blocks."""
        unknown: Unknown | None = None
        ports = self.fport
        if isinstance(ports, Unknown):
            unknown = ports
        elif ports is not None and not ports[0] <= client[1] <= ports[1]:
            return False
        ports = self.lport
        if isinstance(ports, Unknown):
            unknown = ports
        elif ports is not None and not ports[0] <= server[1] <= ports[1]:
            return False
        to, from_ = self.to, self.from_
        if isinstance(to, tuple) and not _is_within(client[0], to):
            return False
        if isinstance(from_, tuple) and not _is_within(server[0], from_):
            return False
        # Last, as the resolver takes time.
        for packed, name in ((client[0], to), (server[0], from_)):
            if isinstance(name, Domain):
                name = name.about(packed)
            if isinstance(name, HostName):
                addresses = resolve(name, len(packed)) if packed else ()
                if isinstance(addresses, Unknown):
                    unknown = addresses
                elif packed not in addresses:
                    return False
        return True if unknown is None else unknown


#: The filters of a block that has none.
EVERYWHERE = Where()


def _is_within(packed: bytes, network: Network) -> bool:
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

    ``kind``: the keyword; ``arguments``: the texts of a reply (octets), or the host (its address as text, or a
    `HostName`) and the port of a forward (`Unknown`: the service's name could not be looked up), with the form of its
    header if it has one, or the words after ``pseudonym`` in their order.
    """

    __slots__ = ("arguments", "kind")

    def __init__(self, kind: str, arguments: Arguments, words: Words, at: int) -> None:
        super().__init__(words, at)
        self.kind = kind
        self.arguments = arguments

    def __str__(self) -> str:
        texts = (quoted(one) if isinstance(one, bytes) else str(one) for one in self.arguments)
        return " ".join((self.kind, *texts))


def quoted(name: bytes) -> str:
    """Return a name in quotes, in ASCII, on one line."""
    return '"' + "'".join(ascii(part)[2:-1] for part in name.split(b"'")).replace('"', '\\"') + '"'


class Range(_Placed):
    """One block of the system file.

    ``where``: its filters; ``capabilities``: what it allows, by name, inherited ones included; ``force``: the
    statement that it forces on the user, or None. What forces a statement allows nothing. ``instead``: what is sent
    wherever the login name would be (``default_hide``, ``default_reply``), or None.
    """

    __slots__ = ("capabilities", "force", "instead", "where")

    def __init__(
        self, where: Where, capabilities: frozenset[str], force: Statement | None, words: Words, at: int,
        instead: Statement | None = None,
    ) -> None:  # fmt: skip
        self._words, self._line, self.at = words, 0, at
        self.instead = instead
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


class Model:
    """A user's block that was read, for others that say the same: of thousands of them, one decides.

    ``pattern``: its words, ``b""`` in place of the name and of what may differ; ``free``: where the latter are.
    """

    __slots__ = ("_ranges", "free", "pattern")

    def __init__(self, section: Section, pattern: list[bytes]) -> None:
        """:param pattern: the words of the block: what may differ in it, the replies that it forces, is taken out."""
        forced = [block.force for block in section.ranges if block.force is not None and block.force.kind == "reply"]
        begin = section.at - 1
        self._ranges = [(block, block.at - section.at) for block in section.ranges]
        # They come after the words "force" and "reply".
        self.free = [one.at - begin + 2 + number for one in forced for number in range(len(one.arguments))]
        self.pattern = pattern
        for at in (1, *self.free):
            pattern[at] = b""

    def ranges_at(self, at: int, words: Words) -> list[Range]:
        """Return the ranges of a block that says the same. :param at: the index of its name."""
        return [self._range(block, at + offset, words) for block, offset in self._ranges]

    def _range(self, model: Range, at: int, words: Words) -> Range:
        def moved(statement: Statement | None) -> Statement | None:
            if statement is None or statement.at < model.at:
                return statement  # what is inherited stays where it is
            begin = at + statement.at - model.at
            arguments = statement.arguments
            if statement.kind == "reply":
                arguments = tuple(words.text(begin + 2 + number) for number in range(len(arguments)))
            return Statement(statement.kind, arguments, words, begin)

        return Range(model.where, model.capabilities, moved(model.force), words, at, moved(model.instead))


class Section(_Placed):
    """One user's block of the system file: the ``name`` after ``user``, and its ``ranges``.

    ``number``: the uid that the name is in decimal, which counts where it is nobody's login name; -1: it is none.
    """

    __slots__ = ("_model", "_ranges", "name", "number")

    def __init__(
        self, name: bytes, number: int, ranges: list[Range] | None, words: Words, at: int, model: Model | None = None
    ) -> None:
        """:param model: in place of the ranges: the block that says the same."""
        self._words, self._line, self.at = words, 0, at
        self.name = name
        self.number = number
        self._ranges = ranges
        self._model = model

    @property
    def ranges(self) -> list[Range]:
        if self._ranges is None:
            assert self._model is not None
            self._ranges = self._model.ranges_at(self.at, self._words)  # type: ignore[arg-type]
        return self._ranges

    def __getstate__(self) -> dict[str, object]:
        assert self.ranges  # whose places are found while the words are here
        self._model = None
        return super().__getstate__()


class System:
    """What the system file says.

    ``path``; ``default``: the ranges of its default block, or None without one; ``sections``: the blocks for users;
    ``hosts``: what is remembered of its host names; ``notices``: what its author surely did not mean; those in
    ``missing`` are about users and hosts that there are not, which may change while the file does not.

    By whose they are now, see `assign`: ``owned``: each uid's block; ``doubtful``: those of blocks of
    whom it is not known, each with the reason; ``twice``: why a uid's block is not known, where it has two.

    ``older``: whether older servers' files in homes are allowed to somebody; ``needs_key``: whether pseudonyms are
    allowed or forced; ``pseudonyms``: what the key makes, or why there is none.
    """

    __slots__ = (
        "_hosts", "default", "doubtful", "missing", "needs_key", "notices", "older", "owned", "path", "pseudonyms",
        "sections", "twice",
    )  # fmt: skip

    def __init__(self, path: str, hosts: Hosts | None = None) -> None:
        """:param hosts: what is remembered so far; None: nothing."""
        self.path = path
        self._hosts = hosts
        self.default: list[Range] | None = None
        self.sections: list[Section] = []
        self.owned: dict[int, Section] = {}
        self.doubtful: list[tuple[list[Range], Unknown]] = []
        self.twice: dict[int, Unknown] = {}
        self.notices: list[Notice] = []
        self.missing: list[Notice] = []
        self.needs_key = self.older = False
        self.pseudonyms: Pseudonyms | Unknown | None = None

    @property
    def hosts(self) -> Hosts:
        if self._hosts is None:
            from .names import Hosts  # only where names of hosts are looked up

            self._hosts = Hosts()
        return self._hosts

    @property
    def users(self) -> dict[int, list[Range]]:
        """The ranges of each uid's block."""
        return {uid: section.ranges for uid, section in self.owned.items()}

    def ranges_of(self, uid: int) -> list[Range] | None:
        """Return the ranges of a uid's block; None: it has none."""
        return self.owned[uid].ranges if uid in self.owned else None

    def assign(self, uids: Uids) -> list[tuple[Section, Section]]:
        """Give each block to the user who has its name now; return the pairs that are one user's.

        A name that is nobody's has no effect. A name that could not be asked for may be anybody's.
        """
        owned = self.owned
        pairs = []
        for section in self.sections:
            uid = uids[section.name]
            if isinstance(uid, Unknown):
                self.doubtful.append((section.ranges, uid))
                continue
            if uid is None:
                uid = section.number
            if uid in owned:
                pairs.append((owned[uid], section))
                reason = f"{owned[uid].rule} and {section.rule} are both about uid {uid}"
                self.twice[uid] = Unknown(reason)
            elif uid >= 0:
                owned[uid] = section
        return pairs

    def assigned_again(self, uids: Uids) -> System:
        """Return the same rules, for those who have the names by now."""
        again = self._copy()
        again.assign(uids)
        return again

    def of_a_container(self) -> System:
        """Return the same rules for those who have a uid in a container and no name here: only numbers are theirs."""
        again = self._copy()
        again.assign(dict.fromkeys(section.name for section in self.sections))
        return again

    def _copy(self) -> System:
        again = System(self.path, self.hosts)
        again.default, again.sections = self.default, self.sections
        again.notices, again.missing = self.notices, self.missing
        again.needs_key, again.pseudonyms, again.older = self.needs_key, self.pseudonyms, self.older
        return again
