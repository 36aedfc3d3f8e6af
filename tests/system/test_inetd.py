"""Does the installed identd answer the same under every superserver, as an unprivileged user?

One table of superservers, one set of cases. A superserver here is the real program with a configuration that is
the project's own file or README's line, of which only the path and the port are replaced.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple

import psutil
import pytest
from conftest import ROOT, connect, program, skip
from hosts import Person, login
from installed import (
    FROM_DISTRIBUTION,
    FROM_PYPI,
    PYTHON,
    free_port,
    from_distribution,
    install,
    listens,
    readable_folder,
    replaced,
    until_it_listens,
)
from single_shot import PATIENCE, ending, private_dev

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("needs_root")

NOBODY = 65534

#: README's lines, where they are no files.
INETD = "113 stream tcp nowait.10000 nobody /opt/identd/bin/identd identd"
INETD_WAIT = "113 stream tcp wait nobody /opt/identd/bin/identd identd"
TCPSERVER = "tcpserver -RHl0 -c128 -u65534 -g65534 0 113 /opt/identd/bin/identd"
FOREGROUND = "/opt/identd/bin/identd --foreground"

AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


class Place(NamedTuple):
    """Where a superserver is to work: which identd, on which port, with which options, and a folder for its files."""

    identd: Path
    port: int
    options: str
    folder: Path

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


def _xinetd(place: Place, name: str) -> list[str]:
    """Run xinetd.d/identd with one of its two services."""
    text = replaced((ROOT / "xinetd.d" / "identd").read_text(), "= /opt/identd/bin/identd", f"= {place.identd}")
    text = replaced(text, "= 113\n", f"= {place.port}\n")
    disabled, enabled = ("identd", "identd-wait") if name == "identd-wait" else ("identd-wait", "identd")
    for service, word in ((enabled, "no"), (disabled, "yes")):
        head, tail = text.split(f"service {service}\n", 1)
        shipped = "no" if service == "identd" else "yes"
        text = f"{head}service {service}\n" + tail.replace(f"disable\t\t= {shipped}\n", f"disable\t\t= {word}\n", 1)
    if place.options:
        text = replaced(text, "\tpassenv", f"\tserver_args = {place.options}\n\tpassenv")
    services = place.folder / "xinetd.d"
    services.mkdir()
    (services / "identd").write_text(text)
    configuration = place.file("xinetd.conf", f"defaults\n{{\n}}\nincludedir {services}\n")
    pidfile = str(place.folder / "xinetd.pid")
    return [program("xinetd"), "-dontfork", "-f", configuration, "-pidfile", pidfile]


def _inetd(place: Place, line: str) -> list[str]:
    """Run openbsd-inetd with a line of README's."""
    line = replaced(replaced(line, "113 ", f"{place.port} "), "/opt/identd/bin/identd", str(place.identd))
    return [_openbsd_inetd(place.folder), "-i", place.file("inetd.conf", f"{line} {place.options}\n")]


def _openbsd_inetd(folder: Path) -> str:
    """Return the path of openbsd-inetd. Debian has it conflict with xinetd, so it may have to be unpacked."""
    named = os.environ.get("IDENTD_OPENBSD_INETD") or shutil.which("inetd", path="/usr/sbin:/sbin")
    if named:
        return named
    unpack = "apt-get download -q openbsd-inetd && dpkg -x openbsd-inetd_*.deb unpacked"
    if subprocess.run(["sh", "-c", unpack], cwd=folder, capture_output=True, check=False, timeout=120).returncode:
        skip("needs openbsd-inetd (IDENTD_OPENBSD_INETD names the program)")
    return str(folder / "unpacked" / "usr" / "sbin" / "inetd")


def _socket_activate(place: Place, *options: str) -> list[str]:
    activate = [program("systemd-socket-activate"), f"--listen=[::]:{place.port}", *options]
    return [*AS_NOBODY, *activate, str(place.identd), *place.options.split()]


def _tcpserver(place: Place) -> list[str]:
    line = replaced(replaced(TCPSERVER, " 113 ", f" {place.port} "), "/opt/identd/bin/identd", str(place.identd))
    return [program("tcpserver"), *line.split()[1:], *place.options.split()]


