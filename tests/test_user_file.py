"""What does an owner's file say?  Real files of real users, read as root, as nobody and as their owner."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import pwd
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup.config import user_file
from lookup.connection import IdentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Unusable = tuple[Callable[["Household", str], None], str]

pytest_plugins = ["helpers.people"]

XDG, HOME = user_file.FILES

#: Who reads: the single-shot process before it gives up root, the warm process, the single-shot process after it.
READERS = ["root", "nobody", "owner"]

#: Seconds. Long enough ago for a file to be in nobody's hands.
LONG_AGO = 3600.0

#: Seconds after which a reading that hangs is ended.
HANGS = 30


class Read(NamedTuple):
    """A `user_file.UserFile` as plain values."""

    statements: list[str]
    path: str
    notes: list[tuple[bool, str]]

    @property
    def logged(self) -> str:
        return "\n".join(text for logged, text in self.notes if logged)


def read(uid: int, home: Path | str) -> Read:
    """Read a user's file in this process."""
    found = user_file.read(uid, str(home))
    return Read([str(block.statement) for block in found.blocks], found.path, found.notes)


def descriptors() -> list[str]:
    """Return what this process has open."""
    return os.listdir("/proc/self/fd") if sys.platform == "linux" else []


def read_as(reader: str, uid: int, home: Path | str) -> Read:
    """Read a user's file in a process that is somebody else for good, and that leaves no descriptor open.

    :raises IdentError: as `user_file.read`.
    """
    who = {"root": 0, "nobody": pwd.getpwnam("nobody").pw_uid, "owner": uid}[reader]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(HANGS)
            os.close(reading)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(who, who, who)
            before = descriptors()
            try:
                found: Read | str = read(uid, home)
            except IdentError as error:
                found = error.detail
            if descriptors() == before:
                os.write(writing, pickle.dumps(found if isinstance(found, str) else tuple(found)))
                status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    found = pickle.loads(said)
    if isinstance(found, str):
        raise IdentError(found, uid)
    return Read(*found)


class Household:
    """A home that everybody may look into, as most are; what is put there is its owner's, and old."""

    def __init__(self, home: Path, uid: int, stranger: int) -> None:
        self.home = home
        self.uid = uid
        self.stranger = stranger

    def write(
        self, name: str, content: bytes | str, *, uid: int = -1, mode: int = 0o644, age: float = LONG_AGO
    ) -> Path:
        """Put a file there. ``name`` is relative to the home, or not."""
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.give(path, uid, mode, age)

    def give(self, path: Path, uid: int = -1, mode: int = 0o644, age: float = LONG_AGO) -> Path:
        if os.geteuid() == 0:
            os.chown(path, self.uid if uid < 0 else uid, -1)
        path.chmod(mode)
        os.utime(path, (0, time.time() - age))
        return path

    def link(self, name: str, target: Path | str) -> Path:
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)
        return path

    def read(self, reader: str) -> Read:
        return read_as(reader, self.uid, self.home)


@contextlib.contextmanager
def household(uid: int, stranger: int) -> Iterator[Household]:
    """Build a home, and tear it down. Directories of pytest's own are closed to other users."""
    home = Path(tempfile.mkdtemp(prefix="identd-"))
    try:
        home.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(home, uid, -1)
        yield Household(home, uid, stranger)
    finally:
        shutil.rmtree(home)


@pytest.fixture
def alices(alice_uid: int, bob_uid: int) -> Iterator[Household]:
    """The home of alice, a real user; bob is the stranger."""
    with household(alice_uid, bob_uid) as home:
        yield home


