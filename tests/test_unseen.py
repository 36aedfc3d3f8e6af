"""Is what the kernel, or a folder, does not tell about other network namespaces taken for unknown, and not for a no?"""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest

from lookup.connection import IdentError
from lookup.kernel import custody, namespaces
from lookup.kernel.links import OUTSIDE, Links
from lookup.kernel.wire import NO_UID, OF_A_CONTAINER, OF_THE_HOST

HOST, CONTAINER = (OF_THE_HOST, NO_UID), (OF_A_CONTAINER, NO_UID)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """By number, whose each process is that holds the socket; None: it can't be looked at."""
    found: dict[int, Any] = {}
    monkeypatch.setattr(custody, "_hints", {})
    monkeypatch.setattr(custody, "_processes", lambda: list(found))
    monkeypatch.setattr(custody, "_holds", lambda pid, wanted: (found[pid] is not None, found[pid] is not None))
    monkeypatch.setattr(custody, "_custody", lambda pid, wanted: found[pid])
    return found


def test_other_holders_that_are_not_seen(processes: dict[int, Any]) -> None:
    """A process of the host's holds it, as far as is seen: one that can't be looked at may be a container's."""
    processes.update({10: HOST, 11: HOST})
    assert custody.of(1) == (HOST, 10)
    processes[12] = None
    with pytest.raises(IdentError) as refused:
        custody.of(1)
    assert refused.value.detail.startswith("who else holds the socket can't be seen")


def test_whoever_else_holds_a_containers(processes: dict[int, Any]) -> None:
    """A container's process holds it: nobody of the host's is named, whoever else does."""
    processes.update({10: CONTAINER, 12: None})
    assert custody.of(1) == (CONTAINER, 10)


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
