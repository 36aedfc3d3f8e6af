"""As which login names may clients understand a name?

A client keeps part of a name: it cuts it off at a sign, or after so many octets, or leaves signs out.
Whatever of `READERS` reads another user's login name in it, that user would be blamed. Each row has the clients that
were seen to read so, in their source or by trying them.
"""

from __future__ import annotations

from ..connection import MAX_USER_ID, Unknown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Reader = Callable[[bytes], bytes]

#: C's isspace(3), and the control characters that are blank to some.
_BLANKS = b" \t\n\v\f\r\x1c\x1d\x1e\x1f"

#: What is before a blank to those who end there: every control character.
_CONTROLS = bytes(range(33))

_LETTERS_AND_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PRINTABLE = bytes(range(33, 127))

#: What InspIRCd takes for part of a user name: "A" to "}", digits, "-" and ".".
_INSPIRCD = bytes(range(ord("A"), ord("}") + 1)) + b"0123456789-."

#: What sendmail's cleanstrcpy keeps.
_SENDMAIL = _LETTERS_AND_DIGITS + b"!#$%&'*+-./^_`{|}~"


def _up_to(signs: bytes, name: bytes) -> bytes:
    """Return what stands before the first of some signs."""
    return name[: next((at for at, octet in enumerate(name) if octet in signs), len(name))]


def _only(signs: bytes, name: bytes) -> bytes:
    """Return a name without all but some signs."""
    return bytes(octet for octet in name if octet in signs)


def _without(signs: bytes, name: bytes) -> bytes:
    return bytes(octet for octet in name if octet not in signs)


def _field(name: bytes) -> bytes:
    """Return what follows the last colon."""
    return name.rpartition(b":")[2]


def _inspircd(name: bytes) -> bytes:
    kept = name.replace(b" ", b"")
    return kept[: next((at for at, octet in enumerate(kept) if octet not in _INSPIRCD), len(kept))]


def _hybrid(name: bytes) -> bytes:
    return _without(_BLANKS + b":[", _up_to(b"@\r\n", name.lstrip(_BLANKS).lstrip(b"~^")))


def _unreal(name: bytes) -> bytes:
    return _up_to(_CONTROLS + b"@:", name.lstrip(_CONTROLS + b"~^"))


#: Each with the clients that read so.
READERS: tuple[tuple[str, Reader], ...] = (
    ("all that take a name as it is: ngIRCd, nmap, vsftpd", bytes),
    ("Exim, PostgreSQL, INN: blanks around it left out", lambda name: name.strip(_BLANKS)),
    ("tcp wrappers, Apache, oidentd, wu-ftpd, Anubis (scanf's %s): its first word",
     lambda name: _up_to(_BLANKS, name.lstrip(_BLANKS))),
    ("qmail and ucspi-tcp's tcpserver (remoteinfo): without blanks", lambda name: _without(b" \t\r", name)),
    ("Squid: what follows the last colon", lambda name: _field(name).strip(_BLANKS)),
    ("InspIRCd 3, 4: after the last colon, without blanks, up to a sign that it does not know",
     lambda name: _inspircd(_field(name))),
    ("InspIRCd 1, 2: up to a colon, then likewise", lambda name: _inspircd(name.lstrip(b":").partition(b":")[0])),
    ("ircd-hybrid, charybdis, ratbox, bahamut: up to @, without ~ and ^ before it, blanks, colons and [", _hybrid),
    ("ircd-hybrid (8.2), UnrealIRCd: up to @, a colon or a blank, without ~ and ^ before it", _unreal),
    ("IRCnet's ircd: without blanks, @ and [, and a colon before it",
     lambda name: _without(_BLANKS + b"@[", name[1:] if name[:1] == b":" else name)),
    ("IRCnet's ircd, where it marks that it left something out",
     lambda name: b"-" + _without(_BLANKS + b"@[", name.lstrip(b":"))),
    ("sendmail: only letters, digits and some signs", lambda name: _only(_SENDMAIL, name)),
    ("sendmail's addresses, mail programs: what <> is around, what @ is behind",
     lambda name: _up_to(b">@", name.rpartition(b"<")[2]).strip(_BLANKS)),
    ("loggers and pages that leave out what can't be printed", lambda name: _only(_PRINTABLE, name)),
    ("those that keep only letters and digits, and - . _", lambda name: _only(_LETTERS_AND_DIGITS + b"-._", name)),
)  # fmt: skip

#: Octets after which clients cut a name that they have read: IRC servers' 8 to 12 (USERLEN), ngIRCd's 20, utmp's 32.
CUTS = (8, 9, 10, 11, 12, 16, 20, 32)

#: Octets of a whole reply that the shortest-sighted client takes in (wu-ftpd's 79), without what precedes the name. A
#: longer name may be cut anywhere, and be cleaned only then.
_SHORTEST_BUFFER = 60

#: Octets of the longest login name (LOGIN_NAME_MAX is 256, useradd(8) takes 32).
_LONGEST_LOGIN = 32


#: Octets of a name that are looked at: `MAX_USER_ID` are sent, and no login name is as long. A user's file may hold 64
#: KiB, with which all of this would take a second for each query.
MOST = 2 * MAX_USER_ID


def another_user(
    name: bytes, uid: int, uid_of: Callable[[bytes], int | Unknown | None]
) -> tuple[bytes, int] | Unknown | None:
    """Return the first login name that a client may take a name for and that is another user's, with their uid.

    A name of one's own in another form is not another's. :param uid_of: returns the uid that a login name has, or None.
    """
    for reading in readings(name):
        holder = uid_of(reading)
        if isinstance(holder, Unknown):
            return holder
        if holder is not None and holder != uid:
            return reading, holder
    return None


def readings(name: bytes) -> list[bytes]:
    """Return all that clients may take a name for, each once, the name as it is first, up to `MOST` octets of it.

    Some pass on what they have read to others, who read that in their own way.
    """
    name = name[:MOST]
    found = {name: None, name[:MAX_USER_ID]: None}
    # What is only letters and digits, nobody reads otherwise.
    if not name.isalnum():
        for form in (*found, *_read(found)):
            found.update(dict.fromkeys(_read((form,))))
    lengths = range(1, _LONGEST_LOGIN + 1) if len(name) > _SHORTEST_BUFFER else CUTS
    cut = dict.fromkeys(form[:length] for form in found for length in lengths if length < len(form))
    plain = dict.fromkeys(spelling for form in found for spelling in spellings(form))
    plain.update(dict.fromkeys(spelling for form in cut for spelling in (form, form.lower())))
    plain.pop(b"", None)
    return list(plain)


def _read(names: Iterable[bytes]) -> list[bytes]:
    return [reader(name) for name in names for _, reader in READERS]


def spellings(name: bytes) -> list[bytes]:
    """Return a name in the ways in which somebody may write it who does not care for upper and lower case.

    tcp wrappers compare names so.
    """
    return list(dict.fromkeys((name, name.lower(), name.upper(), name.capitalize())))
