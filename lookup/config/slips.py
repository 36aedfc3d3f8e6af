"""Which words of a file parse, and were surely not meant as they stand?

Such words are in public files, in guides, and in what bots write: each makes a strange name, or one of several at
random. This is looked for only where a person asks (`--check`), after the parse, up to an error.
"""

from __future__ import annotations

import re
from functools import partial

from ..connection import MAX_USER_ID
from .parser import DEFAULTS, KEYWORDS, MAX_REPLIES, NO_STRINGS
from .words import ESCAPE, Notice, shown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .words import Words

#: Octets of a user name that IRC servers show (ircu, hybrid, ratbox, UnrealIRCd: USERLEN 10). RFC 1413 allows 512.
IRC_OCTETS = 10

#: What other languages have between a word and its text, between texts, and at the end of a line.
_SIGNS = frozenset((b"=", b":", b":=", b"==", b"=>", b"->", b",", b";", b"|", b"||", b"&", b"&&", b"+", b"\\"))

# quotes that quote nothing, single, typographic and backwards: in ASCII and UTF-8, some in Windows-1252, and in HTML
_QUOTE = (
    rb"(?:['`]|\xc2[\xb4\xab\xbb]|\xe2\x80[\x98-\x9f\xb9\xba]|[\x84\x91-\x94](?![\x80-\xbf])"
    rb"|&(?:quot|apos|#0*(?:3[49]|82(?:1[6-9]|2[0-2]))|[lr][sd]quo);)"
)

# no-break space, soft hyphen, zero-width spaces and joiners, line separators, byte order mark
_INVISIBLE = rb"\xc2[\xa0\xad]|\xe2\x80[\x8b-\x8f\xa8-\xaf]|\xe2\x81\xa0|\xef\xbb\xbf"

# what a program, or a person, was to fill in: ZNC's %ident% and old ZNC's %, C's %s, the shell's $ident and ${IDENT}
_PLACEHOLDER = (
    rb"%|%[su]|.*%[A-Za-z_]+%.*|.*\$\{[^}]*\}.*|.*\$\([^)]*\).*|.*\{\{.*\}\}.*|@[A-Z_]+@"
    rb"|\$(?i:user|username|ident|nick|nickname|name|login|logname)"
    rb"|[<\[](?i:(?:your|my|the)?[ _-]?(?:user|user ?name|ident|nick|nick ?name|name|login|reply))[>\]]"
)

_NAMES = {7: "BEL", 8: "backspace", 9: "tab", 10: "LF", 11: "vertical tab", 12: "form feed", 13: "CR", 27: "ESC"}


def hint(token: bytes) -> str:
    """Return why a word is probably not the keyword that was meant, for the end of an error; ``""``: nobody knows."""
    if b"\0" in token:
        return ": the file seems to be in UTF-16"
    keyword = re.match(rb"[a-z_]+", token.lower())
    if keyword and keyword[0] in KEYWORDS and not token[keyword.end() :].isalnum():
        return f": only a blank or a brace may follow {keyword[0].decode('ascii')}"
    if re.search(_INVISIBLE, token):
        return ": it has a character in it that can't be seen (a no-break space?)"
    return ""


def slips(words: Words, end: int) -> Iterator[Notice]:
    """Yield a notice for each word that was surely not meant, with its place and what it means.

    :param end: the index of the first word that the parse did not reach.
    """
    replies: list[int] = []
    for index, token in enumerate(words.tokens[:end]):
        if token.lower() in NO_STRINGS:
            yield from _replies(words, replies)
            replies = [index] if token.lower() == b"reply" else []
        elif replies:
            replies.append(index)
        else:
            yield from _string(words, index)
    yield from _replies(words, replies)


def _replies(words: Words, indices: Sequence[int]) -> Iterator[Notice]:
    """Look at one statement's replies. :param indices: of the keyword and of each reply, or none."""
    count = len(indices) - 1
    is_long = False
    for index in indices[1:]:
        found = list(_reply(words, index, count))
        yield from found
        text = words.text(index)
        if not (found or is_long) and len(text) > IRC_OCTETS:
            is_long = True
            yield words.notice(
                index, f"this reply has {len(text)} octets, and most IRC servers show {IRC_OCTETS} of them"
            )
    # What the system file forces has no such end.
    if count > MAX_REPLIES and not _is_forced(words, indices[0]):
        yield words.notice(indices[MAX_REPLIES + 1], f"ignored from here: only the first {MAX_REPLIES} replies count")


