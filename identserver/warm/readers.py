"""Which process reads users' files for the warm process, and when is it left behind?

The file system may belong to that user, and never answer: a thread that waits for it in the kernel can't be ended,
and keeps its process from ending. So a helper process reads; it is ended, or left behind, when it takes too long.
Helpers are forked by a process that has one thread and holds neither the listening sockets nor any connection.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import threading
import time
from collections import Counter

from lookup.config.excerpts import Excerpts
from lookup.connection import IdentError

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from lookup.config.excerpts import Ends
    from lookup.config.user_file import UserFile

#: Seconds for one owner's file: less than a lookup may take, as the decision is still to be made without it. And for
#: how long it then counts as one that can't be read.
READ_SECONDS, HANGS_SECONDS = 3.0, 1.0

#: Helpers that one owner may keep busy or have left behind, and left behind in all: of those, an owner who has none may
#: still leave one.
PER_OWNER, LEFT_IN_ALL, LEFT_AT_MOST = 2, 64, 256

#: Helpers that wait for work, and seconds after which a helper without work forgets what it has read.
IDLE, KEEP_SECONDS = 4, 2.0


class _Ended(Exception):
    """A helper has ended without an answer."""


class _Helper:
    """A process that reads one user's file after the other, as the process that asks it sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.uid = -1

    def ask(self, request: object, uid: int) -> Any:
        """Return the answer. :raises TimeoutError: there is none in time. :raises _Ended: there will be none."""
        self.uid = uid
        deadline = time.monotonic() + READ_SECONDS
        self._socket.settimeout(READ_SECONDS)
        try:
            _send(self._socket, request)
            answer = _receive(self._socket, deadline)
        except OSError as error:
            if isinstance(error, socket.timeout):  # which is a TimeoutError from Python 3.10 on
                raise TimeoutError from None
            answer = None  # EPIPE, ECONNRESET: it has been ended
        if answer is None:
            raise _Ended
        return answer

    def has_ended(self) -> bool:
        """Return whether the process is gone, and not only given up. (Nothing is sent that nobody asked for.)"""
        look = select.poll()
        look.register(self._socket, select.POLLIN)
        return bool(look.poll(0))

    def shut(self) -> None:
        """Have the process end when it next looks for work."""
        with contextlib.suppress(OSError):  # ENOTCONN: it has ended
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


class Readers:
    """The helpers of the warm process. Threads ask them; each method but `start` and `close` may be called by any."""

    def __init__(self, holder: Callable[[int], int], complain: Callable[[str], object]) -> None:
        """:param holder: returns whose a uid is (`SubIds.holder`).

        :param complain: called with what keeps files unread.

        No process is started before there is a file to read, or `start` is called.
        """
        self._holder, self._complain = holder, complain
        self._parent: socket.socket | None = None
        self._changed = threading.Condition()
        self._idle: list[_Helper] = []
        #: By owner: how many helpers are at work, those left behind, and until when their files count as unreadable.
        self._busy: Counter[int] = Counter()
        self._left: dict[int, list[_Helper]] = {}
        self._hangs: dict[int, float] = {}

    def start(self) -> None:
        """Start the process that forks helpers, while this one has one thread: later it is less sure to succeed."""
        with self._changed, contextlib.suppress(OSError):  # EAGAIN, ENOMEM: it is tried again when there is a file
            self._start()

    def read(self, uid: int, home: str, ends: list[Ends], older: bool = False) -> list[UserFile]:
        """Return what an owner's files say about each of these connections. May block for READ_SECONDS, twice.

        :param older: whether older servers' files count.
        :raises IdentError: what it says could not be found out.
        """
        owner = self._holder(uid)
        for attempt in (True, False):
            helper = self._employ(owner, uid)
            try:
                answer = helper.ask((uid, home, ends, older), uid)
            except TimeoutError:
                self._give_up(owner, helper)
                raise _slow(uid) from None
            except _Ended:
                # One that had ended while it was idle is replaced.
                self._dismiss(owner, helper)
                if not attempt:
                    raise IdentError("the process that reads the owner's file has ended", uid) from None
                continue
            except BaseException:
                self._dismiss(owner, helper)
                raise
            self._release(owner, helper)
            break
        if isinstance(answer, str):
            raise IdentError(answer, uid)
        found: list[UserFile] = answer
        return found

    def close(self) -> None:
        """Have all helpers end, as far as they can be ended. Nothing is waited for."""
        if self._parent is not None:
            self._parent.close()
            self._parent = None
        for helper in (*self._idle, *(helper for left in self._left.values() for helper in left)):
            helper.close()
        self._idle.clear()

    def _employ(self, owner: int, uid: int) -> _Helper:
        """Return a helper with nothing to do, once the owner may have one more. :raises IdentError: they may not."""
        deadline = time.monotonic() + READ_SECONDS
        with self._changed:
            while True:
                now = time.monotonic()
                self._bury()
                if now < self._hangs.get(owner, 0.0):
                    raise _slow(uid)
                left = len(self._left.get(owner, ()))
                in_all = sum(map(len, self._left.values()))
                if left >= PER_OWNER or in_all >= (LEFT_IN_ALL if left else LEFT_AT_MOST):
                    self._complain(f"processes that read files of uid {owner} can't be ended: no more are started")
                    raise IdentError("the owner's file system does not answer", uid)
                if self._busy[owner] + left < PER_OWNER:
                    break
                if now >= deadline:
                    raise _slow(uid)
                self._changed.wait(deadline - now)
            helper = self._take_idle(uid) or self._hire(uid)
            self._busy[owner] += 1
            return helper

    def _take_idle(self, uid: int) -> _Helper | None:
        """Take the helper that has read this owner's file, or the one that read last: it remembers what it read."""
        for helper in [helper for helper in self._idle if helper.has_ended()]:
            helper.close()
            self._idle.remove(helper)
        at = max(range(len(self._idle)), key=lambda at: (self._idle[at].uid == uid, at), default=-1)
        return self._idle.pop(at) if at >= 0 else None

    def _hire(self, uid: int) -> _Helper:
        """Have a new helper started. :raises IdentError: there is none to be had."""
        for attempt in (True, False):
            ours = theirs = None
            try:
                parent = self._start()
                ours, theirs = socket.socketpair()
                socket.send_fds(parent, [b"."], [theirs.fileno()])
                return _Helper(ours)
            except OSError as error:
                # EPIPE, ECONNRESET, ENOTCONN: the process that forks was killed, so another one is started. EMFILE,
                # ENFILE, ENOMEM, EAGAIN: no descriptors, no memory, no processes.
                if ours is not None:
                    ours.close()
                if self._parent is not None:
                    self._parent.close()
                    self._parent = None
                if not attempt:
                    self._complain(f"nobody reads users' files: {error.strerror}")
                    raise IdentError(f"nobody reads the owner's file: {error.strerror}", uid) from None
            finally:
                if theirs is not None:
                    theirs.close()
        raise AssertionError

    def _start(self) -> socket.socket:
        """Return the way to the process that forks, which is started if it has to be. :raises OSError: it can't be."""
        if self._parent is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                if os.fork() == 0:
                    _serve(theirs)
            except OSError:
                ours.close()
                raise
            finally:
                theirs.close()
            self._parent = ours
        return self._parent

    def _release(self, owner: int, helper: _Helper) -> None:
        with self._changed:
            self._leave(owner)
            self._idle.append(helper)
            if len(self._idle) > IDLE:
                self._idle.pop(0).close()

    def _dismiss(self, owner: int, helper: _Helper) -> None:
        with self._changed:
            self._leave(owner)
            helper.close()

    def _give_up(self, owner: int, helper: _Helper) -> None:
        """Leave a helper behind: its alarm ends it, if it can be ended."""
        with self._changed:
            self._leave(owner)
            helper.shut()
            self._left.setdefault(owner, []).append(helper)
            self._hangs = {owner: until for owner, until in self._hangs.items() if until > time.monotonic()}
            self._hangs[owner] = time.monotonic() + HANGS_SECONDS

    def _leave(self, owner: int) -> None:
        self._busy[owner] -= 1
        if not self._busy[owner]:
            del self._busy[owner]
        self._changed.notify_all()

    def _bury(self) -> None:
        """Forget the helpers left behind that have ended by now."""
        for owner, helpers in list(self._left.items()):
            for helper in [helper for helper in helpers if helper.has_ended()]:
                helper.close()
                helpers.remove(helper)
            if not helpers:
                del self._left[owner]


