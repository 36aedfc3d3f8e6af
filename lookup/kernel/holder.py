"""Which process holds a socket, and in which unit or container does it run?

That is for the log and for --explain, never for a reply. It is what the running user may see: psutil shows processes of
that user's own, and to root all; the kernel tells everybody the socket's control group, whose folders have a number.
"""

from __future__ import annotations

import _socket as socket  # see sock_diag.py
import errno
import os
import struct
import time

from ..connection import pack
from .routes import attribute

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..connection import Owner

#: Seconds, in all, to look through processes, and through control groups: hosts have hundreds of thousands of them.
SEARCH_SECONDS = 1.0

# A struct nlmsghdr (linux/netlink.h) and a struct inet_diag_req_v2 (linux/inet_diag.h); ports are in network order.
_REQUEST, _PORTS, _IDS = struct.Struct("=IHHIIBBBBI"), struct.Struct(">HH"), struct.Struct("=16s16sI8s")

#: Numbers in these headers, and the octets of a header and a struct inet_diag_msg, after which attributes come.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, _ATTRIBUTES = 4, 20, 1, 88

#: Where in an answer the socket's inode is, and the number of the attribute that holds its control group's.
_INODE, _INET_DIAG_CGROUP_ID = 84, 21

#: Which mounts there are (proc_pid_mountinfo(5)).
_MOUNTS = "/proc/self/mountinfo"

#: Which runtimes give a container's group its own name, and the digits of a container's number: all, and shown ones.
_RUNTIMES, _DIGITS, _ID, _SHOWN = ("docker", "libpod", "crio", "cri-containerd"), frozenset("0123456789abcdef"), 64, 12

_SCOPE = ".scope"


def describe(owners: Sequence[Owner]) -> list[str]:
    """Return for each socket what holds it, as text; ``""``: we may not see it, or it has gone.

    text = "process" pid command [ "in" place ] / "a process in" place ; place: a unit or a container

    May block for `SEARCH_SECONDS`, as it looks through /proc.
    """
    deadline = time.monotonic() + SEARCH_SECONDS
    holders = _holders({owner.inode for owner in owners if owner.inode}, deadline)
    return [_described(owner, holders.get(owner.inode, []), deadline) for owner in owners]


def _described(owner: Owner, pids: list[int], deadline: float) -> str:
    for pid in sorted(pids):
        name = _name(pid)
        if name:
            more = f" and {len(pids) - 1} more" if len(pids) > 1 else ""
            where = place(group_of_process(pid))
            return f"process {pid} {name!a}{more}" + (f" in {where}" if where else "")
    where = place(_path(_group_of_socket(owner), deadline)) if owner.inode else ""
    return f"a process in {where}" if where else ""


def place(group: str) -> str:
    """Return the container or the unit that a control group's path names; ``""``: none."""
    parts = group.split("/")
    for at, part in enumerate(parts):
        # Without `re`, which takes 10 ms that a single shot waits for.
        name, runtime = _container(part, parts[at + 1 :])
        if name:
            return f"container {ascii(name)[1:-1]} ({runtime})"
    units = [part for part in parts if part.endswith((".service", _SCOPE))]
    return f"unit {ascii(units[-1])[1:-1]}" if units else ""


def _container(part: str, below: list[str]) -> tuple[str, str]:
    """Return the name of the container that a part of a path names, with those below it, and its runtime, or ``""``.

    container = runtime "-" id [ ".scope" ] / runtime "/" [ any "/" ] id / "kubepods" *any "/" id
                / "lxc.payload." name / "lxc/" name / "machine-" name ".scope"
    """
    is_scope = part.endswith(_SCOPE)
    # The last "-": a runtime's name may have one.
    runtime, _, name = (part[: -len(_SCOPE)] if is_scope else part).rpartition("-")
    if runtime in _RUNTIMES and (_is_id(name) or (is_scope and len(name) >= _SHOWN and _DIGITS.issuperset(name))):
        return name[:_SHOWN], runtime
    if part == "docker" or part.startswith("kubepods"):
        deep = len(below) if part != "docker" else 2
        for at in reversed(range(min(deep, len(below)))):
            # Only the part before it may be empty.
            if _is_id(below[at]) and all(below[: max(at - 1, 0)]):
                return below[at][:_SHOWN], part
    if part == "lxc" and below and below[0]:
        return below[0], "lxc"
    if part.startswith("lxc.payload.") and part != "lxc.payload.":
        return part[len("lxc.payload.") :], "lxc"
    if part.startswith("machine-") and part.endswith(_SCOPE) and len(part) > len("machine-" + _SCOPE):
        return part[len("machine-") : -len(_SCOPE)], "machine"
    return "", ""


