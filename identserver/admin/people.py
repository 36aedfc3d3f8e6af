"""Whom does --user name?"""

from __future__ import annotations

import os

from lookup.connection import IdentError, Unknown
from lookup.users import names

from ..options import UsageError


def uid_of(user: str) -> int:
    """Return the uid that a login name or a number stands for.

    :raises UsageError: none. :raises IdentError: that can't be found out.
    """
    uid = names.uid_of(os.fsencode(user))
    if isinstance(uid, Unknown):
        raise IdentError(f"nobody can tell who {user} is: {uid.reason}")
    if uid is None and user.isdecimal():
        uid = int(user)
    if uid is None or uid > names.LAST_UID:
        raise UsageError(f"no such user: {user}")
    return uid
