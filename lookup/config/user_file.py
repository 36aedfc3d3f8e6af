"""Which file of a user's counts, how is it read, and what does it say?

There are two in a home, and neither is trusted. They are read with the privileges that the process has; nothing here
changes them. `fetch` reads, and may do so in a process that became the owner; `parse` understands what was read.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from ..errors import ConfigError, IdentError
from .grammar import parse_user

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .blocks import UserBlock
    from .words import Notice

    #: Returns the blocks of a file, and whether that is all that can be known of them.
    Parse = Callable[[bytes, str], list[UserBlock]]

#: Below the home directory; the second counts only where the first can't be used.
FILES = (".config/oidentd.conf", ".oidentd.conf")

#: Octets. A bouncer with a thousand connections writes 60 KiB; what is larger is not such a file.
MAX_SIZE = 64 * 1024

#: Seconds. Bouncers truncate their file and write it anew, so one that is empty or does not parse may be whole a
#: moment later; and how long ago the last change must be for that to be out of the question.
PATIENCE, SETTLED = 0.2, 1.0

#: Seconds since the last change after which a file that parses is taken to be whole: a cut may fall between two
#: blocks. Longer than a writer that has to wait for a processor, and than the kernel's clock for files lags (10 ms).
QUIET = 0.05

#: Seconds between two readings of a file that is being written.
_PAUSE = 0.005

_NOT_REGULAR = "not a regular file"
_HIDDEN = "hidden from this process (ProtectHome= in a unit does that)"


class Fetched:
    """What was read of a user's files: plain data, whoever read it.

    ``path``: of the file that counts (``""``: there is none); ``content``: its octets; ``notes``: why files were passed
    over, as pairs of (worth a line in the log, text): that a file is not there is not worth one.
    """

    __slots__ = ("blocks", "content", "notes", "path")

    def __init__(self, path: str = "", content: bytes | None = None) -> None:
        self.path = path
        self.content = content
        self.notes: list[tuple[bool, str]] = []
        #: What the content says, where that is known already. It is not dumped: it spares this process a second parse.
        self.blocks: list[UserBlock] | None = None

    def dump(self) -> bytes:
        """Return the data as octets, for a pipe.

        dump  = path content *note      ; each a field: its length in four octets, and that many octets
        note  = ( "!" / "-" ) text      ; whether it is worth a line in the log
        """
        notes = (("!" if logged else "-") + text for logged, text in self.notes)
        fields = [_encode(self.path), self.content or b"", *map(_encode, notes)]
        return b"".join(len(field).to_bytes(4, "big") + field for field in fields)

    @classmethod
    def load(cls, dump: bytes) -> Fetched:
        """Return what was dumped.

        :raises ValueError: that is not a whole dump: who wrote it did not come to its end.
        """
        fields, at = [], 0
        while at < len(dump):
            end = at + 4 + int.from_bytes(dump[at : at + 4], "big")
            fields.append(dump[at + 4 : end])
            at = end
        if at != len(dump) or len(fields) < 2:
            raise ValueError("not a whole dump of a user's file")
        path = _decode(fields[0])
        fetched = cls(path, fields[1] if path else None)
        fetched.notes = [(note[:1] == b"!", _decode(note[1:])) for note in fields[2:]]
        return fetched


def _encode(text: str) -> bytes:
    # A path may hold any octets, which Python has as surrogates.
    return text.encode("utf-8", "surrogatepass")


def _decode(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogatepass")


class UserFile:
    """What a user's file says.

    ``blocks`` to choose from; ``path``: the file (``""``: none counts); ``error``: what is wrong with it, so that none
    of it counts; ``notes``: as `Fetched` has them, ``error`` among them.
    """

    __slots__ = ("blocks", "error", "notes", "path")

    def __init__(self, path: str = "", blocks: list[UserBlock] | None = None) -> None:
        self.path = path
        self.blocks = blocks or []
        self.error: ConfigError | None = None
        self.notes: list[tuple[bool, str]] = []

    def report(self) -> list[tuple[bool, str]]:
        """Return what became of the user's files: the notes, and what was read in the end."""
        last = f"read {self.path}" if self.path else "the owner has no file that counts"
        if self.error is not None:
            last = f"nothing in {self.path} counts until that is corrected"
        return [*self.notes, (False, last)]


class _Unusable(Exception):
    """The file can't be used; the next one may be.

    ``args``: whether that is worth a line in the log; why; and whether it looks as if there were none for us.
    """


def fetch(uid: int, home: str, kept: Callable[[str], str] | None = None, parse: Parse = parse_user) -> Fetched:
    """Read the file of a user that counts, with the privileges that the process has. No host name is resolved.

    That there is no file, or that it is closed to us, is an answer: its owner wishes nothing. Everything else may hide
    a file that says anything.

    May block for `PATIENCE`, and as the file system does (NFS); the caller holds the deadline.

    :param uid: the owner's: the file must be theirs (after following links).
    :param home: their home directory; ``""`` or a relative one: they have none.
    :param kept: returns what keeps another reader from a file (``""``: nothing does), to find what that reader would.
    :param parse: `grammar.parse_user`, or what remembers its results.
    :raises IdentError: what the file says could not be found out.
    """
    fetched = Fetched()
    for name in FILES if home.startswith("/") else ():
        path = os.path.join(home, name)
        try:
            if kept is not None and (why := kept(path)):
                raise _Unusable(False, why, False)
            _read_whole(path, uid, fetched, parse)
        except _Unusable as reason:
            if reason.args[2] and _is_hidden(path, home, uid):
                raise IdentError(f"{path}: {_HIDDEN}", uid) from None
            fetched.notes.append((reason.args[0], f"{path}: {reason.args[1]}"))
            continue
        except OSError as error:
            # EIO, ESTALE, EMFILE, ENFILE, ENOMEM, ELOOP, ENAMETOOLONG ...: a file may be there, and say "hide".
            raise IdentError(f"{path}: {error.strerror}", uid) from None
        fetched.path = path
        break
    return fetched


