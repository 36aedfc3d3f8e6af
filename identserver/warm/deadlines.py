"""When does a connection have to come to its end, and which one is the first to go when it is full?"""

from __future__ import annotations

import time
from collections import OrderedDict

from ..answer import LINGER_SECONDS

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from typing import Protocol

    class Expiring(Protocol):
        """A connection. Both calls make it leave `Deadlines`."""

        def expire(self) -> None: ...
        def abort(self) -> None: ...


class Deadlines:
    """The connections that somebody waits for: for a whole query, or for the client's end of the connection.

    All deadlines of one kind are equally far away, so each kind is in the order of its deadlines. (An OrderedDict:
    finding the first key of a dict takes time for each key that was removed before it.)
    """

    def __init__(self, query_seconds: float) -> None:
        """:param query_seconds: for one whole query; 0: no deadline."""
        self._query_seconds = query_seconds or float("inf")
        self._waiting: OrderedDict[Expiring, float] = OrderedDict()
        self._lingering: OrderedDict[Expiring, float] = OrderedDict()

    def wait_for_query(self, connection: Expiring) -> None:
        """Let the deadline of a query begin, unless it has begun. (What can't be sent yet has it, too.)"""
        if connection not in self._waiting:
            self._waiting[connection] = time.monotonic() + self._query_seconds

    def query_is_over(self, connection: Expiring) -> None:
        """End the deadline of a query: it has come, or its reply has gone out."""
        self._waiting.pop(connection, None)

    def wait_for_end(self, connection: Expiring) -> None:
        """Let the deadline begin that the client has to close."""
        self._lingering[connection] = time.monotonic() + LINGER_SECONDS

    def forget(self, connection: Expiring) -> None:
        """Leave a connection alone from here on."""
        self._waiting.pop(connection, None)
        self._lingering.pop(connection, None)

    def expire(self, now: float) -> None:
        """End what has passed its deadline."""
        for line in (self._waiting, self._lingering):
            while line and next(iter(line.values())) <= now:
                next(iter(line)).expire()

    def earliest(self) -> float:
        """Return when the next deadline is; infinity where there is none."""
        firsts = [next(iter(line.values())) for line in (self._waiting, self._lingering) if line]
        return min(firsts, default=float("inf"))

    def first_to_go(self) -> Expiring | None:
        """Return the connection that can be missed most; None: none can.

        First those that have their reply, then those without a whole query; of them the one that has waited longest.
        """
        for line in (self._lingering, self._waiting):
            if line:
                return next(iter(line))
        return None
