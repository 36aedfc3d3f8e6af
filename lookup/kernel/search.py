"""Which socket does a connection mean that this host translates, or that leads into a container?

Nothing here needs more than the four capabilities CAP_NET_ADMIN (conntrack), CAP_SYS_ADMIN (to enter a network
namespace), CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (to see which process holds a socket), and nothing asks the name
service, reads a configuration or parses what a stranger sent: one process may do this that does nothing else.
"""

from __future__ import annotations

import os

from ..connection import TCP_STATES, IdentError, NotAccepted, NoUser, Owner, pack, within
from . import custody, holder, namespaces, places, routes
from .conntrack import ConntrackUnavailable, Entry
from .links import ANYWHERE, LOCAL, OUTSIDE
from .places import Place
from .sock_diag import SockDiagUnavailable
from .wire import (
    FAILED,
    HERE,
    INSIDE,
    NO_UID,
    NOBODY,
    NOT_ACCEPTED,
    OF_THE_HOST,
    STANDS,
    UNASKED,
    UNSEEN,
    Found,
    Request,
)  # fmt: skip

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..connection import Address

    Ends = tuple[Address, Address]

#: Seconds for one request, and how many network namespaces are looked into for it, in how many layers.
SECONDS, MOST, LAYERS = 2.7, 1024, 3

#: Where each namespace was found last, by its number. A hint: the kernel says whether it is still that one.
_hints: dict[tuple[int, int], str] = {}
_MOST_HINTS = 1024


def prepare() -> None:
    """Import whatever `search` may need, for a process that gives up the right to read these files."""
    import fcntl  # noqa: F401

    from . import candidates, codec, conntrack, devices  # noqa: F401

    codec.messages()
    conntrack.prepare()


def search(request: Request) -> Found:
    """Return which socket a request means. Never raises; blocks for `SECONDS` at most.

    The thread that calls it stays in its network namespace.
    """
    ends = request.server, request.client
    try:
        return within(SECONDS, _searched, request)
    except TimeoutError:
        return Found(FAILED, *ends, reason=f"other network namespaces took longer than {SECONDS:g} s")
    except IdentError as error:
        return Found(FAILED, *ends, uid=NO_UID if error.uid is None else error.uid, reason=error.detail)
    except (OSError, ImportError, SockDiagUnavailable, ConntrackUnavailable) as error:
        # EMFILE, ENFILE, ENOMEM, EAGAIN: the process or the host has run out.
        return Found(FAILED, *ends, reason=f"other network namespaces can't be searched: {error}")
    except Exception as error:
        # A mistake of ours names nobody, and ends nothing.
        return Found(FAILED, *ends, reason=f"the search failed: {type(error).__name__}: {error}")


def at_once(request: Request) -> tuple[Found | None, str]:
    """Return what `search` would where conntrack alone decides, else None; and the address whose socket is meant.

    Never raises, never blocks, and stays in this network namespace.
    """
    try:
        with places.home() as here:
            found, entry = _stands(here, request)
        inner = entry.socket_for(request.client, request.server)[0] if entry is not None else request.server
    except Exception:
        # Whatever it is (EMFILE, ENOMEM), `search` meets it too, and says so.
        return None, request.server[0]
    return found, inner[0]


def _stands(here: Place, request: Request) -> tuple[Found | None, Entry | None]:
    """Return that what was found without asking counts, if conntrack says so; and its entry. Exceptions: `search`."""
    ends = request.server, request.client
    try:
        entry = here.entry(*ends)
    except ConntrackUnavailable as error:
        # What conntrack does not tell is answered as without --masquerade.
        return Found(STANDS, *ends, reason=str(error)), None
    if entry is None and (request.local or request.bound):
        return Found(STANDS, *ends, steps=["conntrack has no entry that translates it"]), None
    if request.bound:
        # Conntrack knows nothing of devices: the entry may be of another network with the same addresses (VRF).
        why = "it is translated, and the query came in by a socket that is bound to a device"
        return Found(FAILED, *ends, reason=why), None
    return None, entry


def _searched(request: Request) -> Found:
    with places.home() as here:
        try:
            return _Search(here).run(request)
        except custody.Changing:
            # A container that ends, or is replaced, meanwhile.
            namespaces.enter(here.fd)
            return _Search(here).run(request)


