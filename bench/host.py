"""What does a measurement stand on?  Namespaces of its own, connections by the thousand, a log, an installed identd.

Everything here ends with the process that measures: the network and mount namespaces are its own, so neither the
host's sockets, /dev/log, /etc/passwd nor /etc/oidentd.conf are touched.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent

#: The folder of an older identd, and its name in the tables.
BEFORE = "before"

#: The Debian package of each program that a measurement may need.
PACKAGES = {"ip": "iproute2", "mount": "mount", "nft": "nftables", "oidentd": "oidentd", "xinetd": "xinetd"}
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_CLONE_NEWNS, _CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x20000, 0x40000000, 1  # linux/sched.h, linux/prctl.h

#: Descriptors that a process may have here, where root may raise the limit: enough for 20,000 silent connections.
SERVER_DESCRIPTORS = 65536

#: Seconds for a server to open its port.
_START_SECONDS = 10.0

#: What a checkout needs to be installed.
_SOURCES = (
    "identd.py", "identserver", "lookup", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE",
    "docs", "man", "systemd", "xinetd.d",
)  # fmt: skip

#: Connections of one process, and to one port of the far host: few enough of 55,000 local ports that the kernel finds
#: a free one at once, and within the descriptors that many systems allow.
_PER_PORT = 10000

#: Users with and without a ~/.oidentd.conf. They exist in the namespace of the measurement alone.
PLAIN_UID, WISHING_UID = 61130, 61131


def program(name: str) -> str:
    """Return the path of a program. :raises FileNotFoundError: it is not installed."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise FileNotFoundError(name)
    return path


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a command line with the option that every measurement has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="/usr/bin/python3", help="interpreter of identd (default: %(default)s)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="compare with an older checkout of identd too")
    return parser


class Bench(NamedTuple):
    """Where a measurement works: a directory, the installed programs, the versions of all that is measured."""

    directory: Path
    venv: Path
    versions: dict[str, str]


@contextlib.contextmanager
def prepared(options: argparse.Namespace, *programs: str) -> Iterator[Bench]:
    """Install this checkout, and move this process into namespaces of its own; exit if something is missing."""
    require(options.python, *programs)
    with workshop() as directory:
        venv = install(options.python, directory)
        if options.before is not None:
            before = directory / BEFORE
            before.mkdir()
            install(options.python, before, options.before)
        found = versions(venv)
        isolate(directory)
        yield Bench(directory, venv, found)


def require(python: str, *programs: str) -> None:
    """Say what is missing, and exit with status 2, unless all of it is there and we are root."""
    missing = [] if os.geteuid() == 0 else ["root's rights"]
    for name in ("ip", "mount", *programs):
        if shutil.which(name, path=_PATH) is None:
            missing.append(f"the program {name} (Debian: apt install {PACKAGES[name]})")
    try:
        if subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode:
            missing.append(f"venv for {python} (Debian: apt install python3-venv)")
    except OSError:
        missing.append(f"the interpreter {python}")
    if missing:
        print(f"missing: {'; '.join(missing)}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """Give a temporary directory that every user may read."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it is removed then too
    with tempfile.TemporaryDirectory(prefix="identd-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def install(python: str, directory: Path, checkout: Path = ROOT) -> Path:
    """Install a checkout into a new virtual environment; return the directory of its programs."""
    os.umask(0o022)
    source = directory / "source"
    source.mkdir()
    for name in _SOURCES:
        path = checkout / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, source / name)
    environment = clean_environment()
    venv = directory / "venv"
    for command in (
        [python, "-m", "venv", venv],
        [venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source],
        # As in a clone whose owner has run it once.
        [venv / "bin/python", "-m", "compileall", "-q", *(path for path in source.iterdir() if path.is_dir())],
    ):
        done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}", file=sys.stderr)
            sys.exit(2)
    return venv / "bin"


