"""Is a name sent only where the reply is the same whichever way what is not known falls?

Whole programs, in both forms of service, in a world of its own (see `helpers.oidentd`): real files, a real name
service, a real resolver.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import until
from helpers.oidentd import SYSTEM, UIDS, World

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.people"]

HIDDEN, UNKNOWN = "ERROR:HIDDEN-USER", "ERROR:UNKNOWN-ERROR"
ALICE = "USERID:UNIX:alice"

#: A uid that nobody has.
NAMELESS = 100999

_PASSWD = "".join(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/false\n" for name, uid in UIDS.items())
_HOSTS = "127.0.0.1 localhost\n::1 ip6-localhost\n"
_NET = "".join(f"{address} net.example\n" for address in ("127.0.0.3", "127.0.0.2", "fd00:fd::2"))


@pytest.fixture(scope="module")
def town(world: World) -> World:
    """The world, with a few more addresses, names, and a resolver that never answers."""
    world.tell(
        "import subprocess, socket\n"
        "subprocess.run(['ip', 'addr', 'add', 'fd00:fd::1/64', 'dev', 'lo', 'nodad'], check=True)\n"
        "subprocess.run(['ip', 'addr', 'add', 'fd00:fd::2/64', 'dev', 'lo', 'nodad'], check=True)\n"
        "silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "silent.bind(('127.0.0.9', 53))"
    )
    world.do("write", "/etc/hosts", (_HOSTS + _NET).encode())
    return world


class Told:
    """What both forms of service reply, without the ports, and what they log."""

    def __init__(self, single: str, warm: str, single_log: str, warm_log: str) -> None:
        self.single, self.warm = single, warm
        self.single_log, self.warm_log = single_log, warm_log

    def both(self) -> set[str]:
        """Return the replies."""
        return {self.single, self.warm}


def ask(
    town: World, system: str, file: str | None = None, *, uid: int = 1001, ours: str = "127.0.0.1",
    theirs: str = "127.0.0.1", fport: int = 1240,
) -> Told:  # fmt: skip
    """Ask both forms of service about a connection."""
    files = {"alice": (None, None if file is None else file.encode("latin-1")), "bob": (None, None)}
    town.do("configure", system.encode("latin-1"), files)
    number, *ports = town.do("dial", uid, ours, theirs, 0, fport)
    try:
        single, status, log = town.do("ask_single_shot", ["-C", SYSTEM], number)
        assert status == 0, log
        warm, status, warm_log = town.do("ask_fresh_warm", ["-C", SYSTEM], number)
        assert status == 0, warm_log
    finally:
        town.do("hang_up", number)
    assert "Traceback" not in log + warm_log
    replies = [_without_ports(reply, ports) for reply in (single, warm)]
    return Told(replies[0], replies[1], log, warm_log)


def _without_ports(reply: bytes, ports: list[int]) -> str:
    begin, end = b"%d,%d:" % tuple(ports), b"\r\n"
    assert reply.startswith(begin) and reply.endswith(end) and reply.count(b"\n") == 1, reply
    return reply[len(begin) : -len(end)].decode("latin-1")


@pytest.mark.parametrize(
    ("system", "reply"),
    [
        ("default { default { force hide } }", HIDDEN),
        ('user 100999 { default { force reply "web" } }', "USERID:UNIX:web"),
        ("default { default { force numeric } }", f"USERID:UNIX:{NAMELESS}"),
        ("user 100999 { default { force hide } } default { default { allow spoof } }", HIDDEN),
        ("default { fport 1 { force hide } }", f"USERID:OTHER:{NAMELESS}"),
        ("default { default { allow hide } }", f"USERID:OTHER:{NAMELESS}"),
        ("default { default { force spoof } }", f"USERID:OTHER:{NAMELESS}"),
        ("", f"USERID:OTHER:{NAMELESS}"),
    ],
)
def test_rules_are_for_every_uid(town: World, system: str, reply: str) -> None:
    """F1, H1: a rule counts for an owner without a login name; without one, OTHER and the number."""
    assert ask(town, system, uid=NAMELESS).both() == {reply}


@pytest.mark.parametrize("silent", [False, True], ids=["no-such-name", "silent"])
@pytest.mark.parametrize(
    ("system", "file", "replies"),
    [
        ("default{default{allow hide}}", "to irc.gone.example {hide}", {HIDDEN, UNKNOWN}),
        ("default{default{allow hide}}", 'to irc.gone.example {reply "x"} global {hide}', {HIDDEN}),
        ("default{default{allow hide} to irc.gone.example {force hide}}", None, {HIDDEN, UNKNOWN}),
        ("default{default{allow hide} to irc.gone.example {force hide}}", "global {hide}", {HIDDEN}),
        # The unknown changes nothing: hiding is not allowed; the ports rule the block out; a later block decides.
        ("default{default{deny hide}}", "to irc.gone.example {hide}", {ALICE}),
        ("default{default{allow hide}}", "to irc.gone.example fport 1241 {hide}", {ALICE}),
        ("default{default{allow hide} to irc.gone.example {force hide} default {allow hide}}", None, {ALICE}),
        ("default{default{allow hide}} user bob {to irc.gone.example {force hide}}", None, {ALICE}),
        ("default{default{allow spoof} from irc.gone.example {allow hide}}", None, {ALICE}),
        # It does: either of two names.
        ("default{default{allow spoof}}", 'global {reply "g"} to irc.gone.example {reply "r"}', {UNKNOWN}),
        ("default{default{allow spoof}}", 'global {reply "g"} to irc.gone.example {reply "g"}', {"USERID:UNIX:g"}),
        # Who can't be asked names nobody.
        ("default{default{allow forward allow hide}}", "global {forward irc.gone.example 113}", {HIDDEN}),
        ("default{default{allow forward}}", "global {forward irc.gone.example 113}", {ALICE}),
        ("default{default{force forward irc.gone.example 113}}", None, {HIDDEN}),
    ],
)  # fmt: skip
def test_names_that_do_not_resolve(town: World, silent: bool, system: str, file: str | None, replies: set[str]) -> None:
    """F2: a block whose host name has no address may match, or not; both forms of service start."""
    hosts = b"files dns" if silent else b"files"
    town.do("write", "/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: %s\nservices: files\n" % hosts)
    town.do("write", "/etc/resolv.conf", b"nameserver 127.0.0.9\n")
    try:
        assert ask(town, system, file).both() <= replies
    finally:
        town.do("write", "/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\nservices: files\n")


def test_only_the_user_with_the_name_is_unknown(town: World) -> None:
    """F2: bob's block names a host that has no address, and bob alone is concerned; the warm process says so once."""
    system = "default{default{allow hide}}\nuser bob {to irc.gone.example {force hide}}"
    bobs = ask(town, system, uid=1002)
    assert bobs.both() <= {HIDDEN, UNKNOWN}
    assert bobs.warm_log.count(f"{SYSTEM}:2:14: ") == 1, bobs.warm_log
    assert ask(town, system).both() == {ALICE}


