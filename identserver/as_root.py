"""What does root do for a single shot, before and after it is given up?

The process that talks to the client reads the system file as root, then becomes nobody for good. A process of root's
stays behind, and has a child become the owner, read that owner's file, and end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import lookup
from lookup.config import user_file
from lookup.errors import IdentError
from lookup.kernel import codec

from .answer import LOOKUP_SECONDS, Lookups, in_time
from .privileges import become_owner, drop_privileges

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from lookup.config.blocks import System

    from .options import Options

#: Octets of a request: a uid, a blank and a path (PATH_MAX, linux/limits.h).
_MAX_REQUEST = 4096 + 16


def lookups(options: Options, load: Callable[[], System | None]) -> Lookups:
    """Do as root what only root may do, give root up for good, and return what looks queries up.

    :raises UsageError, OSError: root can't be given up.
    """
    # Now, because nobody may not be allowed to read root's Python.
    lookup.import_all()
    with contextlib.suppress(ImportError):  # without pyroute2, psutil answers
        codec.messages()
    fetch = None
    if options.reply_all is None and (options.requires_system_file or os.path.lexists(options.system_file)):
        fetch = OwnersReader(LOOKUP_SECONDS).fetch
        load = _loaded(load)
    drop_privileges(None, None)
    return Lookups(load, fetch)


def _loaded(load: Callable[[], System | None]) -> Callable[[], System | None]:
    """Read the system file now, and return what hands it out, or raises what was wrong with it."""
    try:
        system = in_time(load)
    except IdentError as error:
        broken = error

        def fail() -> System | None:
            raise broken

        return fail
    return lambda: system


class OwnersReader:
    """A process of root's that waits, and has a child read each owner's file.

    It is forked while this process has one thread and has not read from a client. The owner can stop or kill the
    child, and the file system may never answer it: this process holds the connection and the deadline.
    """

    def __init__(self, seconds: float) -> None:
        """:param seconds: for one owner's file."""
        self._seconds = seconds
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._socket.close()
            _serve(theirs, seconds)
        theirs.close()

    def fetch(self, uid: int, home: str) -> user_file.Fetched:
        """Return what an owner's file holds, read as that owner. See `user_file.fetch`.

        :raises IdentError: the child could not become the owner, or did not answer in time.
        """
        reader, writer = os.pipe()
        try:
            socket.send_fds(self._socket, [b"%d %s" % (uid, os.fsencode(home))], [writer])
            os.close(writer)
            writer = -1
            return _outcome(_read_all(reader, self._seconds), uid)
        except OSError as error:
            # EPIPE, ECONNRESET: the process that waits was killed. EMFILE, ENOMEM: no descriptors, no memory.
            raise IdentError(f"nobody reads the owner's file: {error.strerror}", uid) from None
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)

    def close(self) -> None:
        """Let the process that waits end."""
        self._socket.close()


def _outcome(data: bytes, uid: int) -> user_file.Fetched:
    """Translate what the child wrote: ``+`` and what it found, or ``-`` and why it found nothing."""
    if data.startswith(b"-"):
        raise IdentError(data[1:].decode("utf-8", "replace"), uid)
    try:
        return user_file.Fetched.load(data.removeprefix(b"+"))
    except ValueError:  # it was killed before it had written all
        raise IdentError("the process that reads the owner's file did not answer", uid) from None


def _read_all(fd: int, seconds: float) -> bytes:
    """Return what comes out of a pipe until its end; nothing, where that takes too long."""
    import select
    import time

    deadline = time.monotonic() + seconds
    room = select.poll()
    room.register(fd, select.POLLIN)
    data = b""
    while room.poll(max(deadline - time.monotonic(), 0) * 1e3):
        more = os.read(fd, 1 << 16)
        if not more:
            return data
        data += more
    return b""


def _serve(requests: socket.socket, seconds: float) -> NoReturn:
    """Have a child answer each request, until the process that asks has ended."""
    try:
        # Nobody waits for a child: it may hang in its owner's home, and the owner may stop it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            # The client's connection has to end when the process that asks ends.
            os.dup2(null, fd)
        while True:
            request, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 1)
            if not request:
                break
            if os.fork() == 0:
                requests.close()
                # Ends a child that nobody waits for any more, if it can be ended.
                signal.alarm(int(seconds) + 1)
                _answer(request, fds[0])
                break
            os.close(fds[0])
    finally:
        os._exit(0)


def _answer(request: bytes, fd: int) -> None:
    """Become the owner for good, and write what their file holds to a pipe."""
    uid, _, home = request.partition(b" ")
    try:
        become_owner(int(uid))
        data = b"+" + user_file.fetch(int(uid), os.fsdecode(home)).dump()
    except IdentError as error:
        data = b"-" + error.detail.encode("utf-8", "replace")
    while data:
        data = data[os.write(fd, data) :]
