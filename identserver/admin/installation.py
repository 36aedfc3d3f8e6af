"""Can the user who serves read this installation, and does each query of theirs compile it anew?"""

from __future__ import annotations

import importlib.util
import os
import pwd
import stat
import sys

import lookup

from ..closed import first_closed, needed
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


def check_installation(options: Options, for_others: bool = True) -> None:
    """Print what keeps the user who serves from the installation (as root: --user, else nobody).

    :param for_others: whether others may come to serve, too, where we are not root.
    :raises UsageError: there is no such user. :raises OSError: root can't be given up.
    """
    lookup.import_all()
    paths = list(_paths())
    if os.geteuid() == 0:
        user = options.user or "nobody"
        unreadable, uncompiled = _as_another(options, paths)
    else:
        user = _own_name()
        unreadable, uncompiled = _found(paths)
        if for_others and not unreadable and (lacking := _closed_to_others(paths)):
            row("install", f"identd can't run as another user, such as nobody: {lacking}", WARNING)
    if unreadable:
        row("error", f"identd can't run as {user}: {unreadable}")
    elif uncompiled:
        row("install", f"{user} compiles identd at each query: {uncompiled}", WARNING)
        top = os.path.dirname(SCRIPT)
        row("", f"as root, run `{sys.executable} -m compileall -q {top}/identserver {top}/lookup`")


def _own_name() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _as_another(options: Options, paths: list[tuple[str, str]]) -> tuple[str, str]:
    """Return what the user who serves finds, tried by a child that becomes that user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            try:
                drop_privileges(options.user, options.group)
                found = _found(paths)
            except (OSError, UsageError) as error:
                # `closed.Unreadable`; EPERM: a sandbox.
                found = (getattr(error, "strerror", "") or str(error), "")
            os.write(writing, "\0".join(found).encode("utf-8", "surrogateescape")[:_MOST])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read(_MOST).decode("utf-8", "surrogateescape")
    os.waitpid(child, 0)
    unreadable, _, uncompiled = said.partition("\0")
    return unreadable, uncompiled


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
