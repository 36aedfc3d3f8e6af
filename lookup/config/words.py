"""Which words are in a configuration file, and where?"""

from __future__ import annotations

from _bisect import bisect_left, bisect_right  # `bisect` has nothing else, and is a module more

from ..connection import ConfigError

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    Place = tuple[int, int]

#: Octets from which a piece of a file is split off at the next line end. Only the piece with a word has to be
#: read again to find the word's line, and smaller pieces cost more calls.
_PIECE = 8192

#: Places that are found by counting lines. For each of thousands, that would take as long as the file is.
_FEW = 16

#: What some editors put before UTF-8 text.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# file    = *( blank / comment / token )
# blank   = %x20 / %x09 / %x0A / %x0D
# token   = "{" / "}" / string / word
# string  = DQUOTE *( any octet but DQUOTE "\" LF  /  "\" any octet but LF ) DQUOTE
# comment = "#" *( any octet but LF )  /  "/*" any octets up to the first "*/", or to the end of the file
# word    = 1*( any octet but blank "{" "}" ), where none of the others begins
# So a broken string and a lone slash are words, which `Words.text` refuses. As an expression, whose last alternative
# takes the end (a test compares what is taken; `re` itself takes as long to import as half of a query):
TOKEN = (
    rb"[ \t\r\n]*("
    rb"[{}]"
    rb'|"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"'
    rb"|#[^\n]*"
    rb"|/\*(?s:.*?\*/|.*)"
    rb"|[^ \t\r\n{}]*)"
)
_BLANKS = b" \t\r\n"
_AFTER_A_WORD = b" \t\r\n{}"
#: Nothing, too: where a part begins, and between two strings.
_BEFORE_A_WORD = (b"", b" ", b"\t", b"\r", b"\n", b"{", b"}")

# escape = "\" ( 1*3( "0"-"7" ) / ( "x" / "X" ) 1*2HEXDIG / any octet but LF )
ESCAPE = rb"\\(?:([0-7]{1,3})|[xX]([0-9A-Fa-f]{1,2})|(?s:(.)))"

#: The letters that stand for a control character after a backslash (C's, without \e, as oidentd 3 has them).
_CONTROLS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}

_BROKEN_STRING = "a closing quote expected before the end of the line"


class Notice:
    """Something in a file that parses, and that its author surely did not mean.

    ``path``, ``line``, ``column`` and ``reason`` as `ConfigError` has them. Places are found when they are asked for:
    notices are taken in every parse, and shown in few.
    """

    __slots__ = ("_other", "_place", "_reason", "path")

    def __init__(
        self, path: str, place: Callable[[], Place], reason: str, other: Callable[[], Place] | None = None
    ) -> None:
        """:param other: the place of something else, whose line the reason has as ``{line}``."""
        self.path = path
        self._place = place
        self._reason = reason
        self._other = other

    @property
    def reason(self) -> str:
        return self._reason.format(line=self._other()[0]) if self._other else self._reason

    @property
    def line(self) -> int:
        return self._place()[0]

    @property
    def column(self) -> int:
        return self._place()[1]

    def __str__(self) -> str:
        line, column = self._place()
        return f"{self.path}:{line}:{column}: {self.reason}"

    __repr__ = __str__


