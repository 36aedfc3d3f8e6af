"""What is decided in every case of the table, and in those that it leaves out, without a socket or a file?"""

from __future__ import annotations

import _socket
import re
import socket
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from helpers.machine import skip
from helpers.oidentd import VECTORS, octets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookup.config.blocks import Statement
from lookup.config.decision import Decision
from lookup.config.grammar import parse_system, parse_user
from lookup.config.made_up import pick
from lookup.config.policy import decide
from lookup.config.user_file import UserFile
from lookup.connection import MAX_USER_ID, ConfigError, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lookup.config.blocks import Uids

#: Cases in which the process answers before anything is decided: a missing -C file, -R, uids without a name.
FOR_THE_PROCESS = [179, 191, 194, 195, 207]

UIDS = {b"root": 0, b"alice": 1001, b"bob": 1002}
NAMES = {uid: name for name, uid in UIDS.items()}


def uids(names: Iterable[bytes]) -> Uids:
    """Return the uids of the table's users, and of nobody else."""
    return {name: UIDS.get(name) for name in names}


@pytest.fixture(autouse=True)
def _no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question leaves this process: the resolver knows the table's one name."""

    def resolve(name: bytes, *_: object) -> list[tuple[Any, ...]]:
        if name == b"localhost":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(_socket, "getaddrinfo", resolve)


def first(sequence: Sequence[Any]) -> Any:
    """Choose without chance."""
    return sequence[0]


def no_forward(host: str, port: int) -> bytes | str:
    """Fail a test that forwards what it should not."""
    raise AssertionError(f"forwarded to {host} port {port}")


def said(data: bytes) -> UserFile:
    """Return a user's file."""
    return UserFile("user", parse_user(data, "user"))


def ask(
    system: str | None,
    user: str | None = None,
    *,
    uid: int = 1001,
    ours: str = "127.0.0.1",
    theirs: str = "127.0.0.1",
    lport: int = 40000,
    fport: int = 1240,
    forward: Callable[[str, int], bytes | str] = no_forward,
    choose: Any = first,
) -> Decision:
    """Decide about a connection of alice's; a user file that does not parse is none."""

    def read_user_file() -> UserFile:
        try:
            return said((user or "").encode("latin-1"))
        except ConfigError:
            return UserFile()

    policy = None if system is None else parse_system(system.encode("latin-1"), "system", uids)
    return decide(
        uid, NAMES[uid], (ours, lport), (theirs, fport), policy, read_user_file, UIDS.get, forward, choose
    )  # fmt: skip


def reply_to(decision: Decision) -> str:
    """Write a decision as the table writes replies."""
    if decision.unknown is not None:
        return "L,F:ERROR:UNKNOWN-ERROR\r\n"
    if decision.user is None:
        return "L,F:ERROR:HIDDEN-USER\r\n"
    return f"L,F:USERID:UNIX:{decision.user[:MAX_USER_ID].decode('latin-1')}\r\n"


def expected(vector: dict[str, Any]) -> dict[str, Any]:
    """Return what the table wants of us, as it would be without the options that only the process knows."""
    wanted = dict(vector.get("identd", vector["oidentd"]))
    if "reply" in wanted:
        wanted["reply"] = octets(wanted["reply"]).decode("latin-1")
        if vector["args"]:
            wanted["reply"] = re.sub(r"^L,F:USERID:[^:]*:", "L,F:USERID:UNIX:", wanted["reply"])
            wanted["reply"] = re.sub(r":ERROR:UNKNOWN-ERROR", ":ERROR:HIDDEN-USER", wanted["reply"])
    return wanted


def test_the_table_is_whole() -> None:
    """No case is lost on the way: 166 of 171 are decided here, five are the process' alone."""
    numbers = [vector["n"] for vector in VECTORS]
    assert len(numbers) == len(set(numbers)) == 171
    assert len(CASES) == 166
    assert [n for n in numbers if n in FOR_THE_PROCESS] == FOR_THE_PROCESS
    kinds = Counter(next(iter(expected(vector))) for vector in CASES)
    assert set(kinds) == {"reply", "regex", "refuses"}


CASES = [vector for vector in VECTORS if vector["n"] not in FOR_THE_PROCESS]


