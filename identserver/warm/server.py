"""How does the warm process begin, go on, and come to its end?"""

from __future__ import annotations

import contextlib
import functools
import os
import time

from ..answer import LINGER_SECONDS, AnsweringServer, keep_key
from ..log import SEND_AGAIN_SECONDS, Log, say
from ..privileges import drop_privileges
from . import reloading
from .accepting import Acceptor, connection_limit
from .connections import Connections
from .deadlines import Deadlines
from .listeners import listener_name
from .notify import Notify
from .parent import Parent, let_go

TYPE_CHECKING = False  # see deadlines.py
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ..options import Options
    from ..seeker import Seeker
    from .lookups import Lookups
    from .loop import Loop

#: Seconds without a connection after which the warm process gives the socket back to inetd or systemd.
IDLE_SECONDS = 600.0

#: Seconds that SIGTERM leaves to the queries under way.
FINISH_SECONDS = 5.0

#: Seconds that the process behind NAT has to live, or else another one would probably end at once, too.
SETTLED_SECONDS = 5.0

#: Seconds for which trouble that was logged is not logged again.
COMPLAINT_SECONDS = 60.0


def serve_sockets(listeners: list[socket.socket], options: Options, log: Log, background: bool = False) -> None:
    """Serve listening sockets from one warm process (inetd ``wait``, systemd ``Accept=no``, or our own).

    :param background: leave whoever started us behind, once nothing can go wrong any more.
    :raises UsageError, OSError: root can't be given up.
    """
    own = background or (options.foreground and not options.stdio)
    parent = Parent([] if own else listeners)
    notify = Notify(not parent.is_superserver)
    # Before it is read, so that a change meanwhile is noticed.
    seen = reloading.signature(options)
    kept = keep_key(options)
    system = reloading.read(options, kept)
    # Before any other process begins: systemd takes us for the service's main one only if nobody else is init's child.
    started_us = _fork() if background else -1
    seeker = _seeker(options, log)
    drop_privileges(options.user, options.group)
    # Not before: where Python, or its packages, are closed to the user that we became, this fails and is reported.
    from lookup.users.sub_ids import SubIds

    from .lookups import Lookups
    from .loop import Loop
    from .readers import Readers

    if background:
        log = _go_to_the_background(options, started_us)
    loop = Loop(log.exception)
    idle = options.idle
    if idle is None:
        idle = 0.0 if options.foreground or background else IDLE_SECONDS
    complain = Complaints(log).complain
    sub_ids = SubIds()
    readers = Readers(sub_ids.holder, lambda what: loop.call_soon_threadsafe(complain, what))
    if system is not None:
        readers.start()  # while there is one thread
    limit = connection_limit(options.limit)
    lookups = Lookups(loop, system, limit, complain, readers, sub_ids, options, seeker)
    system_file = reloading.SystemFile(options, seen, system, lookups.in_thread, lookups.use, log, notify, kept)
    server = Server(listeners, options, log, idle, loop, lookups, system_file, complain, limit, notify, parent)
    if seeker is not None:
        _watch(seeker, loop, log, (lambda: None) if own else server.stop)
    try:
        server.run()
    finally:
        parent.forget()
        readers.close()
        if lookups.any_busy:
            os._exit(os.EX_OK)  # a stuck thread would be waited for


def _seeker(options: Options, log: Log) -> Seeker | None:
    """Return who looks behind NAT and into containers: a process that keeps what capabilities we have; None: nobody."""
    if not options.masquerade:
        return None
    from .. import seeker  # only with --masquerade

    return seeker.begin(options, log)


def _watch(seeker: Seeker, loop: Loop, log: Log, stop: Callable[[], object]) -> None:
    """Log that this process has ended. Only who has capabilities can start another one, and we have none any more.

    So we end as well, and whoever holds the listening socket starts both at the next query. Not if it has ended at
    once: that would go on and on.

    :param stop: ends this process.
    """
    began = time.monotonic()

    def gone() -> None:
        loop.leave(seeker.fileno())
        log.write(Log.ERROR, "the process that looks behind NAT has ended: until identd starts again nobody is named")
        if time.monotonic() - began >= SETTLED_SECONDS:
            stop()

    loop.when_readable(seeker.fileno(), gone)


class Complaints:
    """Trouble that every connection may meet: it is logged once a minute."""

    def __init__(self, log: Log) -> None:
        self._log = log
        #: By complaint: when it may be logged again.
        self._again: dict[str, float] = {}

    def complain(self, what: str) -> None:
        """Log it, unless that was done a moment ago."""
        now = time.monotonic()
        if now >= self._again.get(what, 0):
            self._again[what] = now + COMPLAINT_SECONDS
            self._log.write(Log.ERROR, what)


