"""How is an owner looked up without keeping the other clients waiting?"""

from __future__ import annotations

import lookup
from lookup.connection import IdentError, NotAccepted, NoUser, Unknown
from lookup.kernel.sock_diag import SockDiag, SockDiagUnavailable
from lookup.owner import Memory, answer, facts_about

from ..answer import LOOKUP_SECONDS, elsewhere
from ..protocol import Failure
from .shares import MAX_WAITING, MAX_WAITING_OF_ONE, Shares
from .workers import ANY_OWNER, BEHIND, HOLDERS, ON_ITS_OWN, SUB_IDS, Workers

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lookup.behind import FindLocal
    from lookup.config.blocks import System
    from lookup.config.user_file import UserFile
    from lookup.connection import Address, Arrival, Owner
    from lookup.owner import Answer
    from lookup.users.sub_ids import SubIds

    from ..options import Options
    from ..seeker import Seeker
    from .loop import Loop
    from .readers import Readers

    #: Our end, the far end, how the query came in.
    Asked = tuple[Address, Address, "Arrival | None"]
    Question = tuple[Owner, Address, Address, "System | Unknown | None", "Arrival | None"]


#: Lines of the log that may wait for a process to be found.
MAX_UNLOGGED = 1024


class Pending:
    """A result that is still to come, for a protocol to wait for. It has a deadline."""

    __slots__ = ("_fail", "_settled", "_succeed", "_timer", "settled")

    _succeed: Callable[[Any], object]
    _fail: Callable[[Any], object]

    def __init__(self, loop: Loop, seconds: float, late: BaseException) -> None:
        """:param late: the result if none has come after so many seconds."""
        self.settled = False
        self._settled: Callable[[], object] | None = None
        self._timer = loop.call_later(seconds, self.settle, late)

    def when_settled(self, callback: Callable[[], object]) -> None:
        """Have a function called as soon as there is a result."""
        self._settled = callback

    def addCallbacks(self, succeed: Callable[[Any], object], fail: Callable[[Any], object]) -> None:
        """Have one of two functions called with the result, or with the `Failure` that holds an exception."""
        self._succeed, self._fail = succeed, fail

    def end_share(self) -> None:
        """Do now what was to be done as soon as there is a result."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled()

    def cancel(self) -> None:
        """Let nobody wait for it, after all."""
        self.settled = True
        self._timer.cancel()

    def settle(self, result: Any) -> None:
        """Hand over the result, or an exception. Only the first one counts."""
        if self.settled:
            return
        self.settled = True
        self._timer.cancel()
        self.end_share()
        if isinstance(result, BaseException):
            self._fail(Failure(result))
        else:
            self._succeed(result)


class Lookups:
    """Asks the kernel at once, and leaves to others what may block: to a thread, or to a process that reads files."""

    def __init__(
        self, loop: Loop, system: System | Unknown | None, limit: int,
        complain: Callable[[str], object], readers: Readers, sub_ids: SubIds, options: Options,
        seeker: Seeker | None = None,
    ) -> None:  # fmt: skip
        """:param system: what the system file allows, or why it can't be obeyed.

        :param limit: how many connections may be open. :param complain: called with what keeps others from working.
        :param readers: who reads users' files. :param sub_ids: says whose a uid is.
        :param seeker: looks behind NAT and into containers, with --masquerade.
        """
        self._form = options.form
        self._options, self._ask = options, seeker.ask if seeker is not None else None
        self._loop = loop
        self.use(system)
        self._sub_ids = sub_ids
        self._workers = Workers(loop, complain, sub_ids.holder)
        self._shares = Shares(limit, complain)
        self._memory = Memory()
        self._readers = readers
        self._elsewhere, self._machines, self._behind = elsewhere(options, self._ask), None, None
        if seeker is not None:
            from .behind import Behind

            self._behind = Behind(loop, self._workers, seeker, options)
        if self._elsewhere is not None:
            from .machines import Machines

            self._machines = Machines(self._elsewhere, self._workers, self._shares)
        self._diag: SockDiag | None = None
        #: By asker: how many of their queries wait until somebody accepts the connection that they are about.
        self._waiting: dict[str, int] = {}
        #: Lines of the log that wait until it is known which process they are about.
        self._unlogged: dict[Pending, Callable[[str], object]] = {}

    def use(self, system: System | Unknown | None) -> None:
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

    def look_up(self, server: Address, client: Address, arrival: Arrival | None, again: bool = False) -> Any:
        """Return the answer about the connection between two endpoints, or the `Pending` that it will come by.

        :param arrival: how the query came in. :param again: whether this is not the first look.
        :raises IdentError: nobody can be named; `NotAccepted`: once more.
        """
        found: Owner | NoUser
        by_ports = self._elsewhere is not None and self._elsewhere.may_trust(client[0])
        try:
            if self._diag is None:
                self._diag = SockDiag()
            found = self._diag.find(server, client, arrival)
        except NotAccepted:
            if again:
                raise
            return self._look_again(server, client, arrival)
        except NoUser as error:
            if self._ask is None and not by_ports:
                raise
            found = error
        except IdentError:
            self.close()
            raise
        except (SockDiagUnavailable, ImportError):  # the latter: there is no pyroute2
            return self._find_in_thread((server, client, arrival))
        if isinstance(found, NoUser) or by_ports or self._ask is not None or self._options.subuid:
            return self._find_in_thread((server, client, arrival), found)
        known = self._remembered(found, server, client)
        if known is not None:
            return known
        pending = self._pending(found.uid, client[0])
        self._workers.call(found.uid, pending, self._answer, (found, server, client, self._system, arrival))
        return pending

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
                found = self.look_up(server, client, arrival, again=True)
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

    def _remembered(self, owner: Owner, server: Address, client: Address) -> Answer | None:
        """Return the answer that needs nothing but what is remembered. :raises IdentError: nobody can be named."""
        facts = self._memory.recall(owner.key)
        if facts is None or facts.needed_file:
            return None
        found = answer(owner, server, client, self._system, facts, form=self._form)
        return None if isinstance(found, Unknown) else found

    def log_the_rest(self) -> None:
        """Have logged as it is what waits for a process to be found."""
        unlogged, self._unlogged = self._unlogged, {}
        for then in unlogged.values():
            then("")

    def find_holder(self, owner: Owner, then: Callable[[str], object]) -> None:
        """Find out in a thread which process holds a socket, and call a function with that: ``""`` if it is late."""
        if len(self._unlogged) >= MAX_UNLOGGED:
            then("")
            return
        pending = self._pending(HOLDERS)
        self._unlogged[pending] = then

        def found(holder: str) -> None:
            self._unlogged.pop(pending, id)(holder)

        pending.addCallbacks(found, lambda failure: found(""))
        self._workers.call(HOLDERS, pending, holders, owner)

    def in_thread(self, uid: int, function: Callable[..., Any], argument: Any) -> Pending:
        """Call what may block in a thread, and give up on it after LOOKUP_SECONDS. Arguments: see `Workers.call`."""
        pending = self._pending(uid)
        self._workers.call(uid, pending, function, argument)
        return pending

    def _pending(self, uid: int, asker: str = "") -> Pending:
        """Return a result to wait for. :param asker: whose share it takes. :raises IdentError: that is too much."""
        late = IdentError(f"the lookup took longer than {LOOKUP_SECONDS:g} s", uid)
        pending = Pending(self._loop, LOOKUP_SECONDS, late)
        if asker:
            holder = self._sub_ids.holder(uid)
            try:
                self._shares.begin(pending, holder, asker)
            except IdentError as error:
                pending.cancel()
                raise IdentError(error.detail, uid) from None
            pending.when_settled(lambda: self._shares.end(pending, holder, asker))
        return pending

    def _find_in_thread(self, asked: Asked, local: Owner | NoUser | None = None) -> Pending:
        """Look up where a thread has to find the owner first: two jobs within one deadline.

        Psutil takes its time, or others are asked who look behind NAT.

        :param local: who was found in our own network namespace; None: nobody has looked.
        """
        server, client, arrival = asked
        # Whoever has a socket here has a share of their own. Whose any other connection is turns out only later.
        whose = ANY_OWNER if local is None or isinstance(local, NoUser) else local.uid
        pending = self._pending(whose, client[0])

        def found(owner: Owner) -> None:
            ends = (owner.server, owner.client) if owner.by_ports else (server, client)
            known: Answer | IdentError | None
            try:
                known = self._remembered(owner, *ends)
            except IdentError as error:
                known = error
            if known is not None:
                pending.settle(known)
                return
            self._workers.call(owner.key, pending, self._answer, (owner, *ends, self._system, arrival))

        def failed(failure: Failure) -> None:
            if self._machines is None:
                pending.settle(failure.value)
            else:
                self._machines.settle(pending, failure.value, client[0], arrival)

        finding = self._pending(ANY_OWNER)
        finding.addCallbacks(found, failed)
        if local is None:
            self._workers.call(ANY_OWNER, finding, self._find, asked, alone=True)
            return pending
        by_ports = self._elsewhere is not None and self._elsewhere.may_trust(client[0])
        if by_ports or self._behind is None or not self._behind.find(*asked, local, finding):
            self._workers.call(BEHIND, finding, self._find_behind, (asked, local), alone=True)
        return pending

    def _find(self, asked: list[Asked]) -> Iterator[Owner]:
        """Run in a thread."""
        for server, client, arrival in asked:
            yield self._find_there(server, client, arrival, lookup.find)

    def _find_behind(self, jobs: list[tuple[Asked, Owner | NoUser]]) -> Iterator[Owner]:
        """Run in a thread: others look whether another socket is meant than the one that was found here."""
        for asked, local in jobs:

            def found_before(*_: object) -> Owner:
                if isinstance(local, NoUser):  # noqa: B023  (it is called at once)
                    raise local  # noqa: B023
                return local  # noqa: B023

            yield self._find_there(*asked, found_before)

    def _find_there(self, server: Address, client: Address, arrival: Arrival | None, find: FindLocal) -> Owner:
        if self._elsewhere is None:
            return find(server, client, arrival)
        return self._elsewhere.find(server, client, arrival, find)

    def _answer(self, questions: list[Question]) -> Iterator[Any]:
        """Run in a thread: find the answers about one owner's connections, and remember for the loop what was asked.

        What the owner's file says is asked for once, after all of these queries have come. But each question to another
        server, which may take as long as all the rest, gets a thread.
        """
        owner = questions[0][0]
        together = len(questions) > 1
        file = _File(self._readers, self._workers, questions)
        known = self._memory.recall(owner.key) or facts_about(owner)
        facts = known.again(file.read, forwards=not together)
        for file.at, question in enumerate(questions):
            try:
                found = answer(*question[:4], facts, question[4], self._form)
            except Exception as error:
                yield error
                continue
            if not isinstance(found, Unknown):
                yield found
            else:
                yield ON_ITS_OWN if together else IdentError(found.reason, owner.uid)
        self._memory.keep(facts)

    def tidy(self) -> None:
        """Drop what is remembered and no longer holds; read, in a thread, who has sub-ids, if that has changed."""
        self._memory.forget()
        if self._sub_ids.have_changed():
            self.in_thread(SUB_IDS, self._read_sub_ids, None).addCallbacks(id, id)

    def _read_sub_ids(self, once: list[None]) -> Iterator[None]:
        """Run in a thread."""
        for _ in once:
            self._sub_ids.read()
            yield None


def holders(owners: list[Owner]) -> Iterator[str]:
    """Run in a thread: say which processes hold these sockets."""
    from lookup.kernel import holder  # only where that is logged

    yield from holder.describe(owners)


class _File:
    """What an owner's file says about each connection that is asked about, read once and when it is needed."""

    def __init__(self, readers: Readers, workers: Workers, questions: list[Question]) -> None:
        self._readers, self._workers = readers, workers
        self._ends = [(server, client) for _, server, client, *_ in questions]
        systems = [system for *_, system, _ in questions if system is not None and not isinstance(system, Unknown)]
        self._older = any(system.older for system in systems)
        self._outcome: list[UserFile] | IdentError | None = None
        #: Which connection it is about.
        self.at = 0

    def read(self, uid: int, home: str) -> UserFile:
        """Return what it says. :raises IdentError: that could not be found out."""
        if self._outcome is None:
            try:
                with self._workers.elsewhere():
                    self._outcome = self._readers.read(uid, home, self._ends, self._older)
            except IdentError as error:
                self._outcome = error
        if isinstance(self._outcome, IdentError):
            raise IdentError(self._outcome.detail, uid)
        return self._outcome[self.at]
