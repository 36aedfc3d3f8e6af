"""Does the table of cases hold, for identd and for the real oidentd?

Every vector is put to the single-shot process, to the warm process and to oidentd itself, each with real files of real
users and a real connection: see `oidentd`. (The decision alone: see `test_policy`.)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from helpers.machine import program
from helpers.oidentd import OIDENTD, SYSTEM, UIDS, VECTORS, World, octets

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.people"]

#: Here oidentd compares uninitialised memory, so that both of the table's answers may come.
BY_CHANCE = 206

#: Cases that the table lacks: a second login name of one's own needs no permission (the world's alice has one).
MORE: list[dict[str, Any]] = [
    {
        "n": number, "what": what, "system": system, "user": 'global { reply "second" }', "args": [], "owner": "alice",
        "from": "127.0.0.1", "to": "127.0.0.1", "lport": 0, "fport": 80,
        "oidentd": {"reply": "L,F:USERID:UNIX:second\r\n"},
    }
    for number, what, system in (
        ("a", "no rule", ""),
        ("b", "a rule that allows nothing", "default { default { deny spoof } }"),
        ("c", "a rule that allows what is not wished for", "user alice { default { allow hide } }"),
    )
]  # fmt: skip

#: How a complaint about the system file names it: with line and column, unless there is no file.
PLACE = r"{}:(\d+:\d+: \S.*| no such file)"


@pytest.fixture(scope="module")
def warm(world: World) -> Iterator[None]:
    """A warm process that reads its configuration again before each question."""
    world.do("configure", b"", {})
    world.do("start_warm", "-C", SYSTEM)
    yield
    _, status, log = world.do("stop_warm")
    assert status == 0, log
    assert "Traceback" not in log


@pytest.fixture(params=[*VECTORS, *MORE], ids=lambda vector: f"{vector['n']}-{vector['what']}")
def vector(request: pytest.FixtureRequest, world: World) -> Iterator[dict[str, Any]]:
    """A line of the table, its files written and its connection open, as ``number`` with its ``ports``."""
    vector: dict[str, Any] = dict(request.param)
    owner = vector["owner"]
    system, user = (None if vector[kind] is None else octets(vector[kind]) for kind in ("system", "user"))
    wishes = {name: (None, user if name == owner else None) for name in ("alice", "bob")}
    world.do("configure", system, wishes)
    uid = UIDS[owner] if isinstance(owner, str) else owner
    ends = vector["from"], vector["to"], vector["lport"], vector["fport"]
    vector["number"], *vector["ports"] = world.do("dial", uid, *ends)
    if "-C" not in vector["args"]:
        vector["args"] = ["-C", SYSTEM, *vector["args"]]
    yield vector
    world.do("hang_up", vector["number"])


def holds(vector: dict[str, Any], expected: dict[str, Any], reply: bytes) -> bool:
    """Say whether a reply is what the table has."""
    ports = b"%d,%d" % tuple(vector["ports"])
    if "regex" in expected:
        return re.search(expected["regex"].encode("latin-1").replace(b"L,F", ports), reply) is not None
    return reply == octets(expected.get("reply", "")).replace(b"L,F", ports)


def test_oidentd(vector: dict[str, Any], world: World) -> None:
    """The table tells the truth about oidentd."""
    program(OIDENTD)
    expected = vector["oidentd"]
    reply, status, said = world.do("ask_oidentd", vector["args"], vector["number"])
    by_chance = vector["n"] == BY_CHANCE and holds(vector, vector["identd"], reply)
    assert by_chance or holds(vector, expected, reply), (expected, reply, status, said)
    assert (status != 0) == ("refuses" in expected or "closed" in expected), (status, said)
    assert ("Connection from" not in said) == ("refuses" in expected), said


def test_single_shot(vector: dict[str, Any], world: World) -> None:
    """The single-shot process answers what the table has; with a file that it can't obey, UNKNOWN-ERROR."""
    expected = vector.get("identd", vector["oidentd"])
    reply, status, said = world.do("ask_single_shot", vector["args"], vector["number"])
    assert status == 0, said
    if "refuses" in expected:
        assert holds(vector, {"reply": "L,F:ERROR:UNKNOWN-ERROR\r\n"}, reply)
        assert re.search(rf"\({PLACE.format(vector['args'][1])}\)", said), said
    else:
        assert holds(vector, expected, reply), (expected, reply, said)
    assert "Traceback" not in said


@pytest.mark.usefixtures("warm")
def test_warm(vector: dict[str, Any], world: World) -> None:
    """The warm process answers what the table has; with a file that it can't obey, UNKNOWN-ERROR, and it says so."""
    expected = vector.get("identd", vector["oidentd"])
    if "refuses" not in expected and vector["args"] == ["-C", SYSTEM]:
        reply, said = world.do("ask_warm", vector["number"]), ""
    else:
        reply, status, said = world.do("ask_fresh_warm", vector["args"], vector["number"])
        assert status == 0, said
    if "refuses" in expected:
        assert holds(vector, {"reply": "L,F:ERROR:UNKNOWN-ERROR\r\n"}, reply)
        first, *_ = said.splitlines()
        complaint = f"identd: {PLACE.format(vector['args'][1])}; nobody is named until that is mended"
        assert re.fullmatch(complaint, first), said
    else:
        assert holds(vector, expected, reply), (expected, reply, said)
