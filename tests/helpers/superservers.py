"""Which superservers start identd, and how does a test start them?

A superserver here is the real program with a configuration that is the project's own file or README's line, of which
only the path and the port are replaced. `installed` is a fixture: name this module in `pytest_plugins`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple

import psutil
import pytest

from helpers.installed import free_port, from_distribution, readable_folder, replaced, until_it_listens
from helpers.machine import NOBODY, ROOT, program, skip
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import ending, private_dev

if TYPE_CHECKING:
    from collections.abc import Iterator

#: README's lines, where they are no files.
_RUN = "/opt/identd/bin/python3 -I /opt/identd/bin/identd"
INETD = f"113 stream tcp nowait.10000 nobody /opt/identd/bin/python3 {_RUN}"
INETD_WAIT = f"113 stream tcp wait nobody /opt/identd/bin/python3 {_RUN}"
TCPSERVER = f"tcpserver -RHl0 -c128 -u65534 -g65534 0 113 {_RUN}"
FOREGROUND = "/opt/identd/bin/identd --foreground"

BECOME_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


class Place(NamedTuple):
    """Where a superserver is to work: which identd, on which port, with which options, and a folder for its files."""

    identd: Path
    port: int
    options: str
    folder: Path

    def here(self, text: str) -> str:
        """Replace the folder of the installation."""
        return replaced(text, "/opt/identd/", f"{self.identd.parents[1]}/")

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


def _xinetd(place: Place, name: str, file: str = "identd") -> list[str]:
    """Run a file of xinetd.d with one of its two services."""
    text = place.here((ROOT / "xinetd.d" / file).read_text())
    text = replaced(text, "= 113\n", f"= {place.port}\n")
    disabled, enabled = ("identd", "identd-wait") if name == "identd-wait" else ("identd-wait", "identd")
    for service, word in ((enabled, "no"), (disabled, "yes")):
        head, tail = text.split(f"service {service}\n", 1)
        shipped = "no" if service == "identd" else "yes"
        text = f"{head}service {service}\n" + tail.replace(f"disable\t\t= {shipped}\n", f"disable\t\t= {word}\n", 1)
    if place.options:
        text, count = re.subn(r"(\tserver_args\t.*)", rf"\1 {place.options}", text)
        assert count == 2, text
    services = place.folder / "xinetd.d"
    services.mkdir()
    (services / "identd").write_text(text)
    configuration = place.file("xinetd.conf", f"defaults\n{{\n}}\nincludedir {services}\n")
    pidfile = str(place.folder / "xinetd.pid")
    return [program("xinetd"), "-dontfork", "-f", configuration, "-pidfile", pidfile]


def _inetd(place: Place, line: str) -> list[str]:
    """Run openbsd-inetd with a line of README's."""
    line = place.here(replaced(line, "113 ", f"{place.port} "))
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
    return [*BECOME_NOBODY, *activate, str(place.identd), *place.options.split()]


def _tcpserver(place: Place) -> list[str]:
    line = place.here(replaced(TCPSERVER, " 113 ", f" {place.port} "))
    return [program("tcpserver"), *line.split()[1:], *place.options.split()]


def _foreground(place: Place) -> list[str]:
    words = place.here(FOREGROUND).split()
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

#: xinetd with the files for --masquerade: by the file and the service.
MASQUERADING = {
    (file, name): Superserver(lambda place, file=file, name=name: _xinetd(place, name, file))  # type: ignore[misc]
    for file in ("identd-masquerade", "identd-containers") for name in ("identd", "identd-wait")
}  # fmt: skip


def without_system_file(superserver: Superserver) -> Superserver:
    """Return what starts a superserver where there is no /etc/oidentd.conf, whatever this machine has."""

    def command(place: Place) -> list[str]:
        folder = place.folder / "etc"
        folder.mkdir()
        # An overlay's upper folder can't be on an overlay, which a container's /tmp may be.
        script = f"""
            set -e
            mount -t tmpfs none '{folder}'
            mkdir '{folder}/upper' '{folder}/work'
            mount -t overlay -o 'lowerdir=/etc,upperdir={folder}/upper,workdir={folder}/work' none /etc
            rm -f /etc/oidentd.conf
            exec "$@"
        """
        return [program("unshare"), "-m", "sh", "-c", script, "sh", *superserver.command(place)]

    return superserver._replace(command=command)


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

    @contextlib.contextmanager
    def log_taken(self) -> Iterator[None]:
        """Read the log meanwhile, as a syslog daemon does.

        Without room there, an identd that has answered stays for a while, and counts among those that xinetd lets one
        client have; xinetd itself waits without end (syslog(3)).
        """

        def read_on() -> None:
            while self.syslog.recv(65536):
                pass

        reader = threading.Thread(target=read_on)
        reader.start()
        try:
            yield
        finally:
            self.syslog.shutdown(socket.SHUT_RDWR)
            reader.join()

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that it started, and those that they started."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def driving(name: str, identd: Path, options: str = "", superserver: Superserver | None = None) -> Iterator[Driver]:
    """Start a superserver, and end it with all that it started. :param superserver: default: the one of that name."""
    superserver = superserver or SUPERSERVERS[name]
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
            served = Driver(name, superserver.hosts, place.port, process, syslog)
            try:
                yield served
            finally:
                served.forget()  # xinetd waits for room in the log before it ends


@contextlib.contextmanager
def started_anew(driver: Driver, number: int) -> Iterator[Driver]:
    """End a superserver alone, by a signal, as a boot script does, and start it again at once."""
    children = driver.descendants()
    driver.forget()  # xinetd waits for room in the log
    driver.process.send_signal(number)
    driver.process.wait(PATIENCE)
    try:
        process = subprocess.Popen(driver.process.args, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with ending(process), _ending_descendants(process):
            yield driver._replace(process=process)
    finally:
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


@contextlib.contextmanager
def _ending_descendants(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End what a process has started after it: a warm identd outlives its inetd."""
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


@pytest.fixture(scope="session")
def installed() -> Iterator[Path]:
    """The command identd, as an administrator installs it."""
    with from_distribution() as identd:
        yield identd
