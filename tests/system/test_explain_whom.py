"""Does --explain say what an identd that runs as nobody replies, whoever asks, about whomever?"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import Person, listen, login, nameless_uid
from helpers.machine import AS_NOBODY, NOBODY
from helpers.pairs import PATIENCE
from helpers.residents import Resident, access_list, connected, set_access_list, system_file
from helpers.single_shot import COMMAND, handler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["helpers.people"]


def explained(*options: str, **popen: Any) -> list[str]:
    """Run --explain, and return its lines."""
    done = subprocess.run(
        [*COMMAND, "--explain", *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False, **popen,
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)
    lines: list[str] = done.stdout.splitlines()
    return lines


def as_json(*options: str, **popen: Any) -> dict[str, Any]:
    """Run --explain for a program, and return the one object that it prints."""
    (line,) = explained(*options, "--json", **popen)
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.fixture(scope="module")
def system() -> Iterator[Path]:
    """A system file that lets everybody be who they like."""
    with system_file("default { default { allow spoof allow hide } }") as path:
        yield path


@pytest.fixture(autouse=True)
def _an_open_home(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test leaves a home that everybody may enter, without a file."""
    yield
    if "carol" in request.fixturenames:
        user: Resident = request.getfixturevalue("carol")
        with contextlib.suppress(OSError):
            os.removexattr(user.home, "system.posix_acl_access")
        user.home.chmod(0o755)
        user.file.unlink(missing_ok=True)


#: Lists of her file and of her home: the mode, users, the mask, others; and whether nobody can read the file.
ACCESS: dict[str, tuple[Any, Any, bool]] = {
    "a list refuses": ((0o644, {NOBODY: 0}, 4, 4), None, False),
    "a list allows": (None, (0o750, {NOBODY: 1}, 1, 0), True),
    "the mask refuses": (None, (0o750, {NOBODY: 1}, 4, 0), False),
    "no mask, no list": ((0o644, {NOBODY: 0}, 0, 4), None, True),
}


@pytest.mark.parametrize(("of_file", "of_home", "readable"), ACCESS.values(), ids=ACCESS.keys())
def test_access_control_lists(
    carol: Resident, ports: str, system: Path, of_file: Any, of_home: Any, readable: bool
) -> None:
    """F8. The reply is what nobody's identd replies, to herself, to root and to somebody else."""
    carol.write('global { reply "bouncer" }')
    for path, entries in ((carol.file, of_file), (carol.home, of_home)):
        if entries:
            mode, users, mask, others = entries
            set_access_list(path, access_list(mode >> 6, users, mode >> 3 & 7, {}, mask, others))
    with handler("-C", str(system), **AS_NOBODY) as served:
        reply = served.ask(ports.encode() + b"\r\n").decode().strip()
    assert reply.endswith(":bouncer") == readable
    for who in (carol.who, {}, AS_NOBODY):
        lines = explained(ports, "-C", str(system), **who)
        assert lines[-1] == f"reply    {reply}"
        assert any("setfacl -m u:nobody:" in line for line in lines) == (not readable)


def test_what_cannot_be_told(carol: Resident, ports: str, system: Path) -> None:
    """What nobody can read and the asker can't is not told by guessing; root, who can try, is told."""
    carol.write('global { reply "bouncer" }')
    uid = nameless_uid()
    set_access_list(carol.file, access_list(6, {uid: 0}, 4, {}, 4, 4))
    somebody: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": [], "cwd": "/"}
    lines = explained(ports, "-C", str(system), **somebody)
    assert lines[-1] == "reply    cannot be told without root"
    assert any(line.startswith("file     ") and str(carol.file) in line for line in lines)
    every = explained("-C", str(system), "--user", carol.name, **somebody)
    assert [line.rpartition(" cannot ")[2] for line in every] == ["be told without root"]
    assert as_json(ports, "-C", str(system), **somebody)["connections"][0]["reply"] is None
    assert explained(ports, "-C", str(system))[-1].endswith(":bouncer")


def test_another_users_connections(carol: Resident, ports: str, system: Path) -> None:
    """--user means the user that it is about: their connections, and theirs alone."""
    carol.write('global { reply "bouncer" }')
    server, client = ports.split(",")
    line = f"127.0.0.1:{server} 127.0.0.1:{client} {ports}:USERID:UNIX:bouncer"
    with connected(NOBODY) as others:
        assert explained("--user", carol.name, "-C", str(system))[1:] == [line]
        assert explained("--user", str(carol.uid), "-C", str(system), **AS_NOBODY) == [line]
        # The ports are --explain's, wherever they stand.
        told = explained("--user", carol.name, ports, "-C", str(system))
        assert told[-1] == f"reply    {ports}:USERID:UNIX:bouncer"
        assert not any(line.startswith("but ") for line in told)
        told = explained(others, "--user", carol.name, "-C", str(system))
        assert f"but      that is a connection of uid {NOBODY}, not of {carol.name}" in told
        assert told[-1] == f"reply    {others}:USERID:UNIX:nobody"


