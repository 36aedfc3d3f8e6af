#!/usr/bin/env python3
"""Which names does identd publish, and what does it run as a script?

As a script this file serves the connection on its standard input (see `identserver`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing takes 2 ms to import, and every connection may be a new process
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from identserver import __version__
    from identserver.protocol import IdentServer
    from lookup.connection import HiddenUser, IdentError, InvalidPort, NoUser

__all__ = ["HiddenUser", "IdentError", "IdentServer", "InvalidPort", "NoUser", "__version__", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run identd, and return its exit status.

    :param argv: the arguments without the program's name; None: the process' own.
    """
    try:
        from identserver.start import main as run
    except Exception as error:
        # ImportError, OSError: the packages were installed under a umask that closes them to us. SyntaxError: half of
        # one is there.
        return _cant_start(_closed() or f"can't start as uid {os.geteuid()}: {error or type(error).__name__}")
    return run(argv)


def _closed() -> str:
    """Return what this user can't read, and which folder is closed, even where `identserver.closed` is behind it."""
    try:
        from identserver import closed

        return closed.first_closed(closed.needed())
    except Exception:
        pass
    place = ""
    for part in f"{os.path.dirname(os.path.abspath(__file__))}/identserver/start.py".split("/")[1:]:
        place += f"/{part}"
        wanted = "rx" if part == "identserver" else "r" if part == "start.py" else "x"
        if os.path.exists(place) and not os.access(place, ("r" in wanted) * os.R_OK | ("x" in wanted) * os.X_OK):
            found = os.stat(place)
            ours = found.st_gid in (os.getegid(), *os.getgroups())
            who, shift = ("u", 6) if found.st_uid == os.geteuid() else ("g", 3) if ours else ("o", 0)
            lacking = "".join(letter for letter in wanted if not found.st_mode >> shift & {"r": 4, "x": 1}[letter])
            mode = f"{place} has mode {found.st_mode & 0o7777:04o}, which lacks {who}+{lacking}"
            return f"uid {os.geteuid()} can't read identd: {mode}"
    return ""


def _cant_start(message: str) -> int:
    """Say why, but not to the client, whose connection standard error is under inetd. Nothing of ours can be imported.

    :return: the exit status.
    """
    line = ascii(message)[1:-1].encode("ascii")
    try:
        if os.path.sameopenfile(0, 2):
            import socket

            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
                log.setblocking(False)
                # The facility daemon, an error (RFC 5424 section 6.2.1).
                log.sendto(b"<27>identd[%d]: %s" % (os.getpid(), line), "/dev/log")
        else:
            os.write(2, b"%s%s\n" % (b"<3>" if "JOURNAL_STREAM" in os.environ else b"identd: ", line))
    except OSError:
        # EBADF: there is no standard input or error. ENOENT, ECONNREFUSED, EAGAIN: nobody logs, or the log is full.
        pass
    return 1


def __getattr__(name: str) -> Any:
    """Return a published name: they are imported when somebody asks for one, not by each process that answers a query.

    :raises AttributeError: there is no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module 'identd' has no attribute {name!r}")
    import identserver
    from identserver import protocol
    from lookup import connection

    rooms = {"__version__": identserver, "IdentServer": protocol}
    return getattr(rooms.get(name, connection), name)


if __name__ == "__main__":
    # Where Python was started with -I, it does not look for modules beside its script.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main())
