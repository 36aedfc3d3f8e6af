"""Which other network namespaces are joined to this one, and has one of them a connection?

Only those count that a link of ours has led to: any user can make another one, and give it any address. Nothing stays
open: a descriptor keeps a namespace alive whose container has ended.
"""

from __future__ import annotations

import _socket as socket  # see sock_diag.py
import errno
import os
import struct

from ..connection import IdentError, within
from . import unsynced

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    Result = TypeVar("Result")

#: Where namespaces have names: iproute2's, Podman's and CNI's; Docker's.
_NAMED = ("/run/netns", "/run/docker/netns")

#: How many are looked into, and seconds for one.
MOST, SECONDS = 256, 2.0

#: The network namespace of this thread.
OURS = "/proc/thread-self/ns/net"

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_RTM_NEWNSID, _RTM_GETNSID = 88, 90  # linux/rtnetlink.h
_NETNSA_NSID, _NETNSA_FD = 1, 3  # linux/net_namespace.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_BODY = struct.Struct("=Bxxx")  # struct rtgenmsg, aligned
_NUMBER = struct.Struct("=HHi")  # an attribute with a number in it: length, type, number


def joined() -> int:
    """Return how many network namespaces are joined to this thread's. Needs no privilege.

    :raises IdentError: the kernel does not tell.
    """
    return len(_ask(_NLM_F_REQUEST | _NLM_F_DUMP))


def paths() -> Iterator[str]:
    """Yield a path to each network namespace that is joined to this thread's, as far as it is to be seen, once.

    :raises IdentError: the kernel does not tell which ones are.
    """
    try:
        seen = {identity(OURS)}
    except OSError as error:
        # ENOENT, EACCES: no /proc, or it is closed to us.
        raise IdentError(f"our own network namespace: {error.strerror}") from None
    for path in candidates():
        try:
            found = identity(path)
            if found in seen:
                continue
            seen.add(found)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # ENOENT, ESRCH: it has ended meanwhile. EACCES, EPERM: it is closed to us. EMFILE, ENFILE: no descriptors.
            continue
        try:
            if any(number >= 0 for number in _ask(_NLM_F_REQUEST, fd)):
                yield path
        except IdentError:
            # EINVAL: no network namespace, whatever stands there.
            continue
        finally:
            os.close(fd)


def ask_inside(path: str, function: Callable[[], Result]) -> Result:
    """Call a function in another network namespace: what it opens there is closed when it returns.

    It runs in a thread of its own, which ends in there: nobody has to find the way back.

    :raises OSError: we may not. ENOENT, ESRCH: it has ended meanwhile. EPERM: it needs CAP_SYS_ADMIN.
        `TimeoutError`: the function takes too long. Otherwise, whatever the function raises.
    """

    def call() -> Result:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(fd)
        finally:
            os.close(fd)
        return function()

    return within(SECONDS, call)


def enter(fd: int) -> None:
    """Move this thread into a network namespace. :raises OSError: EPERM: that needs CAP_SYS_ADMIN."""
    if hasattr(os, "setns"):
        os.setns(fd, _CLONE_NEWNET)
        return
    unsynced.checked("setns", fd, _CLONE_NEWNET)  # Python's own comes with 3.12


def candidates(unlisted: Callable[[OSError], object] = id) -> Iterator[str]:
    """Yield a path to each network namespace that has a name or a process, some of them several times.

    :param unlisted: called with why a folder can't be listed: there may be others in it.
    """
    for folder in _NAMED:
        yield from (f"{folder}/{name}" for name in _list(folder, unlisted))
        # What came after a sandbox of ours was made is to be seen where process 1 is.
        outside = f"/proc/1/root{folder}"
        if not _is_same(folder, outside):
            yield from (f"{outside}/{name}" for name in _list(outside, unlisted))
    yield from (f"/proc/{pid}/ns/net" for pid in _list("/proc", unlisted) if pid.isdecimal())


def name_of(network: tuple[int, int]) -> str:
    """Return a path under which a network namespace has a name; ``""``: none is seen."""
    for folder in _NAMED:
        for name in _list(folder, id):
            try:
                if identity(f"{folder}/{name}") == network:
                    return f"{folder}/{name}"
            except OSError:
                # ENOENT: it has ended meanwhile. EACCES: it is closed to us.
                continue
    return ""


def processes() -> list[int]:
    """Return all processes that are seen; none, where they can't be listed."""
    return [int(name) for name in _list("/proc", id) if name.isdecimal()]


def _is_same(folder: str, other: str) -> bool:
    try:
        return identity(folder) == identity(other)
    except OSError:
        # ENOENT: one is not there. EACCES: the other is closed to us.
        return False


def _list(folder: str, unlisted: Callable[[OSError], object]) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        # ENOENT, ENOTDIR: there is none.
        pass
    except OSError as error:
        # EACCES: it is closed to us; whoever counts what is joined finds too few. EMFILE, ENFILE, ENOMEM: the process
        # or the host has run out.
        unlisted(error)
    return []


def identity(path: str) -> tuple[int, int]:
    """Return what tells a namespace from every other one that is there at the time. :raises OSError: see `stat`."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _ask(flags: int, fd: int = -1) -> list[int]:
    """Return the numbers that the kernel has for namespaces as seen from ours; -1: it has none for that one.

    :param fd: which one; -1: all of them.
    """
    body = _BODY.pack(socket.AF_UNSPEC) + (_NUMBER.pack(_NUMBER.size, _NETNSA_FD, fd) if fd >= 0 else b"")
    numbers: list[int] = []
    try:
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        try:
            route.setblocking(False)  # the kernel has answered when send() returns
            route.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETNSID, flags, 1, 0) + body)
            while True:
                data, (sender, _) = route.recvfrom(65536)
                if sender == 0 and _take(data, numbers, bool(flags & _NLM_F_DUMP)):
                    return numbers
        finally:
            route.close()
    except OSError as error:
        # EAFNOSUPPORT: a sandbox. EMFILE, ENFILE, ENOMEM, ENOBUFS: the process or the host has run out.
        raise IdentError(f"the kernel can't be asked for network namespaces: {error.strerror}") from None


def _take(data: bytes, numbers: list[int], several: bool) -> bool:
    """Take the numbers out of a datagram; return whether it is the last. :raises IdentError: the kernel refuses."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if kind == _NLMSG_DONE:
            return True
        if kind != _RTM_NEWNSID or length < _HEADER.size:
            number = -struct.unpack_from("=i", data, offset + _HEADER.size)[0] if kind == _NLMSG_ERROR else 0
            name = errno.errorcode.get(number, number)
            raise IdentError(f"the kernel does not tell which network namespaces are joined: {name}")
        at = offset + _HEADER.size + _BODY.size
        while at + _NUMBER.size <= offset + length:
            size, attribute, number = _NUMBER.unpack_from(data, at)
            if attribute == _NETNSA_NSID:
                numbers.append(number)
            at += max((size + 3) & ~3, 4)
        offset += (length + 3) & ~3
    return not several
