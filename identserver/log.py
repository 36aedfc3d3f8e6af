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
    from typing import Optional

    from .journal import Journal
    from .options import Options

    #: Of an entry of the journal, beside its text.
    Fields = Optional[list[tuple[str, bytes]]]

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
        #: Whether standard error is the journal's: nobody reads a traceback of many lines there.
        self.journal = _is_the_journal(2)
        self._stderr = (options.nosyslog or self.journal or os.isatty(2)) and not peer_on_stderr
        self._syslog = not (options.nosyslog or self._stderr)
        self._peer_on_stderr = peer_on_stderr
        #: Whether standard error gets what no syslog daemon takes: whoever runs us there may look at nothing else.
        self._instead = options.foreground and not (options.stdio or peer_on_stderr)
        #: Whether messages are worth `Fields`: only the journal takes them.
        self.takes_fields = self.journal and self._stderr
        self._entries: Journal | None = None
        self._socket: socket.socket | None = None
        #: What the daemon's queue had no room for; called when there is any; and how much was given up.
        self._unsent: list[bytes] = []
        self.remind: Callable[[], object] = bool
        self._lost = 0

    def wants(self, severity: int) -> bool:
        """Whether a message of a severity is logged at all."""
        return severity <= self._least

    def write(self, severity: int, message: str, fields: Fields = None) -> None:
        """Log one message; control characters, line ends and non-ASCII ones in it are escaped.

        :param fields: of the entry, where that goes to the journal: names and values.
        """
        if severity > self._least:
            return
        text = printable(message)
        try:
            if fields and self.takes_fields and self._enter(severity, text, fields):
                return
            if self._stderr:
                self._write(_prefix(severity, self.journal) + text + b"\n")
            elif self._syslog:
                self._send(b"<%d>identd[%d]: %s" % (_DAEMON | severity, os.getpid(), text))
        except OSError:
            # ENOSPC, EPIPE, EIO: standard error is full or gone. EMFILE: no socket can be had.
            pass

    def exception(self, error: BaseException) -> None:
        """Log an exception that nobody expected, with its traceback."""
        import traceback  # 9 ms, and only after a failure

        self.write(self.ERROR, "".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def fail(self, message: str) -> None:
        """Say why the process ends: to whoever started it, and once in the log, where that is another place."""
        self._instead = False
        if not self._peer_on_stderr:
            say(message)
        if self._syslog or self._peer_on_stderr:
            self._syslog = True  # whatever --nosyslog says: there is no standard error to say it on
            self.write(self.ERROR, message)
            self.finish()

    def _enter(self, severity: int, text: bytes, fields: list[tuple[str, bytes]]) -> bool:
        """Make an entry in the journal, with what a line has there by itself; return whether it took that."""
        try:
            if self._entries is None:
                from .journal import Journal  # only where standard error is the journal's

                self._entries = Journal()
            own = [
                ("MESSAGE", text), ("PRIORITY", b"%d" % severity), ("SYSLOG_FACILITY", b"%d" % (_DAEMON >> 3)),
                ("SYSLOG_IDENTIFIER", b"identd"), ("SYSLOG_PID", b"%d" % os.getpid()),
            ]  # fmt: skip
            self._entries.send(own + fields)
        except (OSError, ImportError):
            # See `Journal.send`. EMFILE, ENOMEM: no socket. ImportError: root's Python, and root was given up.
            return False
        return True

    def _write(self, line: bytes) -> None:
        """Write to standard error what it takes at once: the journal's stream, or a pipe, may be read by nobody."""
        import select

        room = select.poll()
        room.register(2, select.POLLOUT)
        while line and room.poll(0):
            # A descriptor with room takes as much as this without waiting (pipe(7), PIPE_BUF).
            line = line[os.write(2, line[: select.PIPE_BUF]) :]

    def _send(self, datagram: bytes) -> None:
        if self._socket is not None and not self._unsent and self._sent(self._socket, datagram):
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
            try:  # noqa: SIM105 - contextlib is a module more
                self._socket.connect(_PATH)
            except OSError:
                # ENOENT, ECONNREFUSED, EACCES: `_sent` tries again.
                pass
        sent = 0
        for datagram in self._unsent:
            if not self._sent(self._socket, datagram):
                break
            sent += 1
        del self._unsent[:sent]
        if self._lost and not self._unsent:
            lost, self._lost = self._lost, 0
            self.write(self.ERROR, f"{lost} messages were lost, because the log took no more")
        if self._unsent:
            self.remind()

    def _sent(self, log: socket.socket, datagram: bytes) -> bool:
        """Send one datagram, or say it elsewhere if nobody takes it. Return False if the daemon's queue is full."""
        try:
            log.send(datagram)
            return True
        except OSError:
            # ECONNREFUSED, ENOTCONN: the daemon has ended. EAGAIN: its queue is full; or nobody reads it any more,
            # because a new daemon has the path.
            pass
        try:
            log.connect(_PATH)
            log.send(datagram)
        except BlockingIOError:
            return False
        except OSError:  # ENOENT, ECONNREFUSED: nobody logs. EMSGSIZE: more than it would take
            self._say_instead(datagram)
        return True

    def _say_instead(self, datagram: bytes) -> None:
        """Write what no syslog daemon takes to standard error, if that is where it should go."""
        try:
            if self._instead:
                self._write(b"identd: %s\n" % datagram.partition(b": ")[2])
        except OSError:  # EPIPE, ENOSPC, EBADF: nor is there anybody
            pass

    def finish(self) -> None:
        """Send what is unsent before the process ends, unless the daemon is stuck."""
        deadline = time.monotonic() + FLUSH_SECONDS
        while self._unsent and time.monotonic() < deadline:
            time.sleep(0.002)
            self.send_again()
        while self._entries is not None and not self._entries.all_taken() and time.monotonic() < deadline:
            time.sleep(0.001)


class NoLog(Log):
    """For what no client asked."""

    def wants(self, severity: int) -> bool:
        """Whether a message is logged: none is."""
        return False

    def write(self, severity: int, message: str, fields: Fields = None) -> None:
        """Say nothing."""


def printable(text: str) -> bytes:
    """Return a text in printable ASCII, on one line; what is printable in it stays as it is, backslashes too.

    So what was escaped before is not escaped twice. Octets of others go through `octets` first.
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(one if " " <= one <= "~" else ascii(one)[1:-1] for one in text)
    return text.encode("ascii")


def octets(data: bytes) -> str:
    """Return what others sent, or what was sent to them, as text that means these octets alone once it is logged."""
    return data.decode("latin-1").replace("\\", "\\\\")


def say(message: str, severity: int = Log.ERROR) -> None:
    """Write one line to standard error, if there is one, for whoever started us."""
    try:
        os.write(2, _prefix(severity, _is_the_journal(2)) + printable(message) + b"\n")
    except OSError:  # ENOSPC, EPIPE: full, or nobody reads. EBADF: closed
        return


def _prefix(severity: int, journal: bool) -> bytes:
    """Return what stands before a line on standard error: the journal adds the name itself (sd-daemon(3))."""
    return b"<%d>" % severity if journal else b"identd: "


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
