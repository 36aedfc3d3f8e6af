"""What does the real oidentd answer, and what does identd?  A small world of its own for both, with alice and bob.

The world is a process in a mount and a network namespace: its /etc names few people, its homes are empty, and its
network is a loopback. Nothing of the host is changed. Nothing here imports pytest: that process runs this file too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.hosts import PATH, Person, checked, libc, obey
from helpers.machine import ROOT, program
from helpers.pairs import PATIENCE, everything

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Outcome = tuple[bytes, int, str]

OIDENTD = "/usr/sbin/oidentd"
IDENTD = (sys.executable, str(ROOT / "identd.py"))

#: The people of the table. alice has a second login name; 54321 has none.
UIDS = {"root": 0, "alice": 1001, "bob": 1002, "second": 1001, "nobody": 65534}
NAMELESS = 54321

_PASSWD = "".join(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/false\n" for name, uid in UIDS.items())
_GROUP = "root:x:0:\nalice:x:1001:\nbob:x:1002:\nnogroup:x:65534:\n"
_SERVICES = "ssh 22/tcp\nhttp 80/tcp www\nircu 6667/tcp\n"
_HOSTS = "127.0.0.1 localhost\n::1 ip6-localhost\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files\nservices: files\n"

#: Where the world keeps the system file, the users' file and the homes.
SYSTEM, USER_FILES = "/etc/oidentd.conf", (".config/oidentd.conf", ".oidentd.conf")

#: Ident servers to forward to, on every address of the world: what each says after the port pair.
FORWARDS = {2001: b":USERID:UNIX:afar", 2002: b":USERID:UNIX:bob", 2003: b":ERROR:NO-USER", 2004: b":USERID:UNIX:alice"}

#: linux/sched.h, linux/mount.h
_CLONE_NEWNS, _CLONE_NEWNET, _MS_REC, _MS_PRIVATE, _MS_BIND = 0x20000, 0x40000000, 0x4000, 1 << 18, 0x1000

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oidentd-vectors.json").read_text())

#: "<a*600>" in the table.
_REPEATED = re.compile(r"<(.)\*(\d+)>")


def octets(text: str) -> bytes:
    """Return what a field of the table stands for."""
    return _REPEATED.sub(lambda found: found[1] * int(found[2]), text).encode("latin-1")


class World(Person):
    """A process in namespaces of its own, which does what it is told: the functions below, above all."""

    def __init__(self) -> None:
        self.uid = 0
        code = f"import sys; sys.path[:0] = {PATH}; from helpers import oidentd; oidentd.settle()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.tell("from helpers import oidentd")

    def __enter__(self) -> World:
        return self

    def do(self, function: str, *arguments: object) -> Any:
        """Call a function of this file in the world."""
        return self.tell(f"oidentd.{function}(*arguments)", arguments=arguments)


# What follows happens in the world.


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    checked(libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()))


def settle() -> None:
    """Make the world, then do what standard input says."""
    checked(libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET))
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    subprocess.run([program("ip"), "link", "set", "lo", "up"], check=True, timeout=PATIENCE)
    etc = tempfile.mkdtemp(prefix="identd-")
    _mount("none", etc, "tmpfs", 0, "mode=755")
    for name in ("ld.so.cache", "protocols"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(f"/etc/{name}", etc)
    given = {"passwd": _PASSWD, "group": _GROUP, "services": _SERVICES, "hosts": _HOSTS, "nsswitch.conf": _NSSWITCH}
    for name, text in given.items():
        Path(etc, name).write_text(text)
    _reveal()
    _mount(etc, "/etc", "", _MS_BIND)
    checked(libc.umount2(etc.encode(), 2))  # MNT_DETACH
    os.rmdir(etc)
    # What caches names lives below /run.
    for place in ("/run", "/home"):
        _mount("none", place, "tmpfs", 0, "mode=755")
    # A home that is missing on a tmpfs looks as if a sandbox hid it.
    for name in UIDS:
        for folder in ("", ".config"):
            path = os.path.join("/home", name, folder)
            os.mkdir(path)
            os.chown(path, UIDS[name], UIDS[name])
    threading.Thread(target=_be_asked, daemon=True).start()
    obey(0, "")


def _reveal() -> None:
    """Let every user read what runs here, wherever it is: the interpreter and the project may stand in root's home."""
    wanted = dict.fromkeys((str(ROOT), os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)))
    hidden: dict[str, list[tuple[str, int]]] = {}
    for path in wanted:
        for parent in reversed(Path(path).parents):
            if not parent.stat().st_mode & 1:
                hidden.setdefault(str(parent), []).append((path, os.open(path, os.O_PATH)))
                break
    for parent_path, inside in hidden.items():
        _mount("none", parent_path, "tmpfs", 0, "mode=755")
        for path, fd in inside:
            os.makedirs(path, exist_ok=True)
            _mount(f"/proc/self/fd/{fd}", path, "", _MS_BIND | _MS_REC)
            os.close(fd)


