"""Does what a person reads of identd do nothing to their terminal, and come in time?  (P3, P4 and P7 of issue 9.)"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.installed import readable_folder
from helpers.residents import connected, resident
from helpers.single_shot import by_hand, handler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Clears a terminal, sets its title, and turns what follows around.
CONTROL = "\x1b[2J\x1b]0;root\x07\u202e\r\x9b1A"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name does something to terminals."""
    with readable_folder() as parent:
        folder = parent / CONTROL
        folder.mkdir(mode=0o755)
        yield folder


def assert_plain(*texts: str) -> None:
    """Check that there are only printable ASCII and line ends."""
    for text in texts:
        assert re.fullmatch("[ -~\n]*", text), ascii(text)


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("content", ["", "default { default { allow hide }", None])
def test_the_path_of_the_system_file(folder: Path, content: str | None) -> None:
    """P4. A path of -C is shown escaped, whether the file is right, wrong, closed to others or missing."""
    path = folder / "oidentd.conf"
    if content is not None:
        path.write_text(content)
    for mode in (0o644, 0o600) if content is not None else (0,):
        if mode:
            path.chmod(mode)
        for option in ("--check", "--explain"):
            said = by_hand(b"", "-C", str(path), option)
            assert_plain(said.stdout.decode(), said.stderr)
            assert "oidentd.conf" in said.stdout.decode() + said.stderr or option == "--explain"


def test_that_it_was_read_as_root(needs_root: None, folder: Path) -> None:
    """P4. `--explain` says that nobody could not read the system file, and shows its path escaped."""
    path = folder / "oidentd.conf"
    path.write_text("default { default { allow hide } }")
    path.chmod(0o600)
    said = by_hand(b"", "-C", str(path), "--explain")
    assert "was read as root" in said.stdout.decode()
    assert_plain(said.stdout.decode(), said.stderr)


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_where_a_link_of_the_users_leads(folder: Path, mode: int) -> None:
    """P4. So is a folder that a user's ~/.config leads to, in `--check --user` and in `--explain`."""
    with resident() as user, connected(user.uid) as ports:
        own = folder / "config"
        own.mkdir()
        (user.home / ".config").symlink_to(own)
        user.write('global { reply "x" }', own / "oidentd.conf")
        os.chown(own, user.uid, user.gid)
        own.chmod(mode)
        (folder / "conf").write_text("default { default { allow hide } }")
        for options in (("--check", "--user", user.name), ("--explain", ports)):
            said = by_hand(b"", "-C", str(folder / "conf"), *options)
            assert_plain(said.stdout.decode(), said.stderr)


def seconds(count: int, folder: Path) -> float:
    """Return how many seconds of the processor `--check` takes about a file with so many warnings, start included."""
    path = folder / "many"
    path.write_text("".join(f"user {uid} {{ fport 9:1 {{ deny hide }} }}\n" for uid in range(count)))
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = by_hand(b"", "-C", str(path), "--check")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.count(b"warning: ") >= count
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def test_the_time_for_many_warnings(tmp_path: Path) -> None:
    """P7. Eight times as many warnings take at most eight times as long; version 1.0.0 took over thirty times."""
    few = max(seconds(5000, tmp_path) for _ in range(2))
    many = min(seconds(40000, tmp_path) for _ in range(2))
    assert many < 8 * few


@pytest.mark.parametrize("option", ["--help", "--version", "--check", "--explain", "--no-such-option"])
def test_nothing_but_replies_goes_to_a_client(option: str) -> None:
    """P3. Help, a version, a check: what is said to people is not said to a client whose connection is everywhere."""
    with handler(option, stderr=subprocess.STDOUT) as served:
        said = b""
        with contextlib.suppress(ConnectionResetError):
            said = served.read()
        served.status()
    assert said == b""
