"""What may stand where in the system file and in a user's file?

The language is oidentd's: the system file says what users may do, a user's file what is sent for its owner.

    system-file   = *( default-block / user-block )
    default-block = "default" "{" 1*range "}"
    user-block    = "user" STRING "{" 1*range "}"            ; a login name, or a uid
    range         = ( "default" / 1*filter ) "{" 1*line "}"
    line          = ( "allow" / "deny" ) capability
                  / "default_hide" / "default_reply" STRING
                  / "force" ( simple / pseudonym / forward / "reply" 1*255STRING )

    user-file     = *( ( "global" / 1*filter ) "{" statement "}" )
    statement     = "hide" / "random" / "random_numeric" / "numeric" / pseudonym / forward / "reply" 1*STRING

    forward       = "forward" STRING STRING [ "proxy" / "proxy2" ]  ; a host, a port, and who asks before the query
    filter        = ( "to" / "from" / "fport" / "lport" ) STRING  ; each at most once; to takes ".domain" and "*.domain"
    capability    = simple / "forward" / "pseudonym" / "noident" / "fakeid"
    pseudonym     = "pseudonym" *( "per-asker" / "daily" / 1*DIGIT )    ; each at most once; a length from 7 to 32
    simple        = "hide" / "random" / "random_numeric" / "numeric" / "spoof" / "spoof_all" / "spoof_privport"

STRING is a word or a quoted string, but not a keyword; keywords have no quotes, and any case.
"""

from __future__ import annotations

from ..connection import ConfigError, Unknown
from ..users import database
from ..users.names import LAST_UID
from .blocks import EVERYWHERE, Model, Range, Section, System, UserBlock
from .names import Resolver
from .parser import BLOCKS, CAPABILITIES, DEFAULTS, NEW, NO_STRINGS, STATEMENTS, Parser
from .words import BYTE_ORDER_MARK, Notice, shown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .blocks import Statement, Uids
    from .names import Names

    AskUids = Callable[[Iterable[bytes]], Uids]

#: Replies in one line of the system file; oidentd refuses more.
MAX_FORCED_REPLIES = 255

#: User blocks that are compared with one that was read before, all at once; and the words after the name that tell with
#: which one ("{ default { allow spoof"): none of them is a reply.
_TOGETHER, _TELLING = 64, 5

_SPOOF, _SPOOF_MORE = CAPABILITIES[b"spoof"], CAPABILITIES[b"spoof_all"] | CAPABILITIES[b"spoof_privport"]
_PSEUDONYM = CAPABILITIES[b"pseudonym"]

_NOIDENT, _FAKEID = CAPABILITIES[b"noident"], CAPABILITIES[b"fakeid"]

#: Those that oidentd does not have.
_ONLY_OURS = sum(CAPABILITIES[word] for word in NEW)

#: What is no use without another capability, by its bit: the name of that one, and its bit.
_USELESS = {
    **{CAPABILITIES[word]: ("spoof", _SPOOF) for word in (b"spoof_all", b"spoof_privport", b"fakeid")},
    CAPABILITIES[b"noident"]: ("hide", CAPABILITIES[b"hide"]),
}

# uid = [ 1*blank ] [ "+" / "-" ] 1*DIGIT     ; strtol(3)'s, as oidentd reads it
UID = rb"[ \t\n\v\f\r]*([+-]?)0*([0-9]{1,10})"

#: What is meant as a number, and nothing: no login name (useradd(8)), whether or not a uid can be that.
ANY_NUMBER = rb"|[ \t\n\v\f\r]*[+-]?[0-9]+"


def parse_system(
    data: bytes, path: str, uids: AskUids = database.uids, notices: list[Notice] | None = None
) -> System:
    """Return what a system file says.

    May block as the name service does, and with ``notices`` for `names.NAME_SECONDS` on host names.

    :param data: the file's octets, in no particular encoding.
    :param path: its name, for messages.
    :param uids: finds the uids of login names.
    :param notices: takes what its author surely did not mean, up to an error, and which hosts there are not.
    :raises ConfigError: at the first thing that does not parse.
    """
    file = _SystemFile(data, path)
    try:
        system = file.parse(uids)
        if notices is not None:
            resolver = Resolver()
            system.missing += file.unresolvable(
                lambda name, octets: system.hosts.addresses(name, octets, resolver.addresses)
            )
        return system
    finally:
        if notices is not None:
            file.look_for_slips()
            notices += file.notices


