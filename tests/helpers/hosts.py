"""Which hosts and people do the tests need?  Network namespaces joined by veth pairs, real logins, processes of them.

Nothing here imports pytest: a `Person` runs this file too, and there are many of them.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import itertools
import os
import platform
import pwd
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.machine import NOBODY, ROOT, program
from helpers.pairs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Address = tuple[str, int]
    Ends = tuple[Address, Address]

#: Where a `Person` finds the project and this package.
PATH = [str(ROOT), str(ROOT / "tests")]

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
IPPROTO_MPTCP = 262  # linux/in.h; Python's socket module has it from 3.10 on

libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def checked(result: int) -> None:
    """Raise the error of a call of the C library, if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def ip(*arguments: str, namespace: str = "", given: str = "") -> None:
    """Run ip(8), inside a network namespace if one is named, with ``given`` on its standard input."""
    command = [program("ip"), *(["-n", namespace] if namespace else []), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr}")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Move this thread into a network namespace; the sockets that it makes there stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        yield
    finally:
        checked(libc.setns(home, CLONE_NEWNET))
        os.close(home)


def _enter(namespace: str) -> None:
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        checked(libc.setns(there, CLONE_NEWNET))
    finally:
        os.close(there)


class Town:
    """Three hosts: `here`, where identd is asked; `there`, across the link ``lan``; `elsewhere`, across ``vpn``.

    Both links carry the same addresses, so that only the device tells their connections apart. What goes
    to other places than `there` needs a socket that is bound to ``vpn``.
    """

    HERE, HERE_TOO, THERE = "10.9.0.1", "10.9.0.3", "10.9.0.2"
    HERE_6, THERE_6 = "fd09::1", "fd09::2"
    HERE_LINK, THERE_LINK = "fe80::1", "fe80::2"
    #: Nobody has this address, and it is not asked for either: what is sent to it is lost.
    NOBODY = "10.9.0.77"
    #: An address that `elsewhere` alone has: what goes there needs no such socket.
    ELSEWHERE = "10.9.0.4"
    #: A second address of `there`, for `Town.mute`.
    MUTED = "10.9.0.66"

    def __init__(self, bridges: int = 0) -> None:
        number = next(_numbers)
        self.here, self.there, self.elsewhere = (
            f"identd-{os.getpid()}-{number}-{host}" for host in ("here", "there", "else")
        )
        self.namespaces: list[str] = []
        try:
            self._build(bridges)
        except BaseException:
            self.close()
            raise

    def _build(self, bridges: int) -> None:
        for namespace in (self.here, self.there, self.elsewhere):
            ip("netns", "add", namespace)
            self.namespaces.append(namespace)
            with inside(namespace):
                for setting in ("ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"):
                    Path("/proc/sys/net", setting).write_text("0")
            ip("link", "set", "lo", "up", namespace=namespace)
        ip("-batch", "-", namespace=self.here, given="".join(
            f"link add name b{number} type bridge\n" for number in range(bridges)
        ))  # fmt: skip
        for device, far in (("lan", self.there), ("vpn", self.elsewhere)):
            ip("link", "add", "name", device, "type", "veth", "peer", "name", device, "netns", far, namespace=self.here)
            self._address(self.here, device, self.HERE, self.HERE_TOO, self.HERE_6, self.HERE_LINK)
            self._address(far, device, self.THERE, self.MUTED, self.THERE_6, self.THERE_LINK)
        self._address(self.elsewhere, "vpn", self.ELSEWHERE)
        ip("route", "add", self.ELSEWHERE, "dev", "vpn", namespace=self.here)
        self._strand(self.NOBODY)

    @staticmethod
    def _address(namespace: str, device: str, *hosts: str) -> None:
        lines = [f"link set {device} addrgenmode none", f"link set {device} up"]
        lines += [
            f"addr add {host}/64 dev {device} nodad" if ":" in host else f"addr add {host}/24 dev {device}"
            for host in hosts
        ]
        ip("-batch", "-", namespace=namespace, given="\n".join(lines) + "\n")

    def _strand(self, host: str) -> None:
        neighbour = ("neigh", "replace", host, "lladdr", "02:00:00:00:00:77", "nud", "permanent", "dev", "lan")
        ip(*neighbour, namespace=self.here)

    @contextlib.contextmanager
    def mute(self) -> Iterator[None]:
        """Lose what `here` sends to the address `MUTED`, while what comes from there arrives."""
        self._strand(self.MUTED)
        try:
            yield
        finally:
            ip("neigh", "del", self.MUTED, "dev", "lan", namespace=self.here)

    def listen(self, host: str, namespace: str = "", family: int = 0, protocol: int = 0) -> socket.socket:
        """Listen on a free port of a host (`there` if none is named)."""
        with inside(namespace or self.there):
            return listen(host, family, protocol)

    def close(self) -> None:
        for namespace in self.namespaces:
            ip("netns", "del", namespace)
        self.namespaces.clear()

    def __enter__(self) -> Town:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listen(host: str, family: int = 0, protocol: int = 0, port: int = 0) -> socket.socket:
    """Listen on a port, a free one if none is named; a link-local ``host`` carries its scope."""
    listener = socket.socket(family or family_of(host), socket.SOCK_STREAM, protocol)
    try:
        listener.settimeout(PATIENCE)
        # An earlier test's connection may be in TIME_WAIT, with the port that is named.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(socket.getaddrinfo(host, port, listener.family, socket.SOCK_STREAM)[0][4])
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def family_of(host: str) -> int:
    """Return the address family of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextlib.contextmanager
def login() -> Iterator[pwd.struct_passwd]:
    """Add a user to this host, and delete it afterwards."""
    name = f"identd-{os.getpid()}-{next(_numbers)}"
    command = [program("useradd"), "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    try:
        yield pwd.getpwnam(name)
    finally:
        # A process that read their files may not have ended yet: status 8, and they stay.
        until(lambda: subprocess.run([program("userdel"), name], capture_output=True, timeout=60).returncode != 8)
        assert name not in {entry.pw_name for entry in pwd.getpwall()}


def nameless_uid() -> int:
    """Return a uid that nobody has."""
    for uid in range(1_900_000_000, 1_900_001_000):
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    raise AssertionError("every uid has a name")


def until(reached: Callable[[], bool]) -> None:
    """Wait for what the kernel does by itself."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


