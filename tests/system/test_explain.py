"""Does --explain say what would be answered, and why, so that a user can mend his own file?"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from helpers.hosts import Person, forbid_netlink, listen, nameless_uid
from helpers.machine import AS_NOBODY, NOBODY, only_if_others_can_read_it, skip
from helpers.pairs import PATIENCE, connect, me
from helpers.residents import Resident, connected, system_file
from helpers.single_shot import COMMAND, handler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["helpers.people"]

#: What the system file of these tests says; its lines are counted from 1. {} is carol's login name.
SYSTEM = """\
default {
    default { deny spoof }
}
user "{}" {
    default { allow spoof }
    fport 1:2 { force hide }
}
"""


class Told(NamedTuple):
    """What --explain said: its lines, standard error, and its exit status."""

    lines: list[str]
    stderr: str
    status: int

    def all(self, label: str) -> list[str]:
        """Return what the lines say that begin with a label."""
        return [line[9:] for line in self.lines if line[:9].strip() == label]

    def the(self, label: str) -> str:
        """Return what the only such line says."""
        (line,) = self.all(label)
        return line


def explained(*options: str, **popen: Any) -> Told:
    """Run --explain, which never ends in a traceback."""
    done = subprocess.run(
        [*COMMAND, "--explain", *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False, **popen,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    # Which process holds the socket, root sees and others do not: see test_process.py.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("holder   ")]
    return Told(lines, done.stderr, done.returncode)


def answered(ports: str, *options: str, **popen: Any) -> str:
    """Return what the process for a single query answers."""
    with handler(*options, **popen) as served:
        return served.ask(ports.encode() + b"\r\n").decode("latin-1").rstrip("\r\n")


@pytest.fixture(scope="module")
def system(carol: Resident) -> Iterator[Path]:
    """A system file that lets her spoof, and nobody else do anything."""
    with system_file(SYSTEM.replace("{}", carol.name)) as path:
        yield path


@pytest.fixture(autouse=True)
def _an_empty_home(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins with a home that has no file."""
    yield
    if "carol" in request.fixturenames:
        user: Resident = request.getfixturevalue("carol")
        user.home.chmod(0o755)
        for path in (user.file, user.other_file):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)


def as_everybody(carol: Resident, ports: str, system: Path) -> Told:
    """Explain as carol and as root; both must say the same, but for whom it speaks, and what the handler answers."""
    hers = explained(ports, "-C", str(system), **carol.who)
    roots = explained(ports, "-C", str(system))
    assert (hers.status, hers.stderr, roots.status, roots.stderr) == (0, "", 0, "")
    assert roots.lines[0].startswith("as       nobody")
    assert roots.lines[1:] == hers.lines
    assert hers.lines[-1] == "reply    " + answered(ports, "-C", str(system), **AS_NOBODY)
    return hers


def test_a_wish_that_is_granted(carol: Resident, ports: str, system: Path) -> None:
    """From the socket to the reply, each step names what it is about: state, uid, inode, file, line, capability."""
    carol.write('\n\nglobal { reply "bouncer" }\n')
    told = as_everybody(carol, ports, system)
    server, client = ports.split(",")
    ends = rf"127\.0\.0\.1:{server} 127\.0\.0\.1:{client}"
    assert re.fullmatch(rf"{ends} ESTABLISHED uid {carol.uid} inode [1-9][0-9]* \(sock_diag\)", told.the("socket"))
    assert told.the("login") == carol.name
    assert told.the("system") == str(system)
    rules = told.all("rule")
    assert f"{system}:5" in rules[0] and "own block" in rules[0]
    assert rules[1] == "it allows spoof"
    assert told.all("file")[-1] == f"read {carol.file}"
    assert f"{carol.file}:3" in told.all("why")[0] and 'reply "bouncer"' in told.all("why")[0]
    assert told.all("why")[1].startswith('granted: "bouncer"')
    assert told.lines[-1] == f"reply    {ports}:USERID:UNIX:bouncer"
    order = [line.split()[0] for line in told.lines]
    assert list(dict.fromkeys(order)) == ["socket", "login", "system", "rule", "file", "why", "reply"]
    assert told.all("fix") == []


