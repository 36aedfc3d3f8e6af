"""Do identd and the real oidentd give the same answers, whatever their files say?

Files are made at random, well-formed ones and broken ones; both programs are asked about the same real connections of
the same users. Where they differ on purpose, one of the predicates in `DIFFERENCES` says which purpose.

IDENTD_FUZZ_EXAMPLES sets how many configurations are compared, IDENTD_FUZZ_SEED begins another series of them.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

import pytest
from helpers.machine import program
from helpers.oidentd import NAMELESS, OIDENTD, UIDS, World
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from lookup.config import words
from lookup.config.readings import readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["helpers.people"]

#: How many configurations to compare, of well-formed ones and of broken ones each; the number here is for CI.
EXAMPLES = int(os.environ.get("IDENTD_FUZZ_EXAMPLES", "500"))
SEED = int(os.environ.get("IDENTD_FUZZ_SEED", "1"))

#: The connections that are asked about: whose, both ends' addresses and ports.
CONNECTIONS = [
    ("alice", "127.0.0.1", "127.0.0.1", 1250, 1240),
    ("alice", "127.0.0.1", "127.0.0.2", 1251, 80),
    ("alice", "127.0.0.3", "127.0.0.1", 1252, 6667),
    ("alice", "127.0.0.3", "127.0.0.2", 1253, 1023),
    ("alice", "::1", "::1", 1254, 1024),
    ("bob", "127.0.0.1", "127.0.0.1", 1255, 1241),
    ("bob", "127.0.0.3", "127.0.0.2", 1256, 22),
    ("root", "127.0.0.1", "127.0.0.1", 1257, 1242),
    ("", "127.0.0.1", "127.0.0.1", 1258, 1243),
]

CRASHED, REFUSED = b"crashed", b"refused"


class Case(NamedTuple):
    """What both programs read, and which connections they are asked about.

    ``system``; ``wishes``: for each user with files, what is in .config/oidentd.conf and in .oidentd.conf.
    """

    system: bytes
    wishes: dict[str, tuple[bytes | None, bytes | None]]
    asked: list[int]

    def files(self, owner: str) -> bytes:
        """Return all that the answer about a user may depend on."""
        return b"\n".join((self.system, *(content or b"" for content in self.wishes.get(owner, ()))))


class Answers(NamedTuple):
    """What was said of one connection, names made up at random aside.

    ``theirs``: oidentd's; ``ours``: all that identd may say; ``granting``: all that it would say if the force of a
    default block were a grant to later blocks; ``rule``: the block that decided; ``why``: why identd refuses a file.
    """

    owner: str
    ipv6: bool
    theirs: bytes
    ours: list[bytes]
    granting: list[bytes]
    rule: str
    why: str


# Configurations

_NAMES = ["foo", "Foo", "bob", "BOB", "alice", "root", "second", "nobody", "a b", "x#y", "1001", "hide", "default"]
_BARE = ["foo", "bob", "alice", 'a"b', "//x", "x#y", "\x0cff", "a\\b", ":;,", "caf\xe9", "/x", "second"]
_ODD = [
    r'"\18"', r'"\7"', r'"\x41\102"', r'"q\"q"', r'"\q"', r'"\xg"', r'"a\tb"', r'"\e"', r'"\0x"', r'"x\0y"', r'"a\nb"',
    r'"\r"', '""', '" bob"', r'"bob\t"', r'"\400"', r'"\9"', '"open', '"' + "a" * 600 + '"', '"' + "b" * 511 + '"',
]  # fmt: skip
_CAPABILITIES = ["spoof", "spoof_all", "spoof_privport", "hide", "random", "random_numeric", "numeric", "forward"]
_OFTEN = ["spoof", "spoof", "spoof", "forward", "hide"]
_SIMPLE = ["hide", "random", "random_numeric", "numeric"]
_HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.1", "0x7f000002", '"127.0.0.1"', "localhost", "10.9.8.7"]
_ODD_HOSTS = ["::1", "0::1", "::2", "::ffff:127.0.0.1", "127.0.0.0/8", "nowhere.invalid", "127.0.", '""', "1.2.3.4.5"]
_PORTS = [
    "1240", ":", "1:65535", "1200:1300", "1024:", ":1023", "5:1", "http", "www", "ssh:http", '"1250"', "+1250", "01250",
    '" 1250"', "6667", "ircu", "1250:1252", "22:",
]  # fmt: skip
_ODD_PORTS = ["0", "65536", "1:2:3", "1x", "HTTP", "0x50", "-1", '""', "1:70000", '"1250 "']
_USERS = ["alice", "bob", "1001", "root", "0", "+1002", '"alice"', "second", "nobody", "54321", "4294967294"]
_ODD_USERS = ['""', "nosuchuser", "-1", "4294967295", '" 1001"', '"1001 "', "0x0", '"ali\\143e"']
_SPACES = [" ", " ", " ", "\n", "\t", "  ", " # c { } \"\n", "/* c\n { */ "]
_TOKENS = [
    "{", "}", "foo", "default", "/", "/*", "*/", "#", '"x"', "allow", "deny hide", "fport 1", "\r\n", "global", '"',
    "user",
]  # fmt: skip


def _mostly(usual: list[str], odd: list[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 24).flatmap(lambda dice: st.sampled_from(usual if dice else odd))


@st.composite
def _cased(draw: st.DrawFn, word: str) -> str:
    how = draw(st.integers(0, 9))
    return word.upper() if how == 9 else word.capitalize() if how == 8 else word


_quoted = st.sampled_from(_NAMES).map(lambda name: f'"{name}"')
_strings = st.one_of(_quoted, _quoted, st.sampled_from(_BARE), st.sampled_from(_ODD))
_replies = st.lists(_strings, min_size=1, max_size=3).map(" ".join)
_servers = st.sampled_from(["2001", "2002", '"2003"', "2004", "2005"])
_targets = st.builds("{} {}".format, st.sampled_from(["127.0.0.1", "localhost"]), _servers)


@st.composite
def _filters(draw: st.DrawFn, none: str) -> str:
    if draw(st.integers(0, 1)):
        return draw(_cased(none))
    kinds = draw(st.lists(st.sampled_from(["fport", "lport", "to", "from"]), min_size=1, max_size=3, unique=True))
    values = {"to": _mostly(_HOSTS, _ODD_HOSTS), "from": _mostly(_HOSTS, _ODD_HOSTS)}
    return " ".join(f"{draw(_cased(kind))} {draw(values.get(kind, _mostly(_PORTS, _ODD_PORTS)))}" for kind in kinds)


@st.composite
def _wish(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["reply", "reply", "reply", "forward", *_SIMPLE]))
    rest = {"reply": _replies, "forward": _targets}.get(kind)
    return draw(_cased(kind)) + ("" if rest is None else f" {draw(rest)}")


@st.composite
def _line(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["allow"] * 6 + ["deny", "force", "force"]))
    if kind != "force":
        return f"{draw(_cased(kind))} {draw(st.sampled_from([*_CAPABILITIES, *_OFTEN]).flatmap(_cased))}"
    what = st.one_of(_wish(), st.sampled_from(["spoof", "spoof_all", "spoof_privport"]))
    return f"{draw(_cased(kind))} {draw(what)}"


@st.composite
def _ranges(draw: st.DrawFn) -> str:
    range_ = st.tuples(_filters("default"), st.lists(_line(), min_size=1, max_size=4))
    ranges = draw(st.lists(range_, min_size=1, max_size=3))
    return " ".join(f"{filters} {{ {' '.join(lines)} }}" for filters, lines in ranges)


@st.composite
def _system(draw: st.DrawFn) -> str:
    blocks = []
    if draw(st.integers(0, 3)):
        granted = draw(st.sets(st.sampled_from(_CAPABILITIES), max_size=6)) | {draw(st.sampled_from(_OFTEN))}
        lines = " ".join(f"allow {capability}" for capability in sorted(granted))
        blocks.append(f"default {{ default {{ {lines} }} {draw(_ranges()) if draw(st.booleans()) else ''} }}")
    for _ in range(draw(st.integers(0, 3))):
        head = f"user {draw(_mostly(_USERS, _ODD_USERS))}" if draw(st.integers(0, 3)) else draw(_cased("default"))
        blocks.append(f"{head} {{ {draw(_ranges())} }}")
    return " ".join(blocks)


_user_block = st.builds("{} {{ {} }}".format, _filters("global"), _wish())
_users_file = st.lists(_user_block, min_size=1, max_size=3).map(" ".join)


@st.composite
def _spelled(draw: st.DrawFn, texts: st.SearchStrategy[str], broken: bool) -> bytes:
    """Give a file with other blanks and comments, and, if it is to be broken, a word too many or too few."""
    tokens = re.findall(r'"(?:\\.|[^"\\])*"|[^ ]+', draw(texts))
    if broken:
        for _ in range(draw(st.integers(1, 2))):
            at = draw(st.integers(0, len(tokens)))
            if at < len(tokens) and draw(st.integers(0, 1)):
                del tokens[at]
            else:
                tokens.insert(at, draw(st.sampled_from(_TOKENS)))
    blanks = draw(st.lists(st.sampled_from(_SPACES), min_size=1, max_size=4))
    text = "".join(token + blanks[number % len(blanks)] for number, token in enumerate(tokens))
    if draw(st.integers(0, 5)) == 5:
        text = re.sub(r" ?([{}]) ?", r"\1", text)
    return text.encode("latin-1")


@st.composite
def _cases(draw: st.DrawFn, broken: bool = False) -> Case:
    which = draw(st.integers(0, 2)) if broken else 3
    system = draw(_spelled(_system(), which == 0))
    wishes: dict[str, tuple[bytes | None, bytes | None]] = {}
    for name in ("alice", "bob"):
        own = draw(_spelled(_users_file, which == 1 or (which == 2 and name == "alice")))
        first = draw(st.none() | st.none() | st.none() | _spelled(_users_file, which == 2))
        wishes[name] = first, own if draw(st.integers(0, 7)) else None
    often = [0, 1, 2, 2, 3, 5, 0, 1, 2, 5]
    asked = draw(st.lists(st.sampled_from([*often, *range(len(CONNECTIONS))]), min_size=3, max_size=5, unique=True))
    return Case(system, wishes, asked)


# Where both differ on purpose. Each is a row of the table of intended differences, or says what it is instead.

_STRING_ERRORS = (words._BROKEN_STRING, "octal")


def _name(reply: bytes) -> bytes:
    """Return the user id in a reply line, or nothing."""
    return reply.partition(b":USERID:UNIX:")[2][:-2]


def _is_real(reply: bytes, owner: str) -> bool:
    """Say whether a reply is what oidentd says where no file has a say: the login name, or that there is none."""
    return reply == (b":USERID:UNIX:" + owner.encode() + b"\r\n" if owner else b":ERROR:NO-USER\r\n")


def _dropped(answers: Answers) -> bool:
    """Say whether oidentd answers as if it had not taken one of the files."""
    return answers.theirs == REFUSED or _is_real(answers.theirs, answers.owner)


def crash_without_a_matching_default_range(case: Case, answers: Answers) -> bool:
    """The implicit rule, no capabilities and the real name, or another name of the same uid, in place of a crash."""
    if answers.theirs != CRASHED or answers.rule.partition(",")[0] not in ("no rule", ""):
        return False
    if not answers.owner:
        return answers.ours in ([b":ERROR:NO-USER\r\n"], [b":USERID:OTHER:%d\r\n" % NAMELESS])
    own = {name.encode() for name, uid in UIDS.items() if uid == UIDS[answers.owner]}
    return {_name(ours) for ours in answers.ours} <= own


def force_in_the_default_block_is_granted(case: Case, answers: Answers) -> bool:
    """It grants nothing to anyone."""
    return answers.theirs in answers.granting


def the_empty_user_is_root(case: Case, answers: Answers) -> bool:
    """``user ""`` is an error in the file."""
    return answers.ours == [REFUSED] and "a login name or a uid expected, not \"\"" in answers.why


def a_broken_string_ends_the_file(case: Case, answers: Answers) -> bool:
    """It is a syntax error."""
    return any(error in answers.why for error in _STRING_ERRORS)


def cr_lf_and_byte_order_marks_are_errors(case: Case, answers: Answers) -> bool:
    """CR is white space. To oidentd it belongs to a word, which is then no keyword, or a name with a CR."""
    return b"\r" in case.files(answers.owner) and (_dropped(answers) or b"\r" in answers.theirs[:-2])


def no_cidr(case: Case, answers: Answers) -> bool:
    """Networks work. To oidentd they are hosts that can't be resolved."""
    return b"127.0.0.0/8" in case.files(answers.owner) and _dropped(answers)


