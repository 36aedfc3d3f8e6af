"""Has a user's file changed since it was read?

Looking must never block: it is done in the warm process' loop. So only files of a local file system
are watched.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from .user_file import FILES

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    State = int | tuple[int, ...]
    Mark = tuple[str, State]

#: Seconds since a file's last change before it is remembered: a later change might leave all of its times as they are.
_SETTLED = 1.0

#: Kinds of file system where looking at a file waits for nobody else.
_LOCAL = frozenset(("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"))


def marks(home: str) -> list[Mark] | None:
    """Return what shows any change of a user's files; None: a change might go unnoticed, or looking might block."""
    found: list[Mark] = []
    device, missing = None, ""
    for name in ("", *sorted({os.path.dirname(name) for name in FILES} - {""}), *FILES) if home.startswith("/") else ():
        if missing and name.startswith(missing):
            continue
        path = os.path.join(home, name)
        try:
            state = _state(path)
        except OSError:
            # EIO, ESTALE ...: no state to rely on.
            return None
        found.append((path, state))
        if isinstance(state, int):
            missing = f"{name}/"
            continue
        if device is None:
            device = state[0]
            if not _is_local(device):
                return None
        # A link may lead to where looking blocks; another device may be such a place.
        if stat.S_ISLNK(state[2]) or state[0] != device:
            return None
        if any(abs(time.time() - changed / 1e9) <= _SETTLED for changed in state[5:]):
            return None
    return found if device is not None or not found else None


def unchanged(before: list[Mark]) -> bool:
    """Return whether everything is as `marks` found it. Never blocks."""
    try:
        return all(_state(path) == state for path, state in before)
    except OSError:
        # EIO, ESTALE ...: no state to rely on.
        return False


def _state(path: str) -> State:
    """Return what shows any change of a file, or which folder it is; an errno: it is not there for us.

    :raises OSError: its file system fails.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        # ENOENT, ENOTDIR: it is not there. EACCES, EPERM: its folder is closed to us.
        return error.errno or errno.ENOENT
    state = status.st_dev, status.st_ino, status.st_mode, status.st_uid
    if stat.S_ISDIR(status.st_mode):
        return state
    return (*state, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _is_local(device: int) -> bool:
    """Return whether a device holds a file system of a local kind (proc_pid_mountinfo(5))."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1] in _LOCAL
    except OSError:
        # ENOENT, EACCES: there is no /proc, or it is closed to us.
        return False
    return False
