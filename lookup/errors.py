"""Why was nobody named?  The refusals that an ident server may send, and what keeps it from deciding.

The names, and ``identDescription`` as what ``str()`` gives, are those of
``twisted.protocols.ident``, so that code written for that module works here.
"""

from __future__ import annotations


class IdentError(Exception):
    """The owner could not be told: RFC 1413 section 6, ``UNKNOWN-ERROR``.

    :param detail: what stood in the way, for the log; it is never sent to the asker.
    :param uid: the owner's user id where it is known, for the log.
    """

    identDescription = "UNKNOWN-ERROR"

    def __init__(self, detail: str = "", uid: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.uid = uid

    def __str__(self) -> str:
        return self.identDescription


class NoUser(IdentError):
    """No such connection, or no process holds it: ``NO-USER``."""

    identDescription = "NO-USER"


class InvalidPort(IdentError):
    """A port in the query is no number from 1 to 65535: ``INVALID-PORT``."""

    identDescription = "INVALID-PORT"


class HiddenUser(IdentError):
    """The owner is known and withheld on request: ``HIDDEN-USER``.

    ``verdict``: why, where a configuration decided (see `lookup.Verdict`).
    """

    verdict: object = None

    identDescription = "HIDDEN-USER"


class ConfigError(Exception):
    """A configuration file does not say what it should.

    ``path``; ``line`` and ``column`` of the word that can't be taken, from 1, in octets (0: the file as a whole);
    ``reason``: what was expected, or what is wrong with it.
    """

    def __init__(self, path: str, line: int, column: int, reason: str) -> None:
        super().__init__(path, line, column, reason)
        self.path = path
        self.line = line
        self.column = column
        self.reason = reason

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.reason}"
