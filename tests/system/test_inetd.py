"""Does the installed identd answer the same under every superserver, as an unprivileged user?

One table of superservers, one set of cases. A superserver here is the real program with a configuration that is
the project's own file or README's line, of which only the path and the port are replaced.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from helpers.hosts import Person, login
from helpers.installed import (
    FROM_DISTRIBUTION,
    FROM_PYPI,
    PYTHON,
    free_port,
    install,
    listens,
    readable_folder,
)
from helpers.machine import NOBODY, ROOT, program, skip
from helpers.pairs import PATIENCE, connect, everything
from helpers.superservers import BECOME_NOBODY, FOREGROUND, INETD, INETD_WAIT, SUPERSERVERS, TCPSERVER, Driver, driving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.superservers"]

pytestmark = pytest.mark.usefixtures("needs_root")


@pytest.fixture(scope="module", params=sorted(SUPERSERVERS))
def driver(request: pytest.FixtureRequest, installed: Path) -> Iterator[Driver]:
    """One superserver after the other."""
    if os.geteuid() != 0:
        skip("needs root")
    with driving(request.param, installed) as driver:
        yield driver


@pytest.fixture(scope="module")
def carol() -> Iterator[pwd.struct_passwd]:
    """A real login."""
    if os.geteuid() != 0:
        skip("needs root")
    program("useradd")
    with login() as user:
        yield user


def test_names_the_user(driver: Driver, carol: pwd.struct_passwd) -> None:
    """A real user's connection is answered with his login name, in one reply, over IPv4 and IPv6."""
    with Person(carol.pw_uid) as person:
        for host in driver.hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as listener:
                listener.bind((host, 0))
                listener.listen()
                ends = person.dial((host, listener.getsockname()[1]))
                query = b"%d,%d" % (ends[0][1], ends[1][1])
                assert driver.ask(query + b"\r\n", host) == b"%b:USERID:UNIX:%b\r\n" % (query, carol.pw_name.encode())


def test_refuses_with_the_right_error(driver: Driver) -> None:
    """No such connection: NO-USER. No such port: INVALID-PORT, with the tokens as they came."""
    nobodys = b"%d,%d" % (free_port(), free_port())
    assert driver.ask(nobodys + b"\r\n") == nobodys + b":ERROR:NO-USER\r\n"
    assert driver.ask(b"0 , 65536\r\n") == b"0,65536:ERROR:INVALID-PORT\r\n"


def test_twenty_at_once(driver: Driver) -> None:
    """Clients that ask at the same time about different connections each get their own answer."""
    name = pwd.getpwuid(os.geteuid()).pw_name.encode()
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(connect()) for _ in range(20)]
        pool = stack.enter_context(ThreadPoolExecutor(len(pairs)))
        replies = list(pool.map(driver.ask, (pair.query + b"\r\n" for pair in pairs)))
        assert replies == [b"%b:USERID:UNIX:%b\r\n" % (pair.query, name) for pair in pairs]


@pytest.mark.parametrize("garbage", [b"\r\n", b"GET / HTTP/1.0\r\n", b"\0\1,2\r\n", b"1,2,3\r\n", b"x" * 5000])
def test_closes_on_garbage(driver: Driver, garbage: bytes) -> None:
    """What is no query gets no octet, and a clean end of the connection."""
    assert driver.ask(garbage) == b""


def test_no_reset_for_whoever_sends_more(driver: Driver) -> None:
    """A client that sent more than its query gets the reply and a clean end."""
    query = b"%d,%d" % (free_port(), free_port())
    assert driver.ask(query + b"\r\n" + b"1,2\r\n" * 400) == query + b":ERROR:NO-USER\r\n"


def test_nothing_for_whoever_leaves(driver: Driver) -> None:
    """A client that ends in the middle of its query gets no octet, whatever identd has to say about it."""
    with driver.call() as client:
        client.sendall(b"12")
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == b""


def test_logs_one_line(driver: Driver) -> None:
    """The system's log gets one line per query, with who asked, what was answered and the uid."""
    driver.forget()
    with connect() as pair:
        query = pair.query
        reply = driver.ask(query + b"\r\n").strip()
    lines = driver.logged(reply)
    assert sum(query in line for line in lines) == 1
    assert b"127.0.0.1" in lines[-1]
    assert b"uid %d" % os.geteuid() in lines[-1]