def _be_asked() -> None:
    """Run in a thread: be the ident servers that are forwarded to."""
    listeners = {}
    for port, says in FORWARDS.items():
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        listeners[listener] = says
    while True:
        for ready in select.select(list(listeners), [], [])[0]:
            asked = ready.accept()[0]
            with asked, contextlib.suppress(OSError):
                asked.settimeout(PATIENCE)
                query = asked.recv(100)
                asked.sendall(query.rstrip(b"\r\n") + listeners[ready] + b"\r\n")


def write(path: str, content: bytes | None, uid: int = 0) -> None:
    """Write a file that was not changed for long, or remove it."""
    if content is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    with open(f"{path}.new", "wb") as file:
        file.write(content)
    os.chown(file.name, uid, uid)
    os.utime(file.name, (0, 0))
    # At once: the warm process looks by itself whether the system file has changed.
    os.rename(file.name, path)


def configure(system: bytes | None, files: dict[str, tuple[bytes | None, bytes | None]]) -> None:
    """Write the system file, and for each user named the two files that he may have."""
    write(SYSTEM, system)
    for name, contents in files.items():
        for path, content in zip(USER_FILES, contents):
            write(os.path.join("/home", name, path), content, UIDS[name])


_connections: dict[int, tuple[socket.socket, socket.socket]] = {}


