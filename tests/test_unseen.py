"""Is what the kernel, or a folder, does not tell about other network namespaces taken for unknown, and not for a no?"""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest

from lookup.connection import IdentError
from lookup.kernel import custody, namespaces, unsynced
from lookup.kernel.links import OUTSIDE, Links
from lookup.kernel.wire import NO_UID, OF_A_CONTAINER, OF_THE_HOST

HOST, CONTAINER = (OF_THE_HOST, NO_UID), (OF_A_CONTAINER, NO_UID)


#: A socket's uid, and its network namespace.
UID, NETWORK = 1000, (4, 1)


class Processes(dict[int, Any]):
    """By number, whose each process is that holds the socket; None: it can't be looked at; False: it holds none.

    ``inside``: those in the socket's network namespace; ``roots``: those with another root directory than the host's;
    ``read``: those whose descriptors were read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside: set[int] = set()
        self.roots: set[int] = set()
        self.read: list[int] = []

    def of(self, uid: int = UID) -> Any:
        self.read.clear()
        return custody.of(1, uid, NETWORK)

    def refusal(self) -> str:
        with pytest.raises(IdentError) as refused:
            self.of()
        return refused.value.detail


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """All processes that there are."""
    found = Processes()

    def holds(pid: int, wanted: str) -> tuple[str, bool]:
        found.read.append(pid)
        return "3" if found[pid] else "", found[pid] is not None

    def by_network(network: tuple[int, int]) -> tuple[list[int], list[int]]:
        assert network == NETWORK
        return [pid for pid in found if pid in found.inside], [pid for pid in found if pid not in found.inside]

    def identity(path: str, folder: int = -100) -> tuple[int, int, int]:
        pid = int(path.split("/")[2])
        if found.get(pid, False) is None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return (0, 1, 2 + (pid in found.roots))

    monkeypatch.setattr(custody, "_hints", {})
    monkeypatch.setattr(custody, "_by_network", by_network)
    monkeypatch.setattr(custody, "_holds", holds)
    monkeypatch.setattr(custody, "_custody", lambda pid, fd, wanted: found[pid])
    monkeypatch.setattr(unsynced, "identity", identity)
    return found


def test_other_holders_that_are_not_seen(processes: Processes) -> None:
    """A process of the host's holds it, as far as is seen: one that can't be looked at may be a container's."""
    processes.update({10: HOST, 11: HOST})
    for processes.inside in (set(), {10}, {10, 11}):
        processes.pop(12, None)
        assert processes.of() == (HOST, 10)
        processes[12] = None
        assert processes.refusal().startswith("who else holds the socket can't be seen")


def test_a_process_of_the_hosts_is_never_enough(processes: Processes) -> None:
    """Whatever network namespace it is in, no other root directory is left out; those with the host's are."""
    processes.update(dict.fromkeys(range(20, 30), False))
    processes.update({10: HOST, 40: False, 41: False, 42: CONTAINER})
    processes.inside, processes.roots = {10}, {40, 41, 42}
    assert processes.refusal() == "the socket is held by different ones: processes 10 and 42"
    assert processes.read == [10, 40, 41, 42]
    processes[42] = False
    assert processes.of() == (HOST, 10)
    assert processes.read == [10, 40, 41, 42]


def test_whoever_else_holds_a_containers(processes: Processes) -> None:
    """A container's process holds it: nobody of the host's is named, whoever else does; the first time and later."""
    processes.update({10: CONTAINER, 12: None, 13: HOST})
    processes.inside = {10}
    assert processes.of() == (CONTAINER, 10)
    assert processes.read == [10]
    processes.inside.clear()
    assert processes.of() == (CONTAINER, 10)


def test_holders_in_one_network_namespace(processes: Processes) -> None:
    """It has processes of both kinds: both are looked at, whichever comes first."""
    for one, other in ((HOST, CONTAINER), (CONTAINER, HOST)):
        processes.update({10: one, 11: other})
        processes.inside = {10, 11}
        assert processes.refusal() == "the socket is held by different ones: processes 10 and 11"


def test_who_would_be_named_for_a_user_namespace(processes: Processes) -> None:
    """Its maker has the socket's uid: who holds it beside them is looked for everywhere, the first time and later."""
    processes.update({10: (OF_A_CONTAINER, UID), 11: False})
    processes.inside = {10}
    for _ in range(2):
        assert processes.of() == ((OF_A_CONTAINER, UID), 10)
        assert processes.read == [10, 11]
    assert processes.of(UID + 1) == ((OF_A_CONTAINER, UID), 10)
    assert processes.read == [10]
    for processes[11] in (HOST, CONTAINER, (OF_A_CONTAINER, 0)):
        assert processes.refusal().startswith("the socket is held by different ones")


def test_nobody_in_its_network_namespace(processes: Processes) -> None:
    """A process may hold a socket that was made elsewhere: all are looked at."""
    processes.update({10: False, 11: HOST, 12: False})
    processes.inside = {10}
    assert processes.of() == (HOST, 11)
    assert processes.read == [10, 11, 12]


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENOENT, 0), (errno.ENOTDIR, 0), (errno.EACCES, 1), (errno.EMFILE, 1), (errno.ENOMEM, 1)],
)
def test_folders(number: int, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there has no namespaces; one that can't be listed may have some, and that is told."""
    genuine, folder = os.listdir, namespaces._NAMED[0]

    def listdir(path: str) -> list[str]:
        if path == folder:
            raise OSError(number, os.strerror(number), path)
        return [] if path.endswith("/netns") else genuine(path)

    monkeypatch.setattr(os, "listdir", listdir)
    errors: list[OSError] = []
    list(namespaces.candidates(errors.append))
    assert [error.filename for error in errors] == [folder] * told


def refusal(number: int) -> list[bytes]:
    """Return the kernel's answer that is an errno."""
    return [struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -number)]


@pytest.mark.parametrize(
    ("number", "is_known"),
    [
        (errno.ENETUNREACH, True), (errno.EHOSTUNREACH, True), (errno.EACCES, True), (errno.EINVAL, True),
        (errno.ENOMEM, False), (errno.ENOBUFS, False), (errno.EPERM, False),
    ],
)  # fmt: skip
def test_no_route(number: int, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """That there is no route is an answer; that the kernel has run out is none."""
    links = Links()
    try:
        monkeypatch.setattr(links, "_messages", lambda: refusal(number))
        if is_known:
            assert links.sends_to(bytes(4)) == OUTSIDE
        else:
            with pytest.raises(IdentError):
                links.sends_to(bytes(4))
    finally:
        links.close()


@pytest.mark.parametrize(
    ("number", "is_known"), [(0, True), (errno.EOPNOTSUPP, True), (errno.EAFNOSUPPORT, True), (errno.ENOMEM, False)]
)
def test_no_rules(number: int, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without rules has none; one that has run out does not tell."""
    links = Links()
    try:
        monkeypatch.setattr(links, "_messages", lambda: refusal(number))
        if is_known:
            assert not links.has_rules(4)
        else:
            with pytest.raises(IdentError):
                links.has_rules(4)
    finally:
        links.close()
