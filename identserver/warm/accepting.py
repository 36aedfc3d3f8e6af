"""Which clients are let in, how is room made when it is full, and when is a listening socket given up?"""

from __future__ import annotations

import _socket
import errno
import functools
import os

from lookup.connection import cookie_of

from .listeners import BACKLOG
from .workers import MAX_THREADS

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Any

    from .connections import Connections
    from .deadlines import Deadlines
    from .loop import Loop

#: Connections accepted before those that are open get their turn again.
ACCEPT_BATCH = 64

#: Descriptors that are not for connections: listeners, netlink, the log. Each thread may need another one.
SPARE_DESCRIPTORS = 64

#: Seconds for which new connections wait in the kernel's queue where there is no room for them.
PAUSE_SECONDS = 0.1

#: Seconds for which there are fewer connections after the process ran out of descriptors all the same.
RECOVER_SECONDS = 60.0

_AT_THE_LIMIT = "the limit of connections is reached"

#: What accept(2) says of a socket that listens no more, and never will for us. EINVAL: somebody who has it called
#: shutdown(2). EBADF, ENOTSOCK, EOPNOTSUPP: it is gone, or something else by now.
_GONE = (errno.EINVAL, errno.EBADF, errno.ENOTSOCK, errno.EOPNOTSUPP)


class Acceptor:
    """Accepts from the listening sockets, and ends the connections that have to make room."""

    def __init__(
        self, listeners: Sequence[socket.socket], limit: int, connections: Connections, deadlines: Deadlines,
        loop: Loop, complain: Callable[[str], object], when_none: Callable[[], object],
    ) -> None:  # fmt: skip
        """:param limit: how many connections may be open. :param complain: called with what ends connections.

        :param when_none: called when no socket listens any more.
        """
        self._listeners, self._connections, self._deadlines = list(listeners), connections, deadlines
        self._loop, self._complain, self._when_none = loop, complain, when_none
        self._limit = self._most = limit
        self._were_blocking: dict[socket.socket, bool] = {}
        self._accepting = self._stopped = False

    def start(self) -> None:
        """Take over the listening sockets, and accept."""
        self._were_blocking = {listener: os.get_blocking(listener.fileno()) for listener in self._listeners}
        for listener in self._listeners:
            listener.setblocking(False)
            listener.listen(BACKLOG)
        self._accept_again()

    def stop(self) -> None:
        """Accept no more."""
        self._stopped = True
        self._accept_no_more()

    def give_back(self) -> None:
        """Leave the listening sockets as they came: inetd's or systemd's next server gets them."""
        for listener in self._listeners:
            os.set_blocking(listener.fileno(), self._were_blocking[listener])

    def _accept_again(self) -> None:
        if not self._accepting and not self._stopped:
            self._accepting = True
            try:
                for listener in self._listeners:
                    # A socket's network namespace is the same for as long as there is the socket.
                    call = functools.partial(self._accept, listener, cookie_of(listener))
                    self._loop.when_readable(listener.fileno(), call)
            except OSError as error:
                # ENOMEM, ENOSPC: no memory, or no watch (epoll_ctl(2)). It is tried again.
                self._complain(f"connections can't be waited for: {error.strerror}")
                self._pause()

    def _accept_no_more(self) -> None:
        self._accepting = False
        for listener in self._listeners:
            self._loop.leave(listener.fileno())

    def _accept(self, listener: socket.socket, cookie: bytes) -> None:
        """Accept what waits in a listener's queue, or as much of it as there is room for.

        :param cookie: the listener's (`lookup.connection.cookie_of`).
        """
        failed = 0
        for _ in range(ACCEPT_BATCH):
            full = len(self._connections) >= self._limit
            if full and self._deadlines.first_to_go() is None:
                self._complain(_AT_THE_LIMIT)
                self._pause()
                return
            try:
                connected, address = accept(listener)
            except BlockingIOError:  # EAGAIN: nobody waits
                return
            except OSError as error:
                # ECONNABORTED, EPERM, EPROTO, ENETDOWN ...: that connection is gone, others wait (accept(2)).
                # EMFILE, ENFILE: no descriptor, the process' or the host's. ENOBUFS, ENOMEM: no memory.
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._run_out(error)
                    return
                if error.errno in _GONE:
                    self._give_up(listener, error)
                    return
                failed += 1
                continue
            if full:
                # Only now: before, there may have been no newcomer to make room for.
                self._make_room(_AT_THE_LIMIT)
            self._connections.begin(connected, address, cookie)
        if failed == ACCEPT_BATCH:
            self._pause()  # whatever it is, it is not one connection's

    def _give_up(self, listener: socket.socket, error: OSError) -> None:
        """Accept no more from a socket that listens no more: it would be ready, and fail, for ever."""
        self._complain(f"a socket is given up, because it listens no more: {error.strerror}")
        self._loop.leave(listener.fileno())
        self._listeners.remove(listener)
        if not self._listeners:
            self._when_none()

    def _run_out(self, error: OSError) -> None:
        """Go on with fewer connections, where one more can't be had."""
        if error.errno == errno.EMFILE:
            # More descriptors were inherited than SPARE_DESCRIPTORS. The name service needs some too.
            self._limit = max(len(self._connections) * 3 // 4, 1)
            self._loop.call_later(RECOVER_SECONDS, self._recover)
        made_room = self._make_room(f"no more connections: {error.strerror}")
        while made_room and len(self._connections) > self._limit:
            made_room = self._make_room(_AT_THE_LIMIT)
        if not made_room:
            self._pause()

    def _recover(self) -> None:
        self._limit = self._most

    def _make_room(self, reason: str) -> bool:
        """End the connection that can be missed most; say whether there was one."""
        self._complain(reason)
        first = self._deadlines.first_to_go()
        if first is None:
            return False
        first.abort()
        return True

    def _pause(self) -> None:
        """Leave new connections in the kernel's queue until one of ours has ended, or for a moment."""
        self._accept_no_more()
        self._loop.call_later(PAUSE_SECONDS, self._accept_again)


def accept(listener: socket.socket) -> tuple[_socket.socket, Any]:
    """Like ``listener.accept()``, but return the interpreter's own socket: the library's takes 8 us, for its enums.

    Python takes it for one that does not block. The kernel does not: recv() and send() need MSG_DONTWAIT.

    :raises OSError: see accept(2).
    """
    fd, address = listener._accept()  # type: ignore[attr-defined]
    family = _socket.AF_INET if len(address) == 2 else _socket.AF_INET6
    return _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK, 0, fd), address


def connection_limit(wanted: int | None) -> int:
    """Raise the soft limit of descriptors to the hard one; return how many connections may be open.

    :param wanted: --limit; None: as many as there is room for.
    """
    import resource

    hard: int = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = max(hard - SPARE_DESCRIPTORS - MAX_THREADS, hard // 2, 1)
    return room if wanted is None else min(room, wanted)