def parse_user(
    data: bytes, path: str, notices: list[Notice] | None = None, names: Names | None = None
) -> list[UserBlock]:
    """Return the blocks of a user's file, in its order.

    May block for `names.NAME_SECONDS` on names of services, and with ``notices`` on host names.

    :param data: the file's octets, in no particular encoding.
    :param path: its name, for messages.
    :param notices: takes what its author surely did not mean, up to an error, and which hosts there are not.
    :param names: remembers and bounds what the name service is asked, where a file is read several times.
    :raises ConfigError: at the first thing that does not parse.
    """
    file = _UserFile(data, path, names)
    try:
        blocks = file.parse()
        if notices is not None:
            file.overridden(blocks)
            file.unresolvable(Resolver().addresses)
        return blocks
    finally:
        if notices is not None:
            file.look_for_slips()
            notices += file.notices


def only_ours(data: bytes, path: str, of_user: bool) -> list[Notice]:
    """Return what in a file oidentd does not understand, up to an error: it refuses the whole file for each of these.

    :param of_user: whether it is a user's file. :param data, path: see `parse_system`.
    """
    file = _UserFile(data, path) if of_user else _SystemFile(data, path)
    try:
        if isinstance(file, _UserFile):
            file.parse()
        else:
            file.takes_each = True
            # Whose blocks they are does not matter.
            file.parse(lambda names: dict.fromkeys(names))
    except ConfigError:
        pass
    found = [file.words.notice(at, f"only identd understands this: {what}") for at, what in sorted(file.ours)]
    # In a comment it does no harm.
    lines = (line.partition(b"#")[0].find(b"\r") + 1 for line in data.split(b"\n"))
    place = next(((number, column) for number, column in enumerate(lines, 1) if column), None)
    if place is not None:
        found.insert(0, Notice(path, lambda: place, "only identd understands this: a CR at a line's end"))
    if data.startswith(BYTE_ORDER_MARK):
        found.insert(0, Notice(path, lambda: (1, 1), "only identd understands this: a byte order mark"))
    return found


class _UserFile(Parser):
    """A user's file."""

    def parse(self) -> list[UserBlock]:
        blocks = []
        while self.tokens[self.at]:
            at = self.at
            where = self.where(b"global")
            self.expect(b"{")
            kind = self.keyword()
            if kind not in STATEMENTS:
                why = ": that is for the system file" if kind in (b"allow", b"deny", b"force") else ""
                self.unexpected("hide, random, random_numeric, numeric, pseudonym, reply or forward", why)
            self.at += 1
            blocks.append(UserBlock(where, self.statement(kind, self.at - 1), self.words, at))
            self.expect(b"}")
        return blocks


