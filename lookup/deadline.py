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