def _is_id(part: str) -> bool:
    return len(part) == _ID and _DIGITS.issuperset(part)


def _holders(inodes: set[int], deadline: float) -> dict[int, list[int]]:
    """Return the processes that hold each socket, as far as we may see them."""
    found: dict[int, list[int]] = {}
    if not os.path.exists("/proc/stat"):
        # ProcSubset=pid, as in our units: psutil would write a traceback to standard error, and there is little to see.
        return found
    try:
        import psutil  # 17 ms, and only where somebody wants to know

        pids = psutil.pids()
    except (ImportError, OSError):
        # ENOENT: there is no /proc.
        return found
    for pid in pids if inodes else ():
        if time.monotonic() > deadline:
            break
        for inode in inodes.intersection(_sockets_of(pid)):
            found.setdefault(inode, []).append(pid)
    return found


def _sockets_of(pid: int) -> Iterator[int]:
    """Yield the inodes of a process' sockets."""
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        # EACCES: it is another user's. ENOENT, ESRCH: it has ended.
        return
    for fd in fds:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            # ENOENT: it was closed.
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _name(pid: int) -> str:
    import psutil

    try:
        name: str = psutil.Process(pid).name()
    except (psutil.Error, OSError):
        # It has ended.
        return ""
    return name


def group_of_process(pid: int) -> str:
    """Return the path of a process' control group (cgroups(7)): the unified hierarchy's, or systemd's own."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
            # line = number ":" [ controllers ] ":" path
            groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in lines)
    except (OSError, ValueError):
        # ENOENT, ESRCH: it has ended. EACCES: a sandbox.
        return ""
    unified: str = groups.get("", "/")
    return unified if unified != "/" else groups.get("name=systemd", "/")


def _group_of_socket(owner: Owner) -> int:
    """Return the number of the control group that a socket was made in; 0: the kernel does not tell (before 5.8)."""
    local, remote = (pack(end[0].partition("%")[0])[0] for end in (owner.server, owner.client))
    family = socket.AF_INET if len(local) == 4 else socket.AF_INET6
    head = _REQUEST.pack(72, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0, family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    ports = _PORTS.pack(owner.server[1], owner.client[1])
    ids = _IDS.pack(local.ljust(16, b"\0"), remote.ljust(16, b"\0"), owner.device, b"\xff" * 8)
    try:
        diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        try:
            diag.setblocking(False)
            diag.send(head + ports + ids)
            answer = diag.recv(1 << 16)
        finally:
            diag.close()
    except (AttributeError, OSError):
        # No netlink here, or none allowed; EAGAIN: no answer.
        return 0
    if len(answer) < _ATTRIBUTES or struct.unpack_from("=I", answer, _INODE)[0] != owner.inode:
        return 0
    group = attribute(answer, _ATTRIBUTES, _INET_DIAG_CGROUP_ID)
    return int(struct.unpack("=Q", group)[0]) if len(group) == 8 else 0


def _path(group: int, deadline: float) -> str:
    """Return the path of a control group, whose number is the inode of its folder; ``""``: it is not seen."""
    root = _unified()
    for folder, folders, _ in os.walk(root) if group and root else ():
        if time.monotonic() > deadline:
            break
        for name in folders:
            path = os.path.join(folder, name)
            try:
                if os.lstat(path).st_ino == group:
                    return path[len(root) :]
            except OSError as error:
                # ENOENT, ENODEV: it has gone. EACCES: it is closed to us.
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EACCES):
                    return ""
    return ""


def _unified() -> str:
    """Return where the unified hierarchy of control groups is mounted; ``""``: it is not."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.split()
                if fields[fields.index("-") + 1] == "cgroup2":
                    return fields[4]
    except OSError:
        # ENOENT, EACCES: there is no /proc for us.
        pass
    return ""
