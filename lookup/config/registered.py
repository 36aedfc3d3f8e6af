"""Which reply has a program registered for its own connection?

It writes a file for each connection, so that programs of one user neither wait for each other nor undo each
other's work.
"""

from __future__ import annotations

import os

from .blocks import REGISTERED
from .user_file import Attempt, pass_over, read_once

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from .user_file import Also, Fetched


def add(
    fetched: Fetched, uid: int, home: str, folder: str, also: Also, kept: Callable[[str], str] | None = None
) -> None:
    """Add the reply that is registered for a connection, if there is one. Arguments are `user_file.fetch`'s.

    name = port-on-server "," port-on-client [ "," address-of-the-far-end ]   ; addresses as inet_ntop(3) writes them

    :param folder: where the files are.
    :raises IdentError: whether one is registered could not be found out.
    """
    ours, far, address, _ = also
    for name in ([f"{ours},{far},{address}"] if address else []) + [f"{ours},{far}"]:
        path = os.path.join(folder, name)
        # That nothing is registered is the rule.
        with Attempt(fetched, path, home, uid, notes_absence=False):
            pass_over(kept, path)
            reply = first_line(read_once(path, uid)[0])
            if reply:
                fetched.others[REGISTERED] = path, reply
                return
            fetched.notes.append((True, f"{path}: its first line is empty"))


def first_line(content: bytes) -> bytes:
    """Return the first line of a file that holds nothing but a reply, without blanks around it."""
    return content.partition(b"\n")[0].strip(b" \t\r")
