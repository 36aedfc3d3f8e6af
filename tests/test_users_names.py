"""What is this uid called, and whose is this name?  Asked of the real name service."""

from __future__ import annotations

import errno
import os
import pwd
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import Person, login, nameless_uid

from lookup import user_namespace
from lookup.connection import IdentError
from lookup.users import names

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def prisoner(needs_root: None) -> Iterator[Person]:
    """A process of root's that may move into a user namespace."""
    with Person(0) as person:
        yield person


def test_a_login_name() -> None:
    """A uid with a passwd entry is called by its name, as UNIX."""
    assert names.login(0) == ("UNIX", pwd.getpwuid(0).pw_name)


def test_a_login_that_comes_and_goes(needs_root: None) -> None:
    """A user who was added just now has a name, and is a number again once deleted."""
    with login() as user:
        assert names.login(user.pw_uid) == ("UNIX", user.pw_name)
    assert names.login(user.pw_uid) == ("OTHER", str(user.pw_uid))


@pytest.mark.parametrize("uid", [nameless_uid(), 2**31, 2**32 - 3])
def test_a_uid_without_name(uid: int) -> None:
    """A uid that the name service does not know is its number in decimal, as OTHER."""
    assert names.login(uid) == ("OTHER", str(uid))


def test_nobody_is_nobody() -> None:
    """Where uids reach us unmapped, 65534 is the user that passwd says."""
    if not user_namespace.sees_every_uid():
        pytest.skip("a user namespace hides uids here")
    assert names.login(65534) == ("UNIX", pwd.getpwuid(65534).pw_name)


def test_outside_of_user_namespaces(prisoner: Person) -> None:
    """A process in the first user namespace sees every uid; /proc says so."""
    everything = prisoner.tell("open('/proc/self/uid_map').read().split() == ['0', '0', '4294967295']")
    assert prisoner.tell("user_namespace.sees_every_uid()") == everything


@pytest.mark.parametrize("mapping", [(), (0, 0, 1), (0, 65534, 1)], ids=["nothing", "root", "another"])
def test_a_user_namespace(prisoner: Person, mapping: tuple[int, ...]) -> None:
    """Within a user namespace the overflow uid has no name: it may stand for anybody."""
    if mapping[1:] == (65534, 1):
        prisoner.tell("os.setresuid(65534, 65534, 65534); checked(libc.prctl(4, 1, 0, 0, 0))")
    prisoner.tell("leave_user_namespace(*mapping)", mapping=mapping)
    assert prisoner.tell("user_namespace.sees_every_uid()") is False
    assert prisoner.tell("names.login(0)") == ("UNIX", "root")
    assert prisoner.tell(
        "try:\n answer = names.login(65534)\nexcept Exception as error:\n answer = (str(error), error.uid)\nanswer"
    ) == ("UNKNOWN-ERROR", 65534)


def test_a_map_that_is_kept_from_us(prisoner: Person) -> None:
    """Where /proc may not be read nothing shows that an overflow uid is real."""
    prisoner.tell(
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 1024))"  # EMFILE, as good as EACCES
    )
    assert prisoner.tell("user_namespace.sees_every_uid()") is False


def test_the_uid_of_a_name() -> None:
    """A login name has the uid of its passwd entry; what is none has none, whatever its octets."""
    assert names.uid_of(b"root") == 0
    assert names.uid_of(pwd.getpwuid(os.getuid()).pw_name.encode()) == os.getuid()
    for nobody in (b"", b"identd-no-such-user", b"ro\0ot", b"\xff", b"root:x", b"a" * 5000):
        assert names.uid_of(nobody) is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_a_user_database_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whoever has no name because the name service fails is no number: they may well have a name."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    uid = nameless_uid()
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(IdentError) as caught:
        names.login(uid)
    assert (str(caught.value), caught.value.uid) == ("UNKNOWN-ERROR", uid)
    assert os.strerror(number) in caught.value.detail
