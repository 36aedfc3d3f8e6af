"""Which process reads a user's file for a single shot, and when is it left behind?

The file system may be that owner's own, and never answer: then not even SIGKILL ends who waits for it. So a child
reads, and tells over a pipe what it found; this process holds the connection and the deadline. Few children for each
owner exist at a time, those included that can't be ended. Each of them has a place: a name that only one socket can
have, for as long as the child lives, and whoever started it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` and `socket` add are enums, which take 6 ms
import _socket as socket
import errno
import os
import select
import time

from lookup.connection import IdentError

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from lookup.config import user_file

#: Seconds for one owner's file: less than a lookup may take, so that there is still time to decide without it.
READ_SECONDS = 3.0

#: Children for one owner, and seconds to wait for one's place: a bouncer's connections may all be asked about at once.
PER_OWNER, WAIT_SECONDS = 4, 2.0

#: Seconds between two looks for a place.
_PAUSE = 0.01

#: Descriptors that may be open: this process has a few.
_MAX_FDS = 4096

#: prctl(2)'s number for a process' name (linux/prctl.h).
_PR_SET_NAME = 15

#: Children that were given up, or may not have ended yet.
_children: list[int] = []


def fetch(
    uid: int, home: str, also: user_file.Also | None, become: Callable[[int], object] | None = None
) -> user_file.Fetched:
    """Return what an owner's files hold, as `user_file.fetch` does, which is called in a child.

    :param become: as `read_and_end` has it.
    :raises IdentError: that could not be found out; among other things, not in time.
    """
    return Reading(uid, home, also, become).result()


class Reading:
    """A child that reads an owner's files, while this process does something else."""

    def __init__(
        self, uid: int, home: str, also: user_file.Also | None, become: Callable[[int], object] | None = None
    ) -> None:
        """Arguments, and what is raised, are those of `fetch`."""
        from lookup.config import user_file  # noqa: F401  (before the fork: both processes use it)

        self._uid = uid
        #: What `fetch` was asked for.
        self.about = uid, home, also
        try:
            self._fd, writer = os.pipe()
            try:
                child = os.fork()
                if child == 0:
                    read_and_end(uid, home, also, writer, become)
                _children.append(child)
            except OSError:
                os.close(self._fd)
                raise
            finally:
                os.close(writer)
        except OSError as error:
            # EMFILE, ENFILE, ENOMEM, EAGAIN: no descriptors, no memory, no processes.
            raise IdentError(f"nobody reads the owner's file: {error.strerror}", uid) from None

    def result(self) -> user_file.Fetched:
        """Return what the files hold, once. See `fetch`."""
        try:
            return outcome(read_all(self._fd), self._uid)
        except OSError as error:
            # EIO, ENOMEM: see poll(2) and read(2).
            raise IdentError(f"nobody reads the owner's file: {error.strerror}", self._uid) from None
        finally:
            self.close()

    def close(self) -> None:
        """Wait no longer, and end the child if that is possible."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            end(_children)


def read_and_end(
    uid: int, home: str, also: user_file.Also | None, fd: int, become: Callable[[int], object] | None = None
) -> NoReturn:
    """Read an owner's files, write what was found to a pipe, and end. This process is a child, and does nothing else.

    :param become: takes on another identity for good, given the owner's uid.
    """
    try:
        from lookup.config import user_file  # what only starts such processes, if anything, does without

        let_go_of_all_but(fd)
        # Ends this process where it can be ended, if nobody else does.
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
        _signal.alarm(int(WAIT_SECONDS + READ_SECONDS) + 1)
        try:
            place = _take_place(uid)
            if become is not None:
                become(uid)
            data = b"+" + user_file.fetch(uid, home, also=also).dump()
            del place
        except IdentError as error:
            data = b"-" + error.detail.encode("utf-8", "replace")
        except (OSError, MemoryError) as error:
            data = b"-" + f"the owner's file could not be read: {error}".encode("utf-8", "replace")
        while data:
            data = data[os.write(fd, data) :]
        os.close(fd)  # this is waited for, and a process takes 1 ms more to end
    finally:
        os._exit(0)


def let_go_of_all_but(kept: int) -> None:
    """Close the client's connection, which would last as long as this process, and everything else."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # Not by /proc/self/fd, which is closed to a process that was root (proc(5), PR_SET_DUMPABLE).
    os.closerange(3, kept)
    os.closerange(kept + 1, max(min(os.sysconf("SC_OPEN_MAX"), _MAX_FDS), kept + 1))


