"""Whose are the uids of a container?

A user may give the uids of their ranges (subuid(5)) to processes of their own, without any privilege. So what is
limited for one owner is limited for the user and these uids together.
"""

from __future__ import annotations

import os
from bisect import bisect_right

from ..connection import Unknown
from .names import uid_of

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

#: Which ranges belong to whom.
SUBUID = "/etc/subuid"


def owner_of(uid: int) -> int | Unknown | None:
    """Return whose range a uid is in; None: it is in nobody's. `Unknown`: in several people's, or that can't be told.

    The file is read now. May block as the name service does.
    """
    try:
        with open(SUBUID, "rb") as file:
            lines = [line for line in file.readlines() if _includes(line, uid)]
    except FileNotFoundError:
        # ENOENT: nobody has such a range.
        return None
    except OSError as error:
        # EACCES, EIO, EMFILE and the like: it may be in one.
        return Unknown(f"{SUBUID}: {error.strerror}")
    holders = {holder for *_, holder in _understood(lines)}
    if not holders:
        return None
    holder = holders.pop()
    if holders or holder < 0:
        named = ", ".join(sorted({os.fsdecode(line.partition(b":")[0].strip()) for line in lines}))
        return Unknown(f"{SUBUID}: uid {uid} is in ranges of {named}, and whose it is can't be told")
    return holder


def _includes(line: bytes, uid: int) -> bool:
    return any(first <= uid <= last for first, last, _ in _understood([line], lambda name: None))


class SubIds:
    """The ranges of uids, as SUBUID had them when it was read. It changes when users are added."""

    def __init__(self) -> None:
        #: In order: the first uid of each range; and for each the last, and the holder. Both at once, as other threads
        #: look while one reads.
        self._known: tuple[list[int], list[tuple[int, int]]] = [], []
        #: What showed any change of the file when it was read.
        self._seen: tuple[int, ...] = ()

    def holder(self, uid: int) -> int:
        """Return who may have given a uid to a process: the user with such a range, or the uid itself."""
        firsts, ranges = self._known
        at = bisect_right(firsts, uid) - 1
        if at >= 0:
            last, holder = ranges[at]
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
        self._known = [first for first, *_ in found], [(last, holder) for _, last, holder in found]


def _signature() -> tuple[int, ...]:
    try:
        status = os.stat(SUBUID)
    except OSError:
        # ENOENT, EACCES: none to see.
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _understood(
    lines: list[bytes], ask: Callable[[bytes], int | Unknown | None] = uid_of
) -> list[tuple[int, int, int]]:
    # line = ( login name / uid ) ":" first uid ":" count
    holders: dict[bytes, int] = {}
    found = []
    for line in lines:
        name, *numbers = line.strip().split(b":")
        if len(numbers) != 2 or not all(number.isdigit() and len(number) <= 10 for number in numbers):
            continue
        first, count = map(int, numbers)
        if name not in holders:
            uid = int(name) if name.isdigit() and len(name) <= 10 else ask(name)
            # A name that nobody has, or that can't be asked for, still is one holder: a number that no uid is.
            holders[name] = uid if isinstance(uid, int) else -100 - len(holders)
        found.append((first, first + count - 1, holders[name]))
    return found