@pytest.fixture
def ours() -> Iterator[Household]:
    """A home of whoever runs the tests."""
    with household(os.geteuid(), 12345) as home:
        yield home


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the paths of all readings."""
    paths: list[str] = []
    real = user_file.read_once

    def counted(path: str, uid: int) -> tuple[bytes, float]:
        paths.append(path)
        return real(path, uid)

    monkeypatch.setattr(user_file, "read_once", counted)
    return paths


def says(name: str) -> str:
    """Return a file that asks for a reply wherever the far end is."""
    return f'global {{ reply "{name}" }}\n'


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("files", [(XDG,), (HOME,), (XDG, HOME)])
def test_the_order_of_the_files(alices: Household, files: tuple[str, ...], reader: str) -> None:
    """Either file is read; where there are both, the one below .config counts."""
    for name in files:
        alices.write(name, says(name))
    found = alices.read(reader)
    assert found.statements == [f'reply "{files[0]}"']
    assert found.path == str(alices.home / files[0])
    assert not found.logged


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "logged"),
    [
        ("", ""),
        ("\n \t\n", ""),
        ("# nothing\n", ""),
        ("/* nothing", ""),
        ("global", ":1:7: "),
        ('global { reply "foo" } }', ":1:24: "),
        ('lport 1250 { reply "quser" }\nlport 12', ":2:9: "),
        ('global { reply "foo }\n', ":1:16: "),
        ("global { spoof }\n", ":1:10: "),
        ("\0" * 60000, ":1:1: "),
        ("{" * 60000, ":1:1: "),
    ],
)
def test_the_first_file_is_final(alices: Household, content: str, logged: str, reader: str) -> None:
    """A file that can be read and says nothing, or nothing that makes sense, leaves the second unread."""
    alices.write(XDG, content)
    alices.write(HOME, says("home"))
    found = alices.read(reader)
    assert found.statements == []
    assert found.path == str(alices.home / XDG)
    if logged:
        assert found.logged.startswith(str(alices.home / XDG) + logged)
        assert "\n" not in found.logged
    else:
        assert found.notes == []


def _missing(home: Household, name: str) -> None:
    pass


def _not_below_a_directory(home: Household, name: str) -> None:
    parent = (home.home / name).parent
    if parent != home.home:
        parent.write_text("no directory")


def _dangling(home: Household, name: str) -> None:
    home.link(name, home.home / "nothing")


def _loop(home: Household, name: str) -> None:
    home.link(name, home.home / name)


def _directory(home: Household, name: str) -> None:
    (home.home / name).mkdir(parents=True)


def _fifo(home: Household, name: str) -> None:
    (home.home / name).parent.mkdir(exist_ok=True)
    os.mkfifo(home.home / name)
    home.give(home.home / name)


def _socket(home: Household, name: str) -> None:
    path = home.home / name
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    home.give(path, mode=0o777)


def _device(home: Household, name: str) -> None:
    path = home.home / name
    path.parent.mkdir(exist_ok=True)
    # /dev/zero again, and their own: it never ends.
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    home.give(path, mode=0o666)


def _null(home: Household, name: str) -> None:
    home.link(name, "/dev/null")


def _zero(home: Household, name: str) -> None:
    home.link(name, "/dev/zero")


def _terminal(home: Household, name: str) -> None:
    home.link(name, "/dev/tty")


def _roots(home: Household, name: str) -> None:
    home.write(name, says("root"), uid=0)


def _strangers(home: Household, name: str) -> None:
    home.write(name, says("bob"), uid=home.stranger)


def _link_to_strangers(home: Household, name: str) -> None:
    _strangers(home, "bobs")
    home.link(name, home.home / "bobs")


def _link_to_roots_secret(home: Household, name: str) -> None:
    home.write("secret", says("root"), uid=0, mode=0o600)
    home.link(name, home.home / "secret")


def _huge(home: Household, name: str) -> None:
    home.write(name, says("huge") + "#" * user_file.MAX_SIZE)


def _endless(home: Household, name: str) -> None:
    home.write(name, says("endless"))
    os.truncate(home.home / name, 2**40)


def _hidden(home: Household, name: str) -> None:
    home.write(name, says("hidden"), mode=0o600)


def _below_hidden(home: Household, name: str) -> None:
    home.write(name, says("hidden"))
    (home.home / name).parent.chmod(0o700)
    home.give((home.home / name).parent, mode=0o700)


#: What can't be used by anybody, and a part of what is logged about it ("": nothing is).
UNUSABLE = [
    (_missing, ""),
    (_not_below_a_directory, ""),
    (_dangling, ""),
    (_directory, "not a regular file"),
    (_fifo, "not a regular file"),
    (_socket, "not a regular file"),
    (_device, "not a regular file"),
    (_null, "not a regular file"),
    (_zero, "not a regular file"),
    (_terminal, "not a regular file"),
    (_roots, "belongs to uid 0, not to the owner"),
    (_strangers, "belongs to uid "),
    (_link_to_strangers, "belongs to uid "),
    (_link_to_roots_secret, "belongs to uid 0"),
    (_huge, "larger than 65536 octets"),
    (_endless, "larger than 65536 octets"),
]


@pytest.fixture(params=UNUSABLE, ids=[put.__name__[1:] for put, _ in UNUSABLE])
def unusable(request: pytest.FixtureRequest) -> Unusable:
    """A way to put what can't be used, and what is logged about it."""
    kind: Unusable = request.param
    return kind


