"""What does the name service know about a user?

It is asked through the library's ``pwd``: for the login name and home of a uid, and for the uid of a login name.
Whom it does not find, `services` looks for once more, as ``pwd`` says "no such user" where it could not ask, too.
Nothing is remembered here: who does that counts from before the call.
"""

from __future__ import annotations

import os
import pwd

from ..connection import IdentError, Unknown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Key = TypeVar("Key", int, str)

#: What a user namespace shows for every uid that it does not map (user_namespaces(7)), unless
#: /proc/sys/kernel/overflowuid says otherwise, which no distribution does.
OVERFLOW_UID = 65534

#: The largest uid that anyone can have: the one above it means "no uid" (chown(2)).
LAST_UID = 0xFFFFFFFE


def entry(uid: int) -> tuple[tuple[str, str], str]:
    """Return ``("UNIX", login name)``, or ``("OTHER", number)`` for a uid that has no name; and the home, or ``""``.

    May block for as long as the name service does (LDAP, NIS); the caller holds the deadline.

    :raises IdentError: the kernel shows the overflow uid because this process' user namespace
        does not map the real one: the name would be another user's. Or the name service could not be asked.
    """
    if uid == OVERFLOW_UID:
        from ..user_namespace import sees_every_uid  # only for this uid

        if not sees_every_uid():
            raise IdentError("a user namespace hides the owner's uid (PrivateUsers= in a unit does that)", uid)
    try:
        found = _ask(pwd.getpwuid, uid, uid)
    except IdentError as error:
        raise IdentError(error.detail, uid) from None
    if found is None:
        return ("OTHER", str(uid)), ""
    return (("UNIX", found.pw_name) if found.pw_name else ("OTHER", str(uid))), found.pw_dir


def login(uid: int) -> tuple[str, str]:
    """Return what a user is called: the first half of `entry`, with what it raises."""
    return entry(uid)[0]


def home(uid: int) -> str:
    """Return a user's home directory, or ``""``: the second half of `entry`, with what it raises."""
    return entry(uid)[1]


def gid(uid: int) -> int:
    """Return a user's group. May block as `login` does. :raises IdentError: there is no entry, or nobody can tell."""
    found = _ask(pwd.getpwuid, uid, uid)
    if found is None:
        raise IdentError(f"uid {uid} has no passwd entry, so that no group is known", uid)
    return found.pw_gid


def uid_of(name: bytes) -> int | Unknown | None:
    """Return the uid that a login name has; None: nobody has it; `Unknown`: that can't be found out.

    May block as `login` does.
    """
    try:
        found = _ask(pwd.getpwnam, os.fsdecode(name), name)
    except ValueError:
        # A NUL in it, or octets that no name in this locale has.
        return None
    except IdentError as error:
        return Unknown(error.detail)
    return None if found is None else found.pw_uid


def _ask(getpw: Callable[[Key], pwd.struct_passwd], key: Key, user: bytes | int) -> pwd.struct_passwd | None:
    """Return the entry of a user, or None: there is no such user. :raises IdentError: that can't be found out."""
    try:
        try:
            return getpw(key)
        except KeyError:
            from . import services  # only for users without an entry, and for names that are perhaps nobody's

            if not services.knows(user):
                return None
        # There is one: they have just come, or the C library could not ask.
        return getpw(key)
    except KeyError:
        raise IdentError("the name service does not find a user who is in its database") from None
    except (MemoryError, ImportError) as error:
        # ENOMEM; or `services` is closed to us since root was given up.
        raise IdentError(f"the name service can't be asked: {str(error) or 'no memory'}") from None