def outcome(data: bytes, uid: int) -> user_file.Fetched:
    """Translate what the child wrote: ``+`` and what it found, or ``-`` and why it found nothing."""
    from lookup.config import user_file  # see `read_and_end`

    if data.startswith(b"-"):
        raise IdentError(data[1:].decode("utf-8", "replace"), uid)
    try:
        return user_file.Fetched.load(data.removeprefix(b"+"))
    except ValueError:  # it was ended before it had written all
        raise IdentError(f"the owner's file could not be read within {READ_SECONDS:g} s", uid) from None


def read_all(fd: int) -> bytes:
    """Return what comes out of a pipe until its end; nothing, where that takes too long. :raises OSError: neither."""
    deadline = time.monotonic() + READ_SECONDS
    room = select.poll()
    room.register(fd, select.POLLIN)
    data = b""
    while room.poll(max(deadline - time.monotonic(), 0) * 1e3):
        more = os.read(fd, 1 << 16)
        if not more:
            return data
        data += more
    return b""


def end(children: list[int]) -> None:
    """End those children that have not ended, as far as that is possible, and forget those that have. Never blocks."""
    for child in list(children):
        try:
            # Until it is waited for, no other process has its number.
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, _signal.SIGKILL)
                continue
        except OSError:
            # EPERM: it is not ours any more. ECHILD, ESRCH: it has ended.
            pass
        children.remove(child)


def _take_place(uid: int) -> socket.socket | None:
    """Return what holds one of an owner's places. :raises IdentError: others have them, and keep them."""
    siblings_are_seen = _call_this_process(_name(uid))
    place = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        for number in range(PER_OWNER):
            try:
                place.bind(f"\0{_name(uid)}.{os.geteuid()}.{number}")
                return place
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        if time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    # Anybody can take such names, to keep another user's file from being read: the processes count.
    if _count(uid) > PER_OWNER or not (siblings_are_seen or os.path.exists("/proc/1")):
        raise IdentError("the owner's file system does not answer", uid)
    return None


def _call_this_process(name: str) -> bool:
    """Give this process a name. Return whether /proc shows it to others of its user, however it is mounted."""
    try:
        comm = os.open("/proc/self/comm", os.O_WRONLY)  # open() imports a codec, which takes 1 ms
        try:
            os.write(comm, name.encode("ascii"))
        finally:
            os.close(comm)
        return True
    except PermissionError:
        # EACCES: so it is where this process was root.
        import _ctypes

        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # see privileges.py
        _ctypes.call_function(_ctypes.dlsym(library, "prctl"), (_PR_SET_NAME, name.encode("ascii"), 0, 0, 0))
        return False


def _name(uid: int) -> str:
    """Return what a process that reads an owner's file is called: at most 15 octets (proc_pid_comm(5))."""
    return f"identd-{uid:x}"


def _count(uid: int) -> int:
    """Return how many processes read an owner's file, this one among them."""
    import contextlib  # only where all places are taken

    count = 0
    for pid in os.listdir("/proc"):
        if not pid.isdecimal():
            continue
        with contextlib.suppress(OSError):  # ENOENT, ESRCH: it has ended. EACCES: it is none of ours.
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                if comm.read().rstrip("\n") != _name(uid):
                    continue
            with open(f"/proc/{pid}/status", "rb") as status:
                (whose,) = (int(line.split()[1]) for line in status if line.startswith(b"Uid:"))
            count += whose in (uid, os.geteuid())
    return count