class Refused(Exception):
    """What a `Person` was told to do raised an exception: its class' name, its text, its detail."""

    def __init__(self, kind: str, text: str, detail: str) -> None:
        super().__init__(f"{kind}: {text} {detail}")
        self.kind = kind
        self.text = text
        self.detail = detail


class Person:
    """A process of its own: one user's, on one host, without any capability unless it is root's.

    It does what it is told in Python. In its reach are `socket`, `os`, `sys`, what `lookup` offers, this file's
    functions, and the list `kept` of the connections that it made.
    """

    def __init__(self, uid: int = 0, namespace: str = "", within: Sequence[str] = ()) -> None:
        """:param within: a command that runs another one, and that it is run by."""
        self.uid = uid
        code = f"import sys; sys.path[:0] = {PATH}; from helpers.hosts import obey; obey({uid}, {namespace!r})"
        self._process = subprocess.Popen(
            [*within, sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def tell(self, source: str, **values: object) -> Any:
        """Have Python source run there, and return the value of its last line if that is an expression.

        :param values: variables that the source may use.
        :raises Refused: it raised an exception.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(repr((source, _plain(values))) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process has ended"
        raised, result = ast.literal_eval(answer)
        if raised:
            raise Refused(*result)
        return result

    def dial(self, address: Address, **how: object) -> Ends:
        """Have it connect (see the function `dial`), and return both ends, its own first."""
        ends: Ends = self.tell("dial(address, **how)", address=address, how=how)
        return ends

    def ask(self, ends: Ends) -> tuple[str, str] | str:
        """Have it look a connection up, and return the answer, or the RFC's name of the refusal."""
        answer: tuple[str, str] | str = self.tell("ask(*ends)", ends=ends)
        return answer

    def close(self) -> None:
        """End it, and with it what it has open."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


kept: list[socket.socket] = []


def dial(
    address: Address, source: Address | None = None, device: str = "", protocol: int = 0, wait: bool = True
) -> Ends:
    """Connect, keep the socket, and return both ends, without scopes.

    :param source: the end to connect from, whose port may be one that another connection has.
    :param device: the device to bind to.
    :param wait: whether to wait for the far end's consent.
    """
    connection = socket.socket(family_of(address[0]), socket.SOCK_STREAM, protocol)
    kept.append(connection)
    connection.settimeout(PATIENCE)
    if device:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    if source:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(_with_scope(source))
    if wait:
        connection.connect(_with_scope(address))
    else:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.connect(_with_scope(address))
    host, port = connection.getsockname()[:2]
    return (host, port), (address[0].partition("%")[0], address[1])


def _with_scope(address: Address) -> Any:
    return socket.getaddrinfo(*address, family_of(address[0]), socket.SOCK_STREAM)[0][4]


def _plain(value: Any) -> Any:
    """Return a value without the enumerations in it, whose repr() is no literal."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return int(value) if isinstance(value, socket.AddressFamily) else value


def ask(server: Address, client: Address) -> tuple[str, str] | str:
    """Look a connection up, and return the answer, or the RFC's name of the refusal."""
    from lookup import IdentError, lookup

    try:
        return lookup(server, client)[0], lookup(server, client)[1]
    except IdentError as error:
        return str(error)


def forbid_netlink(number: int = errno.EAFNOSUPPORT) -> None:
    """Forbid this process to open AF_NETLINK, as a sandbox does: with a seccomp filter, for good."""
    load, equals, end = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    socket_call = {"x86_64": 41, "aarch64": 198, "riscv64": 198}[platform.machine()]
    lines = (
        (load, 0, 0, 0),  # seccomp_data.nr
        (equals, 0, 3, socket_call),
        (load, 0, 0, 16),  # seccomp_data.args[0]
        (equals, 0, 1, socket.AF_NETLINK),
        (end, 0, 0, 0x00050000 | number),  # SECCOMP_RET_ERRNO
        (end, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(lines), ctypes.addressof(text)))
    checked(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    checked(libc.prctl(22, 2, program))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def leave_user_namespace(*mapping: int) -> None:
    """Move this process into a user namespace of its own.

    :param mapping: what it maps, as the line of uid_map (user_namespaces(7)); without one: nothing.
    """
    checked(libc.unshare(CLONE_NEWUSER))
    if mapping:
        Path("/proc/self/uid_map").write_text(" ".join(map(str, mapping)))


def obey(uid: int, namespace: str) -> None:
    """Be a `Person`: become its user on its host, then do what standard input says."""
    # The interpreter and this checkout may stand where that user may not read: everything is imported before.
    import psutil

    from identserver.admin import access, obstacles
    from lookup import import_all, user_namespace
    from lookup.kernel import causes, conntrack, dumps, namespaces, processes, sock_diag
    from lookup.users import names

    import_all()
    socket.getaddrinfo("::1", 0)  # imports a codec
    with contextlib.suppress(LookupError, OSError), sock_diag.SockDiag():
        pwd.getpwuid(uid)
    if namespace:
        _enter(namespace)
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(uid)
        # A process that changed its user is hidden even from its new one; one that was started by it is not.
        checked(libc.prctl(4, 1, 0, 0, 0))  # PR_SET_DUMPABLE
    rooms = (
        access, causes, conntrack, dumps, names, namespaces, obstacles, processes, sock_diag, user_namespace,
    )  # fmt: skip
    reach = {**globals(), "psutil": psutil, **{module.__name__.rpartition(".")[2]: module for module in rooms}}
    for line in sys.stdin:
        print(repr(_obeyed(ast.literal_eval(line), reach)), flush=True)


def _obeyed(told: tuple[str, dict[str, Any]], names: dict[str, Any]) -> tuple[bool, Any]:
    source, values = told
    names.update(values)
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    try:
        exec(compile(ast.Module(body, []), "<told>", "exec"), names)
        if isinstance(last, ast.Expr):
            return False, eval(compile(ast.Expression(last.value), "<told>", "eval"), names)
        return False, None
    except Exception as error:
        return True, (type(error).__name__, str(error), str(getattr(error, "detail", "")))
