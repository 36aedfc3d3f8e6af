"""What does oidentd_masq.conf say of a machine behind this one?

    file  = *( line LF ) [ line ]
    line  = *blank [ host [ "/" mask ] 1*blank name 1*blank opsys [ 1*blank *octet ] / "#" *octet ]
    host  = address / host name
    mask  = number of bits / IPv4 mask
    name  = 1*512( any octet but blank and NUL )
    opsys = token [ "," token ]        ; with a character set
    blank = SP / HTAB / CR

The first line that matches counts. It is oidentd's format; what oidentd gets wrong in it is right here: a last line
without LF, /32 and /0, any line after a network, IPv6 networks, a comment after blanks, a broken line before others.
"""

from __future__ import annotations

from ..connection import ConfigError, IdentError, Unknown, can_be_sent, is_token, pack
from .blocks import HostName
from .names import Hosts, Names, Resolver
from .words import BYTE_ORDER_MARK, Notice, shown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .blocks import Resolve

    #: A word of a line, and its column.
    Word = tuple[bytes, int]

#: Octets that a file, and a name in it, may have.
MAX_SIZE, MAX_NAME = 1 << 20, 512

_BLANKS = b" \t\r"


class Entry:
    """A line that has a host: what is replied about it.

    ``host``: the address, as octets, or a `HostName`; ``name`` and ``opsys``: what is replied; ``wrong``: why nothing
    can be (a `ConfigError`), or None. ``path``, ``line``, ``column``: its place.
    """

    __slots__ = ("_mask", "column", "host", "line", "name", "opsys", "path", "wrong")

    def __init__(self, path: str, line: int, column: int, host: bytes | HostName, mask: bytes | None) -> None:
        """:param mask: what stands after the slash; None: there is none."""
        self.path = path
        self.line = line
        self.column = column
        self.host = host
        self.name, self.opsys = b"", ""
        self.wrong: ConfigError | None = None
        self._mask = mask

    @property
    def rule(self) -> str:
        """The place as ``path:line``."""
        return f"{self.path}:{self.line}"

    def is_about(self, address: bytes, resolve: Resolve) -> bool | Unknown:
        """Return whether it is about an address, of 4 or 16 octets. May block as the resolver does."""
        hosts: tuple[bytes, ...] | Unknown
        hosts = resolve(self.host, len(address)) if isinstance(self.host, HostName) else (self.host,)
        if isinstance(hosts, Unknown):
            return hosts
        mask = self.mask(8 * len(address))
        wanted = int.from_bytes(address, "big") & mask
        return any(len(host) == len(address) and int.from_bytes(host, "big") & mask == wanted for host in hosts)

    def mask(self, bits: int) -> int:
        """Return the mask for addresses of so many bits: of a wrong entry, or one of the other family, all of them."""
        try:
            return _mask(self._mask, bits)
        except ValueError:
            return (1 << bits) - 1


class Entries:
    """The file, for as long as a process serves. It is read anew for each question: it may have changed."""

    def __init__(self, path: str, required: bool) -> None:
        """:param required: whether the file must be there."""
        self.path = path
        self.required = required
        #: The addresses of host names in it; for how long they hold, `Hosts` says.
        self._hosts = Hosts()

    def find(self, host: str) -> Entry | None:
        """Return the entry for the machine at an address; None: there is none. May block as the resolver does.

        :raises IdentError: the file can't be read, the entry is wrong, or which one counts can't be found out.
        """
        resolver = Resolver()
        try:
            found = entries(read(self.path, self.required), self.path)
        except ConfigError as error:
            raise IdentError(str(error)) from None
        return first(found, host, lambda name, octets: self._hosts.addresses(name, octets, resolver.addresses))


