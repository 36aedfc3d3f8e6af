"""What is said about a connection is what the whole file says, and what is remembered of files has a bound?"""

from __future__ import annotations

import _socket
import errno
import os
import pickle
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from helpers.machine import skip
from hypothesis import given
from hypothesis import strategies as st

from lookup.config import excerpts as room
from lookup.config import user_file
from lookup.config.blocks import NOIDENT, HostName, pack_end
from lookup.config.excerpts import Excerpts
from lookup.config.grammar import parse_user
from lookup.config.user_file import look_at_older
from lookup.connection import IdentError, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, NoReturn

    from lookup.config.blocks import UserBlock
    from lookup.config.user_file import UserFile

ALICE = 'global { reply "alice" }'

ENDS = ("127.0.0.1", 40000), ("10.0.0.9", 6667)


def write(home: Path, text: str) -> None:
    """Write our file, as if long ago."""
    path = home / ".oidentd.conf"
    path.write_text(text)
    os.utime(path, (1, 1))


def decides(found: UserFile) -> str:
    """Return the statement that decides about `ENDS`, and where it stands."""
    server, client = map(pack_end, ENDS)
    for block in reversed(found.blocks):
        if block.where.matches_packed(server, client):
            return f"{block.statement} {block.rule}"
    return ""


BLOCKS = st.sampled_from([
    "global", "to 10.0.0.9", "to 10.0.0.0/8", "to 10.0.0.8", "fport 6667", "lport 1:39999",
    "from 127.0.0.1 lport 40000",
])  # fmt: skip


@given(st.lists(BLOCKS, max_size=8))
def test_an_excerpt_decides_as_the_whole_file(tmp_path_factory: pytest.TempPathFactory, blocks: list[str]) -> None:
    """The same block decides, at the same place, after a way through a pipe; and what can't decide is left out."""
    home = tmp_path_factory.mktemp("home")
    write(home, "\n".join(f'{where} {{ reply "{number}" }}' for number, where in enumerate(blocks)))
    whole = user_file.read(os.getuid(), str(home))
    excerpt, other = pickle.loads(pickle.dumps(Excerpts().about(os.getuid(), str(home), [ENDS, ENDS])))
    assert decides(excerpt) == decides(other) == decides(whole)
    assert len(excerpt.blocks) <= 1
    assert excerpt.report() == whole.report()


def test_mistakes_are_reported_each_time(tmp_path: Path) -> None:
    """A file that does not parse is no unknown; what is wrong with it is said again, though it is read once."""
    write(tmp_path, "global {")
    excerpts = Excerpts()
    first, second = (pickle.loads(pickle.dumps(excerpts.about(os.getuid(), str(tmp_path), [ENDS])))[0] for _ in "12")
    assert first.error is not None
    assert first.report() == second.report() == user_file.read(os.getuid(), str(tmp_path)).report()


def test_a_change_is_noticed_at_once(tmp_path: Path) -> None:
    """A file of the same size and time, whose content is another, is another file."""
    excerpts = Excerpts()
    for name in ("one", "two", "one"):
        write(tmp_path, f'global {{ reply "{name}" }}')
        assert decides(excerpts.about(os.getuid(), str(tmp_path), [ENDS])[0]).startswith(f'reply "{name}"')


def rewrite(home: Path) -> None:
    """Change the content to another of the same size, and set the time back."""
    write(home, ALICE.replace("alice", "carol"))


def set_the_time(home: Path) -> None:
    """Only set the time."""
    os.utime(home / ".oidentd.conf", (2, 2))


def replace_by_link(home: Path) -> None:
    """Put a link to the very file in its place."""
    (home / ".oidentd.conf").rename(home / "elsewhere")
    (home / ".oidentd.conf").symlink_to("elsewhere")


def rewrite_behind_a_link(home: Path) -> None:
    """Put a link in its place, to another file of the same size and time."""
    replace_by_link(home)
    rewrite(home)


def replace_by_copy(home: Path) -> None:
    """Put a file of the same content and time in its place."""
    shutil.copy2(home / ".oidentd.conf", home / "new")
    (home / "new").rename(home / ".oidentd.conf")


def remove(home: Path) -> None:
    """Take the file away."""
    (home / ".oidentd.conf").unlink()


def forbid(home: Path) -> None:
    """Close the file to us, unless we are root."""
    (home / ".oidentd.conf").chmod(0)


def give_away(home: Path) -> None:
    """Give the file to another user."""
    if os.geteuid() != 0:
        skip("needs root")
    os.chown(home / ".oidentd.conf", 12345, -1)


def prefer_another(home: Path) -> None:
    """Make the file that counts before this one."""
    (home / ".config").mkdir()
    (home / ".config" / "oidentd.conf").write_text(ALICE.replace("alice", "carol"))


def make_config(home: Path) -> None:
    """Make the folder for a file that would count before this one."""
    (home / ".config").mkdir()


def link_config(home: Path) -> None:
    """Let that folder be a link to where there is no such file."""
    (home / ".config").symlink_to("/proc/self")


def replace_the_home(home: Path) -> None:
    """Put another home directory in its place."""
    home.rename(home.with_name("old"))
    home.mkdir()
    rewrite(home)


