"""Does the reply that a program registers count for its connection, and for no other?"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from lookup.config import user_file
from lookup.config.blocks import REGISTERED
from lookup.config.excerpts import Excerpts
from lookup.config.grammar import parse_system
from lookup.config.policy import decide
from lookup.config.user_file import REGISTERED_IN, UserFile, others_of
from lookup.connection import IdentError, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lookup.config.decision import Decision

SERVER, CLIENT = ("10.0.0.1", 40000), ("192.0.2.1", 6667)
SPOOF = "allow spoof"


def register(home: Path, name: str, text: str = "mine\n") -> Path:
    """Write a file, and give it its name."""
    folder = home / REGISTERED_IN
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".new"
    path.write_text(text)
    return path.rename(folder / name)


def alone(home: Path, client: tuple[str, int] = CLIENT) -> UserFile:
    """Return what our files say, as a process for one query reads them."""
    return user_file.read(os.getuid(), str(home), also=others_of(SERVER, client, False))


def among_others(home: Path, client: tuple[str, int] = CLIENT) -> UserFile:
    """Return what our files say, as the warm process has them read."""
    ends = [(SERVER, ("192.0.2.77", 1)), (SERVER, client)]
    found: UserFile = pickle.loads(pickle.dumps(Excerpts().about(os.getuid(), str(home), ends)))[-1]
    return found


both = pytest.mark.parametrize("read", [alone, among_others])


def decided(file: UserFile | Unknown, capabilities: str = SPOOF, client: tuple[str, int] = CLIENT) -> Decision:
    """Decide about a connection of ours, whose login name is alice here."""
    system = parse_system(f"default {{ default {{ {capabilities} }} }}".encode(), "system", lambda names: {})
    uids = {b"alice": os.getuid(), b"bob": os.getuid() + 1}
    return decide(os.getuid(), b"alice", SERVER, client, system, lambda: file, uids.get, lambda host, port: "no reply")


@both
@pytest.mark.parametrize("name", ["40000,6667", "40000,6667,192.0.2.1"])
def test_a_reply(tmp_path: Path, read: Callable[..., UserFile], name: str) -> None:
    """Its first line counts, and --explain has where it stands."""
    path = register(tmp_path, name, " mine \r\nrest\n")
    decision = decided(read(tmp_path))
    assert (decision.user, decision.statement_at, decision.path) == (b"mine", f"{path}:1", str(path))
    assert decision.files[-1] == (False, f"read {path}")


@both
@pytest.mark.parametrize(
    "name", ["40000,6668", "40001,6667", "6667,40000", "040000,6667", "40000,6667,192.0.2.2", "40000,6667,", "40000"]
)
def test_another_connections(tmp_path: Path, read: Callable[..., UserFile], name: str) -> None:
    """A file with other ports, or another far end, says nothing about this connection."""
    register(tmp_path, name)
    assert decided(read(tmp_path)).user == b"alice"


@both
def test_addresses(tmp_path: Path, read: Callable[..., UserFile]) -> None:
    """An address has one form; what names the far end counts before what does not."""
    register(tmp_path, "40000,6667", "any")
    register(tmp_path, "40000,6667,2001:db8::1", "six")
    register(tmp_path, "40000,6667,192.0.2.1", "four")
    for host, told in (
        ("192.0.2.1", b"four"), ("::ffff:192.0.2.1", b"four"), ("2001:db8:0::1", b"six"), ("192.0.2.2", b"any"),
        ("fe80::1%lo", b"any"),
    ):  # fmt: skip
        client = host, 6667
        assert decided(read(tmp_path, client), client=client).user == told


@both
def test_it_counts_before_other_files(tmp_path: Path, read: Callable[..., UserFile]) -> None:
    """Whatever those say, even a file that does not parse; where it is gone, they count again."""
    path = register(tmp_path, "40000,6667")
    for text in ('global { reply "other" }', "broken {"):
        (tmp_path / ".oidentd.conf").write_text(text)
        os.utime(tmp_path / ".oidentd.conf", (1, 1))
        assert decided(read(tmp_path)).user == b"mine"
    (tmp_path / ".oidentd.conf").write_text('global { reply "other" }')
    path.unlink()
    assert decided(read(tmp_path)).user == b"other"


@both
@pytest.mark.parametrize(
    ("text", "capabilities", "told"),
    [
        ("mine", "allow hide", b"alice"), ("bob", SPOOF, b"alice"), ("bob", f"{SPOOF} allow spoof_all", b"bob"),
        ("alice", "allow hide", b"alice"), ("a\0b", SPOOF, b"alice"), ("mine", "default_reply guest", b"guest"),
        ("mine", "force reply told", b"told"),
    ],
)  # fmt: skip
def test_a_reply_like_any_other(
    tmp_path: Path, read: Callable[..., UserFile], text: str, capabilities: str, told: bytes
) -> None:
    """It needs what a reply in the user's file needs; a refused one does not make the other files count."""
    register(tmp_path, "40000,6667", text)
    assert decided(read(tmp_path), capabilities).user == told


@both
def test_what_is_passed_over(tmp_path: Path, read: Callable[..., UserFile]) -> None:
    """A folder, a FIFO, an empty or a huge file, another's: they say nothing, and the log says so."""
    path = tmp_path / REGISTERED_IN / "40000,6667"
    path.parent.mkdir(parents=True)
    makes: list[Callable[[], Any]] = [
        path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), lambda: path.write_text("\nx"),
        lambda: path.write_text("x" * (user_file.MAX_SIZE + 1)),
    ]  # fmt: skip
    for make in makes:
        make()
        file = read(tmp_path)
        assert file.others == {} and any(logged and str(path) in text for logged, text in file.notes), make
        assert decided(file).user == b"alice"
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


@both
def test_one_that_can_not_be_read(tmp_path: Path, read: Callable[..., UserFile]) -> None:
    """A reply may be registered: that nobody knows is no answer."""
    path = tmp_path / REGISTERED_IN / "40000,6667"
    path.parent.mkdir(parents=True)
    path.symlink_to(path)  # ELOOP
    with pytest.raises(IdentError):
        read(tmp_path)


@both
def test_no_folder(tmp_path: Path, read: Callable[..., UserFile], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody registers, nothing is imported, and one look at the folder is all that it costs."""
    import sys

    monkeypatch.delitem(sys.modules, "lookup.config.registered", raising=False)
    read(tmp_path)
    assert "lookup.config.registered" not in sys.modules
    (tmp_path / ".config").write_text("no folder")
    assert read(tmp_path).others == {}
    assert REGISTERED not in read(tmp_path).others
