"""Do those who do what may block keep nobody waiting, do together what they can, and forget what is settled?"""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import until
from helpers.pairs import PATIENCE

from identserver.answer import LOOKUP_SECONDS
from identserver.warm import workers as room
from identserver.warm.lookups import Pending
from identserver.warm.loop import Loop
from identserver.warm.workers import BEHIND, ON_ITS_OWN, THREADS_PER_OWNER, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def run(loop: Loop, seconds: float) -> None:
    """Run a loop for a moment."""
    loop.call_later(seconds, loop.stop)
    loop.run()


class Bench:
    """Workers, the loop that they report to, and what they have settled, by argument."""

    def __init__(self) -> None:
        self.loop = Loop(lambda error: pytest.fail(str(error)))
        self.workers = Workers(self.loop, pytest.fail)
        self.settled: dict[Any, Any] = {}
        #: Until it is set, `blocked` blocks.
        self.release = threading.Event()

    def call(self, uid: int, function: Any, argument: Any, seconds: float = PATIENCE, alone: bool = False) -> None:
        """Have something done."""
        pending = Pending(self.loop, seconds, TimeoutError())

        def take(result: Any) -> None:
            self.settled[argument] = getattr(result, "value", result)

        pending.addCallbacks(take, take)
        self.workers.call(uid, pending, function, argument, alone)

    def blocked(self, arguments: list[Any]) -> Iterator[Any]:
        """Block, and give the arguments back."""
        self.release.wait(PATIENCE)
        yield from arguments

    def call_behind_a_blocked_one(self, result: Callable[[int, list[int]], Any], arguments: range) -> list[list[int]]:
        """Have one owner's jobs done, of which the first blocks until all the others wait.

        :param result: gives what comes of an argument that is done together with others.
        :return: which arguments were done together.
        """
        calls: list[list[int]] = []

        def work(arguments: list[int]) -> Iterator[Any]:
            calls.append(arguments)
            self.release.wait(PATIENCE)
            for argument in arguments:
                yield result(argument, arguments)

        first, *others = arguments
        self.call(1, work, first)
        until(lambda: self.workers.any_busy)
        # None of them may be taken before the last has come: nobody looks after the threads until then.
        for argument in others:
            self.call(1, work, argument)
        self.release.set()
        self.turn(len(arguments))
        return calls

    def until(self, holds: Callable[[], bool]) -> None:
        """Run the loop until something holds."""

        def held() -> bool:
            run(self.loop, 0.01)
            return holds()

        until(held)

    def turn(self, count: int) -> None:
        """Run the loop until so many jobs are settled."""
        self.until(lambda: len(self.settled) >= count)
        assert len(self.settled) == count


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Workers of our own."""
    bench = Bench()
    yield bench
    bench.release.set()
    until(lambda: not bench.workers.any_busy)
    run(bench.loop, 0.05)
    bench.loop.close()


def test_one_thread_is_enough_while_nothing_blocks(bench: Bench) -> None:
    """The jobs of many owners are done one after the other."""
    threads = set()

    def work(arguments: list[int]) -> Iterator[int]:
        threads.add(threading.get_ident())
        yield from arguments

    for uid in range(100):
        bench.call(uid, work, uid)
        bench.turn(uid + 1)
    assert bench.settled == {uid: uid for uid in range(100)}
    assert len(threads) == 1


def test_what_waits_is_done_together(bench: Bench) -> None:
    """All jobs of one owner that wait while his first one blocks are one call, and each gets its own result."""
    calls = bench.call_behind_a_blocked_one(lambda argument, _: argument * 10, range(1, 22))
    assert bench.settled == {argument: argument * 10 for argument in range(1, 22)}
    assert calls == [[1], list(range(2, 22))]


def test_some_jobs_are_done_on_their_own(bench: Bench) -> None:
    """What can't be done together is done again, one at a time, whatever else waits."""
    calls = bench.call_behind_a_blocked_one(
        lambda argument, others: ON_ITS_OWN if len(others) > 1 and argument % 2 else argument, range(7)
    )
    assert bench.settled == {argument: argument for argument in range(7)}
    assert calls[:2] == [[0], [1, 2, 3, 4, 5, 6]]
    assert sorted(calls[2:]) == [[1], [3], [5]]


