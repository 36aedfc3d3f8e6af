"""Do those who do what may block keep what they should, and forget the rest?"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref

import pytest
from hosts import until
from single_shot import PATIENCE

import identd
from lookup.workers import THREADS_PER_OWNER, Workers


def test_what_nobody_waits_for_is_forgotten() -> None:
    """Jobs behind stuck ones do not heap up for as long as these are stuck."""

    class Job:
        pass

    release = threading.Event()
    loop = asyncio.new_event_loop()
    try:
        workers = Workers(loop, pytest.fail)
        pendings = []
        forgotten = []
        for _ in range(THREADS_PER_OWNER + 30):
            pending, job = identd.Pending(), Job()
            pending.timer = loop.call_later(0.2, pending.settle, RuntimeError())
            pending.addCallbacks(lambda _: None, lambda _: None)
            workers.call(7, pending, lambda _: release.wait(PATIENCE), (job,))
            pendings.append(pending)
            forgotten.append(weakref.ref(job))
        del job
        end = time.monotonic() + PATIENCE
        # Those that are stuck, and the last one that a thread has seen.
        most = THREADS_PER_OWNER + 2
        while sum(job() is not None for job in forgotten) > most and time.monotonic() < end:
            loop.run_until_complete(asyncio.sleep(0.05))
        assert THREADS_PER_OWNER <= sum(job() is not None for job in forgotten) <= most
        assert workers.any_busy
    finally:
        release.set()
        until(lambda: not workers.any_busy)
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
