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

#: How many searches are under way at a time, and how many of them for one address: a container's processes may have so
#: many descriptors that it takes seconds to see which one holds a socket. More threads would not end sooner: they share
#: the interpreter.
MOST, MOST_OF_ONE = 32, 4

#: How many may wait, each of which holds a descriptor; and descriptors of a search.
MOST_WAITING, _OF_A_SEARCH = 512, 64


def begin(options: Options, log: Log) -> Seeker | None:
    """Start the process, which keeps what capabilities it needs, and have this one keep none, and gain none.

    Root has to be given up afterwards. What is missing is logged.

    :return: None: without capabilities nobody can look.
    :raises UsageError: there is no such user or group. :raises OSError: there is no process to be had.
    """
    having = capabilities.held()
    enough = capabilities.suffice(having)
    if lacking := capabilities.lacking(having):
        log.write(Log.INFO if enough else Log.ERROR, f"--masquerade: {'; '.join(lacking)}")
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
        try:
            fd = self.send(request)
        except BlockingIOError as error:
            raise _nobody(error) from None
        # While the other process works: what decides about its answer.
        from lookup import owner  # noqa: F401

        return self.answer(fd, SECONDS)

    def send(self, request: Request) -> int:
        """Send a request, and return a descriptor that is readable when the answer is there.

        :raises BlockingIOError: too many are on their way already. Other exceptions: see `ask`.
        """
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
        except BlockingIOError:
            raise
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
    """Answer each request, at once or in a thread, until the process that asks has ended."""
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
        _raise_limit(MOST_WAITING + MOST * _OF_A_SEARCH)
        turns = _Turns()
        look = select.poll()
        for fd in (requests.fileno(), turns.fileno()):
            look.register(fd, select.POLLIN)
        more = True
        while more:
            for fd, _ in look.poll():
                if fd == turns.fileno():
                    turns.go_on()
                else:
                    more = _take(requests, turns)
    finally:
        os._exit(0)


class _Turns:
    """Which searches are under way, and which wait: `MOST` are at a time, and `MOST_OF_ONE` for one address.

    Used by the main thread alone, but for `end`. Each search has a thread of its own, because it ends in another
    network namespace than it began in, and a thread begins in that of whoever starts it.
    """

    def __init__(self) -> None:
        """:raises OSError: there are no descriptors."""
        self._woken, self._wake = os.pipe()
        self._lock = allocate_lock()
        #: By address: how many are under way, and what waits; each in the order in which it has its turn.
        self._under_way: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[Request, list[int]]]] = {}

    def fileno(self) -> int:
        """Return the descriptor that is readable when something that waits may have its turn."""
        return self._woken

    def add(self, address: str, request: Request, fds: list[int]) -> None:
        """Begin a search, or let it wait for its turn. :param address: of the socket that is meant."""
        with self._lock:
            if sum(map(len, self._waiting.values())) >= MOST_WAITING:
                longest = max(self._waiting, key=lambda one: len(self._waiting[one]))
                _let_go(self._waiting[longest].pop()[1])
            self._waiting.setdefault(address, []).append((request, fds))
            self._begin()

    def end(self, address: str) -> None:
        """Count a search no more. Any thread may do so."""
        with self._lock:
            self._count(address, -1)
            if self._waiting:
                os.write(self._wake, b"\0")  # it never has more than there are searches

    def go_on(self) -> None:
        """Let others have the turn of a search that has ended."""
        os.read(self._woken, MOST)
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        """Start what may have its turn. The lock is held."""
        for address in list(self._waiting):
            waiting = self._waiting.pop(address)
            while waiting and self._may_begin(address):
                request, fds = waiting.pop(0)
                if not _is_awaited(fds):
                    _let_go(fds)
                    continue
                self._count(address, 1)
                try:
                    # Not by threading.Thread, whose start() waits without end for one that has no memory to begin with.
                    start_new_thread(_answer, (request, fds, address, self))
                except RuntimeError:
                    # EAGAIN, ENOMEM: a limit of processes, or memory. This one is not answered; the others go on.
                    _let_go(fds)
                    self._count(address, -1)
            if waiting:
                self._waiting[address] = waiting  # behind the others

    def _may_begin(self, address: str) -> bool:
        return sum(self._under_way.values()) < MOST and self._under_way.get(address, 0) < MOST_OF_ONE

    def _count(self, address: str, more: int) -> None:
        count = self._under_way.pop(address, 0) + more
        if count:
            self._under_way[address] = count


def _raise_limit(wanted: int) -> None:
    """Have so many descriptors, or as many as may be had."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:  # the kernel has no RLIM_INFINITY for it (fs.nr_open)
        try:  # noqa: SIM105 - contextlib takes 4 ms
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        except OSError:
            pass  # EPERM: a sandbox


def _take(requests: socket.socket, turns: _Turns) -> bool:
    """Take a request, and answer it at once where conntrack alone decides. Return whether another one may come."""
    data, fds = passing.receive(requests, REQUEST_SIZE + 1)
    if not data:
        return False
    try:
        request = Request.unpack(data)
    except ValueError:
        # No request, and so no answer.
        _let_go(fds)
        return True
    found, address = _at_once(request)
    if found is not None:
        _send(found, fds)
        _let_go(fds)
    else:
        turns.add(address, request, fds)
    return True


def _answer(request: Request, fds: list[int], address: str, turns: _Turns) -> None:
    """Search, and answer, in a thread."""
    try:
        _send(_found(request), fds)
    finally:
        _let_go(fds)
        turns.end(address)


def _send(found: Found, fds: list[int]) -> None:
    """Send an answer into a pipe: it always fits."""
    try:
        answer = found.pack()
        for fd in fds:
            # Whatever else it may be is not written to with capabilities.
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.set_blocking(fd, False)
                os.write(fd, answer)
    except (OSError, ValueError):
        # EPIPE: nobody waits any more. ValueError: what was found can't be sent.
        pass


def _is_awaited(fds: list[int]) -> bool:
    """Return whether anybody can still read the answer."""
    look = select.poll()
    for fd in fds:
        look.register(fd, 0)
    return bool(fds) and not look.poll(0)  # POLLERR: the other end is closed (poll(2))


def _at_once(request: Request) -> tuple[Found | None, str]:
    try:
        from lookup.kernel import search
    except ImportError:
        return None, request.server[0]  # the answer of `_found` says so
    return search.at_once(request)


def _found(request: Request) -> Found:
    try:
        from lookup.kernel import search

        return search.search(request)
    except ImportError as error:
        # There is no such file, or it is closed to who started identd.
        reason = f"other network namespaces can't be searched: {error}"
        return Found(FAILED, request.server, request.client, reason=reason)


def _let_go(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