@pytest.mark.parametrize(
    ("wish", "capability"),
    [("hide", "hide"), ("numeric", "numeric"), ("random", "random"), ('forward "127.0.0.1" 1', "forward"),
     ('reply "root"', "spoof_all")],
)  # fmt: skip
def test_a_wish_that_is_refused(carol: Resident, ports: str, system: Path, wish: str, capability: str) -> None:
    """The capability that is lacking is named, and what an administrator has to write for it."""
    carol.write(f"global {{ {wish} }}")
    told = as_everybody(carol, ports, system)
    assert any(step.startswith("refused: ") and f"{capability} is not allowed" in step for step in told.all("why"))
    assert told.the("fix") == (
        f"the administrator can grant it: `allow {capability}` in the block for user {carol.name} in {system}"
    )
    assert told.lines[-1].endswith(f":USERID:UNIX:{carol.name}")


def test_the_fix_grants_it(carol: Resident, ports: str) -> None:
    """What is to be written, where the user has no block yet, works when it is written as it stands."""
    carol.write("global { hide }")
    with system_file("default { default { allow numeric } }") as path:
        fix = as_everybody(carol, ports, path).the("fix")
        block = re.search(r"`(.*)`", fix)
        assert block is not None
        path.write_text(path.read_text() + block[1])
        told = as_everybody(carol, ports, path)
    assert told.lines[-1] == f"reply    {ports}:ERROR:HIDDEN-USER"


UNUSABLE = {
    "a syntax error": ("global {\n  hidde }", ":2:3: hide, random, random_numeric, numeric, pseudonym, reply or for"),
    "an open block": ("global { hide ", ":1:15: } expected, not the end of the file"),
    "an open string": ('global { reply "x }', ":1:16: a closing quote expected before the end of the line"),
    "a network that is none": ('to 1.2.3.4/33 { reply "x" }', ":1:4: "),
    "a huge file": ("#" * 70_000, ": larger than 65536 octets"),
}


