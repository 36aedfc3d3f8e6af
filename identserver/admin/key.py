"""How is the key of the pseudonyms made?"""

from __future__ import annotations

import os

from lookup.config.key import place
from lookup.config.pseudonym import KEY_OCTETS
from lookup.connection import IdentError

from .printing import show

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options


def new_key(options: Options) -> int:
    """Write a new key where there is none, for nobody but whoever runs this to read; return the exit status.

    :raises IdentError: there is a file already, or it can't be written.
    """
    path = place(options.key)
    try:
        # Never over another key: what that one made could not be turned back any more.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            os.fchmod(fd, 0o400)  # whatever the umask is
            _write(fd, os.urandom(KEY_OCTETS))
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        # EEXIST: there is one. EACCES, EROFS: not here. ENOSPC, EIO: the disk.
        raise IdentError(f"{path}: {error.strerror}") from None
    show(f"a new key is in {path}")
    return 0


def _write(fd: int, key: bytes) -> None:
    """Write a key, and wait until it is on the disk: names are told that only it turns back."""
    while key:
        key = key[os.write(fd, key) :]
    os.fsync(fd)
