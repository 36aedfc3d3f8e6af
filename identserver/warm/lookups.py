"""How is an owner looked up without keeping the other clients waiting?"""

from __future__ import annotations

import lookup
from lookup.errors import IdentError, NotAccepted, NoUser, Unknown
from lookup.kernel.sock_diag import SockDiag, SockDiagUnavailable
from lookup.owner import Facts, Memory, answer

from ..answer import LOOKUP_SECONDS
from ..protocol import Failure
from .workers import ANY_OWNER, ON_ITS_OWN, Workers

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from typing import Any

    from lookup.config.blocks import System
    from lookup.connection import Address, Owner
    from lookup.kernel.arrival import Arrival

    Question = tuple[Owner, Address, Address, "System | None"]


#: How many queries may wait until somebody accepts the connection that they are about; and how many of one asker.
MAX_WAITING, MAX_WAITING_OF_ONE = 512, 32


class Pending:
    """A result that is still to come, for a protocol to wait for. It has a deadline."""

    __slots__ = ("_fail", "_succeed", "_timer", "settled")

    _succeed: Callable[[Any], object]
    _fail: Callable[[Any], object]

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, late: BaseException) -> None:
        """:param late: the result if none has come after so many seconds."""
        self.settled = False
        self._timer = loop.call_later(seconds, self.settle, late)

    def addCallbacks(self, succeed: Callable[[Any], object], fail: Callable[[Any], object]) -> None:
        """Have one of two functions called with the result, or with the `Failure` that holds an exception."""
        self._succeed, self._fail = succeed, fail

    def settle(self, result: Any) -> None:
        """Hand over the result, or an exception. Only the first one counts."""
        if self.settled:
            return
        self.settled = True
        self._timer.cancel()
        if isinstance(result, BaseException):
            self._fail(Failure(result))
        else:
            self._succeed(result)


class Lookups:
    """Asks the kernel at once, and leaves to a thread what may block."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, system: System | None, complain: Callable[[str], object]
    ) -> None:
        """:param system: what the system file allows. :param complain: called with what keeps threads from working."""
        self._loop = loop
        self._system = system
        self._workers = Workers(loop, complain)
        self._memory = Memory()
        self._diag: SockDiag | None = None
        #: By asker: how many of their queries wait until somebody accepts the connection that they are about.
        self._waiting: dict[str, int] = {}

    def use(self, system: System | None) -> None:
        """Have another system file count for every query from here on."""
        self._system = system

    @property
    def any_busy(self) -> bool:
        """Whether a thread does something that may not come to an end."""
        return self._workers.any_busy

    def close(self) -> None:
        """Ask the kernel no more, or ask it anew: answers to what failed may still arrive on the old socket."""
        if self._diag is not None:
            self._diag.close()
            self._diag = None

    def look_up(self, server: Address, client: Address, arrival: Arrival | None) -> Any:
        """Return the answer about the connection between two endpoints, or the `Pending` that it will come by.

        :param arrival: how the query came in.
        :raises IdentError: nobody can be named.
        """
        try:
            return self._look_up(server, client, arrival)
        except NotAccepted:
            return self._look_again(server, client, arrival)

    def _look_again(self, server: Address, client: Address, arrival: Arrival | None) -> Pending:
        """Look up again, for `lookup.ACCEPT_SECONDS` at most, until some process has accepted the connection.

        :raises IdentError: too many queries wait for that.
        """
        asker = client[0]
        if self._waiting.get(asker, 0) >= MAX_WAITING_OF_ONE or sum(self._waiting.values()) >= MAX_WAITING:
            raise IdentError("too many queries are about connections that nobody has accepted yet")
        self._waiting[asker] = self._waiting.get(asker, 0) + 1
        pending = self._pending(ANY_OWNER)
        pauses = iter(lookup.ACCEPT_PAUSES)

        def look() -> None:
            try:
                found = self._look_up(server, client, arrival)
            except NotAccepted as error:
                pause = next(pauses, None)
                if pause is not None:
                    self._loop.call_later(pause, look)
                    return
                found = error
            except Exception as error:
                found = error
            self._waiting[asker] -= 1
            if not self._waiting[asker]:
                del self._waiting[asker]
            if isinstance(found, Pending):
                found.addCallbacks(pending.settle, lambda failure: pending.settle(failure.value))
            else:
                pending.settle(found)

        self._loop.call_later(next(pauses), look)
        return pending

    def _look_up(self, server: Address, client: Address, arrival: Arrival | None) -> Any:
        """Do `look_up` once."""
        try:
            if self._diag is None:
                self._diag = SockDiag()
            owner = self._diag.find(server, client, arrival)
        except NoUser:
            raise
        except IdentError:
            self.close()
            raise
        except (SockDiagUnavailable, ImportError):  # the latter: there is no pyroute2
            return self._find_in_thread(server, client, arrival)
        facts = self._memory.recall(owner.uid)
        if facts is not None:
            found = answer(owner, server, client, self._system, facts)
            if not isinstance(found, Unknown):
                return found
        return self.in_thread(owner.uid, self._answer, (owner, server, client, self._system))

    def in_thread(self, uid: int, function: Callable[..., Any], argument: Any, alone: bool = False) -> Pending:
        """Call what may block in a thread, and give up on it after LOOKUP_SECONDS. Arguments: see `Workers.call`."""
        pending = self._pending(uid)
        self._workers.call(uid, pending, function, argument, alone)
        return pending

    def _pending(self, uid: int) -> Pending:
        late = IdentError(f"the lookup took longer than {LOOKUP_SECONDS:g} s", uid)
        return Pending(self._loop, LOOKUP_SECONDS, late)

    def _find_in_thread(self, server: Address, client: Address, arrival: Arrival | None) -> Pending:
        """Look up where psutil, which takes its time, has to find the owner first: two jobs within one deadline."""
        pending = self._pending(ANY_OWNER)

        def found(owner: Owner) -> None:
            self._workers.call(owner.uid, pending, self._answer, (owner, server, client, self._system))

        finding = self.in_thread(ANY_OWNER, self._find, (server, client, arrival), alone=True)
        finding.addCallbacks(found, lambda failure: pending.settle(failure.value))
        return pending

    def _find(self, ends: list[tuple[Address, Address, Arrival | None]]) -> Iterator[Owner]:
        """Run in a thread."""
        for server, client, arrival in ends:
            yield lookup.find(server, client, arrival)

    def _answer(self, questions: list[Question]) -> Iterator[Any]:
        """Run in a thread: find the answers about one owner's connections, and remember for the loop what was asked.

        What the name service and the owner's files say is asked for once, after all of these queries have come. But
        each question to another server, which may take as long as all the rest, gets a thread.
        """
        uid = questions[0][0].uid
        together = len(questions) > 1
        facts = Facts(uid, watch=True, forwards=not together)
        for question in questions:
            try:
                found = answer(*question, facts)
            except Exception as error:
                yield error
                continue
            if not isinstance(found, Unknown):
                yield found
            else:
                yield ON_ITS_OWN if together else IdentError(found.reason, uid)
        self._memory.keep(facts)