@pytest.mark.parametrize("vector", CASES, ids=lambda vector: f"V{vector['n']}")
def test_vector(vector: dict[str, Any]) -> None:
    """Each case of the table is decided as it says, whichever reply of several is chosen."""
    for service in re.findall(r"\b(?:http|www|ssh)\b", vector["user"] or ""):
        try:
            socket.getservbyname(service, "tcp")
        except OSError:
            skip(f"needs the service {service} in /etc/services")
    wanted = expected(vector)
    ends = {"uid": UIDS[vector["owner"].encode("ascii")], "ours": vector["from"], "theirs": vector["to"]}
    ends |= {"lport": vector["lport"] or 40000, "fport": vector["fport"]}
    if wanted.get("refuses"):
        with pytest.raises(ConfigError):
            ask(vector["system"], vector["user"], **ends)
        return
    for choose in (first, lambda sequence: sequence[-1], pick):
        reply = reply_to(ask(vector["system"], vector["user"], choose=choose, **ends))
        if "reply" in wanted:
            assert reply == wanted["reply"]
        else:
            assert re.fullmatch(wanted["regex"].removeprefix("^").removesuffix("$"), reply)


@pytest.mark.parametrize(
    ("system", "user", "fport", "name", "answer"),
    [
        # A forced one is sent as it is, whatever it is.
        ("default{default{force forward 127.0.0.9 113}}", None, 80, b"bob", b"bob"),
        ("default{default{force forward 127.0.0.9 113}}", None, 80, None, None),
        ("default{default{force forward 127.0.0.9 113}}", None, 80, b"", None),
        ("default{default{force forward 127.0.0.9 113}}", None, 80, b"a\0b", None),
        # The owner's own needs forward, and whatever a reply of that name would need.
        ("default{default{allow forward}}", "global{forward 127.0.0.9 113}", 1240, b"fwd", b"alice"),
        ("default{default{allow forward}}", "global{forward 127.0.0.9 113}", 1240, b"alice", b"alice"),
        ("default{default{allow forward allow spoof}}", "global{forward 127.0.0.9 113}", 1240, b"fwd", b"fwd"),
        ("default{default{allow forward allow spoof}}", "global{forward 127.0.0.9 113}", 80, b"fwd", b"alice"),
        ("default{default{allow forward allow spoof}}", "global{forward 127.0.0.9 113}", 1240, b"bob", b"alice"),
        ("default{default{allow forward allow spoof}}", "global{forward 127.0.0.9 113}", 1240, b"bob ", b"alice"),
        ("default{default{allow forward allow hide}}", "global{forward 127.0.0.9 113}", 1240, b"fwd", b"alice"),
        # Its failure hides who may hide.
        ("default{default{allow forward allow spoof}}", "global{forward 127.0.0.9 113}", 1240, None, b"alice"),
        ("default{default{allow forward allow hide}}", "global{forward 127.0.0.9 113}", 1240, None, None),
        # A cancelled force is a grant.
        ("default{default{force forward 127.0.0.9 1 deny hide}}", "global{forward 127.0.0.9 113}", 80, b"a", b"alice"),
    ],
)  # fmt: skip
def test_forward(system: str, user: str | None, fport: int, name: bytes | None, answer: bytes | None) -> None:
    """A forward is sent, refused or hidden as section 8 of the description says (None: hidden)."""
    asked = []

    def forward(host: str, port: int) -> bytes | str:
        asked.append((host, port))
        return "is silent" if name is None else name

    decision = ask(system, user, fport=fport, forward=forward)
    assert decision.user == answer
    assert asked == [("127.0.0.9", 113)]
    assert decision.forwarded == ("the server at 127.0.0.9 port 113 is silent" if name is None else "")


def test_forward_with_a_header() -> None:
    """Who asks the other server is told which header goes before the query, where the statement has one."""
    asked = []

    def forward(*server: object) -> bytes:
        asked.append(server)
        return b"fwd"

    ask("default{default{force forward 127.0.0.9 113 proxy2}}", forward=forward)
    assert asked == [("127.0.0.9", 113, "proxy2")]


def test_forward_without_the_capability() -> None:
    """Nobody is asked on behalf of one who may not forward."""
    decision = ask("default{default{allow spoof allow hide}}", "global{forward 127.0.0.9 113}")
    assert decision.user == b"alice"
    assert "refused: forward is not allowed" in decision.steps


