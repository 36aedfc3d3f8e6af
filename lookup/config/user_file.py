"""Which file of a user's counts, how is it read, and what does it say?

There are two in a home, and neither is trusted. They are read with the privileges that the process has; nothing here
changes them. `fetch` reads, and may do so in a process that became the owner; `parse` understands what was read.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from ..connection import ConfigError, IdentError, Unknown, pack, unpack
from .blocks import EVERYWHERE, NOIDENT, UNREAD, Statement, UserBlock

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from ..connection import Address
    from .words import Notice

    #: Returns the blocks of a file, and whether that is all that can be known of them.
    Parse = Callable[[bytes, str], list[UserBlock]]

    #: A connection, and whether older servers' files count: port-on-server, port-on-client, the far end's address.
    Also = tuple[int, int, str, bool]

#: Below the home directory; the second counts only where the first can't be used.
FILES = (".config/oidentd.conf", ".oidentd.conf")

#: Where programs register the reply for a connection of their own, below the home directory.
REGISTERED_IN = ".config/identd"

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

    ``others``: what other files have, by what they are for (`REGISTERED`, `NOIDENT`, `FAKEID`), as pairs of path and
    reply; or with `UNREAD` after that, as path and the reason why it could not be read.
    """

    __slots__ = ("blocks", "content", "notes", "others", "path")

    def __init__(self, path: str = "", content: bytes | None = None) -> None:
        self.path = path
        self.content = content
        self.notes: list[tuple[bool, str]] = []
        self.others: dict[str, tuple[str, bytes]] = {}
        #: What the content says, where that is known already. It is not dumped: it spares this process a second parse.
        self.blocks: list[UserBlock] | None = None

    def dump(self) -> bytes:
        """Return the data as octets, for a pipe.

        dump  = path content *( note / other )      ; each a field: its length in four octets, and that many octets
        note  = ( "!" / "-" ) text                  ; whether it is worth a line in the log
        other = "+" what path reply                 ; three fields
        """
        notes = (("!" if logged else "-") + text for logged, text in self.notes)
        others = (field for what, (path, reply) in self.others.items()
                  for field in (b"+" + what.encode("ascii"), _encode(path), reply))
        fields = [_encode(self.path), self.content or b"", *map(_encode, notes), *others]
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
        rest = fields[2:]
        while rest:
            field = rest.pop(0)
            if field[:1] == b"+":
                other, reply, *rest = rest
                fetched.others[field[1:].decode("ascii")] = _decode(other), reply
            else:
                fetched.notes.append((field[:1] == b"!", _decode(field[1:])))
        return fetched


def _encode(text: str) -> bytes:
    # A path may hold any octets, which Python has as surrogates.
    return text.encode("utf-8", "surrogatepass")