class Words:
    """A file's words: braces, bare words, and strings still in their quotes, in order.

    ``tokens`` ends with ``b""``; ``notices``: what looks wrong with comments. Lines are found only when
    they are asked for, as most never are.
    """

    __slots__ = ("_asked", "_data", "_ends", "_line_ends", "_offsets", "_pieces", "notices", "path", "tokens")

    def __init__(self, data: bytes, path: str) -> None:
        self.path = path
        self._data = data
        self.tokens: list[bytes] = []
        #: Where each piece begins, and how many tokens there are up to its end.
        self._pieces: list[int] = []
        self._ends: list[int] = []
        #: Where each token of a piece begins, for the pieces that were asked about.
        self._offsets: dict[int, list[int]] = {}
        #: How many places were asked for, and, once there are many, where each line ends.
        self._asked = 0
        self._line_ends: list[int] | None = None
        self.notices: list[Notice] = []
        begin = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
        while begin < len(data):
            begin = self._take(begin)
        self.tokens.append(b"")

    def _take(self, begin: int) -> int:
        """Take the piece that begins here; return where the next one does."""
        data, closed = self._data, begin
        if data.startswith(b"/*", begin):
            closed = data.find(b"*/", begin + 2)
        end = len(data) if closed < 0 else data.find(b"\n", max(closed, begin + _PIECE)) + 1 or len(data)
        found = tokens(data, begin, end)
        last = found[-1] if found else b""
        if last.startswith(b"/*") and (len(last) < 4 or not last.endswith(b"*/")):
            # Only such a comment spans lines: the next piece begins with it.
            if end < len(data):
                end -= len(last)
            else:
                reason = "this comment has no end (*/): all that follows it is ignored"
                self.notices.append(Notice(self.path, _later(self._place, end - len(last)), reason))
        if last.startswith(b"/*") or data.find(b"#", begin, end) >= 0 or data.find(b"/*", begin, end) >= 0:
            found = [token for token in found if not token.startswith((b"#", b"/*"))]
        self.tokens += found
        self._pieces.append(begin)
        self._ends.append(len(self.tokens))
        return end

    def place(self, index: int, octets: int = 0) -> Place:
        """Return line and column of a token, or of the octet that many octets into it."""
        return self._place(self._offset(index) + octets)

    def _place(self, offset: int) -> Place:
        self._asked += 1
        if self._asked <= _FEW:
            return self._data.count(b"\n", 0, offset) + 1, offset - self._data.rfind(b"\n", 0, offset)
        if self._line_ends is None:
            self._line_ends = list(_line_ends(self._data))
        before = bisect_left(self._line_ends, offset)
        return before + 1, offset - (self._line_ends[before - 1] if before else -1)

    def _offset(self, index: int) -> int:
        if index >= len(self.tokens) - 1:
            return len(self._data)
        piece = bisect_right(self._ends, index)
        if piece not in self._offsets:
            begin = self._pieces[piece]
            end = self._pieces[piece + 1] if piece + 1 < len(self._pieces) else len(self._data)
            self._offsets[piece] = []
            for token in tokens(self._data, begin, end):
                # Nothing but blanks is between two of them.
                begin = self._data.find(token, begin)
                if not token.startswith((b"#", b"/*")):
                    self._offsets[piece].append(begin)
                begin += len(token)
        return self._offsets[piece][index - (self._ends[piece - 1] if piece else 0)]

    def notice(self, index: int, reason: str, other: int = -1) -> Notice:
        """Return a notice about a token; the reason has the line of another one as ``{line}``."""
        return Notice(self.path, _later(self.place, index), reason, _later(self.place, other) if other >= 0 else None)

    def fail(self, index: int, reason: str, octets: int = 0) -> NoReturn:
        """Raise the error that a token can't be taken; a broken string says so whatever was expected."""
        token = self.tokens[index]
        if token.startswith(b'"') and not _is_string(token):
            reason = _BROKEN_STRING
        raise ConfigError(self.path, *self.place(index, octets), reason)

    def text(self, index: int) -> bytes:
        """Return what a bare word or a string stands for, NULs included.

        :raises ConfigError: the string is broken, or the word a lone slash.
        """
        token = self.tokens[index]
        if token.startswith(b"/") and token[1:2] in b" \t\r\n{}*":
            self.fail(index, "a word expected, not a slash alone")
        if not token.startswith(b'"'):
            return token
        if not _is_string(token):
            self.fail(index, _BROKEN_STRING)
        if b"\\" not in token:
            return token[1:-1]

        import re  # few strings have escapes

        def unescape(escape: re.Match[bytes]) -> bytes:
            octal, hexadecimal, other = escape.groups()
            if other:
                if other in b"89":
                    self.fail(index, "an octal digit (0-7) expected after the backslash", escape.start())
                return _CONTROLS.get(other, other)
            value = int(octal, 8) if octal else int(hexadecimal, 16)
            if value > 0xFF:
                self.fail(index, "an octal escape of at most \\377 expected", escape.start())
            return bytes((value,))

        return re.sub(ESCAPE, unescape, token)[1:-1]