def families_are_confused(case: Case, answers: Answers) -> bool:
    """Families never mix, and an IPv4-mapped literal is its IPv4 address."""
    files = case.files(answers.owner)
    addressed = re.search(rb"(?i)\b(to|from)\b", files) is not None
    return b"::ffff:" in files or (addressed and answers.ipv6)


def a_name_that_cannot_be_sent_is_sent(case: Case, answers: Answers) -> bool:
    """CR, LF, NUL or nothing in a name is refused, so the real name is told."""
    unfit = re.search(rb'\\[rn0]|\\x0|""', case.files(answers.owner)) is not None
    return unfit and b":USERID:UNIX:" + answers.owner.encode() + b"\r\n" in answers.ours


def blanks_defeat_the_name_check(case: Case, answers: Answers) -> bool:
    """A name that clients would trim to another user's is that user's."""
    name = _name(answers.theirs)
    return name.strip() != name and name.strip().decode("latin-1") in UIDS


def names_are_cut_to_511_octets(case: Case, answers: Answers) -> bool:
    """To 512, as the RFC says."""
    name = _name(answers.theirs)
    return len(name) == 511 and any(_name(ours)[:511] == name for ours in answers.ours)


def a_uid_without_a_login_name_is_nobody(case: Case, answers: Answers) -> bool:
    """It is told as OTHER and the number, unless a rule forces something else: rules are for every uid."""
    told = answers.ours == [b":USERID:OTHER:%d\r\n" % NAMELESS] or b"force" in case.system.lower()
    return not answers.owner and answers.theirs == b":ERROR:NO-USER\r\n" and told


