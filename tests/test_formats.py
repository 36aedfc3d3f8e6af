"""What does a form make of a user, and when is nothing sent?"""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING, Any

import pytest

from lookup.config.blocks import System
from lookup.config.grammar import parse_system, parse_user
from lookup.config.user_file import UserFile
from lookup.connection import IdentError, Owner, Unknown
from lookup.owner import Answer, Facts, answer
from lookup.users import formats, names

if TYPE_CHECKING:
    from collections.abc import Callable

USER = pwd.getpwuid(os.getuid())


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("%u", USER.pw_name), ("%U", str(USER.pw_uid)), ("%G", str(USER.pw_gid)),
        ("%g", grp.getgrgid(USER.pw_gid).gr_name), ("%h", os.uname().nodename), ("%%", "%"), ("%%u", "%u"),
        ("a %u-%U.%%%h", f"a {USER.pw_name}-{USER.pw_uid}.%{os.uname().nodename}"), ("text", "text"),
    ],
)  # fmt: skip
def test_letters(form: str, expected: str) -> None:
    """Each letter stands for what it says, anything else for itself."""
    assert formats.expand(form, USER.pw_name, USER.pw_uid) == expected


@pytest.mark.parametrize("form", ["%", "%x", "%u%", "a%%%", "% u", "%\n"])
def test_unknown_letters(form: str) -> None:
    """A letter that means nothing is an error, also at the end."""
    with pytest.raises(ValueError, match="and %%, not %"):
        formats.parts(form)


def test_who_has_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their uid is known, their group is not."""
    assert formats.expand("%u/%U", "", 4000000000) == "4000000000/4000000000"
    with pytest.raises(IdentError) as error:
        formats.expand("%G", "", 4000000000)
    assert "no passwd entry" in error.value.detail
    monkeypatch.setattr(names, "gid", lambda uid: 4000000000)
    with pytest.raises(IdentError) as error:
        formats.expand("%g", USER.pw_name, USER.pw_uid)
    assert "name of group" in error.value.detail


# What is answered.

OWNER = Owner(1001, 1, "ESTABLISHED", ("10.0.0.1", 40000), ("192.0.2.1", 6667), "sock_diag")


class Known(Facts):
    """What is known of alice, and of names."""

    def __init__(self, uids: Callable[[bytes], Any], login: tuple[str, str], file: bytes) -> None:
        super().__init__(1001)
        self._uids_of, self._is, self._file = uids, login, file

    def login(self) -> tuple[str, str] | Unknown:
        return self._is

    def uid_of(self, name: bytes) -> int | Unknown | None:
        found: int | Unknown | None = self._uids_of(name)
        return found

    def user_file(self) -> UserFile | Unknown:
        return UserFile("user", parse_user(self._file, "user"))


def ask(
    form: str, system: bytes | None = None, file: bytes = b"", uids: Callable[[bytes], Any] = {b"alice": 1001}.get,
    login: tuple[str, str] = ("UNIX", "alice"),
) -> Answer:  # fmt: skip
    """Return what is answered about a connection of alice's."""
    policy: System | None = None if system is None else parse_system(system, "system", lambda names: {})
    facts = Known(uids, login, file)
    found = answer(OWNER, OWNER.server, OWNER.client, policy, facts, form=form)
    assert isinstance(found, Answer)
    return found


@pytest.mark.parametrize("system", [None, b"", b"default { default { allow hide } }"])
def test_in_place_of_the_login_name(system: bytes | None) -> None:
    """With or without a system file; the log knows the login name all the same, and so does the opsys."""
    found = ask("%U-x", system)
    assert (*found, found.login) == ("UNIX", "1001-x", "alice")
    found = ask("%u", system, login=("OTHER", "1001"), uids=lambda name: None)
    assert (*found, found.login) == ("OTHER", "1001", "")


def test_other_names_stay() -> None:
    """What the configuration has in place of the login name is sent as it is; after a refusal, the form counts."""
    assert ask("%U", b"default { default { force reply x } }")[1] == "x"
    assert ask("%U", b"default { default { allow spoof } }", b'global { reply "x" }')[1] == "x"
    assert ask("%U", b"default { default { default_reply guest } }")[1] == "guest"
    assert ask("%U", b"default { default { allow hide } }", b'global { reply "x" }')[1] == "1001"


def test_never_anothers_name() -> None:
    """Not in any reading; a name that can't be asked for is not sent either; one's own may be."""
    for form, name in (("%U", b"1001"), ("~bob", b"bob"), ("%u:bob", b"bob"), ("%U@%h", b"1001")):
        with pytest.raises(IdentError) as error:
            ask(form, uids={name: 1002}.get)
        assert "name of uid 1002" in error.value.detail
        assert ask(form, uids={name: 1001}.get)
    with pytest.raises(IdentError) as error:
        ask("%U", uids=lambda name: Unknown("down"))
    assert "down" in error.value.detail
    assert ask("%u", uids=lambda name: Unknown("down"))[1] == "alice"


def test_where_it_is_not_known_whether_the_login_name_is_sent() -> None:
    """A block that may ask for just that name is not the same, as it would have it sent as it is."""
    system, file = b"default { default { allow spoof } }", b'to host.invalid { reply "alice" }'
    assert ask("", system, file)[1] == "alice"
    with pytest.raises(IdentError) as error:
        ask("%U", system, file)
    assert "whether" in error.value.detail