def test_ports_of_two_users(carol: Resident, system: Path) -> None:
    """Where two users have connections with the same ports, --user says which is meant."""
    with listen("127.0.0.1") as one, Person(carol.uid) as hers, Person(NOBODY) as his:
        ends = hers.dial(one.getsockname())
        his.tell(
            "far = socket.socket(); far.bind(('127.0.0.2', port)); far.listen();"
            "dial(('127.0.0.2', port), source=('127.0.0.3', ours))",
            port=ends[1][1], ours=ends[0][1],
        )  # fmt: skip
        ports = f"{ends[0][1]},{ends[1][1]}"
        for name in (carol.name, "nobody"):
            told = explained(ports, "--user", name, "-C", str(system))
            assert told[-1] == f"reply    {ports}:USERID:UNIX:{name}"


def test_an_unknown_user() -> None:
    """Somebody who is not there is a bad option: one line, status 2."""
    done = subprocess.run(
        [*COMMAND, "--explain", "--user", "identd-none"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "identd: no such user: identd-none\n", 2)


def test_for_programs(carol: Resident, ports: str, system: Path) -> None:
    """One object has the connection, its owner, what decided and the reply, and each step as a row."""
    carol.write('global { reply "bouncer" }')
    found = as_json(ports, "-C", str(system), **carol.who)
    server, client = map(int, ports.split(","))
    assert found["connections"] == [{
        "query": ports,
        "server": {"host": "127.0.0.1", "port": server}, "client": {"host": "127.0.0.1", "port": client},
        "uid": carol.uid, "login": carol.name, "rule": f"{system}:1", "statement": f"{carol.file}:1",
        "reply": f"{ports}:USERID:UNIX:bouncer",
    }]  # fmt: skip
    assert found["system_file"] == str(system)
    assert found["rows"][-1] == {"label": "reply", "text": f"{ports}:USERID:UNIX:bouncer", "severity": ""}
    every = as_json("-C", str(system), **carol.who)
    assert found["connections"][0] in every["connections"]
    nobodys = as_json("1,1", "-C", str(system))["connections"]
    assert nobodys == [{
        "query": "1,1", "server": {"host": None, "port": 1}, "client": {"host": None, "port": 1}, "uid": None,
        "login": None, "rule": None, "statement": None, "reply": "1,1:ERROR:NO-USER",
    }]  # fmt: skip


def test_a_home_that_does_not_exist(system: Path, needs_root: None) -> None:
    """F14. A user without a home is told that, not of two files that are missing in it."""
    with login() as user, connected(user.pw_uid) as ports:
        assert not os.path.exists(user.pw_dir)
        lines = explained(ports, "-C", str(system))
        assert [line for line in lines if line.startswith("file ")] == [
            f"file     the home {user.pw_dir} does not exist here", "file     the owner has no file that counts",
        ]  # fmt: skip
        assert lines[-1] == f"reply    {ports}:USERID:UNIX:{user.pw_name}"


#: What makes a sandbox of /home: a script whose $1 is a folder that nobody may enter, and $2 the folder of homes.
HIDDEN = {
    "ProtectHome=yes": 'mkdir -m 0 -p "$1/inaccessible/dir"; mount --bind "$1/inaccessible/dir" "$2"',
    "ProtectHome=tmpfs": 'mount -t tmpfs -o mode=1777 none "$2"',
}


@pytest.mark.parametrize("script", HIDDEN.values(), ids=HIDDEN.keys())
def test_in_a_sandbox(carol: Resident, ports: str, system: Path, tmp_path: Path, script: str) -> None:
    """Within a sandbox that hides her home, the reply is what a server in it gives, and that is the reason."""
    carol.write('global { reply "bouncer" }')
    script += '; shift 2; exec "$@"'
    hide = ["unshare", "--mount", "sh", "-ec", script, "sh", str(tmp_path), str(carol.home.parent)]
    done = subprocess.run(
        [*hide, *COMMAND, "--explain", ports, "-C", "/dev/stdin"], input=system.read_text(),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[-1] == f"reply    {ports}:ERROR:UNKNOWN-ERROR", (lines, done.stderr)
    assert any("hidden from this process" in line for line in lines if line.startswith("why "))


def test_on_a_terminal(system: Path) -> None:
    """On a terminal what is wrong has a colour, unless NO_COLOR says no."""
    for environment, coloured in (({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)):
        ours, theirs = os.openpty()
        try:
            subprocess.run(
                [*COMMAND, "--explain", "1,1", "-C", str(system)], stdin=subprocess.DEVNULL, stdout=theirs,
                timeout=PATIENCE, check=True, env={"PATH": os.environ["PATH"], **environment},
            )  # fmt: skip
            said = os.read(ours, 1 << 16)
        finally:
            os.close(ours)
            os.close(theirs)
        assert (b"\x1b[" in said) == coloured
        assert b"ERROR:NO-USER" in said
