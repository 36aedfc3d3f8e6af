"""Do uids mean to this process what they mean to the host?

A process in a user namespace (user_namespaces(7)) sees every uid as the map of that namespace has it.
"""

from __future__ import annotations

import os

from .connection import IdentError

#: How many uids there are, as /proc/self/uid_map counts them.
_ALL_UIDS = 4294967295

_NS_GET_USERNS = 0xB701  # ioctl_ns(2)


def sees_every_uid() -> bool:
    """Return whether each uid reaches this process as it is."""
    try:
        found = _map()
    except FileNotFoundError:
        # ENOENT: a kernel without user namespaces, where nothing is mapped; or no /proc that would show it.
        return os.path.exists("/proc/self")
    except (OSError, ValueError):
        # EACCES, EPERM: /proc is closed to us, so nothing shows that the uid is real. EMFILE, ENFILE, EIO: as good.
        return False
    begins = 0
    for inside, outside, count in sorted(found):
        if inside != begins or outside != inside:
            return False
        begins += count
    return begins == _ALL_UIDS


def check_owner(uid: int) -> None:
    """Rule out that the uid of a socket in this network namespace is another user's out on the host.

    :raises IdentError: it may be.
    """
    if not (sees_every_uid() or owns_the_network() or _is_the_same_outside(uid)):
        raise IdentError(f"uid {uid} may be anybody: a user namespace maps uids, and the network is not its own", uid)


def owns_the_network() -> bool:
    """Return whether the network namespace of this thread belongs to this process' user namespace.

    The network of a container of its own has the sockets of the container's users, whom its passwd file names.
    """
    from fcntl import ioctl  # only within a user namespace

    try:
        network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            owner = ioctl(network, _NS_GET_USERNS)
        finally:
            os.close(network)
        try:
            return os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
        finally:
            os.close(owner)
    except OSError:
        # EPERM: it belongs to a user namespace outside of ours. ENOTTY: before Linux 4.9. ENOENT, EACCES: no /proc, or
        # it is closed to us. EMFILE, ENFILE: out of descriptors.
        return False


def _is_the_same_outside(uid: int) -> bool:
    """Return whether a uid is the host's own number.

    A map shows only what the namespace around it makes of uids, which may itself be one that moves them. But /proc/sys
    is root's on the host, and is shown as root's only where neither moves root.
    """
    try:
        return os.stat("/proc/sys").st_uid == 0 and any(
            inside == outside and inside <= uid < inside + count for inside, outside, count in _map()
        )
    except (OSError, ValueError):
        # ENOENT, EACCES, EPERM: /proc is closed to us. EMFILE, ENFILE: out of descriptors.
        return False


def _map() -> list[tuple[int, int, int]]:
    """Return the map of uids: the first one inside, what that is outside, how many there are."""
    with open("/proc/self/uid_map", "rb") as lines:
        fields = [int(field) for field in lines.read().split()]
    return list(zip(fields[::3], fields[1::3], fields[2::3]))
