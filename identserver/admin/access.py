"""What keeps an identd that runs as nobody from a file?"""

from __future__ import annotations

import os
import stat


def kept_from_nobody(path: str, uid: int) -> str:
    """Return what lets other users read a file (inode(7)), as text for its owner; ``""``: they can, or there is none.

    :param path: of a file; links in it are followed as far as they can be seen.
    :param uid: whose file it should be: users get no advice to open what is another user's.
    """
    try:
        os.stat(path)
    except PermissionError:
        # EACCES: it is closed to us too. The folders show which of them it is.
        pass
    except OSError:
        # ENOENT, ENOTDIR: there is none. Others have nothing to do with permissions.
        return ""
    path = os.path.realpath(path)
    folder = ""
    try:
        # From the top, because nobody sees what is below a closed folder.
        for name in os.path.dirname(path).split("/"):
            folder = os.path.join(folder or "/", name)
            status = os.stat(folder)
            if not status.st_mode & stat.S_IXOTH:
                return f"chmod o+x {folder}" if status.st_uid == uid else f"{folder} is closed to other users"
        status = os.stat(path)
        if status.st_uid == uid and not status.st_mode & stat.S_IROTH:
            return f"chmod o+r {path}"
    except OSError as error:
        # EACCES: an access control list (acl(5)) keeps us out. ENOENT: it has just gone.
        return f"{folder}: {error.strerror}"
    return ""


def note_for_nobody(path: str, uid: int) -> str:
    """Return why an identd that runs as nobody can't read a user's file, and what helps; ``""``: it can."""
    fix = kept_from_nobody(path, uid)
    return fix and f"an identd of another user, such as nobody, can't read it ({fix})"
