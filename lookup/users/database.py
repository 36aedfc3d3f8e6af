"""Which uids have these login names, where there are thousands of them?"""

from __future__ import annotations

import re

from .names import PASSWD, uid_of

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterable

#: What says whether the user database is asked first (nsswitch.conf(5)).
_NSSWITCH = "/etc/nsswitch.conf"


def uids(names: Iterable[bytes]) -> dict[bytes, int | None]:
    """Return the uid of each login name, or None for a text that is not one.

    For each name, getpwnam(3) reads the whole of /etc/passwd. Where the name service asks that file first, it is
    read once here, and only names that it lacks are asked for. May block as the name service does.
    """
    wanted = set(names)
    listed: dict[bytes, bytes] = {}
    lack_numbers = False
    # The cost of reading the file once is that of a few questions.
    if len(wanted) > 3:
        services = _services()
        # An action ("[SUCCESS=merge]", say) may make a later service's answer count.
        if services[0] in (b"files", b"compat") and not b"".join(services[1:2]).startswith(b"["):
            listed = _passwd()
            # Thousands of blocks may be for uids in decimal, and nss-systemd(8) has no such names.
            lack_numbers = bool(listed) and set(services) <= {b"files", b"compat", b"systemd"}
    return {
        name: int(listed[name]) if name in listed else None if lack_numbers and name.isdigit() else uid_of(name)
        for name in wanted
    }


def _services() -> list[bytes]:
    """Return what the name service asks about users, in order (nsswitch.conf(5))."""
    try:
        with open(_NSSWITCH, "rb") as nsswitch:
            services = re.search(rb"(?m)^[ \t]*passwd:([^#\n]*)", nsswitch.read())
    except FileNotFoundError:
        # ENOENT: the C library's default.
        return [b"files"]
    except OSError:
        # EACCES, EMFILE and the like: the name service may know more.
        return [b""]
    return (services[1].split() if services else [b"files"]) or [b""]


def _passwd() -> dict[bytes, bytes]:
    """Return the uids, in decimal, that /etc/passwd gives its names; none where that is not certain."""
    try:
        with open(PASSWD, "rb") as passwd:
            data = passwd.read()
    except OSError:
        # ENOENT, EACCES: no such file, or it is closed to us.
        return {}
    # Names that are included or excluded, as the service "compat" has them.
    if re.search(rb"(?m)^[ \t]*[+-]", data):
        return {}
    # line = name ":" password ":" uid ":" gid ":" gecos ":" directory ":" shell
    # Uids of ten digits may be too large, so those are left to the name service as well.
    entries = re.findall(rb"(?m)^([^:\s#]+):[^:\n]*:([0-9]{1,9}):[0-9]+:[^:\n]*:[^:\n]*:", data)
    # The first of two entries with one name counts.
    return dict(reversed(entries))
