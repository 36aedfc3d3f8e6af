"""How is a block of a configuration file read, word by word?"""

from __future__ import annotations

from ..connection import Unknown, can_be_sent
from .blocks import EVERYWHERE, Domain, HostName, Statement, Where
from .names import Names
from .words import Words, shown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TypeVar

    from .blocks import Arguments, Range, Resolve, UserBlock
    from .names import Network
    from .words import Notice

    Meaning = TypeVar("Meaning")

#: Replies of one statement in a user's file that count; oidentd ignores the rest.
MAX_REPLIES = 20

#: Each capability as a bit: thousands of blocks change their sets line by line.
CAPABILITIES = {
    name: 1 << bit
    for bit, name in enumerate(
        (
            b"spoof", b"spoof_all", b"spoof_privport", b"hide", b"random", b"random_numeric", b"numeric", b"forward",
            b"pseudonym", b"noident", b"fakeid",
        )
    )
}

_FILTERS = frozenset((b"to", b"from", b"fport", b"lport"))
STATEMENTS = frozenset((b"hide", b"random", b"random_numeric", b"numeric", b"reply", b"forward", b"pseudonym"))

#: Keywords that oidentd does not have. They are keywords only where a statement or a capability may stand.
NEW = frozenset((b"pseudonym", b"noident", b"fakeid"))

#: What may stand in place of the login name where the user wishes nothing; oidentd does not have them either.
DEFAULTS = frozenset((b"default_hide", b"default_reply"))

#: What a user's file begins its blocks with.
BLOCKS = _FILTERS | {b"global"}
KEYWORDS = (
    _FILTERS | STATEMENTS | CAPABILITIES.keys() | {b"default", b"user", b"global", b"allow", b"deny", b"force"}
) - NEW

#: What may follow ``pseudonym``, and how many letters it may have; the last: before IRC servers cut it.
_FORMS = frozenset((b"per-asker", b"daily"))
SHORTEST, LONGEST, USUAL = 7, 32, 9

#: What may follow ``forward``, its host and its port.
_PROXIES = frozenset((b"proxy", b"proxy2"))

#: Digits of a length: int() takes time that grows with the square of their number.
_DIGITS = 3

LONG = "IRC servers cut names at 9 or 10 letters: what they show is not the whole name"

#: What is not a string, in lower case.
NO_STRINGS = KEYWORDS | {b"{", b"}", b""}


