"""What do the files say that users have for older ident servers?

``~/.noident`` hides (pidentd, BSD); ``~/.fakeid`` (FreeBSD's inetd, midentd) and ``~/.ispoof`` (fakeidentd)
hold a reply.
"""

from __future__ import annotations

import os

from .blocks import FAKEID, NOIDENT, UNREAD
from .registered import first_line
from .user_file import Attempt, contents, look, pass_over

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from .user_file import Fetched

#: By what they are for; the first that can be used counts.
FILES = ((NOIDENT, ".noident"), (FAKEID, ".fakeid"), (FAKEID, ".ispoof"))


def add(fetched: Fetched, uid: int, home: str, kept: Callable[[str], str] | None = None) -> None:
    """Add what these files have. Arguments are `user_file.fetch`'s.

    One that could not be read is no error yet: the system file may not allow it to this user.
    """
    for what, name in FILES:
        path = os.path.join(home, name)
        if what in fetched.others or what + UNREAD in fetched.others:
            continue
        with _Attempt(what, fetched, path, home, uid, notes_absence=False):
            reply = _read(what, path, uid, kept)
            if reply or what == NOIDENT:
                fetched.others[what] = path, reply
            else:
                fetched.notes.append((True, f"{path}: its first line is empty"))


class _Attempt(Attempt):
    """One such file. Why it may say anything is kept: it matters only where the system file allows it."""

    def __init__(self, what: str, fetched: Fetched, path: str, home: str, uid: int, notes_absence: bool) -> None:
        super().__init__(fetched, path, home, uid, notes_absence)
        self._what = what

    def unknown(self, reason: str | None) -> None:
        text = f"{self.path}: {reason}".encode("utf-8", "surrogatepass")
        self.fetched.others[self._what + UNREAD] = self.path, text


def _read(what: str, path: str, uid: int, kept: Callable[[str], str] | None) -> bytes:
    """Return the reply in a file. :raises Unusable: it does not count. :raises OSError: that can't be found out."""
    if what == NOIDENT:
        # It need not be opened, and often is closed to others.
        look(path, uid)
        return b""
    pass_over(kept, path)
    # While it is being written, its first line may be empty, or cut.
    return next((reply for content in contents(path, uid) if (reply := first_line(content))), b"")
