"""Is a name service that fails never taken for one that says "no such user"?"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from helpers.hosts import login, nameless_uid
from helpers.installed import readable_folder
from helpers.machine import only_if_others_can_read_it, only_root, program
from helpers.name_services import (
    FAILS,
    NO_RECORD,
    asking,
    daemon,
    nslcd_without_server,
    nslcd_without_users,
    sssd_without_users,
    userdb,
)
from helpers.residents import Resident, connected, resident, system_file
from helpers.single_shot import COMMAND, handler
from helpers.warm import warming

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A login name that nobody has.
FREE = "identd-free"


class Town(NamedTuple):
    """Alice, who may spoof; the login name of another user, bob; and queries about alice and a uid without a name."""

    alice: Resident
    bob: str
    about_alice: str
    nameless: int
    about_nameless: str
    system: Path


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """People, and connections that they hold."""
    only_root()
    only_if_others_can_read_it()
    nameless = nameless_uid()
    with contextlib.ExitStack() as stack:
        alice, bob = stack.enter_context(resident()), stack.enter_context(login())
        hers, its = (stack.enter_context(connected(uid)) for uid in (alice.uid, nameless))
        path = stack.enter_context(system_file("default { default { allow spoof } }"))
        yield Town(alice, bob.pw_name, hers, nameless, its, path)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that nobody may search."""
    with readable_folder() as path:
        yield path


def ask(words: list[str], town: Town, query: str, form: str = "single") -> str:
    """Return what identd replies, in one form of service, with some words before its command."""
    command = [*words, *COMMAND]
    options = ("-C", str(town.system))
    line = query.encode() + b"\r\n"
    if form == "warm":
        with warming(*options, command=command) as server:
            reply = server.ask(line)
    else:
        with handler(*options, command=command) as served:
            reply = served.ask(line)
    assert reply.count(b"\n") == 1
    return reply.decode().strip().removeprefix(query)


def wishes(town: Town, name: str) -> None:
    """Let alice wish for a name."""
    town.alice.write(f'global {{ reply "{name}" }}')


def is_unknown(words: list[str], town: Town, form: str = "single") -> None:
    """Check that whom the name service may know is neither free nor a number."""
    unknown = ":ERROR:UNKNOWN-ERROR"
    hers = f":USERID:UNIX:{town.alice.name}"
    for name in (town.bob, FREE):
        wishes(town, name)
        assert ask(words, town, town.about_alice, form) in (hers, unknown)
    assert ask(words, town, town.about_nameless, form) == unknown


def is_absent(words: list[str], town: Town, form: str = "single") -> None:
    """Check that a name that is free is sent, that bob's is not, and that a uid without a name is a number."""
    wishes(town, FREE)
    assert ask(words, town, town.about_alice, form) == f":USERID:UNIX:{FREE}"
    wishes(town, town.bob)
    assert ask(words, town, town.about_alice, form) == f":USERID:UNIX:{town.alice.name}"
    assert ask(words, town, town.about_nameless, form) == f":USERID:OTHER:{town.nameless}"


@pytest.mark.parametrize("form", ["single", "warm"])
@pytest.mark.parametrize("line", ["files", "files systemd", "files [NOTFOUND=continue] nowhere", "compat"])
def test_services_that_answer(town: Town, folder: Path, line: str, form: str) -> None:
    """Where each service says no, nobody is there; a service whose library is not installed has no users."""
    is_absent(asking(folder, line), town, form)


@pytest.mark.parametrize("form", ["single", "warm"])
@pytest.mark.parametrize("line", ["files ldap", "files ldap systemd", "files sss", "files sss systemd", "sss files"])
def test_a_daemon_that_is_down(town: Town, folder: Path, line: str, form: str) -> None:
    """Users of a directory that can't be asked are neither free nor numbers, whatever the last service says."""
    is_unknown(asking(folder, line), town, form)


def test_daemons_that_have_no_such_user(town: Town, folder: Path) -> None:
    """Where the daemons are up and say no, a name is free."""
    words = asking(folder, "files ldap sss systemd")
    with daemon(folder / "nslcd" / "socket", nslcd_without_users), daemon(folder / "sss" / "nss", sssd_without_users):
        is_absent(words, town)


