"""Which process has this connection open, where the kernel offers no sock_diag?

psutil is asked, where the kernel has no sock_diag. It sees what the running user may see, and never guesses: a
connection whose holder we may not see is an IdentError, not a NoUser.
"""

from __future__ import annotations

import os
import stat
import sys

from ..connection import IdentError, NotAccepted, NoUser, Owner, cookie_of, pack, the_only
from ..user_namespace import check_owner, sees_every_uid

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from typing import Any

    from ..connection import Address, Arrival

#: CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE (linux/capability.h): with both, every /proc/PID/fd is open to us.
_SEES_PROCESSES = 1 << 2 | 1 << 19

#: In which a connection may wait in accept()'s queue, and before that for the far end.
_UNACCEPTED = {"ESTABLISHED", "CLOSE_WAIT", "SYN_RECV"}


def find(server: Address, client: Address, arrival: Arrival | None = None) -> Owner:
    """Return who holds the connection between two endpoints of which ``server`` is on this host.

    A host may be ``""``: any will do. By which device the query came in does not matter: the table does not tell
    which one a socket is bound to.

    :param arrival: how the query came in, where it came by a connection.
    :raises NoUser: there is no such connection, or no process holds it; `NotAccepted`: not yet.
    :raises IdentError: we may not see its holder, connections of different owners fit, the query came in by another
        network namespace, or the owner's uid may mean somebody else here.
    :raises ValueError: a host is not an address.
    """
    import psutil  # 17 ms, and only where sock_diag is missing

    if client[0].lower().startswith("fe80:") and not _is_the_only_link():
        # The table has no scopes, and any link may have the same addresses.
        raise IdentError("psutil does not know which link a connection is on")
    if arrival is not None and sys.platform == "linux":
        _check_namespace(psutil, arrival)
    wanted = (_packed(server[0]), server[1], _packed(client[0]), client[1])
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        # EACCES, EPERM: macOS and the BSDs show the table to root alone.
        raise IdentError("psutil may not list the connections") from None
    except OSError as error:
        # ENOENT: /proc is not mounted. EACCES, EPERM: it is closed to us. EMFILE, ENFILE: out of descriptors.
        raise IdentError(f"psutil can't list the connections: {error.strerror}") from error
    fitting = [connection for connection in connections if _fits(connection, wanted)]
    if not fitting:
        raise NoUser("no such connection (psutil)")
    owners = [owner for owner in (_owner(psutil, connection, wanted) for connection in fitting) if owner]
    if not owners:
        kind = NotAccepted if any(connection.status in _UNACCEPTED for connection in fitting) else NoUser
        raise kind("no process holds the connection (psutil)")
    if len(owners) < len(fitting) and any(owner.state == "SYN_SENT" for owner in owners):
        # The far end has not answered. If it knows a connection with these ends it is another one.
        raise IdentError("no process holds a connection with the same ends (psutil)")
    owners = [owner for owner in owners if owner.state != "SYN_SENT" or _is_ours(owner.server[0])]
    if not owners:
        raise NoUser("no such connection: its end here is no address of this host (psutil)")
    owner = the_only(owners, f"{server[1]},{client[1]}")
    if sys.platform == "linux":
        check_owner(owner.uid)
    return owner


def _is_ours(host: str) -> bool:
    """Return whether an unanswered socket's address is this host's. See `candidates.without_claims`.

    With IPv4, and elsewhere than on Linux, it always is: nobody can connect from another one.

    :raises IdentError: it can't be seen.
    """
    address = pack(host)[0]
    if len(address) == 4 or sys.platform != "linux":
        return True
    try:
        # line = address SP index SP prefix-length SP scope SP flags SP name, numbers in hexadecimal (proc(5))
        with open("/proc/self/net/if_inet6") as addresses:
            return any(line.startswith(address.hex()) for line in addresses)
    except OSError as error:
        # ENOENT: /proc is not mounted. EACCES: it is closed to us. EMFILE, ENFILE: out of descriptors.
        raise IdentError(f"this host's addresses can't be seen: {error.strerror}") from None


