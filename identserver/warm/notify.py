"""What is systemd told of the warm process: that it serves, reads its file again, and what is wrong with that?

It is one datagram each time (sd_notify(3)). Nothing that goes wrong here may end the process, or hold it up.
"""

from __future__ import annotations

import os
import socket
import time

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    import asyncio

#: Octets of a status that are sent: systemd takes no datagram above 4096 (PIPE_BUF).
_MOST = 2000

#: Seconds that a datagram may wait for room in systemd's queue.
_PATIENCE = 0.2


class Notify:
    """The way to systemd, where the unit has ``Type=notify``; elsewhere each call does nothing."""

    def __init__(self, speaks: bool = True) -> None:
        """Take what concerns us out of the environment: no child of ours speaks for us.

        :param speaks: whether it is we whom systemd has started.
        """
        where = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        #: A leading @ stands for the NUL of an abstract address (unix(7)).
        self._where = "\0" + where[1:] if where.startswith("@") else where if where.startswith("/") else ""
        self._where *= speaks
        ours = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        self._watched = int(microseconds) / 1e6 if ours and self._where else 0.0
        self._ready = self._stopping = False
        self._readings = 0
        self._serves = self._trouble = ""

    def ready(self, serves: str) -> None:
        """Say that queries are answered from now on. :param serves: which addresses are served."""
        self._ready = True
        self._serves = serves
        self._tell("READY=1", self._status())

    def trouble(self, what: str) -> None:
        """Say what is wrong with the system file; ``""``: nothing."""
        if what != self._trouble:
            self._trouble = what
            self._tell(self._status())

    def reading(self) -> None:
        """Say that the system file is read again."""
        self._readings += 1
        # systemd compares it with when it asked for that (sd_notify(3), RELOADING=1).
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def read(self) -> None:
        """Say that it was read, or could not be."""
        self._readings -= 1
        if not self._readings:
            self._tell("READY=1", self._status())

    def stopping(self) -> None:
        """Say that no more connections are accepted."""
        self._tell("STOPPING=1", "STATUS=Finishing the queries under way")
        self._stopping = True

    def keep_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say, twice as often as systemd wants to hear it, that the loop goes round (WatchdogSec=)."""
        if self._watched:
            self._send("WATCHDOG=1")
            loop.call_later(self._watched / 2, self.keep_watch, loop)

    def _status(self) -> str:
        trouble = f"; {self._trouble}" if self._trouble else ""
        return f"STATUS=Serving {self._serves}{ascii(trouble)[1:-1]}"[:_MOST]

    def _tell(self, *lines: str) -> None:
        if self._ready and not self._stopping:
            self._send(*lines)

    def _send(self, *lines: str) -> None:
        if not self._where:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE)
                sender.sendto("\n".join(lines).encode("ascii"), self._where)
        except (OSError, ValueError):
            # ENOENT, EACCES: a sandbox hides it. ECONNREFUSED: nobody listens. A timeout: its queue is full. EMFILE: no
            # descriptor. An address that is too long, or holds a NUL, is Python's to refuse.
            pass
