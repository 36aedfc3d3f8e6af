"""Who finds out what an owner's files say while the system file is read: the kernel's memory, or a child?

To fork costs a tenth of a query, and most owners have no file that is open to us. The kernel mostly remembers that, and
tells without waiting for the file system, which may be the owner's own. What it does not remember, a child reads.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from lookup.config import user_file
from lookup.connection import IdentError, Unknown

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.connection import Address
    from lookup.kernel.unsynced import Status
    from lookup.owner import Facts

    from .reader import Reading


class Known:
    """What an owner's files hold, used as a `Reading` is."""

    def __init__(self, about: tuple[int, str, user_file.Also], fetched: user_file.Fetched) -> None:
        """:param about: what `user_file.fetch` would have been asked for. :param fetched: what it would have said."""
        self.about = about
        self._fetched = fetched

    def result(self) -> user_file.Fetched:
        """Return what the files hold."""
        return self._fetched

    def close(self) -> None:
        """Nothing is left to end."""


def begin(facts: Facts, server: Address, far: Address) -> Reading | Known | None:
    """Have an owner's files read for a connection, whether or not they will matter; None: there is nothing to read."""
    if isinstance(facts.login(), Unknown) or not facts.home.startswith("/"):
        return None
    about = facts.uid, facts.home, user_file.others_of(server, far, False)
    nothing = nothing_in(facts.home)
    if nothing is not None:
        return Known(about, nothing)
    from . import reader  # most owners have no file

    try:
        return reader.Reading(*about)
    except IdentError:
        return None  # that is said if it matters, where it is tried again


def nothing_in(home: str) -> user_file.Fetched | None:
    """Return what `user_file.fetch` does where no file counts, if the kernel remembers that. Never blocks.

    None: a file may be there, or a sandbox may hide one.
    """
    if sys.platform != "linux":
        return None
    try:
        number = _why_nothing(home)
    except (ImportError, OSError):
        # EAGAIN: the kernel does not remember. ENOSYS, EPERM: it, or a sandbox, has no such call. ENOENT: no such home.
        return None
    if number is None:
        return None
    fetched = user_file.Fetched()
    fetched.notes += [(False, f"{os.path.join(home, name)}: {os.strerror(number)}") for name in user_file.FILES]
    return fetched


def _why_nothing(home: str) -> int | None:
    """Return the errno that opening each file in a home has; None: not each has that. :raises OSError: not known."""
    from lookup.kernel import unsynced

    folder = unsynced.remembered(home)
    if _may_be_a_cover(folder):
        return None
    if _is_closed(folder):
        return None if unsynced.has_capabilities() else errno.EACCES
    try:
        if _may_be_a_cover(unsynced.remembered(os.path.join(home, os.path.dirname(user_file.REGISTERED_IN)))):
            return None
    except FileNotFoundError:
        pass
    for name in *user_file.FILES, user_file.REGISTERED_IN:
        try:
            unsynced.remembered(os.path.join(home, name))
        except FileNotFoundError:
            continue
        return None
    return errno.ENOENT


def _may_be_a_cover(folder: Status) -> bool:
    """Say whether a folder may be what a sandbox puts over another one (see lookup/config/sandbox.py)."""
    return folder.uid == 0 and not stat.S_IMODE(folder.mode)


def _is_closed(folder: Status) -> bool:
    """Say whether only a folder's owner can enter it, and we are not them.

    Only on a disk: elsewhere another computer, or a user's program, decides who may enter. An access control list gives
    nobody more than the mode gives to the group (acl(5), the mask).
    """
    return bool(folder.device[0]) and not folder.mode & 0o077 and folder.uid != os.geteuid()
