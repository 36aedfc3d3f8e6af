"""What has to be done next: for a socket that is ready, at a time, after a thread or a signal?

An event loop on epoll(7). asyncio's takes 50 us of a query that comes alone, as long as all the rest that Python does
for it, and 10 MiB.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from heapq import heappop, heappush
from itertools import count
from select import EPOLLIN, EPOLLOUT, epoll

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = Callable[[], object]


class Timer:
    """What is due at some time, unless it is cancelled."""

    __slots__ = ("arguments", "call")

    def __init__(self, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.call: Callable[..., object] | None = call
        self.arguments = arguments

    def cancel(self) -> None:
        """Let nothing be done."""
        self.call, self.arguments = None, ()


class Loop:
    """The loop of the warm process. Only `call_soon_threadsafe` and `is_closed` are for other threads."""

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        """:param failed: called with what went wrong in a call; the others go on."""
        self._failed = failed
        self._epoll = epoll()
        #: By descriptor.
        self._ready: dict[int, Call] = {}
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: When, in which order, and what.
        self._later: list[tuple[float, int, Timer]] = []
        self._order = count()
        #: A pipe: what is written to it ends the wait.
        self._woken, self._wake = os.pipe()
        for fd in (self._woken, self._wake):
            os.set_blocking(fd, False)
        self._watch(self._woken, EPOLLIN, self._wake_up)
        self._closing = threading.Lock()
        self._stopping = self._closed = False
        self._signals: list[int] = []

    def when_readable(self, fd: int, call: Call) -> None:
        """Have a function called whenever there is something to read, until `leave`."""
        self._watch(fd, EPOLLIN, call)

    def when_writable(self, fd: int, call: Call) -> None:
        """The same, whenever there is room to write."""
        self._watch(fd, EPOLLOUT, call)

    def _watch(self, fd: int, what: int, call: Call) -> None:
        self._epoll.register(fd, what)
        self._ready[fd] = call

    def leave(self, fd: int) -> None:
        """Watch a descriptor no more. Before it is closed: a process that was forked meanwhile may have it, too."""
        if self._ready.pop(fd, None) is not None:
            try:  # noqa: SIM105 - which takes 1 us
                self._epoll.unregister(fd)
            except OSError:
                # ENOENT, EBADF: it leads elsewhere by now, or nowhere.
                pass

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call a function after what is being done."""
        self._soon.append((call, arguments))

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> Timer:
        """Call a function after so many seconds; return what can be cancelled."""
        timer = Timer(call, arguments)
        heappush(self._later, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def call_soon_threadsafe(self, call: Callable[..., object], *arguments: Any) -> None:
        """Like `call_soon`, from another thread, or a signal's handler."""
        self._soon.append((call, arguments))
        with self._closing:
            if not self._closed:
                self._write()

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):  # EAGAIN: so much is there to read that the wait ends in any case
            os.write(self._wake, b"\0")

    def on_signal(self, number: int, call: Call) -> None:
        """Have a function called, in the loop, when a signal comes."""
        # Python's own handler runs only when the wait has ended: the number is written to this descriptor before.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(number, lambda *_: self._soon.append((call, ())))
        # The name service, in a thread, goes on where a signal interrupts it.
        signal.siginterrupt(number, False)
        self._signals.append(number)

    def _wake_up(self) -> None:
        os.read(self._woken, 4096)

    def run(self) -> None:
        """Do what there is to do, until `stop`."""
        while not self._stopping:
            ready = self._epoll.poll(self._seconds())
            for fd, call in [(fd, self._ready.get(fd)) for fd, _ in ready]:
                # A call before may have left this one; or closed it, and another one that is not ready has its number.
                if call is not None and self._ready.get(fd) is call:
                    self._do(call, ())
            now = time.monotonic() if self._later else 0.0
            while self._later and self._later[0][0] <= now:
                timer = heappop(self._later)[2]
                if timer.call is not None:
                    self._do(timer.call, timer.arguments)
            for _ in range(len(self._soon)):
                self._do(*self._soon.popleft())
        self._stopping = False

    def _seconds(self) -> float | None:
        """Return how long there is nothing to do but to wait; None: until somebody wakes us."""
        if self._soon:
            return 0
        if not self._later:
            return None
        return max(self._later[0][0] - time.monotonic(), 0)

    def _do(self, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            call(*arguments)
        except Exception as error:
            self._failed(error)

    def stop(self) -> None:
        """End `run` after what is being done."""
        self._stopping = True

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Let signals have their usual effect again, and wait for nothing more."""
        if self._signals:
            signal.set_wakeup_fd(-1)
        for number in self._signals:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with self._closing:
            self._closed = True
            self._epoll.close()
            os.close(self._woken)
            os.close(self._wake)