#: What happens to a user's files, and whom they name then.
CHANGES = [
    (rewrite, "carol"), (set_the_time, "alice"), (replace_by_link, "alice"), (rewrite_behind_a_link, "carol"),
    (replace_by_copy, "alice"), (remove, ""), (forbid, "alice" if os.geteuid() == 0 else ""), (give_away, ""),
    (prefer_another, "carol"), (make_config, "alice"), (link_config, "alice"), (replace_the_home, "carol"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "name"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_every_change_is_noticed(tmp_path: Path, change: Callable[[Path], None], name: str) -> None:
    """Whatever happens to a user's files, at once, what they said before does not count."""
    home = tmp_path / "home"
    home.mkdir()
    write(home, ALICE)
    excerpts = Excerpts()
    assert decides(excerpts.about(os.getuid(), str(home), [ENDS])[0]).startswith('reply "alice" ')
    change(home)
    for _ in range(2):
        assert decides(excerpts.about(os.getuid(), str(home), [ENDS])[0]).partition(" /")[0] == (
            f'reply "{name}"' if name else ""
        )


def test_a_first_file_is_noticed(tmp_path: Path) -> None:
    """That a user has no file holds for as long as they make none."""
    excerpts = Excerpts()
    assert decides(excerpts.about(os.getuid(), str(tmp_path), [ENDS])[0]) == ""
    write(tmp_path, ALICE)
    assert decides(excerpts.about(os.getuid(), str(tmp_path), [ENDS])[0]).startswith('reply "alice" ')


def test_a_file_that_fails_is_not_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H2. What it said before counts as little as nothing; and as soon as it can be read again, it counts."""
    write(tmp_path, ALICE)
    excerpts = Excerpts()
    for _ in range(2):
        assert decides(excerpts.about(os.getuid(), str(tmp_path), [ENDS])[0]).startswith('reply "alice" ')
        with monkeypatch.context() as patch, pytest.raises(IdentError, match="UNKNOWN-ERROR"):
            patch.setattr(os, "open", lambda *_: fail_with(errno.ESTALE))
            excerpts.about(os.getuid(), str(tmp_path), [ENDS])


def fail_with(number: int) -> NoReturn:
    """Fail as the system does."""
    raise OSError(number, os.strerror(number))


def test_one_content_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D6. Thousands of blocks are understood once, however often they are asked for."""
    parsed = []

    def parse(content: bytes, path: str) -> list[UserBlock]:
        parsed.append(path)
        return parse_user(content, path)

    monkeypatch.setattr(room, "parse_user", parse)
    monkeypatch.setattr(room, "SECONDS", 60.0)
    write(tmp_path, "to 1.2.3.4{hide}" * 3800)
    excerpts = Excerpts()
    for _ in range(3):
        assert excerpts.about(os.getuid(), str(tmp_path), [ENDS])[0].blocks == []
    assert len(parsed) == 1


def test_older_files_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same for all connections that are asked about together."""
    looks = []

    def look(*arguments: Any) -> None:
        looks.append(arguments)
        look_at_older(*arguments)

    monkeypatch.setattr(room, "look_at_older", look)
    (tmp_path / ".noident").touch()
    found = Excerpts().about(os.getuid(), str(tmp_path), [ENDS] * 3, older=True)
    assert len(looks) == 1
    assert [set(one.others) for one in found] == [{NOIDENT}] * 3
    assert all((False, f"read {tmp_path}/.noident") in one.report() for one in found)


def test_what_is_remembered_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W10. A service whose name could not be asked for is asked for again a second later, however busy we are."""
    write(tmp_path, "fport http { hide }")
    excerpts = Excerpts()
    with monkeypatch.context() as failing:
        failing.setattr(_socket, "getservbyname", lambda *_: fail_with(errno.EMFILE))
        (unknown,) = excerpts.about(os.getuid(), str(tmp_path), [ENDS])
    assert isinstance(unknown.blocks[0].where.fport, Unknown)
    end = time.monotonic() + room.SECONDS + 1
    web = ENDS[0], (ENDS[1][0], 80)
    while excerpts.about(os.getuid(), str(tmp_path), [web])[0].blocks[0].where.fport != (80, 80):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_remembered_has_a_bound(tmp_path: Path) -> None:
    """D10. A hundred files of 64 KiB take as much memory as four; and nothing is left after `forget`."""
    excerpts = Excerpts()
    for number in range(100):
        write(tmp_path, "to 1.2.3.4{hide}" * 3800 + f"# {number}")
        excerpts.about(os.getuid(), str(tmp_path), [ENDS])
        assert sum(len(content) for content, _ in excerpts._parsed) <= room.MAX_OCTETS
    excerpts.forget()
    assert not excerpts._parsed


def test_host_names_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F2, W10. Whoever reads a file resolves nothing: for how long addresses hold is for `Facts` to say."""
    monkeypatch.delattr(_socket, "getaddrinfo")
    write(tmp_path, 'global { hide } to localhost { reply "x" } to localhost lport 1 { reply "y" }')
    (found,) = pickle.loads(pickle.dumps(Excerpts().about(os.getuid(), str(tmp_path), [ENDS])))
    assert [str(block.statement) for block in found.blocks] == ["hide", 'reply "x"']
    assert isinstance(found.blocks[1].where.to, HostName)


def test_too_many_blocks_that_may_match(tmp_path: Path) -> None:
    """What is handed on of a file has a bound; beyond it, what decides can't be found out."""
    text = "".join(f"to host{number}.invalid {{ hide }}\n" for number in range(room._MAX_UNKNOWN + 1))
    write(tmp_path, text)
    with pytest.raises(IdentError, match="UNKNOWN-ERROR") as refused:
        Excerpts().about(os.getuid(), str(tmp_path), [ENDS])
    assert "blocks that may match" in refused.value.detail
    write(tmp_path, text + "global { hide }")
    (found,) = Excerpts().about(os.getuid(), str(tmp_path), [ENDS])
    assert len(found.blocks) == 1
