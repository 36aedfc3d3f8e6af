"""Whose is a connection behind NAT or in a container, asked without a thread where nothing can block?

Another process looks (`seeker`), and the loop waits for its answer. Only what that comes to may block, as the name
service does: where a range of /etc/subuid decides that nobody has looked up in the last second.
"""

from __future__ import annotations

import time
from collections import deque

from lookup import behind
from lookup.connection import ACCEPT_PAUSES, IdentError
from lookup.kernel.wire import NOT_ACCEPTED

from .. import seeker
from .workers import BEHIND

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lookup.connection import Address, Arrival, NoUser, Owner
    from lookup.kernel.wire import Found, Request

    from ..options import Options
    from .loop import Loop
    from .workers import Pending, Workers

#: Questions under way at a time, each of which holds a descriptor. So many that they wait in the other process, which
#: gives each container its turn.
MOST = seeker.MOST_WAITING

#: Seconds until it is asked again where the way to the other process is full.
FULL_SECONDS = 0.005

#: Seconds for which it counts whose range a uid is in, from when the file was read; and how many uids are remembered.
SECONDS, MAX_UIDS = 1.0, 1024


class _Asked:
    """What is asked: a request, who was found here, and who waits. ``pauses``: before it is asked again."""

    __slots__ = ("local", "pauses", "pending", "request")

    def __init__(self, request: Request, local: Owner | NoUser, pending: Pending) -> None:
        self.request, self.local, self.pending = request, local, pending
        self.pauses = iter(ACCEPT_PAUSES)


class _Lane:
    """Questions of one kind: how many are under way, and which wait; ``full``: nothing more can be sent just now."""

    def __init__(self) -> None:
        self.under_way = 0
        self.full = False
        self.waiting: deque[_Asked] = deque()


class Behind:
    """Asks the process that looks behind NAT and into containers, about so many connections at a time."""

    def __init__(self, loop: Loop, workers: Workers, asked: seeker.Seeker, options: Options) -> None:
        """:param asked: the process."""
        self._loop, self._workers, self._seeker = loop, workers, asked
        self._sub_ids, self._reply = options.subuid, options.container_reply or ""
        #: By whether a socket was found here: conntrack alone decides nearly all of these, at once, so they do not wait
        #: for the others.
        self._lanes = {True: _Lane(), False: _Lane()}
        #: By uid: whose range it is in, and since when that counts.
        self._ranges: dict[int, tuple[int | None, float]] = {}

    def find(
        self, server: Address, client: Address, arrival: Arrival | None, local: Owner | NoUser, pending: Pending
    ) -> bool:
        """Have ``pending`` settled with the owner of a connection, or with what `lookup.behind.find` raises.

        :param local: who was found in our own network namespace, or why nobody was. For the others see there.
        :return: whether it will be: not where nothing can be asked.
        """
        request = behind.request_for(server, client, arrival, local)
        if request is None:
            return False
        self._ask(_Asked(request, local, pending))
        return True

    def _ask(self, asked: _Asked) -> None:
        lane = self._lanes[asked.request.local]
        lane.waiting.append(asked)
        self._go_on(lane)

    def _go_on(self, lane: _Lane) -> None:
        """Send what waits, as far as it may be."""
        while lane.waiting and lane.under_way < MOST and not lane.full:
            asked = lane.waiting.popleft()
            if asked.pending.settled:
                continue
            try:
                fd = self._seeker.send(asked.request)
            except BlockingIOError:  # EAGAIN: the other process has not taken yet what it was sent
                lane.waiting.appendleft(asked)
                lane.full = True
                self._loop.call_later(FULL_SECONDS, self._try_again, lane)
                return
            except (IdentError, ValueError) as error:
                # Who waits for it may not have said so yet.
                self._loop.call_soon(asked.pending.settle, error)
                continue
            lane.under_way += 1
            self._wait(fd, asked)

    def _try_again(self, lane: _Lane) -> None:
        lane.full = False
        self._go_on(lane)

    def _wait(self, fd: int, asked: _Asked) -> None:
        late = self._loop.call_later(seeker.SECONDS, lambda: self._end(fd, asked))

        def answered() -> None:
            late.cancel()
            self._end(fd, asked)

        # A pipe is readable at its end, too.
        self._loop.when_readable(fd, answered)

    def _end(self, fd: int, asked: _Asked) -> None:
        """Take the answer, if it has come, and let another question have its turn."""
        lane = self._lanes[asked.request.local]
        self._loop.leave(fd)
        lane.under_way -= 1
        try:
            found = self._seeker.answer(fd)
        except IdentError as error:
            asked.pending.settle(error)
        else:
            self._settle(asked, found)
        self._go_on(lane)

    def _settle(self, asked: _Asked, found: Found) -> None:
        if found.kind == NOT_ACCEPTED:
            pause = next(asked.pauses, None)
            if pause is not None:
                self._loop.call_later(pause, self._ask, asked)
                return
        try:
            owner = behind.decide(asked.local, found, self._sub_ids, self._reply, self._remembered)
        except _Unknown:
            self._workers.call(BEHIND, asked.pending, self._decide, (asked.local, found), alone=True)
        except Exception as error:
            asked.pending.settle(error)
        else:
            asked.pending.settle(owner)

    def _remembered(self, uid: int) -> int | None:
        """Return whose range a uid is in. :raises _Unknown: nobody has looked in the last second."""
        holder, until = self._ranges.get(uid, (None, 0.0))
        if self._sub_ids or time.monotonic() >= until:
            # With --subuid, a name is asked for, too.
            raise _Unknown
        return holder

    def _decide(self, jobs: list[tuple[Owner | NoUser, Found]]) -> Iterator[Owner]:
        """Run in a thread."""
        for local, found in jobs:
            yield behind.decide(local, found, self._sub_ids, self._reply, self._range_owner)

    def _range_owner(self, uid: int) -> int | None:
        until = time.monotonic() + SECONDS
        holder = behind.range_owner(uid)
        if len(self._ranges) >= MAX_UIDS:
            self._ranges.clear()
        self._ranges[uid] = holder, until
        return holder


class _Unknown(Exception):
    """A range has to be looked up."""
