"""Which blocks of the system file and of the user's file count for a connection?

One of each does: the last that matches. There are several candidates where it is not known whether a block matches,
because a name in it can't be looked up.
"""

from __future__ import annotations

from ..connection import Unknown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from .blocks import End, Range, Resolve, System, UserBlock

    Block = TypeVar("Block", Range, UserBlock)


class Selection:
    """The selection for one connection. ``rule``: the place of the first candidate in the system file, or ``""``.

    ``doubt``: why there are several candidates, or None.
    """

    def __init__(self, ends: tuple[End, End], explain: Callable[..., None]) -> None:
        """:param explain: see `Decision.explain`."""
        self._ends = ends
        self._explain = explain
        self.rule = ""
        self.doubt: Unknown | None = None

    def rules(self, system: System, uid: int, resolve: Resolve) -> list[Range | None] | Unknown:
        """Return the range of the system file that counts: of the user's own block, else of the default block; or None.

        `Unknown`: there are two blocks for this user.
        """
        if uid in system.twice:
            return system.twice[uid]
        found: list[Range | None] = []
        certain = False
        own = system.ranges_of(uid)
        if own is not None:
            matching, certain = self._candidates(own, resolve)
            self._found(matching, "the user's own block")
            found += matching
            if not certain:
                self._explain("no block for this user in {} matches{}", system.path, " for sure" if found else "")
        else:
            # Whoever has a block of their own has no other one. Any other may have a name that can't be asked for.
            for ranges, why in system.doubtful:
                self._doubt(why)
                found += self._candidates(ranges, resolve)[0]
        return found if certain else found + self._default(system, resolve)

    def _default(self, system: System, resolve: Resolve) -> list[Range | None]:
        if system.default is None:
            self._explain("{} has no default block, so nothing is allowed", system.path)
            return [None]
        found, certain = self._candidates(system.default, resolve)
        self._found(found, "the default block")
        if certain:
            return [*found]
        self._explain("nothing in the default block of {} matches, so nothing is allowed", system.path)
        return [*found, None]

    def blocks(self, blocks: Sequence[UserBlock], resolve: Resolve) -> list[UserBlock | None]:
        """Return the block of the owner's file that counts, or None."""
        found, certain = self._candidates(blocks, resolve)
        return [*found] if certain else [*found, None]

    def _candidates(self, blocks: Sequence[Block], resolve: Resolve) -> tuple[list[Block], bool]:
        """Return the candidates among some blocks, and whether one of them matches for sure."""
        found = []
        for block in reversed(blocks):
            matches = block.where.matches_packed(*self._ends, resolve)
            if matches is False:
                continue
            found.append(block)
            if matches is True:
                return found, True
            self._doubt(Unknown(f"whether {block.rule} applies: {matches.reason}", matches.unasked))
            if matches.unasked:
                break
        return found, False

    def _doubt(self, why: Unknown) -> None:
        # What was not asked yet has to be asked first.
        if self.doubt is None or why.unasked:
            self.doubt = why

    def _found(self, matching: Sequence[Range], of: str) -> None:
        if matching and not self.rule:
            self.rule = matching[0].rule
            self._explain("the rule at {}, in {}, is the last that matches", self.rule, of)
            if matching[0].force is None:
                self._explain("it allows {}", matching[0].capabilities)
