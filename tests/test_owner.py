"""Is what is known of an owner used only while it is fresh, and never what their file said?"""

from __future__ import annotations

import _socket
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import nameless_uid

from lookup import owner as room
from lookup.behind import Inside
from lookup.config import forward, user_file
from lookup.config.blocks import HostName
from lookup.config.user_file import Fetched
from lookup.connection import IdentError, Owner, Unknown
from lookup.owner import Facts, Memory, facts_about
from lookup.users import names

if TYPE_CHECKING:
    from lookup.config.user_file import UserFile

FILE = 'global { reply "alice" }\n'


def lives_in(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """Let everybody have this home directory."""
    real = names.entry
    monkeypatch.setattr(names, "entry", lambda uid: (real(uid)[0], home))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of ours."""
    folder = tmp_path / "home"
    folder.mkdir()
    lives_in(monkeypatch, str(folder))
    return folder


def met(memory: Memory) -> Facts:
    """Find out what there is to know of ourselves, and keep it."""
    facts = Facts(os.getuid(), read=lambda uid, home: user_file.read(uid, home))
    facts.login()
    facts.uid_of(b"root")
    facts.user_file()
    memory.keep(facts)
    return facts


def test_what_was_found_out_is_recalled(home: Path) -> None:
    """The same answers come back, and nobody is asked again. What the file said does not: it may have changed."""
    (home / ".oidentd.conf").write_text(FILE)
    memory = Memory()
    facts = met(memory)
    recalled = memory.recall(os.getuid())
    assert recalled is facts
    assert recalled.login() == names.login(os.getuid())
    assert recalled.uid_of(b"root") == 0
    assert recalled.needed_file
    file = recalled.user_file()
    assert isinstance(file, Unknown)
    assert file.unasked


def test_strangers_are_not_known(home: Path) -> None:
    """Nothing is known of a uid that nobody asked about."""
    memory = Memory()
    met(memory)
    assert memory.recall(nameless_uid()) is None


def test_it_is_forgotten_after_a_second(home: Path, clock: list[float]) -> None:
    """A renamed user is noticed as soon as that, and a later return of the clock brings nothing back."""
    memory = Memory()
    met(memory)
    clock[0] = room.SECONDS - 0.5
    assert memory.recall(os.getuid()) is not None
    clock[0] = room.SECONDS
    assert memory.recall(os.getuid()) is None
    clock[0] = 0
    assert memory.recall(os.getuid()) is None


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other server is asked, or the test fails."""
    monkeypatch.setattr(forward, "ask", lambda *_: pytest.fail("asked"))


def test_nothing_more_is_asked(home: Path, unreachable: None) -> None:
    """What was not found out is unknown, and nothing is read or asked for it; what was found out, is known."""
    facts = Facts(7, fetch=lambda uid, home: pytest.fail("read"))
    assert facts.uid_of(b"root") == 0
    facts.stop_asking()
    assert facts.uid_of(b"root") == 0
    for asked in (facts.login(), facts.user_file(), facts.uid_of(b"nobody"), facts.forward("127.0.0.1", 113, 1, 2)):
        assert isinstance(asked, Unknown)
        assert asked.unasked


def test_who_reads_the_file_is_for_the_caller_to_say(home: Path) -> None:
    """A file that has to be read with other privileges is fetched by who has them, once."""
    seen: list[tuple[int, str]] = []

    def fetch(uid: int, folder: str) -> Fetched:
        seen.append((uid, folder))
        return Fetched("file", FILE.encode())

    facts = Facts(7, fetch)
    for _ in range(2):
        file = facts.user_file()
        assert not isinstance(file, Unknown)
        assert [str(block.statement) for block in file.blocks] == ['reply "alice"']
    assert seen == [(7, str(home))]


def test_what_cannot_be_found_out_is_unknown() -> None:
    """A file that a process with other privileges could not read is unknown, with the reason; it was asked for."""

    def fail(uid: int, folder: str) -> Any:
        raise IdentError("broken for the test")

    found = Facts(os.getuid(), fetch=fail).user_file()
    assert isinstance(found, Unknown)
    assert (found.reason, found.unasked) == ("broken for the test", False)


def test_other_servers_may_be_left_for_later(unreachable: None) -> None:
    """What is asked about many connections at once asks no other server: each of those takes its time."""
    found = Facts(os.getuid(), forwards=False).forward("127.0.0.1", 113, 1, 2)
    assert isinstance(found, Unknown)
    assert found.unasked


def test_a_missing_user_is_known_too(home: Path) -> None:
    """That a name is nobody's is an answer as well."""
    facts = Facts(7)
    assert facts.uid_of(b"identd-no-such-user") is None
    facts.stop_asking()
    assert facts.uid_of(b"identd-no-such-user") is None


def test_it_counts_from_the_first_question(home: Path, clock: list[float]) -> None:
    """W10. What was asked for longer ago than a second is not kept, however long the answer took."""
    memory = Memory()
    facts = Facts(os.getuid())
    clock[0] = room.SECONDS
    facts.login()
    memory.keep(facts)
    assert memory.recall(os.getuid()) is None
    assert not memory._owners


def test_what_is_known_serves_other_queries(home: Path, clock: list[float]) -> None:
    """They ask for what is missing, read the file each time, and what was known does not get younger by that."""
    memory = Memory()
    met(memory)
    clock[0] = room.SECONDS / 2
    known = memory.recall(os.getuid())
    assert known is not None
    read: list[str] = []

    def reading(uid: int, folder: str) -> UserFile:
        read.append(folder)
        return user_file.read(uid, folder)

    facts = known.again(reading, forwards=True)
    for _ in range(2):
        assert not isinstance(facts.user_file(), Unknown)
    assert read == [str(home)] * 2
    memory.keep(facts)
    assert memory.recall(os.getuid()) is facts
    clock[0] = room.SECONDS
    assert memory.recall(os.getuid()) is None


def test_nothing_of_theirs_is_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D1. What is recalled, in the loop, touches nothing that belongs to a user, whatever was read before."""
    (home / ".oidentd.conf").write_text(FILE)
    memory = Memory()
    met(memory)
    with monkeypatch.context() as patch:
        for call in ("lstat", "stat", "open", "readlink", "access", "listdir", "scandir", "statvfs"):
            patch.setattr(os, call, lambda *_, **__: pytest.fail("looked at"))
        facts = memory.recall(os.getuid())
        assert facts is not None
        assert isinstance(facts.user_file(), Unknown)
        memory.forget()


def test_a_file_that_failed_is_asked_for_again(home: Path) -> None:
    """H2. That a file could not be read is an answer for one query only."""

    def fail(uid: int, folder: str) -> UserFile:
        raise IdentError("broken for the test")

    failed = Facts(os.getuid(), read=fail)
    assert isinstance(failed.user_file(), Unknown)
    failed.stop_asking()
    (home / ".oidentd.conf").write_text(FILE)
    file = failed.again(user_file.read, forwards=True).user_file()
    assert not isinstance(file, Unknown)
    assert len(file.blocks) == 1


def test_addresses_are_asked_for_once(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    """W10. The addresses of a host in a user's file hold as long as all that is known, and count from when it began."""
    asked: list[bytes] = []

    def resolve(name: bytes, *_: object) -> list[tuple[object, ...]]:
        asked.append(name)
        clock[0] += room.SECONDS * 0.6
        return [(0, 0, 0, "", ("127.0.0.3", 0))]

    monkeypatch.setattr(_socket, "getaddrinfo", resolve)
    name, memory, facts = HostName(b"net.example"), Memory(), Facts(7)
    for _ in range(2):
        assert facts.addresses(name, 4) == (bytes([127, 0, 0, 3]),)
    memory.keep(facts)
    recalled = memory.recall(7)
    assert recalled is not None
    assert recalled.addresses(name, 4) == (bytes([127, 0, 0, 3]),)
    another = recalled.addresses(HostName(b"another.example"), 4)
    assert isinstance(another, Unknown)
    assert another.unasked
    assert asked == [b"net.example"]
    clock[0] += room.SECONDS * 0.5
    assert memory.recall(7) is None


def test_names_are_kept_within_a_limit() -> None:
    """D10. Whoever replies with ever longer names fills no memory."""
    facts = Facts(7)
    for number in range(20):
        facts.uid_of(b"%d" % number + b"x" * 500)
    facts.stop_asking()
    assert isinstance(facts.uid_of(b"0" + b"x" * 500), Unknown)


@pytest.mark.parametrize("nowhere", ["", "relative/home"])
def test_an_owner_without_a_home(monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    """They have no files that could change."""
    lives_in(monkeypatch, nowhere)
    memory = Memory()
    met(memory)
    assert memory.recall(os.getuid()) is not None


def test_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a bound, and the last one met is always kept."""
    memory = Memory()
    for uid in range(room.MAX_OWNERS + 10):
        memory.keep(Facts(uid))
        assert memory.recall(uid) is not None
        assert len(memory._owners) <= room.MAX_OWNERS


def test_a_containers_user_is_not_the_hosts(home: Path) -> None:
    """Both have the same uid: what is remembered of one is never told of the other."""
    uid = os.getuid()
    ends = ("192.0.2.1", 1), ("192.0.2.2", 2)
    host = Owner(uid, 1, "ESTABLISHED", *ends, "sock_diag", 0)
    container = Inside(host, uid, reply="")
    memory = Memory()
    for one, other in ((host, container), (container, host)):
        facts = facts_about(one).again(lambda uid, home: pytest.fail("read"), forwards=True)
        facts.login()
        memory.keep(facts)
        assert memory.recall(one.key) is facts
        if one is host:
            assert memory.recall(other.key) is None
    login, number = (memory.recall(one.key) for one in (host, container))
    assert login is not None and login.login() == names.login(uid)
    assert number is not None and number.login() == ("OTHER", str(uid))
