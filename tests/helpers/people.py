"""Who is there in the tests?  Fixtures of hosts and people: a plugin that modules of tests name in `pytest_plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from helpers.hosts import Person, Town, login
from helpers.machine import only_root, only_with_namespaces, program
from helpers.oidentd import World
from helpers.residents import connected, resident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.residents import Resident

    Kind = TypeVar("Kind", Town, World)


def _made(kind: type[Kind]) -> Iterator[Kind]:
    only_with_namespaces()
    with kind() as made:
        yield made


@pytest.fixture(scope="session")
def town() -> Iterator[Town]:
    """Hosts of our own, and the links between them."""
    yield from _made(Town)


@pytest.fixture(scope="module")
def quiet_town() -> Iterator[Town]:
    """Such hosts for one module, on which nobody listens to the ident port yet."""
    yield from _made(Town)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A world with alice, bob and nobody else, for oidentd and identd."""
    yield from _made(World)


@pytest.fixture(scope="session")
def alice_uid() -> Iterator[int]:
    """A real login."""
    only_root()
    program("useradd")
    with login() as user:
        yield user.pw_uid


@pytest.fixture(scope="session")
def bob_uid(alice_uid: int) -> Iterator[int]:
    """Another real login."""
    with login() as user:
        yield user.pw_uid


@pytest.fixture
def alice(town: Town, alice_uid: int) -> Iterator[Person]:
    """A process of alice's, on the host where identd is asked."""
    with Person(alice_uid, town.here) as person:
        yield person


@pytest.fixture
def bob(town: Town, bob_uid: int) -> Iterator[Person]:
    """A process of bob's, on the same host."""
    with Person(bob_uid, town.here) as person:
        yield person


@pytest.fixture(scope="module")
def carol() -> Iterator[Resident]:
    """A user with a home on this host."""
    with resident() as user:
        yield user


@pytest.fixture(scope="module")
def ports(carol: Resident) -> Iterator[str]:
    """A connection that carol holds, as ``PORT-ON-SERVER,PORT-ON-CLIENT``."""
    with connected(carol.uid) as ports:
        yield ports
