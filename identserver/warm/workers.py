"""Which thread does what may block, so that nobody else has to wait?"""

from __future__ import annotations

import contextlib
import threading
import time
from _thread import start_new_thread
from collections import deque
from queue import SimpleQueue

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    from .loop import Loop

    class Pending(Protocol):
        """A result that somebody waits for (`lookups.Pending`), until it is ``settled``: perhaps too late."""

        settled: bool

        def settle(self, result: Any) -> None: ...

    Function = Callable[[list[Any]], Iterator[Any]]

#: Seconds after which a thread counts as stuck. What is read from a disk takes less.
STUCK_SECONDS = 0.02

#: Threads, and how many of them one owner's jobs may hold: a name service that is stuck keeps those it got. Where half
#: of the threads are at work, an owner gets one.
MAX_THREADS, THREADS_PER_OWNER = 256, 4

#: Threads that look behind NAT: all who ask have them in common, and somebody's containers may take seconds each.
THREADS_BEHIND = 32

#: Jobs that are done together at most: while they are, their owner's other jobs wait.
TOGETHER = 64

#: Threads that may wait for other processes before these count as stuck, too, and one more is not started at once.
ELSEWHERE = 8

#: In place of a result: this job has to be done on its own.
ON_ITS_OWN = object()

#: In place of an owner's uid: the owner is not known yet; the job is to read the system file, or who has sub-ids; or to
#: find out why there is no owner, or for the log which processes hold sockets; or to look behind NAT.
ANY_OWNER, SYSTEM_FILE, SUB_IDS, CAUSES, HOLDERS, BEHIND = -1, -2, -3, -4, -5, -6


class _Job:
    """Something to be done for an owner, on its own or together with the like."""

    __slots__ = ("alone", "argument", "function", "pending")

    def __init__(self, pending: Pending, function: Function, argument: Any, alone: bool) -> None:
        self.pending = pending
        self.function = function
        self.argument = argument
        self.alone = alone