def test_a_daemon_whose_server_is_down(town: Town, folder: Path) -> None:
    """A daemon that is up and knows nothing is no better than one that is down."""
    words = asking(folder, "files ldap systemd")
    with daemon(folder / "nslcd" / "socket", nslcd_without_server):
        is_unknown(words, town)


@pytest.mark.parametrize("reply", [NO_RECORD, FAILS, b"", b"{", b'{"parameters":{"record":{}}}\0'])
def test_services_of_systemd(town: Town, folder: Path, reply: bytes) -> None:
    """Each service of systemd's has to say no: one that fails, or is cut off, leaves everything open."""
    words = asking(folder, "files systemd")
    with daemon(folder / "userdb" / "io.example.A", userdb(NO_RECORD)):
        with daemon(folder / "userdb" / "io.example.B", userdb(reply)):
            (is_absent if reply == NO_RECORD else is_unknown)(words, town)
        # Down: the socket is still there.
        is_unknown(words, town)


#: What fails, and where.
_FAULTS = [
    *(
        ("openat", path, error + when)
        # Alice's own name is the first question of all, so only what follows fails: is a name another's?
        for path, when in (("/etc/passwd", ":when=2+"), ("/etc/nsswitch.conf", ""))
        for error in ("EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "EACCES")
    ),
    ("openat", "/etc/passwd", "EMFILE"),
    ("openat", "/etc/passwd", "ENOENT:when=2+"),
    ("read", "/etc/passwd", "EIO"),
    ("read", "/etc/nsswitch.conf", "EIO"),
]


@pytest.mark.parametrize(
    ("fault", "line", "form"),
    [
        *((fault, "files systemd", "single") for fault in _FAULTS),
        *((fault, "files systemd", "warm") for fault in _FAULTS if fault[2].startswith(("EIO", "EMFILE"))),
        *((fault, "files", "single") for fault in _FAULTS if fault[2].startswith("EIO")),
    ],
)
def test_files_that_cannot_be_read(
    town: Town, folder: Path, fault: tuple[str, str, str], line: str, form: str
) -> None:
    """Where /etc/passwd or nsswitch.conf can't be read, nobody is a number, and no name is free."""
    call, path, error = fault
    words = [*asking(folder, line), *failing(f"{call}:error={error}", path)]
    is_unknown(words, town, form)


def failing(inject: str, *paths: str) -> list[str]:
    """Return the words that have system calls about some files fail; -D: the process started is identd's."""
    words = [program("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={inject}"]
    return [*words, *(word for path in paths for word in ("-P", path))]


@pytest.mark.parametrize("when", ["1", "2", "3"])
@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/nsswitch.conf"])
def test_a_file_that_fails_once(town: Town, folder: Path, path: str, when: str) -> None:
    """One failure among the questions about a user makes nobody another, nor a number of one who has a name."""
    words = [*asking(folder, "files systemd"), *failing(f"openat:error=EMFILE:when={when}", path)]
    wishes(town, town.bob)
    hers = f":USERID:UNIX:{town.alice.name}"
    assert ask(words, town, town.about_alice) in (hers, ":ERROR:UNKNOWN-ERROR")
    others = f":USERID:OTHER:{town.nameless}", ":ERROR:UNKNOWN-ERROR"
    assert ask(words, town, town.about_nameless) in others


def test_a_library_that_cannot_be_loaded(town: Town, folder: Path) -> None:
    """A library that is installed, and can't be opened, is not one that was never there."""
    library = "libnss_hesiod.so.2"  # of the C library itself
    paths = [str(path) for top in ("/lib", "/usr/lib") for path in Path(top).glob(f"**/{library}")]
    is_unknown([*asking(folder, "files hesiod"), *failing("openat:error=EMFILE", *paths)], town)


@pytest.mark.parametrize("error", ["EMFILE", "EIO"])
def test_systemds_services_cannot_be_listed(town: Town, folder: Path, error: str) -> None:
    """Their library says "no such user" then, too."""
    words = asking(folder, "files systemd")
    is_unknown([*words, *failing(f"openat:error={error}", "/run/systemd/userdb")], town)
