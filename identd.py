#!/usr/bin/env python3
"""Which names does identd publish, and what does it run as a script?"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing takes 2 ms to import, and every connection may be a new process
if TYPE_CHECKING:
    from collections.abc import Sequence

    from identserver import __version__
    from identserver.protocol import IdentServer
    from lookup.connection import HiddenUser, IdentError, InvalidPort, NoUser

__all__ = ["HiddenUser", "IdentError", "IdentServer", "InvalidPort", "NoUser", "__version__", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run identd, and return its exit status. :param argv: the arguments; None: the process' own."""
    try:
        from identserver.start import main as run
    except Exception as error:  # ImportError, OSError: closed to us (umask 077). SyntaxError: half of it is there.
        return _cant_start(_closed() or f"can't start as uid {os.geteuid()}: {error or type(error).__name__}")
    return run(argv)


def _closed() -> str:
    """Return what this user can't read, and what its mode lacks, even where `identserver.closed` is behind it."""
    try:
        from identserver import closed

        return closed.first_closed(closed.needed())
    except Exception:
        pass
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "identserver")
    bits = {"r": os.R_OK, "x": os.X_OK}
    for place, wanted in (here, "rx"), (f"{here}/start.py", "r"):
        if os.path.exists(place) and not os.access(place, sum(bits[letter] for letter in wanted)):
            found = os.stat(place)
            ours = found.st_gid in (os.getegid(), *os.getgroups())
            who, shift = ("u", 6) if found.st_uid == os.geteuid() else ("g", 3) if ours else ("o", 0)
            lacking = "".join(letter for letter in wanted if not found.st_mode >> shift & bits[letter])
            mode = f"{place} has mode {found.st_mode & 0o7777:04o}, which lacks {who}+{lacking}"
            return f"uid {os.geteuid()} can't read identd: {mode}"
    return ""


def _cant_start(message: str) -> int:
    """Say why, but not to the client, whose connection standard error is under inetd; return the exit status."""
    line = ascii(message)[1:-1].encode("ascii")
    try:
        if os.path.sameopenfile(0, 2):
            import socket

            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as log:
                log.sendto(b"<27>identd[%d]: %s" % (os.getpid(), line), "/dev/log")  # daemon.err (RFC 5424, 6.2.1)
        else:
            os.write(2, b"%s%s\n" % (b"<3>" if "JOURNAL_STREAM" in os.environ else b"identd: ", line))
    except OSError:
        pass  # EBADF: no standard input or error. ENOENT, ECONNREFUSED, EAGAIN: nobody logs, or the log is full.
    return 1


def __getattr__(name: str) -> object:
    """Return a published name, imported when somebody asks for it. :raises AttributeError: there is no such name."""
    if name not in __all__:
        raise AttributeError(f"module 'identd' has no attribute {name!r}")
    import identserver
    from identserver import protocol
    from lookup import connection

    return getattr({"__version__": identserver, "IdentServer": protocol}.get(name, connection), name)


if __name__ == "__main__":
    # Where Python was started with -I, it does not look for modules beside its script.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main())
