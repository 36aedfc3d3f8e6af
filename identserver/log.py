"""Where does the process say what it did?

In syslog's daemon facility, in the journal, or on standard error.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable

    from .options import Options

#: Messages that wait for room in the log's queue, seconds between two attempts, and seconds that the end waits.
MAX_UNSENT, SEND_AGAIN_SECONDS, FLUSH_SECONDS = 4096, 0.01, 0.5

#: Facility "daemon" (RFC 5424 section 6.2.1).
_DAEMON = 3 << 3

#: Where syslog's daemon listens (syslog(3)).
_PATH = "/dev/log"


class Log:
    """The log of one process.

    Nothing that goes wrong here may keep a reply from going out, so every failure is ignored.
    syslog(3) is not used because it waits when the daemon's queue is full.
    """

    DEBUG, INFO, ERROR = 7, 6, 3  # severities of RFC 5424 section 6.2.1

    def __init__(self, options: Options, peer_on_stderr: bool = False) -> None:
        """:param peer_on_stderr: standard error is the client's connection, as inetd has it: never write there."""
        self._least = self.DEBUG if options.debug else self.ERROR if options.quiet else self.INFO
        self._journal = _is_the_journal(2)
        self._stderr = (options.nosyslog or self._journal or os.isatty(2)) and not peer_on_stderr
        self._syslog = not (options.nosyslog or self._stderr)
        self._socket: socket.socket | None = None
        #: What the daemon's queue had no room for; called when there is any; and how much was given up.
        self._unsent: list[bytes] = []
        self.remind: Callable[[], object] = bool
        self._lost = 0

    def wants(self, severity: int) -> bool:
        """Return whether messages of this severity are logged."""
        return severity <= self._least

    def write(self, severity: int, message: str) -> None:
        """Log one message; control characters, line ends and non-ASCII ones in it are escaped."""
        if severity > self._least:
            return
        escaped = ascii(message)[1:-1].encode("ascii")
        try:
            if self._stderr:
                prefix = b"<%d>" % severity if self._journal else b"identd: "
                self._write(prefix + escaped + b"\n")
            elif self._syslog:
                self._send(b"<%d>identd[%d]: %s" % (_DAEMON | severity, os.getpid(), escaped))
        except OSError:
            # ENOSPC, EPIPE, EIO: standard error is full or gone. EMFILE: no socket can be had.
            pass

    def _write(self, line: bytes) -> None:
        """Write to standard error what it takes at once: the journal's stream, or a pipe, may be read by nobody."""
        import select

        room = select.poll()
        room.register(2, select.POLLOUT)
        while line and room.poll(0):
            # A descriptor with room takes as much as this without waiting (pipe(7), PIPE_BUF).
            line = line[os.write(2, line[: select.PIPE_BUF]) :]

    def _send(self, datagram: bytes) -> None:
        if self._socket is not None and not self._unsent:
            try:
                self._socket.sendto(datagram, _PATH)
                return
            except BlockingIOError:  # the queue is full
                pass
            except OSError:  # see send_again
                return
        if len(self._unsent) < MAX_UNSENT:
            self._unsent.append(datagram)
        else:
            self._lost += 1
        self.send_again()

    def send_again(self) -> None:
        """Send what is unsent, as far as the daemon's queue (10 datagrams on most systems) has room."""
        if self._socket is None:
            import _socket as socket  # see lookup/connection.py; a pipe, or a terminal, does not even need that

            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        sent = 0
        for datagram in self._unsent:
            try:
                # Not connected, so that a daemon that was started anew is found again.
                self._socket.sendto(datagram, _PATH)
            except BlockingIOError:
                break
            except OSError:  # ENOENT, ECONNREFUSED: nobody logs. EMSGSIZE: more than it would take
                pass
            sent += 1
        del self._unsent[:sent]
        if self._lost and not self._unsent:
            lost, self._lost = self._lost, 0
            self.write(self.ERROR, f"{lost} messages were lost, because the log took no more")
        if self._unsent:
            self.remind()

    def finish(self) -> None:
        """Send what is unsent before the process ends, unless the daemon is stuck."""
        deadline = time.monotonic() + FLUSH_SECONDS
        while self._unsent and time.monotonic() < deadline:
            time.sleep(0.002)
            self.send_again()


class NoLog(Log):
    """For what no client asked."""

    def write(self, severity: int, message: str) -> None:
        """Say nothing."""


def say(message: str) -> None:
    """Write one line to standard error, if there is one, for whoever started us."""
    try:
        os.write(2, f"identd: {ascii(message)[1:-1]}\n".encode("ascii"))
    except OSError:  # ENOSPC, EPIPE: full, or nobody reads. EBADF: closed
        return


def status_of(fd: int) -> os.stat_result | None:
    """Return what fstat(2) says of a descriptor; None: it is closed."""
    try:
        return os.fstat(fd)
    except OSError:  # EBADF: closed
        return None


def _is_the_journal(fd: int) -> bool:
    """Say whether a descriptor leads to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    status = status_of(fd)
    return status is not None and os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
