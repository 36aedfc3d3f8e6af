"""What is wrong with the system file, and with a user's file?"""

from __future__ import annotations

from lookup.config import system_file, user_file
from lookup.errors import ConfigError, IdentError
from lookup.users import names

from ..privileges import become_owner
from .access import UNTOLD, fetch_as_nobody, kept_from_nobody, why_not_nobody, without_home
from .people import uid_of
from .permissions import CannotTell
from .printing import show
from .units import hiding

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.config.words import Notice

    from ..options import Options


def check_files(options: Options) -> bool:
    """Print what is wrong with the system file, and with --user with that user's; return whether there is no error.

    With --user, a process of root becomes that user for good, to read what they can read.

    :raises UsageError: there is no such user. :raises IdentError: root could not be given up.
    """
    right = _check_system_file(options.system_file, options.requires_system_file)
    if options.user is None:
        return right
    return _check_users_file(uid_of(options.user)) and right


def _check_system_file(path: str, required: bool) -> bool:
    notices: list[Notice] = []
    error = None
    try:
        system = system_file.load(path, required, notices)
    except ConfigError as broken:
        error = broken
    _warn(notices)
    if error is not None:
        show(f"error: {error}")
        return False
    try:
        fix = kept_from_nobody(path, 0) if system else ""
    except CannotTell as error:
        show(f"system   whether an identd that is not started as root can read {path} {UNTOLD} ({error})")
    else:
        if fix:
            reason = f"an identd that is not started as root can't read it, and replies UNKNOWN-ERROR ({fix})"
            show(f"warning: {path}: {reason}")
    show(f"system   {path}" if system else f"system   no {path}: nobody may do anything")
    return True


def _check_users_file(uid: int) -> bool:
    home = names.home(uid)
    # Before root is given up, which it takes to try.
    nobodys = _read_by_nobody(uid, home)
    hides = hiding(home)
    become_owner(uid)
    notices: list[Notice] = []
    try:
        found = user_file.read(uid, home, notices=notices)
    except IdentError as error:
        show(f"error: {error.detail}")
        return False
    if why := without_home(home):
        show(f"file     {why}")
    else:
        for is_error, note in found.notes:
            show(f"error: {note}" if is_error else f"file     {note}")
    if found.path and isinstance(nobodys, CannotTell):
        show(f"file     whether an identd of another user, such as nobody, can read {found.path} {UNTOLD} ({nobodys})")
    elif found.path and found.path != nobodys:
        show(f"warning: {found.path}: {why_not_nobody(found.path, uid)}")
    for unit, setting in hides if found.path else ():
        show(f"warning: {found.path}: {unit} hides it ({setting}), and identd does not know there what it says")
    _warn(notices)
    show(f"user     {found.path or 'no file that counts'}")
    return not any(is_error for is_error, _ in found.notes)


def _read_by_nobody(uid: int, home: str) -> str | CannotTell:
    """Return the path of the file that an identd reads that runs as nobody, or ``""``."""
    try:
        return fetch_as_nobody(uid, home).path
    except IdentError:
        return ""
    except CannotTell as error:
        return error


def _warn(notices: list[Notice]) -> None:
    for notice in sorted(notices, key=lambda notice: (notice.line, notice.column)):
        show(f"warning: {notice}")