def assert_logged(found: Read, logged: str) -> None:
    """Check that the log has a word about what can't be used, or nothing."""
    assert logged in found.logged
    assert bool(found.logged) == bool(logged)


@pytest.mark.parametrize("reader", READERS)
def test_an_unusable_file(alices: Household, unusable: Unusable, reader: str) -> None:
    """What is no plain file of the owner's is passed over, with a word to the log where something is wrong."""
    put, logged = unusable
    put(alices, XDG)
    alices.write(HOME, says("home"))
    found = alices.read(reader)
    assert found.statements == ['reply "home"']
    assert found.path == str(alices.home / HOME)
    assert_logged(found, logged)
    assert [str(alices.home / XDG) in text for _, text in found.notes] == [True]


@pytest.mark.parametrize("reader", READERS)
def test_an_unusable_last_file(alices: Household, unusable: Unusable, reader: str) -> None:
    """After the second file comes none: no statement, and each file has its note."""
    put, logged = unusable
    put(alices, HOME)
    found = alices.read(reader)
    assert found.statements == []
    assert found.path == ""
    assert_logged(found, logged)
    assert len(found.notes) == 2


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("put", [_hidden, _below_hidden])
def test_what_is_kept_from_others(alices: Household, put: Callable[[Household, str], None], reader: str) -> None:
    """A file that only its owner may read is their choice: whoever may not read it takes the next, and is silent."""
    put(alices, XDG)
    alices.write(HOME, says("home"))
    found = alices.read(reader)
    assert found.statements == (['reply "home"'] if reader == "nobody" else ['reply "hidden"'])
    assert not found.logged
    notes = [(False, f"{alices.home / XDG}: Permission denied")]
    assert found.notes == (notes if reader == "nobody" else [])


@pytest.mark.parametrize("reader", READERS)
def test_a_closed_home(alices: Household, reader: str) -> None:
    """A home that only its owner may enter hides both files, and that is their choice."""
    alices.write(XDG, says("xdg"))
    alices.write(HOME, says("home"))
    alices.home.chmod(0o700)
    found = alices.read(reader)
    assert found.statements == ([] if reader == "nobody" else ['reply "xdg"'])
    assert not found.logged
    assert len(found.notes) == (2 if reader == "nobody" else 0)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("home", ["", ".", "home", "/nowhere/at/all", "/dev/null"])