def test_no_system_file() -> None:
    """Without a system file the answer is the login name, and no user file is read."""

    def read_user_file() -> UserFile:
        raise AssertionError("read for nothing")

    ends = ("127.0.0.1", 40000), ("127.0.0.1", 1240)
    decision = decide(1001, b"alice", *ends, None, read_user_file, UIDS.get, no_forward, first)
    assert (decision.user, decision.rule, decision.statement_at) == (b"alice", "no rule", "")


@pytest.mark.parametrize("force", ["hide", "numeric", "reply x", "spoof", "forward 127.0.0.9 113"])
def test_forced_rules_read_no_user_file(force: str) -> None:
    """A user file is read only where nothing is forced on its owner."""

    def read_user_file() -> UserFile:
        raise AssertionError("read for nothing")

    system = parse_system(b"default{default{force %s}}" % force.encode("ascii"), "system", uids)
    ends = ("127.0.0.1", 40000), ("127.0.0.1", 1240)
    decision = decide(1001, b"alice", *ends, system, read_user_file, UIDS.get, lambda host, port: b"far", first)
    assert decision.rule == "system:1"
    wanted = {"hide": None, "numeric": b"1001", "reply x": b"x", "spoof": b"alice", "forward 127.0.0.9 113": b"far"}
    assert decision.user == wanted[force]


@pytest.mark.parametrize(
    ("granted", "fport", "asked"),
    [
        ("allow spoof allow spoof_all", 1240, False),
        ("allow spoof allow spoof_all", 80, True),
        ("allow spoof allow spoof_all allow spoof_privport", 80, False),
        ("allow spoof", 1240, True),
        ("allow spoof_all", 1240, True),
    ],
)
def test_whose_name_it_is_matters(granted: str, fport: int, asked: bool) -> None:
    """Nobody asks whose name it is where any may be sent: the name service may take its time."""
    names: list[bytes] = []

    def uid_of(name: bytes) -> int | None:
        names.append(name)
        return UIDS.get(name)

    system = parse_system(b"default{default{%s}}" % granted.encode("ascii"), "system", uids)
    file = said(b"global { reply bob }")
    ends = ("127.0.0.1", 40000), ("127.0.0.1", fport)
    decision = decide(1001, b"alice", *ends, system, lambda: file, uid_of, no_forward, first)
    assert bool(names) == asked
    assert decision.user == (b"alice" if asked else b"bob")


def test_what_reading_a_file_raises_is_passed_on() -> None:
    """The caller's own exceptions go through a decision untouched."""

    class OwnError(Exception):
        pass

    def read_user_file() -> UserFile:
        raise OwnError

    system = parse_system(b"default{default{allow spoof}}", "system", uids)
    ends = ("127.0.0.1", 40000), ("127.0.0.1", 1240)
    with pytest.raises(OwnError):
        decide(1001, b"alice", *ends, system, read_user_file, UIDS.get, no_forward, first)


UNASKED = Unknown("not asked", unasked=True)


@pytest.mark.parametrize(
    ("system", "read", "uid_of", "forward"),
    [
        ("default{default{allow spoof}}", UNASKED, None, None),
        ("default{default{allow spoof}}", 'global{reply "foo"}', UNASKED, None),
        ("default{default{allow spoof allow spoof_all}}", "global{forward 127.0.0.9 113}", None, None),
        ("default{default{allow forward allow spoof}}", "global{forward 127.0.0.9 113}", None, UNASKED),
        ("default{default{force forward 127.0.0.9 113}}", None, None, UNASKED),
    ],
)  # fmt: skip
def test_what_is_not_known(
    system: str, read: str | Unknown | None, uid_of: Unknown | None, forward: Unknown | None
) -> None:
    """A decision that depends on what is not known says what that is; one that does not depend on it is made."""
    rules = parse_system(system.encode("ascii"), "system", uids)
    ends = ("127.0.0.1", 40000), ("127.0.0.1", 1240)
    file = read if isinstance(read, Unknown) else said((read or "").encode("ascii"))
    decision = decide(
        1001, b"alice", *ends, rules, lambda: file, lambda name: uid_of, lambda host, port: forward or b"", first
    )  # fmt: skip
    assert decision.unknown is next((one for one in (file, uid_of, forward) if isinstance(one, Unknown)), None)
    if decision.unknown is None:
        assert decision.user == b"alice"


