"""Who finds out what an owner's files say while the system file is read: this process at once, or a child?

A child, because the file system may be the owner's own, and never answer. But to fork costs a tenth of a query, and the
kernel mostly remembers that there is no file, or what is in it: that is told to this process without its waiting.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time

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
    known = at_once(facts.uid, facts.home)
    if known is not None:
        return Known(about, known)
    from . import reader  # seldom needed

    try:
        return reader.Reading(*about)
    except IdentError:
        return None  # that is said if it matters, where it is tried again


def at_once(uid: int, home: str) -> user_file.Fetched | None:
    """Return what `user_file.fetch` does, if that can be known without waiting. Never blocks.

    None: it can't. So it is where something in ~/.config/identd may count, a sandbox may hide a file, or a file is
    being written, is not its owner's, or lies on a file system that may not answer.
    """
    if sys.platform != "linux":
        return None
    try:
        return _fetched(uid, home)
    except (ImportError, AttributeError, OSError):
        # Python or the C library lacks a function. EAGAIN: the kernel does not remember. ENOSYS, EPERM: it, or a
        # sandbox, has no such call. ENOENT: no such home.
        return None


def _fetched(uid: int, home: str) -> user_file.Fetched | None:
    """Return what `at_once` does, or raise why that is not known."""
    from lookup.kernel import unsynced

    fetched = user_file.Fetched()
    folder = unsynced.remembered(home)
    if _may_be_a_cover(folder):
        return None
    if _is_closed(folder):
        paths = (os.path.join(home, name) for name in user_file.FILES)
        fetched.notes += [(False, f"{path}: {os.strerror(errno.EACCES)}") for path in paths]
        return None if unsynced.has_capabilities() else fetched
    if _may_have_more(home):
        return None
    for name in user_file.FILES:
        path = os.path.join(home, name)
        try:
            content, status = unsynced.content(path, user_file.MAX_SIZE)
        except FileNotFoundError as error:
            fetched.notes.append((False, f"{path}: {error.strerror}"))
            continue
        if status.st_uid != uid or abs(time.time() - status.st_mtime) <= user_file.SETTLED:
            return None
        fetched.path, fetched.content = path, content
        break
    return fetched


def _may_be_a_cover(folder: Status) -> bool:
    """Say whether a folder may be what a sandbox puts over another one (see lookup/config/sandbox.py)."""
    return folder.uid == 0 and not stat.S_IMODE(folder.mode)


def _is_closed(folder: Status) -> bool:
    """Say whether only a folder's owner can enter it, and we are not them.

    An access control list gives nobody more than the mode gives to the group (acl(5), the mask).
    """
    return not folder.mode & 0o077 and folder.uid != os.geteuid() and folder.is_local


def _may_have_more(home: str) -> bool:
    """Say whether something in a home's .config may count before the files, or hide one."""
    from lookup.kernel import unsynced

    folder = os.path.join(home, user_file.REGISTERED_IN)
    try:
        if not _may_be_a_cover(unsynced.remembered(os.path.dirname(folder))):
            unsynced.remembered(folder)
    except FileNotFoundError:
        return False
    return True
