"""Which uid does each of thousands of login names have?"""

from __future__ import annotations

from ..connection import IdentError
from . import services
from .names import uid_of

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..connection import Unknown


def uids(names: Iterable[bytes]) -> dict[bytes, int | Unknown | None]:
    """Return the uid of each login name; None: the text is not one; `Unknown`: that can't be found out.

    For each name, getpwnam(3) reads the whole of /etc/passwd. Where the name service asks that file first, it is
    read once here, and only names that it lacks are asked for. May block as the name service does.
    """
    wanted = set(names)
    # The cost of reading the file once is that of a few questions.
    found = _listed(wanted) if len(wanted) > 3 else {}
    for name in wanted - found.keys():
        found[name] = uid_of(name)
    return found


def _listed(wanted: set[bytes]) -> dict[bytes, int | Unknown | None]:
    """Return what is certain about login names without asking for each of them."""
    try:
        asked = services.listed()
        # An action ("[SUCCESS=merge]", say) may make a later service's answer count.
        if asked[0] not in (b"files", b"compat") or b"".join(asked[1:2]).startswith(b"["):
            return {}
        data = services.read(services.PASSWD)
    except (IdentError, OSError):
        # ENOENT, EACCES, EMFILE and the like: the name service may know more, or says why it does not.
        return {}
    found: dict[bytes, int | Unknown | None] = {}
    entries = _entries(data, wanted)
    if entries is None:
        return found
    found.update(entries)
    found.update(dict.fromkeys(_absent(wanted - found.keys(), asked, data)))
    return found


def _absent(names: set[bytes], asked: list[bytes], data: bytes) -> set[bytes]:
    """Return those of some names that are surely nobody's: with none of them, the name service has nobody to ask.

    :param names: what has no entry that was understood. :param asked: the services. :param data: the user database.
    """
    if not (names and data and services.is_glibc() and set(asked) <= {b"files", b"compat", b"systemd"}):
        return set()
    try:
        if services.may_have_nscd():
            return set()
    except IdentError:
        # EACCES: it may be there. The C library asks it before everybody else.
        return set()
    if b"systemd" in asked:
        names = _unknown_to_systemd(names)
    # An entry that was not understood may be such a name's.
    begun = {line.partition(b":")[0].strip() for line in data.split(b"\n")}
    return {name for name in names if name.strip() not in begun}


def _unknown_to_systemd(names: set[bytes]) -> set[bytes]:
    """Return those of some names that nss-systemd(8) surely has not, without asking for each of them."""
    from . import userdb

    try:
        if userdb.is_empty():
            return {name for name in names if not userdb.makes_up(name)}
    except IdentError:
        # A sandbox: each question says what can't be seen.
        pass
    # A uid in decimal is no name of its users.
    return {name for name in names if name.isdigit()}


# As expressions, with which a test compares (`re` takes long to import): names that are included or excluded, as the
# service "compat" has them; and
# line = name ":" password ":" uid ":" gid ":" gecos ":" directory ":" shell
# Uids of ten digits may be too large, so those are left to the name service as well.
INCLUDED = rb"(?m)^\s*[+-]"
ENTRY = rb"(?m)^([^:\s#]+):[^:\n]*:([0-9]{1,9}):[0-9]+:[^:\n]*:[^:\n]*:"
_NOT_IN_NAMES = b" \t\n\r\f\v#"
_BEGIN_NO_NAME = frozenset((b" ", b"\t", b"\r", b"\f", b"\v", b"+", b"-"))


def _entries(data: bytes, wanted: set[bytes]) -> dict[bytes, int] | None:
    """Return the uids that a user database (passwd(5)) gives the names that are wanted; None: that is not certain."""
    found: dict[bytes, int] = {}
    lines = data.split(b"\n")
    if {line[:1] for line in lines} & _BEGIN_NO_NAME and any(line.lstrip()[:1] in (b"+", b"-") for line in lines):
        return None
    for line in lines:
        fields = line.split(b":", 6)
        name = fields[0]
        if name in wanted and name not in found:  # the first of two entries with one name counts
            if not name.isalnum() and (not name or name.translate(None, _NOT_IN_NAMES) != name):
                continue
            if len(fields) == 7 and fields[2].isdigit() and fields[3].isdigit() and len(fields[2]) <= 9:
                found[name] = int(fields[2])
    return found
