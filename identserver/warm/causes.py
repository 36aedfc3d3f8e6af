"""Why is a connection nobody's, without keeping the other clients waiting?

With --debug alone: see `lookup.kernel.causes`.
"""

from __future__ import annotations

import time

from lookup.connection import IdentError
from lookup.kernel import causes

from .workers import CAUSES

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lookup.connection import Address

    InThread = Callable[[int, Callable[..., Any], Any], Any]

#: Seconds between two searches: each may walk the kernel's table of sockets.
SECONDS = 1.0


class Causes:
    """Has a thread find out, at most once in so many seconds, why a connection is nobody's."""

    def __init__(self, in_thread: InThread) -> None:
        """:param in_thread: calls what may block (`Lookups.in_thread`)."""
        self._in_thread = in_thread
        self._again = 0.0

    def find(self, server: Address, client: Address, tell: Callable[[str], object]) -> None:
        """Find the causes, and call ``tell`` with a text about them: later, in the loop."""
        now = time.monotonic()
        if now < self._again:
            tell(f"the cause is looked for once in {SECONDS:g} s, and was for another query")
            return
        self._again = now + SECONDS
        try:
            pending = self._in_thread(CAUSES, _causes, (server, client))
        except IdentError as error:
            tell(f"can't be found out: {error.detail}")
            return
        pending.addCallbacks(tell, lambda failure: tell(f"can't be found out: {_reason(failure.value)}"))


def _causes(ends: list[tuple[Address, Address]]) -> Iterator[str]:
    """Run in a thread."""
    for server, client in ends:
        yield causes.as_text(server, client)


def _reason(error: BaseException) -> str:
    return getattr(error, "detail", "") or f"{type(error).__name__}: {error}"