class Workers:
    """Threads for what may block: one, while nothing does.

    A single thread that takes one job after the other answers three times as many queries as one thread for each,
    because they would contend for the interpreter. A thread counts as stuck whose job has taken STUCK_SECONDS, or the
    job before. Where all are stuck there will soon be twice as many. An owner's jobs get another thread only when those
    that they hold are stuck, and THREADS_PER_OWNER at most; the rest of them wait, and are then done together. The uids
    that a user may give to processes count as one owner's.
    """

    def __init__(self, loop: Loop, complain: Callable[[str], object], holder: Callable[[int], int] = int) -> None:
        """:param complain: called, in the loop, with what keeps a thread from being started.

        :param holder: returns whose a uid is (`SubIds.holder`).
        """
        self._loop, self._complain, self._holder = loop, complain, holder
        self._results: deque[Any] = deque()
        self._lock = threading.Lock()
        #: By uid, the jobs that wait. While a uid is in here, their turn will come: it is in the queue, or is held
        #: until their owner may have another thread.
        self._waiting: dict[int, list[_Job]] = {}
        self._turns: SimpleQueue[int] = SimpleQueue()
        self._held: dict[int, list[int]] = {}
        #: Threads that wait for another process.
        self._elsewhere = 0
        #: By thread that is at work: the owner whose job it does, and since when.
        self._busy: dict[object, tuple[int, float]] = {}
        #: Threads whose last job took STUCK_SECONDS: the next one probably will, too.
        self._slow: set[object] = set()
        self._threads = self._stuck = 0
        #: Threads that were started and have not begun, and that have begun although they were given up.
        self._beginning = self._late = 0
        self._watching = self._woken = False

    @property
    def any_busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._busy)

    def call(self, uid: int, pending: Pending, function: Function, argument: Any, alone: bool = False) -> None:
        """Have a thread call a function; ``pending`` is settled in the loop.

        :param uid: whose job it is.
        :param function: yields a result for each of the arguments that it is given: those of all jobs of this owner
            that wait by then. An owner's jobs have the same function, except those done alone. `ON_ITS_OWN` as a
            result has one job done again, alone.
        :param alone: do it alone from the start.
        """
        self._add(uid, [_Job(pending, function, argument, alone)])
        self._employ()

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Let other jobs be done meanwhile: the thread that runs this waits for another process."""
        with self._lock:
            self._elsewhere += 1
        try:
            yield
        finally:
            with self._lock:
                self._elsewhere -= 1

    def _add(self, uid: int, jobs: list[_Job]) -> None:
        with self._lock:
            waiting = self._waiting.get(uid)
            if waiting is not None:
                waiting += jobs
                return
            self._waiting[uid] = jobs
        self._turns.put(uid)

    def _employ(self) -> None:
        """Start threads if all that exist are stuck, and look after them while they work."""
        if self._threads <= max(self._stuck, min(self._elsewhere, ELSEWHERE)):
            try:
                for _ in range(min(max(self._threads, 1), max(self._turns.qsize(), 1), MAX_THREADS - self._threads)):
                    # Not by threading.Thread, whose start() waits without end for one that has no memory to begin with.
                    with self._lock:
                        start_new_thread(self._work, ())
                        self._beginning += 1
                    self._threads += 1
            except RuntimeError as error:
                # EAGAIN, ENOMEM: a limit of processes, or memory. It is tried again while anything waits.
                self._complain(f"no thread for what may block: {error}")
        if not self._watching:
            self._watching = True
            self._loop.call_later(STUCK_SECONDS, self._watch)

    def _watch(self) -> None:
        self._watching = False
        self._forget_settled()
        if self._busy or self._waiting:
            self._count_stuck()
            with self._lock:
                # Those that have not begun by now probably never will.
                self._threads += self._late - self._beginning
                self._beginning = self._late = 0
                for owner in list(self._held):
                    if self._may_have_another(owner):
                        self._release(owner)
            self._employ()

    def _forget_settled(self) -> None:
        """Drop the jobs that nobody waits for any more: those before them may be stuck for ever."""
        with self._lock:
            for jobs in self._waiting.values():
                jobs[:] = [job for job in jobs if not job.pending.settled]

    def _count_stuck(self) -> None:
        long_ago = time.monotonic() - STUCK_SECONDS
        busy = list(self._busy.items())
        self._stuck = sum(since < long_ago or thread in self._slow for thread, (_, since) in busy)

    def _work(self) -> None:
        """Run in a thread: take turns, until a job has taken long and nobody has a turn."""
        me, uid = object(), ANY_OWNER
        took = 0.0
        with self._lock:
            if self._beginning:
                self._beginning -= 1
            else:
                self._late += 1
        try:
            while took < STUCK_SECONDS or not self._turns.empty():
                uid = self._turns.get()
                jobs = self._take(me, uid)
                if jobs:
                    began = time.monotonic()
                    self._do(uid, jobs)
                    took = time.monotonic() - began
                    self._end(me, took)
                    self._wake()
        except BaseException as error:
            # MemoryError, or a mistake of ours, between two jobs. Those of this uid have lost their turn.
            with self._lock:
                lost = self._waiting.pop(uid, [])
            self._results += ((job.pending, error) for job in lost)
        finally:
            # Whatever ends a thread, another one can take its place.
            self._busy.pop(me, None)
            self._slow.discard(me)
            self._results.append((None, None))
            self._wake()

    def _take(self, me: object, uid: int) -> list[_Job]:
        """Return the jobs of a uid that are done together, now that it is their turn; they keep this thread busy."""
        owner = self._holder(uid)
        with self._lock:
            if not self._may_have_another(owner):
                self._held.setdefault(owner, []).append(uid)
                return []
            jobs = [job for job in self._waiting.pop(uid, ()) if not job.pending.settled]
            if not jobs:
                return []
            first = jobs[0]
            taken = [job for job in jobs if job is first or not (job.alone or first.alone)][:TOGETHER]
            if len(taken) < len(jobs):
                rest = set(taken)
                self._waiting[uid] = [job for job in jobs if job not in rest]
                self._turns.put(uid)
            self._busy[me] = owner, time.monotonic()
            return taken

    def _may_have_another(self, owner: int) -> bool:
        """Return whether an owner's jobs may have one more thread. The lock is held."""
        held = [since for other, since in self._busy.values() if other == owner]
        if not held:
            return True
        most = THREADS_BEHIND if owner == BEHIND else THREADS_PER_OWNER
        if len(held) >= (most if len(self._busy) < MAX_THREADS // 2 else 1):
            return False
        return max(held) < time.monotonic() - STUCK_SECONDS

    def _release(self, owner: int) -> None:
        """Have those take their turn who were held back. The lock is held."""
        for uid in self._held.pop(owner, ()):
            self._turns.put(uid)

    def _do(self, uid: int, jobs: list[_Job]) -> None:
        results = jobs[0].function([job.argument for job in jobs])
        again = []
        done = 0
        try:
            for job in jobs:
                result = next(results)
                done += 1
                if result is ON_ITS_OWN:
                    job.alone = True
                    again.append(job)
                else:
                    self._results.append((job.pending, result))
            next(results, None)  # so that the function comes to its own end
        except BaseException as error:
            self._results += ((job.pending, error) for job in jobs[done:])
        if again:
            self._add(uid, again)

    def _end(self, me: object, took: float) -> None:
        with self._lock:
            self._release(self._busy.pop(me)[0])
            (self._slow.discard if took < STUCK_SECONDS else self._slow.add)(me)

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