@pytest.mark.parametrize(
    ("ours", "theirs", "reply"),
    [
        ("127.0.0.1", "127.0.0.2", HIDDEN),
        ("127.0.0.1", "127.0.0.3", HIDDEN),
        ("fd00:fd::1", "fd00:fd::2", HIDDEN),
        ("127.0.0.1", "127.0.0.4", ALICE),
        ("fd00:fd::1", "fd00:fd::1", ALICE),
    ],
)
@pytest.mark.parametrize("of", ["user", "system"])
def test_a_name_means_all_its_addresses(town: World, of: str, ours: str, theirs: str, reply: str) -> None:
    """F3: in both families, wherever the name stands; and no other address."""
    if of == "user":
        told = ask(town, "default{default{allow hide}}", "to net.example {hide}", ours=ours, theirs=theirs)
    else:
        told = ask(town, "default{to net.example {force hide}}", ours=ours, theirs=theirs)
    assert told.both() == {reply}


def test_from_means_all_addresses_too(town: World) -> None:
    """F3: our own end is compared in the same way; a name of one family only is no address of the other."""
    system = "default{default{allow hide}}"
    assert ask(town, system, "from net.example {hide}", ours="127.0.0.2").both() == {HIDDEN}
    assert ask(town, system, "from net.example {hide}", ours="127.0.0.1").both() == {ALICE}
    assert ask(town, system, "from localhost {hide}", ours="fd00:fd::1", theirs="fd00:fd::1").both() == {ALICE}


