"""Does a process of root's that answers one query become the owner before it touches anything of his?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import nameless_uid, until
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, IDENTD, NOBODY, ROOT, program
from helpers.pairs import PATIENCE, connect
from helpers.residents import Resident, connected, system_file
from helpers.single_shot import COMMAND, driver, handler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["helpers.people"]

#: Everyone may spoof.
SYSTEM = "default { default { allow spoof } }"


@pytest.fixture(scope="module")
def carol(carol: Resident) -> Resident:
    """A user with a file that they alone may read, and a second group."""
    subprocess.run([program("usermod"), "--append", "--groups", "games", carol.name], check=True)
    carol.home.chmod(0o700)
    carol.write('global { reply "bouncer" }').chmod(0o600)
    return carol


@pytest.fixture(scope="module")
def query(ports: str) -> bytes:
    """A connection of theirs, as a query."""
    return ports.encode()


@pytest.fixture
def system() -> Iterator[str]:
    """A system file that lets everyone spoof."""
    with system_file(SYSTEM) as path:
        yield str(path)


def test_a_closed_home(carol: Resident, query: bytes, system: str) -> None:
    """What she alone may read is read by root's process, which has become her, and not by nobody's: both are right."""
    with handler("-C", system) as served:
        assert served.ask(query + b"\r\n") == query + b":USERID:UNIX:bouncer\r\n"
        assert served.status() == 0
    with handler("-C", system, **AS_NOBODY) as served:
        assert served.ask(query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (query, carol.name.encode())
        assert served.status() == 0


def test_the_order_of_the_system_calls(carol: Resident, query: bytes, system: str, tmp_path: Path) -> None:
    """Groups, gid and uid change, in this order, saved ones included, before any path in her home is looked at."""
    trace = tmp_path / "trace"
    calls = "trace=setgroups,setresgid,setresuid,open,openat,stat,lstat,newfstatat,statx,readlink,access,faccessat2"
    words = [program("strace"), "-f", "-s", "300", "-e", calls, "-o", str(trace)]
    with handler("-C", system, command=[*words, *COMMAND]) as served:
        assert served.ask(query + b"\r\n").endswith(b":bouncer\r\n")
        assert served.status() == 0
    lines = trace.read_text().splitlines()

    def first(pattern: str) -> int:
        return next(number for number, line in enumerate(lines) if re.search(pattern, line))

    became = first(rf"setresuid\({carol.uid}, {carol.uid}, {carol.uid}\) *= 0")
    assert first(r"setgroups\(") < first(rf"setresgid\({carol.gid}, {carol.gid}, {carol.gid}\) *= 0") < became
    touched = [number for number, line in enumerate(lines) if str(carol.home) in line]
    assert touched and min(touched) > became
    assert any("openat" in lines[number] and str(carol.file) in lines[number] for number in touched)


#: Looks at the process from within, when her file is opened: who it is, and whether root can be had back.
LOOK = """
import os
opened = os.open
def look(path, *rest, **more):
    if str(path).endswith("oidentd.conf") and "home" in str(path) and not os.environ.get("SEEN"):
        os.environ["SEEN"] = "1"
        with open({report!r}, "a") as report:
            lines = open("/proc/self/status").read().splitlines()
            report.write("\\n".join(line for line in lines if line[:4] in ("Uid:", "Gid:", "Grou", "CapE", "CapP")))
            for name, arguments in (("setuid", (0,)), ("seteuid", (0,)), ("setresuid", (0, 0, 0)), ("setgid", (0,)),
                                    ("setgroups", ([],))):
                try:
                    getattr(os, name)(*arguments)
                    report.write("\\n" + name + " worked")
                except PermissionError:
                    report.write("\\n" + name + " refused")
    return opened(path, *rest, **more)
os.open = look
"""


def seen(tmp_path: Path, query: bytes, *options: str) -> tuple[dict[str, list[str]], bytes]:
    """Return what the process was when it opened the file, and its reply."""
    report = tmp_path / "report"
    report.touch()
    report.chmod(0o666)
    with handler(*options, command=driver(tmp_path, LOOK.format(report=str(report)))) as served:
        reply = served.ask(query + b"\r\n")
        served.status()
    lines = report.read_text().splitlines()
    return {line.split()[0].rstrip(":"): line.split()[1:] for line in lines}, reply


def test_nothing_of_root_is_left(carol: Resident, query: bytes, system: str) -> None:
    """All four uids and gids are hers, her groups are hers, no capability is left, and root can't be regained."""
    with readable_folder() as folder:
        status, reply = seen(folder, query, "-C", system)
    assert reply.endswith(b":bouncer\r\n")
    assert status["Uid"] == [str(carol.uid)] * 4
    assert status["Gid"] == [str(carol.gid)] * 4
    assert set(map(int, status["Groups"])) == set(os.getgrouplist(carol.name, carol.gid))
    assert len(status["Groups"]) == 2
    assert status["CapPrm"] == status["CapEff"] == ["0" * 16]
    for call in ("setuid", "seteuid", "setresuid", "setgid", "setgroups"):
        assert status[call] == ["refused"]


