"""Who does what may block, so that nobody else has to wait?"""

from __future__ import annotations

import threading
import time
from collections import deque
from queue import SimpleQueue

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Pending(Protocol):
        """A result that somebody waits for, until it is ``settled`` (too late, perhaps)."""

        settled: bool

        def settle(self, result: Any) -> None: ...


#: Seconds after which a thread counts as stuck. What is read from a disk takes less.
STUCK_SECONDS = 0.02

#: Threads, and how many of them one owner's jobs may hold: a stuck home directory or name service keeps those it got.
MAX_THREADS, THREADS_PER_OWNER = 256, 4


class Workers:
    """Threads for what may block: one, while nothing does.

    A single thread that works off a queue answers three times as many queries as one thread for each, for they
    would contend for the interpreter. One whose job has taken STUCK_SECONDS is given up for stuck, and another
    started. One owner's jobs hold THREADS_PER_OWNER threads at most; the rest of them wait for these.
    """

    def __init__(self, loop: Any, complain: Callable[[str], None]) -> None:
        """:param complain: called, in the loop, with what keeps a thread from being started."""
        self._loop, self._complain = loop, complain
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._results: deque[Any] = deque()
        #: By owner, the jobs that wait for his stuck ones.
        self._parked: dict[int, list[Any]] = {}
        self._parking = threading.Lock()
        #: By thread: the owner whose job it does, and since when.
        self._busy: dict[object, tuple[int, float]] = {}
        self._threads = self._stuck = 0
        self._watching = self._woken = False

    @property
    def any_busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._busy)

    def call(self, uid: int, pending: Pending, function: Callable[..., Any], arguments: Any) -> None:
        """Have a thread call a function; ``pending`` is settled in the loop."""
        self._queue.put((uid, pending, function, arguments))
        self._employ()

    def _employ(self) -> None:
        """Start a thread where all that there are are stuck, and look after them while they work."""
        if self._threads <= self._stuck and self._threads < MAX_THREADS:
            try:
                threading.Thread(target=self._work, daemon=True).start()
                self._threads += 1
            except RuntimeError as error:
                # EAGAIN, ENOMEM: a limit of processes, or memory. It is tried again while anything waits.
                self._complain(f"no thread for what may block: {error}")
        if not self._watching:
            self._watching = True
            self._loop.call_later(STUCK_SECONDS, self._watch)

    def _watch(self) -> None:
        self._watching = False
        for uid in list(self._parked):
            if self._has_room(uid):
                self._unpark(uid)
            else:
                self._forget_settled(uid)
        if self._busy or self._parked or not self._queue.empty():
            self._count_stuck()
            self._employ()

    def _count_stuck(self) -> None:
        long_ago = time.monotonic() - STUCK_SECONDS
        self._stuck = sum(since < long_ago for _, since in list(self._busy.values()))

    def _has_room(self, uid: int) -> bool:
        return sum(owner == uid for owner, _ in list(self._busy.values())) < THREADS_PER_OWNER

    def _unpark(self, uid: int) -> None:
        with self._parking:
            jobs = self._parked.pop(uid, ())
        for job in jobs:
            self._queue.put(job)

    def _forget_settled(self, uid: int) -> None:
        """Drop the jobs that nobody waits for any more: the stuck ones may stay so for ever."""
        with self._parking:
            jobs = [job for job in self._parked.pop(uid, ()) if not job[1].settled]
            if jobs:
                self._parked[uid] = jobs

    def _work(self) -> None:
        """Run in a thread: work off the queue, until a job has taken so long that another thread does that."""
        me = object()
        took = 0.0
        while took < STUCK_SECONDS:
            job = self._queue.get()
            uid, pending, function, arguments = job
            if pending.settled:
                continue
            if not self._has_room(uid):
                with self._parking:
                    self._parked.setdefault(uid, []).append(job)
                # The last of his jobs may have ended just before, and seen nothing to unpark.
                if self._has_room(uid):
                    self._unpark(uid)
                continue
            began = time.monotonic()
            self._busy[me] = uid, began
            try:
                result = function(*arguments)
            except BaseException as error:
                result = error
            del self._busy[me]
            took = time.monotonic() - began
            self._results.append((pending, result))
            if self._parked:
                self._unpark(uid)
            self._wake()
        self._results.append((None, None))
        self._wake()

    def _wake(self) -> None:
        if not self._woken and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._woken = False
        while self._results:
            pending, result = self._results.popleft()
            if pending is None:  # a thread has ended
                self._threads -= 1
                self._count_stuck()
                self._employ()
            else:
                pending.settle(result)