def read(path: str, required: bool) -> bytes:
    """Return what the file holds; ``b""``: it is not there, and need not be. :raises ConfigError: it can't be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        # ENOENT: it is not there.
        if not required:
            return b""
        raise ConfigError(path, 0, 0, "no such file") from None
    except OSError as error:
        # EACCES, EISDIR, EIO ...: what is replied about whom is not known.
        raise ConfigError(path, 0, 0, error.strerror or str(error)) from None
    if len(data) > MAX_SIZE:
        raise ConfigError(path, 0, 0, f"more than {MAX_SIZE} octets")
    return data


def first(found: Iterator[Entry | ConfigError], host: str, resolve: Resolve) -> Entry | None:
    """Return the first entry that is about an address; None: none is. For the exceptions see `Entries.find`."""
    address = pack(host.partition("%")[0])[0]
    #: Entries that may be about it, and why that is not known.
    doubtful: list[tuple[Entry, Unknown]] = []
    for entry in found:
        if isinstance(entry, ConfigError):
            continue
        is_about = entry.is_about(address, resolve)
        if isinstance(is_about, Unknown):
            doubtful.append((entry, is_about))
        elif is_about:
            if entry.wrong is not None:
                raise IdentError(str(entry.wrong))
            for other, doubt in doubtful:
                if other.wrong is not None or (other.name, other.opsys) != (entry.name, entry.opsys):
                    raise IdentError(f"{other.rule} may be about {host}: {doubt.reason}")
            return entry
    for other, doubt in doubtful:
        raise IdentError(f"{other.rule} may be about {host}: {doubt.reason}")
    return None


def entries(data: bytes, path: str) -> Iterator[Entry | ConfigError]:
    """Yield what each line of a file says: an entry, or why it is about no host at all. Never blocks."""
    if data.startswith(BYTE_ORDER_MARK):
        data = b"   " + data[3:]
    for number, line in enumerate(data.split(b"\n"), 1):
        words = _words(line)
        if words:
            yield _entry(words, path, number, len(line) + 1)


def _words(line: bytes) -> list[Word]:
    """Return the words of a line with their columns; none: it is empty, or a comment."""
    found = []
    at = 0
    for word in line.translate(bytes.maketrans(_BLANKS, b"   ")).split(b" "):
        if word:
            found.append((word, at + 1))
        at += len(word) + 1
    return [] if found and found[0][0].startswith(b"#") else found


def _entry(words: list[Word], path: str, line: int, end: int) -> Entry | ConfigError:
    """Return what a line says. :param end: the column after its last octet."""

    def error(expected: str, word: bytes, column: int) -> ConfigError:
        there = shown(word) if word else "the end of the line"
        return ConfigError(path, line, column, f"{expected}, not {there}")

    (first_word, column), rest = words[0], [*words[1:3], (b"", end), (b"", end)]
    text, slash, mask = first_word.partition(b"/")
    try:
        named = Names.host(text)
        host = named if isinstance(named, HostName) else pack(named)[0]
        if b"%" in text:
            raise ValueError("an address without a scope (%) expected")
    except ValueError as wrong:
        return error(str(wrong.args[0]), text, column)
    if slash and isinstance(host, bytes) and len(host) == 4 and b":" in text and mask.isdigit():
        # An IPv4-mapped IPv6 network.
        mask = b"%d" % (int(mask[:4]) - 96)
    entry = Entry(path, line, column, host, mask if slash else None)
    (entry.name, name_at), (opsys, opsys_at) = rest[:2]
    try:
        if slash:
            _check_mask(mask, host)
    except ValueError as wrong:
        entry.wrong = error(str(wrong), first_word.partition(b"/")[2] or first_word, column + len(text) + 1)
        return entry
    if not can_be_sent(entry.name) or len(entry.name) > MAX_NAME:
        entry.wrong = error(f"a name of at most {MAX_NAME} octets expected", entry.name, name_at)
    elif not all(map(is_token, parts := opsys.decode("latin-1").split(","))) or len(parts) > 2:
        entry.wrong = error("an operating system expected, with a character set after a comma", opsys, opsys_at)
    entry.opsys = opsys.decode("latin-1")
    return entry


def _check_mask(mask: bytes, host: bytes | HostName) -> None:
    """:raises ValueError: a host can't have this mask."""
    if isinstance(host, bytes):
        _mask(mask, 8 * len(host))
    elif b"." in mask:
        _mask(mask, 32)
    else:
        _mask(mask, 128)


def _mask(mask: bytes | None, bits: int) -> int:
    """Return a mask for addresses of so many bits. :raises ValueError: it is none; the text says what was expected."""
    if mask is None:
        return (1 << bits) - 1
    if mask.isdigit() and len(mask) <= 3 and int(mask) <= bits:
        return (1 << bits) - (1 << (bits - int(mask)))
    if bits == 32 and mask.count(b".") == 3:
        try:
            return int.from_bytes(pack(mask.decode("latin-1"))[0], "big")
        except ValueError:
            pass
    what = " or an IPv4 mask" if bits == 32 else ""
    raise ValueError(f"a number of bits from 0 to {bits}{what} expected after the slash")


def check(path: str, required: bool) -> tuple[int, list[ConfigError], list[Notice]]:
    """Return how many entries a file has, what is wrong in it, and what its author surely did not mean.

    May block for `names.NAME_SECONDS` on host names.
    """
    try:
        data = read(path, required)
    except ConfigError as error:
        return 0, [error], []
    count, errors, notices = 0, [], []
    resolver = Resolver()
    seen: dict[tuple[int, int], dict[int, int]] = {}
    lines = data.split(b"\n")
    for entry in entries(data, path):
        wrong = entry if isinstance(entry, ConfigError) else entry.wrong
        if wrong is not None:
            errors.append(wrong)
        if isinstance(entry, ConfigError):
            continue
        count += 1
        found = [_extra(lines[entry.line - 1])]
        if isinstance(entry.host, HostName):
            addresses = resolver.addresses(entry.host)
            if isinstance(addresses, Unknown):
                found.append((entry.column, f"whom this line is about is not known: {addresses.reason}"))
        else:
            found.append((entry.column, _overridden(entry, seen)))
        notices += [_notice(path, entry.line, column, reason) for column, reason in found if reason]
    return count, errors, notices


def _extra(line: bytes) -> tuple[int, str]:
    """Return the place of words that don't count, and what there is to say about them, if anything."""
    for word, column in _words(line)[3:4]:
        if not word.startswith(b"#"):
            return column, f"from {shown(word)} on nothing counts: a name, and an operating system, is one word"
    return 0, ""


def _overridden(entry: Entry, seen: dict[tuple[int, int], dict[int, int]]) -> str:
    """Return that an earlier line is about whatever this one is about, or ``""``.

    :param seen: by length of the address and mask: by network, the line that it was on.
    """
    assert isinstance(entry.host, bytes)
    bits = 8 * len(entry.host)
    host, mask = int.from_bytes(entry.host, "big"), entry.mask(bits)
    for (length, other), networks in seen.items():
        if length == bits and other & mask == other and host & other in networks:
            return f"this line never counts: line {networks[host & other]} is about this, too, and the first one counts"
    seen.setdefault((bits, mask), {}).setdefault(host & mask, entry.line)
    return ""


def _notice(path: str, line: int, column: int, reason: str) -> Notice:
    return Notice(path, lambda: (line, column), reason)
