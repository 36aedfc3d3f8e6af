"""Is a machine behind this one asked as it should be, and no more of them at once than threads can wait for?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from identserver.warm import machines as warm
from lookup.behind import Behind, Unseen
from lookup.config import forward
from lookup.connection import IdentError, NoUser
from lookup.machines import Machines

if TYPE_CHECKING:
    from pathlib import Path

#: A machine's connection, as it knows it.
SERVER, CLIENT = ("10.1.0.2", 40000), ("192.0.2.9", 6667)


def meant(kind: type[Behind] | type[Unseen] = Behind, server: tuple[str, int] = SERVER) -> Any:
    """Return what says that such a connection is meant."""
    error = kind("conntrack says so")
    error.server, error.client = server, CLIENT
    return error


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the machine says, then how it was asked."""
    found: list[Any] = [b"bouncer"]

    def ask(*how: object, **more: object) -> bytes | str:
        found.append((how, more))
        said: bytes | str = found[0]
        return said

    monkeypatch.setattr(forward, "ask", ask)
    return found


@pytest.mark.parametrize("kind", [Behind, Unseen])
def test_it_is_asked(asked: list[Any], tmp_path: Path, kind: type[Behind] | type[Unseen]) -> None:
    """With its own ports, never at an address of ours, with the header that is wanted."""
    named = Machines(1113, False, str(tmp_path / "none"), False, "proxy2").answer(meant(kind), None)
    assert (tuple(named), named.as_it_is) == (("UNIX", "bouncer"), False)
    assert asked[1:] == [(("10.1.0.2", 1113, 40000, 6667, None, "proxy2"), {"also_here": False})]


def test_it_names_nobody(asked: list[Any], tmp_path: Path) -> None:
    """Then what was meant is nobody's, or unknown, as it was before; and the log has all of it."""
    asked[0] = "replied ERROR: NO-USER"
    nowhere = Machines(113, False, str(tmp_path / "none"), False)
    for kind, base in ((Behind, NoUser), (Unseen, IdentError)):
        with pytest.raises(base) as refused:
            nowhere.answer(meant(kind), None)
        assert isinstance(refused.value, kind)
        said = "conntrack says so; the server at 10.1.0.2 port 113 replied ERROR: NO-USER; "
        assert refused.value.detail.startswith(said)


class Pending:
    """A lookup that waits. ``result``: what it was settled with."""

    result: object = None
    ended = False

    def end_share(self) -> None:
        self.ended = True

    def when_settled(self, callback: Any) -> None:
        self.then = callback

    def settle(self, result: object) -> None:
        self.result = result
        if hasattr(self, "then"):
            self.then()


class Records:
    """In place of workers and shares: what they were told."""

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.shares: list[int] = []

    def call(self, key: int, *_: object, **__: object) -> None:
        self.keys.append(key)

    def begin(self, pending: object, key: int, asker: str) -> None:
        self.shares.append(key)

    def end(self, pending: object, key: int, asker: str) -> None:
        self.shares.remove(key)


class Elsewhere:
    """In place of who asks."""

    def machine(self, error: BaseException) -> str:
        return error.server[0] if isinstance(error, Behind) else ""


def test_each_machine_has_jobs_of_its_own() -> None:
    """Those of one are told from those of another, and from everybody's; what is about none is settled at once."""
    records: Any = Records()
    waiting: Any = warm.Machines(Elsewhere(), records, records)  # type: ignore[arg-type]
    hosts = ("10.1.0.2", "10.1.0.3", "fd00::2", "10.1.0.2")
    pendings = [Pending() for _ in hosts]
    for pending, host in zip(pendings, hosts):
        waiting.settle(pending, meant(server=(host, 1)), "192.0.2.9", None)
        assert pending.ended and pending.result is None
    assert len(set(records.keys)) == 3 and records.keys[0] == records.keys[3] and max(records.keys) < -1000
    error = NoUser("nobody's")
    other = Pending()
    waiting.settle(other, error, "192.0.2.9", None)
    assert other.result is error and len(records.keys) == 4
    for pending in pendings:
        pending.settle("a name")
    assert records.shares == []


def test_so_many_at_once() -> None:
    """More than that are refused at once, until one of them has its answer."""
    records: Any = Records()
    waiting: Any = warm.Machines(Elsewhere(), records, records)  # type: ignore[arg-type]
    pendings = [Pending() for _ in range(warm.MAX_ASKED + 1)]
    for number, pending in enumerate(pendings):
        waiting.settle(pending, meant(server=(f"10.1.0.{number}", 1)), "192.0.2.9", None)
    assert isinstance(pendings[-1].result, IdentError) and len(records.keys) == warm.MAX_ASKED
    pendings[0].settle("a name")
    again = Pending()
    waiting.settle(again, meant(), "192.0.2.9", None)
    assert again.result is None and len(records.keys) == warm.MAX_ASKED + 1
