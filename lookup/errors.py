"""Why was nobody named?

The errors that an ident server may send, what stands for a thing that is not known, what is wrong with a file, and what
took too long (`within`).

The names, and ``identDescription`` as what ``str()`` gives, are those of
``twisted.protocols.ident``, so that code written for that module works here.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Result = TypeVar("Result")


class IdentError(Exception):
    """The owner could not be found out: RFC 1413 section 6, ``UNKNOWN-ERROR``.

    :param detail: the cause, for the log; it is never sent to the asker.
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


class NotAccepted(NoUser):
    """The connection waits for some process to accept it: who looks again in a moment may find its holder."""


class InvalidPort(IdentError):
    """A port in the query is not a number from 1 to 65535: ``INVALID-PORT``."""

    identDescription = "INVALID-PORT"


class HiddenUser(IdentError):
    """The owner is known, and hidden as they or the administrator asked: ``HIDDEN-USER``.

    ``decision``: why, where a configuration decided (a `config.decision.Decision`); ``owner``: whose socket it is.
    """

    identDescription = "HIDDEN-USER"
    decision: Any = None
    owner: Any = None


class Unknown:
    """Stands for a value that is not known.

    ``reason``: why, for the log. ``unasked``: nobody has asked yet, as asking may block; otherwise it was asked, and
    could not be found out.
    """

    __slots__ = ("reason", "unasked")

    def __init__(self, reason: str = "", unasked: bool = False) -> None:
        self.reason = reason
        self.unasked = unasked

    def __repr__(self) -> str:
        return f"Unknown({self.reason!r}, unasked={self.unasked})"


class ConfigError(Exception):
    """A configuration file does not parse, or can't be read.

    ``path``; ``line`` and ``column`` of the wrong word, from 1, in octets (0: the file as a whole);
    ``reason``: what was expected, or what is wrong.
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


def within(seconds: float, function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function that may block, in a thread of its own, and wait for it for so many seconds at most.

    Past them the thread is left to itself: it ends when the call returns, or with the process. A signal could not end
    it, because the name service waits in C, where Python runs no signal handler.

    :raises TimeoutError: it has not returned in time. :raises OSError: there is no thread to be had.
        Otherwise, whatever the function raises.
    """
    import _thread  # what `threading` adds takes 3 ms

    results: list[Result] = []
    errors: list[BaseException] = []
    running = _thread.allocate_lock()

    def call() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)
        finally:
            running.release()

    running.acquire()
    try:
        # Not by threading.Thread, whose start() waits without end for a thread that had no memory to begin with.
        _thread.start_new_thread(call, ())
    except RuntimeError as error:
        # EAGAIN: a limit on processes or memory.
        raise OSError(str(error)) from None
    running.acquire(timeout=seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