def _decode(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogatepass")


class UserFile:
    """What a user's file says.

    ``blocks`` to choose from; ``path``: the file (``""``: none counts); ``error``: what is wrong with it, so that none
    of it counts; ``notes``: as `Fetched` has them, ``error`` among them; ``others``: what other files come to, as
    `Fetched` has them, `Unknown` for what could not be read.
    """

    __slots__ = ("blocks", "error", "notes", "others", "path")

    def __init__(self, path: str = "", blocks: list[UserBlock] | None = None) -> None:
        self.path = path
        self.blocks = blocks or []
        self.error: ConfigError | None = None
        self.notes: list[tuple[bool, str]] = []
        self.others: dict[str, UserBlock | Unknown] = {}

    @property
    def counts(self) -> str:
        """The file that counts first, whatever it holds; ``""``: there is none."""
        others = (other.path for other in self.others.values() if isinstance(other, UserBlock))
        return next(others, self.path)

    def report(self) -> list[tuple[bool, str]]:
        """Return what became of the user's files: the notes, and what was read in the end."""
        last = f"read {self.path}" if self.path else "the owner has no file that counts"
        if self.error is not None:
            last = f"nothing in {self.path} counts until that is corrected"
        others = [(False, f"read {other.path}") for other in self.others.values() if isinstance(other, UserBlock)]
        return [*self.notes, (False, last), *others]


class Unusable(Exception):
    """The file can't be used; the next one may be.

    ``args``: whether that is worth a line in the log; why; and whether it looks as if there were none for us.
    """


def fetch(
    uid: int, home: str, kept: Callable[[str], str] | None = None, parse: Parse | None = None, also: Also | None = None
) -> Fetched:
    """Read the file of a user that counts, with the privileges that the process has. No host name is resolved.

    That there is no file, or that it is closed to us, is an answer: its owner wishes nothing. Everything else may hide
    a file that says anything.

    May block for `PATIENCE`, and as the file system does (NFS); the caller holds the deadline.

    :param uid: the owner's: the file must be theirs (after following links).
    :param home: their home directory; ``""`` or a relative one: they have none.
    :param kept: returns what keeps another reader from a file (``""``: nothing does), to find what that reader would.
    :param parse: what does as `grammar.parse_user` does, which it is unless given.
    :param also: for which connection other files are looked at, too; None: for none.
    :raises IdentError: what the file says could not be found out.
    """
    fetched = Fetched()
    for name in FILES if home.startswith("/") else ():
        path = os.path.join(home, name)
        with Attempt(fetched, path, home, uid):
            pass_over(kept, path)
            _read_whole(path, uid, fetched, parse)
            fetched.path = path
            break
    if also is not None and home.startswith("/"):
        look_for_registered(fetched, uid, home, also, kept)
        if also[3] and not fetched.path:
            look_at_older(fetched, uid, home, kept)
    return fetched


def pass_over(kept: Callable[[str], str] | None, path: str) -> None:
    """Raise `Unusable` where another reader is kept from a file. :param kept: `fetch`'s."""
    if kept is not None and (why := kept(path)):
        raise Unusable(False, why, False)


class Attempt:
    """One file of a user's that may count. What reads it is in a ``with`` block, which ends where it does not count.

    Then the notes say why.
    """

    def __init__(self, fetched: Fetched, path: str, home: str, uid: int, notes_absence: bool = True) -> None:
        """:param fetched: has the notes. :param notes_absence: whether a file that is not there is worth one."""
        self.fetched, self.path = fetched, path
        self._home, self._uid, self._notes_absence = home, uid, notes_absence

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, Unusable):
            logged, why, is_absent = error.args
            if self._notes_absence or why != os.strerror(errno.ENOENT):
                self.fetched.notes.append((logged, f"{self.path}: {why}"))
            if is_absent and is_hidden(self.path, self._home, self._uid):
                self.unknown(_HIDDEN)
            return True
        if isinstance(error, OSError):
            # EIO, ESTALE, EMFILE, ENFILE, ENOMEM, ELOOP, ENAMETOOLONG ...: a file may be there, and say "hide".
            self.unknown(error.strerror)
            return True
        return False

    def unknown(self, reason: str | None) -> None:
        """Keep why the file may say anything. :raises IdentError: for the user's own file, nothing is known then."""
        raise IdentError(f"{self.path}: {reason}", self._uid) from None


def look_for_registered(
    fetched: Fetched, uid: int, home: str, also: Also, kept: Callable[[str], str] | None = None
) -> None:
    """Add what a program has registered for a connection. Arguments and what it raises are `fetch`'s."""
    folder = os.path.join(home, REGISTERED_IN)
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        # ENOENT, ENOTDIR: nobody registers. EACCES: it is closed to us, as their file would be.
        pass
    except OSError as error:
        # EIO, ESTALE, ENOMEM and the like: something may be registered.
        raise IdentError(f"{folder}: {error.strerror}", uid) from None
    else:
        from . import registered  # few owners register

        registered.add(fetched, uid, home, folder, also, kept)


def look_at_older(fetched: Fetched, uid: int, home: str, kept: Callable[[str], str] | None = None) -> None:
    """Add what older servers' files have, where no file of the user's own counts. Arguments are `fetch`'s."""
    from . import older_files  # few system files allow them

    older_files.add(fetched, uid, home, kept)


def others_of(server: Address, client: Address, older: bool) -> Also:
    """Return for which connection other files are looked at, given our end and the far end as ``(host, port)``.

    :param older: whether the system file allows those of older servers (`System.older`).
    :raises ValueError: the far end's host is not an address.
    """
    far = client[0].partition("%")[0]
    return server[1], client[1], unpack(pack(far)[0]) if far else "", older


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
            found.blocks = _parse_user(fetched.content, fetched.path, notices)
        except ConfigError as error:
            found.error = error
            found.notes.append((True, str(error)))
    if fetched.others:
        found.others = {what: _block(what, *other) for what, other in fetched.others.items()}
    return found


def _block(what: str, path: str, reply: bytes) -> UserBlock | Unknown:
    """Return what a file comes to that holds nothing but a reply, or nothing at all."""
    if what.endswith(UNREAD):
        return Unknown(_decode(reply))
    from .words import Words  # few users have such files

    words = Words(b"", path)
    statement = Statement("hide", (), words, 0) if what == NOIDENT else Statement("reply", (reply,), words, 0)
    return UserBlock(EVERYWHERE, statement, words, 0)


