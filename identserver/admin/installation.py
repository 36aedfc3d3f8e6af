"""Can the user who serves read this installation, and does each query of theirs compile it anew?"""

from __future__ import annotations

import importlib.util
import os
import pwd
import stat
import sys
from typing import NamedTuple

import lookup

from ..closed import Unreadable, first_closed, needed
from ..options import UsageError
from ..privileges import drop_privileges
from .fresh import SCRIPT
from .printing import WARNING, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..options import Options

#: Octets of what a child may find.
_MOST = 65536


class Findings(NamedTuple):
    """What was found of the installation, for one user; ``""`` where nothing is in the way."""

    user: str
    unreadable: str
    #: Why each query compiles it anew.
    uncompiled: str
    #: What keeps others from it, where it was looked at as an ordinary user.
    closed_to_others: str = ""
    #: Root tries it in a clone under a closed home, or the like: nobody asked that others serve from there.
    is_a_trial: bool = False


def look(options: Options, for_others: bool = True) -> Findings:
    """Return what keeps the user who serves from the installation (as root: --user, else nobody).

    :param for_others: whether others may come to serve, too: there is no unit that names the user.
    :raises UsageError: there is no such user. :raises OSError: root can't be given up.
    """
    lookup.import_all()
    paths = list(_paths())
    if os.geteuid() != 0:
        unreadable, uncompiled = _found(paths)
        lacking = _closed_to_others(paths) if for_others and not unreadable else ""
        return Findings(_own_name(), unreadable, uncompiled, lacking)
    unreadable, uncompiled, on_the_way = as_another(options.user, options.group, paths)
    is_a_trial = bool(on_the_way) and for_others and options.user is None
    return Findings(options.user or "nobody", unreadable, uncompiled, is_a_trial=is_a_trial)


def tell(found: Findings) -> None:
    """Print what keeps the user who serves from the installation."""
    if found.is_a_trial:
        row("install", f"asked as root: identd can't serve from here as {found.user}: {found.unreadable}", WARNING)
    elif found.unreadable:
        row("error", f"identd can't run as {found.user}: {found.unreadable}")
    elif found.closed_to_others:
        lacking = found.closed_to_others
        row("install", f"identd can't run as another user, such as nobody: {lacking}", WARNING)
    if found.uncompiled and not found.unreadable:
        row("install", f"{found.user} compiles identd at each query: {found.uncompiled}", WARNING)
        top = os.path.dirname(SCRIPT)
        row("", f"as root, run `{sys.executable} -m compileall -q {top}/identserver {top}/lookup`")


def _top() -> str:
    """Return the installation's own folder: a virtual environment, or a clone."""
    folder = os.path.dirname(SCRIPT)
    return sys.prefix if folder.startswith(f"{sys.prefix}/") and sys.prefix != sys.base_prefix else folder


def _own_name() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def as_another(user: str | None, group: str | None, paths: list[tuple[str, str]]) -> tuple[str, str, str]:
    """Return what another user finds, tried by a child that becomes that user; ``""`` for what is not in the way.

    These are what can't be read, why each query compiles it anew, and what is closed above our installation.

    :param user: see `drop_privileges`. :param paths: see `closed.needed`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, "\0".join(_becoming(user, group, paths)).encode("utf-8", "surrogateescape")[:_MOST])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read(_MOST).decode("utf-8", "surrogateescape")
    os.waitpid(child, 0)
    unreadable, uncompiled, on_the_way, *_ = [*said.split("\0"), "", ""]
    return unreadable, uncompiled, on_the_way


def _becoming(user: str | None, group: str | None, paths: list[tuple[str, str]]) -> tuple[str, str, str]:
    """Become a user for good, and return what `as_another` does."""
    try:
        try:
            drop_privileges(user, group)
            found = _found(paths)
        except Unreadable as error:
            # That user by now.
            found = (str(error.strerror), "")
        # Not the installation's own folder: what was made under umask 077 is no home. "Folder/file": it is passed
        # through, nobody lists it.
        return (*found, first_closed([("identd", f"{os.path.dirname(_top())}/folder/file")]))
    except (OSError, UsageError) as error:
        # EPERM: a sandbox.
        return getattr(error, "strerror", "") or str(error), "", ""


def _found(paths: list[tuple[str, str]]) -> tuple[str, str]:
    """Return what keeps this user from the installation, and why they can't use its byte code; ``""``: nothing."""
    unreadable = first_closed(paths)
    return unreadable, "" if unreadable else next(filter(None, (_uncompiled(path) for _, path in paths)), "")


def _paths() -> Iterator[tuple[str, str]]:
    """Yield whose file it is, and its path, for all that identd consists of: the interpreter comes first."""
    yield "Python", sys.executable
    yield from needed()
    yield "identd", SCRIPT
    top = os.path.dirname(SCRIPT)
    for package in ("identserver", "lookup"):
        for folder, folders, files in os.walk(os.path.join(top, package)):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            yield from (("identd", os.path.join(folder, name)) for name in sorted(files) if name.endswith(".py"))


def _closed_to_others(paths: list[tuple[str, str]]) -> str:
    return next(filter(None, (closed_to_others(path) for _, path in paths)), "")


def closed_to_others(path: str) -> str:
    """Return what keeps users without any rights from a file, as far as modes tell; ``""``: nothing does."""
    real = os.path.realpath(path)
    # A link's own folders matter too: an interpreter in a virtual environment is one.
    for each in dict.fromkeys((os.path.abspath(path), real)):
        folder = ""
        for name in os.path.dirname(each).split("/"):
            folder = os.path.join(folder or "/", name)
            if lacking := _lacking(folder, stat.S_IXOTH, "x"):
                return lacking
    return _lacking(real, stat.S_IROTH, "r")


def _lacking(path: str, bit: int, letter: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # ENOENT: a missing file is not one that is closed.
        return ""
    return "" if mode & bit else f"{path} has mode {stat.S_IMODE(mode):04o}, which lacks o+{letter}"


def _uncompiled(path: str) -> str:
    """Return why one of our modules is compiled anew by this user; ``""``: it is not, or identd has no part in it."""
    module = next((one for one in list(sys.modules.values()) if getattr(one, "__file__", None) == path), None)
    # The script itself is never kept as byte code; and what a query does not import does not matter.
    if module is None or path == SCRIPT or not path.startswith(os.path.dirname(SCRIPT)):
        return ""
    cached = importlib.util.cache_from_source(path)
    folder = os.path.dirname(cached)
    if os.access(cached, os.R_OK):
        return ""
    # What is not there yet is written by the first query, where it may.
    may_write = os.access(folder if os.path.isdir(folder) else os.path.dirname(folder), os.W_OK)
    return "" if may_write and not sys.dont_write_bytecode else f"{cached} can be neither read nor written"
