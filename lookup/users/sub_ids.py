"""Whose are the uids of a container?  (subuid(5))

A user may give the uids of their ranges to processes of their own, without any privilege. So what is limited for one
owner is limited for the user and these uids together.
"""

from __future__ import annotations

import os
from bisect import bisect_right

from .names import uid_of

#: Which ranges belong to whom.
SUBUID = "/etc/subuid"


class SubIds:
    """The ranges of uids, as SUBUID had them when it was read. It changes when users are added."""

    def __init__(self) -> None:
        #: In order: the first uid of each range, and with it the last, and the holder.
        self._firsts: list[int] = []
        self._ranges: list[tuple[int, int]] = []
        #: What showed any change of the file when it was read.
        self._seen: tuple[int, ...] = ()

    def holder(self, uid: int) -> int:
        """Return who may have given a uid to a process: the user with such a range, or the uid itself."""
        at = bisect_right(self._firsts, uid) - 1
        if at >= 0:
            last, holder = self._ranges[at]
            if uid <= last:
                return holder
        return uid

    def have_changed(self) -> bool:
        """Return whether the file is another one than was read last."""
        return _signature() != self._seen

    def read(self) -> None:
        """Read the file; a file that can't be read leaves everything as it was. May block as the name service does."""
        # Before it is read, so that a change meanwhile is noticed.
        self._seen = _signature()
        try:
            with open(SUBUID, "rb") as file:
                lines = file.readlines()
        except OSError:
            # ENOENT: nobody has such a range. EACCES, EMFILE and the like: what was known before is the best guess.
            return
        found = sorted(_understood(lines))
        # In this order: whoever looks meanwhile finds no range, or its own.
        self._firsts, self._ranges = [], []
        self._ranges = [(last, holder) for _, last, holder in found]
        self._firsts = [first for first, _, _ in found]


def _signature() -> tuple[int, ...]:
    try:
        status = os.stat(SUBUID)
    except OSError:
        # ENOENT, EACCES: none to see.
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _understood(lines: list[bytes]) -> list[tuple[int, int, int]]:
    # line = ( login name / uid ) ":" first uid ":" count
    holders: dict[bytes, int] = {}
    found = []
    for line in lines:
        name, *numbers = line.strip().split(b":")
        if len(numbers) != 2 or not all(number.isdigit() and len(number) <= 10 for number in numbers):
            continue
        first, count = map(int, numbers)
        if name not in holders:
            uid = int(name) if name.isdigit() and len(name) <= 10 else uid_of(name)
            # A name that nobody has, or that can't be asked for, still is one holder: a number that no uid is.
            holders[name] = uid if isinstance(uid, int) else -100 - len(holders)
        found.append((first, first + count - 1, holders[name]))
    return found
