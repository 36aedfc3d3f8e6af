"""Which process looks behind NAT and into other network namespaces, for those that may not?

One of its own, forked before anything is read that a stranger sent: it takes requests of a fixed form (`kernel.wire`)
over a socketpair, answers each, and ends with whoever asks. It alone keeps capabilities, four at most, and is otherwise
the user who serves.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # see reader.py
import errno
import gc
import os
import select
import stat
from _socket import MSG_DONTWAIT
from _thread import allocate_lock, start_new_thread

from lookup.connection import IdentError
from lookup.kernel import codec
from lookup.kernel.wire import FAILED, MAX_ANSWER, REQUEST_SIZE, Found, Request

from . import capabilities, passing
from .log import Log
from .privileges import drop_capabilities, serving_ids

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    import _socket as socket
    from typing import NoReturn

    from .options import Options

#: Seconds to wait for an answer: less than a lookup may take.
SECONDS = 3.0

#: How many requests are worked on at a time.
MOST = 32


def begin(options: Options, log: Log) -> Seeker | None:
    """Start the process, which keeps what capabilities it needs, and have this one keep none, and gain none.

    Root has to be given up afterwards. What is missing is logged.

    :return: None: without capabilities nobody can look.
    :raises UsageError: there is no such user or group. :raises OSError: there is no process to be had.
    """
    having = capabilities.held()
    enough = capabilities.suffice(having)
    for reason in capabilities.lacking(having):
        log.write(Log.INFO if enough else Log.ERROR, f"--masquerade: {reason}")
    ids = serving_ids(options.user, options.group)
    seeker = Seeker(having & capabilities.mask(), ids) if enough else None
    capabilities.no_new_privileges()
    if ids is None:
        drop_capabilities()
    return seeker


class Seeker:
    """A process that looks where this one may not. It is forked while this process has one thread."""

    def __init__(self, kept: int = 0, ids: tuple[int, int] | None = None) -> None:
        """:param kept: its capabilities, as a set of bits. :param ids: whom it becomes: uid and gid; None: nobody else.

        :raises OSError: there is no process to be had.
        """
        # Both processes use it, and it takes longer than the rest, which the new one imports while this one goes on.
        codec.messages()
        self._socket, theirs = passing.pair()
        try:
            if os.fork() == 0:
                _serve(theirs, kept, ids)
        finally:
            theirs.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable once the process has ended."""
        return self._socket.fileno()

    def ask(self, request: Request) -> Found:
        """Return what a request comes to. Any thread may ask.

        :raises IdentError: nobody answers, or not in time. :raises ValueError: an address is none.
        """
        fd = self.send(request)
        # While the other process works: what decides about its answer.
        from lookup import owner  # noqa: F401

        return self.answer(fd, SECONDS)

    def send(self, request: Request) -> int:
        """Send a request, and return a descriptor that is readable when the answer is there. Exceptions: see `ask`."""
        data = request.pack()
        try:
            # One pipe for each answer, so that none is ever taken for another's.
            reader, writer = os.pipe()
            try:
                passing.send(self._socket, data, writer, MSG_DONTWAIT)
            except OSError:
                os.close(reader)
                raise
            finally:
                os.close(writer)
        except OSError as error:
            raise _nobody(error) from None
        return reader

    def answer(self, fd: int, seconds: float = 0.0) -> Found:
        """Return the answer to a request, and close what `send` returned. Exceptions: see `ask`.

        :param seconds: how long to wait for it at most.
        """
        try:
            return Found.unpack(_read(fd, seconds))
        except (OSError, ValueError) as error:
            raise _nobody(error) from None
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let the process end."""
        self._socket.close()


def _nobody(error: Exception) -> IdentError:
    """Return what is raised where there is no answer.

    EPIPE, ECONNRESET: the process was killed. EAGAIN: it does nothing. EMFILE: no descriptors. ETIMEDOUT: see `_read`.
    ValueError: no answer.
    """
    reason = getattr(error, "strerror", None) or error
    return IdentError(f"nobody looks behind NAT and into other network namespaces: {reason}")


def _read(fd: int, seconds: float) -> bytes:
    """Return what comes through a pipe. :raises TimeoutError: it does not come in time."""
    look = select.poll()
    look.register(fd, select.POLLIN)
    if not look.poll(seconds * 1000):
        raise TimeoutError(errno.ETIMEDOUT, "it takes too long")
    return os.read(fd, MAX_ANSWER)


def _serve(requests: socket.socket, kept: int, ids: tuple[int, int] | None) -> NoReturn:
    """Answer each request in a thread, until the process that asks has ended."""
    try:
        from .reader import let_go_of_all_but  # here alone: nobody waits for this process yet

        let_go_of_all_but(requests.fileno())
        os.chdir("/")
        # It ends with whoever asks, which finishes the queries under way.
        for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
            _signal.signal(number, _signal.SIG_IGN)
        gc.disable()  # see start.py
        try:
            from lookup.kernel import search  # now: who this becomes may not read these files

            search.prepare()
        except ImportError:
            pass  # each answer says so
        gc.enable()
        capabilities.keep_only(kept, ids)
        places = _Places(MOST)
        while True:
            request, fds = passing.receive(requests, REQUEST_SIZE + 1)
            if not request:
                break
            places.take()
            try:
                # Not by threading.Thread, whose start() waits without end for one that has no memory to begin with.
                start_new_thread(_answer, (request, fds, places))
            except RuntimeError:
                # EAGAIN, ENOMEM: a limit of processes, or memory. This one is not answered; the others go on.
                _let_go(fds, places)
    finally:
        os._exit(0)


class _Places:
    """So many places, for which one thread may wait. (What `threading` has for that takes 3 ms to import.)"""

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock, self._wait = allocate_lock(), allocate_lock()
        self._wait.acquire()

    def take(self) -> None:
        """Take a place; wait until there is one."""
        with self._lock:
            self._free -= 1
            waits = self._free < 0
        if waits:
            self._wait.acquire()

    def give_back(self) -> None:
        """Any thread may do so."""
        with self._lock:
            self._free += 1
            if self._free <= 0:
                self._wait.release()


def _answer(request: bytes, fds: list[int], places: _Places) -> None:
    """Answer one request into a pipe: an answer always fits."""
    try:
        answer = _found(Request.unpack(request)).pack()
        for fd in fds:
            # Whatever else it may be is not written to with capabilities.
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.set_blocking(fd, False)
                os.write(fd, answer)
    except (OSError, ValueError):
        # EPIPE: nobody waits any more. ValueError: no request, and so no answer.
        pass
    finally:
        _let_go(fds, places)


def _found(request: Request) -> Found:
    try:
        from lookup.kernel import search

        return search.search(request)
    except ImportError as error:
        # There is no such file, or it is closed to who started identd.
        reason = f"other network namespaces can't be searched: {error}"
        return Found(FAILED, request.server, request.client, reason=reason)


def _let_go(fds: list[int], places: _Places) -> None:
    for fd in fds:
        os.close(fd)
    places.give_back()
