"""What is known of an owner, and is it still so?

One query asks for each thing when it needs it. The warm process keeps what a thread has found for a moment, so that its
loop can answer the owner's next queries itself: it then only looks whether his files have changed, and only
where that can't block.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from . import users

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from .wishes import Wishes

    State = int | tuple[int, ...]
    Mark = tuple[str, State]

#: Seconds for which the name service is not asked again: long enough for a storm of queries about one
#: bouncer, too short for a renamed user to notice. And how many owners are kept.
SECONDS, MAX_OWNERS = 1.0, 4096

#: Seconds since a file's last change before it is kept: a later change might leave all of its times as they are.
_SETTLED = 1.0

#: Kinds of file system where looking at a file waits for nobody else.
_LOCAL = frozenset(("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"))


class Forgotten(Exception):
    """What is asked for is not known, and finding it out might block."""


class Known:
    """One owner: what the name service calls him, and what his files wish.

    Everything is asked for once, when it is needed; that may block, until `keep`: afterwards `Forgotten` is raised.
    """

    def __init__(
        self, uid: int, become: Callable[[int], object] | None = None, watch: bool = True, forwards: bool = True
    ) -> None:
        """:param become: called with the uid before anything of his is opened, to take on his privileges.

        :param watch: whether it will be kept, so that changes of his files must be noticed.
        :param forwards: whether other servers may be asked.
        """
        self.uid = uid
        self._become = become
        self._watch = watch
        self._forwards = forwards
        self._kept = False
        self._login: tuple[str, str] | None = None
        self._uids: dict[bytes, int | None] = {}
        self._wishes: Wishes | None = None
        self._home = ""
        self._marks: list[Mark] | None = None
        self._expires = 0.0

    def login(self) -> tuple[str, str]:
        """Return what `users.login` does, and raise what it does."""
        if self._login is None:
            self._ask()
            self._login, self._home = users.entry(self.uid)
        return self._login

    def uid_of(self, name: bytes) -> int | None:
        """Return what `users.uid_of` does."""
        if name not in self._uids:
            self._ask()
            self._uids[name] = users.uid_of(name)
        return self._uids[name]

    def wishes(self) -> Wishes:
        """Return what `wishes.read` does."""
        if self._wishes is None:
            # First, for the owner may not be allowed to read root's Python.
            from . import wishes

            self.login()
            self.become_owner()
            before = _marks(self._home) if self._watch else None
            self._wishes = wishes.read(self.uid, self._home)
            # Unless something changed meanwhile, what was read is what the marks say.
            self._marks = before if before is not None and before == _marks(self._home) else None
        return self._wishes

    def before_forwarding(self) -> None:
        """Do what has to be done before another server is asked."""
        if not self._forwards:
            raise Forgotten
        self.become_owner()

    def become_owner(self) -> None:
        """Take on the owner's privileges, where they can be taken on. Whatever follows may block."""
        self._ask()
        if self._become is not None:
            self._become(self.uid)

    def _ask(self) -> None:
        if self._kept:
            raise Forgotten

    def keep(self) -> None:
        """Ask nothing more, and hold for `SECONDS` what was found."""
        self._kept = True
        self._expires = time.monotonic() + SECONDS

    def still_holds(self) -> bool:
        """Say whether what was found is young enough, and the owner's files are as they were. Never blocks."""
        if time.monotonic() >= self._expires:
            return False
        if self._wishes is None:
            return True
        try:
            return self._marks is not None and all(_state(path) == state for path, state in self._marks)
        except OSError:
            # EIO, ESTALE ...: no state to rely on.
            return False


def _marks(home: str) -> list[Mark] | None:
    """Return what tells any change of a user's files; None: a change might go unnoticed, or looking might block."""
    from .wishes import FILES

    found: list[Mark] = []
    device, missing = None, ""
    for name in ("", *sorted({os.path.dirname(name) for name in FILES} - {""}), *FILES) if home.startswith("/") else ():
        if missing and name.startswith(missing):
            continue
        path = os.path.join(home, name)
        try:
            state = _state(path)
        except OSError:
            # EIO, ESTALE ...: no state to rely on.
            return None
        found.append((path, state))
        if isinstance(state, int):
            missing = f"{name}/"
            continue
        if device is None:
            device = state[0]
            if not _is_local(device):
                return None
        # A link may lead to where looking blocks; another device may be such a place.
        if stat.S_ISLNK(state[2]) or state[0] != device:
            return None
        if any(abs(time.time() - changed / 1e9) <= _SETTLED for changed in state[5:]):
            return None
    return found if device is not None or not found else None


def _state(path: str) -> State:
    """Return what tells any change of a file, or of which folder it is; an errno: it is not there for us.

    :raises OSError: its file system fails.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        return error.errno or errno.ENOENT
    state = status.st_dev, status.st_ino, status.st_mode, status.st_uid
    if stat.S_ISDIR(status.st_mode):
        return state
    return (*state, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _is_local(device: int) -> bool:
    """Say whether a device holds a file system of a local kind (proc_pid_mountinfo(5))."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1] in _LOCAL
    except OSError:
        # ENOENT, EACCES: no /proc to tell.
        return False
    return False


class Memory:
    """The owners that a warm process has met in the last moment."""

    def __init__(self) -> None:
        self._owners: dict[int, Known] = {}

    def recall(self, uid: int) -> Known | None:
        """Return what is known of an owner and still holds. Never blocks."""
        known = self._owners.get(uid)
        if known is not None and not known.still_holds():
            self._owners.pop(uid, None)
            return None
        return known

    def keep(self, known: Known) -> None:
        """Remember what was found out."""
        known.keep()
        if len(self._owners) >= MAX_OWNERS:
            self._owners.clear()
        self._owners[known.uid] = known
