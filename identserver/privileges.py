"""How is root given up, and how does root become an owner?

For good: groups, gid, uid, in this order, saved ones included, and every capability.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from lookup.connection import IdentError

from .options import UsageError

#: The largest uid and gid: the one above it means to leave an id as it is (setresgid(2)).
LAST_ID = (1 << 32) - 2

#: The user that root becomes unless another one is named.
NOBODY = "nobody"

#: Seconds to wait for threads that are about to end.
_PATIENCE = 0.5

_KEPT = "root's capabilities can't be given up"


def drop_privileges(user: str | None, group: str | None) -> None:
    """Give up root for good (setresuid(2)).

    :param user: login name or uid; None: ``nobody`` when we are root, else nothing changes.
    :param group: group name or gid; None: the user's.
    :raises UsageError: there is no such user or group. :raises OSError: the kernel refuses.
    :raises closed.Unreadable: that user can't read identd, or what it needs: what is imported later would be missing.
    """
    ids = serving_ids(user, group)
    if ids is None:
        return
    from . import closed  # before it is, perhaps

    needed = closed.needed()
    try:
        os.setgroups([])
        _become(*ids)
    except OSError as error:
        # EPERM: we are not root, or in a sandbox. EINVAL: a user namespace without these ids.
        raise OSError(error.errno, f"can't become user {user or NOBODY}: {error.strerror}") from None
    unreadable = closed.first_closed(needed)
    if unreadable:
        raise closed.Unreadable(errno.EACCES, unreadable)


def serving_ids(user: str | None, group: str | None) -> tuple[int, int] | None:
    """Return the uid and gid that `drop_privileges` takes on; None: it changes nothing.

    For the parameters see there. :raises UsageError: there is no such user or group.
    """
    import grp
    import pwd

    if user is None and group is None and os.geteuid() != 0:
        return None
    user = user or NOBODY
    wanted = f"user: {user}"
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        gid = entry.pw_gid
        if group is not None:
            wanted = f"group: {group}"
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
            if gid > LAST_ID:
                raise KeyError(group)
    except KeyError:
        raise UsageError(f"no such {wanted}") from None
    return entry.pw_uid, gid


def become_owner(uid: int) -> None:
    """Give up root for good and become a connection's owner. Root's own connections are looked at as nobody.

    A process that became one owner must not look at what is another's.

    :raises IdentError: the kernel refuses, or the owner's groups can't be found.
    """
    import pwd

    if os.geteuid() != 0:
        return
    try:
        entry = pwd.getpwuid(uid) if uid else pwd.getpwnam("nobody")
        os.initgroups(entry.pw_name, entry.pw_gid)
        _become(entry.pw_uid, entry.pw_gid)
    except (KeyError, OSError, UsageError) as error:
        # EPERM, EINVAL: a sandbox, or a user namespace without these ids. EAGAIN: the owner's process limit.
        raise IdentError(f"root could not be given up: {error}", uid) from None


def _become(uid: int, gid: int) -> None:
    """Take on a gid and a uid, and make sure that nothing of root is left (setresuid(2))."""
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or uid == 0:
        raise UsageError(f"root can't be given up for uid {uid}")
    drop_capabilities()


def drop_capabilities() -> None:
    """Make sure that no capability is left (capabilities(7)).

    The kernel takes them when the uid changes, but not where a securebit (no_setuid_fixup) says that it must not.

    :raises UsageError: some are left, or may be.
    """
    seen = True
    try:
        if not _capable():
            return
    except OSError:
        # ENOENT: /proc is not there. EMFILE, EIO and the like: it says nothing.
        seen = False
    # The library's ctypes takes 3 ms, and this is seldom needed.
    import _ctypes

    # struct __user_cap_header_struct and __user_cap_data_struct (linux/capability.h): version 3, this thread, none.
    header, none = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4), bytes(24)
    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # dlopen(3) takes a null pointer: what is loaded
    if _ctypes.call_function(_ctypes.dlsym(library, "capset"), (header, none)):
        raise UsageError(_KEPT)
    deadline = time.monotonic() + _PATIENCE
    try:
        while seen and _capable():
            if time.monotonic() >= deadline:
                raise UsageError(_KEPT)
            # A thread that is about to end may have been passed over.
            time.sleep(0.001)
    except OSError:
        raise UsageError(_KEPT) from None


def _capable() -> bool:
    """Return whether any thread of ours has a capability, or may take one. :raises OSError: /proc does not say."""
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/status", "rb") as status:
                lines = [line for line in status if line.startswith((b"CapPrm:", b"CapEff:", b"CapAmb:"))]
        except (FileNotFoundError, ProcessLookupError):
            # ENOENT, ESRCH: it has ended meanwhile.
            continue
        if len(lines) < 2 or any(int(line[7:], 16) for line in lines):
            return True
    return False
