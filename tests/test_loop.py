"""What does the warm process' loop call, when, and in which order?"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from identserver.warm.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failed(Exception):
    """What a call raised."""


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop in which nothing may fail."""

    def failed(error: BaseException) -> None:
        raise Failed from error

    loop = Loop(failed)
    yield loop
    loop.close()


def test_timers_in_the_order_of_their_times(loop: Loop) -> None:
    """The earliest comes first, those of one time in their order, and a cancelled one never."""
    called: list[str] = []
    loop.call_later(0.03, loop.stop)
    loop.call_later(0.02, called.append, "later")
    cancelled = loop.call_later(0.015, called.append, "never")
    loop.call_later(0, called.append, "first")
    loop.call_later(0, called.append, "second")
    loop.call_soon(called.append, "after what is due")
    loop.call_soon(cancelled.cancel)
    loop.run()
    assert called == ["first", "second", "after what is due", "later"]


def test_no_timer_comes_early(loop: Loop) -> None:
    """A wait is no shorter than was asked for."""
    began = time.monotonic()
    loop.call_later(0.0234, loop.stop)
    loop.run()
    assert time.monotonic() - began >= 0.0234


def test_what_is_called_soon_lets_others_have_their_turn(loop: Loop) -> None:
    """A call that asks for itself again and again keeps neither sockets nor timers from being looked at."""
    near, far = socket.socketpair()
    called: list[str] = []

    def again() -> None:
        loop.call_soon(again)

    def read() -> None:
        called.append("read")
        near.recv(1)

    with near, far:
        far.send(b"x")
        loop.when_readable(near.fileno(), read)
        loop.call_soon(again)
        loop.call_later(0.01, loop.stop)
        loop.run()
        loop.leave(near.fileno())
    assert called == ["read"]


def test_a_socket_until_it_is_left(loop: Loop) -> None:
    """A socket that can be read is told of each time; one that a call before has left is not, nor is one left twice."""
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def read(number: int) -> None:
        called.append(number)
        loop.leave(pairs[1 - number][0].fileno())
        loop.leave(pairs[1 - number][0].fileno())
        if len(called) == 3:
            loop.stop()

    for number, (near, far) in enumerate(pairs):
        far.send(b"x")
        loop.when_readable(near.fileno(), lambda number=number: read(number))  # type: ignore[misc]
    loop.run()
    assert called in ([0] * 3, [1] * 3)
    loop.leave(pairs[called[0]][0].fileno())
    for near, far in pairs:
        near.close()
        far.close()


def test_room_to_write(loop: Loop) -> None:
    """A socket whose other end does not read is told of once there is room."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                near.send(bytes(65536))
        called: list[str] = []

        def read_all() -> None:
            called.append("read")
            far.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    far.recv(1 << 20)

        def written() -> None:
            called.append("room")
            loop.leave(near.fileno())
            loop.stop()

        loop.when_writable(near.fileno(), written)
        loop.call_later(0.01, read_all)
        loop.run()
    assert called == ["read", "room"]


def test_another_thread_ends_the_wait(loop: Loop) -> None:
    """What a thread asks for is done at once, though there is nothing else to wait for."""
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(loop.stop))
    loop.call_soon(thread.start)
    loop.run()
    thread.join()


def test_more_calls_of_threads_than_the_pipe_holds(loop: Loop) -> None:
    """Each of them is done, though the pipe that wakes the loop is full."""
    called: list[int] = []
    for number in range(70000):
        loop.call_soon_threadsafe(called.append, number)
    loop.call_soon_threadsafe(loop.stop)
    loop.run()
    assert called == list(range(70000))


def test_a_thread_after_the_end() -> None:
    """A thread that outlives the loop writes to no descriptor that somebody else has by then."""
    loop = Loop(lambda error: None)
    loop.close()
    assert loop.is_closed()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    loop.call_soon_threadsafe(loop.stop)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    os.close(reading)
    os.close(writing)


def test_a_signal_ends_the_wait() -> None:
    """A signal's function is called in the loop; when the loop is closed the signal has its usual effect again."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)
    loop = Loop(lambda error: None)
    called: list[str] = []
    try:
        loop.on_signal(signal.SIGHUP, lambda: called.append("SIGHUP"))
        loop.on_signal(signal.SIGINT, loop.stop)
        for number in (signal.SIGHUP, signal.SIGINT):
            threading.Timer(0.01 * number, os.kill, (os.getpid(), number)).start()
        loop.run()
        loop.close()
        assert called == ["SIGHUP"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])


def test_a_call_that_fails() -> None:
    """What goes wrong in one call is reported, and the others go on: sockets, timers and the rest."""
    errors: list[BaseException] = []
    loop = Loop(errors.append)
    near, far = socket.socketpair()

    def fail() -> None:
        loop.leave(near.fileno())
        raise Failed

    far.send(b"x")
    loop.when_readable(near.fileno(), fail)
    loop.call_soon(fail)
    loop.call_later(0, fail)
    loop.call_later(0.01, loop.stop)
    loop.run()
    loop.close()
    near.close()
    far.close()
    assert [type(error) for error in errors] == [Failed] * 3


def test_a_cancelled_timer(loop: Loop) -> None:
    """A cancelled timer keeps nothing of what it was to do."""
    kept = Failed()
    timer = loop.call_later(60, id, kept)
    timer.cancel()
    assert timer.call is None
    assert timer.arguments == ()


def test_a_number_that_another_socket_has_by_now(loop: Loop) -> None:
    """What is ready is not taken for what got its number meanwhile, in the same turn."""
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[str] = []

    def replace(other: int) -> None:
        # The other one is ready, too. Its number leads to a pipe that has nothing to read.
        for pair in pairs:
            loop.leave(pair[0].fileno())
        os.dup2(reading, other)
        loop.when_readable(other, lambda: called.append("another"))

    reading, writing = os.pipe()
    for (near, far), (other, _) in zip(pairs, reversed(pairs)):
        far.send(b"x")
        loop.when_readable(near.fileno(), functools.partial(replace, other.fileno()))
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert called == []
    os.write(writing, b"x")
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert "another" in called
    for end in (*pairs[0], *pairs[1]):
        loop.leave(end.fileno())
        end.close()
    os.close(reading)
    os.close(writing)
