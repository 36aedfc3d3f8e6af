"""Which of a user's other files have no effect, and why?"""

from __future__ import annotations

import errno
import os
import re

from lookup.config import older_files, registered, user_file
from lookup.config.blocks import FAKEID, NOIDENT, UNREAD
from lookup.config.parser import LONG, USUAL
from lookup.connection import pack, unpack

from .printing import show

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.config.blocks import System

#: What users ask for in an older server's file, and what else has to be allowed.
_NEEDED = {NOIDENT: ("hide", "noident"), FAKEID: ("spoof", "fakeid")}

#: Registered files that are named: a program that goes wrong may write thousands.
_MOST = 20


def check_other_files(uid: int, home: str, system: System | None, path: str, counts: str) -> bool:
    """Warn of what has no effect in a home; return whether nothing is wrong with the files that would have one.

    :param system: what the system file allows, and ``path``: where it is. :param counts: the user's file that counts.
    """
    fetched = user_file.Fetched()
    older_files.add(fetched, uid, home)
    for what, (older, reply) in fetched.others.items():
        kind = what.removesuffix(UNREAD)
        if not _allows(system, uid, frozenset(_NEEDED[kind])):
            allow = " ".join(f"allow {capability}" for capability in _NEEDED[kind])
            show(f"warning: {older}: it has no effect, as nothing in {path} has `{allow}` for this user")
        elif counts:
            show(f"warning: {older}: it has no effect, as {counts} counts")
        elif what != kind:
            fetched.notes.append((True, os.fsdecode(reply)))
        elif len(reply) > USUAL:
            show(f"warning: {older}: {LONG}")
    _check_registered(os.path.join(home, user_file.REGISTERED_IN), uid, system, path)
    for is_error, note in fetched.notes:
        show(f"error: {note}" if is_error else f"file     {note}")
    return not any(is_error for is_error, _ in fetched.notes)


def _allows(system: System | None, uid: int, capabilities: frozenset[str]) -> bool:
    """Return whether any block about a user allows them some capabilities."""
    if system is None:
        return False
    return any(one.capabilities >= capabilities for one in system.users.get(uid, system.default or []))


def _check_registered(folder: str, uid: int, system: System | None, path: str) -> None:
    """Warn of files that no query ever looks for, or whose reply is not sent as it stands there."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        # ENOENT, ENOTDIR: nothing is registered. EACCES and the like: queries report it.
        return
    # What is being written has any other name, and most give it a dot.
    names = [name for name in names if not name.startswith(".")]
    doubtful = [(name, why) for name in names if (why := _why_not(os.path.join(folder, name), uid))]
    for name, why in doubtful[:_MOST]:
        show(f"warning: {os.path.join(folder, name)}: {why}")
    if len(doubtful) > _MOST:
        show(f"warning: {folder}: {len(doubtful) - _MOST} more such files")
    if any(map(_is_a_connection, names)) and not _allows(system, uid, frozenset(("spoof",))):
        reason = f"as nothing in {path} has `allow spoof` for this user"
        show(f"warning: {folder}: nothing but the user's own login name counts there, {reason}")


def _why_not(path: str, uid: int) -> str:
    """Return why the reply in a registered file is not what an asker gets to see, or ``""``."""
    if not _is_a_connection(os.path.basename(path)):
        return "LPORT,FPORT or LPORT,FPORT,FADDRESS expected as its name"
    try:
        reply = registered.first_line(user_file.read_once(path, uid)[0])
    except user_file.Unusable as reason:
        # Connections end, and programs remove their files.
        return "" if reason.args[1] == os.strerror(errno.ENOENT) else str(reason.args[1])
    except OSError as error:
        # EIO, ESTALE, EMFILE, ENOMEM and the like.
        return error.strerror or str(error)
    if not reply:
        return "its first line is empty"
    return LONG if len(reply) > USUAL else ""


def _is_a_connection(name: str) -> bool:
    match = re.fullmatch(r"([1-9][0-9]{0,4}),([1-9][0-9]{0,4})(?:,(.+))?", name, re.ASCII)
    if match is None or max(int(match[1]), int(match[2])) > 65535:
        return False
    try:
        return match[3] is None or unpack(pack(match[3])[0]) == match[3]
    except ValueError:
        return False
