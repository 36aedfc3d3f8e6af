"""Who is there in the tests?  Fixtures of hosts and people, as a plugin that a test file names in `pytest_plugins`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from conftest import program, skip
from hosts import Person, Town, login

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def town() -> Iterator[Town]:
    """Hosts of our own, and the links between them."""
    if os.geteuid() != 0:
        skip("needs root")
    program("ip")
    with Town() as town:
        yield town


@pytest.fixture(scope="session")
def alice_uid() -> Iterator[int]:
    """A real login."""
    if os.geteuid() != 0:
        skip("needs root")
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
