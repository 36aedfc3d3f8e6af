"""Which name is made up for an owner who does not want theirs told?"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol, TypeVar

    Item = TypeVar("Item")

    class Choose(Protocol):
        """What picks one item of a sequence at random."""

        def __call__(self, sequence: Sequence[Item]) -> Item: ...


#: The length of a ``random`` name and what it is made of, and how many ``random_numeric`` ones there are.
_RANDOM_LENGTH, _RANDOM_NUMERIC = 11, 100_000
_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def pick(sequence: Sequence[Item]) -> Item:
    """Return one item of a sequence, each with the same probability, by the operating system's generator.

    The library's ``secrets`` does the same and takes 10 ms to import.
    """
    octets = (len(sequence).bit_length() + 7) // 8
    # Numbers from the last, incomplete round of remainders would favour the first items.
    limit = 256**octets - 256**octets % len(sequence)
    while (number := int.from_bytes(os.urandom(octets), "big")) >= limit:
        pass
    return sequence[number % len(sequence)]


def _random(uid: int, choose: Choose) -> bytes:
    return bytes(choose(_ALPHABET) for _ in range(_RANDOM_LENGTH))


def _random_numeric(uid: int, choose: Choose) -> bytes:
    return b"user%d" % choose(range(_RANDOM_NUMERIC))


def _numeric(uid: int, choose: Choose) -> bytes:
    return b"%d" % uid


#: By the keyword that asks for it.
MADE_UP: dict[str, Callable[[int, Choose], bytes]] = {
    "random": _random,
    "random_numeric": _random_numeric,
    "numeric": _numeric,
}