def test_an_error_ends_what_was_done_together(bench: Bench) -> None:
    """Results that came before it count; the rest get the error, and the thread goes on."""

    def result(argument: int, others: list[int]) -> int:
        if len(others) > 1 and argument != others[0]:
            raise ValueError("broken for the test")
        return argument

    bench.call_behind_a_blocked_one(result, range(4))
    bench.call(1, list.__iter__, 4)
    bench.turn(5)
    assert [bench.settled[argument] for argument in (0, 1, 4)] == [0, 1, 4]
    assert all(isinstance(bench.settled[argument], ValueError) for argument in (2, 3))


def test_one_owner_holds_few_threads(bench: Bench) -> None:
    """However many jobs of his block, another owner's job is done meanwhile."""
    for argument in range(50):
        bench.call(1, bench.blocked, argument, alone=True)
    bench.until(lambda: len(bench.workers._busy) == THREADS_PER_OWNER)
    bench.call(2, list.__iter__, "another")
    bench.turn(1)
    assert bench.settled == {"another": "another"}
    assert len(bench.workers._busy) == THREADS_PER_OWNER
    bench.release.set()
    bench.turn(51)


@pytest.mark.parametrize("seconds", [0.025, 0.1])
def test_many_owners_who_are_slow(bench: Bench, seconds: float) -> None:
    """A name service that needs a moment for each of 300 owners answers about all of them in time."""

    def work(arguments: list[int]) -> Iterator[int]:
        time.sleep(seconds)
        yield from arguments

    for uid in range(300):
        bench.call(uid, work, uid, LOOKUP_SECONDS)
    bench.turn(300)
    assert bench.settled == {uid: uid for uid in range(300)}


@pytest.mark.parametrize("owners", [1, 100])
def test_what_nobody_waits_for_is_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch, owners: int) -> None:
    """Jobs behind stuck ones do not heap up for as long as these are stuck, be they one owner's or everybody's."""
    monkeypatch.setattr(room, "MAX_THREADS", 8)

    class Argument:
        pass

    forgotten, pendings = [], []
    for number in range(500):
        argument = Argument()
        forgotten.append(weakref.ref(argument))
        pending = Pending(bench.loop, PATIENCE, TimeoutError())
        pendings.append(pending)
        pending.addCallbacks(lambda _: None, lambda _: None)
        bench.workers.call(number % owners, pending, bench.blocked, argument, alone=True)
    del argument
    held = THREADS_PER_OWNER if owners == 1 else 8
    bench.until(lambda: len(bench.workers._busy) == held)
    for pending in pendings:
        pending.settle(TimeoutError())
    bench.until(lambda: sum(argument() is not None for argument in forgotten) == held)
    assert len(bench.workers._busy) == held
    assert bench.workers._turns.qsize() <= owners


def test_a_search_behind_nat_that_is_stuck(bench: Bench) -> None:
    """As many as one owner may have are stuck: another one, which anybody may have asked for, is done all the same."""
    for number in range(2 * THREADS_PER_OWNER):
        bench.call(BEHIND, bench.blocked, number, alone=True)
    bench.call(BEHIND, iter, "quick", alone=True)
    bench.until(lambda: "quick" in bench.settled)
    assert bench.settled == {"quick": "quick"}
    bench.release.set()


def test_a_thread_that_fails_between_two_jobs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be done next gets the error (MemoryError, say), and another thread does the rest."""
    take = bench.workers._take
    fails = [True]

    def fail(me: object, uid: int) -> list[Any]:
        if uid == 1 and fails and fails.pop():
            raise MemoryError
        return take(me, uid)

    monkeypatch.setattr(bench.workers, "_take", fail)
    for uid in (1, 2, 3):
        bench.call(uid, iter, uid)
    bench.turn(3)
    assert isinstance(bench.settled.pop(1), MemoryError)
    assert bench.settled == {2: 2, 3: 3}
    bench.call(1, iter, "again")
    bench.turn(3)
    assert bench.settled["again"] == "again"
