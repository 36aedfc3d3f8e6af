"""Does the loop wait for who looks behind NAT, for so many at a time, and leave what may block to a thread?"""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import until
from helpers.pairs import PATIENCE

from identserver import Options, passing, seeker
from identserver.warm import behind as room
from identserver.warm.behind import Behind
from identserver.warm.lookups import Pending
from identserver.warm.loop import Loop
from identserver.warm.workers import Workers
from lookup import behind
from lookup.connection import IdentError, NotAccepted, NoUser, Owner
from lookup.kernel.wire import (
    FAILED,
    INSIDE,
    NO_UID,
    NOBODY,
    NOT_ACCEPTED,
    OF_A_CONTAINER,
    OF_THE_HOST,
    REQUEST_SIZE,
    STANDS,
    Found,
    Request,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS, FAR = ("192.0.2.1", 5000), ("192.0.2.2", 6667)

#: Who was found here.
HERE = Owner(1000, 1, "ESTABLISHED", OURS, FAR, "sock_diag", 0)

#: Questions under way at a time.
MOST = 8


class Asked(seeker.Seeker):
    """A process that looks, which the test is."""

    def __init__(self) -> None:
        self._socket, self.theirs = passing.pair()
        #: Of each request that has come: where the answer goes.
        self.requests: list[int] = []

    def take(self) -> int:
        """Take the requests that have come; return how many there are without an answer."""
        self.theirs.setblocking(False)
        while True:
            try:
                data, (fd,) = passing.receive(self.theirs, REQUEST_SIZE)
            except BlockingIOError:
                return len(self.requests)
            assert Request.unpack(data).server == OURS
            self.requests.append(fd)

    def reply(self, kind: int, uid: int = 1000, **more: Any) -> None:
        """Answer the first of them."""
        fd = self.requests.pop(0)
        try:
            os.write(fd, Found(kind, OURS, FAR, uid=uid, state=1, **more).pack())
        finally:
            os.close(fd)


class Bench:
    """The loop that asks, and what came of each question."""

    def __init__(self) -> None:
        self.loop = Loop(lambda error: pytest.fail(repr(error)))
        self.workers = Workers(self.loop, pytest.fail)
        self.seeker = Asked()
        self.behind = Behind(self.loop, self.workers, self.seeker, Options())
        self.came: list[Any] = []

    def ask(self, local: Any = HERE, seconds: float = PATIENCE) -> None:
        """Ask once more."""
        pending = Pending(self.loop, seconds, IdentError("late"))
        assert self.behind.find(OURS, FAR, None, local, pending)
        pending.addCallbacks(self.came.append, lambda failure: self.came.append(failure.value))

    def until(self, holds: Callable[[], object]) -> None:
        """Run the loop until something holds."""

        def held() -> bool:
            self.loop.call_later(0.002, self.loop.stop)
            self.loop.run()
            return bool(holds())

        until(held)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A loop, and a process that looks, of our own."""
    bench = Bench()
    yield bench
    for fd in bench.seeker.requests:
        os.close(fd)
    bench.seeker.close()
    bench.seeker.theirs.close()
    until(lambda: not bench.workers.any_busy)
    bench.loop.close()


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Every uid is in a range of uid 1001; the list has who asked whose range it is in, and whether in the loop."""
    asked: list[tuple[int, bool]] = []
    here = threading.get_ident()

    def range_owner(uid: int) -> int:
        asked.append((uid, threading.get_ident() == here))
        return 1001

    monkeypatch.setattr(behind, "range_owner", range_owner)
    return asked


def test_what_stands_takes_no_thread(bench: Bench, ranges: list[tuple[int, bool]]) -> None:
    """No entry means another socket: who was found here is the owner, or nobody is. No thread was started."""
    before = threading.active_count()
    bench.ask()
    bench.ask(NoUser("nobody"))
    bench.until(lambda: bench.seeker.take() == 2)
    bench.seeker.reply(STANDS)
    bench.seeker.reply(STANDS)
    bench.until(lambda: len(bench.came) == 2)
    assert bench.came[0] is HERE
    assert isinstance(bench.came[1], NoUser)
    assert (threading.active_count(), bench.workers.any_busy, ranges) == (before, False, [])


def test_whose_range_it_is_in_is_found_in_a_thread(
    bench: Bench, ranges: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may block. It counts for a second, from when it was asked; another uid's is another one's."""
    now = [0.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for now[0], uid, asked in (
        (0.0, 70000, [(70000, False)]), (room.SECONDS - 0.1, 70000, []), (room.SECONDS - 0.1, 70001, [(70001, False)]),
        (room.SECONDS, 70000, [(70000, False)]),
    ):  # fmt: skip
        ranges.clear()
        bench.came.clear()
        bench.ask()
        bench.until(bench.seeker.take)
        bench.seeker.reply(INSIDE, uid, held=OF_A_CONTAINER, maker=NO_UID, place="container x")
        bench.until(lambda: bench.came)
        assert (bench.came[0].uid, bench.came[0].held_as) == (1001, uid)
        assert ranges == asked
    # A process of the host's needs none.
    bench.came.clear()
    ranges.clear()
    bench.ask()
    bench.until(bench.seeker.take)
    bench.seeker.reply(INSIDE, 1000, held=OF_THE_HOST)
    bench.until(lambda: bench.came)
    assert (bench.came[0].uid, ranges) == (1000, [])


def test_so_many_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait, each for its own deadline, and have their turn when one is answered."""
    monkeypatch.setattr(room, "MOST", MOST)
    for _ in range(MOST + 2):
        bench.ask()
    bench.ask(seconds=0)
    bench.until(lambda: bench.seeker.take() == MOST and bench.came)
    assert [error.detail for error in bench.came] == ["late"]
    for _ in range(MOST):
        bench.seeker.reply(STANDS)
    bench.until(lambda: bench.seeker.take() == 2)
    bench.seeker.reply(STANDS)
    bench.seeker.reply(STANDS)
    bench.until(lambda: len(bench.came) == MOST + 3)
    assert bench.seeker.take() == 0, "for one of them nobody has waited any more"


def test_the_way_is_full(bench: Bench) -> None:
    """Hundreds of questions at once, before the other process takes any: all are answered, in their order."""
    for _ in range(300):
        bench.ask(local=NoUser(""))
    bench.until(lambda: not bench.behind._lanes[False].waiting or bench.behind._lanes[False].full)
    assert not bench.came
    for number in range(300):
        bench.until(bench.seeker.take)
        bench.seeker.reply(NOBODY, reason=str(number))
    bench.until(lambda: len(bench.came) == 300)
    assert [error.detail for error in bench.came] == [str(number) for number in range(300)]


def test_it_is_asked_again_until_it_is_accepted(bench: Bench) -> None:
    """Clients ask before a process has accepted their connection. In the end, that is the answer."""
    bench.ask()
    bench.until(bench.seeker.take)
    bench.seeker.reply(NOT_ACCEPTED)
    bench.until(bench.seeker.take)
    bench.seeker.reply(STANDS)
    bench.until(lambda: bench.came)
    assert bench.came.pop() is HERE
    bench.ask()
    while not bench.came:
        bench.until(lambda: bench.seeker.take() or bench.came)
        if bench.seeker.requests:
            bench.seeker.reply(NOT_ACCEPTED)
    assert isinstance(bench.came[0], NotAccepted)


def test_no_answer_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is named, and what comes too late is nobody's answer."""
    monkeypatch.setattr(seeker, "SECONDS", 0.05)
    bench.ask()
    bench.until(bench.seeker.take)
    bench.until(lambda: bench.came)
    assert bench.came[0].detail.endswith("it takes too long")
    with pytest.raises(BrokenPipeError):
        bench.seeker.reply(STANDS)


def test_no_such_answer(bench: Bench) -> None:
    """It is cut, or there is none; it can't be found out; the process has ended: nobody is named."""
    bench.ask()
    bench.until(bench.seeker.take)
    os.close(bench.seeker.requests.pop())
    bench.ask()
    bench.until(bench.seeker.take)
    bench.seeker.reply(FAILED, reason="whatever")
    bench.until(lambda: len(bench.came) == 2)
    bench.seeker.theirs.close()
    bench.ask()
    bench.until(lambda: len(bench.came) == 3)
    assert [type(one) for one in bench.came] == [IdentError] * 3
    assert bench.came[1].detail == "whatever"
