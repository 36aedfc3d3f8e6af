"""What of Python, of identd or of the packages that it needs can't this user read?

Root may read all of it, and whoever root becomes perhaps nothing: an interpreter in /root, an installation made under
umask 077. Python then says "No module named ...", which helps nobody.
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterable

#: The folder that holds the packages `identserver` and `lookup`.
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: One file in each folder of ours, and in those of Python's that are imported late.
_OURS = (
    "identserver/start.py", "identserver/warm/server.py", "identserver/admin/check.py", "lookup/owner.py",
    "lookup/config/policy.py", "lookup/kernel/sock_diag.py", "lookup/users/names.py",
)  # fmt: skip
_PYTHONS = ("os.py", "asyncio/base_events.py", "encodings/idna.py")


class Unreadable(OSError):
    """The user that we became can't read what identd needs; ``strerror`` says what."""


def needed() -> list[tuple[str, str]]:
    """Return what identd imports: whose it is, and a path. Called by who may read all of it, such as root."""
    found = [("identd", f"{_FOLDER}/{name}") for name in _OURS]
    library = os.path.dirname(os.__file__)
    found += [("Python", f"{library}/{name}") for name in _PYTHONS]
    for package in ("pyroute2", "psutil"):
        # Not imported: one of them may not be needed, and both take their time.
        for folder in sys.path:
            path = f"{folder}/{package}/__init__.py"
            if folder and os.path.exists(path):
                found.append((package, os.path.abspath(path)))
                break
    return found


def first_closed(paths: Iterable[tuple[str, str]]) -> str:
    """Return what this process' user can't read, and the first folder or file that is closed; ``""``: nothing.

    It is tried, so that access control lists count.

    :param paths: see `needed`.
    """
    seen: set[str] = set()
    for whose, path in paths:
        found = _closed(path, seen)
        if found:
            return f"uid {os.geteuid()} can't read {whose}: {found}"
    return ""


def why(error: ImportError) -> str:
    """Return why something could not be imported: what is closed to us, or what Python says."""
    return first_closed(needed()) or str(error)


def _closed(path: str, seen: set[str], links: int = 8) -> str:
    """Return which place on the way to a path is closed to us, and what its mode lacks; ``""``: none."""
    end = 0
    while end < len(path):
        end = path.find("/", end + 1)
        end = len(path) if end < 0 else end
        place = path[:end]
        if place in seen:
            continue
        try:
            status = os.stat(place)
        except PermissionError:
            # Each folder before it is open, so it is a link, and its target is in a folder that is closed.
            target = os.path.join(os.path.dirname(place), os.readlink(place))
            return _closed(os.path.abspath(target), seen, links - 1) if links else f"{place} can't be followed"
        except OSError:  # ENOENT: it is not there, or within an archive
            return ""
        # Python lists the folders that it imports from.
        wanted = os.X_OK if stat.S_ISDIR(status.st_mode) else os.R_OK
        if path.count("/", end) == 1:
            wanted |= os.R_OK
        if not os.access(place, wanted):
            return _lacking(place, status, wanted)
        seen.add(place)
    return ""


def _lacking(place: str, status: os.stat_result, wanted: int) -> str:
    """Say what the mode of a place lacks for us, or that it is not the mode."""
    ours = {status.st_gid} & {os.getegid(), *os.getgroups()}
    who, shift = ("u", 6) if status.st_uid == os.geteuid() else ("g", 3) if ours else ("o", 0)
    lacking = wanted & ~(status.st_mode >> shift)
    mode = f"{place} has mode {stat.S_IMODE(status.st_mode):04o}"
    if not lacking:
        return f"{mode}, but is closed all the same, by an access control list or its file system"
    letters = "r" * bool(lacking & os.R_OK) + "x" * bool(lacking & os.X_OK)
    return f"{mode}, which lacks {who}+{letters}: try `chmod {who}+{letters} {place}`, or install elsewhere"
