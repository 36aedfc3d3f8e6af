"""What stands in the way of true answers on this host, and what helps?"""

from __future__ import annotations

import os
import socket
import sys

from lookup.connection import IdentError
from lookup.kernel import sock_diag
from lookup.user_namespace import owns_the_network, sees_every_uid
from lookup.users import names

from ..answer import in_time
from .printing import WARNING, WRONG, row

#: ioctls of a network device, and the flag of one that is up (netdevice(7)).
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1

#: Nobody has this uid, it may be hoped. That is sure only where each service can be asked.
_NOBODYS_UID = 1_999_999_999

_OWN_USER_ONLY = "until then psutil answers, about our own user only"


def obstacles() -> list[tuple[str, str]]:
    """Return pairs of (what was found, what helps); an empty list when nothing was found."""
    found = [*hindrances(), *no_network()]
    return [*found, *peculiarities()] if _uids_are_true() and not _nameless() else found


def check_hindrances(within_a_unit: bool = False) -> bool:
    """Print what keeps somebody from a true answer; return whether anything does.

    :param within_a_unit: whoever started us knows better whether this is the right network.
    """
    return _told(hindrances() if within_a_unit else [*hindrances(), *no_network()], WRONG)


def check_peculiarities() -> None:
    """Print what is odd."""
    _told(peculiarities(), WARNING)


def _told(found: list[tuple[str, str]], severity: str) -> bool:
    for obstacle, remedy in found:
        row("obstacle", obstacle, severity)
        row("", remedy)
    return bool(found)


def hindrances() -> list[tuple[str, str]]:
    """Return such pairs where there is somebody about whom no true answer can be given."""
    found = []
    try:
        with sock_diag.SockDiag() as diag:
            if not diag.answers_for(socket.IPPROTO_TCP):
                found.append(("the kernel has no sock_diag for TCP", f"load the module tcp_diag; {_OWN_USER_ONLY}"))
    except (sock_diag.SockDiagUnavailable, IdentError) as error:
        reason = getattr(error, "detail", "") or str(error)
        found.append((
            f"the kernel's sock_diag can't be asked: {reason}",
            f"allow AF_NETLINK (RestrictAddressFamilies=, seccomp); {_OWN_USER_ONLY}",
        ))  # fmt: skip
    except ImportError as error:
        found.append((f"pyroute2 can't be imported: {error}", f"install it; {_OWN_USER_ONLY}"))
    if not _uids_are_true():
        found.append((
            "a user namespace maps uids: owners outside it can't be named",
            "run identd outside it; in a systemd unit, leave PrivateUsers= out",
        ))  # fmt: skip
    elif reason := _nameless():
        found.append((
            f"the name service can't be asked about everybody: {reason}",
            "look at the passwd line of /etc/nsswitch.conf, and at the daemon of that service; in a systemd unit, let"
            " identd see the daemon's socket (BindReadOnlyPaths=), and leave it AF_UNIX",
        ))  # fmt: skip
    return found


def _nameless() -> str:
    """Return why it can't be found out who somebody is; ``""``: it can."""
    try:
        for uid in (os.geteuid(), _NOBODYS_UID):
            in_time(names.login, uid)
    except IdentError as error:
        return error.detail or str(error)
    return ""


def no_network() -> list[tuple[str, str]]:
    """Return such a pair where this is an empty network of its own."""
    if not _is_cut_off():
        return []
    obstacle = "no network is here but loopback: the host's connections can't be seen"
    return [(obstacle, "run identd where the connections are; in a systemd unit, leave PrivateNetwork= out")]


def peculiarities() -> list[tuple[str, str]]:
    """Return such pairs where the answers are true, but surely not what was meant."""
    found = []
    uid = os.geteuid()
    if names.login(uid)[0] == "OTHER":
        found.append((
            f"uid {uid} has no login name: replies about it have OTHER and the number",
            "if it should have one, look at the passwd line of /etc/nsswitch.conf and at `getent passwd`",
        ))  # fmt: skip
    if _is_the_network_of_init() is False and not _is_cut_off():
        found.append((
            "this is not the network of process 1: only the connections of this network are known here",
            "right for a container or `ip netns exec`; if it should be the host's, run identd there",
        ))  # fmt: skip
    return found


def _uids_are_true() -> bool:
    return sees_every_uid() or owns_the_network()


def _is_cut_off() -> bool:
    """Return whether this is an empty network that PrivateNetwork= makes, as far as that can be seen."""
    if _is_the_network_of_init() or _has_a_device():
        return False
    # A container with users of its own may well have a network of its own, without a way out.
    return sees_every_uid() or not owns_the_network()


def _is_the_network_of_init() -> bool | None:
    """Return whether process 1 has our network namespace; None: that can't be seen."""
    try:
        return os.path.samestat(os.stat("/proc/1/ns/net"), os.stat("/proc/self/ns/net"))
    except OSError:
        # EACCES: it is root's. ENOENT: no /proc, or one that shows only us (ProcSubset=pid). EMFILE: as good.
        return None


def _has_a_device() -> bool:
    """Return whether a network device is up apart from loopback. (Tunnels are there in every network, but down.)"""
    from fcntl import ioctl

    try:
        devices = [name for _, name in socket.if_nameindex() if name != "lo"]
        if not devices:
            return False
        # Of any family: a sandbox may forbid some.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            flags = [ioctl(asking, _SIOCGIFFLAGS, name.encode().ljust(40, b"\0")) for name in devices]
    except OSError:
        # EMFILE, ENFILE: out of descriptors. EAFNOSUPPORT: a sandbox. ENODEV: it has just gone. Nothing was found.
        return True
    return any(int.from_bytes(answer[16:18], sys.byteorder) & _IFF_UP for answer in flags)


def versions() -> str:
    """Return the versions of the interpreter and of the two packages, as text for a person."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {platform.python_version()}"]
    for package in ("pyroute2", "psutil"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)