@pytest.mark.parametrize(
    "reply",
    [
        "bob", " bob", "bob ", "\\tbob", "bob\\v", "\\fbob", " \\t bob \\t ", "bob\\x1f", "root",
        "bob" + " " * 600, " " * 200 + "bob" + " " * 400, " " * 509 + "bobby",
    ],
)  # fmt: skip
def test_no_name_passes_for_another_users(reply: str) -> None:
    """What a client would trim to another user's name, or what is left of it after the cut, needs spoof_all."""
    user = f'global {{ reply "{reply}" }}'
    refused = ask("default{default{allow spoof}}", user)
    assert refused.user == b"alice"
    assert any("is another user's name" in step for step in refused.steps)
    granted = ask("default{default{allow spoof allow spoof_all}}", user)
    assert granted.user is not None and granted.user != b"alice"


def test_a_cut_name_is_compared_as_it_is_sent() -> None:
    """A name of more than 512 octets may not become another user's by the cut, nor hide one that it was."""
    long_name = b"b" * MAX_USER_ID
    system = parse_system(b"default{default{allow spoof}}", "system", uids)
    for reply, names in (
        (long_name + b"x", {long_name: 1002}),
        (long_name + b"x", {long_name + b"x": 1002}),
        (b" " * 5 + long_name, {long_name[5:]: 1002}),
    ):
        text = b'global { reply "%s" }' % reply
        ends = ("127.0.0.1", 40000), ("127.0.0.1", 1240)
        decision = decide(1001, b"alice", *ends, system, partial(said, text), names.get, no_forward, first)
        assert decision.user == b"alice"


@pytest.mark.parametrize("reply", ["", "a\\0b", "\\0", "a\\rb", "a\\nb", "\\n"])
@pytest.mark.parametrize("forced", [False, True])
def test_what_no_line_can_hold_is_refused(reply: str, forced: bool) -> None:
    """A reply with nothing, NUL, CR or LF in it is never sent, not even where it is forced."""
    if forced:
        decision = ask(f'default{{default{{force reply "{reply}"}}}}')
    else:
        decision = ask("default{default{allow spoof}}", f'global{{reply "{reply}"}}')
    assert decision.user == b"alice"
    assert any("can't be sent" in step for step in decision.steps)


def test_one_uid_with_two_names() -> None:
    """Either login name of one's own uid needs no capability, even towards a privileged port."""
    system = parse_system(b"default{default{deny spoof}}", "system", uids)
    file = said(b"global { reply toor }")
    ends = ("127.0.0.1", 40000), ("127.0.0.1", 80)
    names = {b"root": 0, b"toor": 0}
    assert decide(0, b"root", *ends, system, lambda: file, names.get, no_forward, first).user == b"toor"


def test_a_refused_choice_is_not_chosen_again() -> None:
    """One reply is picked first and tested then, so a list with a forbidden name gives the login name at times."""
    user = "global { reply bob foo }"
    system = "default{default{allow spoof}}"
    assert ask(system, user, choose=lambda sequence: sequence[0]).user == b"alice"
    assert ask(system, user, choose=lambda sequence: sequence[1]).user == b"foo"


def test_only_the_first_twenty_replies_count() -> None:
    """A user's 21st reply and those after it are never chosen, while 255 forced ones all are."""
    replies = " ".join(f"r{n}" for n in range(255))
    seen: list[int] = []

    def last(sequence: Sequence[Any]) -> Any:
        seen.append(len(sequence))
        return sequence[-1]

    assert ask("default{default{allow spoof}}", f"global{{reply {replies}}}", choose=last).user == b"r19"
    assert ask(f"default{{default{{force reply {replies}}}}}", choose=last).user == b"r254"
    assert seen == [20, 255]


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("random", b"[0-9A-Za-z]{11}"), ("random_numeric", b"user(0|[1-9][0-9]{0,4})"), ("numeric", b"1001")],
)
def test_made_up_names(kind: str, pattern: bytes) -> None:
    """Random names have their shape and differ; each needs its own capability."""
    user = f"global {{ {kind} }}"
    answers = [ask(f"default{{default{{allow {kind}}}}}", user, choose=pick).user or b"" for _ in range(20)]
    assert all(re.fullmatch(pattern, answer) for answer in answers)
    assert (len(set(answers)) > 1) == (kind != "numeric")
    for other in {"random", "random_numeric", "numeric"} - {kind}:
        assert ask(f"default{{default{{allow {other}}}}}", user).user == b"alice"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 70_000))
