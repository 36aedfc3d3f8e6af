"""Where is the key of the pseudonyms, and may this process have it?

Who has the key can turn every pseudonym back. So it is root's, or that of the one user that identd runs as, and nobody
else may read it.
"""

from __future__ import annotations

import os
import stat

from ..connection import IdentError, Unknown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from .blocks import System
    from .pseudonym import Pseudonyms

#: Where the key is, if --key names no other file; and what it is called among a unit's credentials (systemd.exec(5)).
PATH, CREDENTIAL = "/etc/identd.key", "identd.key"


def place(path: str | None) -> str:
    """Return where the key is. :param path: what --key names; None: nothing."""
    if path is not None:
        return path
    credential = _credential()
    return credential if credential and os.path.lexists(credential) else PATH


def unlock(system: System | None, path: str | None, kept: Pseudonyms | None = None) -> System | None:
    """Read the key for a system file that needs one, and return that.

    :param path: what --key names. :param kept: what counts where the key can't be read any more: `keep`'s.
    """
    if system is not None and system.needs_key:
        found = read(path)
        system.pseudonyms = kept if kept is not None and isinstance(found, Unknown) else found
    return system


def keep(path: str | None) -> Pseudonyms | None:
    """Return what the key makes, for a process that is about to give root up; None: it is not root, or has no key."""
    if os.geteuid() != 0 or not os.path.lexists(place(path)):
        return None
    found = read(path)
    return None if isinstance(found, Unknown) else found


def read(path: str | None) -> Pseudonyms | Unknown:
    """Return what the key makes. `Unknown`: there is none, others can read it, or this process must not have it."""
    from .pseudonym import KEY_OCTETS, Pseudonyms  # only where there are pseudonyms: hashlib takes 2 ms

    where = place(path)
    try:
        is_nobody = _is_nobody()
    except IdentError as error:
        return Unknown(f"the key {where}: whether it is nobody who reads it can't be found out: {error.detail}")
    if is_nobody:
        remedy = "start identd as root, or as a user of its own"
        return Unknown(f"the key {where} is not for nobody, whom other services run as: {remedy}")
    try:
        # A FIFO must not hold us up.
        fd = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            why = _unfit(os.fstat(fd), where)
            key = b"" if why else os.read(fd, KEY_OCTETS + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return Unknown(f"there is no key {where}: identd --new-key makes one")
    except OSError as error:
        # EACCES: it is another user's. EIO, EMFILE and the like.
        return Unknown(f"the key {where}: {error.strerror}")
    if not why and len(key) != KEY_OCTETS:
        why = f"not a key: {KEY_OCTETS} octets expected"
    return Unknown(f"the key {where}: {why}") if why else Pseudonyms(key)


def _credential() -> str:
    """Return where systemd puts the key for its unit (LoadCredential=), or ``""``."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return os.path.join(folder, CREDENTIAL) if folder else ""


def _is_nobody() -> bool:
    """Say whether we are nobody. :raises IdentError: that can't be found out."""
    from ..users import names

    return os.geteuid() == names.OVERFLOW_UID or names.login(os.geteuid()) == ("UNIX", "nobody")


def _unfit(status: os.stat_result, path: str) -> str:
    """Return why a file must not be the key, or ``""``."""
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to uid {status.st_uid}"
    # systemd gives the unit's user access by an access control list (acl(5)), whose mask is seen as the group's rights.
    others = 0o037 if path == _credential() else 0o077
    if status.st_mode & others:
        return f"others may read it (mode {stat.S_IMODE(status.st_mode):04o}): chmod 0400"
    return ""
