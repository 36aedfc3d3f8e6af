"""Does the one exact request say of every kind of connection what a walk through the kernel's whole table says?

(Issue 11: the differential test between the exact path and the fast path.)  The request is filled in and its answer is
decoded by short cuts of ours; ss(8) reads the table with a request and a decoder of its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from helpers.hosts import Person, Town, inside
from helpers.kinds import KINDS, Kind, Question, ask_as_the_peer
from helpers.machine import program, run

from lookup.connection import Arrival, IdentError
from lookup.kernel import dumps, processes, sock_diag

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.hosts import Ends

pytest_plugins = ["helpers.people"]

NO_USER, UNKNOWN = "NO-USER", "UNKNOWN-ERROR"

#: An end of a socket as ss(8) writes it, perhaps with a device.
_END = re.compile(r"(?:::ffff:)?(.+?)(?:%(.+))?:([0-9]+|\*)")


class Row(NamedTuple):
    """A socket in the kernel's table; ``device``: what it is bound to."""

    ends: Ends
    device: str
    state: str
    uid: int
    inode: int


def whole_table(namespace: str) -> list[Row]:
    """Return every TCP socket of a network namespace, as ss(8) has it."""
    with inside(namespace):
        listed = run(program("ss"), "-Htane").stdout
    rows = []
    for line in listed.splitlines():
        state, _, _, here, there, *more = line.split()
        (host, device, port), (far, _, far_port) = (_end(end) for end in (here, there))
        numbers = dict(word.split(":", 1) for word in more if word.startswith(("uid:", "ino:")))
        ends = (host, port), (far, far_port)
        rows.append(Row(ends, device, state, int(numbers.get("uid", 0)), int(numbers["ino"])))
    return rows


def _end(text: str) -> tuple[str, str, int]:
    match = _END.fullmatch(text.replace("[", "").replace("]", ""))
    assert match, text
    return match[1], match[2] or "", int(match[3]) if match[3] != "*" else 0


def by_the_table(rows: list[Row], ends: Ends, devices: tuple[str, ...] = ()) -> int | str:
    """Return the uid of who holds a connection, or the refusal. :param devices: which ones fit; none: any."""
    fitting = [row for row in rows if row.ends == ends and row.state != "LISTEN"]
    uids = {row.uid for row in fitting if row.inode and (not devices or row.device in devices)}
    return NO_USER if not uids else uids.pop() if len(uids) == 1 else UNKNOWN


def said(ask: Callable[..., Any], *asked: object) -> int | str:
    """Return the uid of the owner whom one source names, or the refusal."""
    try:
        return int(ask(*asked).uid)
    except IdentError as error:
        return str(error)


def as_the_far_end_asks(town: Town, question: Question) -> int | str:
    """Return what the exact request says where the query's own connection shows by which device it came in."""
    ends: Any = tuple((question.host(end), question.ends[end][1]) for end in (0, 1))
    with (
        town.listen(question.host(0), town.here) as listener,
        ask_as_the_peer(town, question, listener.getsockname()[1]), listener.accept()[0] as accepted,
        inside(town.here),
    ):  # fmt: skip
        return said(sock_diag.find, *ends, Arrival(accepted))


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_both_paths_say_the_same(town: Town, alice: Person, bob: Person, kind: Kind) -> None:
    """The exact request, by any device and by the asker's, the dump by ports, and psutil agree with the whole table."""
    for question in kind(town, alice, bob):
        rows = whole_table(town.here)
        right = by_the_table(rows, question.ends)
        with inside(town.here):
            assert said(sock_diag.find, *question.ends) == right, rows
            assert said(dumps.find_by_ports, *question.ends) == right, rows
            # psutil knows no devices, and says so where they matter.
            assert said(processes.find, *question.ends) in (right, UNKNOWN), rows
        if question.device:
            right = by_the_table(rows, question.ends, ("", question.device))
            assert as_the_far_end_asks(town, question) == right, rows
        assert right == (question.told if isinstance(question.told, str) else question.told.uid), rows


def test_there_are_so_many() -> None:
    """No kind is lost, and none stands there twice."""
    assert len(set(KINDS)) == len(KINDS) >= 29