def test_no_home(alices: Household, home: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no home has no files, whatever lies in the directory that identd was started in."""
    alices.write(HOME, says("here"))
    alices.write("home/" + HOME, says("here"))
    monkeypatch.chdir(alices.home)
    found = read_as(reader, alices.uid, home)
    assert found.statements == []
    assert found.path == ""
    assert not found.logged


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [XDG, HOME])
def test_a_file_that_may_say_anything(alices: Household, name: str, reader: str) -> None:
    """H2. What a file says that ELOOP keeps from us is unknown: it may say hide, and the other one does not count."""
    _loop(alices, name)
    if name == XDG:
        alices.write(HOME, says("home"))
    with pytest.raises(IdentError, match="UNKNOWN-ERROR") as failed:
        alices.read(reader)
    assert failed.value.detail == f"{alices.home / name}: Too many levels of symbolic links"


@pytest.mark.parametrize("reader", READERS)
def test_links_to_own_files(alices: Household, reader: str) -> None:
    """The files may stand elsewhere, as long as they are the owner's: a link to a file, to .config, to the home."""
    with household(alices.uid, alices.stranger) as elsewhere:
        elsewhere.write("oidentd.conf", says("elsewhere"))
        alices.link(HOME, elsewhere.home / "oidentd.conf")
        assert alices.read(reader).statements == ['reply "elsewhere"']
        alices.link(".config", elsewhere.home)
        found = alices.read(reader)
        assert found.statements == ['reply "elsewhere"']
        assert found.path == str(alices.home / XDG)
        link = elsewhere.link("home", alices.home)
        assert read_as(reader, alices.uid, link).statements == ['reply "elsewhere"']


@pytest.mark.parametrize("mode", [0o444, 0o666, 0o777, 0o4644])
def test_modes_are_not_looked_at(alices: Household, mode: int) -> None:
    """Who may write the file is its owner's business."""
    alices.write(HOME, says("home"), mode=mode)
    assert alices.read("nobody").statements == ['reply "home"']


def test_roots_own_file(alices: Household) -> None:
    """Root is an owner like any other."""
    alices.write(HOME, says("root"), uid=0)
    assert read_as("nobody", 0, alices.home).statements == ['reply "root"']


@pytest.mark.parametrize(("size", "is_read"), [(user_file.MAX_SIZE, True), (user_file.MAX_SIZE + 1, False)])
def test_the_largest_file(ours: Household, size: int, is_read: bool) -> None:
    """A file of 64 KiB is read, one octet more is too much."""
    ours.write(HOME, says("home").ljust(size))
    found = read(ours.uid, ours.home)
    assert found.statements == (['reply "home"'] if is_read else [])
    assert bool(found.logged) == (not is_read)


def test_a_waiting_writer_goes_on_waiting(ours: Household) -> None:
    """A FIFO is not even opened: whoever waits at its other end does not notice."""
    _fifo(ours, HOME)
    assert "not a regular file" in read(ours.uid, ours.home).logged
    opened = threading.Event()

    def write() -> None:
        with open(ours.home / HOME, "wb"):
            opened.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            read(ours.uid, ours.home)
            assert not opened.wait(0.005)
    finally:
        with open(ours.home / HOME, "rb"):
            writer.join(HANGS)
    assert opened.is_set()


@contextlib.contextmanager
def meanwhile(do: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in another process."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(2 * HANGS)
            while True:
                do()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_link_that_changes_meanwhile(alices: Household) -> None:
    """Checked is what is read: while a link points here and there, nothing but the owner's file is ever read."""
    alices.write("own", says("alice"))
    alices.write("strangers", says("bob"), uid=alices.stranger)
    alices.write("roots", says("root"), uid=0)
    os.mkfifo(alices.home / "fifo")
    targets = itertools.cycle(["own", "strangers", "own", "roots", "own", "fifo", "own", "nothing", "own", "/dev/zero"])

    def swap() -> None:
        (alices.home / "new").symlink_to(next(targets))
        os.replace(alices.home / "new", alices.home / HOME)

    swap()
    found: list[Read] = []
    with meanwhile(swap):
        end = time.monotonic() + HANGS
        # Often, and until each kind was met.
        while len(found) < 3000 or not (
            any(one.statements for one in found)
            and any(f"belongs to uid {alices.stranger}" in one.logged for one in found)
            and any("not a regular file" in one.logged for one in found)
        ):
            assert time.monotonic() < end
            found.append(read(alices.uid, alices.home))
    assert {tuple(one.statements) for one in found} == {(), ('reply "alice"',)}


def test_a_file_that_shrinks_and_grows_meanwhile(ours: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment a reading meets, it ends well: with the statement, or without it and the reason why."""
    monkeypatch.setattr(user_file, "PATIENCE", 0.0)
    path = ours.write(HOME, says("home"))
    filling = b"#" * 997 + b"\n"

    def write() -> None:
        for _ in range(80):
            with open(path, "ab") as file:
                file.write(filling)
        time.sleep(0.001)
        for size in (user_file.MAX_SIZE, 1000, 10, 0):
            os.truncate(path, size)
        path.write_text(says("home"))
        time.sleep(0.001)

    found: list[Read] = []
    with meanwhile(write):
        end = time.monotonic() + HANGS
        # Often, and until each of the three ways to end was met.
        while len(found) < 2000 or not (
            any(one.statements for one in found)
            and any("larger than" in one.logged for one in found)
            and any(one.path and not one.statements for one in found)
        ):
            assert time.monotonic() < end
            found.append(read(ours.uid, ours.home))
    for one in found:
        assert one.statements == ['reply "home"'] or (one.statements == [] and (one.path or one.logged))


@pytest.mark.parametrize("content", ["", "# nothing\n", "global {", says("home")])
@pytest.mark.parametrize("age", [LONG_AGO, -LONG_AGO, 1.5 * user_file.SETTLED])
def test_old_files_are_read_once(ours: Household, readings: list[str], content: str, age: float) -> None:
    """What did not change within the last second is what it is; and no writer sets a time in the future."""
    ours.write(HOME, content, age=age)
    read(ours.uid, ours.home)
    assert readings == [str(ours.home / XDG), str(ours.home / HOME)]


def test_a_whole_file_is_soon_believed(ours: Household, readings: list[str]) -> None:
    """What parses and was left alone for a moment costs no waiting, though it is still new."""
    ours.write(HOME, says("home"), age=2 * user_file.QUIET)
    assert read(ours.uid, ours.home).statements == ['reply "home"']
    assert len(readings) == 2


@pytest.mark.parametrize("content", ["", "# nothing\n", "global {", says("home")])
def test_new_files_are_read_again(ours: Household, readings: list[str], content: str) -> None:
    """What changed just now is read until the patience is over; then it counts as what it is."""
    # Slightly in the future, so that it stays new however slow this machine is.
    ours.write(HOME, content, age=-0.9 * user_file.SETTLED)
    found = read(ours.uid, ours.home)
    assert len(readings) > 2
    assert found.path == str(ours.home / HOME)
    assert found.statements == (['reply "home"'] if "reply" in content else [])
    assert bool(found.logged) == (content == "global {")


def test_unusable_files_are_looked_at_once(ours: Household, readings: list[str]) -> None:
    """Patience is for files that are being written, not for what is none."""
    _directory(ours, XDG)
    _fifo(ours, HOME)
    read(ours.uid, ours.home)
    assert readings == [str(ours.home / XDG), str(ours.home / HOME)]


def read_while(home: Household, readings: list[str], change: Callable[[], object]) -> Read:
    """Read, and have something changed when the files have been looked at a few times."""

    def wait_and_change() -> None:
        while len(readings) < 3:
            time.sleep(0.001)
        change()

    thread = threading.Thread(target=wait_and_change)
    thread.start()
    try:
        return read(home.uid, home.home)
    finally:
        thread.join()


@pytest.mark.parametrize("before", [b"", b"glob", b'global { reply "hom', says("before").encode()])
def test_a_file_that_is_written_meanwhile(
    ours: Household, readings: list[str], monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """A file that is empty, cut, or another one at first is read again until it is whole."""
    monkeypatch.setattr(user_file, "PATIENCE", HANGS)
    # Slightly in the future, so that it stays new however slow this machine is.
    ours.write(XDG, before, age=-0.9 * user_file.SETTLED)

    def rewrite() -> None:
        ours.write("new", says("home"), age=2 * user_file.QUIET)
        os.replace(ours.home / "new", ours.home / XDG)

    assert read_while(ours, readings, rewrite).statements == ['reply "home"']
    assert len(readings) > 3


def test_a_file_that_goes_meanwhile(ours: Household, readings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there any more, or not usable, makes room for the next file."""
    monkeypatch.setattr(user_file, "PATIENCE", HANGS)
    ours.write(XDG, "global {", age=-0.9 * user_file.SETTLED)
    ours.write(HOME, says("home"))

    assert read_while(ours, readings, (ours.home / XDG).unlink).statements == ['reply "home"']


def content(*names: str) -> bytes:
    """Return a file with a line for each name."""
    return "".join(says(name) for name in names).encode()


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        # (content, seconds for which it had been left alone), again and again
        ([(b"", 0.001), (content("a"), 0.002), (content("a", "b"), 0.001)], "b"),
        ([(content("a"), 0.009), (content("a", "b"), 0.001), (content("a"), 0.004)], "b"),
        ([(content("a"), 0.009), (content("a", "b")[:-5], 0.001), (content("c"), 0.001)], "c"),
        ([(content("a"), 0.001), (content("b"), 0.009), (content("c"), 0.002), (b"", 0.04)], "b"),
        ([(content("a"), 0.001), (content("b"), 0.001), (content("a"), 0.004), (content("b"), 0.003)], "a"),
        ([(content("a"), 0.001), (b"global {", 0.1)], "a"),
        ([(content("a"), -0.5), (b"", -0.5)], "a"),
        ([(content("a")[:-5], 0.02), (content("a"), 0.001)], "a"),
    ],
)
def test_what_is_never_left_alone(
    monkeypatch: pytest.MonkeyPatch, seen: list[tuple[bytes, float]], expected: str
) -> None:
    """At the end of the patience, what does not go on and rested longest is believed, half a file last of all."""
    turns = itertools.cycle(seen)
    taken = itertools.count()

    def reading(path: str, uid: int) -> tuple[bytes, float]:
        next(taken)
        return next(turns)

    monkeypatch.setattr(user_file, "read_once", reading)
    assert [str(block.statement) for block in user_file.read(0, "/home").blocks][-1] == f'reply "{expected}"'
    assert next(taken) > len(seen)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text('globalreplytofrom{}"\\#/* \n\t0123456789.:', max_size=200).map(str.encode))
def test_any_octets(data: bytes) -> None:
    """Whatever a file holds: statements, or one line that says where it is wrong; its words never span lines there."""

    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "host names in it are none of the resolver's business")

    with household(os.geteuid(), 12345) as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        path = home.write(HOME, data)
        found = read(home.uid, home.home)
    assert found.path == str(path)
    assert "\n" not in found.logged
    if found.logged:
        assert found.statements == []
        assert found.logged.startswith(f"{path}:")
