"""Which pseudonym is sent for an owner, and what is sent where there is none?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lookup.config.grammar import parse_system, parse_user
from lookup.config.policy import decide
from lookup.config.pseudonym import Form, Pseudonyms
from lookup.config.user_file import UserFile
from lookup.errors import ConfigError, Unknown

if TYPE_CHECKING:
    from lookup.config.decision import Decision

KEY = Pseudonyms(bytes(32))
UIDS = {b"alice": 1001, b"bob": 1002}
ASKER = ("192.0.2.1", 6667)
FORCED = b"default { default { force pseudonym } }"
ALLOWED = b"default { default { allow pseudonym } }"


def name(turn: int = 0, *words: str) -> bytes:
    """Return alice's pseudonym."""
    return KEY.name(1001, Form(words), bytes((192, 0, 2, 1)), turn)


def ask(
    system: bytes, user: bytes = b"", *, key: Any = KEY, uid_of: Any = UIDS.get, asker: tuple[str, int] = ASKER,
    login: bytes = b"alice", notices: Any = None,
) -> Decision:  # fmt: skip
    """Decide about a connection of alice's."""
    policy = parse_system(system, "system", lambda names: {name: UIDS.get(name) for name in names})
    policy.pseudonyms = key
    file = UserFile("user", parse_user(user, "user"))
    return decide(1001, login, ("10.0.0.1", 40000), asker, policy, lambda: file, uid_of, lambda host, port: None)


def test_forced() -> None:
    """Whatever the owner's file says, and whether or not they have a login name."""
    assert ask(FORCED, b'global { reply "alice" }').user == name()
    nameless = ask(FORCED, login=b"")
    assert (nameless.user, nameless.system) == (name(), "UNIX")


@pytest.mark.parametrize("words", [("per-asker",), ("daily",), ("12",), ("per-asker", "daily", "32")])
def test_its_form(words: tuple[str, ...]) -> None:
    """The words after it are obeyed, in any order and any case."""
    for spelling in (" ".join(words), " ".join(reversed(words)).upper()):
        assert ask(b"default { default { force pseudonym %s } }" % spelling.encode()).user == name(0, *words)


def test_each_asker_has_another() -> None:
    """By address, whichever way it is written; the connection's other data don't matter."""
    system = b"default { default { force pseudonym per-asker } }"
    assert ask(system, asker=("::ffff:192.0.2.1", 1)).user == ask(system).user
    assert ask(system, asker=("192.0.2.2", 6667)).user != ask(system).user
    assert ask(FORCED, asker=("192.0.2.2", 6667)).user == ask(FORCED).user


def test_stated() -> None:
    """A user's file has it where it is allowed; where not, the login name is sent, and the reason is kept."""
    assert ask(ALLOWED, b"global { pseudonym }").user == name()
    assert ask(ALLOWED, b"global { pseudonym 7 daily }").user == name(0, "daily", "7")
    assert ask(ALLOWED).user == b"alice"
    refused = ask(b"default { default { allow hide allow spoof } }", b"global { pseudonym }")
    assert (refused.user, refused.lacking) == (b"alice", ["pseudonym"])


@pytest.mark.parametrize("key", [None, Unknown("there is no key")])
def test_no_key(key: Any) -> None:
    """Without a key nobody who should have a pseudonym is named; all others are."""
    for decision in (ask(FORCED, key=key), ask(ALLOWED, b"global { pseudonym }", key=key)):
        assert decision.unknown is not None and not decision.unknown.unasked
        assert decision.user is None and "pseudonym at" in decision.unknown.reason
    assert ask(ALLOWED, key=key).user == b"alice"


@pytest.mark.parametrize("uid", [1001, 1002])
@pytest.mark.parametrize("form", [bytes, bytes.upper, lambda name: name[:8]])
def test_never_a_login_name(uid: int, form: Any) -> None:
    """Not in any reading, and not the owner's own either: then the next one is sent."""
    assert ask(FORCED, uid_of={form(name()): uid}.get).user == name(1)


def test_all_are_login_names() -> None:
    """Then nobody is named."""
    assert ask(FORCED, uid_of=lambda name: 1002).unknown is not None


def test_the_name_service_fails() -> None:
    """Whether it is somebody's name is not known: it is not sent."""
    assert ask(FORCED, uid_of=lambda name: Unknown("down")).unknown is not None


def test_an_unreadable_file() -> None:
    """It may ask for a pseudonym, so the login name is not sent."""
    policy = parse_system(ALLOWED, "system", lambda names: {})
    ends = ("10.0.0.1", 40000), ASKER
    decision = decide(1001, b"alice", *ends, policy, lambda: Unknown("EIO"), UIDS.get, lambda host, port: None)
    assert decision.unknown is not None


def test_text_stays_text() -> None:
    """Where oidentd takes the new words for text, so does identd."""
    for word in (b"pseudonym", b"daily", b"per-asker"):
        assert ask(b"default { default { force reply %s } }" % word).user == word
        assert ask(b"default { default { allow spoof } }", b"global { reply %s }" % word).user == word
    assert parse_system(b"user daily { default { allow hide } }", "f", lambda names: {b"daily": 7}).users[7]
    assert ask(b"default { default { force pseudonym } fport pop3 { force reply daily } }").user == name()


@pytest.mark.parametrize(
    ("words", "place"),
    [("6", 37), ("33", 37), ("1" * 5000, 37), ("daily daily", 43), ("9 9", 39), ('"daily"', 37), ("weekly", 37)],
)
def test_what_may_not_follow(words: str, place: int) -> None:
    """An error has its place."""
    with pytest.raises(ConfigError) as error:
        ask(b"default { default { force pseudonym %s } }" % words.encode())
    assert (error.value.line, error.value.column) == (1, place)


def test_the_key_is_needed() -> None:
    """Only a file with pseudonyms has the key read."""
    for text, needed in ((FORCED, True), (ALLOWED, True), (b"default { default { deny pseudonym } }", False)):
        assert parse_system(text, "f", lambda names: {}).needs_key is needed
