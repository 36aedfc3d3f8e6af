"""What is wrong with the system file, and with a user's file?"""

from __future__ import annotations

import os

from lookup.config import system_file, user_file
from lookup.config.grammar import only_ours
from lookup.connection import ConfigError, IdentError, Unknown
from lookup.users import names

from ..privileges import become_owner
from .access import UNTOLD, fetch_as_nobody, kept_from_nobody, why_not_nobody, without_home
from .other_files import check_other_files
from .people import uid_of
from .permissions import CannotTell
from .printing import show
from .units import hiding

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.config.blocks import System
    from lookup.config.words import Notice

    from ..options import Options


def check_files(options: Options) -> bool:
    """Print what is wrong with the system file, and with --user with that user's; return whether there is no error.

    With --user, a process of root becomes that user for good, to read what they can read.

    :raises UsageError: there is no such user. :raises IdentError: root could not be given up.
    """
    right, system = _check_system_file(options)
    if options.masquerade or options.proxy:
        from .machines import check_machines  # few have these options

        right = check_machines(options) and right
    if options.user is None:
        return right
    return _check_users_files(options, uid_of(options.user), system) and right


def _check_system_file(options: Options) -> tuple[bool, System | None]:
    path, required = options.system_file, options.requires_system_file
    notices: list[Notice] = []
    error = None
    try:
        system = system_file.load(path, required, notices)
    except ConfigError as broken:
        error = broken
    _warn(notices)
    if options.oidentd:
        _list_only_ours(path, False)
    if error is not None:
        show(f"error: {error}")
        return False, None
    try:
        fix = kept_from_nobody(path, 0) if system else ""
    except CannotTell as error:
        show(f"system   whether an identd that is not started as root can read {path} {UNTOLD} ({error})")
    else:
        if fix:
            reason = f"an identd that is not started as root can't read it, and replies UNKNOWN-ERROR ({fix})"
            show(f"warning: {path}: {reason}")
    show(f"system   {path}" if system else f"system   no {path}: nobody may do anything")
    return system is None or not system.needs_key or _check_key(options), system


def _check_key(options: Options) -> bool:
    """Print what is wrong with the key of the pseudonyms; return whether it is right, as far as we can see."""
    from lookup.config import key  # few system files have pseudonyms

    found, path = key.read(options.key), key.place(options.key)
    if not isinstance(found, Unknown):
        show(f"key      {path}")
        return True
    if os.geteuid() != 0 and os.path.exists(path) and not os.access(path, os.R_OK):
        show(f"warning: the key {path} is not for uid {os.geteuid()}: whether it is right, root can check")
        return True
    show(f"error: pseudonyms are UNKNOWN-ERROR: {found.reason}")
    return False


def _check_users_files(options: Options, uid: int, system: System | None) -> bool:
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
    right = not any(is_error for is_error, _ in found.notes)
    if home.startswith("/"):
        right = check_other_files(uid, home, system, options.system_file, found.path) and right
    if options.oidentd and found.path:
        _list_only_ours(found.path, True)
    show(f"user     {found.path or 'no file that counts'}")
    return right


def _list_only_ours(path: str, of_user: bool) -> None:
    """Print what in a file oidentd does not understand."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        # ENOENT: there is none. What else there is, was said when it was read.
        return
    found = only_ours(data, path, of_user)
    for notice in found:
        show(f"oidentd  {notice}")
    if not found:
        show(f"oidentd  understands all of {path}")


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