def test_roots_own_connection(system: str, carol: Resident, tmp_path: Path) -> None:
    """For root's connection nothing is read as root: the process becomes nobody, and the answer is root."""
    trace = tmp_path / "trace"
    words = [program("strace"), "-f", "-e", "trace=setresuid,openat", "-s", "300", "-o", str(trace)]
    with connect() as pair, handler("-C", system, command=[*words, *COMMAND]) as served:
        assert served.ask(pair.query + b"\r\n") == pair.query + b":USERID:UNIX:root\r\n"
        assert served.status() == 0
    text = trace.read_text()
    assert re.search(rf"setresuid\({NOBODY}, {NOBODY}, {NOBODY}\) *= 0", text)
    assert "/root/.oidentd.conf" not in text[: text.index("setresuid")]


@pytest.mark.parametrize("options", [("-u", "nobody"), ("-u", str(NOBODY)), ("--user=nobody", "--group=nogroup")])
def test_a_user_that_was_named(carol: Resident, query: bytes, system: str, options: tuple[str, ...]) -> None:
    """With -u, as Debian's unit for oidentd has it, the process is that user's from the start, as oidentd's is."""
    with handler("-C", system, *options) as served:
        before = [line for line in _status(served.process.pid, lambda uid: uid == NOBODY) if line.startswith("Uid:")]
        assert before[0].split()[1:] == [str(NOBODY)] * 4
        assert served.ask(query + b"\r\n").endswith(b":%b\r\n" % carol.name.encode())
        assert served.status() == 0


def _status(pid: int, reached: object) -> list[str]:
    """Return /proc/PID/status of a process once it is nobody's, which it must become before it is sent anything."""
    def is_nobodys() -> bool:
        with open(f"/proc/{pid}/status") as status:
            return f"Uid:\t{NOBODY}\t" in status.read()

    until(is_nobodys)
    with open(f"/proc/{pid}/status") as status:
        return status.read().splitlines()


def test_a_user_that_is_none(carol: Resident, system: str) -> None:
    """An unknown -u is a bad option: no reply, status 2."""
    with handler("-C", system, "-u", "identd-none") as served:
        assert served.read() == b""
        assert "identd-none" in served.log()
        assert served.status() == 2


def test_where_root_may_not_become_anyone(carol: Resident, query: bytes, system: str, tmp_path: Path) -> None:
    """Where the kernel refuses (a sandbox), nothing of hers is opened: UNKNOWN-ERROR, and the log says why."""
    capabilities = [program("setpriv"), "--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid"]
    trace = tmp_path / "trace"
    words = [program("strace"), "-f", "-e", "trace=openat", "-s", "300", "-o", str(trace)]
    with handler("-S", "-C", system, command=[*words, *capabilities, *COMMAND]) as served:
        assert served.ask(query + b"\r\n") == query + b":ERROR:UNKNOWN-ERROR\r\n"
        log = served.log()
        assert served.status() == 0
    assert "root could not be given up" in log and "Operation not permitted" in log
    assert str(carol.home) not in trace.read_text()


def test_in_a_user_namespace(carol: Resident, query: bytes, system: str) -> None:
    """In a user namespace that has no uid but root's, the answer is UNKNOWN-ERROR, never a name."""
    command = [program("unshare"), "-U", "-r", *COMMAND]
    with handler("-S", "-C", system, command=command) as served:
        assert served.ask(query + b"\r\n") == query + b":ERROR:UNKNOWN-ERROR\r\n"
        assert "user namespace" in served.log()


def test_nothing_is_opened_in_vain(carol: Resident, query: bytes, tmp_path: Path) -> None:
    """Without a system file, and where the answer is forced, nothing of hers is opened, by whomever."""
    trace = tmp_path / "trace"
    words = [program("strace"), "-f", "-s", "300", "-o", str(trace)]
    without = driver(tmp_path, "import identserver\nidentserver.CONFIG = '/nonexistent/oidentd.conf'")
    with system_file("default { default { force spoof } }") as forcing:
        for command, options in ((without, ()), (COMMAND, ("-C", str(forcing)))):
            with handler(*options, command=[*words, *command]) as served:
                assert served.ask(query + b"\r\n").endswith(b":%b\r\n" % carol.name.encode())
                served.status()
            assert str(carol.home) not in trace.read_text()


def test_an_owner_without_a_name(carol: Resident, system: str) -> None:
    """For a uid without a passwd entry there is no file to read, so nobody need be become."""
    uid = nameless_uid()
    with connected(uid) as query, handler("-C", system) as served:
        assert served.ask(query.encode() + b"\r\n") == b"%b:USERID:OTHER:%d\r\n" % (query.encode(), uid)


def test_become_owner_of_an_unknown_uid(needs_root: None) -> None:
    """A uid that nobody has can't be taken on: an error that names it, and root is kept by nobody who goes on."""
    code = (
        "import lookup\n"
        "from identserver.privileges import become_owner\n"
        "try: become_owner(1900000999)\n"
        "except lookup.IdentError as error: print(error.uid, error.detail)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.startswith("1900000999 root could not be given up")
    assert IDENTD.exists()
