"""Has the superserver ended that handed us its listening socket, and how is the port given back to the next one?

A superserver that is started anew binds the port a moment after the old one has ended, tries a few times within a
millisecond, and gives the service up for good. So whoever still holds the old socket has to let go of it at once.
"""

from __future__ import annotations

import contextlib
import os

from ..log import status_of

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

#: Descriptors among which copies of the listening socket are sought: superservers hand over 0, 1 and 2.
_INHERITED = 256


class Parent:
    """The process that started us, where it is a superserver with a socket that listens on standard input."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        """:param listeners: what we serve.

        Call it early: a parent that has ended by then is noticed by nobody.
        """
        self._pidfd = -1
        parent = os.getppid()
        if not any(listener.fileno() == 0 for listener in listeners) or parent <= 1:
            return
        # Linux 5.3 and Python 3.9 have it. ENOSYS, EPERM: an older kernel, a sandbox. ESRCH: it has just ended.
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(parent)
        if self._pidfd >= 0 and os.getppid() != parent:
            self.forget()

    @property
    def is_superserver(self) -> bool:
        """Whether there is such a process, as far as we can tell: what speaks to systemd is that one, not we."""
        return self._pidfd >= 0

    def watch(self, loop: asyncio.AbstractEventLoop, ended: Callable[[], object]) -> None:
        """Have a function called when the parent has ended."""
        if self._pidfd < 0:
            return

        def gone() -> None:
            loop.remove_reader(self._pidfd)
            ended()

        loop.add_reader(self._pidfd, gone)

    def forget(self) -> None:
        """Let go of it."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def let_go(listeners: Sequence[socket.socket]) -> None:
    """Put /dev/null in place of these sockets, and of every copy that came with them: nobody listens there any more."""
    ours = {_identity(listener.fileno()) for listener in listeners} - {None}
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError:  # EMFILE, ENOENT: any other file does
        null = 2
    for fd in {*range(_INHERITED), *(listener.fileno() for listener in listeners)}:
        if _identity(fd) in ours:
            os.dup2(null, fd, inheritable=fd <= 2)
    if null > 2:
        os.close(null)


def _identity(fd: int) -> tuple[int, int] | None:
    """Return what tells an open file from every other one; None: the descriptor is closed."""
    status = status_of(fd)
    return None if status is None else (status.st_dev, status.st_ino)
