"""What does the owner wish to be called?  The two files in his home, read without trusting them.

Whoever calls has the privileges that the files are to be read with; nothing here changes them.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from .grammar import ConfigError, parse_user

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .grammar import UserBlock

#: Below the home directory; the second counts only where the first can't be used.
FILES = (".config/oidentd.conf", ".oidentd.conf")

#: Octets. A bouncer with a thousand connections writes 60 KiB; what is larger is no such file.
MAX_SIZE = 64 * 1024

#: Seconds. Bouncers truncate their file and write it anew, so one that is empty or does not parse may be whole a
#: moment later; and how long ago the last change must be for that to be out of the question.
PATIENCE, SETTLED = 0.2, 1.0

#: Seconds since the last change after which a file that parses is taken to be whole: a cut may fall between two
#: blocks. Longer than a writer that has to wait for a processor, and than the kernel's clock for files lags (10 ms).
QUIET = 0.05

#: Seconds between two readings of a file that is being written.
_PAUSE = 0.005


class Wishes:
    """What was found: ``blocks`` to choose from, the ``path`` that they stand in, and why files were passed over.

    ``error``: what is wrong with that file. ``notes`` are pairs of (worth a line in the log, text), ``error`` among
    them; a file that is not there is not worth one.
    """

    __slots__ = ("blocks", "error", "notes", "path")

    def __init__(self) -> None:
        self.blocks: list[UserBlock] = []
        self.error: ConfigError | None = None
        self.path = ""
        self.notes: list[tuple[bool, str]] = []


class _Unusable(Exception):
    """The file can't be opened for use; the next one may be. ``args``: log it, why."""


def read(uid: int, home: str, kept: Callable[[str], str] | None = None) -> Wishes:
    """Return what a user's own file asks for.

    May block for `PATIENCE`, as `parse_user` does, and as the file system does (NFS); the caller holds the deadline.

    :param uid: of the owner, whose the file must be (after following links).
    :param home: his home directory; ``""`` or a relative one: he has none.
    :param kept: says what keeps another reader from a file (``""``: nothing does), to find what that reader would.
    """
    found = Wishes()
    for name in FILES if home.startswith("/") else ():
        path = os.path.join(home, name)
        try:
            if kept is not None and (why := kept(path)):
                raise _Unusable(False, why)
            found.blocks = _read_whole(path, uid)
        except _Unusable as reason:
            found.notes.append((reason.args[0], f"{path}: {reason.args[1]}"))
            continue
        except ConfigError as error:
            found.error = error
            found.notes.append((True, str(error)))
        found.path = path
        break
    return found


def _read_whole(path: str, uid: int) -> list[UserBlock]:
    """Read and parse one file, again and again while somebody writes it; the first content that says something counts.

    :raises ConfigError: it does not parse. :raises _Unusable: it is not to be read.
    """
    errors: dict[bytes, ConfigError | None] = {}
    for content in _contents(path, uid):
        if content in errors:
            continue
        try:
            blocks = parse_user(content, path)
        except ConfigError as error:
            errors[content] = error
            continue
        if blocks:
            return blocks
        errors[content] = None
    for why in filter(None, errors.values()):
        raise why
    return []


def _contents(path: str, uid: int) -> Iterator[bytes]:
    """Give what may be the whole of a file: at once what was left alone for `QUIET`.

    While nobody takes that, look again for as long as our patience lasts, and give all that was seen in the end.

    :raises _Unusable: it is not to be read.
    """
    deadline = time.monotonic() + PATIENCE
    seen: dict[bytes, float] = {}
    while True:
        content, age = _read(path, uid)
        # A time in the future is no writer's.
        settled = abs(age) > SETTLED
        if settled or age >= QUIET:
            yield content
        if settled:
            return
        seen[content] = max(age, seen.get(content, age))
        if time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    for content in _best_first(seen):
        yield content
        # To parse it may take long where host names are looked up.
        if time.monotonic() > deadline + PATIENCE:
            return


def _best_first(seen: dict[bytes, float]) -> list[bytes]:
    """Return what a file held while it was being written, what is most likely whole before the rest.

    What another content begins with is probably half of that; and what was left alone longest is probably whole.

    :param seen: for each content the seconds that it rested.
    """

    def worth(content: bytes) -> tuple[bool, float]:
        is_half = any(other.startswith(content) for other in seen if other != content)
        return not is_half, seen[content]

    return sorted(seen, key=worth, reverse=True)


def _read(path: str, uid: int) -> tuple[bytes, float]:
    """Return a file's content, and for how many seconds it has been that.

    :raises _Unusable: it is not to be read.
    """
    try:
        # Before it is opened too, for that alone has effects on a FIFO, a tape, a watchdog.
        _check(os.stat(path), uid)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        # ENOENT, ENOTDIR: he has none. EACCES: it, or his home, is not for us to read: his choice.
        quiet = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
        # ELOOP, EIO, ESTALE, ENAMETOOLONG ...: something is wrong there.
        raise _Unusable(not quiet, error.strerror) from None
    try:
        # A link may point elsewhere by now; what was opened no longer changes.
        _check(os.fstat(fd), uid)
        content = b""
        # A file may be shorter than it was, or grow without end.
        while len(content) <= MAX_SIZE and (more := os.read(fd, MAX_SIZE + 1 - len(content))):
            content += more
        # Asked last: no change up to now has been missed, not even one while it was read.
        age = time.time() - os.fstat(fd).st_mtime
    except OSError as error:
        # EIO, ESTALE: its file system failed.
        raise _Unusable(True, error.strerror) from None
    finally:
        os.close(fd)
    if len(content) > MAX_SIZE:
        raise _Unusable(True, f"larger than {MAX_SIZE} octets")
    return content, age


def _check(status: os.stat_result, uid: int) -> None:
    """Raise `_Unusable` where a file is not regular, or not the owner's."""
    if not stat.S_ISREG(status.st_mode):
        raise _Unusable(True, "not a regular file")
    if status.st_uid != uid:
        raise _Unusable(True, f"belongs to uid {status.st_uid}, not to the owner of the connection ({uid})")
