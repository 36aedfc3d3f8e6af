"""What do the files say that users have for older ident servers?

``~/.noident`` hides (pidentd, BSD); ``~/.fakeid`` (FreeBSD's inetd, midentd) and ``~/.ispoof`` (fakeidentd)
hold a reply.
"""

from __future__ import annotations

import errno
import os

from .registered import first_line
from .user_file import FAKEID, NOIDENT, UNREAD, Unusable, contents, is_hidden, look

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
        try:
            reply = _read(what, path, uid, kept)
        except Unusable as reason:
            if reason.args[1] != os.strerror(errno.ENOENT):
                fetched.notes.append((reason.args[0], f"{path}: {reason.args[1]}"))
            if reason.args[2] and is_hidden(path, home, uid):
                _unread(fetched, what, path, "hidden from this process")
            continue
        except OSError as error:
            # EIO, ESTALE, EMFILE, ENOMEM and the like: it may be there, and hide its owner.
            _unread(fetched, what, path, error.strerror)
            continue
        if reply or what == NOIDENT:
            fetched.others[what] = path, reply
        else:
            fetched.notes.append((True, f"{path}: its first line is empty"))


def _unread(fetched: Fetched, what: str, path: str, reason: str | None) -> None:
    fetched.others[what + UNREAD] = path, f"{path}: {reason}".encode("utf-8", "surrogatepass")


def _read(what: str, path: str, uid: int, kept: Callable[[str], str] | None) -> bytes:
    """Return the reply in a file. :raises Unusable: it does not count. :raises OSError: that can't be found out."""
    if what == NOIDENT:
        # It need not be opened, and often is closed to others.
        look(path, uid)
        return b""
    if kept is not None and (why := kept(path)):
        raise Unusable(False, why, False)
    # While it is being written, its first line may be empty, or cut.
    return next((reply for content in contents(path, uid) if (reply := first_line(content))), b"")
