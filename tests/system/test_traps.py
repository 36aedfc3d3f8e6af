"""Do both drivers give the one right answer where the kernel sets a trap, over the network, about real users?"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import Person, Town, inside
from helpers.installed import free_port
from helpers.kinds import TRAPS, Kind, Question, ask_as_the_peer
from helpers.machine import only_if_others_can_read_it
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, ending, start
from helpers.warm import until_it_serves

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.people"]


def by_a_single_shot(town: Town, question: Question) -> bytes:
    """Ask an identd that was started for this one query."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(town.listen(question.host(0), town.here))
        asker = stack.enter_context(ask_as_the_peer(town, question, listener.getsockname()[1]))
        connection, _ = listener.accept()
        with connection, inside(town.here):
            process = stack.enter_context(ending(start(COMMAND, connection)))
        reply = everything(asker)
        assert process.wait(PATIENCE) == 0
        return reply


@pytest.fixture(scope="module")
def foreground(town: Town) -> Iterator[int]:
    """The port of a warm identd that has opened its own socket, on all addresses of the host."""
    only_if_others_can_read_it()
    with inside(town.here):
        port = free_port()
        process = subprocess.Popen(
            [*COMMAND, "--foreground", "--port", str(port)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    with ending(process):
        until_it_serves(process)
        yield port


@pytest.mark.parametrize("trap", TRAPS, ids=[trap.__name__ for trap in TRAPS])
def test_the_kernels_traps(town: Town, alice: Person, bob: Person, foreground: int, trap: Kind) -> None:
    """Both drivers give the one right answer, the warm one when it meets the owner first and again."""
    for question in trap(town, alice, bob):
        replies = {"single": by_a_single_shot(town, question)}
        for time_ in ("first", "again"):
            with ask_as_the_peer(town, question, foreground) as asker:
                replies[time_] = everything(asker)
        assert replies == dict.fromkeys(("single", "first", "again"), question.reply)
