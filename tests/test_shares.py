"""Does nobody take more than their share of the lookups under way, and does everybody get theirs?"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from identserver.warm.shares import SLOW, Shares
from lookup.connection import IdentError

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 16


class Lookup:
    """A lookup under way that ends when it is refused."""

    def __init__(self, shares: Shares, owner: int, asker: str = "10.0.0.9") -> None:
        self.result: Any = None
        self._end: Callable[[], None] = functools.partial(shares.end, self, owner, asker)
        shares.begin(self, owner, asker)

    def settle(self, result: BaseException) -> None:
        """Take a result, and end."""
        self.result = result
        self._end()


def test_the_owner_with_most_makes_room() -> None:
    """D3. What exceeds the share of all is refused at once; another owner's lookup ends one of hers."""
    complaints: list[str] = []
    shares = Shares(LIMIT, complaints.append)
    hers = [Lookup(shares, 1) for _ in range(12)]
    with pytest.raises(IdentError, match="UNKNOWN-ERROR") as refused:
        Lookup(shares, 1)
    assert "about uid 1" in refused.value.detail
    assert not any(lookup.result for lookup in hers)
    his = [Lookup(shares, 2) for _ in range(6)]
    assert sum(lookup.result is not None for lookup in hers) == 6
    assert not any(lookup.result for lookup in his)
    with pytest.raises(IdentError):
        Lookup(shares, 2)
    assert complaints


def test_a_slow_owner_gets_few(clock: list[float]) -> None:
    """While a lookup about them is slow, not many more are begun; as soon as it ends, they are."""
    shares = Shares(LIMIT, id)
    first = [Lookup(shares, 1) for _ in range(2)]
    clock[0] = 2 * SLOW
    with pytest.raises(IdentError):
        Lookup(shares, 1)
    Lookup(shares, 2)
    for lookup in first:
        lookup.settle(IdentError())
    Lookup(shares, 1)


def test_an_asker_gets_half(clock: list[float]) -> None:
    """Who asks about many owners who are slow leaves room for other askers."""
    shares = Shares(LIMIT, id)
    for uid in range(LIMIT // 2):
        Lookup(shares, uid)
    clock[0] = 2 * SLOW
    with pytest.raises(IdentError):
        Lookup(shares, 99)
    Lookup(shares, 99, "10.0.0.10")


def test_nothing_is_left() -> None:
    """What has ended counts no more, and ends once."""
    shares = Shares(1, id)
    for _ in range(3):
        lookup = Lookup(shares, 1)
        lookup.settle(IdentError())
        lookup.settle(IdentError())
    assert (shares._total, shares._owners, shares._askers) == (0, {}, {})