class Server:
    """The warm process: its parts, its signals, and how long it goes on.

    Whatever may block happens in threads, each query's share of it within LOOKUP_SECONDS.
    """

    def __init__(
        self, listeners: list[socket.socket], options: Options, log: Log, idle: float, loop: Loop,
        lookups: Lookups, system_file: reloading.SystemFile, complain: Callable[[str], object], limit: int,
        notify: Notify, parent: Parent,
    ) -> None:  # fmt: skip
        """:param idle: seconds without a connection after which to end; 0: never.

        :param limit: how many connections may be open.
        """
        self._listeners, self._log, self._idle, self._loop = listeners, log, idle, loop
        self._lookups, self._system_file, self._notify, self._parent = lookups, system_file, notify, parent
        self._deadlines = Deadlines(options.timeout)
        why_nobody = _why_nobody(lookups) if options.debug else None
        new_protocol = functools.partial(
            AnsweringServer, options, log, lookups.look_up, why_nobody, lookups.find_holder
        )
        self._connections = Connections(new_protocol, self._deadlines, loop, log)
        self._acceptor = Acceptor(listeners, limit, self._connections, self._deadlines, loop, complain, self.stop)
        #: Whatever begins between two looks at the deadlines has its own at least so many seconds later.
        self._shortest = min(filter(None, (options.timeout, idle, LINGER_SECONDS)))
        self._stopping = self._reminded = False

    def run(self) -> None:
        """Serve until idle, or until SIGTERM or SIGINT."""
        import signal

        self._acceptor.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self.stop)
        self._loop.on_signal(signal.SIGHUP, self._system_file.read_again)
        self._parent.watch(self._loop, self._give_up_the_port)
        self._tick()
        self._log.remind = self._send_log_later
        served = ", ".join(map(listener_name, self._listeners))
        self._notify.ready(served)
        self._notify.keep_watch(self._loop)
        self._log.write(Log.INFO, f"serving {served}")
        try:
            self._loop.run()
        finally:
            self._lookups.log_the_rest()
            self._log.finish()
            self._acceptor.give_back()
            self._connections.abort()
            self._lookups.close()
            self._loop.close()

    def stop(self) -> None:
        """Accept no more, finish what is under way, end."""
        if not self._stopping:
            self._stopping = True
            self._notify.stopping()
            self._acceptor.stop()
            self._loop.call_later(FINISH_SECONDS, self._loop.stop)
            self._connections.when_none(self._loop.stop)

    def _give_up_the_port(self) -> None:
        """Let go of the listening sockets at once, for the next superserver; finish what is under way, and end."""
        self.stop()
        let_go(self._listeners)

    def _tick(self) -> None:
        """Do what has to be done again and again."""
        seconds = self._shortest
        try:
            seconds = min(max(self._look_after() - time.monotonic(), 0.01), seconds)
        finally:
            # Whatever went wrong (MemoryError): deadlines go on.
            self._loop.call_later(seconds, self._tick)

    def _look_after(self) -> float:
        """End what has passed its deadline, and the process when it is idle; look for a change of the system file.

        :return: when to do so again, unless something else begins before.
        """
        now = time.monotonic()
        self._system_file.look_for_a_change(now)
        self._lookups.tidy()
        self._deadlines.expire(now)
        end = float("inf")
        none_since = self._connections.none_since()
        if self._idle and none_since is not None:
            end = none_since + self._idle
            if end <= now and not self._stopping:
                self.stop()
        return min(end, self._deadlines.earliest(), self._system_file.look_again_at())

    def _send_log_later(self) -> None:
        if not self._reminded:
            self._reminded = True
            self._loop.call_later(SEND_AGAIN_SECONDS, self._send_log_again)

    def _send_log_again(self) -> None:
        self._reminded = False
        self._log.send_again()


def _why_nobody(lookups: Lookups) -> Callable[..., None]:
    from .causes import Causes  # only for whoever debugs

    return Causes(lookups.in_thread).find


def _fork() -> int:
    """Go on in a child. The process that was started ends as the child does, or well once that goes to the background.

    :return: a pipe to it. :raises OSError: no fork.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        return writer
    os.close(writer)
    if os.read(reader, 1):
        os._exit(os.EX_OK)
    # It has said why.
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1)


def _go_to_the_background(options: Options, started_us: int) -> Log:
    """Go on as a daemon, as oidentd does (daemon(7)). :param started_us: a pipe to the process that now ends well.

    :return: the log from here on: standard error leads nowhere, unless it is what ``--nosyslog`` asks for.
    """
    if options.config is not None:
        options.config = os.path.abspath(options.config)
    if not options.listens:
        say(f"standard input is /dev/null: port {options.port} is served, in the background", Log.INFO)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1) if options.nosyslog else (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    with contextlib.suppress(OSError):  # EPIPE: it was killed meanwhile
        os.write(started_us, b"+")
    os.close(started_us)
    return Log(options)