class _Search:
    """One search, in a thread of its own, which enters one namespace after the other, and ends in the last."""

    def __init__(self, here: Place) -> None:
        """:param here: this thread's network namespace."""
        self._here = here
        self._opened: list[Place] = []
        self._steps: list[str] = []
        #: What was found, and where; and by which entries, which must still be the same afterwards.
        self._owners: list[tuple[Owner, Place]] = []
        self._entries: list[tuple[Place, Address, Address, Entry]] = []
        self._waiting = False
        #: Whether two networks may have the same addresses; and a namespace that has the address, and no such socket.
        self._zoned, self._equal = False, ""
        #: Which namespaces were looked into, and why some could not be.
        self._seen = {here.identity}
        self._unseen = ""

    def run(self, request: Request) -> Found:
        """Do it. Exceptions: see `search`."""
        try:
            return self._run(request)
        finally:
            for namespace in self._opened:
                namespace.close()

    def _run(self, request: Request) -> Found:
        here = self._here
        ends = request.server, request.client
        found, entry = _stands(here, request)
        if found is not None:
            return found
        if entry is None and routes.device_of(pack(ends[0][0])[0]):
            return Found(STANDS, *ends, steps=["conntrack has no entry that translates it"])
        inner = self._through(here, *ends, entry) if entry is not None else ends
        if entry is None:
            self._steps.append(f"{ends[0][0]} is no address of this host: the connection is routed")
        self._look_here_and_inside(here, inner, entry)
        return self._outcome(inner)

    def _open(self, path: str, layer: int) -> Place:
        namespace = Place(path, layer)
        self._opened.append(namespace)
        self._seen.add(namespace.identity)
        return namespace

    def _through(self, namespace: Place, server: Address, client: Address, entry: Entry) -> tuple[Address, Address]:
        """Return the ends of the socket that an entry means."""
        self._entries.append((namespace, server, client, entry))
        inner = entry.socket_for(client, server)
        self._steps.append(f"conntrack {namespace}: {_ends(server, client)} is {_ends(*inner)} ({entry.state})")
        return inner

    def _look_here_and_inside(self, place: Place, ends: Ends, entry: Entry | None) -> None:
        """Look for a socket in a namespace that has the connection translated or routed, then in those behind it."""
        place.look_on()
        # Where two networks have the same addresses, neither an address nor a route tells which one is meant.
        certain = entry is None or not (entry.zone or entry.original.zone or entry.reply.zone)
        self._zoned |= not certain
        number = place.sends_to(ends[0][0]) if certain else ANYWHERE
        # Only a transparent proxy has a socket here with an address that leads into another namespace.
        if entry is not None and number < 0 and self._take(place, ends) and certain:
            return
        if number in (LOCAL, OUTSIDE):
            where = "an address of its own" if number == LOCAL else "another machine's address"
            self._steps.append(f"{ends[0][0]}, {place}: {where}, and no socket there has it")
            return
        if place.layer >= LAYERS:
            self._unseen = f"there are more than {LAYERS} layers of network namespaces"
            return
        found = len(self._owners), self._waiting
        entered = False
        for path, fd in self._paths(place, number):
            self._enter(path, fd, place, ends)
            entered = True
        if number >= 0 and (len(self._owners), self._waiting) == found:
            if entry is not None and self._take(place, ends):
                return
            if not entered and not self._unseen:
                self._unseen = "the network namespace that it is sent to is not to be seen"

    def _enter(self, path: str, fd: int, around: Place, ends: Ends) -> None:
        """Look into a namespace, and into those behind it. :param fd: the namespace; it is closed."""
        try:
            namespaces.enter(fd)
        except PermissionError:
            # EPERM: setns(2) without CAP_SYS_ADMIN.
            self._unseen = "to enter a network namespace needs CAP_SYS_ADMIN"
            return
        finally:
            os.close(fd)
        place = self._open(path, around.layer + 1)
        owners, entries = len(self._owners), len(self._entries)
        entry = place.entry(*ends)
        if entry is not None:
            self._look_here_and_inside(place, self._through(place, *ends, entry), entry)
        elif not self._take(place, ends) and self._leads_on(place, around, ends):
            self._look_here_and_inside(place, ends, None)
        if len(self._owners) == owners:
            # Hundreds of them may be looked into.
            del self._entries[entries:]
            place.close()

    @staticmethod
    def _leads_on(place: Place, around: Place, ends: Ends) -> bool:
        """Return whether a namespace sends what is for an address into yet another one, and not back."""
        place.look_on()
        number = place.sends_to(ends[0][0])
        return number == ANYWHERE or (number >= 0 and number != place.links.number_of(around.fd))

    def _take(self, place: Place, ends: Ends) -> bool:
        """Return whether there is a socket with these ends, and keep it."""
        try:
            owner = place.diag.find(*ends)
        except NotAccepted:
            self._waiting = True
            self._steps.append(f"the socket {place} waits for a process to accept it")
            return True
        except NoUser:
            # Conntrack's entry may be of a connection that it had.
            if self._zoned and place.has(ends[0][0]):
                self._equal = str(place)
            return False
        self._owners.append((owner, place))
        self._steps.append(f"socket {place}: {owner!r}")
        return True

    def _paths(self, place: Place, number: int) -> Iterator[tuple[str, int]]:
        """Yield the path of each joined namespace that was not looked into, and the namespace itself, open.

        What stands at a path may be another one a moment later. :param number: only the one that has this number.
        """
        key = place.identity[1], number
        hint = _hints.get(key)
        if number >= 0 and hint is not None:
            fd = self._open_hint(hint, place, number)
            if fd >= 0:
                yield hint, fd
                return
        # Every process tells where it is at a small part of what it takes to open it, in one go.
        for pid in place.links.with_number(number, namespaces.processes()) if number >= 0 else ():
            path = f"/proc/{pid}/ns/net"
            fd = self._open_hint(path, place, number)
            if fd >= 0:
                status = os.fstat(fd)
                path = namespaces.name_of((status.st_dev, status.st_ino)) or path
                self._remember(key, path)
                yield path, fd
                return
        closed = ""
        unlisted: list[str] = []
        asked: set[tuple[int, int]] = set()
        for path in namespaces.candidates(lambda error: unlisted.append(f"{error.filename}: {error.strerror}")):
            try:
                fd = self._open_joined(path, place, number, asked)
            except PermissionError:
                # EACCES, EPERM: without CAP_SYS_PTRACE.
                closed = "other users' processes, and their network namespaces, are seen only with CAP_SYS_PTRACE"
                continue
            if fd < 0:
                continue
            if number >= 0:
                self._remember(key, path)
                yield path, fd
                return
            yield path, fd
            if len(self._seen) > MOST:
                raise IdentError(f"there are more than {MOST} network namespaces")
        self._unseen = self._unseen or closed or "; ".join(unlisted)

    @staticmethod
    def _remember(key: tuple[int, int], path: str) -> None:
        if len(_hints) >= _MOST_HINTS:
            _hints.clear()
        _hints[key] = path

    def _open_hint(self, hint: str, place: Place, number: int) -> int:
        try:
            return self._open_joined(hint, place, number, set())
        except PermissionError:
            # EACCES: it may be another process's by now.
            return -1

    def _open_joined(self, path: str, place: Place, number: int, asked: set[tuple[int, int]]) -> int:
        """Return a namespace that is to be looked into, open; -1: it is none. :raises PermissionError: it is not seen.

        Whatever is not joined is none: any user can make one, and give it any address.

        :param asked: about which ones the kernel was asked; each is asked about once.
        """
        try:
            if (found := namespaces.identity(path)) in self._seen or found in asked:
                return -1
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            # ENOENT, ESRCH: it has ended meanwhile.
            return -1
        try:
            status = os.fstat(fd)
            asked.add((status.st_dev, status.st_ino))
            at = place.links.number_of(fd)
            if (at == number if number >= 0 else at >= 0) and (status.st_dev, status.st_ino) not in self._seen:
                kept, fd = fd, -1
                return kept
            return -1
        finally:
            if fd >= 0:
                os.close(fd)

    def _outcome(self, inner: Ends) -> Found:
        """Return what the search comes to. :raises IdentError: different ones fit, or things change meanwhile."""
        if self._waiting:
            return Found(NOT_ACCEPTED, *inner, reason="nobody has accepted it yet", steps=self._steps)
        if not self._owners:
            if self._unseen:
                return Found(UNSEEN, *inner, reason=self._unseen, steps=self._steps)
            return Found(NOBODY, *inner, reason="no socket of this host", steps=self._steps)
        if self._equal:
            raise IdentError(f"{inner[0][0]} is an address {self._equal} too, and conntrack's zones tell them apart")
        found = [self._found(owner, place) for owner, place in self._owners]
        for other in found[1:]:
            if (other.uid, other.held, other.maker) != (found[0].uid, found[0].held, found[0].maker):
                places = "; ".join(f"{owner!r} {place}" for owner, place in self._owners)
                raise IdentError(f"connections of different owners fit: {places}")
        if self._unseen:
            raise IdentError(f"another socket may fit, too: {self._unseen}", found[0].uid)
        for place, server, client, entry in self._entries:
            now = place.entry(server, client)
            if now is None or not _same(now, entry):
                raise custody.Changing("conntrack's entry is another one by now", found[0].uid)
        return found[0]

    def _found(self, owner: Owner, place: Place) -> Found:
        """Return what is known of a socket. :raises IdentError: whose it is can't be seen."""
        held, maker, name = UNASKED, NO_UID, ""
        if place.path:
            (held, maker), pid = custody.of(owner.inode, owner.uid, place.identity)
            name = holder.place(holder.group_of_process(pid))
            whose = "the host's" if held == OF_THE_HOST else "a container's"
            self._steps.append(f"held by process {pid}, {whose}" + (f", in {name}" if name else ""))
        return Found(
            INSIDE if place.path else HERE, owner.server, owner.client, uid=owner.uid, inode=owner.inode,
            state=TCP_STATES.index(owner.state), device=owner.device, held=held, maker=maker,
            place=name or place.path, steps=self._steps,
        )  # fmt: skip


def _same(one: Entry, other: Entry) -> bool:
    return one.identifier == other.identifier and (one.original.ends, one.reply.ends) == (
        other.original.ends, other.reply.ends,
    )  # fmt: skip


def _ends(one: Address, other: Address) -> str:
    return " - ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in (one, other))