class _SystemFile(Parser):
    """A system file. ``inherited``: the capabilities that a block begins with, from here on, and ``instead``."""

    def __init__(self, data: bytes, path: str) -> None:
        super().__init__(data, path)
        self.system = System(path)
        self.system.notices = self.notices
        self.inherited = 0
        #: Whether each block is taken for itself, though another one says the same.
        self.takes_each = False
        #: What such a block has in place of the login name.
        self.instead: Statement | None = None
        self.default_at = -1
        self.sets: dict[int, frozenset[str]] = {}
        #: User blocks by the words after the name, of which the last one that begins with these is kept.
        self.models: dict[tuple[bytes, ...], Model] = {}

    def parse(self, uids: AskUids) -> System:
        try:
            while word := self.keyword():
                if word == b"user":
                    self.user_block()
                elif word == b"default":
                    self.default_block()
                else:
                    why = ": that is for users' files (~/.oidentd.conf)" if self.keyword() in BLOCKS else ""
                    self.unexpected("default or user", why)
        except ConfigError:
            # Two blocks further up may be one user's, and the first error counts.
            self.assign(uids)
            raise
        self.assign(uids)
        return self.system

    def assign(self, uids: AskUids) -> None:
        """Give each user block to its uid; all names are looked up at once, as each costs a read otherwise."""
        system = self.system
        found = uids([section.name for section in system.sections])
        for first, second in system.assign(found):
            uid = found[second.name]
            uid = second.number if uid is None else uid
            reason = f"one block for each user expected, but uid {uid} has one at line {first.ranges[0].line}"
            # Two names may become one user's at any time, and that is no reason to be silent about the others.
            if first.name == second.name or first.number >= 0 or second.number >= 0:
                self.words.fail(second.at, reason)
            self.missing(second, f"{reason}: nothing is replied about this user")
        for section in system.sections:
            uid = found[section.name]
            if isinstance(uid, Unknown):
                self.missing(section, f"who {shown(self.tokens[section.at])} is can't be found out: {uid.reason}")
            elif uid is None and section.number < 0:
                self.missing(section, f"there is no user {shown(self.tokens[section.at])}: this block has no effect")

    def missing(self, section: Section, reason: str) -> None:
        self.system.missing.append(self.words.notice(section.at, reason))
        self.notices.append(self.system.missing[-1])

    def user_block(self) -> None:
        begin = self.at
        model = self.models.get(self.beginning())
        if model is not None and self.takes_alike(model):
            return
        self.at += 1
        at, number = self.at, -1
        name = self.string("a login name or a uid")
        if name.isdigit() or not _is_plain(name):
            name = name.partition(b"\0")[0]
            number = number_of(name)
            if number < 0 and is_any_number(name):
                self.words.fail(at, f"a login name or a uid expected, not {shown(self.tokens[at])}")
        noticed = len(self.notices)
        section = Section(name, number, self.ranges(False), self.words, at)
        self.system.sections.append(section)
        # Each that is worth a notice has one of its own.
        if len(self.notices) == noticed and not self.takes_each:
            end, self.at = self.at, begin
            self.models[self.beginning()] = Model(section, self.tokens[begin:end])
            self.at = end

    def beginning(self) -> tuple[bytes, ...]:
        """Return the words by which the user block that begins here is told from others."""
        return tuple(self.tokens[self.at + 2 : self.at + 2 + _TELLING])

    def takes_alike(self, model: Model) -> bool:
        """Take the user blocks that come here and say the same as one that was read; return whether there was one."""
        size, together, none = len(model.pattern), 1, self.at
        while True:
            names = self.names_alike(model, together)
            at = self.at + 1
            for name in names:
                number = int(name) if name.isdigit() else -1
                self.system.sections.append(Section(name, number, None, self.words, at, model))
                at += size
            self.at = at - 1
            if not names and together == 1:
                return self.at != none
            together = min(2 * together, _TOGETHER) if names else 1

    def names_alike(self, model: Model, together: int) -> list[bytes]:
        """Return the names in the next so many blocks, if each is a user's, says the same, and has a plain name."""
        size = len(model.pattern)
        words = self.tokens[self.at : self.at + size * together]
        names = words[1::size]
        words[1::size] = [b""] * len(names)
        replies = []
        for at in model.free:
            found = words[at::size]
            words[at::size] = [b""] * len(found)
            replies += found
        if words != model.pattern * together or not all(map(_is_text, replies)):
            return []
        if not all(map(bytes.isalnum, names)) or not NO_STRINGS.isdisjoint(map(bytes.lower, names)):
            if not all(map(_is_text, names)):
                return []
            names = [name.strip(b'"') for name in names]
        return names if all(map(_is_plain, names)) else []

    def default_block(self) -> None:
        at, before = self.at, self.inherited
        self.at += 1
        self.system.default = self.ranges(True)
        if self.default_at >= 0:
            reason = "a second default block: the ranges of the first, at line {line}, don't count any more"
            self.notice(at, reason, self.default_at)
        self.default_at = at
        self.models.clear()  # they have inherited something else
        if self.system.sections and self.inherited & ~before:
            self.notice(at, "the user blocks above this default block inherit nothing from it")

    def ranges(self, of_default: bool) -> list[Range]:
        self.expect(b"{")
        ranges: list[Range] = []
        instead = ""
        while not ranges or self.tokens[self.at] != b"}":
            at = self.at
            where = self.where(b"default", instead)
            self.expect(b"{")
            bits, force, default = self.lines(of_default and where is EVERYWHERE)
            if of_default and where is EVERYWHERE:
                self.inherited, self.instead = bits, default
            if bits not in self.sets:
                self.sets[bits] = frozenset(name.decode("ascii") for name, bit in CAPABILITIES.items() if bits & bit)
            ranges.append(Range(where, self.sets[bits], force, self.words, at, default))
            instead = " or }"
        self.at += 1
        if len(ranges) > 1:
            self.overridden(ranges)
        return ranges

    def lines(self, inherits: bool) -> tuple[int, Statement | None, Statement | None]:
        """Take the lines of a range up to its end; return its capabilities, what it forces, and its ``instead``."""
        bits, force, instead = self.inherited, None, self.instead
        useless: dict[tuple[str, int], int] = {}
        first = self.at
        while self.at == first or self.tokens[self.at] != b"}":
            at, word = self.at, self.keyword()
            self.at += 1
            if word == b"force":
                if at != first:
                    self.notice(at, "this force makes the lines above it in its block void")
                bits, force = self.force()
                useless.clear()
                continue
            if word in DEFAULTS:
                instead, bit = self.statement(word, at), 0
            else:
                bit = self.capability(word, at, "" if at == first else ", or },")
            if force is not None:
                self.notice(at, "this line cancels the force above it, whose capability is granted instead")
                force = None
            if word == b"allow":
                bits |= bit
                self.system.needs_key |= bool(bit & _PSEUDONYM)
                self.system.older |= bit in (_NOIDENT, _FAKEID)
                if bit in _USELESS:
                    useless[_USELESS[bit]] = at
            else:
                bits &= ~bit
        self.at += 1
        for (name, without), at in () if inherits else useless.items():
            if not bits & without:
                self.notice(at, f"this has no effect without the capability {name}")
        return (0, force, None) if force else (bits, None, instead)

    def capability(self, word: bytes, at: int, or_else: str) -> int:
        """Take the capability of an ``allow`` or ``deny``. :param or_else: what else might have stood here."""
        if word not in (b"allow", b"deny"):
            self.at = at
            default = "default_hide or default_reply" if word.startswith(b"default") else ""
            why = ": alone, that is for users' files (~/.oidentd.conf)" if word in STATEMENTS else ""
            self.unexpected((default or "allow, deny or force") + or_else, why)
        bit = CAPABILITIES.get(self.keyword(), 0)
        if not bit:
            why = " (replies are allowed by spoof)" if self.keyword() == b"reply" else ""
            self.unexpected(", ".join(name.decode("ascii") for name in CAPABILITIES), why)
        if CAPABILITIES[self.keyword()] & _ONLY_OURS:
            self.ours.append((at, self.keyword().decode("ascii")))
        self.at += 1
        return bit

    def force(self) -> tuple[int, Statement]:
        kind = self.keyword()
        if kind != b"reply" and (kind not in CAPABILITIES or CAPABILITIES[kind] in (_NOIDENT, _FAKEID)):
            self.unexpected("reply, forward, hide, random, random_numeric, numeric, pseudonym or spoof")
        at, bit = self.at - 1, CAPABILITIES.get(kind, 0)
        self.at += 1
        if bit & (_SPOOF | _SPOOF_MORE):
            self.notice(at, "the login name is forced by this, whatever the user's file says")
        self.system.needs_key |= bool(bit & _PSEUDONYM)
        return bit, self.statement(kind, at, MAX_FORCED_REPLIES)


