"""Is what is known of an owner used only while it is fresh, and while their files are as they were?"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import nameless_uid
from helpers.machine import skip

from lookup import owner as room
from lookup.config import changes, forward, user_file
from lookup.config.user_file import Fetched
from lookup.errors import IdentError, Unknown
from lookup.owner import Facts, Memory
from lookup.users import names

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = 'global { reply "alice" }\n'


def lives_in(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """Let everybody have this home directory."""
    real = names.entry
    monkeypatch.setattr(names, "entry", lambda uid: (real(uid)[0], home))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of ours."""
    if not changes._is_local(tmp_path.stat().st_dev):
        skip("needs a temporary folder on a local file system")
    folder = tmp_path / "home"
    folder.mkdir()
    lives_in(monkeypatch, str(folder))
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the clock that counts freshness is ahead."""
    ahead = [0.0]
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    return ahead


def settle() -> None:
    """Wait until what was last changed has been so for long enough to be kept."""
    time.sleep(changes._SETTLED + 0.1)


def met(memory: Memory) -> Facts:
    """Find out what there is to know of ourselves, and keep it."""
    facts = Facts(os.getuid(), watch=True)
    facts.login()
    facts.user_file()
    memory.keep(facts)
    return facts


def test_what_was_found_out_is_recalled(home: Path) -> None:
    """The same answers come back, and nobody is asked again."""
    (home / ".oidentd.conf").write_text(FILE)
    settle()
    memory = Memory()
    facts = met(memory)
    recalled = memory.recall(os.getuid())
    assert recalled is facts
    assert recalled.login() == names.login(os.getuid())
    file = recalled.user_file()
    assert not isinstance(file, Unknown)
    assert file.path == str(home / ".oidentd.conf")
    assert len(file.blocks) == 1


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


def test_an_owner_whose_file_was_not_read_needs_no_look(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing of theirs was read, nothing of theirs is looked at."""
    memory = Memory()
    facts = Facts(os.getuid(), watch=True)
    facts.login()
    memory.keep(facts)
    monkeypatch.setattr(os, "lstat", lambda path: pytest.fail(f"looked at {path}"))
    assert memory.recall(os.getuid()) is facts


def rewrite(home: Path) -> None:
    """Change the content."""
    (home / ".oidentd.conf").write_text('global { reply "mallory" }\n')