def _check_namespace(psutil: Any, arrival: Arrival) -> None:
    """Rule out that the query came in by another network namespace. :raises IdentError: nothing shows that it did not.

    Where the kernel has no cookie, our own connections that the table of this namespace has must be shown to us.
    """
    import socket

    try:
        with socket.socket() as ours:
            if arrival.cookie and arrival.cookie == cookie_of(ours):
                return
        fd = arrival.socket.fileno()
        process = psutil.Process()
        held = getattr(process, "net_connections", None) or process.connections
        if not arrival.cookie and any(connection.fd == fd for connection in held("tcp")):
            return
    except (OSError, psutil.Error):
        # EMFILE, ENFILE, ENOMEM: the process or the host has run out. EACCES, ENOENT: /proc is closed, or not there.
        pass
    raise IdentError("the query came in by another network namespace than the one that identd is in")


def _is_the_only_link() -> bool:
    """Return whether a single interface has a link-local address, so that scopes do not matter (proc(5))."""
    try:
        # line = address SP index SP prefix-length SP scope SP flags SP name, numbers in hexadecimal
        with open("/proc/self/net/if_inet6") as addresses:
            return len({line.split()[-1] for line in addresses if line.startswith("fe80")}) <= 1
    except OSError:
        # ENOENT: another system. EACCES: it is closed to us.
        return False


def _packed(host: str) -> bytes | None:
    return pack(host)[0] if host else None


def _fits(connection: Any, wanted: tuple[bytes | None, int, bytes | None, int]) -> bool:
    if not connection.raddr:
        return False
    local, local_port, remote, remote_port = wanted
    return (
        (connection.laddr[1], connection.raddr[1]) == (local_port, remote_port)
        and local in (None, pack(connection.laddr[0])[0])
        and remote in (None, pack(connection.raddr[0])[0])
    )


def _owner(psutil: Any, connection: Any, wanted: Any) -> Owner | None:
    """Return the owner of a connection of psutil's; None when no process holds it."""
    if connection.pid is None:
        if connection.status == psutil.CONN_TIME_WAIT or _sees_every_process():
            return None
        raise IdentError("we may not see the process that holds the connection (psutil)")
    try:
        process = psutil.Process(connection.pid)
        uid, inode = _socket_owner(process, connection.fd)
        # 'connections' was renamed in psutil 6.0.
        held = getattr(process, "net_connections", None) or process.connections
        # Asked again, so that a descriptor reused since the table was read names nobody.
        if not any(other.fd == connection.fd and _fits(other, wanted) for other in held("tcp")):
            return None
    except (psutil.NoSuchProcess, FileNotFoundError):
        # ENOENT, ESRCH: the process, or its descriptor, went away after the table was read.
        return None
    except (psutil.AccessDenied, PermissionError):
        # EACCES, EPERM: it may not be inspected any more (it changed its user, or a sandbox forbids it).
        raise IdentError("we may not see the process that holds the connection (psutil)") from None
    ends = (tuple(connection.laddr), tuple(connection.raddr))
    return Owner(uid, inode, connection.status, ends[0], ends[1], "psutil")


def _sees_every_process() -> bool:
    """Return whether the descriptors of every process may be seen by us."""
    if sys.platform != "linux":
        return os.geteuid() == 0
    # Uid 0 is not enough: a unit or a container takes capabilities away, and in a user namespace they don't count.
    return sees_every_uid() and _capabilities() & _SEES_PROCESSES == _SEES_PROCESSES


def _capabilities() -> int:
    """Return this process' effective capabilities (capabilities(7), /proc/self/status)."""
    try:
        with open("/proc/self/status", "rb") as status:
            return next((int(line.split()[1], 16) for line in status if line.startswith(b"CapEff:")), 0)
    except OSError:
        # ENOENT: /proc is not mounted. EACCES, EPERM: it is closed to us. EMFILE, ENFILE: out of descriptors.
        return 0


def _socket_owner(process: Any, fd: int) -> tuple[int, int]:
    """Return the uid and inode of a process' socket.

    On Linux they are those of the socket's own inode (which sock_diag reads). Elsewhere it is the process' user, who
    counts only where the process has been that user all the time: a daemon that accepts as root and then becomes
    another user holds sockets of both.
    """
    if sys.platform == "linux":
        status = os.stat(f"/proc/{process.pid}/fd/{fd}")
        if not stat.S_ISSOCK(status.st_mode):
            raise FileNotFoundError(fd)
        return status.st_uid, status.st_ino
    uids = set(process.uids())
    if len(uids) > 1:
        raise IdentError(f"process {process.pid} has been several users: {sorted(uids)}")
    return uids.pop(), 0