class Parser:
    """What both kinds of file have in common (the grammar: `grammar`). ``at`` is the index of the next word."""

    def __init__(self, data: bytes, path: str, names: Names | None = None) -> None:
        self.words = Words(data, path)
        self.tokens = self.words.tokens
        self.notices = self.words.notices
        self.names = names or Names()
        #: The host names, and where the first of each is.
        self.hosts: dict[HostName, int] = {}
        #: What oidentd does not understand: where it is, and what it is.
        self.ours: list[tuple[int, str]] = []
        self.at = 0

    def keyword(self) -> bytes:
        """Return the next word in lower case, whether it is a keyword or not."""
        return self.tokens[self.at].lower()

    def unexpected(self, what: str, why: str = "") -> NoReturn:
        """:param why: what there is to say of the word that stands there."""
        token = self.tokens[self.at]
        if not why and token.lower() not in NO_STRINGS:
            try:
                from .slips import hint  # only where a file has an error

                why = hint(token)
            except ImportError:
                # Root's Python may be closed to us since root was given up. The error stands without a hint.
                pass
        self.words.fail(self.at, f"{what} expected, not {shown(token)}{why}")

    def expect(self, token: bytes) -> None:
        if self.tokens[self.at] != token:
            self.unexpected(token.decode("ascii"))
        self.at += 1

    def string(self, what: str) -> bytes:
        """Take a word or a string."""
        token = self.tokens[self.at]
        if token.lower() in NO_STRINGS:
            self.unexpected(what + (", quoted where it is a keyword," if token.lower() in KEYWORDS else ""))
        # Most words stand for themselves.
        text = self.words.text(self.at) if token[0] in b'"/' else token
        # Only now: `slips` looks at what was taken, and can't read a broken string either.
        self.at += 1
        return text

    def meaning(self, of: Callable[[bytes], Meaning], what: str) -> Meaning:
        """Take a string that stands for something; as in oidentd, a NUL ends it."""
        at, text = self.at, self.string(what)
        try:
            return of(text.partition(b"\0")[0])
        except ValueError as error:
            expected, *kind = error.args
            self.words.fail(at, f"{expected}, not {''.join(kind)}{shown(self.tokens[at])}")

    def notice(self, at: int, reason: str, other: int = -1) -> None:
        self.notices.append(self.words.notice(at, reason, other))

    def where(self, unfiltered: bytes, instead: str = "") -> Where:
        """Take the filters of a block, or the keyword of one that has none."""
        name = self.keyword()
        if name == unfiltered:
            self.at += 1
            return EVERYWHERE
        if name not in _FILTERS:
            why = ": that is for the system file" if unfiltered == b"global" and name in (b"default", b"user") else ""
            if unfiltered == b"default" and name == b"global":
                why = ": that is for users' files (~/.oidentd.conf)"
            self.unexpected(f"{unfiltered.decode('ascii')}, to, from, fport or lport{instead}", why)
        where, seen = Where(), set()
        while name in _FILTERS:
            if name in seen:
                self.words.fail(self.at, f"each filter once expected, not a second {name.decode('ascii')}")
            seen.add(name)
            self.at += 1
            self.filter(where, name)
            name = self.keyword()
        return where

    def far_network(self, text: bytes) -> Network | HostName | Domain:
        """Return what ``to`` names. :raises ValueError: it names nothing; the text says what was expected."""
        return Domain.named(text) or self.names.network(text)

    def filter(self, where: Where, name: bytes) -> None:
        if name in (b"to", b"from"):
            at = self.at
            meaning = self.far_network if name == b"to" else self.names.network
            found = self.meaning(meaning, "an address, a network or a host name")
            if isinstance(found, HostName):
                self.hosts.setdefault(found, at)
            elif isinstance(found, Domain):
                self.ours.append((at, "a network by name"))
            elif b"/" in self.tokens[at] or (b":" in self.tokens[at] and len(found[0]) == 4):
                self.ours.append((at, "a network" if b"/" in self.tokens[at] else "an IPv4 address in this form"))
            setattr(where, "to" if name == b"to" else "from_", found)
            return
        at = self.at
        ports = self.meaning(self.names.ports, "a port, the name of a TCP service, or first:last")
        if not isinstance(ports, Unknown) and ports[0] > ports[1]:
            self.notice(at, f"no port is from {ports[0]} to {ports[1]}: this block never applies")
        setattr(where, name.decode("ascii"), ports)

    def statement(self, kind: bytes, at: int, refuse: int = 0) -> Statement:
        """Take the rest of a statement, whose keyword was the last word.

        :param at: the index of its first word.
        :param refuse: the most replies that it may have; 0: any number, of which the first `MAX_REPLIES` count.
        """
        if kind in NEW or kind in DEFAULTS:
            self.ours.append((at, kind.decode("ascii")))
        arguments: Arguments = ()
        if kind == b"reply":
            arguments = self.replies(refuse)
        elif kind == b"forward":
            place = self.at
            server = self.meaning(self.names.host, "a host")
            if isinstance(server, HostName):
                self.hosts.setdefault(server, place)
            arguments = server, self.meaning(self.names.port, "a port"), *self.proxy()
        elif kind == b"default_reply":
            arguments = (self.default_reply(),)
        elif kind == b"pseudonym":
            arguments = self.form()
        return Statement(kind.decode("ascii"), arguments, self.words, at)

    def proxy(self) -> tuple[str, ...]:
        """Take what may follow a server's host and port: the form of the header that says who asked."""
        word = self.keyword()
        if word not in _PROXIES:
            return ()
        self.ours.append((self.at, word.decode("ascii")))
        self.at += 1
        return (word.decode("ascii"),)

    def default_reply(self) -> bytes:
        at = self.at
        text = self.string("a reply")
        if not can_be_sent(text):
            self.words.fail(at, "a reply expected that is not empty, and holds no NUL, CR or LF")
        if len(text) > USUAL:
            self.notice(at, LONG)
        return text

    def form(self) -> tuple[str, ...]:
        """Take what may follow ``pseudonym``, each once, and return it in one order."""
        found: dict[str, str] = {}
        while (word := self.keyword()) in _FORMS or word.isdigit():
            kind = "length" if word.isdigit() else word.decode("ascii")
            length = int(word) if word.isdigit() and len(word) <= _DIGITS else 0
            if kind in found:
                self.words.fail(self.at, f"each word once expected, not a second {kind}")
            if kind == "length" and not SHORTEST <= length <= LONGEST:
                self.unexpected(f"a length from {SHORTEST} to {LONGEST}")
            if length > USUAL:
                self.notice(self.at, LONG)
            found[kind] = str(length) if length else kind
            self.at += 1
        return tuple(found[kind] for kind in ("per-asker", "daily", "length") if kind in found)

    def replies(self, refuse: int) -> tuple[bytes, ...]:
        replies = [self.string("a reply")]
        while self.tokens[self.at].lower() not in NO_STRINGS:
            if refuse and len(replies) == refuse:
                self.unexpected(f"at most {refuse} replies")
            replies.append(self.string("a reply"))
        return tuple(replies[: refuse or MAX_REPLIES])

    def look_for_slips(self) -> None:
        """Give notice of words, up to here, that were surely not meant."""
        from .slips import slips  # only where a person asks

        self.notices += slips(self.words, self.at)

    def unresolvable(self, resolve: Resolve) -> list[Notice]:
        """Give notice of host names that have no addresses, and return those. May block as the resolver does."""
        missing = []
        for name, at in self.hosts.items():
            found = resolve(name, 0)
            if isinstance(found, Unknown):
                missing.append(self.words.notice(at, f"whom this block is about is not known: {found.reason}"))
        self.notices += missing
        return missing

    def overridden(self, blocks: Sequence[Range | UserBlock]) -> None:
        """Give notice of blocks that never apply, because a later one takes whatever they match."""
        later: dict[tuple[object, ...], Range | UserBlock] = {}
        for block in reversed(blocks):
            by = later.get(EVERYWHERE.key) or later.get(block.where.key)
            if by is None:
                later[block.where.key] = block
            else:
                reason = "this block never applies: line {line}'s matches too, and the last wins"
                self.notice(block.at, reason, by.at)
