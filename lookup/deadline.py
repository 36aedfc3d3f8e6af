"""How long may something that blocks take?"""

from __future__ import annotations

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")


def within(seconds: float, function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function that may block, in a thread of its own, and wait for it for so many seconds at most.

    Past them the thread is left to itself: it ends when the call returns, or with the process. A signal could not end
    it, because the name service waits in C, where Python runs no signal handler.

    :raises TimeoutError: it has not returned in time. :raises OSError: there is no thread to be had.
        Otherwise, whatever the function raises.
    """
    # pyroute2 would import it in any case. Whichever thread imports it first counts as the main one, for which the
    # interpreter waits at its end.
    import threading  # noqa: F401
    from _thread import allocate_lock, start_new_thread

    results: list[Result] = []
    errors: list[BaseException] = []
    under_way = allocate_lock()

    def call() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)
        finally:
            under_way.release()

    under_way.acquire()
    try:
        # Not by threading.Thread, whose start() waits without end for a thread that had no memory to begin with.
        start_new_thread(call, ())
    except RuntimeError as error:
        # EAGAIN: a limit on processes or memory.
        raise OSError(str(error)) from None
    under_way.acquire(timeout=seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
