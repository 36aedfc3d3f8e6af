"""What is this uid called, and whose is this name?  The name service's answer, through the library's ``pwd``."""

from __future__ import annotations

import os
import pwd
import re

from .errors import IdentError

#: What a user namespace shows for every uid that it does not map (user_namespaces(7)), unless
#: /proc/sys/kernel/overflowuid says otherwise, which no distribution does.
OVERFLOW_UID = 65534

#: The whole range of uids, as /proc/self/uid_map counts it in a process that sees every uid as it is.
_ALL_UIDS = 4294967295

#: The user database (passwd(5)), and what says whether it is asked first (nsswitch.conf(5)).
_PASSWD, _NSSWITCH = "/etc/passwd", "/etc/nsswitch.conf"

#: The largest uid that anyone can have: the one above it means "no uid" (chown(2)).
LAST_UID = _ALL_UIDS - 1

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterable


def entry(uid: int) -> tuple[tuple[str, str], str]:
    """Return ``("UNIX", login name)``, or ``("OTHER", number)`` for a uid that has no name; and his home, or ``""``.

    May block for as long as the name service does (LDAP, NIS); the caller holds the deadline.

    :raises IdentError: when the kernel shows the overflow uid because this process' user namespace
        does not map the real one: the name would be somebody else's.
    """
    if uid == OVERFLOW_UID and not sees_every_uid():
        raise IdentError("a user namespace hides the owner's uid (PrivateUsers= in a unit does that)", uid)
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        # What a name service that fails looks like, too: at least the file that it reads must be there to open.
        try:
            os.close(os.open(_PASSWD, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            pass
        except OSError as error:
            # EMFILE, ENFILE: out of descriptors. EACCES: a sandbox.
            raise IdentError(f"the user database can't be read: {error.strerror}", uid) from None
        return ("OTHER", str(uid)), ""
    return (("UNIX", found.pw_name) if found.pw_name else ("OTHER", str(uid))), found.pw_dir


def login(uid: int) -> tuple[str, str]:
    """Return what a user is called: the first half of `entry`, with what it raises."""
    return entry(uid)[0]


def home(uid: int) -> str:
    """Return a user's home directory, or ``""``: the second half of `entry`, with what it raises."""
    return entry(uid)[1]


def sees_every_uid() -> bool:
    """Say whether uids reach this process unmapped (user_namespaces(7), /proc/self/uid_map)."""
    try:
        with open("/proc/self/uid_map", "rb") as uid_map:
            return [int(field) for field in uid_map.read().split()] == [0, 0, _ALL_UIDS]
    except FileNotFoundError:
        # ENOENT: a kernel without user namespaces, where nothing is mapped; or no /proc that would show it.
        return os.path.exists("/proc/self")
    except OSError:
        # EACCES, EPERM: /proc is kept from us, so nothing shows that the uid is real.
        return False


def uid_of(name: bytes) -> int | None:
    """Return the uid that a login name has, or None. May block as `login` does."""
    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid
    except (KeyError, ValueError):
        # ValueError: a NUL in it, or octets that no name in this locale has.
        return None


def uids(names: Iterable[bytes]) -> dict[bytes, int | None]:
    """Return the uid of each login name, or None for what is none.

    For thousands of names: getpwnam(3) reads the whole of /etc/passwd for each. Where the name service asks that
    file first, it is read once, and only names that it lacks are asked for. May block as `login` does.
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
        # EACCES and the like: the name service may know more.
        return [b""]
    return (services[1].split() if services else [b"files"]) or [b""]


def _passwd() -> dict[bytes, bytes]:
    """Return the uids, in decimal, that /etc/passwd gives its names; none where it can't be sure."""
    try:
        with open(_PASSWD, "rb") as passwd:
            data = passwd.read()
    except OSError:
        # ENOENT, EACCES: no such file, or not for us.
        return {}
    # Names that are included or excluded, as the service "compat" has them.
    if re.search(rb"(?m)^[ \t]*[+-]", data):
        return {}
    # line = name ":" password ":" uid ":" gid ":" gecos ":" directory ":" shell
    # Uids of ten digits may be too large, so those are left to the name service as well.
    entries = re.findall(rb"(?m)^([^:\s#]+):[^:\n]*:([0-9]{1,9}):[0-9]+:[^:\n]*:[^:\n]*:", data)
    # The first of two entries with one name counts.
    return dict(reversed(entries))