def an_unknown_user_concerns_its_block_alone(case: Case, answers: Answers) -> bool:
    """F5. The others are answered. oidentd refuses the file."""
    unknown = any(user in case.system for user in (b"nosuchuser", b"0x0", b'"1001 "'))
    return unknown and answers.theirs == REFUSED and REFUSED not in answers.ours


def an_unknown_host_concerns_its_block_alone(case: Case, answers: Answers) -> bool:
    """F2. Other blocks count, and what may depend on that one is UNKNOWN-ERROR. oidentd drops the file."""
    unknown = re.search(rb"nowhere\.invalid|127\.0\.[ \t\n{]|1\.2\.3\.4\.5", case.files(answers.owner)) is not None
    return unknown and _dropped(answers)


def two_names_of_one_uid_concern_that_uid_alone(case: Case, answers: Answers) -> bool:
    """W9. Whose both blocks are is unknown, and the others are answered. oidentd refuses the file."""
    both = b"second" in case.system and (b"alice" in case.system or b"1001" in case.system)
    hers = answers.owner == "alice"
    return both and answers.theirs == REFUSED and (answers.ours == [b":ERROR:UNKNOWN-ERROR\r\n"] or not hers)


def clients_read_another_users_name(case: Case, answers: Answers) -> bool:
    """W7. A name in which some client reads another user's login is that user's."""
    read = {one.lower().decode("latin-1") for one in readings(_name(answers.theirs))}
    others = {name for name, uid in UIDS.items() if uid != UIDS.get(answers.owner)}
    return bool(read & others) and all(_is_real(ours, answers.owner) for ours in answers.ours)


