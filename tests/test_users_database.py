"""Have many login names, asked about at once, the uids that they have one by one?"""

from __future__ import annotations

import pwd
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lookup.users import database, names, services, userdb

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("unknown", [[], [b"identd-nobody", b"", b"\0", b"\xff\xfe", b"a:b", b"-root", b"root:x"]])
def test_uids_agree_with_the_name_service(unknown: list[bytes]) -> None:
    """Names looked up at once have the uids that they have one by one."""
    listed = [entry.pw_name.encode() for entry in pwd.getpwall()]
    found = database.uids(listed + unknown)
    assert found == {name: names.uid_of(name) for name in listed + unknown}
    assert all(found[name] is None for name in unknown)
    assert found[b"root"] == 0


@pytest.mark.parametrize(
    ("nsswitch", "reads"),
    [
        ("passwd: files systemd\n", True),
        ("passwd: files[NOTFOUND=return]systemd\n", False),
        ("# x\n passwd:\tcompat # files\n", True),
        ("group: sss\n", True),
        (None, True),
        ("passwd: sss files\n", False),
        ("passwd: files [SUCCESS=continue] sss\n", False),
        ("passwd:\n", False),
    ],
)
def test_where_uids_are_read_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nsswitch: str | None, reads: bool
) -> None:
    """The file is read only where the name service would ask it first; the first of two entries counts there."""
    (tmp_path / "passwd").write_text(
        "identd-a:x:4001:1::/:/bin/sh\nidentd-a:x:4002:1::/:/bin/sh\n#identd-b:x:4003:1::/:\nidentd-c:x:4004\n"
        "identd-d:x:99999999999:1::/:\nidentd-e:x:y:1::/:\n"
    )
    if nsswitch is not None:
        (tmp_path / "nsswitch.conf").write_text(nsswitch)
    monkeypatch.setattr(services, "PASSWD", str(tmp_path / "passwd"))
    monkeypatch.setattr(services, "NSSWITCH", str(tmp_path / "nsswitch.conf"))
    monkeypatch.setattr(database, "uid_of", {}.get)
    wanted = [b"identd-%c" % letter for letter in b"abcde"]
    assert database.uids(wanted) == {**dict.fromkeys(wanted), b"identd-a": 4001 if reads else None}


@pytest.mark.parametrize(
    ("line", "there", "asked"),
    [
        ("files", "", []),
        ("files systemd", "", ["foreign-1"]),
        ("files systemd", "services/io.systemd.Multiplexer", ["foreign-1"]),
        ("files systemd", "services/io.systemd.DynamicUser", ["alice", "b-2", "foreign-1"]),
        ("files systemd", "userdb/.carol.user", ["alice", "b-2", "foreign-1"]),
        ("files systemd", "userdb/carol.user", ["alice", "b-2", "foreign-1"]),
        ("files systemd", "booted", ["alice", "b-2", "foreign-1"]),
        ("files ldap", "", ["4001", "alice", "b-2", "foreign-1"]),
    ],
)
def test_thousands_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, there: str, asked: list[str]
) -> None:
    """A name that is not in the file, and a uid in decimal, is asked for only where somebody may have it."""
    (tmp_path / "nsswitch.conf").write_text(f"passwd: {line}\n")
    monkeypatch.setattr(services, "NSSWITCH", str(tmp_path / "nsswitch.conf"))
    monkeypatch.setattr(userdb, "_SERVICES", str(tmp_path / "services"))
    monkeypatch.setattr(userdb, "_FOLDERS", (str(tmp_path / "userdb"),))
    monkeypatch.setattr(userdb, "_BOOTED", str(tmp_path / "booted"))
    if there:
        (tmp_path / there).parent.mkdir(exist_ok=True)
        (tmp_path / there).touch()
    questions: list[bytes] = []
    monkeypatch.setattr(database, "uid_of", questions.append)
    wanted = [b"root", b"4001", b"alice", b"b-2", b"foreign-1"]
    assert database.uids(wanted) == {**dict.fromkeys(wanted), b"root": 0}
    assert sorted(questions) == [name.encode() for name in asked]
    # Another C library may ask a daemon that no file names.
    questions.clear()
    monkeypatch.setattr(services, "is_glibc", lambda: False)
    assert database.uids(wanted) == {**dict.fromkeys(wanted), b"root": 0}
    assert sorted(questions) == sorted(wanted[1:])


@pytest.mark.parametrize(
    ("line", "name"),
    [("\ralice:x:1000:1::/:", b"alice"), ("alice\t:x:1000:1::/:", b"alice\t"), ("\v+::::::", b"alice")],
)
def test_entries_that_only_the_name_service_understands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, name: bytes
) -> None:
    """White space before or behind a name: that name is asked for. And so is each, where a daemon may answer."""
    (tmp_path / "nsswitch.conf").write_text("passwd: files\n")
    (tmp_path / "passwd").write_text(f"root:x:0:0::/:\n{line}\n")
    monkeypatch.setattr(services, "NSSWITCH", str(tmp_path / "nsswitch.conf"))
    monkeypatch.setattr(services, "PASSWD", str(tmp_path / "passwd"))
    questions: list[bytes] = []
    monkeypatch.setattr(database, "uid_of", questions.append)
    wanted = [b"root", name, b"bob", b"carol"]
    database.uids(wanted)
    assert name in questions
    assert (b"bob" in questions) == ("+" in line)
    (tmp_path / "nscd").touch()
    monkeypatch.setattr(services, "_NSCD", str(tmp_path / "nscd"))
    questions.clear()
    database.uids(wanted)
    assert set(questions) >= set(wanted[1:])


def test_compat_entries_are_left_to_the_name_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that includes or excludes names is not for us to understand."""
    (tmp_path / "passwd").write_text("identd-a:x:4001:1::/:/bin/sh\n-identd-a\n")
    monkeypatch.setattr(services, "PASSWD", str(tmp_path / "passwd"))
    monkeypatch.setattr(database, "uid_of", {}.get)
    assert set(database.uids([b"identd-a", b"identd-b", b"identd-c", b"identd-d"]).values()) == {None}


_FIELDS = st.one_of(
    st.sampled_from([
        b"alice", b"7", b" 7", b"7 ", b"", b"x", b"0", b"1000", b"1234567890", b"a b", b"#a", b"+", b"-", b"\r", b"\v7",
    ]),
    st.binary(max_size=3),
)  # fmt: skip


@given(
    data=st.lists(
        st.one_of(st.lists(_FIELDS, min_size=5, max_size=9).map(b":".join), st.binary(max_size=8)), max_size=6
    ).map(b"\n".join)
)
@example(data=b"a:x:1:1:::\na:x:2:2:::")
@example(data=b"a:x:1:1:::\n \t+b")
@example(data=b"a:x:1:1::")
def test_entries_are_what_the_expression_takes(data: bytes) -> None:
    """The user database is read as the expressions read it, which are the specification."""
    expected = {name: int(uid) for name, uid in reversed(re.findall(database.ENTRY, data))}
    names = set(expected) | {b"alice", b"", b"#a"}
    assert database._entries(data, names) == (None if re.search(database.INCLUDED, data) else expected)
    one = dict([next(iter(expected.items()))] if expected else [])
    assert database._entries(data, set(one)) == (None if re.search(database.INCLUDED, data) else one)