def rewrite_unseen(home: Path) -> None:
    """Change the content to another of the same size, and set the time back."""
    path = home / ".oidentd.conf"
    before = path.stat()
    path.write_text(FILE.replace("alice", "carol"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def set_the_time(home: Path) -> None:
    """Only set the time."""
    os.utime(home / ".oidentd.conf", (1, 1))


def replace_by_link(home: Path) -> None:
    """Put a link to the very file in its place."""
    (home / ".oidentd.conf").rename(home / "elsewhere")
    (home / ".oidentd.conf").symlink_to("elsewhere")


def replace_by_copy(home: Path) -> None:
    """Put a file of the same content and time in its place."""
    shutil.copy2(home / ".oidentd.conf", home / "new")
    (home / "new").rename(home / ".oidentd.conf")


def remove(home: Path) -> None:
    """Take the file away."""
    (home / ".oidentd.conf").unlink()


def forbid(home: Path) -> None:
    """Change the mode of the file."""
    (home / ".oidentd.conf").chmod(0)


def close_the_home(home: Path) -> None:
    """Change the mode of the home directory."""
    home.chmod(0o711)


def give_away(home: Path) -> None:
    """Give the file to another user."""
    if os.geteuid() != 0:
        skip("needs root")
    os.chown(home / ".oidentd.conf", 12345, -1)


def prefer_another(home: Path) -> None:
    """Make the file that counts before this one."""
    (home / ".config").mkdir()
    (home / ".config" / "oidentd.conf").write_text(FILE)


def make_config(home: Path) -> None:
    """Make the folder for a file that would count before this one."""
    (home / ".config").mkdir()


def link_config(home: Path) -> None:
    """Let that folder be a link, to where looking might block."""
    (home / ".config").symlink_to("/proc/self")


def replace_the_home(home: Path) -> None:
    """Put another home directory in its place."""
    home.rename(home.with_name("old"))
    shutil.copytree(home.with_name("old"), home)


CHANGES = (
    rewrite, rewrite_unseen, set_the_time, replace_by_link, replace_by_copy, remove, forbid, close_the_home,
    give_away, prefer_another, make_config, link_config, replace_the_home,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_every_change_is_noticed(home: Path, change: Callable[[Path], None]) -> None:
    """Whatever happens to a user's files, at once, what is known of them no longer holds, and is gone for good."""
    (home / ".oidentd.conf").write_text(FILE)
    settle()
    memory = Memory()
    met(memory)
    assert memory.recall(os.getuid()) is not None
    change(home)
    assert memory.recall(os.getuid()) is None
    assert memory.recall(os.getuid()) is None


@pytest.mark.parametrize("make", [None, rewrite, prefer_another])
def test_changes_where_there_was_nothing(home: Path, make: Callable[[Path], None] | None) -> None:
    """That a user has no file holds for as long as they make none."""
    memory = Memory()
    met(memory)
    if make is not None:
        make(home)
    assert (memory.recall(os.getuid()) is None) == (make is not None)


def test_what_has_just_changed_is_not_kept(home: Path) -> None:
    """A file might change again within the same tick of the clock, so it is not relied upon until it has rested."""
    (home / ".oidentd.conf").write_text(FILE)
    memory = Memory()
    met(memory)
    assert memory.recall(os.getuid()) is None
    settle()
    met(memory)
    assert memory.recall(os.getuid()) is not None


def test_an_old_time_does_not_make_a_file_old(home: Path) -> None:
    """Its owner can set a file's time back, but not that of its last change."""
    (home / ".oidentd.conf").write_text(FILE)
    os.utime(home / ".oidentd.conf", (1, 1))
    memory = Memory()
    met(memory)
    assert memory.recall(os.getuid()) is None


def test_a_change_while_it_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes during the reading is not kept: nobody knows which of the two was read."""
    (home / ".oidentd.conf").write_text(FILE)
    settle()
    real = user_file.fetch

    def fetch(uid: int, folder: str) -> Any:
        found = real(uid, folder)
        (home / ".config").mkdir()
        return found

    monkeypatch.setattr(user_file, "fetch", fetch)
    memory = Memory()
    met(memory)
    assert memory.recall(os.getuid()) is None


def test_links_are_not_followed(home: Path) -> None:
    """A file that is a link is not kept: it may lead to where looking blocks."""
    (home / "real").write_text(FILE)
    (home / ".oidentd.conf").symlink_to("real")
    settle()
    memory = Memory()
    file = met(memory).user_file()
    assert not isinstance(file, Unknown)
    assert file.blocks
    assert memory.recall(os.getuid()) is None


@pytest.mark.parametrize("where", ["/proc/self", "/dev/shm"])
def test_only_local_file_systems_are_looked_at(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home on procfs is as good as one on NFS: never kept. One on tmpfs is."""
    kept = where == "/dev/shm"
    if kept and not changes._is_local(os.stat(where).st_dev):
        skip("needs a tmpfs on /dev/shm")
    lives_in(monkeypatch, where)
    memory = Memory()
    met(memory)
    looked: list[str] = []
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        looked.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    assert (memory.recall(os.getuid()) is not None) == kept
    assert bool(looked) == kept, "the loop looks there, or does not"


@pytest.mark.parametrize("error", [OSError(5, "EIO"), OSError(116, "ESTALE")])
def test_a_file_system_that_fails(home: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """No state that could be relied upon: nothing is kept."""

    def fail(path: str) -> None:
        raise error

    memory = Memory()
    met(memory)
    monkeypatch.setattr(os, "lstat", fail)
    assert memory.recall(os.getuid()) is None


def test_no_proc_to_tell_the_file_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc does not say what kind it is, it is taken to be none of the local ones."""
    monkeypatch.setattr(changes, "_LOCAL", frozenset())
    memory = Memory()
    met(memory)
    assert memory.recall(os.getuid()) is None


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
