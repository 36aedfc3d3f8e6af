"""May a user read a file, going by modes and access control lists?

For those who cannot try: only root can do as another user does. Linux decides by path_resolution(7) and acl(5).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import NamedTuple

from lookup.config import sandbox

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

READ, SEARCH = 4, 1

#: What a list is called as an extended attribute, and the lists that other systems decide by (NFSv4, richacl, SMB).
_ACL = "system.posix_acl_access"
_FOREIGN = ("system.nfs4_acl", "system.richacl", "system.cifs_acl")

#: File systems where a server decides, with lists of its own.
_SERVERS = frozenset(("nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ceph", "lustre", "gpfs", "beegfs", "orangefs"))

# list  = version *entry     ; little-endian; linux/posix_acl_xattr.h
# entry = tag permissions id
_VERSION, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x02, 0x04, 0x08, 0x10, 0x20

#: Links that are followed on one way (path_resolution(7)).
_MAX_LINKS = 40


class CannotTell(Exception):
    """Neither modes nor a list say what a user may do; the text says where."""


class Reader(NamedTuple):
    """Who would read."""

    uid: int
    gids: frozenset[int]


class Obstacle(NamedTuple):
    """What keeps a reader from a file: ``path``, with its ``status``; ``wanted``: `READ` or `SEARCH`.

    ``by``: what decided: ``"u"``, ``"g"`` or ``"o"`` of the mode, ``"acl"``, or ``"fuse"``: the mount's options.
    """

    path: str
    status: os.stat_result
    wanted: int
    by: str


def obstacle(path: str, reader: Reader) -> Obstacle | None:
    """Return the first thing on the way to a file, links included, that keeps a reader from it; None: there is none.

    :raises CannotTell: that can't be found out. :raises OSError: there is no such file, for whoever asks.
    """
    for place, status, wanted in _way(path):
        by = _refused_by(place, status, reader, wanted)
        if by:
            return Obstacle(place, status, wanted, by)
    return None


def _way(path: str) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield each folder that has to be searched, from the top, and at last the file that has to be read."""
    here, status = "/", os.stat("/")
    yield here, status, SEARCH
    left, links = path.split("/")[::-1], 0
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            status = os.stat(here)
            continue
        place = os.path.join(here, name)
        try:
            status = os.lstat(place)
            target = os.readlink(place) if stat.S_ISLNK(status.st_mode) else ""
        except PermissionError:
            # EACCES: the folder is closed to us, and open to the reader.
            raise CannotTell(f"{here} is closed to you") from None
        if target:
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            here = "/" if target.startswith("/") else here
            left += target.split("/")[::-1]
            continue
        here = place
        if stat.S_ISDIR(status.st_mode):
            yield here, status, SEARCH
    yield here, status, READ


def _refused_by(path: str, status: os.stat_result, reader: Reader, wanted: int) -> str:
    """Return what refuses a reader a permission, as `Obstacle.by` has it; ``""``: nothing does."""
    mode = status.st_mode
    if _is_closed_fuse(path, reader):
        return "fuse"
    if status.st_uid == reader.uid:
        # The list does not matter to the owner.
        return "" if mode >> 6 & wanted else "u"
    # Linux looks at no list where the mode's middle bits, which are then its mask, are empty.
    entries = _entries(path) if mode & stat.S_IRWXG else []
    if entries:
        return _refused_by_list(entries, status, reader, wanted)
    if status.st_gid in reader.gids:
        return "" if mode >> 3 & wanted else "g"
    return "" if mode & wanted else "o"


def _refused_by_list(entries: list[tuple[int, int, int]], status: os.stat_result, reader: Reader, wanted: int) -> str:
    """Decide by an access control list (acl(5), "Access check algorithm")."""
    mask = next((permissions for tag, permissions, _ in entries if tag == _MASK), 7)
    for tag, permissions, who in entries:
        if tag == _USER and who == reader.uid:
            return "" if permissions & mask & wanted else "acl"
    groups = [
        permissions
        for tag, permissions, who in entries
        if (tag == _GROUP_OBJ and status.st_gid in reader.gids) or (tag == _GROUP and who in reader.gids)
    ]
    if groups:
        return "" if any(permissions & mask & wanted for permissions in groups) else "acl"
    return "" if any(permissions & wanted for tag, permissions, _ in entries if tag == _OTHER) else "o"


def _entries(path: str) -> list[tuple[int, int, int]]:
    """Return the entries of a file's list, as (tag, permissions, id); none: it has no list."""
    try:
        data = os.getxattr(path, _ACL)
    except OSError as error:
        # ENODATA: there is none. ENOTSUP: the file system has no such lists.
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return []
        raise CannotTell(f"{path}: its access control list: {error.strerror}") from None
    try:
        return list(_ENTRY.iter_unpack(data[_VERSION.size :]))
    except struct.error:
        raise CannotTell(f"{path}: its access control list can't be understood") from None


def _is_closed_fuse(path: str, reader: Reader) -> bool:
    """Return whether a file is in a mount that is another user's own.

    :raises CannotTell: neither modes nor lists decide about this file.
    """
    try:
        mount = sandbox.mount_of(path)
    except OSError as error:
        # EACCES, ENOENT: there is no /proc for us.
        raise CannotTell(f"{path}: which file system it is on: {error.strerror}") from None
    kind = mount.kind if mount else ""
    if kind in _SERVERS:
        raise CannotTell(f"{path}: a file server decides ({kind})")
    if mount and kind.startswith("fuse"):
        # fuse(8): without allow_other, only who mounted it is let in; with default_permissions, the kernel decides.
        if "allow_other" not in mount.options and f"user_id={reader.uid}" not in mount.options:
            return True
        if "default_permissions" not in mount.options:
            raise CannotTell(f"{path}: a program decides ({kind})")
    for name in _FOREIGN:
        try:
            os.getxattr(path, name)
        except OSError:
            # ENOTSUP, ENODATA: there is none.
            continue
        raise CannotTell(f"{path}: a list of another kind decides ({name})")
    return False