def _is_forced(words: Words, index: int) -> bool:
    return index > 0 and words.tokens[index - 1].lower() == b"force"


def _reply(words: Words, index: int, count: int) -> Iterator[Notice]:
    """Look at one reply. :param count: how many the statement has."""
    token, text = words.tokens[index], words.text(index)
    one_more = f"one more reply here{'' if count < 2 else f', and one of the {count} is picked at random'}"
    if not text or b"\0" in text or b"\r" in text or b"\n" in text:
        why = "".join(f" ({_meaning(escape)})" for escape in _odd_escapes(token))
        reason = f"a reply that is empty, or holds a NUL, CR or LF, is never sent: the login name is{why}"
        yield words.notice(index, reason)
    elif token.lower() in DEFAULTS:
        yield words.notice(index, f"{shown(token)} is {one_more}: put that statement before the replies")
    elif token.startswith(b'"'):
        yield from _string(words, index)
        if _is_placeholder(text):
            yield words.notice(index, f"{shown(text)} is sent as it stands: nothing puts a name in its place")
    elif token in _SIGNS or token.startswith((b"//", b";")):
        reason = "neither a separator nor a comment" + ("" if token in _SIGNS else " (# begins one)")
        yield words.notice(index, f"{shown(token)} is {one_more}: it is {reason}")
    elif _follows_a_string(words, index):
        yield words.notice(index, f"{shown(token)} is {one_more}: the string before it ends at its second quote")
    elif _is_placeholder(token):
        yield words.notice(index, f"{shown(token)} is sent as it stands: nothing puts a name in its place")
    elif token.endswith((b";", b",")) and not re.match(_QUOTE, token):
        reason = f"{shown(token)} is sent with its {shown(token[-1:])}: statements and replies have no such sign"
        yield words.notice(index, reason)
    else:
        yield from _string(words, index, "" if count < 2 else f", and each word is {one_more}")


def _is_placeholder(text: bytes) -> bool:
    """Return whether a program, or a person, was to put a name in place of a text."""
    # Of a longer one the beginning is sent; and the time that this takes grows with the square of the length.
    return len(text) <= MAX_USER_ID and re.fullmatch(_PLACEHOLDER, text) is not None


def _string(words: Words, index: int, more: str = "") -> Iterator[Notice]:
    """Look at a word or a string, whatever it stands for."""
    token = words.tokens[index]
    if token.startswith(b'"'):
        for escape in _odd_escapes(token):
            reason = f"{_meaning(escape)}; for a backslash, write two"
            # A string's octets are all on one line.
            yield Notice(words.path, partial(words.place, index, escape.start()), reason)
    elif b'"' in token:
        yield words.notice(index, f"the quotes in {shown(token)} belong to it: a string begins with its quote{more}")
    elif re.match(_QUOTE, token):
        yield words.notice(index, f'the quotes in {shown(token)} belong to it: only " quotes{more}')
    elif re.search(_INVISIBLE, token):
        yield words.notice(index, f"{shown(token)} has a character in it that can't be seen (a no-break space?)")


def _odd_escapes(token: bytes) -> list[re.Match[bytes]]:
    """Return a string's escapes that make a control character, and those before a letter that means nothing."""
    if not token.startswith(b'"') or b"\\" not in token:
        return []
    return [escape for escape in re.finditer(ESCAPE, token) if _is_odd(escape)]


def _is_odd(escape: re.Match[bytes]) -> bool:
    value = _value(escape)
    if value < 0x20 or value == 0x7F:
        return True
    letter: bytes | None = escape[3]
    return letter is not None and (letter.isalpha() or letter >= b"\x80")


def _value(escape: re.Match[bytes]) -> int:
    """Return the octet that an escape stands for."""
    octal, hexadecimal, other = escape.groups()
    if other:
        return {97: 7, 98: 8, 102: 12, 110: 10, 114: 13, 116: 9, 118: 11}.get(other[0], other[0])
    return int(octal, 8) if octal else int(hexadecimal, 16)


def _meaning(escape: re.Match[bytes]) -> str:
    value, written = _value(escape), shown(escape[0])
    if value < 0x20 or value == 0x7F:
        return f"{written} is a control character here, {_NAMES.get(value, f'octet {value}')}"
    return f"{written} is {shown(escape[3])} here, without the backslash"


def _follows_a_string(words: Words, index: int) -> bool:
    """Return whether a word stands directly behind a string."""
    before = words.tokens[index - 1]
    if not before.startswith(b'"'):
        return False
    line, column = words.place(index - 1, len(before))
    return (line, column) == words.place(index)
