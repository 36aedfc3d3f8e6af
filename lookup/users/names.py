"""What does the name service know about a user?

It is asked through the library's ``pwd``: for the login name and home of a uid, and for the uid of a login name.
"""

from __future__ import annotations

import os
import pwd

from ..errors import IdentError

#: What a user namespace shows for every uid that it does not map (user_namespaces(7)), unless
#: /proc/sys/kernel/overflowuid says otherwise, which no distribution does.
OVERFLOW_UID = 65534

#: The user database (passwd(5)).
PASSWD = "/etc/passwd"

#: The largest uid that anyone can have: the one above it means "no uid" (chown(2)).
LAST_UID = 0xFFFFFFFE


def entry(uid: int) -> tuple[tuple[str, str], str]:
    """Return ``("UNIX", login name)``, or ``("OTHER", number)`` for a uid that has no name; and the home, or ``""``.

    May block for as long as the name service does (LDAP, NIS); the caller holds the deadline.

    :raises IdentError: the kernel shows the overflow uid because this process' user namespace
        does not map the real one: the name would be another user's. Or the user database can't be read.
    """
    if uid == OVERFLOW_UID:
        from ..user_namespace import sees_every_uid  # only for this uid

        if not sees_every_uid():
            raise IdentError("a user namespace hides the owner's uid (PrivateUsers= in a unit does that)", uid)
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        # A name service that fails looks like this too: at least the file that it reads must be there to open.
        try:
            os.close(os.open(PASSWD, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            # ENOENT: this host has other databases.
            pass
        except OSError as error:
            # EMFILE, ENFILE: out of descriptors. EACCES: a sandbox.
            raise IdentError(f"the user database can't be read: {error.strerror}", uid) from None
        return ("OTHER", str(uid)), ""
    return (("UNIX", found.pw_name) if found.pw_name else ("OTHER", str(uid))), found.pw_dir


def login(uid: int) -> tuple[str, str]:
    """Return what a user is called: the first half of `entry`, with what it raises."""
    return entry(uid)[0]


def home(uid: int) -> str:
    """Return a user's home directory, or ``""``: the second half of `entry`, with what it raises."""
    return entry(uid)[1]


def uid_of(name: bytes) -> int | None:
    """Return the uid that a login name has, or None. May block as `login` does."""
    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid
    except (KeyError, ValueError):
        # ValueError: a NUL in it, or octets that no name in this locale has.
        return None
