"""Is another ident server asked once, and no more, also where it is ourselves?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.oidentd import SYSTEM

if TYPE_CHECKING:
    from helpers.oidentd import World

pytest_plugins = ["helpers.people"]


def test_no_question_goes_round_in_circles(world: World) -> None:
    """A user whose file names the ident server that reads it gets one answer, to one question: their login name."""
    files = {"alice": (None, b"global { forward 127.0.0.1 113 }")}
    world.do("configure", b"default { default { allow forward allow spoof } }", files)
    number, *ports = world.do("dial", 1001, "127.0.0.1", "127.0.0.1", 0, 6667)
    reply, status, log = world.do("ask_fresh_warm", ["-C", SYSTEM], number, 113)
    assert reply == b"%d,%d:USERID:UNIX:alice\r\n" % tuple(ports)
    assert status == 0
    assert log.count(" was told ") == 1, log
