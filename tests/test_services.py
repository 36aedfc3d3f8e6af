"""Does every service have to say no before a user is absent?  Those that are asked in Python, on made-up files."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest
from helpers.name_services import FAILS, NO_RECORD, daemon
from helpers.name_services import userdb as replying

from lookup.connection import IdentError, Unknown
from lookup.users import library, names, services, userdb

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a host's files, in place of /etc and /run."""
    monkeypatch.setattr(services, "NSSWITCH", str(tmp_path / "nsswitch.conf"))
    monkeypatch.setattr(services, "PASSWD", str(tmp_path / "passwd"))
    monkeypatch.setattr(userdb, "_SERVICES", str(tmp_path / "services"))
    monkeypatch.setattr(userdb, "_FOLDERS", (str(tmp_path / "userdb"), str(tmp_path / "passwd" / "userdb")))
    (tmp_path / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n#old:x:7:7::/:\n bob :x: 05002 :1::/:\n+nis\nshort:x\nbad:x:y:1::/:"
    )
    (tmp_path / "nsswitch.conf").write_text("passwd: files systemd\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("passwd: files systemd\n", [b"files", b"systemd"]),
        ("# passwd: x\n \tpasswd:files # sss\nshadow: y\n", [b"files"]),
        ("passwd: sss [NOTFOUND=return X = y]files\n", [b"sss", b"[NOTFOUND=returnX=y]", b"files"]),
        ("passwd: files\npasswd: ldap\n", [b"files", b"ldap"]),
        ("group: sss\n", [b"files"]),
        ("", [b"files"]),
        ("passwd zz files\n", [b"zz", b"files"]),
        ("passwd\tfiles\n\vpasswd\rzz\n", [b"files", b"zz"]),
        ("passwd files: zz\npasswdx: y\n", [b"files:", b"zz"]),
    ],
)
def test_which_services_there_are(etc: Path, text: str, expected: list[bytes]) -> None:
    """The passwd lines of nsswitch.conf say it, or else the C library's default."""
    (etc / "nsswitch.conf").write_text(text)
    assert services.listed() == expected


