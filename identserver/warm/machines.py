"""How is a machine behind this one asked, so that one that is silent keeps nobody else waiting?"""

from __future__ import annotations

from lookup.connection import IdentError, pack

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lookup.connection import Arrival
    from lookup.machines import Named

    from ..elsewhere import Elsewhere
    from .lookups import Pending
    from .shares import Shares
    from .workers import Workers

    Job = tuple[IdentError, "Arrival | None"]

#: Queries for which machines may be asked at once, of all together: each holds a thread until the machine has answered.
MAX_ASKED = 64

#: A machine's key in `Workers`, in place of a uid, is this number less its address.
_FIRST = -(1 << 16)


class Machines:
    """Has a thread ask a machine, or look into the file. Each machine's jobs are its own, like those of an owner."""

    def __init__(self, elsewhere: Elsewhere, workers: Workers, shares: Shares) -> None:
        self._elsewhere, self._workers, self._shares = elsewhere, workers, shares
        self._asked = 0

    def settle(self, pending: Pending, error: BaseException, asker: str, arrival: Arrival | None) -> None:
        """Have a lookup settled that came to an error: by the machine that the error is about, if it is about one.

        :param pending: counted as nobody's so far; from here on as the machine's.
        """
        host = self._elsewhere.machine(error)
        if not host or not isinstance(error, IdentError):
            pending.settle(error)
            return
        key = _FIRST - int.from_bytes(pack(host.partition("%")[0])[0], "big")
        pending.end_share()
        try:
            if self._asked >= MAX_ASKED:
                raise IdentError(f"more than {MAX_ASKED} machines behind this one are asked at once")
            self._shares.begin(pending, key, asker)
        except IdentError as refusal:
            pending.settle(refusal)
            return
        self._asked += 1

        def settled() -> None:
            self._asked -= 1
            self._shares.end(pending, key, asker)

        pending.when_settled(settled)
        self._workers.call(key, pending, self._answer, (error, arrival), alone=True)

    def _answer(self, jobs: list[Job]) -> Iterator[Named]:
        """Run in a thread."""
        for error, arrival in jobs:
            yield self._elsewhere.answer(error, arrival)