def backslash_e_is_escape(case: Case, answers: Answers) -> bool:
    """It is the letter e."""
    return b"\x1b" in answers.theirs and answers.theirs.replace(b"\x1b", b"e") in answers.ours


def a_comment_without_end_goes_on_in_user_files(case: Case, answers: Answers) -> bool:
    """Section 2 of the description: a quirk not to imitate. A file ends with its end.

    So oidentd knows of no wish, at least up to the next end of a comment.
    """
    return any("has no end" in notice.reason for notice in words.Words(case.system, "").notices)


DIFFERENCES: list[Callable[[Case, Answers], bool]] = [
    crash_without_a_matching_default_range,
    force_in_the_default_block_is_granted,
    the_empty_user_is_root,
    a_broken_string_ends_the_file,
    cr_lf_and_byte_order_marks_are_errors,
    no_cidr,
    families_are_confused,
    a_name_that_cannot_be_sent_is_sent,
    blanks_defeat_the_name_check,
    names_are_cut_to_511_octets,
    a_uid_without_a_login_name_is_nobody,
    an_unknown_user_concerns_its_block_alone,
    an_unknown_host_concerns_its_block_alone,
    two_names_of_one_uid_concern_that_uid_alone,
    clients_read_another_users_name,
    backslash_e_is_escape,
    a_comment_without_end_goes_on_in_user_files,
]


