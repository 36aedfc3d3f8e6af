"""Which file of a user's does an identd read that runs as nobody, and what keeps it from the others?

Where we are root, or nobody, that is tried. Otherwise modes and access control lists tell (`permissions`).
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat

import lookup
from lookup.config import sandbox, user_file
from lookup.connection import IdentError
from lookup.users.names import OVERFLOW_UID

from .. import reader
from ..options import UsageError
from ..privileges import drop_privileges
from .permissions import READ, SEARCH, CannotTell, Obstacle, Reader, obstacle

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.config.user_file import Also, Fetched

#: Who an identd is that was told nothing else (`privileges.drop_privileges`): a login name.
NOBODY = "nobody"

_LETTERS = {READ: "r", SEARCH: "x"}

#: What is said where neither modes nor lists tell.
UNTOLD = "cannot be told without root"

_STAYS_ROOT = "root can't become nobody"
_CLOSED = "an identd of another user, such as nobody, can't read it"


def nobody() -> Reader:
    """Return who an identd is that runs as nobody: without groups but nobody's own."""
    try:
        entry = pwd.getpwnam(NOBODY)
    except KeyError:
        return Reader(OVERFLOW_UID, frozenset((OVERFLOW_UID,)))
    return Reader(entry.pw_uid, frozenset((entry.pw_gid,)))


def fetch_as_nobody(uid: int, home: str, also: Also | None = None) -> Fetched:
    """Return what an identd that runs as nobody reads of a user's files, whoever runs this.

    :param also: for which connection other files are looked at, too (`user_file.fetch`).
    :raises CannotTell: that can't be told without root.
    :raises IdentError: it can't find out what the file says, and names nobody who may hide.
    """
    if os.geteuid() == 0:
        # What nobody may not be allowed to read of root's Python.
        lookup.import_all()
        found = _tried(uid, home, also)
    elif os.geteuid() == nobody().uid:
        found = user_file.fetch(uid, home, kept=lambda path: _kept(path, home, uid), also=also)
    else:
        found = user_file.fetch(uid, home, kept=lambda path: _computed(path, home, uid), also=also)
    if why := without_home(home):
        found.notes = [(False, why)]
    return found


def _tried(uid: int, home: str, also: Also | None) -> Fetched:
    """Have a child become nobody, and read. :raises CannotTell, IdentError: as `fetch_as_nobody`."""
    try:
        return reader.fetch(uid, home, also, _become_nobody)
    except IdentError as error:
        if not error.detail.startswith(_STAYS_ROOT):
            raise
    return user_file.fetch(uid, home, kept=lambda path: _computed(path, home, uid), also=also)


def _become_nobody(_: int) -> None:
    try:
        drop_privileges(NOBODY, None)
    except (OSError, UsageError) as error:
        # EPERM, EINVAL: a sandbox, or a user namespace, in which there is no nobody.
        raise IdentError(f"{_STAYS_ROOT}: {error}") from None


def without_home(home: str) -> str:
    """Say that a home is not there; ``""``: it may be."""
    if not home.startswith("/"):
        return "the owner has no home"
    try:
        os.stat(home)
    except (FileNotFoundError, NotADirectoryError):
        # ENOENT, ENOTDIR: it was never made, or is not shown here.
        return f"the home {home} does not exist here"
    except OSError:
        # EACCES and the like: who reads the files says so.
        pass
    return ""


def _kept(path: str, home: str, uid: int) -> str:
    """Say what keeps us, who are nobody, from a file; ``""``: nothing does, or there is none."""
    try:
        os.stat(path)
    except PermissionError:
        # EACCES: a folder on the way is closed, by its owner or by a sandbox.
        return "" if sandbox.hides(path, home) else why_not_nobody(path, uid)
    except OSError:
        # ENOENT, ENOTDIR and the like: who reads it says so.
        return ""
    return "" if os.access(path, os.R_OK, effective_ids=True) else why_not_nobody(path, uid)


def _computed(path: str, home: str, uid: int) -> str:
    """Say what keeps nobody from a file, for somebody else; ``""``: nothing does, or there is none.

    :raises CannotTell: that can't be told, or nobody can read it and we can't.
    """
    try:
        os.stat(path)
        is_closed = not os.access(path, os.R_OK, effective_ids=True)
    except PermissionError:
        # EACCES: it is closed to us. What is not hidden from us may be hidden from them all the same.
        if sandbox.hides(path, home):
            return ""
        is_closed = True
    except OSError:
        # ENOENT, ENOTDIR and the like, as above.
        return ""
    note = note_for_nobody(path, uid)
    if not note and is_closed:
        raise CannotTell(f"{path} is closed to you, and not to nobody")
    return note


def note_for_nobody(path: str, uid: int) -> str:
    """Return why an identd that runs as nobody can't read a user's file, and what helps; ``""``: it can.

    :raises CannotTell: modes and lists do not say.
    """
    fix = kept_from_nobody(path, uid)
    return fix and f"{_CLOSED} ({fix})"


def why_not_nobody(path: str, uid: int) -> str:
    """Return the same for a file of which it is known that nobody can't read it."""
    try:
        return note_for_nobody(path, uid) or _CLOSED
    except CannotTell:
        return _CLOSED


def kept_from_nobody(path: str, uid: int) -> str:
    """Return what lets nobody read a file, as a command for its owner, or why there is none; ``""``: nobody can.

    Where there is no file, nothing is in the way.

    :param path: of a file; links on the way are followed.
    :param uid: whose file it should be: users get no advice to open what is another user's.
    :raises CannotTell: modes and lists do not say whether nobody can read it.
    """
    try:
        os.stat(path)
    except PermissionError:
        # EACCES: it is closed to us too. The folders show which of them it is.
        pass
    except OSError:
        # ENOENT, ENOTDIR: there is none. Others have nothing to do with permissions.
        return ""
    try:
        found = obstacle(path, nobody())
    except OSError:
        # ENOENT: it has just gone. ELOOP: it was never there.
        return ""
    return "" if found is None else _remedy(found, uid)


def _remedy(found: Obstacle, uid: int) -> str:
    """Return the command that helps, or what is in the way where its owner is another user."""
    path, letter = found.path, _LETTERS[found.wanted]
    if found.by == "fuse":
        return f"{path} lies in a file system that only its user sees (allow_other in fuse(8))"
    if found.status.st_uid != uid:
        # Another's file is not read in any case.
        return f"{path} is closed to other users" if stat.S_ISDIR(found.status.st_mode) else ""
    if found.by == "acl":
        return f"setfacl -m u:{NOBODY}:{letter} {shell_word(path)}"
    return f"chmod {found.by}+{letter} {shell_word(path)}"


def shell_word(path: str) -> str:
    """Return a path as a shell reads it, in printable ASCII."""
    if path.isascii() and path.isprintable():
        return shlex.quote(path)
    # $'...' (POSIX.1-2024; bash, ksh and zsh have long had it): what is printed is ASCII.
    escaped = (chr(one) if 32 <= one < 127 and one not in b"'\\" else f"\\{one:03o}" for one in os.fsencode(path))
    return f"$'{''.join(escaped)}'"
