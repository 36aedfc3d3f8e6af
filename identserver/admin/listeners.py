"""Who listens on a port, on which addresses, as far as we may see?"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from typing import NamedTuple

from lookup.connection import TCP_STATES, IdentError, unpack
from lookup.kernel import sock_diag

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTEN = TCP_STATES.index("LISTEN")

#: Seconds for a program that is asked.
_SECONDS = 5.0


class Listener(NamedTuple):
    """A listening socket; ``uid``: its holder's, or its own. What we may not see of the holder is ``0`` or ``""``."""

    address: str
    port: int
    uid: int
    pid: int = 0
    program: str = ""
    unit: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it can be reached by this host alone."""
        return self.address == "::1" or self.address.startswith("127.")

    @property
    def at(self) -> str:
        """Address and port as text."""
        return place(self.address, self.port)

    @property
    def holder(self) -> str:
        """Who holds it, as text."""
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = f"uid {self.uid}"
        known = [self.program and f"{self.program} (pid {self.pid})", self.unit, f"user {user}"]
        return ", ".join(filter(None, known))


def place(address: str, port: int) -> str:
    """Return an address and a port as text."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def listeners(port: int) -> list[Listener]:
    """Return the sockets that listen on a port, with who holds them."""
    try:
        found = dict(_from_sock_diag(port))
    except (sock_diag.SockDiagUnavailable, IdentError, ImportError):
        found = dict(_from_proc(port))
    holders = _holders(set(found)) if found else {}
    sockets = socket_units(port) if found else {}
    return [_described(listener, holders.get(inode, 0), sockets) for inode, listener in found.items()]


def _from_sock_diag(port: int) -> Iterator[tuple[int, Listener]]:
    """Yield the inode and what is known of each listening socket."""
    with sock_diag.SockDiag() as diag:
        for family in (socket.AF_INET, socket.AF_INET6):
            for found in diag.dump(family, local_port=port, states=1 << _LISTEN):
                yield found.inode, Listener(found.server[0], port, found.uid)


def _from_proc(port: int) -> Iterator[tuple[int, Listener]]:
    """Yield the same, from proc_pid_net(5), whose tables begin with the listening sockets."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{table}", encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                fields = line.split()
                if int(fields[3], 16) != _LISTEN:
                    break
                host, _, number = fields[1].partition(":")
                if int(number, 16) == port:
                    # Words of four octets, each as a number in the order of this machine.
                    words = [int(host[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(host), 8)]
                    yield int(fields[9]), Listener(unpack(b"".join(words)), port, int(fields[7]))


def _holders(inodes: set[int]) -> dict[int, int]:
    """Return for each socket the pid of a process that has it open; systemd's own only where there is no other."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        # ENOENT, ESRCH: it has ended. EACCES, EPERM: it is another user's.
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{name}/fd"):
                with contextlib.suppress(OSError):
                    link = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor.path))
                    if link and int(link[1]) in inodes and found.get(int(link[1]), 1) == 1:
                        found[int(link[1])] = int(name)
    return found


def _described(listener: Listener, pid: int, sockets: dict[str, list[str]]) -> Listener:
    """Return a listener with who holds it."""
    units = [unit for unit, places in sockets.items() if _is_among(listener, places)]
    if not pid:
        return listener._replace(unit=" ".join(units))
    program, uid = "", listener.uid
    # ENOENT, ESRCH: it has ended. EACCES: /proc is closed to us.
    with contextlib.suppress(OSError):
        uid = os.stat(f"/proc/{pid}").st_uid
        program = _program(pid)
    # Process 1 is in no unit; its sockets are those of units.
    units += [] if pid == 1 else [unit_of(pid)]
    return listener._replace(uid=uid, pid=pid, program=program, unit=" ".join(filter(None, units)))


def _program(pid: int) -> str:
    """Return what a process is called: an interpreter's script, else its program. :raises OSError: it has ended."""
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        program = comm.read().strip()
    if program.startswith("python"):
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as words:
            arguments = words.read().split("\0")[1:]
        # With -c there is none, but code.
        script = next((word for word in arguments if word == "-c" or not word.startswith("-")), "-c")
        return program if script == "-c" else os.path.basename(script) or program
    return program


def _is_among(listener: Listener, places: list[str]) -> bool:
    """Return whether a listener is one of those that `systemctl list-sockets` shows."""
    return listener.at in places or (listener.address == "0.0.0.0" and f"[::]:{listener.port}" in places)


def unit_of(pid: int) -> str:
    """Return the unit of systemd's that a process belongs to, by its control group; ``""``: none that we can see."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as lines:
            # line = number ":" controllers ":" path     ; cgroups(7)
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        # ENOENT, ESRCH: it has ended.
        return ""
    for _, controllers, path in groups:
        if controllers in ("", "name=systemd"):
            names = [name for name in path.split("/") if name.endswith((".service", ".scope"))]
            if names:
                return names[-1]
    return ""


def socket_units(port: int) -> dict[str, list[str]]:
    """Return the active socket units that listen on a port, and where. None, where systemd can't be asked."""
    found: dict[str, list[str]] = {}
    # Without --state= there are those that failed, or were stopped, too: another may have their port.
    said = asked("systemctl", "list-sockets", "--state=active", "--no-legend", "--no-pager", "--full")
    # UNIT follows LISTEN, which may have no blank for TCP.
    for line in said.splitlines():
        fields = line.replace("\u25cf", " ").split()
        if len(fields) >= 2 and fields[0].endswith(f":{port}"):
            found.setdefault(fields[1], []).append(fields[0])
    return found


def properties(unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit, as `systemctl show` says; none, where systemd can't be asked."""
    said = asked("systemctl", "show", "--no-pager", "-p", ",".join(names), "--", unit)
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def asked(program: str, *arguments: str) -> str:
    """Return what a program says; ``""``: it is not here, fails, or takes too long."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_SECONDS, check=False, encoding="utf-8", errors="replace", env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        # EACCES: it is closed to us. EAGAIN, ENOMEM: a limit.
        return ""
    return done.stdout if done.returncode == 0 else ""