def test_an_unknown_user_silences_nobody(town: World) -> None:
    """F5: the block of a user who is gone is a warning, in the log once per reading, and not by a single shot."""
    system = "default{default{allow spoof}}\nuser gone {default{allow spoof}}\nuser bob {default{force hide}}"
    told = ask(town, system)
    assert told.both() == {ALICE}
    assert told.warm_log.count(f"{SYSTEM}:2:6: ") == 1, told.warm_log
    assert f"{SYSTEM}:2:6" not in told.single_log
    assert ask(town, system, uid=1002).both() == {HIDDEN}


def test_a_broken_system_file_is_served_and_names_nobody(town: World) -> None:
    """A file that does not parse, or a -C file that is missing: every form of service starts, replies, and says why."""
    told = ask(town, "default { default { allow everything } }")
    assert told.both() == {UNKNOWN}
    assert re.search(rf"{SYSTEM}:1:27: ", told.single_log) and re.search(rf"{SYSTEM}:1:27: ", told.warm_log)
    assert "uid 1001" in told.warm_log
    number, *ports = town.do("dial", 1001, "127.0.0.1", "127.0.0.1", 0, 1240)
    reply, status, log = town.do("ask_fresh_warm", ["-C", "/etc/there-is-none"], number)
    town.do("hang_up", number)
    assert (_without_ports(reply, ports), status) == (UNKNOWN, 0), log
    assert "/etc/there-is-none: no such file" in log


@pytest.mark.parametrize(
    "reply",
    [
        "bob", "x:bob", "~bob", "^bob", "~~bob", "bob:x", "bob@x", "b:ob", "<bob>", "BOB", "Bob", "b ob", "b@ob",
        "b[ob", "x <bob@y>", "bob!x:bob", "x:~bob", "\\x01bob", "bob\\x80", " bob", "bob" + " " * 100, ":bob",
        "(bob)", "bob,x:~BOB",
    ],
)  # fmt: skip
def test_a_name_is_what_clients_make_of_it(town: World, reply: str) -> None:
    """W7: what some client reads as another user's login name needs spoof_all."""
    told = ask(town, "default{default{allow spoof}}", f'global {{reply "{reply}"}}')
    assert told.both() == {ALICE}
    told = ask(town, "default{default{allow spoof allow spoof_all}}", f'global {{reply "{reply}"}}')
    assert told.both() != {ALICE} and len(told.both()) == 1


@pytest.mark.parametrize(
    "reply", ["bobby", "xbob", "bo", "alice@x", "ALICE", "x.y", "b.ob", "irc:x", "user@example.org"]
)
def test_other_names_are_nobodys(town: World, reply: str) -> None:
    """W7: names that nobody reads as another user's are sent as before."""
    told = ask(town, "default{default{allow spoof}}", f'global {{reply "{reply}"}}')
    assert told.both() == {f"USERID:UNIX:{reply}"}


@pytest.fixture
def more_users(town: World) -> Iterator[World]:
    """The world, with login names that are alice's uid, a nameless one's, and each of random_numeric's."""
    names = ["1001", str(NAMELESS), *(f"user{number}" for number in range(100_000))]
    more = "".join(f"{name}:x:999:1::/:/bin/false\n" for name in names)
    town.do("write", "/etc/passwd", (_PASSWD + more).encode())
    yield town
    town.do("write", "/etc/passwd", _PASSWD.encode())


@pytest.mark.parametrize("kind", ["numeric", "random_numeric"])
def test_made_up_names_are_nobodys(more_users: World, kind: str) -> None:
    """W6: a made-up name that is somebody's login is not sent: if wished, the login name; if forced, nobody's."""
    told = ask(more_users, f"default{{default{{allow {kind}}}}}", f"global {{{kind}}}")
    assert told.both() == {ALICE}
    assert ask(more_users, f"default{{default{{force {kind}}}}}").both() == {HIDDEN}


@pytest.mark.parametrize("system", ["", "default{default{allow hide}}", "default{default{force spoof}}"])
def test_a_number_is_nobodys(more_users: World, system: str) -> None:
    """W6: the number of a uid without a login name, where another user's login name is that number."""
    assert ask(more_users, system, uid=NAMELESS).both() == {UNKNOWN}


