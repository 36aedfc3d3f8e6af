"""Who lives on this host?  A user with a home, a file in it, and a connection that they hold."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.hosts import Person, listen, login
from helpers.installed import readable_folder
from helpers.machine import only_if_others_can_read_it, only_root, program, run, skip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

class Resident(NamedTuple):
    """A user with a home."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def file(self) -> Path:
        """The file in their home that counts where there is no other."""
        return self.home / ".oidentd.conf"

    @property
    def other_file(self) -> Path:
        """The file that counts before that one."""
        return self.home / ".config" / "oidentd.conf"

    def write(self, text: str, path: Path | None = None) -> Path:
        """Write a file of his, as if he had long finished doing so: nobody waits for more to come."""
        path = path or self.file
        if not path.parent.exists():
            path.parent.mkdir()
            os.chown(path.parent, self.uid, self.gid)
        path.write_bytes(text.encode("latin-1"))
        os.chown(path, self.uid, self.gid)
        os.utime(path, (time.time() - 60,) * 2)
        return path

    @property
    def who(self) -> dict[str, Any]:
        """What makes subprocess start a program as them."""
        return {"user": self.uid, "group": self.gid, "extra_groups": [], "cwd": "/"}


@contextlib.contextmanager
def resident() -> Iterator[Resident]:
    """Add a user with a home that everyone may search, and delete both afterwards; or skip where that can't be."""
    only_root()
    program("useradd")
    only_if_others_can_read_it()
    with readable_folder() as folder, login() as user:
        home = folder / "home"
        home.mkdir()
        os.chown(home, user.pw_uid, user.pw_gid)
        home.chmod(0o755)
        run(program("usermod"), "--home", str(home), user.pw_name)
        yield Resident(user.pw_name, user.pw_uid, user.pw_gid, home)


@contextlib.contextmanager
def connected(uid: int) -> Iterator[str]:
    """A connection that a user holds, as ``PORT-ON-SERVER,PORT-ON-CLIENT``."""
    with listen("127.0.0.1") as listener, Person(uid) as person:
        ours, far = person.dial(listener.getsockname())
        yield f"{ours[1]},{far[1]}"


def access_list(own: int, users: dict[int, int], group: int, groups: dict[int, int], mask: int, others: int) -> bytes:
    """Return an access control list (acl(5)) as setxattr(2) takes it, in the kernel's order. :param users: by uid."""
    entries = [
        (0x01, own, 0xFFFFFFFF),
        *((0x02, permissions, uid) for uid, permissions in sorted(users.items())),
        (0x04, group, 0xFFFFFFFF),
        *((0x08, permissions, gid) for gid, permissions in sorted(groups.items())),
        (0x10, mask, 0xFFFFFFFF),
        (0x20, others, 0xFFFFFFFF),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def set_access_list(path: Path, content: bytes) -> None:
    """Give a file a list, or skip where its file system takes none."""
    try:
        os.setxattr(path, "system.posix_acl_access", content)
    except OSError as error:
        skip(f"needs a file system with access control lists: {error}")


@contextlib.contextmanager
def system_file(text: str) -> Iterator[Path]:
    """A system file that everyone may read."""
    with readable_folder() as folder:
        path = folder / "oidentd.conf"
        path.write_text(text)
        yield path