def _is_plain(name: bytes) -> bool:
    """Return whether a name surely has one meaning: letters and digits, "-", "_", and "."; or a uid of few digits."""
    if name.isalnum():
        return len(name) < 10 or not name.isdigit()
    return name[:1] not in (b"+", b"-") and name.translate(None, b"-_.").isalnum()


def _is_text(token: bytes) -> bool:
    """Return whether a token surely is a `STRING` that stands for itself, perhaps in quotes."""
    if token[:1] == b'"':
        return len(token) > 1 and token[-1:] == b'"' and b"\\" not in token and b"\0" not in token
    return token.isalnum() and token.lower() not in NO_STRINGS


def number_of(text: bytes) -> int:
    """Return a decimal number with its sign, which is a uid if it is not below 0.

    :return: -1 where the text is no number, has more than ten digits, or means more than `LAST_UID`.
    """
    sign, digits = _signed(text)
    digits = digits.lstrip(b"0") or digits[:1]
    uid = int(sign + digits) if digits.isdigit() and len(digits) <= 10 else -1
    return uid if uid <= LAST_UID else -1


def is_any_number(text: bytes) -> bool:
    """Return whether a text is `ANY_NUMBER`."""
    return not text or _signed(text)[1].isdigit()


def _signed(text: bytes) -> tuple[bytes, bytes]:
    """Return the sign of a number, if it has one, and the rest."""
    text = text.lstrip(b" \t\n\v\f\r")
    return (text[:1], text[1:]) if text[:1] in (b"+", b"-") else (b"", text)
