"""Which sockets can be read from, or written to, now?

One epoll(7) holds all of them, and asyncio watches that one descriptor. To have asyncio watch a socket and leave it
again takes 30 us, as long as the lookup itself; here it is 3.
"""

from __future__ import annotations

from select import EPOLLIN, EPOLLOUT, epoll

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    import _socket
    import asyncio
    from collections.abc import Callable

    Call = Callable[[], object]


class Ready:
    """The sockets that the warm process waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = epoll()
        #: By descriptor.
        self._calls: dict[int, Call] = {}
        loop.add_reader(self._epoll, self._call_back)

    def when_readable(self, one: _socket.socket, call: Call) -> None:
        """Have a function called, in the loop, whenever there is something to read, until `leave`."""
        self._watch(one.fileno(), EPOLLIN, call)

    def when_writable(self, one: _socket.socket, call: Call) -> None:
        """The same, whenever there is room to write."""
        self._watch(one.fileno(), EPOLLOUT, call)

    def _watch(self, fd: int, what: int, call: Call) -> None:
        self._epoll.register(fd, what)
        self._calls[fd] = call

    def leave(self, one: _socket.socket) -> None:
        """Watch a socket no more. Before it is closed: a process forked meanwhile may have it, too."""
        fd = one.fileno()
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _call_back(self) -> None:
        for fd, _ in self._epoll.poll(0):
            # What was called before may have left it; or closed it, and another one has its number, with nothing to
            # read so far.
            call = self._calls.get(fd)
            if call is not None:
                call()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll)
        self._epoll.close()