def test_the_vendors_file(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts where the administrator has none; where it can't be read, nothing is known, and the error names it."""
    vendors = etc / "vendors"
    monkeypatch.setattr(services, "_VENDORS", str(vendors))
    vendors.write_text("passwd: sss files\n")
    assert services.listed() == [b"files", b"systemd"]
    (etc / "nsswitch.conf").unlink()
    assert services.listed() == [b"sss", b"files"]
    vendors.unlink()
    assert services.listed() == [b"files"]
    vendors.mkdir()
    with pytest.raises(IdentError) as caught:
        services.listed()
    assert str(vendors) in caught.value.detail


def test_no_file_and_no_service(etc: Path) -> None:
    """Without the file there is the default; a line without a service, or a file that can't be read, is unknown."""
    (etc / "nsswitch.conf").write_text("passwd:\n")
    with pytest.raises(IdentError):
        services.listed()
    (etc / "nsswitch.conf").unlink()
    assert services.listed() == [b"files"]
    (etc / "nsswitch.conf").mkdir()  # EISDIR
    with pytest.raises(IdentError):
        services.listed()


@pytest.mark.parametrize(
    ("user", "known"),
    [(b"root", True), (0, True), (b"bob", True), (5002, True), (b"old", False), (7, False), (b"bad", True),
     (b"short", False), (b"x", False), (1, False), (b"", False), (b"root:x", False)],
)  # fmt: skip
def test_who_is_in_the_file(etc: Path, user: bytes | int, known: bool) -> None:
    """A line that may be a user's counts as theirs; comments and what is too short do not."""
    (etc / "nsswitch.conf").write_text("passwd: files\n")
    assert services.knows(user) is known


def test_the_file_is_read_to_its_end(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at a later block is not the file's end."""
    (etc / "nsswitch.conf").write_text("passwd: files\n")
    (etc / "passwd").write_text("filler:x:1:1::/:\n" * 100_000)
    read, calls = os.read, []

    def fail_later(fd: int, size: int) -> bytes:
        calls.append(size)
        if len(calls) == 4:  # nsswitch.conf's two, and one block
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size)

    monkeypatch.setattr(os, "read", fail_later)
    with pytest.raises(IdentError) as caught:
        services.knows(b"bob")
    assert os.strerror(errno.EIO) in caught.value.detail


def test_another_c_library(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Musl reads passwd, then asks nscd, which may fail unheard: where there is one, nobody is absent."""

    def fail(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", fail)
    monkeypatch.setattr(services, "_NSCD", str(etc / "nscd"))
    (etc / "nsswitch.conf").write_text("passwd: nothing-that-is-read\n")
    assert services.knows(b"root")
    assert not services.knows(b"carol")
    (etc / "nscd").touch()
    assert services.knows(b"root")
    with pytest.raises(IdentError):
        services.knows(b"carol")


def test_there_is_no_ctypes(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libraries can't be called, what they know is unknown."""
    monkeypatch.setitem(__import__("sys").modules, "lookup.users.library", None)
    monkeypatch.delattr("lookup.users.library")
    (etc / "nsswitch.conf").write_text("passwd: files ldap\n")
    with pytest.raises(IdentError):
        services.knows(b"carol")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has no users; but only where the list of libraries shows that it is not there."""
    assert library.knows(b"identd-nowhere", b"carol") is False
    cache = tmp_path / "ld.so.cache"
    monkeypatch.setattr(library, "_CACHE", str(cache))
    for listed in (None, b"\0libnss_identd-nowhere.so.2\0"):
        if listed:
            cache.write_bytes(listed)
        with pytest.raises(IdentError):
            library.knows(b"identd-nowhere", b"carol")


def test_a_library_is_asked() -> None:
    """What the C library's own "compat" says is what its library says, of names and uids."""
    assert library.knows(b"compat", b"root")
    assert library.knows(b"compat", 0)
    assert not library.knows(b"compat", b"identd-no-such-user")
    assert not library.knows(b"compat", 1_900_000_000)
    with pytest.raises(IdentError):  # it is there, and knows no users
        library.knows(b"dns", b"root")


@pytest.mark.parametrize("user", [b"carol", 5003])
def test_files_of_systemds(etc: Path, user: bytes | int) -> None:
    """Who has a file of their own there exists."""
    assert not userdb.knows(user)
    (etc / "userdb").mkdir()
    assert not userdb.knows(user)
    (etc / "userdb" / ("carol.user" if user == b"carol" else "5003.user")).touch()
    assert userdb.knows(user)


@pytest.mark.parametrize("user", [b'ca"r\\ol', 5003])
def test_services_of_systemds(etc: Path, user: bytes | int) -> None:
    """Each has to say that it has no such record; what only passes on is not asked."""
    folder = etc / "services"
    folder.mkdir()
    asked: list[bytes] = []

    def recording(connection: socket.socket) -> None:
        asked.append(connection.recv(4096, socket.MSG_PEEK))
        replying(NO_RECORD)(connection)

    with daemon(folder / "io.systemd.Multiplexer", replying(b"x")), daemon(folder / "io.example.A", recording):
        assert not userdb.knows(user)
        wanted = rb'"userName":"ca\"r\\ol"' if isinstance(user, bytes) else b'"uid":5003'
        (call,) = asked
        assert wanted in call and b'"service":"io.example.A"' in call
        for reply in (FAILS, b"", NO_RECORD[:-1]):
            (folder / "io.example.B").unlink(missing_ok=True)
            with daemon(folder / "io.example.B", replying(reply)), pytest.raises(IdentError):
                userdb.knows(user)
        (folder / "io.example.B").unlink()
        with daemon(folder / "io.example.B", replying(b'{"parameters":{"record":{}}}\0')):
            assert userdb.knows(user)


def test_a_service_of_systemds_that_has_ended(etc: Path) -> None:
    """What is down is unknown; but systemd-machined ends with the last container, and leaves its socket."""
    (etc / "services").mkdir()
    for name in ("io.systemd.Machine", "io.example.A"):
        with daemon(etc / "services" / name, replying(NO_RECORD)):
            pass
        if name == "io.systemd.Machine":
            assert not userdb.knows(b"carol")
    with pytest.raises(IdentError):
        userdb.knows(b"carol")


@pytest.mark.parametrize("name", [b"", b"a:b", b"a/b", b"\xff", b"a\nb", b"\x7f"])
def test_what_systemd_has_no_names_for(etc: Path, name: bytes) -> None:
    """Such names are not worth a question, nor a path."""
    (etc / "services").write_text("not a folder")
    assert not userdb.knows(name)


def test_what_names_make_of_it(etc: Path) -> None:
    """What can't be found out is an error about the uid, or `Unknown`; a user who is found nowhere is absent."""
    name, uid = b"identd-no-such-user", 1_900_000_000
    assert names.uid_of(name) is None
    assert names.entry(uid) == (("OTHER", str(uid)), "")
    (etc / "passwd").write_text(f"{name.decode()}:x:{uid}:1::/:\n")  # and yet getpwnam(3) does not find them
    assert isinstance(names.uid_of(name), Unknown)
    with pytest.raises(IdentError) as caught:
        names.entry(uid)
    assert caught.value.uid == uid


def test_a_library_that_hides_that_its_daemon_is_down(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fedora's libnss_sss says "no such user" then: its no counts while the daemon takes connections."""
    monkeypatch.setattr(library, "knows", lambda service, user: False)
    monkeypatch.setattr(services, "_DAEMONS", {b"sss": str(etc / "nss")})
    (etc / "nsswitch.conf").write_text("passwd: files sss\n")
    with daemon(etc / "nss", lambda connection: None):
        assert not services.knows(b"carol")
    with pytest.raises(IdentError):
        services.knows(b"carol")
    (etc / "nss").unlink()
    with pytest.raises(IdentError):
        services.knows(b"carol")
