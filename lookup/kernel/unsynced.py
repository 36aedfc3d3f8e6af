"""What does the kernel know of a file, and what is in it, without waiting for its file system?

A home, and the root directory of a container, may be a user's own file system (FUSE), which never answers: whoever
waits for it can't even be killed. Nothing here waits.
"""

from __future__ import annotations

import _ctypes  # the library's ctypes takes 3 ms
import errno
import os
import stat
import sys

TYPE_CHECKING = False  # see ../connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

#: Begins at the current directory; the descriptor itself; don't ask the file system (linux/fcntl.h).
_AT_FDCWD, _AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = -100, 0x1000, 0x4000

#: STATX_TYPE, STATX_MODE, STATX_UID, STATX_INO and STATX_MNT_ID, and the octets of struct statx (linux/stat.h).
_WANTED, _STATX_OCTETS = 0x1 | 0x2 | 0x8 | 0x100 | 0x1000, 256

#: The number of openat2(2), the same on every architecture, and RESOLVE_CACHED (linux/openat2.h).
_OPENAT2, _RESOLVE_CACHED = 437, 0x20

#: File systems of the kernel's own: no user's program, and no other computer, decides who may enter a folder, or when a
#: file can be opened.
_LOCAL = frozenset((b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"f2fs"))

#: Which mounts there are (proc_pid_mountinfo(5)), and what our descriptors are open for (proc_pid_fd(5)).
_MOUNTS, _DESCRIPTORS = "/proc/self/mountinfo", "/proc/self/fd"

#: _LINUX_CAPABILITY_VERSION_3 and the octets of its data; the effective ones are in the first and the fourth word.
_CAPABILITIES, _CAPABILITIES_OCTETS, _EFFECTIVE = 0x20080522, 24, (slice(0, 4), slice(12, 16))


class Status:
    """What the kernel knows of a file: its owner's ``uid``, its ``mode``, the ``device`` and the ``inode`` there.

    ``mount``: the number of the mount on which it lies; 0: not known (before Linux 5.8).
    """

    __slots__ = ("device", "inode", "mode", "mount", "uid")

    def __init__(self, found: bytes) -> None:
        """:param found: a struct statx."""

        def number(start: int, octets: int) -> int:
            return int.from_bytes(found[start : start + octets], sys.byteorder)

        self.uid, self.mode, self.inode = number(20, 4), number(28, 2), number(32, 8)
        self.device, self.mount = (number(136, 4), number(140, 4)), number(144, 8)

    @property
    def is_local(self) -> bool:
        """Whether its file system is one of the kernel's own. :raises OSError: that can't be told."""
        mounts = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)  # open() takes longer, and a process does this once
        try:
            lines = b""
            while more := os.read(mounts, 1 << 16):
                lines += more
        finally:
            os.close(mounts)
        # line = id parent device root place options *field "-" type source options
        begins = b"%d " % self.mount
        kinds = (line.partition(b" - ")[2].split(b" ", 1)[0] for line in lines.split(b"\n") if line.startswith(begins))
        return next(kinds, b"") in _LOCAL


class _Number(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Octet(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Number


#: Those of the C library that were called, by name.
_functions: dict[str, _Function] = {}


def identity(path: str, folder: int = _AT_FDCWD) -> tuple[int, int, int]:
    """Return what tells a file from every other one that is there at the time.

    :param folder: a descriptor; a path that is not absolute begins there. :raises OSError: see statx(2).
    """
    status = _statx(folder, path, 0)
    return (*status.device, status.inode)


def remembered(path: str) -> Status:
    """Return what the kernel remembers of a file, or a folder, after links were followed.

    :raises FileNotFoundError: it remembers that there is none.
    :raises OSError: it does not remember (EAGAIN), or has no such call for us (ENOSYS, EPERM).
    """
    fd = _opened(path)
    try:
        return _statx(fd, "", _AT_EMPTY_PATH)
    finally:
        os.close(fd)


def content(path: str, most: int) -> tuple[bytes, os.stat_result]:
    """Return what is in a regular file, and what fstat(2) said after it was read.

    :param most: octets. :raises FileNotFoundError: as `remembered` does. :raises OSError: it can't be read without
        waiting, or is larger than that (EAGAIN); or can't be read at all.
    """
    fd = _opened(path)
    try:
        status = _statx(fd, "", _AT_EMPTY_PATH)
        if not stat.S_ISREG(status.mode) or not status.is_local:
            raise _would_wait(path)
        # By this name no other file is opened than the one that was looked at. O_NONBLOCK: it may have a lease.
        file = os.open(f"{_DESCRIPTORS}/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _would_wait(path) from None  # there is no /proc; the file is there
    finally:
        os.close(fd)
    try:
        room = bytearray(min(os.fstat(file).st_size, most) + 1)
        octets = os.preadv(file, [room], 0, os.RWF_NOWAIT)
        after = os.fstat(file)
    finally:
        os.close(file)
    if octets != after.st_size or octets > most:  # or it grows, or a part of it is not in memory
        raise _would_wait(path)
    return bytes(room[:octets]), after


def has_capabilities() -> bool:
    """Say whether this thread has any capability in effect, as far as that can be told (capget(2))."""
    header = _CAPABILITIES.to_bytes(4, sys.byteorder) + bytes(4)
    found = room(_CAPABILITIES_OCTETS)
    return bool(function("capget")(header, found)) or any(any(bytes(found)[word]) for word in _EFFECTIVE)


def _opened(path: str) -> int:
    """Return a descriptor that names a file, which its file system has not been told of (O_PATH, openat2(2))."""
    how = b"".join(number.to_bytes(8, sys.byteorder) for number in (os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_CACHED))
    fd = function("syscall")(_OPENAT2, _AT_FDCWD, os.fsencode(path), how, len(how))
    if fd < 0:
        raise _error(path)
    return fd


def _statx(folder: int, path: str, flags: int) -> Status:
    found = room(_STATX_OCTETS)
    if function("statx")(folder, os.fsencode(path), flags | _AT_STATX_DONT_SYNC, _WANTED, found):
        raise _error(path)
    return Status(bytes(found))


def function(name: str) -> Callable[..., int]:
    """Return a function of the C library. :raises OSError: it has none of that name."""
    found = _functions.get(name)
    if found is None:
        found = _functions[name] = _Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]  # see dlopen(3)
    return found


def room(octets: int) -> _ctypes.Array[_Octet]:
    """Return octets for a function of the C library to fill, which ``bytes`` then reads."""
    return (_Octet * octets)()


def checked(name: str, *arguments: object) -> None:
    """Call a function of the C library that returns 0. :raises OSError: it does not, or there is none."""
    if function(name)(*arguments):
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _error(path: str) -> OSError:
    number = _ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def _would_wait(path: str) -> OSError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
