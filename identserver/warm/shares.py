"""How many lookups may be under way, and how many may wait, for one owner, for one asker, and in all?

A connection whose lookup is under way is never ended to make room. So lookups may not take all connections that may be
open, and where they take as many as they may, those of the owner with most of them make room for others'.
"""

from __future__ import annotations

import time

from lookup.connection import IdentError

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    Key = TypeVar("Key", int, str)

    class Share(Protocol):
        """A lookup that is under way."""

        def settle(self, result: BaseException) -> None: ...


#: Seconds after which a lookup is slow. Those of a bouncer that storms are not, and there may be many of them.
SLOW = 0.25

#: How many queries may wait until somebody accepts the connection that they are about; and how many of one asker.
MAX_WAITING, MAX_WAITING_OF_ONE = 512, 32


class Shares:
    """The lookups that are under way."""

    def __init__(self, limit: int, complain: Callable[[str], object]) -> None:
        """:param limit: how many connections may be open. :param complain: called with whose queries are refused."""
        self._complain = complain
        self._in_all = max(limit * 3 // 4, 1)
        #: For an owner, or an asker, with a lookup that is slow.
        self._per_owner, self._per_asker = max(limit // 8, 1), max(limit // 2, 1)
        self._total = 0
        #: In the order in which they began: when.
        self._owners: dict[int, dict[Share, float]] = {}
        self._askers: dict[str, dict[Share, float]] = {}

    def begin(self, share: Share, owner: int, asker: str) -> None:
        """Count a lookup in until `end`.

        :param owner: whose it is, all uids of theirs taken together. :raises IdentError: there are too many.
        """
        own = self._owners.get(owner, {})
        if len(own) >= self._per_owner and _is_slow(own):
            raise self._too_many(_about(owner), owner)
        others = self._askers.get(asker, {})
        if len(others) >= self._per_asker and _is_slow(others):
            raise self._too_many(f"from {asker}", owner)
        if self._total >= self._in_all:
            most = max(self._owners, key=lambda uid: len(self._owners[uid]))
            refusal = self._too_many(_about(most), most)
            if len(self._owners[most]) <= len(own) + 1:
                raise refusal
            next(reversed(self._owners[most])).settle(refusal)
        now = time.monotonic()
        self._owners.setdefault(owner, {})[share] = now
        self._askers.setdefault(asker, {})[share] = now
        self._total += 1

    def end(self, share: Share, owner: int, asker: str) -> None:
        """Count a lookup no more."""
        if share in self._owners.get(owner, ()):
            self._total -= 1
            _drop(self._owners, owner, share)
            _drop(self._askers, asker, share)

    def _too_many(self, whose: str, owner: int) -> IdentError:
        reason = f"too many queries {whose} are under way"
        self._complain(f"{reason}: more of them are refused")
        return IdentError(reason, owner)


def _about(owner: int) -> str:
    return f"about uid {owner}" if owner >= 0 else "about owners that are not known yet, or a machine behind this one"


def _is_slow(group: dict[Share, float]) -> bool:
    return next(iter(group.values())) < time.monotonic() - SLOW


def _drop(groups: dict[Key, dict[Share, float]], key: Key, share: Share) -> None:
    group = groups[key]
    del group[share]
    if not group:
        del groups[key]