def test_names_in_rules_are_followed(town: World) -> None:
    """W9: bob gets another uid, and the rule about him follows within seconds, though its file has not changed."""
    town.do("configure", b"default{default{allow spoof}}\nuser bob {default{force hide}}", {})
    number, *ports = town.do("dial", 2002, "127.0.0.1", "127.0.0.1", 0, 1240)
    town.do("start_warm", "-C", SYSTEM)

    def reply() -> str:
        return _without_ports(town.tell("oidentd._warm[-1].ask(number)", number=number), ports)

    try:
        assert reply() == "USERID:OTHER:2002"
        town.do("write", "/etc/passwd", _PASSWD.replace("bob:x:1002", "bob:x:2002").encode())
        until(lambda: reply() == HIDDEN)
        # Two names for one uid: that user is unknown, and only they.
        town.do("configure", b"user bob {default{force hide}}\nuser alice {default{deny hide}}", {})
        town.tell("oidentd._warm[-1].reload()")
        assert reply() == HIDDEN
        twice = _PASSWD.replace("bob:x:1002", "bob:x:2002").replace("alice:x:1001", "alice:x:2002")
        town.do("write", "/etc/passwd", twice.encode())
        until(lambda: reply() == UNKNOWN)
        town.do("write", "/etc/passwd", _PASSWD.replace("bob:x:1002", "bob:x:2002").encode())
        until(lambda: reply() == HIDDEN)
    finally:
        town.do("hang_up", number)
        town.do("write", "/etc/passwd", _PASSWD.encode())
        _, status, log = town.do("stop_warm")
    assert status == 0, log


def test_two_names_of_one_uid(town: World) -> None:
    """W9: where the file has blocks for two names of one uid, that user is unknown, and nobody else."""
    system = "user alice {default{allow spoof}}\nuser second {default{force hide}}"
    assert ask(town, system).both() == {UNKNOWN}
    assert ask(town, system, uid=1002).both() == {"USERID:UNIX:bob"}


def test_a_file_that_can_not_be_read(town: World) -> None:
    """H3: where the owner may not hide, their login name; where they may, nobody is named; forced, it is not read."""
    loop = "/home/alice/.oidentd.conf"
    for system, replies in (
        ("default{default{deny hide}}", {ALICE}),
        ("default{default{allow spoof}}", {ALICE}),
        ("default{default{allow hide}}", {HIDDEN, UNKNOWN}),
        ("default{default{allow numeric}}", {"USERID:UNIX:1001", UNKNOWN}),
        ("default{default{force spoof}}", {ALICE}),
        ("default{default{force hide}}", {HIDDEN}),
    ):
        town.tell("import os; os.path.lexists(loop) and os.unlink(loop); os.symlink(loop, loop)", loop=loop)
        # `configure` would replace it.
        town.do("write", SYSTEM, system.encode())
        number, *ports = town.do("dial", 1001, "127.0.0.1", "127.0.0.1", 0, 1240)
        single, _, log = town.do("ask_single_shot", ["-C", SYSTEM], number)
        warm, _, warm_log = town.do("ask_fresh_warm", ["-C", SYSTEM], number)
        town.do("hang_up", number)
        assert {_without_ports(reply, ports) for reply in (single, warm)} <= replies, (system, log, warm_log)
    town.tell("os.unlink(loop)", loop=loop)


@pytest.fixture
def no_services(town: World) -> Iterator[World]:
    """The world, where the names of services can't be read."""
    town.tell("import os\nos.rename('/etc/services', '/etc/away')\nos.symlink('/etc/services', '/etc/services')")
    yield town
    town.tell("os.rename('/etc/away', '/etc/services')")


def test_services_that_can_not_be_looked_up(no_services: World) -> None:
    """A sibling of F2: a block with a service that can't be looked up may match; it does not make the file void."""
    system = "default{default{allow hide}}"
    assert ask(no_services, system, "fport ircu {hide}", fport=6667).both() <= {HIDDEN, UNKNOWN}
    assert ask(no_services, system, "fport ircu {hide} global {hide}", fport=6667).both() == {HIDDEN}
    assert ask(no_services, "default{default{deny hide}}", "fport ircu {hide}", fport=6667).both() == {ALICE}


def test_check_warns(town: World) -> None:
    """F2, F5: --check lists unknown users and hosts as warnings, with their places, and finds no error."""
    system = "user gone {default{allow spoof}}\nuser bob {to irc.gone.example {force hide}}\n"
    town.do("configure", system.encode(), {})
    command: Any = "subprocess.run([*oidentd.IDENTD, '--check'], capture_output=True, text=True).stdout"
    said = town.tell(f"import subprocess\n{command}")
    assert f"warning: {SYSTEM}:1:6: " in said and f"warning: {SYSTEM}:2:14: " in said, said
    assert "error: " not in said