def dial(uid: int, ours: str, theirs: str, lport: int, fport: int) -> tuple[int, int, int]:
    """Have a user connect; return the connection's number and its ports, ours first. It lasts until `hang_up`."""
    family = socket.AF_INET6 if ":" in ours else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((theirs, fport))
        listener.listen()
        os.seteuid(uid)
        try:
            client = socket.socket(family)
        finally:
            os.seteuid(0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((ours, lport))
        client.connect(listener.getsockname()[:2])
        _connections[client.fileno()] = client, listener.accept()[0]
    return client.fileno(), client.getsockname()[1], client.getpeername()[1]


def hang_up(number: int) -> None:
    """End a connection, and leave nothing of it to whoever uses its ports next."""
    client, server = _connections.pop(number)
    for end in (server, client):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()


def _query(number: int) -> tuple[bytes, str, str]:
    """Return the question about a connection, and the addresses of its ends, ours first."""
    client, _ = _connections[number]
    ours, theirs = client.getsockname(), client.getpeername()
    return b"%d,%d\r\n" % (ours[1], theirs[1]), ours[0], theirs[0]


@contextlib.contextmanager
def _ident_connection(number: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect from a connection's far end to its near one; give the asker's end and the accepted one."""
    _, ours, theirs = _query(number)
    with socket.create_server((ours, 0), family=_connections[number][0].family) as listener, socket.create_connection(
        listener.getsockname()[:2], PATIENCE, (theirs, 0)
    ) as asker, listener.accept()[0] as accepted:
        yield asker, accepted


def ask(command: Sequence[str], number: int) -> Outcome:
    """Start a program on an ident connection, as inetd does; return its reply, its status and its standard error."""
    with _ident_connection(number) as (asker, accepted):
        process = subprocess.Popen(
            list(command), stdin=accepted.fileno(), stdout=accepted.fileno(), stderr=subprocess.PIPE
        )
        accepted.close()
        try:
            return _asked(asker, _query(number)[0], process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _asked(asker: socket.socket, query: bytes, process: subprocess.Popen[bytes]) -> Outcome:
    reply = b""
    # A program that refuses to start resets the connection.
    with contextlib.suppress(ConnectionError):
        asker.sendall(query)
        while more := asker.recv(65536):
            reply += more
    _, said = process.communicate(timeout=PATIENCE)
    return reply, process.returncode, said.decode("latin-1")


def ask_oidentd(arguments: Sequence[str], number: int) -> Outcome:
    """Ask the real oidentd about a connection. A status of 1 without a reply: it refuses its configuration."""
    return ask([OIDENTD, "-I", "-S", *arguments], number)


def ask_single_shot(arguments: Sequence[str], number: int) -> Outcome:
    """Ask identd, started as inetd does, about a connection."""
    return ask([*IDENTD, "-S", *arguments], number)


class Warm:
    """The warm process, with a socket of its own, and what it logged."""

    def __init__(self, arguments: Sequence[str], port: int = 0) -> None:
        with socket.create_server(("", port)) as free:
            self.port = free.getsockname()[1]
        self._log = tempfile.TemporaryFile(dir="/run")  # noqa: SIM115  (closed by `close`)
        self.process = subprocess.Popen(
            [*IDENTD, "-S", "--foreground", "--port", str(self.port), *arguments], stderr=self._log
        )
        self.wait_for("serving ")

    def log(self) -> str:
        """Return all that it said.

        By pread(2), which leaves the file offset alone: the process shares it, and writes there.
        """
        written = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), written, 0).decode("ascii")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has said something so often, or has ended."""
        end = time.monotonic() + PATIENCE
        while self.log().count(text) < times and self.process.poll() is None:
            assert time.monotonic() < end, f"it never said {text}: {self.log()}"
            time.sleep(0.005)

    def reload(self) -> None:
        """Have it read the system file again."""
        seen = self.log().count("the configuration was read again")
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("the configuration was read again", seen + 1)

    def ask(self, number: int) -> bytes:
        """Ask about a connection."""
        query, ours, theirs = _query(number)
        with socket.create_connection((ours, self.port), PATIENCE, (theirs, 0)) as asker:
            asker.sendall(query)
            return everything(asker)

    def close(self) -> Outcome:
        """End it; return no reply, its status, what it said."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        with self._log:
            return b"", status, self.log()


_warm: list[Warm] = []


def start_warm(*arguments: str) -> None:
    """Start the warm process that `ask_warm` asks."""
    _warm.append(Warm(arguments))


def ask_warm(number: int) -> bytes:
    """Have the warm process read its configuration again, and ask it about a connection."""
    _warm[-1].reload()
    return _warm[-1].ask(number)


def stop_warm() -> Outcome:
    """End the warm process that was started last."""
    return _warm.pop().close()


def ask_fresh_warm(arguments: Sequence[str], number: int, port: int = 0) -> Outcome:
    """Start a warm process, on a free port unless one is named, ask it about a connection if it serves, and end it."""
    warm = Warm(arguments, port)
    served = warm.process.poll() is None
    reply = warm.ask(number) if served else b""
    return (reply, *warm.close()[1:])


# What both programs make of the same files


def _granting(system: bytes) -> Any:
    """Parse a system file as if the force of a default block were, as in oidentd, a grant to later blocks."""
    from lookup.config import grammar
    from lookup.users import database

    class Granting(grammar._SystemFile):
        granted = 0

        def force(self) -> tuple[int, Any]:
            self.granted, statement = super().force()
            return self.granted, statement

        def lines(self, inherits: bool) -> tuple[int, Any, Any]:
            bits, force, instead = super().lines(inherits)
            return (self.granted if force else bits), force, instead

    return Granting(system, SYSTEM).parse(database.uids)


def _ours(number: int, system: Any, choice: int) -> tuple[bytes, str, str]:
    """Return what identd answers without the port pair, the rule that decided, and what is wrong with the files.

    :param choice: what the random generator gives.
    """
    import lookup
    from identserver.admin.reply import reply_line
    from identserver.options import Options
    from lookup.owner import Facts, answer

    query, ours, theirs = _query(number)
    server, client = zip((ours, theirs), map(int, query.split(b",")))
    decision: Any = None
    outcome: Any = None
    urandom = os.urandom
    os.urandom = lambda octets: bytes([choice] * octets)
    try:
        owner = lookup.find(server, client)
        outcome = answer(owner, server, client, system, Facts(owner.uid))
        assert not isinstance(outcome, lookup.Unknown)
        decision = outcome.decision
    except lookup.IdentError as error:
        outcome, decision = error, getattr(error, "decision", None)
    finally:
        os.urandom = urandom
    reply = reply_line(outcome, server, client, Options()).encode("latin-1") + b"\r\n"
    if decision is None:
        return _plainly(reply, query), "", ""
    return _plainly(reply, query), decision.rule, " ".join(text for _, text in decision.files)


def _plainly(reply: bytes, query: bytes) -> bytes:
    """Return a reply without the port pair, and without a name that was made up."""
    if reply.startswith(query[:-2]):
        reply = reply[len(query) - 2 :]
    reply = re.sub(rb":UNIX:[0-9A-Za-z]{11}\r\n$", b":UNIX:<random>\r\n", reply)
    return re.sub(rb":UNIX:user[0-9]{1,5}\r\n$", b":UNIX:<random_numeric>\r\n", reply)


def _theirs(number: int) -> bytes:
    """Return what oidentd answers, likewise; what it does instead of answering; or what is unheard of."""
    reply, status, said = ask_oidentd(["-C", SYSTEM], number)
    if status and not reply:
        return b"crashed" if "SIGSEGV" in said else b"refused" if "Connection from" not in said else said.encode()
    return _plainly(reply, _query(number)[0])


def compare(
    system: bytes, files: dict[str, tuple[bytes | None, bytes | None]], numbers: Sequence[int]
) -> list[tuple[bytes, list[bytes], list[bytes], str, str]]:
    """Have both programs read the same files, and ask both about some connections.

    :return: for each connection what oidentd answered, all that identd may answer, all that it would answer if a
        force were a grant (see `_granting`), the rule that decided, and what is wrong with a file.
    """
    from lookup.config import system_file
    from lookup.connection import ConfigError

    configure(system, files)
    answers = []
    try:
        parsed, granting = system_file.load(SYSTEM, True), _granting(system)
    except ConfigError as error:
        return [(_theirs(number), [b"refused"], [], "", str(error)) for number in numbers[:1]]
    for number in numbers:
        ours = [_ours(number, parsed, choice) for choice in range(6)]
        grants = [_ours(number, granting, choice) for choice in range(6)] if b"force" in system.lower() else []
        may_be = list(dict.fromkeys(answer for answer, _, _ in ours))
        theirs = _theirs(number)
        answers.append((theirs, may_be, [answer for answer, _, _ in grants], ours[0][1], ours[0][2]))
    return answers


def ask_oidentd_often(number: int, wanted: Sequence[bytes], times: int) -> list[bytes]:
    """Ask oidentd until it has given all answers that are wanted, or so often; return those that it gave."""
    seen: set[bytes] = set()
    while times and not seen >= set(wanted):
        seen.add(_theirs(number))
        times -= 1
    return list(seen)
