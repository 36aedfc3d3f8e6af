"""How does a user make a file system that never answers?  With FUSE, without fusermount: the kernel's own protocol.

It takes every request, and answers none but the first (fuse(4); linux/fuse.h). Whoever waits for one can't even be
killed, until the file system is given up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import threading
from typing import TYPE_CHECKING

from helpers.hosts import checked, libc
from helpers.machine import only_root, skip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_INIT = 26
_MNT_FORCE, _MNT_DETACH = 1, 2  # linux/fs.h


class Silence:
    """Where a file system hangs. ``requests``: how many it has taken."""

    def __init__(self, folder: Path, uid: int, gid: int) -> None:
        self._path = os.fsencode(folder)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = b"fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other" % (self._device, uid, gid)
        self.requests = 0
        self._over = threading.Event()
        try:
            checked(libc.mount(b"silence", self._path, b"fuse", ctypes.c_ulong(0), options))
        except OSError:
            os.close(self._device)
            raise
        self._thread = threading.Thread(target=self._take_everything, daemon=True)
        self._thread.start()

    def _take_everything(self) -> None:
        room = select.poll()
        room.register(self._device, select.POLLIN)
        while not self._over.is_set():
            if not room.poll(50):
                continue
            try:
                request = os.read(self._device, 1 << 20)
            except OSError:  # ENODEV: it was unmounted. ENOENT: whoever asked was killed before.
                continue
            opcode, unique = struct.unpack_from("=IQ", request, 4)
            if opcode == _INIT:
                reply = struct.pack("=IIIIHHIIHHI28x", 7, 31, 1 << 16, 0, 16, 12, 1 << 16, 1, 16, 0, 0)
                os.write(self._device, struct.pack("=IiQ", 16 + len(reply), 0, unique) + reply)
            else:
                self.requests += 1

    def end(self) -> None:
        """Give it up: whoever waits gets an error."""
        self._over.set()
        self._thread.join()
        libc.umount2(self._path, _MNT_FORCE | _MNT_DETACH)
        os.close(self._device)


@contextlib.contextmanager
def silence(folder: Path, uid: int, gid: int) -> Iterator[Silence]:
    """Mount such a file system over a folder, as a user's with ``allow_other``."""
    only_root()
    if not os.path.exists("/dev/fuse"):
        skip("needs /dev/fuse")
    try:
        mounted = Silence(folder, uid, gid)
    except OSError as error:
        skip(f"FUSE can't be mounted: {error}")
    try:
        yield mounted
    finally:
        mounted.end()