def test_runs_as_nobody(driver: Driver) -> None:
    """The process that reads a client's octets is nobody's, and has no capability."""
    with driver.call() as client:
        # Half a query, so that the warm process is there too.
        client.sendall(b"1")
        serving = _identds(driver)
        assert {(one.uids(), _capabilities(one.pid)) for one in serving} == {((NOBODY,) * 3, 0)}
        client.sendall(b",1\r\n")
        assert everything(client).startswith(b"1,1:")


def _identds(driver: Driver) -> list[psutil.Process]:
    """Return the processes that are identd's and listen to clients by now, one at least."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes = [psutil.Process(driver.process.pid), *driver.descendants()]
            found = [one for one in processes if any("/bin/identd" in word for word in one.cmdline()[1:3])]
            if found and all(one.uids().effective == NOBODY for one in found):
                return found
        time.sleep(0.05)
    raise AssertionError(f"no identd of nobody's among {driver.descendants()}")


def _capabilities(pid: int) -> int:
    """Return a process' effective capabilities (proc(5))."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


@pytest.mark.parametrize("name", ["inetd", "xinetd"])
def test_a_bad_option_says_nothing_to_the_client(name: str, installed: Path) -> None:
    """Standard error is the client's connection there; what is wrong with the options goes to the log."""
    with driving(name, installed, "--no-such-option") as driver:
        # Whether the client sees an end or a reset is the same to it: nobody has read its query.
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = driver.ask(b"1,2\r\n")
        assert received == b""
        assert b"no-such-option" in driver.logged(b"no-such-option")[-1]


@pytest.mark.parametrize(("name", "queries"), [("inetd", 300), ("xinetd", 120)])
def test_a_storm_is_not_locked_out(name: str, queries: int, installed: Path) -> None:
    """More queries than the superserver's default lets through in a minute (inetd: 256) or a second (xinetd: 50)."""
    with driving(name, installed, "--reply-all=somebody") as driver, driver.log_taken(), ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(driver.ask, [b"1,2\r\n"] * queries))
        assert replies == [b"1,2:USERID:UNIX:somebody\r\n"] * queries
        assert listens(driver.port)


def test_by_hand(installed: Path, carol: pwd.struct_passwd) -> None:
    """On a pipe, as nobody, every line is answered: a real user's connection by its ports alone, an error, garbage."""
    with Person(carol.pw_uid) as person, socket.create_server(("127.0.0.1", 0)) as listener:
        ends = person.dial(("127.0.0.1", listener.getsockname()[1]))
        query = b"%d,%d" % (ends[0][1], ends[1][1])
        lines = query + b"\ngarbage\n0,1\n"
        done = subprocess.run(
            [*BECOME_NOBODY, str(installed)], input=lines, capture_output=True, timeout=PATIENCE, check=False
        )
    assert done.stdout == b"%b:USERID:UNIX:%b\r\n0,1:ERROR:INVALID-PORT\r\n" % (query, carol.pw_name.encode())
    assert done.returncode == 0


def test_check_as_nobody(installed: Path) -> None:
    """What was installed says of itself that its answers are true, to nobody too."""
    done = subprocess.run(
        [*BECOME_NOBODY, str(installed), "--check"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "source   sock_diag" in done.stdout


def _pypi_answers(folder: Path) -> bool:
    """Say whether pip gets anything from its index here: without a network, README's other line is the one to take."""
    subprocess.run([PYTHON, "-m", "venv", str(folder / "probe")], check=True, capture_output=True, timeout=PATIENCE)
    pip = [str(folder / "probe" / "bin" / "pip"), "download", "--no-deps", "-q", "-d", str(folder / "probe"), "psutil"]
    return subprocess.run(pip, capture_output=True, check=False, timeout=PATIENCE * 3).returncode == 0


def test_installs_from_pypi() -> None:
    """README's other line, with the newest pyroute2 and psutil, gives an identd that answers as nobody."""
    with readable_folder() as folder:
        if not _pypi_answers(folder):
            skip("needs PyPI")
        test_check_as_nobody(install(FROM_PYPI, folder))


@pytest.mark.parametrize("line", [FROM_PYPI, FROM_DISTRIBUTION, INETD, INETD_WAIT, TCPSERVER, FOREGROUND])
def test_readme_says_so(line: str) -> None:
    """What these tests run is what README tells the administrator to write."""
    readme = (ROOT / "README.md").read_text()
    # The table shows inetd's second form as a difference to the first.
    assert line in readme or (line == INETD_WAIT and "the same with `wait`" in readme)
