"""Does a single shot come to its end, whatever an owner does to whoever reads their file?  (D2, D4, P1, H2, H3.)"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.fuse import silence
from helpers.hosts import Person
from helpers.machine import AS_NOBODY, program
from helpers.pairs import PATIENCE
from helpers.residents import connected, resident, system_file
from helpers.single_shot import COMMAND, handler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.residents import Resident

pytest_plugins = ["helpers.people"]

#: She may hide, so that her file matters.
SYSTEM = "default { default { allow hide } }"

#: How many processes may be left behind for one owner, and seconds in which each query comes to an end.
FEW, DEADLINE = 4, 5.0

FORMS = pytest.mark.parametrize("who", [{}, AS_NOBODY], ids=["root", "nobody"])


@pytest.fixture
def hers() -> Iterator[Resident]:
    """A user whose file system and processes may be spoilt."""
    with resident() as user:
        yield user


@pytest.fixture
def query(hers: Resident) -> Iterator[bytes]:
    """A connection of theirs."""
    with connected(hers.uid) as ports:
        yield ports.encode()


def stuck() -> list[int]:
    """Return the threads of this host that wait for a FUSE file system."""
    found = []
    for wchan in Path("/proc").glob("[0-9]*/task/*/wchan"):
        with contextlib.suppress(OSError):  # it has ended
            if "request_wait" in wchan.read_text() or "fuse" in wchan.read_text():
                found.append(int(wchan.parent.name))
    return found


@FORMS
def test_a_file_system_that_never_answers(hers: Resident, query: bytes, who: dict[str, Any]) -> None:
    """D2. Each query has its reply and its process ends in time; few processes are left behind for her."""
    hers.write("global { hide }", hers.other_file)
    before = stuck()
    with system_file(SYSTEM) as path, silence(hers.other_file.parent, hers.uid, hers.gid), contextlib.ExitStack() as all:
        began = time.monotonic()
        asked = [all.enter_context(handler("-C", str(path), **who)) for _ in range(8)]
        for one in asked:
            one.client.sendall(query + b"\r\n")
        for one in asked:
            assert one.read() in (query + b":ERROR:UNKNOWN-ERROR\r\n", query + b":ERROR:HIDDEN-USER\r\n")
            assert one.status() == 0
        # They share two processors.
        assert time.monotonic() - began < 2 * DEADLINE
        assert 1 <= len([thread for thread in stuck() if thread not in before]) <= FEW