def clean_environment() -> dict[str, str]:
    """Return our environment without what changes how Python starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def versions(venv: Path) -> dict[str, str]:
    """Return the versions of all that is measured."""
    code = (
        "import platform, pyroute2, identd\nfrom importlib.metadata import version\n"
        "print(platform.python_version(), version('pyroute2'), identd.__version__)"
    )
    python, pyroute2, identd = _output([str(venv / "python"), "-I", "-c", code]).split()
    found = {"identd": identd, "Python": python, "pyroute2": pyroute2, "Linux": platform.release()}
    for name, option in (("oidentd", "-v"), ("xinetd", "-version")):
        with contextlib.suppress(FileNotFoundError):
            found[name] = _version_in(_output([program(name), option]))
    found["processors"] = str(os.cpu_count())
    return found


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def _version_in(text: str) -> str:
    return next((word for word in text.split() if any(c.isdigit() for c in word)), "?")


def describe(found: dict[str, str]) -> str:
    """Return versions as one line for a person."""
    return ", ".join(f"{name} {value}" for name, value in found.items())


# Namespaces


def isolate(directory: Path) -> None:
    """Move this process into a network and a mount namespace of its own, with a /dev and an /etc of its own."""
    _unshare(_CLONE_NEWNET | _CLONE_NEWNS)
    _run("mount", "--make-rprivate", "/")
    _run("ip", "link", "set", "lo", "up")
    _sysctl("ip_local_port_range", "10000 65000")
    devices = {
        name: os.stat(f"/dev/{name}").st_rdev for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx")
    }
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/dev")
    for name, number in devices.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, number)
        os.chmod(f"/dev/{name}", 0o666)
    os.symlink("/proc/self/fd", "/dev/fd")
    _add_users(directory)


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.unshare is younger than Python 3.9
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def _run(*command: str) -> None:
    subprocess.run([program(command[0]), *command[1:]], check=True)


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys/net/ipv4", name).write_text(value)


def _add_users(directory: Path) -> None:
    lines = []
    for uid, name in ((PLAIN_UID, "benchplain"), (WISHING_UID, "benchwish")):
        home = directory / name
        home.mkdir()
        os.chown(home, uid, uid)
        lines.append(f"{name}:x:{uid}:{uid}::{home}:/usr/sbin/nologin\n")
    with _another_etc(directory) as etc:
        # What the measurement does not put there counts as none.
        (etc / "oidentd.conf").unlink(missing_ok=True)
        passwd = etc / "passwd"
        passwd.write_text("".join([*lines, passwd.read_text()]))


@contextlib.contextmanager
def _another_etc(directory: Path) -> Iterator[Path]:
    """Give a copy of /etc to change, which then takes its place in this mount namespace.

    The whole directory: a mount over one file is gone when a program outside renames another to it.
    """
    etc = Path(tempfile.mkdtemp(dir=directory))
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(etc))
    _run("cp", "--archive", "/etc/.", str(etc))
    yield etc
    _run("mount", "--move", str(etc), "/etc")


def wish(directory: Path, text: str) -> None:
    """Write the ~/.oidentd.conf of the user who has one."""
    path = directory / "benchwish" / ".oidentd.conf"
    path.write_text(text)
    os.chown(path, WISHING_UID, WISHING_UID)


def with_configuration(path: Path, users: int = 0) -> Callable[[], None]:
    """Return what a child does before it starts a server, so that the server finds this /etc/oidentd.conf.

    :param users: how many more users the host is to have: ``bench0`` and so on.
    """

    def prepare() -> None:
        _prepare_server()
        _unshare(_CLONE_NEWNS)
        with _another_etc(path.parent) as etc:
            shutil.copy(path, etc / "oidentd.conf")
            with open(etc / "passwd", "a") as passwd:
                for number in range(users):
                    passwd.write(f"bench{number}:x:{70000 + number}:70000::/:/usr/sbin/nologin\n")

    return prepare


# Processes


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prepare_server() -> None:
    _die_with_parent()
    _raise_descriptors()


def free_port() -> int:
    """Return a TCP port on loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Daemon:
    """A server process with a port on 127.0.0.1."""

    def __init__(
        self, command: Sequence[str], port: int, prepare: Callable[[], None] = _prepare_server,
        stdin: int = subprocess.DEVNULL,
    ) -> None:  # fmt: skip
        """:param stdin: a listening socket, maybe. :raises RuntimeError: it ended, or opened no port in time."""
        self.port = port
        self._process = subprocess.Popen(
            command, env=clean_environment(), preexec_fn=prepare, cwd="/",
            stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.pid = self._process.pid
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"{' '.join(command)} does not serve port {port}") from None
                time.sleep(0.01)

    def stop(self) -> None:
        """End it, and wait until it has."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def memory(self) -> int:
        """Return its resident memory in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def cpu(self) -> float:
        """Return the seconds of a processor that it has used, in nanoseconds' steps (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(os.listdir(f"/proc/{self.pid}/task"))


class _Child:
    """A child that does one job, tells through a pipe when it is ready, and lives until it is closed."""

    def __init__(self, job: Callable[[socket.socket], None]) -> None:
        """:param job: what the child does with its end of a socket to us."""
        self.socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                _die_with_parent()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self.socket.close()
                job(theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def tell(self, number: int) -> None:
        """Give the child a number."""
        self.socket.sendall(struct.pack("=I", number))

    def wait(self) -> None:
        """Wait for a word of the child. :raises RuntimeError: it ended."""
        if not self.socket.recv(1):
            raise RuntimeError("a child of the measurement failed")

    def close(self) -> None:
        self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Syslog:
    """A /dev/log whose messages are counted and thrown away."""

    def __init__(self) -> None:
        self._count = mmap.mmap(-1, 8)
        log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        log.bind("/dev/log")
        os.chmod("/dev/log", 0o666)

        def receive(_: socket.socket) -> None:
            count = 0
            while True:
                log.recv(4096)
                count += 1
                struct.pack_into("=Q", self._count, 0, count)

        self._child = _Child(receive)
        log.close()

    @property
    def messages(self) -> int:
        """How many messages have come."""
        return int(struct.unpack_from("=Q", self._count)[0])

    def close(self) -> None:
        """End the receiver."""
        self._child.close()


def _raise_descriptors() -> int:
    """Raise the soft limit to the hard one, and that as far as we may; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError):  # EPERM: a root without CAP_SYS_RESOURCE
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, SERVER_DESCRIPTORS))
        hard = SERVER_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Connections:
    """TCP connections of this host with another one, which is a network namespace: one socket here for each.

    They are shared out among processes: neither descriptors nor ports are enough in one.
    """

    def __init__(self, most: int) -> None:
        """:param most: how many there may be."""
        ports = [7000 + number for number in range(-(-most // _PER_PORT))]
        self._far = _Child(lambda us: _far_host(us, ports))
        self._far.wait()
        _run("ip", "link", "add", "bench0", "type", "veth", "peer", "name", "bench1", "netns", str(self._far.pid))
        _run("ip", "addr", "add", "10.113.0.1/24", "dev", "bench0")
        _run("ip", "link", "set", "bench0", "up")
        self._far.tell(0)
        self._far.wait()
        self._near = [_connector(port) for port in ports]

    @property
    def far(self) -> str:
        """The network namespace of the other host, as a path."""
        return f"/proc/{self._far.pid}/ns/net"

    def grow(self, count: int) -> None:
        """Make it so many connections."""
        for number, child in enumerate(self._near):
            child.tell(min(max(count - number * _PER_PORT, 0), _PER_PORT))
        for child in self._near:
            child.wait()

    def close(self) -> None:
        """Close all of them."""
        for child in (*self._near, self._far):
            child.close()


def _connector(port: int) -> _Child:
    def connect(us: socket.socket) -> None:
        _raise_descriptors()
        connected: list[socket.socket] = []
        while (wanted := _heard(us)) is not None:
            while len(connected) < wanted:
                connected.append(socket.create_connection(("10.113.0.2", port)))
            us.sendall(b".")

    return _Child(connect)


def _far_host(us: socket.socket, ports: list[int]) -> None:
    _raise_descriptors()
    _unshare(_CLONE_NEWNET)
    us.sendall(b".")
    _heard(us)
    _run("ip", "addr", "add", "10.113.0.2/24", "dev", "bench1")
    _run("ip", "link", "set", "bench1", "up")
    children = []
    for port in ports:
        listener = socket.create_server(("10.113.0.2", port), backlog=4096)
        children.append(_Child(lambda _, listener=listener: _accept_all(listener)))  # type: ignore[misc]
    us.sendall(b".")
    _heard(us)


def _accept_all(listener: socket.socket) -> None:
    accepted = []
    while True:
        accepted.append(listener.accept())


def _heard(us: socket.socket) -> int | None:
    """Return the number that our parent told us; None when it has gone."""
    told = us.recv(4)
    return struct.unpack("=I", told)[0] if told else None


class Silent:
    """Clients of a server that never say a word."""

    def __init__(self, port: int, count: int) -> None:
        def keep(us: socket.socket) -> None:
            _raise_descriptors()
            connected: list[socket.socket] = []
            wanted = _heard(us) or 0
            while len(connected) < wanted:
                connected.append(socket.create_connection(("127.0.0.1", port)))
            us.sendall(b".")
            _heard(us)

        self._children = []
        while count > 0:
            child = _Child(keep)
            child.tell(min(count, _PER_PORT))
            child.wait()
            self._children.append(child)
            count -= _PER_PORT

    def close(self) -> None:
        """Hang up all of them."""
        for child in self._children:
            child.close()


def stop_servers(servers: dict[str, Daemon]) -> None:
    """End all of them."""
    for server in servers.values():
        server.stop()


def start_servers(directory: Path, configuration: Path | None = None) -> dict[str, Daemon]:
    """Start identd, oidentd and what `BEFORE` names as daemons that log to syslog.

    :param configuration: the system file of all.
    """
    started: dict[str, Daemon] = {}
    commands = {"identd": [str(directory / "venv/bin/identd"), "-i"], "oidentd": [program("oidentd"), "-i"]}
    if (directory / BEFORE).exists():
        commands[BEFORE] = [str(directory / BEFORE / "venv/bin/identd"), "-i"]
    for name, command in commands.items():
        port = free_port()
        arguments = [*command, "-a", "127.0.0.1", "-p", str(port)]
        if configuration is not None:
            arguments += ["-C", str(configuration)]
        try:
            started[name] = Daemon(arguments, port)
        except RuntimeError:
            stop_servers(started)
            raise
    return started