def test_pick_stays_inside(length: int) -> None:
    """Whatever the length of a sequence, one of its items is picked."""
    assert pick(range(length)) in range(length)


def test_pick_favours_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every item can be picked, and numbers that would favour some are thrown away."""
    octets = iter([255, 250, 248, 247, 62, 0])
    monkeypatch.setattr("os.urandom", lambda size: bytes((next(octets),)))
    assert [pick(range(62)) for _ in range(3)] == [247 % 62, 0, 0]


@pytest.mark.parametrize(
    ("system", "uid", "fport", "rule"),
    [
        ("\n\ndefault {\n default { allow spoof }\n fport 80 { deny spoof }\n}\n", 1001, 1240, "system:4"),
        ("\n\ndefault {\n default { allow spoof }\n fport 80 { deny spoof }\n}\n", 1001, 80, "system:5"),
        ("default { default { deny hide } }\nuser alice {\n\n fport 80 { deny spoof } }\n", 1001, 80, "system:4"),
        ("default { default { deny hide } }\nuser alice {\n\n fport 80 { deny spoof } }\n", 1001, 81, "system:1"),
        ("default { default { deny hide } }\nuser alice {\n\n fport 80 { deny spoof } }\n", 1002, 80, "system:1"),
        ("default { fport 80 { deny spoof } }", 1001, 81, "no rule"),
        ("user bob { default { deny spoof } }", 1001, 80, "no rule"),
        ("", 1001, 80, "no rule"),
    ],
)
def test_the_rule_that_decided_is_named(system: str, uid: int, fport: int, rule: str) -> None:
    """The decision names file and line of the system block that was obeyed."""
    assert ask(system, uid=uid, fport=fport).rule == rule


def test_the_steps_let_a_user_mend_their_file() -> None:
    """The steps have the block that matched, the statement, and which capability was missing."""
    decision = ask("default {\n default { allow hide }\n}", "# mine\nto 10.0.0.1 { hide }\nglobal { reply foo }\n")
    assert (decision.rule, decision.statement_at) == ("system:2", "user:3")
    assert decision.steps == [
        "the rule at system:2, in the default block, is the last that matches",
        "it allows hide",
        'the owner\'s statement at user:3 is the last that matches: reply "foo"',
        "refused: spoof is not allowed",
        'the login name is sent: "alice"',
    ]


def test_families_and_scopes() -> None:
    """Filters compare IPv4-mapped ends as IPv4, ignore scopes, and never mix families."""
    system = "default{default{allow spoof}}"
    assert ask(system, "to 10.0.0.0/8 {reply x}", theirs="::ffff:10.1.2.3").user == b"x"
    assert ask(system, "to fe80::/10 {reply x}", theirs="fe80::1%lo").user == b"x"
    assert ask(system, "to ::/0 {reply x}", theirs="10.1.2.3").user == b"alice"
    assert ask(system, "to 0.0.0.0/0 {reply x}", theirs="::1").user == b"alice"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["allow spoof", "allow spoof_all", "deny spoof", "allow hide", "force hide"]), min_size=1),
    st.sampled_from(["reply bob", 'reply " bob"', "hide", "numeric", "random", "reply foo", "reply alice"]),
)
def test_no_user_is_named_as_another_without_spoof_all(lines: list[str], statement: str) -> None:
    """Whatever the lines, another user's name is sent only where spoof and spoof_all are allowed."""
    decision = ask(f"default {{ default {{ {' '.join(lines)} }} }}", f"global {{ {statement} }}")
    if decision.user is not None and decision.user.strip() == b"bob":
        assert "allow spoof_all" in lines
        assert "allow spoof" in lines


def test_a_reason_is_put_together_for_a_person_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that nobody asks about takes no text: a statement is not even written down."""

    def fail(statement: Statement) -> str:
        raise AssertionError("written down")

    monkeypatch.setattr(Statement, "__str__", fail)
    decision = ask("default { default { allow spoof\n allow hide } }", "global { reply foo }")
    assert decision.user == b"foo"
    with pytest.raises(AssertionError, match="written down"):
        print(decision.steps)
