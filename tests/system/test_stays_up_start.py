"""Where identd can't start, is it said once, where it is read, and never to a client? Does it start where it can?"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.installed import PYTHON, free_port, readable_folder
from helpers.logs import received, syslog
from helpers.machine import AS_NOBODY, IDENTD, ROOT, only_if_others_can_read_it, program
from helpers.pairs import PATIENCE, Pair, connect, everything, me, named
from helpers.single_shot import COMMAND, by_hand, ending, handler, private_dev, start
from helpers.superservers import BECOME_NOBODY, INETD
from helpers.warm import warming

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.superservers"]


# What the user who serves can't read.


@pytest.fixture(params=["a folder above", "a folder", "a file"])
def closed(request: pytest.FixtureRequest, needs_root: None) -> Iterator[tuple[list[str], str]]:
    """An identd that root alone can read, and what the sentence about it has to name."""
    with readable_folder() as folder:
        top = folder / "home" / "identd"
        top.mkdir(parents=True)
        for package in ("identserver", "lookup"):
            shutil.copytree(ROOT / package, top / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(IDENTD, top)
        where, mode, lacking = {
            "a folder above": (folder / "home", 0o700, "o+x"),
            "a folder": (top / "lookup" / "users", 0o711, "o+r"),
            "a file": (top / "lookup" / "owner.py", 0o600, "o+r"),
        }[request.param]
        where.chmod(mode)
        command = [os.path.realpath(PYTHON), "-I", str(top / "identd.py")]
        yield command, f"{where} has mode {mode:04o}, which lacks {lacking}"


@pytest.mark.parametrize("form", ["a connection", "a listening socket", "-i", "a daemon", "a pipe", "--explain"])
def test_what_nobody_can_read(closed: tuple[list[str], str], form: str) -> None:
    """Root says in one sentence who can't read what, and ends with 1, before it serves anybody."""
    command, right = closed
    own = ["-a", "127.0.0.1", "-p", str(free_port())]
    options = {"-i": ["-i", *own], "a daemon": own, "--explain": ["--explain", "1,2"]}.get(form, [])
    with connect() as (_, accepted, _), socket.create_server(("127.0.0.1", 0)) as listener:
        stdin: dict[str, Any] = {"a connection": accepted, "a listening socket": listener, "a pipe": subprocess.PIPE}
        said = subprocess.run(
            [*command, *options], stdin=stdin.get(form, subprocess.DEVNULL), capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("identd: uid 65534 can't read ") and said.stderr.count("\n") == 1, said.stderr
    assert right in said.stderr


def test_check_of_what_nobody_can_read(closed: tuple[list[str], str]) -> None:
    """`--check` says so too, and ends with 1: the installation itself is closed, or --user asks about nobody."""
    command, right = closed
    # A clone in a closed home is root's to try: there this is a warning.
    options = ["--user", "nobody"] if "/home has mode" in right else []
    command += ["--check", *options]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert said.returncode == 1
    assert right.partition(" has ")[0] in said.stdout


@pytest.mark.parametrize("whole", [False, True], ids=["half", "closed"])
def test_a_command_without_its_modules(needs_root: None, tmp_path: Path, whole: bool) -> None:
    """The installed command where pip is just at work, or under umask 077: the log has it, the client nothing."""
    with readable_folder() as folder:
        shutil.copy(ROOT / "identserver" / "bin" / "identd", folder)
        (folder / "identd.py").write_text("from none_such import main\n")
        (folder / "identd.py").chmod(0o600 if whole else 0o644)
        # What a virtual environment does for its command.
        code = f"import sys; sys.path.insert(0, {str(folder)!r}); exec(open({str(folder / 'identd')!r}).read())"
        command = [*BECOME_NOBODY, os.path.realpath(PYTHON), "-I", "-c", code]
        with syslog(tmp_path / "log") as daemon, connect() as (client, accepted, _):
            process = start([*private_dev(tmp_path, tmp_path / "log"), *command], accepted, stderr=accepted)
            accepted.close()
            with ending(process):
                assert everything(client) == b""
                assert process.wait(PATIENCE) == 1
            (line,) = received(daemon)
    assert line.startswith(b"<27>") and line.count(b"identd") >= 1
    assert (b"mode 0600" if whole else b"none_such") in line


def test_a_root_folder_without_devices(needs_root: None, pair: Pair) -> None:
    """Where there is no /dev/null to put in place of the client's connection, the client still gets the reply alone."""
    bare = [program("unshare"), "-m", "sh", "-c", 'mount -t tmpfs none /dev; exec "$@"', "sh", *BECOME_NOBODY]
    with connect() as (client, accepted, _):
        process = start([*bare, *COMMAND, "-C", "none", "-d"], accepted, stderr=accepted)
        accepted.close()
        with ending(process):
            client.sendall(pair.query + b"\r\n")
            assert everything(client) == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"


# PYTHON* variables of a superserver.

VARIABLES = {
    "PYTHONVERBOSE": "1", "PYTHONINSPECT": "1", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "nonsense",
    "PYTHONSTARTUP": "/x", "PYTHONPROFILEIMPORTTIME": "1", "PYTHONHOME": "/nonexistent", "PYTHONPATH": "{folder}",
    "PYTHONMALLOCSTATS": "1", "PYTHONTRACEMALLOC": "x", "PYTHONIOENCODING": "nonsense", "PYTHONPLATLIBDIR": "/x",
    "PYTHONDUMPREFS": "1", "PYTHONUTF8": "7", "PYTHONHASHSEED": "x", "PYTHONFAULTHANDLER": "1",
}  # fmt: skip


def test_no_variable_says_anything_to_the_client(needs_root: None, installed: Path, pair: Pair) -> None:
    """The lines of the service files start Python so that it obeys none: on the connection is the reply alone."""
    line = INETD.replace("/opt/identd/", f"{installed.parents[1]}/").split()[5:]
    program_, argv = line[0], line[1:]
    assert program_ == argv[0], "by its whole path Python finds the packages beside it"
    with readable_folder() as folder:
        (folder / "os.py").write_text("print('here I am')\n")
        variables = {name: value.format(folder=folder) for name, value in VARIABLES.items()}
        for environment in (variables, *({name: value} for name, value in variables.items())):
            with connect() as (client, accepted, _):
                process = start([*BECOME_NOBODY, *argv], accepted, stderr=accepted, env=environment)
                accepted.close()
                with ending(process):
                    client.sendall(pair.query + b"\r\n")
                    assert everything(client) == named(pair), environment
                    assert process.wait(PATIENCE) == 0


# What is said of it, and where.


def failing(folder: Path, taken: int) -> dict[str, list[str]]:
    """Return command lines that can't be obeyed, by a word of the reason."""
    return {
        f"port {taken}: Address already in use": ["-i", "-p", str(taken)],
        "--nonsense": ["--nonsense"],
        "no such user: identd-none": ["-i", "-a", "127.0.0.1", "-p", str(free_port()), "-u", "identd-none"],
    }


def test_in_the_journal_it_is_an_error_without_our_name(tmp_path: Path) -> None:
    """Priority err, once; the journal adds the name (SyslogIdentifier=)."""
    with socket.create_server(("", 0)) as taken:
        for reason, options in failing(tmp_path, taken.getsockname()[1]).items():
            read, write = os.pipe()
            status = os.fstat(write)
            environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            done = subprocess.run([*COMMAND, *options], stderr=write, env=environment, timeout=PATIENCE, check=False)
            os.close(write)
            with open(read, encoding="ascii") as journal:
                lines = journal.read().splitlines()
            assert done.returncode in (1, 2)
            assert len(lines) == 1 and lines[0].startswith("<3>") and reason in lines[0], lines
            assert "identd:" not in lines[0]


def test_a_log_of_its_own_has_it_too(needs_root: None, tmp_path: Path) -> None:
    """Where the log is syslog, a start that failed is in there at err, once, beside the line for whoever started it."""
    with syslog(tmp_path / "log") as daemon, socket.create_server(("", 0)) as taken:
        words = private_dev(tmp_path, tmp_path / "log")
        for reason, options in failing(tmp_path, taken.getsockname()[1]).items():
            said = by_hand(b"", *options, command=[*words, *COMMAND])
            assert said.stderr.count("\n") == 1 and said.stderr.startswith("identd: ") and reason in said.stderr
            (line,) = received(daemon)
            assert line.startswith(b"<27>identd[") and line.count(b"identd[") == 1 and reason.encode() in line


@pytest.mark.parametrize("address", [(), ("-a", "127.0.0.1")], ids=["every address", "one"])
def test_a_port_that_is_taken(address: tuple[str, ...]) -> None:
    """One plain sentence with the port in it, and none of Python's words."""
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        said = by_hand(b"", "-i", "-p", str(port), *address)
    assert said.status == 1
    host = f"{address[1]} " if address else ""
    assert said.stderr == f"identd: {host}port {port}: Address already in use\n"


def test_the_foreground_without_a_log(needs_root: None, tmp_path: Path, pair: Pair) -> None:
    """With neither a terminal nor a syslog daemon the log is standard error: in a container nobody looks elsewhere."""
    port = free_port()
    command = [*private_dev(tmp_path, tmp_path / "none"), *COMMAND, "-i", "-a", "127.0.0.1", "-p", str(port)]
    with ending(subprocess.Popen([*command, "-C", "/dev/null"], stderr=subprocess.PIPE)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"identd: serving 127.0.0.1 port %d\n" % port
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(pair.query + b"\r\n")
            assert everything(client) == named(pair)
        assert b"was told" in process.stderr.readline()


# Signals.

BLOCK = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_signals_that_were_blocked() -> None:
    """A superserver that blocks signals while it starts us leaves us deaf to none: SIGTERM ends both forms."""
    command = [sys.executable, "-c", BLOCK, *COMMAND]
    with warming("-C", "/dev/null", command=command) as warm:
        assert warm.ask(b"1,1\r\n") == b"1,1:ERROR:NO-USER\r\n"
        assert warm.end() == 0
    with handler("--multi-query", "-C", "/dev/null", command=command) as served:
        served.client.sendall(b"1,1\r\n")
        assert served.client.recv(100) == b"1,1:ERROR:NO-USER\r\n"
        served.process.send_signal(signal.SIGTERM)
        assert served.status() == -signal.SIGTERM


# A daemon that does not say that it is one.

#: In a network of its own: starts identd with /dev/null, then asks it on port 113.
ALONE = """
import socket, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, text=True)
print(done.returncode, done.stdout + done.stderr, end="")
with socket.create_connection(("127.0.0.1", 113), 10) as client:
    client.sendall(b"1,1\\r\\n")
    print(client.recv(100).decode().strip())
"""


def test_on_dev_null_as_root(needs_root: None) -> None:
    """It listens on port 113, goes to the background, says so, and the command ends with 0."""
    only_if_others_can_read_it()
    program("ip")
    apart = [program("unshare"), "--net", "--pid", "--fork", "--kill-child", "sh", "-c", 'ip link set lo up; exec "$@"']
    said = subprocess.run(
        [*apart, "sh", sys.executable, "-c", ALONE, *COMMAND, "-C", "/dev/null"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE * 2, check=False,
    )  # fmt: skip
    first, second = said.stdout.splitlines()
    assert first == "0 identd: standard input is /dev/null: port 113 is served, in the background"
    assert second == "1,1:ERROR:NO-USER"


@pytest.mark.parametrize("options", [("-I",), ("--stdio", "-S")])
def test_on_dev_null_with_stdio(options: tuple[str, ...]) -> None:
    """-I reads it, and there is nothing to read; so it is for whoever is not root, and where sockets were passed."""
    only_if_others_can_read_it()
    for more in ({}, AS_NOBODY if os.geteuid() == 0 else {}):
        done = subprocess.run(
            [*COMMAND, *(() if more else options)], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE,
            check=False, **more,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert me()
