"""Which lines of the system file need a network that a sandbox forbids?"""

from __future__ import annotations

import socket

from lookup.config import system_file
from lookup.config.blocks import Domain, HostName
from lookup.connection import ConfigError

from . import units
from .install import shipped
from .printing import WARNING, WRONG, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options

_DROP_IN = "systemd/identd-network.conf"


def check_needs(options: Options, is_denied: bool) -> None:
    """Print what the system file asks for and this sandbox forbids.

    :param is_denied: whether the unit's addresses are restricted (IPAddressDeny=), which can't be seen from within.
    """
    if is_denied or not _may_connect():
        _tell(options, "the sandbox", "obstacle")


def check_units(options: Options) -> None:
    """Print what the system file asks for and the units that serve here forbid."""
    for unit in units.without_network():
        _tell(options, unit, "system")


def _tell(options: Options, who: str, label: str) -> None:
    """Print the lines of the system file that need a network. :param label: of a reply that will be wrong."""
    try:
        system = system_file.load(options.system_file, options.requires_system_file)
    except ConfigError:
        # `check_files` tells that.
        system = None
    severity = WRONG if label == "obstacle" else WARNING
    found = options.forward is not None
    if found:
        row(label, f"--forward has machines behind this one asked, which {who} forbids", severity)
    sections = () if system is None else system.sections
    default = None if system is None else system.default
    for one in [*(default or ()), *(one for section in sections for one in section.ranges)]:
        names_a_host = isinstance(one.where.to, (HostName, Domain)) or isinstance(one.where.from_, HostName)
        forwards = one.force is not None and one.force.kind == "forward"
        if forwards:
            row(label, f"{one.force.rule} has another server asked (forward), which {who} forbids", severity)
        elif "forward" in one.capabilities:
            row("system", f"{one.rule} lets users have another server asked, which {who} forbids", WARNING)
        if names_a_host:
            row("system", f"{one.rule} names a host: {who} forbids to ask the DNS", WARNING)
        found = found or names_a_host or forwards or "forward" in one.capabilities
    if found:
        lines = "RestrictAddressFamilies=AF_INET AF_INET6, and an empty IPAddressDeny="
        row("", f"give the unit {shipped(_DROP_IN)} as a drop-in: {lines}")


def _may_connect() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError:
        # EAFNOSUPPORT, EPERM: RestrictAddressFamilies=, a seccomp filter.
        return False
    return True