def _slow(uid: int) -> IdentError:
    return IdentError(f"the owner's file could not be read within {READ_SECONDS:g} s", uid)


# What follows runs in other processes.


def _serve(requests: socket.socket) -> NoReturn:
    """Fork a helper for each connection that is sent, until the process that asks has ended."""
    try:
        # Until then: those who stop a service may send every process of it a signal, and queries are finished first.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        _close_all_but(requests.fileno())
        while True:
            request, fds, _, _ = socket.recv_fds(requests, 1, 1)
            if not request:
                break
            if os.fork() == 0:
                requests.close()
                _help(socket.socket(fileno=fds[0]))
            os.close(fds[0])
    except BaseException:
        # ENOMEM, EAGAIN: no helper. Whoever asks finds out, and starts another process like this one.
        os._exit(1)
    os._exit(0)


def _close_all_but(kept: int) -> None:
    """Let go of the sockets that the superserver, or clients, would take for still served."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        fds = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # ENOENT, EACCES: no /proc
        fds = list(range(4096))
    for fd in fds:
        if fd > 2 and fd != kept:
            with contextlib.suppress(OSError):  # EBADF: it is the folder's
                os.close(fd)


def _help(requests: socket.socket) -> NoReturn:
    """Read users' files, until the process that asks has ended or something is stuck."""
    try:
        # Ends this process, if it can be ended; the process that asks has given it up by then.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        excerpts = Excerpts()
        work = select.poll()
        work.register(requests, select.POLLIN)
        # A resolver that does not answer keeps a thread, which would not be the last.
        while threading.active_count() == 1:
            if not work.poll(KEEP_SECONDS * 1e3):
                excerpts.forget()
            request = _receive(requests)
            if request is None:
                break
            signal.setitimer(signal.ITIMER_REAL, READ_SECONDS + 0.2)
            _send(requests, _about(excerpts, *request))
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        os._exit(0)


def _about(excerpts: Excerpts, uid: int, home: str, ends: list[Ends], older: bool) -> list[UserFile] | str:
    try:
        return excerpts.about(uid, home, ends, older)
    except IdentError as error:
        return error.detail
    except Exception as error:  # MemoryError, or a fault of ours
        return f"the owner's file could not be read: {error!r}"


def _send(connection: socket.socket, message: object) -> None:
    """Send anything that can be pickled. What reads it runs as the same user, and is the same program."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    connection.sendall(len(data).to_bytes(4, "big") + data)


def _receive(connection: socket.socket, deadline: float | None = None) -> Any:
    """Return what was sent; None: the other end is closed. :raises TimeoutError: it does not come in time."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        more = connection.recv(1 << 16)
        if not more:
            return None
        data += more
    return pickle.loads(data[4:])
