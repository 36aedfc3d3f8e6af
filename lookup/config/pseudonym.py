"""Which short name stands for a user, so that nobody without the key can tell who that is?

A pseudonym is a number in letters and digits: the uid, and how often another name had to be taken, permuted by the key.
So two users never share one, and whoever has the key turns it back, without a list of users.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from math import isqrt

from .parser import LONGEST, SHORTEST, USUAL

#: Octets of a key.
KEY_OCTETS = 32

#: How many names a user has. The next one counts where a name is somebody's login name.
TURNS = 5

#: Half-rounds: as many as the standard for such permutations has (NIST SP 800-38G, FF1).
_ROUNDS = 10

_LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_SIGNS = _LETTERS + b"0123456789"


class Form:
    """Which pseudonym a statement asks for.

    ``per_asker``: each asker gets another; ``daily``: each day, in UTC, has another; ``length``: how many letters.
    """

    __slots__ = ("daily", "length", "per_asker")

    def __init__(self, arguments: tuple[str, ...] = ()) -> None:
        """:param arguments: the words after ``pseudonym`` in a statement that parsed."""
        self.per_asker = "per-asker" in arguments
        self.daily = "daily" in arguments
        self.length = next((int(word) for word in arguments if word.isdigit()), USUAL)


class Pseudonyms:
    """The pseudonyms that one key makes."""

    def __init__(self, key: bytes) -> None:
        """:param key: `KEY_OCTETS` octets."""
        self._key = key

    def name(self, uid: int, form: Form, asker: bytes, turn: int, date: str = "") -> bytes:
        """Return the name of a user, or with a ``turn`` up to `TURNS` the next ones.

        :param asker: the asker's address in 4 or 16 octets. :param date: as `today` gives it (``""``: today's).
        """
        values = _Permutation(self._key, form.length, _tweak(form, asker, date or today()))
        number = values.forth(turn << 32 | uid)
        signs = bytearray()
        for _ in range(form.length - 1):
            number, sign = divmod(number, len(_SIGNS))
            signs.append(_SIGNS[sign])
        signs.append(_LETTERS[number])
        return bytes(reversed(signs))

    def opened(self, name: bytes, form: Form, asker: bytes, date: str) -> tuple[int, int] | None:
        """Return whose name it is, as their uid and the turn; None: it is nobody's.

        The form's length is the name's. Arguments are `name`'s.
        """
        if len(name) != form.length or not SHORTEST <= form.length <= LONGEST:
            return None
        if name[0] not in _LETTERS or any(sign not in _SIGNS for sign in name):
            return None
        number = 0
        for sign in name:
            number = number * len(_SIGNS) + _SIGNS.index(sign)
        turn, uid = divmod(_Permutation(self._key, form.length, _tweak(form, asker, date)).back(number), 1 << 32)
        return (uid, turn) if turn < TURNS else None


def today() -> str:
    """Return the date in UTC, as ISO 8601 has it."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def _tweak(form: Form, asker: bytes, date: str) -> bytes:
    """Return what a form mixes in. tweak = octets-of-the-address address date ; neither where the form has none."""
    address = asker if form.per_asker else b""
    return bytes((len(address),)) + address + (date.encode("ascii") if form.daily else b"")


class _Permutation:
    """A permutation of the numbers that have one name each: a Feistel network on two digits of base ``_base``."""

    def __init__(self, key: bytes, length: int, tweak: bytes) -> None:
        self._size = len(_LETTERS) * len(_SIGNS) ** (length - 1)
        self._base = isqrt(self._size) + 1
        self._keyed = blake2b(bytes((length,)) + tweak, key=key, person=b"identd pseudonym")

    def forth(self, number: int) -> int:
        # The network permutes some numbers more than there are names: what falls among those is permuted again.
        while True:
            left, right = divmod(number, self._base)
            for number_of_round in range(_ROUNDS):
                left, right = right, (left + self._mix(number_of_round, right)) % self._base
            number = left * self._base + right
            if number < self._size:
                return number

    def back(self, number: int) -> int:
        while True:
            left, right = divmod(number, self._base)
            for number_of_round in reversed(range(_ROUNDS)):
                left, right = (right - self._mix(number_of_round, left)) % self._base, left
            number = left * self._base + right
            if number < self._size:
                return number

    def _mix(self, number_of_round: int, half: int) -> int:
        keyed = self._keyed.copy()
        keyed.update(bytes((number_of_round,)) + half.to_bytes(16, "big"))
        return int.from_bytes(keyed.digest(), "big")