def parse(fetched: Fetched, notices: list[Notice] | None = None) -> UserFile:
    """Return what the file says that was read. May block as `parse_user` does, on host names.

    :param notices: takes what its author surely did not mean.
    """
    found = UserFile(fetched.path)
    found.notes += fetched.notes
    if fetched.blocks is not None and notices is None:
        found.blocks = fetched.blocks
    elif fetched.content is not None:
        try:
            found.blocks = parse_user(fetched.content, fetched.path, notices)
        except ConfigError as error:
            found.error = error
            found.notes.append((True, str(error)))
    return found


def read(
    uid: int, home: str, kept: Callable[[str], str] | None = None, notices: list[Notice] | None = None
) -> UserFile:
    """Fetch and parse in one, with what they raise."""
    return parse(fetch(uid, home, kept), notices)


def _is_hidden(path: str, home: str, uid: int) -> bool:
    """Return whether a sandbox keeps a file from us. :raises IdentError: that can't be found out."""
    from .sandbox import hides  # only where there is no file

    try:
        return hides(path, home)
    except OSError as error:
        # EIO and the like, on the way there or in /proc. ENOENT, EACCES: there is no /proc for us.
        raise IdentError(f"{path}: whether it is hidden from this process: {error.strerror}", uid) from None


def _read_whole(path: str, uid: int, fetched: Fetched, parse: Parse) -> None:
    """Read one file, again and again while somebody writes it, until its content parses and says something.

    If none does in time, the content that counts is the first one that does not parse: it is an error.

    :raises _Unusable: it must not be read. :raises OSError: whether it may be read could not be found out.
    """
    errors: dict[bytes, bool] = {}
    for content in _contents(path, uid):
        if content in errors:
            continue
        try:
            blocks = parse(content, path)
        except ConfigError:
            errors[content] = True
            continue
        if blocks:
            fetched.content, fetched.blocks = content, blocks
            return
        errors[content] = False
    fetched.content = next((content for content, error in errors.items() if error), b"")


def _contents(path: str, uid: int) -> Iterator[bytes]:
    """Yield what may be the whole of a file: at once what was left alone for `QUIET`.

    While nobody takes that, look again until `PATIENCE` is over, and then yield all that was seen.

    :raises _Unusable, OSError: as `_read`.
    """
    deadline = time.monotonic() + PATIENCE
    seen: dict[bytes, float] = {}
    while True:
        content, age = _read(path, uid)
        # A time in the future is not that of a change.
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
        # To parse it may take long where names of services are looked up.
        if time.monotonic() > deadline + PATIENCE:
            return


def _best_first(seen: dict[bytes, float]) -> list[bytes]:
    """Return what a file held while it was being written; what is most likely whole comes first.

    What another content begins with is probably half of that; and what was left alone longest is probably whole.

    :param seen: for each content the seconds that it rested.
    """

    def worth(content: bytes) -> tuple[bool, float]:
        is_half = any(other.startswith(content) for other in seen if other != content)
        return not is_half, seen[content]

    return sorted(seen, key=worth, reverse=True)


def _read(path: str, uid: int) -> tuple[bytes, float]:
    """Return a file's content, and for how many seconds it has been that.

    :raises _Unusable: it must not be read. :raises OSError: the file system, or this host, fails.
    """
    try:
        # Before it is opened too: to open a FIFO, a tape or a watchdog has effects.
        _check(os.stat(path), uid, path)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        # ENOENT, ENOTDIR: they have none. EACCES: it, or their home, is closed to us: their choice.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            raise _Unusable(False, error.strerror, True) from None
        # ENXIO, ENODEV: it was changed for a socket or a device after we had looked.
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise _Unusable(True, _NOT_REGULAR, False) from None
        raise
    try:
        # A link may point elsewhere by now; what was opened no longer changes.
        _check(os.fstat(fd), uid, path)
        content = b""
        # A file may be shorter than it was, or grow without end.
        while len(content) <= MAX_SIZE and (more := os.read(fd, MAX_SIZE + 1 - len(content))):
            content += more
        # Asked last: no change up to now has been missed, not even one while it was read.
        age = time.time() - os.fstat(fd).st_mtime
    finally:
        os.close(fd)
    if len(content) > MAX_SIZE:
        raise _Unusable(True, f"larger than {MAX_SIZE} octets", False)
    return content, age


def _check(status: os.stat_result, uid: int, path: str) -> None:
    """Raise `_Unusable` where a file is not regular, or not the owner's."""
    if not stat.S_ISREG(status.st_mode):
        raise _Unusable(True, _NOT_REGULAR, False)
    if status.st_uid != uid:
        from .sandbox import is_a_cover  # few files are another's

        if is_a_cover(path, status):
            raise OSError(errno.EPERM, _HIDDEN)
        raise _Unusable(True, f"belongs to uid {status.st_uid}, not to the owner of the connection ({uid})", False)