class Place(NamedTuple):
    """A world, and the numbers of the connections in it that are to be asked about."""

    world: World
    numbers: list[int]


@pytest.fixture(scope="module")
def place(world: World) -> Iterator[Place]:
    """A world in which all connections are open."""
    program(OIDENTD)
    uids = [UIDS[owner] if owner else NAMELESS for owner, *_ in CONNECTIONS]
    yield Place(world, [world.do("dial", uid, *ends)[0] for uid, (_, *ends) in zip(uids, CONNECTIONS)])
    print(f"seed {SEED}, {EXAMPLES} configurations of each kind:", *sorted(met.items()), sep="\n")


#: Questions after which each of three equally likely answers should have come.
MANY = 60

#: How often each kind of answer, and each difference was met.
met: dict[str, int] = {}


def differences(place: Place, case: Case) -> list[str]:
    """Return the differences that nothing explains; count the others in `met`."""
    numbers = [place.numbers[index] for index in case.asked]
    unexplained = []
    for index, number, found in zip(case.asked, numbers, place.world.do("compare", case.system, case.wishes, numbers)):
        owner, ours, *_ = CONNECTIONS[index]
        answers = Answers(owner, ":" in ours, *found)
        _count("questions", _kind(answers))
        if answers.theirs in answers.ours:
            if len(answers.ours) == 1:
                continue
            # Where chance decides, each of our answers must be one of theirs, and each of theirs one of ours.
            seen = place.world.do("ask_oidentd_often", number, answers.ours, MANY)
            if set(answers.ours) == set(seen):
                continue
            # What it says and identd does not; or all that it says, where it never says what identd may.
            odd = [their for their in seen if their not in answers.ours] or (seen if len(seen) == 1 else [b"never"])
            answers = answers._replace(theirs=odd[0])
        explained = next((difference.__name__ for difference in DIFFERENCES if difference(case, answers)), "")
        if explained:
            _count(explained)
        else:
            unexplained.append(f"{CONNECTIONS[index]}: {answers}")
    return unexplained


def _count(*kinds: str) -> None:
    for kind in kinds:
        met[kind] = met.get(kind, 0) + 1


def _kind(answers: Answers) -> str:
    name = _name(answers.theirs)
    if not name or name.startswith(b"<"):
        return answers.theirs.decode("latin-1").strip()
    return "a login name" if name == answers.owner.encode() else "another name"


_settings = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@seed(SEED)
@_settings
@given(case=_cases())
def test_well_formed(place: Place, case: Case) -> None:
    """Both answer the same about what the language allows."""
    assert not differences(place, case)


@seed(SEED)
@_settings
@given(case=_cases(broken=True))
def test_broken(place: Place, case: Case) -> None:
    """Both refuse the same files, and answer the same where a word too many or too few makes another sense."""
    assert not differences(place, case)