def _foreground(place: Place) -> list[str]:
    words = replaced(FOREGROUND, "/opt/identd/bin/identd", str(place.identd)).split()
    return [*words, "--port", str(place.port), *place.options.split()]


class Superserver(NamedTuple):
    """How one is started, and which local addresses it serves."""

    command: Callable[[Place], list[str]]
    hosts: tuple[str, ...] = ("127.0.0.1", "::1")


#: One process per query.
NOWAIT = {
    "xinetd": Superserver(lambda place: _xinetd(place, "identd")),
    "inetd": Superserver(lambda place: _inetd(place, INETD)),
    "socket-activate-inetd": Superserver(lambda place: _socket_activate(place, "--accept", "--inetd")),
    "socket-activate-accept": Superserver(lambda place: _socket_activate(place, "--accept")),
    "tcpserver": Superserver(_tcpserver, ("127.0.0.1",)),
}

#: One warm process.
WAIT = {
    "xinetd-wait": Superserver(lambda place: _xinetd(place, "identd-wait")),
    "inetd-wait": Superserver(lambda place: _inetd(place, INETD_WAIT)),
    "socket-activate": Superserver(_socket_activate),
    "foreground": Superserver(_foreground),
}

SUPERSERVERS = {**NOWAIT, **WAIT}


class Driver(NamedTuple):
    """A superserver at work: where it listens, and the daemon's end of its processes' /dev/log."""

    name: str
    hosts: tuple[str, ...]
    port: int
    process: subprocess.Popen[bytes]
    syslog: socket.socket

    def call(self, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), PATIENCE)

    def ask(self, query: bytes, host: str = "127.0.0.1") -> bytes:
        """Send, and return all that comes until the server closes. Raises ConnectionResetError if it resets instead."""
        with self.call(host) as client:
            client.sendall(query)
            return everything(client)

    def logged(self, what: bytes) -> list[bytes]:
        """Return identd's log lines until one contains ``what``, which must come."""
        lines: list[bytes] = []
        self.syslog.settimeout(PATIENCE)
        while not lines or what not in lines[-1]:
            datagram = self.syslog.recv(65536)
            if b"identd[" in datagram and b"xinetd[" not in datagram:
                lines.append(datagram)
        return lines

    def forget(self) -> None:
        """Take earlier lines away. The socket holds ten (unix(7), max_dgram_qlen), and identd waits for nobody."""
        self.syslog.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while self.syslog.recv(65536):
                pass

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that it started, and those that they started."""
        return psutil.Process(self.process.pid).children(recursive=True)


def everything(client: socket.socket) -> bytes:
    """Return all that comes until the far end closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))


@contextlib.contextmanager
def driving(name: str, identd: Path, options: str = "") -> Iterator[Driver]:
    """Start a superserver, and end it with all that it started."""
    superserver = SUPERSERVERS[name]
    with readable_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(folder / "log"))
        (folder / "log").chmod(0o666)
        place = Place(identd, free_port(), options, folder)
        said = folder / "said"
        command = [*private_dev(folder, folder / "log"), *superserver.command(place)]
        with said.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        with ending(process), _ending_descendants(process):
            until_it_listens(process, place.port, said)
            yield Driver(name, superserver.hosts, place.port, process, syslog)


@contextlib.contextmanager
def _ending_descendants(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End what a process has started after it, for a warm identd outlives its inetd."""
    try:
        yield
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE / 4)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, PATIENCE)


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """The command identd, as an administrator installs it."""
    with from_distribution() as identd:
        yield identd


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
            found = [one for one in processes if any("/bin/identd" in word for word in one.cmdline()[1:2])]
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
    with driving(name, installed, "--reply-all=somebody") as driver, ThreadPoolExecutor(40) as pool:
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
            [*AS_NOBODY, str(installed)], input=lines, capture_output=True, timeout=PATIENCE, check=False
        )
    assert done.stdout == b"%b:USERID:UNIX:%b\r\n0,1:ERROR:INVALID-PORT\r\n" % (query, carol.pw_name.encode())
    assert done.returncode == 0


def test_check_as_nobody(installed: Path) -> None:
    """What was installed says of itself that its answers are true, to nobody too."""
    done = subprocess.run(
        [*AS_NOBODY, str(installed), "--check"], capture_output=True, text=True, timeout=PATIENCE, check=False
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
