"""What stands in the way of true answers?  Each obstacle, put there for real."""

from __future__ import annotations

import os
import platform
import pwd
import re
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import Person, nameless_uid
from helpers.machine import skip

from identserver.admin import obstacles
from lookup.connection import IdentError
from lookup.kernel import sock_diag
from lookup.users import names

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def person() -> Iterator[Person]:
    """A process of the running user's."""
    with Person(os.getuid()) as person:
        yield person


def found(person: Person) -> list[tuple[str, str]]:
    """Return the obstacles that a process finds, each of them with something to do about it."""
    pairs: list[tuple[str, str]] = person.tell("obstacles.obstacles()")
    for obstacle, remedy in pairs:
        assert obstacle
        assert remedy
    return pairs


def test_nothing_in_the_way(person: Person) -> None:
    """A process of a user with a name, outside of sandboxes, finds nothing."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        skip("needs a login name")
    if not person.tell("user_namespace.sees_every_uid()"):
        skip("needs the first user namespace")
    assert found(person) == []


@pytest.mark.parametrize("number", ["EAFNOSUPPORT", "EPERM"])
def test_no_netlink(person: Person, number: str) -> None:
    """A process that may not open AF_NETLINK says so, and names the unit setting that forbids it."""
    person.tell(f"forbid_netlink(errno.{number})")
    ((obstacle, remedy),) = found(person)
    assert "sock_diag" in obstacle
    assert "RestrictAddressFamilies=" in remedy


def test_no_descriptors(person: Person) -> None:
    """A process that has run out of descriptors still says what it could not do."""
    assert found(person) == []
    person.tell("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 1024))")
    assert "Too many open files" in found(person)[0][0]


def test_no_tcp_diag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without a handler for the protocol (here one that is for experiments) is an obstacle."""
    answers_for = sock_diag.SockDiag.answers_for
    monkeypatch.setattr(sock_diag.SockDiag, "answers_for", lambda self, _: answers_for(self, 253))
    assert any("tcp_diag" in remedy for _, remedy in obstacles.obstacles())


def test_no_pyroute2() -> None:
    """Where pyroute2 is not installed, that is told."""
    with Person(os.getuid()) as person:
        person.tell("sys.modules['pyroute2'] = None; sock_diag.codec._classes = sock_diag.codec._module = None")
        ((obstacle, remedy),) = found(person)
        assert "pyroute2" in obstacle
        assert "install" in remedy


def test_a_user_namespace(needs_root: None, person: Person) -> None:
    """A process in a user namespace of its own is told to leave it."""
    person.tell("leave_user_namespace(0, 0, 1)")
    ((obstacle, remedy),) = found(person)
    assert "user namespace" in obstacle
    assert "PrivateUsers=" in remedy


def test_no_login_name(needs_root: None) -> None:
    """A process of a user without name is told that this is how such users are answered."""
    with Person(nameless_uid()) as stranger:
        ((obstacle, remedy),) = found(stranger)
    assert f"uid {stranger.uid} " in obstacle
    assert "nsswitch.conf" in remedy


def test_a_name_service_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a service of nsswitch.conf's can't be asked, there are users who can't be named: that is in the way."""

    def login(uid: int) -> tuple[str, str]:
        if uid != os.geteuid():
            raise IdentError("sss can't be asked", uid)
        return "UNIX", "alice"

    monkeypatch.setattr(names, "login", login)
    ((obstacle, remedy),) = obstacles.hindrances()
    assert obstacle.endswith("about everybody: sss can't be asked")
    assert "nsswitch.conf" in remedy


def test_several_at_once(needs_root: None) -> None:
    """Every obstacle is told, not just the first."""
    with Person(nameless_uid()) as stranger:
        stranger.tell("forbid_netlink()")
        assert len(found(stranger)) == 2


def test_versions() -> None:
    """The versions of the interpreter and of both packages are told."""
    told = obstacles.versions()
    assert told == f"Python {platform.python_version()}, pyroute2 {version('pyroute2')}, psutil {version('psutil')}"


def test_the_version_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not installed is told as missing."""
    monkeypatch.setattr("sys.path", [])
    assert re.fullmatch(r"Python \S+, no pyroute2, no psutil", obstacles.versions())
