"""Do processes of the host hold a socket, or processes of a container, and in whose user namespace?

The process decides, and not the network namespace: `ip netns exec` puts the host's own processes into another one, and
a process may hold a socket that was made elsewhere. To see them takes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
"""

from __future__ import annotations

import os

from ..connection import IdentError
from . import unsynced
from .wire import NO_UID, OF_A_CONTAINER, OF_THE_HOST

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Iterator

    #: Who holds a socket, and the owner of their user namespace (see `wire.Found`).
    Custody = tuple[int, int]

_NS_GET_USERNS, _NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704  # ioctl_ns(2)


class Changing(IdentError):
    """What was found a moment ago has changed: who looks again may find how it is now."""


#: For how many network namespaces processes are remembered that held a container's socket, and how many for each.
_MOST, _MOST_OF_ONE = 256, 4

#: By the socket's network namespace: looked at first. A hint, which is checked like any process. Not those of all
#: together, or who has a process with many descriptors would have everybody's questions wait for it.
_hints: dict[tuple[int, int], list[int]] = {}


def of(inode: int, uid: int, network: tuple[int, int]) -> tuple[Custody, int]:
    """Return who holds a socket, and the number of one process that does.

    Descriptors are many, so those of every process are read only where it matters. A process of a container's is
    enough, unless the socket would be named after the maker of its user namespace: whoever else holds the socket, it is
    not named after a login of the host's. Such a process is looked for where one held a socket before, then in the
    socket's network namespace, each process of which is looked at. A process of the host's is never enough: every
    process is looked at that has another root directory than the host's, or may have one.

    :param uid: of the socket. :param network: the identity of its network namespace (`namespaces.identity`).
    :raises Changing: nobody is seen to hold it. :raises IdentError: different ones do; or it can't be found out.
    """
    wanted = f"socket:[{inode}]"
    for pid in list(_hints.get(network, ())):
        fd, _ = _holds(pid, wanted)
        custody = _custody(pid, fd, wanted) if fd else None
        if custody is not None and _is_enough(custody, uid):
            return custody, pid
    found: dict[Custody, int] = {}
    inside, others = _by_network(network)
    closed = _look(inside, wanted, found)
    if not any(_is_enough(custody, uid) for custody in found):
        of_the_host = list(found) == [(OF_THE_HOST, NO_UID)]
        closed += _look(_with_another_root(others) if of_the_host else others, wanted, found)
    if len(found) > 1:
        raise IdentError(f"the socket is held by different ones: processes {_listed(found.values())}")
    if closed and any(held == OF_THE_HOST for held, _ in found):
        # A container's process among those would keep a login of the host's from being named.
        raise IdentError(f"who else holds the socket can't be seen: {closed} processes can't be looked at")
    if not found:
        why = f", but {closed} can't be looked at: that needs CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE" if closed else ""
        raise Changing(f"no process is seen to hold the socket{why}")
    custody, pid = found.popitem()
    if _is_enough(custody, uid):
        pids = [pid, *(other for other in _hints.pop(network, ()) if other != pid)]
        _hints[network] = pids[:_MOST_OF_ONE]
        if len(_hints) > _MOST:
            _hints.pop(list(_hints)[0], None)  # noqa: RUF015 - other threads do this, too
    return custody, pid


def _is_enough(custody: Custody, uid: int) -> bool:
    """Return whether a holder decides, whoever else holds the socket: nobody is named for being who made something."""
    return custody[0] == OF_A_CONTAINER and custody[1] != uid


def _look(pids: Iterable[int], wanted: str, found: dict[Custody, int]) -> int:
    """Add which of some processes hold a socket; return how many of them can't be looked at."""
    closed = 0
    for pid in pids:
        fd, seen = _holds(pid, wanted)
        closed += not seen
        custody = _custody(pid, fd, wanted) if fd else None
        if custody is not None:
            found.setdefault(custody, pid)
    return closed


