"""Can the user who serves read this installation, and does each query of theirs compile it anew?"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import stat
import sys

import lookup

from ..options import UsageError
from ..privileges import drop_privileges
from .fresh import SCRIPT
from .printing import WARNING, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..options import Options

#: What identd imports of others, as far as a user's rights can differ: a package each, and one of Python's own.
_OTHERS = ("asyncio", "encodings", "psutil", "pyroute2")

#: Octets of what a child may find.
_MOST = 65536


def check_installation(options: Options) -> None:
    """Print what keeps the user who serves from the installation (as root: --user, else nobody), or other users.

    :raises UsageError: there is no such user. :raises OSError: root can't be given up.
    """
    lookup.import_all()
    paths = list(_paths())
    if os.geteuid() == 0:
        user = options.user or "nobody"
        unreadable, uncompiled = _as_another(options, paths)
        if unreadable:
            row("error", f"identd can't run as {user}: {unreadable}")
    else:
        user = _own_name()
        unreadable, uncompiled = _found(paths)
        if unreadable:
            row("error", f"identd can't run as {user}: {unreadable}")
        elif for_others := next(filter(None, (closed(path, by_trying=False) for path in paths)), ""):
            row("install", f"identd can't run as another user, such as nobody: {for_others}", WARNING)
    if uncompiled and not unreadable:
        row("install", f"{user} compiles identd at each query: {uncompiled}", WARNING)
        top = os.path.dirname(SCRIPT)
        row("", f"as root, run `{sys.executable} -m compileall -q {top}/identserver {top}/lookup`")


def _own_name() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _as_another(options: Options, paths: list[str]) -> tuple[str, str]:
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


def _found(paths: list[str]) -> tuple[str, str]:
    """Return what keeps this user from the installation, and why they can't use its byte code; ``""``: nothing."""
    unreadable = next(filter(None, (closed(path, by_trying=True) for path in paths)), "")
    return unreadable, "" if unreadable else next(filter(None, map(_uncompiled, paths)), "")


def _paths() -> Iterator[str]:
    """Yield the files that identd consists of: the interpreter first, then the script, the packages, our modules."""
    yield sys.executable
    for name in ("os", *_OTHERS):
        # A package may be missing or hidden: that is an obstacle of its own.
        with contextlib.suppress(ImportError, ValueError, OSError):
            found = sys.modules.get(name) or importlib.util.find_spec(name)
            path = getattr(found, "__file__", None) or getattr(found, "origin", None)
            if path and path.endswith(".py"):
                yield path
    yield SCRIPT
    top = os.path.dirname(SCRIPT)
    for package in ("identserver", "lookup"):
        for folder, folders, files in os.walk(os.path.join(top, package)):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            yield from (os.path.join(folder, name) for name in sorted(files) if name.endswith(".py"))


def closed(path: str, by_trying: bool) -> str:
    """Return what keeps a user from reading a file, the first folder on the way there first; ``""``: nothing does.

    :param by_trying: this process' user is meant; else any other user, as far as modes tell.
    """
    real = os.path.realpath(path)
    # A link's own folder matters too: an interpreter in a virtual environment is one.
    for each in dict.fromkeys((os.path.abspath(path), real)):
        folder = ""
        for name in os.path.dirname(each).split("/"):
            folder = os.path.join(folder or "/", name)
            if not _may(folder, os.X_OK, stat.S_IXOTH, by_trying):
                return f"the folder {folder} is closed ({_mode(folder)} lacks o+x)"
    if not _may(real, os.R_OK, stat.S_IROTH, by_trying):
        return f"the file {real} can't be read ({_mode(real)} lacks o+r)"
    return ""


def _may(path: str, access: int, bit: int, by_trying: bool) -> bool:
    if by_trying:
        return os.access(path, access)
    try:
        return bool(os.stat(path).st_mode & bit)
    except OSError:
        # ENOENT: a missing file is not one that is closed.
        return True


def _mode(path: str) -> str:
    try:
        return f"mode {stat.S_IMODE(os.stat(path).st_mode):04o}"
    except OSError:
        # EACCES: above us. ENOENT: it has just gone.
        return "its mode"


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
