"""Which pseudonym is sent for an owner, and what is sent where there is none?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lookup.config.grammar import parse_system, parse_user
from lookup.config.policy import decide
from lookup.config.pseudonym import Form, Pseudonyms
from lookup.config.user_file import UserFile
from lookup.connection import ConfigError, Unknown

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


def no_forward(host: str, port: int) -> str:
    """Stand for a server that names nobody."""
    return "did not reply"


def ask(
    system: bytes, user: bytes = b"", *, key: Any = KEY, uid_of: Any = UIDS.get, asker: tuple[str, int] = ASKER,
    login: bytes = b"alice", notices: Any = None,
) -> Decision:  # fmt: skip
    """Decide about a connection of alice's."""
    policy = parse_system(system, "system", lambda names: {name: UIDS.get(name) for name in names})
    policy.pseudonyms = key
    file = UserFile("user", parse_user(user, "user"))
    return decide(1001, login, ("10.0.0.1", 40000), asker, policy, lambda: file, uid_of, lambda host, port: "no reply")


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
    decision = decide(1001, b"alice", *ends, policy, lambda: Unknown("EIO"), UIDS.get, lambda host, port: "no reply")
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


# What stands in place of the login name.

HIDE = b"default { default { default_hide allow spoof allow hide allow random } }"
GUEST = b'default { default { default_reply "guest" allow spoof } }'


def test_a_default() -> None:
    """Where the user wishes nothing it stands in place of the login name; what they may wish replaces it."""
    assert ask(HIDE).user is None and ask(HIDE).unknown is None
    assert ask(GUEST).user == b"guest"
    for system in (HIDE, GUEST):
        assert ask(system, b'global { reply "x" }').user == b"x"
        assert ask(system, b'fport 1 { reply "x" }').user == ask(system).user
        # Their own name is theirs to tell.
        assert ask(system, b'global { reply "alice" }').user == b"alice"


@pytest.mark.parametrize(
    "file",
    [b'global { reply "bob" }', b'global { reply "a\\nb" }', b"global { numeric }", b"global { forward 10.0.0.9 113 }",
     b"global { pseudonym }"],
)  # fmt: skip
def test_nobody_steps_out_by_a_refused_wish(file: bytes) -> None:
    """It stands for the login name wherever that would be sent: after a refusal, and where nothing can be sent."""
    assert ask(HIDE, file).user is None and ask(HIDE, file).unknown is None
    assert ask(GUEST, file).user == b"guest"


def test_a_forward_that_fails() -> None:
    """Nor by a server that names nobody, or somebody else."""
    for line in (b"default_hide", b"default_reply guest"):
        system = b"default { default { %s allow forward } }" % line
        assert ask(system, b"global { forward 10.0.0.9 113 }").user == ask(system).user != b"alice"


def test_a_default_for_who_has_no_login_name() -> None:
    """The uid is not sent either."""
    found = ask(GUEST, login=b"")
    assert (found.user, found.system) == (b"guest", "UNIX")
    assert ask(HIDE, login=b"").user is None


def test_a_file_that_does_not_count() -> None:
    """A file that can't be read, or does not parse, leaves the default; where it might have asked for less, nothing."""
    ends = ("10.0.0.1", 40000), ASKER
    for system, told in ((GUEST, b"guest"), (HIDE, None)):
        policy = parse_system(system, "system", lambda names: {})
        decision = decide(1001, b"alice", *ends, policy, lambda: Unknown("EIO"), UIDS.get, no_forward)
        assert decision.user == told


def test_blocks_inherit_it() -> None:
    """As they inherit capabilities: from the default block's inner default, from there on, and it can be replaced."""
    rest = b"user bob { default { allow hide } } user alice { fport 1 { allow hide } default { default_reply me } }"
    before = b"user alice { default { allow hide } } " + HIDE
    assert ask(before).user == b"alice"
    system = HIDE + rest
    assert ask(system).user == b"me"
    assert ask(system, asker=("192.0.2.1", 1)).user == b"me"
    assert ask(HIDE + b"user alice { default { allow hide } }").user is None
    assert ask(HIDE + b"user alice { fport 1:7000 { default_reply a } }").user == b"a"
    filtered = b"default { fport 6667 { default_hide } } user alice { default { allow hide } }"
    assert ask(filtered).user == b"alice"
    again = b"".join(b"user %s { default { allow hide } } " % user for user in (b"bob", b"7", b"8", b"alice"))
    assert ask(HIDE + again).user is None


def test_a_force_is_stronger() -> None:
    """What is forced is sent, the login name too; and a force in the default block hands no default on."""
    assert ask(b"default { default { default_hide } fport 6667 { force spoof } }").user == b"alice"
    own = b"user alice { default { allow hide } }"
    assert ask(b"default { default { default_hide force spoof } }" + own).user == b"alice"
    assert ask(b"default { default { default_hide force reply x } }").user == b"x"
    assert ask(b"default { default { force reply x } fport 6667 { default_reply guest } }").user == b"guest"
    assert ask(b"default { default { force hide default_reply guest } }").user == b"guest"


def test_alike_where_it_is_unknown_which_block_counts() -> None:
    """Two blocks that differ by their default alone are not the same."""
    differ = b"default { default { default_hide } to host.invalid { default_reply guest } }"
    assert ask(differ).unknown is not None
    assert ask(b"default { default { default_hide } to host.invalid { default_hide } }").unknown is None


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b'default_reply ""', 35, "not empty"), (b'default_reply "a\\rb"', 35, "no NUL, CR or LF"),
        (b"default_reply }", 35, "a reply expected"), (b"default_reply a b", 37, "allow, deny or force, or }"),
        (b"default_hid", 21, "default_hide or default_reply"), (b"force default_hide", 27, "reply, forward"),
        (b"allow default_hide", 27, "forward, "),
    ],
)  # fmt: skip
def test_a_wrong_default(line: bytes, column: int, reason: str) -> None:
    """An error has its place."""
    with pytest.raises(ConfigError, match=reason) as error:
        ask(b"default { default { %s } }" % line)
    assert error.value.column == column


def test_notices_about_defaults() -> None:
    """A name that IRC servers cut, and a statement that was swallowed by a list of replies, are warned of."""

    def warned(text: bytes) -> list[str]:
        notices: list[Any] = []
        parse_system(text, "f", lambda names: {}, notices)
        return [notice.reason for notice in notices]

    assert "IRC servers cut" in warned(b"default { default { default_reply longernamed } }")[0]
    assert "one more reply" in warned(b"default { default { force reply x default_hide } }")[0]
    assert warned(GUEST) == []
