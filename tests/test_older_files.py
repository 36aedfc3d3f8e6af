"""Do the files for older servers count where they are allowed, and only there?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from lookup.config import user_file
from lookup.config.blocks import FAKEID, NOIDENT, UNREAD
from lookup.config.grammar import parse_system
from lookup.config.policy import decide
from lookup.config.user_file import Fetched, UserFile
from lookup.connection import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from lookup.config.decision import Decision

ALSO = 40000, 6667, "192.0.2.1", True
ALL = "allow hide allow spoof allow noident allow fakeid"


def write(home: Path, name: str, text: str = "") -> Path:
    """Write a file, as if long ago."""
    path = home / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (1, 1))
    return path


def read(home: Path, older: bool = True) -> UserFile:
    """Return what our files say."""
    return user_file.read(os.getuid(), str(home), also=(*ALSO[:3], older))


def decided(home: Path, capabilities: str) -> Decision:
    """Decide about a connection of ours, whose login name is alice here."""
    system = parse_system(f"default {{ default {{ {capabilities} }} }}".encode(), "system", lambda names: {})
    uids = {b"alice": os.getuid(), b"bob": os.getuid() + 1}
    ends = ("10.0.0.1", 40000), ("192.0.2.1", 6667)
    return decide(
        os.getuid(), b"alice", *ends, system, lambda: read(home, system.older), uids.get, lambda host, port: "no reply"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("capabilities", "told"),
    [
        ("allow hide allow noident", None), ("allow hide", b"alice"), ("allow noident", b"alice"),
        ("allow hide allow noident deny hide", b"alice"), ("allow hide allow fakeid allow spoof", b"alice"),
    ],
)  # fmt: skip
def test_noident(tmp_path: Path, capabilities: str, told: bytes | None) -> None:
    """It hides where both are allowed; it may be closed to us, as it need not be opened."""
    write(tmp_path, ".noident").chmod(0)
    decision = decided(tmp_path, capabilities)
    assert (decision.user, decision.unknown) == (told, None)


@pytest.mark.parametrize("name", [".fakeid", ".ispoof"])
@pytest.mark.parametrize(
    ("capabilities", "told"),
    [
        ("allow spoof allow fakeid", b"faked"), ("allow spoof", b"alice"), ("allow fakeid", b"alice"),
        ("allow hide allow noident", b"alice"),
    ],
)  # fmt: skip
def test_fakeid(tmp_path: Path, name: str, capabilities: str, told: bytes) -> None:
    """Its first line is the reply, without blanks around it, where both are allowed."""
    write(tmp_path, name, " \tfaked \r\nsecond\n")
    assert decided(tmp_path, capabilities).user == told


def test_a_fake_id_is_a_reply_like_any_other(tmp_path: Path) -> None:
    """Another user's name needs spoof_all, and a refused one leads to what stands for the login name."""
    write(tmp_path, ".fakeid", "bob\n")
    decision = decided(tmp_path, ALL)
    assert (decision.user, decision.lacking) == (b"alice", ["spoof_all"])
    assert decided(tmp_path, f"default_hide {ALL}").user is None
    assert decided(tmp_path, f"{ALL} allow spoof_all").user == b"bob"


def test_rank(tmp_path: Path) -> None:
    """Hidden is hidden; of the replies, .fakeid counts first; an oidentd.conf counts before all, whatever it says."""
    write(tmp_path, ".ispoof", "third")
    assert decided(tmp_path, ALL).user == b"third"
    write(tmp_path, ".fakeid", "second")
    assert decided(tmp_path, ALL).user == b"second"
    write(tmp_path, ".noident")
    assert decided(tmp_path, ALL).user is None
    assert decided(tmp_path, ALL + " deny noident").user == b"second"
    for text in ("fport 1 { hide }", "", "broken {"):
        write(tmp_path, ".oidentd.conf", text)
        assert decided(tmp_path, ALL).user == b"alice"
    write(tmp_path, ".oidentd.conf", 'global { reply "mine" }')
    assert decided(tmp_path, ALL).user == b"mine"


def test_not_even_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system file allows it to nobody, they are not opened."""
    write(tmp_path, ".fakeid", "x")
    seen: list[str] = []
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        seen.append(str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    assert read(tmp_path, False).others == {}
    assert not [path for path in seen if path.endswith((".noident", ".fakeid", ".ispoof"))]
    assert read(tmp_path).others
    assert [path for path in seen if path.endswith(".noident")]


@pytest.mark.parametrize("name", [".noident", ".fakeid", ".ispoof"])
@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_what_is_no_file(tmp_path: Path, name: str, kind: str) -> None:
    """It is passed over, with a line in the log."""
    path = tmp_path / name
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    decision = decided(tmp_path, ALL)
    assert decision.user == b"alice"
    assert any(logged and str(path) in text for logged, text in decision.files)


def test_a_large_one(tmp_path: Path) -> None:
    """It is no reply."""
    write(tmp_path, ".fakeid", "x" * (user_file.MAX_SIZE + 1))
    assert decided(tmp_path, ALL).user == b"alice"


def test_an_empty_one(tmp_path: Path) -> None:
    """It says nothing; the next one may."""
    write(tmp_path, ".fakeid", "\nsecond")
    assert decided(tmp_path, ALL).user == b"alice"
    write(tmp_path, ".ispoof", "x")
    assert decided(tmp_path, ALL).user == b"x"


@pytest.mark.parametrize(
    ("name", "capabilities", "known"),
    [
        (".noident", "allow hide allow noident", False), (".noident", "allow hide", True),
        (".noident", "allow spoof allow fakeid", True), (".fakeid", "allow spoof allow fakeid", False),
        (".fakeid", "allow hide allow noident", True),
    ],
)  # fmt: skip
def test_one_that_can_not_be_read(tmp_path: Path, name: str, capabilities: str, known: bool) -> None:
    """Whether it is there is not known: nobody is named, unless it would not count anyway."""
    (tmp_path / name).symlink_to(name)  # ELOOP
    decision = decided(tmp_path, capabilities)
    assert (decision.unknown is None) is known
    assert decision.user == (b"alice" if known else None)


def test_the_way_through_a_pipe() -> None:
    """What was read is the same on the other side."""
    fetched = Fetched("path", b"content")
    fetched.notes = [(True, "!+note"), (False, "+")]
    fetched.others = {NOIDENT: ("/home/\udcff/.noident", b""), FAKEID + UNREAD: ("/x", b"+why")}
    loaded = Fetched.load(fetched.dump())
    assert (loaded.path, loaded.content, loaded.notes) == ("path", b"content", fetched.notes)
    assert loaded.others == fetched.others


def test_the_words() -> None:
    """They may be allowed and denied, not forced; what is no use alone is warned of."""
    for word in ("noident", "fakeid"):
        with pytest.raises(ConfigError, match="expected"):
            parse_system(f"default {{ default {{ force {word} }} }}".encode(), "f", lambda names: {})
    for line, needed in (("allow noident", "hide"), ("allow spoof_all allow fakeid", "spoof")):
        notices: list[Any] = []
        parse_system(f"user 1 {{ default {{ {line} }} }}".encode(), "f", lambda names: {b"1": None}, notices)
        assert {notice.reason for notice in notices} == {f"this has no effect without the capability {needed}"}