def read(
    uid: int, home: str, kept: Callable[[str], str] | None = None, notices: list[Notice] | None = None,
    also: Also | None = None,
) -> UserFile:  # fmt: skip
    """Fetch and parse in one, with what they raise."""
    return parse(fetch(uid, home, kept, also=also), notices)


def is_hidden(path: str, home: str, uid: int) -> bool:
    """Return whether a sandbox keeps a file from us. :raises IdentError: that can't be found out."""
    from .sandbox import hides  # only where there is no file

    try:
        return hides(path, home)
    except OSError as error:
        # EIO and the like, on the way there or in /proc. ENOENT, EACCES: there is no /proc for us.
        raise IdentError(f"{path}: whether it is hidden from this process: {error.strerror}", uid) from None


def _parse_user(content: bytes, path: str, notices: list[Notice] | None = None) -> list[UserBlock]:
    from .grammar import parse_user  # many users have no file

    return parse_user(content, path, notices)


def _read_whole(path: str, uid: int, fetched: Fetched, parse: Parse | None) -> None:
    """Read one file, again and again while somebody writes it, until its content parses and says something.

    If none does in time, the content that counts is the first one that does not parse: it is an error.

    :raises Unusable: it must not be read. :raises OSError: whether it may be read could not be found out.
    """
    errors: dict[bytes, bool] = {}
    for content in contents(path, uid):
        if content in errors:
            continue
        try:
            blocks = (parse or _parse_user)(content, path)
        except ConfigError:
            errors[content] = True
            continue
        if blocks:
            fetched.content, fetched.blocks = content, blocks
            return
        errors[content] = False
    fetched.content = next((content for content, error in errors.items() if error), b"")


def contents(path: str, uid: int) -> Iterator[bytes]:
    """Yield what may be the whole of a file: at once what was left alone for `QUIET`.

    While nobody takes that, look again until `PATIENCE` is over, and then yield all that was seen.

    :raises Unusable, OSError: as `read_once`.
    """
    deadline = time.monotonic() + PATIENCE
    seen: dict[bytes, float] = {}
    while True:
        content, age = read_once(path, uid)
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


def look(path: str, uid: int) -> None:
    """Make sure that a file may be read. :raises Unusable, OSError: as `read_once`."""
    try:
        check(os.stat(path), uid, path)
    except OSError as error:
        _translate(error)


def _translate(error: OSError) -> NoReturn:
    """Raise what it means that a file can't be opened, or looked at."""
    # ENOENT, ENOTDIR: they have none. EACCES: it, or their home, is closed to us: their choice.
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
        raise Unusable(False, error.strerror, True) from None
    # ENXIO, ENODEV: it was changed for a socket or a device after we had looked.
    if error.errno in (errno.ENXIO, errno.ENODEV):
        raise Unusable(True, _NOT_REGULAR, False) from None
    raise error


def read_once(path: str, uid: int) -> tuple[bytes, float]:
    """Return a file's content, and for how many seconds it has been that.

    :raises Unusable: it must not be read. :raises OSError: the file system, or this host, fails.
    """
    # Before it is opened too: to open a FIFO, a tape or a watchdog has effects.
    look(path, uid)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        _translate(error)
    try:
        # A link may point elsewhere by now; what was opened no longer changes.
        check(os.fstat(fd), uid, path)
        content = b""
        # A file may be shorter than it was, or grow without end.
        while len(content) <= MAX_SIZE and (more := os.read(fd, MAX_SIZE + 1 - len(content))):
            content += more
        # Asked last: no change up to now has been missed, not even one while it was read.
        age = time.time() - os.fstat(fd).st_mtime
    finally:
        os.close(fd)
    if len(content) > MAX_SIZE:
        raise Unusable(True, f"larger than {MAX_SIZE} octets", False)
    return content, age


def check(status: os.stat_result, uid: int, path: str) -> None:
    """Raise `Unusable` where a file is not regular, or not the owner's."""
    if not stat.S_ISREG(status.st_mode):
        raise Unusable(True, _NOT_REGULAR, False)
    if status.st_uid != uid:
        from .sandbox import is_a_cover  # few files are another's

        if is_a_cover(path, status):
            raise OSError(errno.EPERM, _HIDDEN)
        raise Unusable(True, f"belongs to uid {status.st_uid}, not to the owner of the connection ({uid})", False)
