"""Which lines of the system file need a network that a sandbox forbids?"""

from __future__ import annotations

import socket

from lookup.config import system_file
from lookup.config.blocks import Domain, HostName
from lookup.connection import ConfigError

from .printing import WARNING, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options

_REMEDY = "give the unit RestrictAddressFamilies=AF_INET AF_INET6, and an empty IPAddressDeny="


def check_needs(options: Options, is_denied: bool) -> None:
    """Print what the system file asks for and this sandbox forbids.

    :param is_denied: whether the unit's addresses are restricted (IPAddressDeny=), which can't be seen from within.
    """
    try:
        system = system_file.load(options.system_file, options.requires_system_file)
    except ConfigError:
        # `check_files` tells that.
        return
    if system is None or (_may_connect() and not is_denied):
        return
    ranges = [*(system.default or ()), *(one for section in system.sections for one in section.ranges)]
    for one in ranges:
        if one.force is not None and one.force.kind == "forward":
            row("obstacle", f"{one.force.rule} has another server asked (forward), which the sandbox forbids")
            row("", _REMEDY)
        elif "forward" in one.capabilities:
            row("system", f"{one.rule} lets users have another server asked, which the sandbox forbids", WARNING)
        if isinstance(one.where.to, (HostName, Domain)) or isinstance(one.where.from_, HostName):
            row("system", f"{one.rule} names a host: the sandbox forbids to ask the DNS", WARNING)


def _may_connect() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError:
        # EAFNOSUPPORT, EPERM: RestrictAddressFamilies=, a seccomp filter.
        return False
    return True