def _by_network(network: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Return all processes: those of a network namespace, and those of others, or of one that is not seen."""
    inside: list[int] = []
    others: list[int] = []
    for pid in _processes():
        try:
            status = os.stat(f"/proc/{pid}/ns/net")
        except OSError:
            # ENOENT, ESRCH: it has ended, which whoever looks at it finds. EACCES: without CAP_SYS_PTRACE.
            others.append(pid)
            continue
        (inside if (status.st_dev, status.st_ino) == network else others).append(pid)
    return inside, others


def _with_another_root(pids: Iterable[int]) -> Iterator[int]:
    """Leave out the processes that are seen to have the host's root directory: who holds it for the host is known.

    :raises IdentError: the host's can't be seen.
    """
    try:
        host = unsynced.identity("/proc/1/root")
    except OSError as error:
        # EACCES: without CAP_SYS_PTRACE, or with fewer capabilities than process 1.
        raise IdentError(f"the host's root directory can't be seen: {error.strerror}") from None
    for pid in pids:
        try:
            if unsynced.identity(f"/proc/{pid}/root") == host:
                continue
        except OSError:
            # ENOENT, ESRCH: it has ended. EACCES: it is closed to us. Whoever looks at it finds which.
            pass
        yield pid


def _listed(pids: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(pids)))


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError as error:
        # ENOENT, EACCES: there is no /proc, or it is closed to us. EMFILE, ENFILE: no descriptors.
        raise IdentError(f"processes can't be listed: {error.strerror}") from None


def _holds(pid: int, wanted: str) -> tuple[str, bool]:
    """Return as which descriptor a process holds a socket (``""``: it does not), and whether that could be seen."""
    folder = f"/proc/{pid}/fd/"
    try:
        fds = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        # ENOENT, ESRCH: it has ended.
        return "", True
    except OSError:
        # EACCES: it is closed to us. EMFILE, ENFILE: no descriptors.
        return "", False
    seen = True
    for fd in fds:
        try:
            if os.readlink(folder + fd) == wanted:
                return fd, True
        except (FileNotFoundError, ProcessLookupError):
            # ENOENT: it was closed.
            continue
        except OSError:
            # EACCES: without CAP_SYS_PTRACE.
            seen = False
    return "", seen


def _custody(pid: int, fd: str, wanted: str) -> Custody | None:
    """Return whose a process that holds a socket is; None: it has ended, or has closed it.

    :param fd: its descriptor. :raises IdentError: that can't be seen.
    """
    try:
        # A descriptor of this folder is of that very process, whoever has its number later.
        process = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.readlink(f"fd/{fd}", dir_fd=process) != wanted:
                return None
            users, first = os.stat("ns/user", dir_fd=process), os.stat("/proc/1/ns/user")
            if unsynced.identity("root", process) == unsynced.identity("/proc/1/root"):
                return OF_THE_HOST, NO_UID
            return OF_A_CONTAINER, NO_UID if os.path.samestat(users, first) else _maker(process)
        finally:
            os.close(process)
    except (FileNotFoundError, ProcessLookupError):
        # ENOENT, ESRCH: it has ended, and others may hold the socket now.
        return None
    except OSError as error:
        # EACCES: without CAP_SYS_PTRACE, or with fewer capabilities than process 1.
        raise IdentError(f"whether process {pid} is the host's can't be seen: {error.strerror}") from None


def _maker(process: int) -> int:
    """Return who owns a process' user namespace; `NO_UID`: it is in a container of somebody else's.

    There, a user of the image's may make user namespaces too. No process ever leaves the pid namespaces around its own.

    :raises OSError: see `_custody`.
    """
    maker = _owner(os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process))
    outermost = os.stat("/proc/1/ns/pid")
    fd = os.open("ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        while not os.path.samestat(os.fstat(fd), outermost):
            if _owner(_ioctl(fd, _NS_GET_USERNS)) != maker:
                return NO_UID
            around = _ioctl(fd, _NS_GET_PARENT)
            os.close(fd)
            fd = around
    finally:
        os.close(fd)
    return maker


def _owner(fd: int) -> int:
    """Return who owns a user namespace, and close it."""
    from array import array

    owner = array("I", [NO_UID])
    try:
        _ioctl(fd, _NS_GET_OWNER_UID, owner)
    finally:
        os.close(fd)
    return owner[0]


def _ioctl(fd: int, request: int, argument: array[int] | int = 0) -> int:
    from fcntl import ioctl

    return ioctl(fd, request, argument)
