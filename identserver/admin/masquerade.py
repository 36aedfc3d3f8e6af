"""What does identd lack to look behind NAT and into containers, where --masquerade has it do so?"""

from __future__ import annotations

import errno
import os
import shlex

from lookup.connection import IdentError
from lookup.kernel import namespaces
from lookup.kernel.conntrack import Conntrack, ConntrackUnavailable

from .. import capabilities
from ..options import UsageError, read
from . import reach
from .printing import WARNING, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options

_LABEL = "nat"

_REMEDY = (
    "identd-masquerade.conf and identd-containers.conf give it to a systemd unit, identd-masquerade and"
    " identd-containers in xinetd.d do under xinetd"
)

#: What helps where a network namespace can't be entered: a security module, or a seccomp filter, does not let us.
_FORBIDDEN = "a security module such as AppArmor forbids it: the kernel's log says DENIED, and names the profile"
_FILTERED = "a systemd unit needs RestrictNamespaces=net for that, and setns in SystemCallFilter="

#: Any connection: whether it is there is of no interest.
_NOBODYS = ("127.0.0.1", 1)


def check_own(options: Options) -> None:
    """Print what this process lacks, if --masquerade was given."""
    if not options.masquerade:
        return
    having = capabilities.held()
    found = capabilities.lacking(having)
    for reason in found:
        row(_LABEL, reason, WARNING)
    if found:
        row("", _REMEDY)
    if capabilities.suffice(having):
        _try_conntrack()
        if having & capabilities.mask("CAP_SYS_ADMIN"):
            _try_to_enter()


def _try_conntrack() -> None:
    try:
        with Conntrack() as conntrack:
            conntrack.get(_NOBODYS, _NOBODYS)
    except (ConntrackUnavailable, IdentError, ImportError) as error:
        row(_LABEL, f"nobody is found behind NAT: {getattr(error, 'detail', '') or error}", WARNING)


def _try_to_enter() -> None:
    """Enter our own network namespace, which changes nothing."""
    try:
        fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.enter(fd)
        finally:
            os.close(fd)
    except OSError as error:
        # EPERM: a seccomp filter. EACCES: a security module. ENOENT: no /proc.
        row(_LABEL, f"no container is looked into: to enter a network namespace fails: {error.strerror}", WARNING)
        row("", _FORBIDDEN if error.errno == errno.EACCES else _FILTERED)


def check_claims(port: int) -> None:
    """Print what those lack who are set up to serve a port with --masquerade, as far as their files tell."""
    for claim in reach.claims(port):
        if _masquerades(claim.command):
            for reason in capabilities.lacking(claim.granted):
                row(_LABEL, f"{claim.what} ({claim.path}) has --masquerade, but {reason}", WARNING)
                row("", _REMEDY)


def _masquerades(command: str) -> bool:
    """Return whether a command starts identd with that option."""
    try:
        words = shlex.split(command)
        at = next((at for at, word in enumerate(words) if os.path.basename(word) in ("identd", "identd.py")), None)
        return at is not None and read(words[at + 1 :]).masquerade
    except (ValueError, UsageError, SystemExit):
        # An open quote; options that identd has not, or --help: `set_up` tells that.
        return False