@pytest.mark.parametrize(("text", "expected"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_file_that_says_nothing(carol: Resident, ports: str, system: Path, text: str, expected: str) -> None:
    """A broken file is named with line and column, one that is too large with the limit; the login name is told."""
    carol.write(text)
    told = as_everybody(carol, ports, system)
    assert any(line.startswith(f"{carol.file}{expected}") for line in told.all("file")), told.lines
    assert f"read {carol.file}" not in told.all("file")
    assert told.lines[-1].endswith(f":USERID:UNIX:{carol.name}")


@pytest.mark.parametrize(
    ("text", "known"), [('to 1.2.3.4.5 { reply "x" }', ""), ('to 1.2.3.4.5 { reply "x" } global { reply "y" }', "y")]
)
def test_a_host_that_is_none(carol: Resident, ports: str, system: Path, text: str, known: str) -> None:
    """Whether the block is about this far end can't be known: nobody is named where the reply depends on that.

    Where a later block decides in any case, its reply is told, and the name without an address is mentioned.
    """
    carol.write(text)
    told = as_everybody(carol, ports, system)
    if known:
        assert told.lines[-1] == f"reply    {ports}:USERID:UNIX:{known}"
        return
    assert told.lines[-1] == f"reply    {ports}:ERROR:UNKNOWN-ERROR"
    (why,) = (step for step in told.all("why") if "1.2.3.4.5" in step)
    assert f"{carol.file}:1" in why


def _of_root(carol: Resident) -> str:
    os.chown(carol.write("global { hide }"), 0, 0)
    return f"belongs to uid 0, not to the owner of the connection ({carol.uid})"


def _fifo(carol: Resident) -> str:
    os.mkfifo(carol.file)
    os.chown(carol.file, carol.uid, carol.gid)
    return "not a regular file"


def _directory(carol: Resident) -> str:
    carol.file.mkdir()
    return "not a regular file"


def _device(carol: Resident) -> str:
    carol.file.symlink_to("/dev/null")
    return "not a regular file"


def _foreign_link(carol: Resident) -> str:
    carol.file.symlink_to("/etc/passwd")
    return "belongs to uid 0"


def _dangling(carol: Resident) -> str:
    carol.file.symlink_to("/nonexistent")
    return "No such file or directory"


def _loop(carol: Resident) -> str:
    carol.file.symlink_to(carol.file)
    return "Too many levels of symbolic links"


@pytest.mark.parametrize("prepare", [_of_root, _fifo, _directory, _device, _foreign_link, _dangling, _loop])
def test_a_file_that_is_passed_over(carol: Resident, ports: str, system: Path, prepare: Any) -> None:
    """Of a file that is no file of hers, it says why it is none."""
    reason = prepare(carol)
    told = as_everybody(carol, ports, system)
    assert any(line.startswith(f"{carol.file}: {reason}") for line in told.all("file")), told.lines
    assert "chmod" not in "".join(told.lines)
    assert told.lines[-1].endswith(f":USERID:UNIX:{carol.name}")


def test_no_file(carol: Resident, ports: str, system: Path) -> None:
    """Both places where a file would be looked for are named."""
    missing = [f"{path}: No such file or directory" for path in (carol.other_file, carol.file)]
    assert as_everybody(carol, ports, system).all("file") == [*missing, "the owner has no file that counts"]


def test_the_first_of_two_files(carol: Resident, ports: str, system: Path) -> None:
    """The file in .config counts, and the other one is not spoken of."""
    carol.write('global { reply "one" }', carol.other_file)
    carol.write('global { reply "two" }')
    told = as_everybody(carol, ports, system)
    assert told.all("file") == [f"read {carol.other_file}"]
    assert told.lines[-1].endswith(":one")


def test_a_file_that_only_its_owner_may_read(carol: Resident, ports: str, system: Path) -> None:
    """She is told that nobody can't read what she can, how to change that, and what an identd of root's answers."""
    carol.write('global { reply "bouncer" }').chmod(0o600)
    told = explained(ports, "-C", str(system), **carol.who)
    assert any(f"(chmod o+r {carol.file})" in line and "nobody" in line for line in told.all("file"))
    assert told.lines[-1] == "reply    " + answered(ports, "-C", str(system), **AS_NOBODY)
    assert told.lines[-1].endswith(f":{carol.name}")
    assert told.the("else").endswith(f"reads {carol.file}, and replies " + answered(ports, "-C", str(system)))
    assert told.the("else").endswith(":bouncer")
    carol.file.chmod(0o604)
    assert as_everybody(carol, ports, system).lines[-1].endswith(":bouncer")


def test_a_home_that_is_closed(carol: Resident, ports: str, system: Path) -> None:
    """The directory that keeps others out is named, to root as well, who is told what nobody would see."""
    carol.write('global { reply "bouncer" }')
    carol.home.chmod(0o700)
    hers, roots = explained(ports, "-C", str(system), **carol.who), explained(ports, "-C", str(system))
    for told in (hers, roots):
        assert any(f"(chmod o+x {carol.home})" in line for line in told.all("file")), told.lines
        assert told.lines[-1] == f"reply    {ports}:USERID:UNIX:{carol.name}"
    assert hers.the("else").endswith(":bouncer")
    carol.home.chmod(0o701)
    assert as_everybody(carol, ports, system).lines[-1].endswith(":bouncer")


def test_the_file_that_the_server_would_read_instead(carol: Resident, ports: str, system: Path) -> None:
    """Where nobody can't read the first file, the reply is that of the second."""
    carol.write('global { reply "one" }', carol.other_file).chmod(0o600)
    carol.write('global { reply "two" }')
    told = explained(ports, "-C", str(system), **carol.who)
    assert told.lines[-1] == "reply    " + answered(ports, "-C", str(system), **AS_NOBODY)
    assert told.lines[-1].endswith(":two")


def test_another_users_connection(carol: Resident, ports: str, system: Path) -> None:
    """Anyone may ask about any connection, and is told the same."""
    carol.write('global { reply "bouncer" }')
    told = explained(ports, "-C", str(system), **AS_NOBODY)
    assert told.lines == as_everybody(carol, ports, system).lines


def test_a_force(carol: Resident, ports: str) -> None:
    """A rule that is forced is named with its line, and that no file is read."""
    carol.write("global {{{")
    with system_file("default {\n default {\n  force hide\n }\n}") as path:
        told = as_everybody(carol, ports, path)
    assert "it forces hide (line 3)" in told.all("rule")
    assert told.the("file") == "not read: the system file decides alone"
    assert told.lines[-1] == f"reply    {ports}:ERROR:HIDDEN-USER"


def test_nothing_is_allowed(carol: Resident, ports: str) -> None:
    """Her file is read: her own name needs no permission; what she lacks for another is said, and how to get it."""
    carol.write('global { reply "bouncer" }')
    with system_file("") as path:
        told = as_everybody(carol, ports, path)
    assert "has no default block, so nothing is allowed" in told.all("rule")[0]
    assert "refused: spoof is not allowed" in told.all("why")
    assert f'`user "{carol.name}" {{ default {{ allow spoof }} }}` in {path}' in told.the("fix")


def test_a_broken_system_file(carol: Resident, ports: str) -> None:
    """Its file, line, column and what was expected stand there, and the answer is UNKNOWN-ERROR."""
    with system_file("default {\n default {\n  alow spoof } }") as path:
        told = as_everybody(carol, ports, path)
        assert told.the("system").startswith(f"{path}:3:3: allow, deny or force expected, not alow")
    assert told.lines[-1] == f"reply    {ports}:ERROR:UNKNOWN-ERROR"


def test_a_system_file_that_nobody_may_read(carol: Resident, ports: str) -> None:
    """Root is told what the processes say that he starts, and that others could not read the file."""
    with system_file('default { default { force reply "foo" } }') as path:
        path.chmod(0o600)
        told = explained(ports, "-C", str(path))
        assert told.lines[-1] == f"reply    {ports}:USERID:UNIX:foo" == "reply    " + answered(ports, "-C", str(path))
        assert str(path) in told.the("but") and "UNKNOWN-ERROR" in told.the("but")
        hers = explained(ports, "-C", str(path), **carol.who)
        assert hers.the("system") == f"{path}: Permission denied"


def test_all_that_is_lacking(carol: Resident) -> None:
    """What has to be granted for a wish is said at once, and granting just that is enough."""
    carol.write('global { reply "root" }')
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(privileged_listener())
        person = stack.enter_context(Person(carol.uid))
        ours, far = person.dial(listener.getsockname())
        ports = f"{ours[1]},{far[1]}"
        path = stack.enter_context(system_file("default { default { deny hide } }"))
        granted = re.search("`(.*)`", explained(ports, "-C", str(path)).the("fix"))
        assert granted is not None
        for capability in ("spoof", "spoof_all", "spoof_privport"):
            assert f"allow {capability} " in granted[1]
        path.write_text(granted[1])
        assert explained(ports, "-C", str(path)).lines[-1] == f"reply    {ports}:USERID:UNIX:root"


@contextlib.contextmanager
def privileged_listener() -> Iterator[socket.socket]:
    """A listener on a port below 1024 that nobody else has."""
    for port in range(1023, 512, -1):
        try:
            listener = socket.create_server(("127.0.0.1", port))
        except OSError:  # EADDRINUSE
            continue
        with listener:
            yield listener
        return
    skip("needs a port below 1024")


def test_a_system_file_that_is_missing(carol: Resident, ports: str) -> None:
    """A file that was named and is not there is an error, not permission."""
    told = explained(ports, "-C", "/nonexistent/oidentd.conf")
    assert told.the("system") == "/nonexistent/oidentd.conf: no such file"
    assert told.lines[-1] == f"reply    {ports}:ERROR:UNKNOWN-ERROR"


def test_an_owner_without_a_name(carol: Resident, system: Path) -> None:
    """The number is told, and why."""
    uid = nameless_uid()
    with connected(uid) as ports:
        told = explained(ports, "-C", str(system))
        assert told.lines[-1] == "reply    " + answered(ports, "-C", str(system))
    assert told.the("login") == f"none: uid {uid} has no passwd entry"
    assert told.lines[-1].endswith(f":USERID:OTHER:{uid}")


def test_no_such_connection() -> None:
    """What stood in the way is said, and the reply is that of the handler."""
    told = explained("1,1")
    assert told.the("socket") == "no such connection"
    assert (told.lines[-1], told.status) == ("reply    1,1:ERROR:NO-USER", 0)


def test_turned_around(ports: str) -> None:
    """Whoever gives the ports in the wrong order is told the right one."""
    server, client = ports.split(",")
    told = explained(f"{client},{server}")
    assert told.the("fix").startswith(f"{ports} is a connection")
    assert told.lines[-1] == f"reply    {client},{server}:ERROR:NO-USER"


def test_ports_of_two_connections(carol: Resident) -> None:
    """Ports that belong to two users are not decided by chance: addresses are asked for, and decide."""
    with listen("127.0.0.1") as one, Person(carol.uid) as hers, Person(NOBODY) as his:
        ends = hers.dial(one.getsockname())
        his_ends = his.tell(
            "far = socket.socket(); far.bind(('127.0.0.2', port)); far.listen();"
            "dial(('127.0.0.2', port), source=('127.0.0.3', ours))",
            port=ends[1][1], ours=ends[0][1],
        )  # fmt: skip
        assert his_ends[0][1] == ends[0][1]
        ports = f"{ends[0][1]},{ends[1][1]}"
        told = explained(ports)
        assert str(carol.uid) in told.the("socket") and str(NOBODY) in told.the("socket")
        assert "--server-address" in told.the("fix")
        assert told.lines[-1] == f"reply    {ports}:ERROR:UNKNOWN-ERROR"
        by_address = explained(ports, "--server-address", "127.0.0.1", "--client-address", "127.0.0.1")
        assert by_address.lines[-1] == f"reply    {ports}:USERID:UNIX:{carol.name}"
        assert explained(ports, "--server-address", "127.0.0.3").lines[-1].endswith(":USERID:UNIX:nobody")


def test_addresses_of_filters(carol: Resident, ports: str) -> None:
    """A block about an address matches the connection that the ports found."""
    with system_file(f'user {carol.name} {{ to 127.0.0.0/8 from 127.0.0.1 {{ force reply "local" }} }}') as path:
        assert as_everybody(carol, ports, path).lines[-1].endswith(":local")


@pytest.mark.parametrize("bad", ["12", "1,2,3", "0,5", "5,65536", "a,b", "1;2", ",", "1 2"])
def test_bad_ports(bad: str) -> None:
    """One line, exit status 2."""
    told = explained(bad)
    assert (told.lines if os.geteuid() else told.lines[1:], told.status) == ([], 2)
    assert told.stderr.count("\n") == 1 and "PORT-ON-SERVER,PORT-ON-CLIENT" in told.stderr


def test_all_connections(carol: Resident, system: Path) -> None:
    """Without ports: each connection of the caller's, one line: here, there, reply; and nobody else's."""
    carol.write('global { reply "bouncer" }')
    with connected(carol.uid) as one, connected(carol.uid) as two, connected(NOBODY) as his:
        told = explained("-C", str(system), **carol.who)
        assert (told.stderr, told.status) == ("", 0)
        for ports in (one, two):
            server, client = ports.split(",")
            line = f"127.0.0.1:{server} 127.0.0.1:{client} {ports}:USERID:UNIX:bouncer"
            assert told.lines.count(line) == 1
        assert not any(his in line for line in told.lines)


def test_no_connection_at_all() -> None:
    """Whoever has no connection is told so."""
    if os.geteuid() != 0:
        skip("needs root")
    only_if_others_can_read_it()
    uid = nameless_uid()
    told = explained(user=uid, group=uid, extra_groups=[], cwd="/")
    assert told == ([f"uid {uid} has no TCP connection"], "", 0)


def test_both_families(system: Path) -> None:
    """Of IPv6 connections, brackets tell the port from the address."""
    with connect("::1") as pair:
        told = explained("-C", str(system))
        query = pair.query.decode()
        line = f"[::1]:{pair.client.getsockname()[1]} [::1]:{pair.server.getsockname()[1]} {query}:USERID:UNIX:{me()}"
    assert told.lines.count(line) == 1


def test_without_netlink(system: Path) -> None:
    """Where the kernel can't be asked, one line says so instead of a traceback, and a single connection still can."""
    with connect() as pair:
        every = explained("-C", str(system), preexec_fn=forbid_netlink)
        assert every.status == 1
        assert every.stderr.count("\n") == 1 and "netlink" in every.stderr
        one = explained(pair.query.decode(), "-C", str(system), preexec_fn=forbid_netlink)
        assert one.status == 0
        assert one.lines[-1].startswith(f"reply    {pair.query.decode()}:")


def test_the_options_of_a_reply(carol: Resident, ports: str, system: Path) -> None:
    """What changes the real reply changes the one that is shown."""
    for options in (["-oWIN32", "-c", "UTF-8"], ["-R", "guest"]):
        told = explained(ports, "-C", str(system), *options)
        assert told.lines[-1] == "reply    " + answered(ports, "-C", str(system), *options, **AS_NOBODY)
    assert explained("1,1", "-r", "guest").lines[-1] == "reply    1,1:USERID:UNIX:guest"
    assert explained("1,1", "-e").lines[-1] == "reply    1,1:ERROR:UNKNOWN-ERROR"


def test_nothing_in_a_file_reaches_the_terminal(carol: Resident, ports: str, system: Path) -> None:
    """Control characters of a user's file are shown as escapes."""
    carol.write('global { reply "\\033[31mred\\377" }')
    told = explained(ports, "-C", str(system), **carol.who)
    assert "\x1b" not in "".join(told.lines)
    assert told.lines[-1].endswith(":\\x1b[31mred\\xff")
