"""Does a sandbox hide a user's file from this process, as if there were none?

systemd hides homes from a service in several ways (ProtectHome=, InaccessiblePaths=, TemporaryFileSystem=, in
systemd.exec(5)). What is hidden may say anything. ``TemporaryFileSystem=/`` can't be told from a home that is missing.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Which mounts there are (proc_pid_mountinfo(5)).
_MOUNTS = "/proc/self/mountinfo"

#: Where a tmpfs is nothing special: a home that is missing there is missing.
_USUAL = ("/", "/tmp", "/var/tmp", "/run", "/run/lock", "/dev", "/dev/shm")


class Mount:
    """What is mounted where: the ``root`` in its file system, its ``place``, the ``kind`` and ``options`` of that."""

    __slots__ = ("kind", "options", "place", "root")

    def __init__(self, root: str, place: str, kind: str, options: list[str]) -> None:
        self.root = root
        self.place = place
        self.kind = kind
        self.options = options


def hides(path: str, home: str) -> bool:
    """Return whether a file that could not be found, or is closed to us, may be there for others.

    :param path: of a file in a home: opening it said ENOENT, ENOTDIR or EACCES.
    :raises OSError: that can't be found out.
    """
    folder, status = _nearest(path)
    if _looks_inaccessible(status):
        # ProtectHome=yes, InaccessiblePaths=: systemd mounts a folder of root's that nobody may enter. Root may have
        # made such a folder, too.
        return _is_inaccessible(folder)
    if len(folder) >= len(home.rstrip("/")):
        return False
    # The home itself is missing, or closed. ProtectHome=tmpfs: an empty file system lies over where it would be.
    mount = mount_of(folder)
    if mount is None:
        return False
    # PrivateTmp=yes: an empty folder of the service's own does.
    return "/systemd-private-" in mount.root or (mount.kind == "tmpfs" and mount.place not in _USUAL)


def is_a_cover(path: str, status: os.stat_result) -> bool:
    """Return whether a file is what InaccessiblePaths= puts over one. :raises OSError: that can't be found out."""
    return _looks_inaccessible(status) and _is_inaccessible(path)


def _nearest(path: str) -> tuple[str, os.stat_result]:
    """Return the nearest folder above a path that can be looked at."""
    while True:
        path = os.path.dirname(path) or "/"
        try:
            return path, os.stat(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # ENOENT, ENOTDIR, EACCES: as the file below it.
            if path == "/":
                raise


def _looks_inaccessible(status: os.stat_result) -> bool:
    return status.st_uid == 0 and not stat.S_IMODE(status.st_mode)


def _is_inaccessible(path: str) -> bool:
    mount = mount_of(path)
    return mount is not None and mount.place == os.path.realpath(path) and "/inaccessible/" in mount.root


def mount_of(path: str) -> Mount | None:
    """Return the mount that a path lies on; None: it is not listed.

    :raises OSError: /proc is closed to us, or not there.
    """
    path = os.path.realpath(path)
    found = None
    for mount in _mounts():
        place = mount.place.rstrip("/")
        # The last one at a place lies above the others; one further down hides those above it.
        if (path == place or path.startswith(f"{place}/")) and (found is None or len(mount.place) >= len(found.place)):
            found = mount
    return found


def _mounts() -> Iterator[Mount]:
    # line = id parent device root place options *field "-" type source options
    # with blanks and backslashes in octal
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            place = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
            end = fields.index("-")
            yield Mount(fields[3], place, fields[end + 1], fields[-1].split(","))
