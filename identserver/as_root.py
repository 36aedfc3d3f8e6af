"""What is done as root for a single shot, and which process stays root afterwards?

The process that talks to the client reads the system file as root, then becomes nobody for good. A process of root's
stays behind, and has a child become the owner, read that owner's file, and end.
"""

from __future__ import annotations

import os

from lookup.connection import IdentError
from lookup.kernel import codec
from lookup.user_namespace import sees_every_uid

from . import passing
from .answer import Lookups, in_time
from .closed import Unreadable
from .privileges import become_owner, drop_privileges

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import NoReturn

    from lookup.behind import Ask
    from lookup.config import user_file
    from lookup.config.blocks import System
    from lookup.connection import Address, Arrival
    from lookup.owner import Answer

    from .options import Options

#: Octets of a request: numbers, an address, and a path (PATH_MAX, linux/limits.h).
_MAX_REQUEST = 4096 + 128


def lookups(
    options: Options, load: Callable[[], System | None], configured: bool, ask: Ask | None
) -> Lookups:  # fmt: skip
    """Do as root what only root may do, give root up for good, and return what looks queries up.

    Where a sandbox keeps root, nobody is named. :param configured: whether owners' files may matter.
    :param ask: see `Lookups`.

    :raises UsageError: root can't be given up. :raises OSError: there is no process to be had.
    """
    try:  # noqa: SIM105  (contextlib takes 4 ms)
        codec.messages()
    except ImportError:
        pass  # without pyroute2, psutil answers
    if options.debug:
        from lookup.kernel import causes  # noqa: F401
    fetch = None
    if configured:
        fetch = OwnersReader().fetch
        load = _loaded(load)
    found = Lookups(load, options, fetch, ask)  # before: it imports what the options need
    try:
        # Whether nobody may read what is imported from now on is made sure of there.
        drop_privileges(None, None)
    except Unreadable:
        raise
    except OSError as error:
        reason = f"root could not be given up: {error.strerror}"
        if not sees_every_uid():
            reason += " in a user namespace"
        return _Refusals(reason, options)
    return found


class _Refusals(Lookups):
    """What looks nothing up, because it would do so as root."""

    def __init__(self, reason: str, options: Options) -> None:
        super().__init__(lambda: None, options)
        self._reason = reason

    def look_up(self, serverAddress: Address, clientAddress: Address, arrival: Arrival | None) -> Answer:
        raise IdentError(self._reason)


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

    def __init__(self) -> None:
        """:raises OSError: there is no process to be had."""
        from lookup.config import user_file  # noqa: F401  (before the fork: each child uses it)

        from . import reader  # noqa: F401  (this too)

        self._socket, theirs = passing.pair()
        try:
            if os.fork() == 0:
                _serve(theirs)
        finally:
            theirs.close()

    def fetch(self, uid: int, home: str, also: user_file.Also) -> user_file.Fetched:
        """Return what an owner's files hold, read as that owner. See `user_file.fetch`.

        :raises IdentError: the child could not become the owner, or did not answer in time.
        """
        from . import reader  # only where an owner's file may matter

        try:
            fd, writer = os.pipe()
            try:
                ours, far, address, older = also
                request = f"{uid} {ours} {far} {address} {older:d} {home}"
                passing.send(self._socket, os.fsencode(request), writer)
                os.close(writer)
                writer = -1
                data = reader.read_all(fd)
            finally:
                os.close(fd)
                if writer >= 0:
                    os.close(writer)
        except OSError as error:
            # EPIPE, ECONNRESET: the process that waits was killed. EMFILE, ENOMEM: no descriptors, no memory.
            raise IdentError(f"nobody reads the owner's file: {error.strerror}", uid) from None
        return reader.outcome(data, uid)

    def close(self) -> None:
        """Let the process that waits end."""
        self._socket.close()


def _serve(requests: socket.socket) -> NoReturn:
    """Have a child answer each request, until the process that asks has ended, and end what is left of them."""
    from . import reader  # see `OwnersReader.fetch`

    children: list[int] = []
    try:
        reader.let_go_of_all_but(requests.fileno())
        while True:
            request, fds = passing.receive(requests, _MAX_REQUEST)
            # Nobody waits for the one before any more: it may hang in its owner's home, or have been stopped there.
            reader.end(children)
            if not request:
                break
            child = os.fork()
            if child == 0:
                uid, ours, far, address, older, home = os.fsdecode(request).split(" ", 5)
                also = int(ours), int(far), address, older == "1"
                reader.read_and_end(int(uid), home, also, fds[0], become_owner)
            children.append(child)
            os.close(fds[0])
    finally:
        os._exit(0)
