"""Does one query fail safe, whatever happens to the process that answers it?  The attacks of issue 9, one by one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Callable

import pytest
from helpers.installed import PYTHON, readable_folder
from helpers.logs import received, syslog
from helpers.machine import AS_NOBODY, IDENTD, NOBODY, ROOT, only_root, program
from helpers.pairs import Pair, named
from helpers.residents import system_file
from helpers.single_shot import COMMAND, handler, private_dev
from helpers.superservers import BECOME_NOBODY
from helpers.warm import log_of, status, warming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helpers.residents import Resident

pytest_plugins = ["helpers.people"]

# P6: capabilities.

#: What lets root keep its capabilities when it becomes somebody else.
KEEPING = "--securebits=+no_setuid_fixup"


def capabilities(pid: int) -> set[int]:
    """Return what a process has of the capabilities that it can use, take or hand on."""
    fields = status(pid)
    assert fields["Uid"].split() == [str(NOBODY)] * 4
    return {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")}


@pytest.mark.usefixtures("needs_root")
def test_no_capability_is_left_in_the_warm_process(pair: Pair) -> None:
    """A securebit would let nobody keep all of root's capabilities: they are given up all the same."""
    with warming(command=[program("setpriv"), KEEPING, *COMMAND]) as warm:
        assert capabilities(warm.process.pid) == {0}
        assert warm.ask(pair.query + b"\r\n") == named(pair)


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("options", [(), ("-u", "nobody")])
def test_no_capability_is_left_in_a_single_shot(pair: Pair, options: tuple[str, ...]) -> None:
    """So it is where a process answers one query: it has none when the query comes."""
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); import identd, identserver.start as s\n"
        "read = s.SocketTransport.read\n"
        "def look(self):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    print([int(l[7:], 16) for l in lines if l[:6] in ('CapPrm', 'CapEff', 'CapAmb')], file=sys.stderr)\n"
        "    return read(self)\n"
        "s.SocketTransport.read = look\n"
        "sys.exit(identd.main(sys.argv[1:]))"
    )
    command = [program("setpriv"), KEEPING, sys.executable, "-c", code]
    with handler(*options, command=command) as served:
        assert served.ask(pair.query + b"\r\n") == named(pair)
        assert "[0, 0, 0]" in served.log()


@pytest.mark.usefixtures("needs_root")
def test_capabilities_that_cant_be_given_up() -> None:
    """Where the kernel refuses to take them, there is no start: no reply, and the log says why."""
    strace = [program("strace"), "-f", "-o", "/dev/null", "-e", "inject=capset:error=EPERM:when=1+"]
    with handler(command=[program("setpriv"), KEEPING, *strace, *COMMAND]) as served:
        assert served.read() == b""
        assert "root's capabilities can't be given up" in served.log()
        assert served.status() != 0


# P3: a start that fails.


@pytest.fixture
def closed(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """An identd one of whose packages is closed to other users, as pip leaves it under umask 077."""
    only_root()
    with readable_folder() as folder:
        for package in ("identserver", "lookup"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(IDENTD, folder)
        (folder / request.param).chmod(0o700)
        # Not the tests' own interpreter: an identd that is installed for that one would be found in its place.
        yield [os.path.realpath(PYTHON), str(folder / IDENTD.name)]


CLOSED = pytest.mark.parametrize("closed", ["identserver", "lookup", "lookup/kernel"], indirect=True)


@CLOSED
def test_a_package_that_is_closed_says_nothing_to_the_client(closed: list[str], tmp_path: Path) -> None:
    """Descriptor 2 is the client's connection: the client gets nothing, or one reply; the log says what is wrong."""
    log = tmp_path / "log"
    with syslog(log) as daemon, handler(
        command=[*private_dev(tmp_path, log), *BECOME_NOBODY, *closed], stderr=subprocess.STDOUT
    ) as served:
        reply = b""
        with contextlib.suppress(ConnectionResetError):
            served.client.sendall(b"1,2\r\n")
            reply = served.read()
        served.status()
        logged = b"\n".join(received(daemon))
    assert reply in (b"", b"1,2:ERROR:UNKNOWN-ERROR\r\n")
    assert b"can't read identd: " in logged and b" has mode 0700, which lacks o+" in logged


@CLOSED
def test_a_package_that_is_closed_is_told_where_a_person_reads(closed: list[str]) -> None:
    """Where standard error is another place, it has one line and no traceback."""
    with handler("-S", command=[*BECOME_NOBODY, *closed]) as served:
        with contextlib.suppress(OSError):  # it has gone
            served.client.sendall(b"1,2\r\n")
        log = served.log()
    assert "Traceback" not in log


# P5: the log.

#: Asks an identd under a system file, and returns the reply and the log.
Ask = Callable[[str, bytes], "tuple[bytes, str]"]


def uids_of(log: str) -> list[int]:
    """Return the uids in a log, in order."""
    return [int(uid) for uid in re.findall(r"\buid ([0-9]+)", log)]


@pytest.fixture(params=["single", "warm"])
def logged(request: pytest.FixtureRequest) -> Ask:
    """Asks an identd under a system file, in one of both forms, and returns the reply and the log."""

    def ask(system: str, query: bytes) -> tuple[bytes, str]:
        if request.param == "single":
            with handler("-S", "-C", system, **AS_NOBODY) as served:
                return served.ask(query + b"\r\n"), served.log()
        with warming("-S", "-C", system, stderr=subprocess.PIPE) as warm:
            return warm.ask(query + b"\r\n"), log_of(warm)

    return ask

@pytest.mark.parametrize(
    "name", ["x (bob, uid 5002, sock_diag, rule /etc/oidentd.conf:1)", "uid 5002, bob: x", "x" * 511]
)
def test_the_owners_uid_is_logged_first(carol: Resident, ports: str, logged: Ask, name: str) -> None:
    """What she chooses looks like the rest of a line, or is so long that receivers cut off what follows."""
    carol.write(f'global {{ reply "{name}" }}')
    with system_file("default { default { allow spoof } }") as path:
        reply, log = logged(str(path), ports.encode())
    assert reply.endswith(b":" + name.encode() + b"\r\n")
    (line,) = [line for line in log.splitlines() if "was told" in line]
    assert uids_of(line[:400])[0] == carol.uid
    assert line.index(f"uid {carol.uid}") < line.index(name)


def test_a_users_file_is_logged_before_what_is_wrong_with_it(carol: Resident, ports: str, logged: Ask) -> None:
    """What the log quotes of a file is her choice as well: its path, which is in her home, stands before that."""
    carol.write('global { "(bob, uid 5002, sock_diag" }')
    with system_file("default { default { allow spoof } }") as path:
        _, log = logged(str(path), ports.encode())
    quoting = [line for line in log.splitlines() if "5002" in line]
    assert quoting and all(line.startswith(f"identd: {carol.file}:1:10: ") for line in quoting)