def _is_string(token: bytes) -> bool:
    """Return whether a token that begins with a quote is a whole string."""
    if len(token) < 2 or not token.endswith(b'"'):
        return False
    # Without escapes, a broken one has no second quote.
    return b"\\" not in token or _string_end(token, 0, len(token)) == len(token)


def tokens(data: bytes, begin: int, end: int) -> list[bytes]:
    """Return the tokens of a part of a file, comments included: what `TOKEN` takes there, up to the end."""
    found = _at_once(data[begin:end])
    if found is not None:
        return found
    found = []
    while begin < end:
        line_end = data.find(b"\n", begin, end) + 1 or end
        line = _at_once(data[begin:line_end])
        if line is not None:
            found += line
            begin = line_end
            continue
        while begin < line_end:
            if data[begin] in _BLANKS:
                begin += 1
                continue
            stop = _token_end(data, begin, end)
            found.append(data[begin:stop])
            begin = stop
    return found


def _at_once(part: bytes) -> list[bytes] | None:
    """Return the tokens of what has no comments, or lines and nothing but their comments, or strings without escapes.

    None: that is not sure. Most files, and most lines of others, are such.
    """
    if b"/*" in part or b"\v" in part or b"\f" in part:
        return None
    if b'"' in part:
        return None if b"#" in part or b"\\" in part else _with_strings(part.split(b'"'))
    if b"#" not in part:
        return _without_strings(part)
    found: list[bytes] = []
    for line in part.split(b"\n"):
        words, sign, comment = line.partition(b"#")
        if sign and words[-1:] not in _BEFORE_A_WORD:
            return None
        found += _without_strings(words)
        if sign:
            found.append(sign + comment)
    return found


def _with_strings(pieces: list[bytes]) -> list[bytes] | None:
    """Return the tokens of what is split at each quote; None: a quote is in a word, or a string is broken."""
    found: list[bytes] = []
    last = pieces.pop()
    between = iter(pieces)
    for words, string in zip(between, between):
        if words[-1:] not in _BEFORE_A_WORD or b"\n" in string:
            return None
        found += _without_strings(words)
        found.append(b'"%b"' % string)
    return None if len(pieces) % 2 else found + _without_strings(last)


def _without_strings(part: bytes) -> list[bytes]:
    return part.replace(b"{", b" { ").replace(b"}", b" } ").split()


def _token_end(data: bytes, begin: int, end: int) -> int:
    """Return where a token ends that begins here."""
    first = data[begin : begin + 1]
    if first in (b"{", b"}"):
        return begin + 1
    if first == b"#":
        stop = data.find(b"\n", begin, end)
        return end if stop < 0 else stop
    if data.startswith(b"/*", begin, end):
        stop = data.find(b"*/", begin + 2, end)
        return end if stop < 0 else stop + 2
    if first == b'"' and (stop := _string_end(data, begin, end)):
        return stop
    stop = begin + 1
    while stop < end and data[stop] not in _AFTER_A_WORD:
        stop += 1
    return stop


def _string_end(data: bytes, begin: int, end: int) -> int:
    """Return where a string ends whose first quote is here; 0: it is broken."""
    at = begin + 1
    while True:
        quote = data.find(b'"', at, end)
        if quote < 0 or data.find(b"\n", at, quote) >= 0:
            return 0
        escape = data.find(b"\\", at, quote)
        if escape < 0:
            return quote + 1
        at = escape + 2
        if data.startswith(b"\n", at - 1):
            return 0


def _line_ends(data: bytes) -> Iterator[int]:
    at = data.find(b"\n")
    while at >= 0:
        yield at
        at = data.find(b"\n", at + 1)


def _later(place: Callable[[int], Place], argument: int) -> Callable[[], Place]:
    return lambda: place(argument)


def shown(token: bytes) -> str:
    """Return a token for a message: one line, at most 40 characters of it."""
    if not token:
        return "the end of the file"
    text = ascii(token[:40].decode("latin-1"))[1:-1].replace("\\'", "'")
    return text + ("..." if len(token) > 40 else "")
