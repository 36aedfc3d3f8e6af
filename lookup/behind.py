"""Whose is a connection that this host translates, or that a container has, and what are they called?

Only with --masquerade or --subuid. `kernel.search` finds the socket, with capabilities, perhaps in another process;
here, without any, it is decided whose it is. A uid of a container's is a name's only where the host itself says whose
it is; an image's own passwd file says what who made it wanted.
"""

from __future__ import annotations

from .connection import ACCEPT_PAUSES, TCP_STATES, IdentError, NotAccepted, NoUser, Owner, Unknown, pack, unpack

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Address, Arrival
    from .kernel.wire import Found, Request

    #: Asks `kernel.search.search`, here or in another process. Raises IdentError: nobody can be asked.
    Ask = Callable[[Request], Found]

    #: Finds who holds a socket of our own network namespace (`lookup.find`).
    FindLocal = Callable[[Address, Address, "Arrival | None"], Owner]

#: Beyond every uid: what keeps those apart who have a uid in a container from those who have it on the host.
_IN_A_CONTAINER = 1 << 32


class Behind(NoUser):
    """No socket of this host is meant: the connection is of another machine, behind this one, or of nobody.

    ``server`` and ``client``: its ends there, as conntrack translates them.
    """

    server: Address
    client: Address


class Unseen(IdentError):
    """Like `Behind`, but it may be in a network namespace of this host that could not be looked into."""

    server: Address
    client: Address


class Inside(Owner):
    """An owner that was found behind NAT, or in a container, or by their range in /etc/subuid.

    ``uid``: of whose rules count; ``held_as``: the socket's own. ``nameless``: nobody of the host's has that uid in
    the container; then ``reply`` is sent, or the number. ``place``: the container, as text. ``steps``: how it was
    found.
    """

    __slots__ = ("held_as", "nameless", "place", "reply", "steps")

    def __init__(self, owner: Owner, uid: int, steps: tuple[str, ...] = (), place: str = "", reply: str | None = None):
        """:param owner: as the kernel has it. :param reply: ``nameless``, and what is sent then; ``""``: the number."""
        super().__init__(uid, owner.inode, owner.state, owner.server, owner.client, owner.source, owner.device)
        self.held_as = owner.uid
        self.nameless = reply is not None
        self.reply = reply or ""
        self.place = place
        self.steps = steps

    @property
    def key(self) -> int:
        return self.uid + _IN_A_CONTAINER if self.nameless else self.uid

    @property
    def where(self) -> str:  # type: ignore[override]
        """Where the socket is, and as whose the kernel has it, as text; ``""``: here, and as the owner's."""
        held = f"held as uid {self.held_as}" if self.held_as != self.uid else ""
        return " ".join(filter(None, (held, f"in {self.place}" if self.place else "")))

    @property
    def container(self) -> str:  # type: ignore[override]
        """The container's name, or the start of its number; else the unit or the network namespace; ``""``: none."""
        kind, _, name = self.place.partition(" ")
        # container = "container" name "(" runtime ")"; see `kernel.holder.place`.
        return name.rpartition(" (")[0] if kind == "container" else self.place

    def __repr__(self) -> str:
        return " ".join(filter(None, (super().__repr__(), self.where)))


def find(
    server: Address, client: Address, arrival: Arrival | None, ask: Ask | None, find_local: FindLocal,
    sub_ids: bool = False, reply: str = "",
) -> Owner:  # fmt: skip
    """Like `lookup.find`, but find the owner also behind NAT and in other network namespaces of this host.

    May block, as the name service does, and for as long as ``ask`` does.

    :param ask: who looks there; None: nobody does. :param find_local: who looks in our own network namespace.
    :param sub_ids: whether a local uid may be one of somebody's range (--subuid).
    :param reply: what is sent for a user of a container who has no name on the host; ``""``: their number.
    :raises Behind, Unseen: it may be another machine's, behind this one. Other exceptions: see `lookup.find`.
    """
    local: Owner | NoUser
    try:
        local = find_local(server, client, arrival)
    except NoUser as error:
        local = error
    request = request_for(server, client, arrival, local) if ask is not None else None
    if ask is None or request is None:
        return _local(local, sub_ids)
    return decide(local, ask_until_accepted(ask, request), sub_ids, reply)


def ask_until_accepted(ask: Ask, request: Request) -> Found:
    """Ask, and ask again in a moment where a process has still to accept the connection: clients ask that early."""
    from .kernel.wire import NOT_ACCEPTED

    found = ask(request)
    for pause in ACCEPT_PAUSES:
        if found.kind != NOT_ACCEPTED:
            break
        import time

        time.sleep(pause)
        found = ask(request)
    return found


def request_for(server: Address, client: Address, arrival: Arrival | None, local: Owner | NoUser) -> Request | None:
    """Return what is to be asked; None: nothing is, and what was found locally counts. :raises ValueError: no address.

    Also where a socket was found here: a connection of a container's may have had the same ends on its way out before.
    """
    from .kernel.wire import Request

    if not (server[0] and client[0]):
        return None
    hosts = [pack(host.partition("%")[0])[0] for host in (server[0], client[0])]
    if "%" in server[0] + client[0] or len(hosts[0]) != len(hosts[1]):
        return None
    ours, far = map(unpack, hosts)
    found_here = not isinstance(local, NoUser) or isinstance(local, NotAccepted)
    return Request((ours, server[1]), (far, client[1]), found_here, arrival is not None and arrival.bound != 0)


def decide(
    local: Owner | NoUser, found: Found, sub_ids: bool = False, reply: str = "",
    range_of: Callable[[int], int | None] | None = None,
) -> Owner:  # fmt: skip
    """Return the owner that a request comes to. May block as the name service does. Exceptions: see `find`.

    :param local: who was found in our own network namespace, or why nobody was. For the others see `find`.
    :param range_of: returns, or remembers, what `range_owner` does.
    """
    range_of = range_of or range_owner
    from .kernel import wire

    if found.kind == wire.STANDS:
        return _local(local, sub_ids, range_of)
    if found.kind == wire.NOT_ACCEPTED:
        raise NotAccepted(found.reason)
    if found.kind in (wire.NOBODY, wire.UNSEEN):
        raise _behind(Behind if found.kind == wire.NOBODY else Unseen, found)
    if found.kind == wire.FAILED:
        raise IdentError(found.reason, None if found.uid == wire.NO_UID else found.uid)
    state = TCP_STATES[found.state] if found.state < len(TCP_STATES) else ""
    owner = Owner(found.uid, found.inode, state, found.server, found.client, "conntrack", found.device)
    steps = tuple(found.steps)
    if found.kind == wire.HERE:
        return _local(Inside(owner, found.uid, steps), sub_ids, range_of)
    if found.held != wire.OF_A_CONTAINER:
        steps = (*steps, "its process is the host's: the login name counts")
        return _local(Inside(owner, found.uid, steps, found.place), sub_ids, range_of)
    holder = range_of(found.uid)
    if holder is not None:
        return Inside(owner, holder, (*steps, f"uid {found.uid} is in a range of uid {holder}'s"), found.place)
    if found.maker == found.uid != 0:
        return Inside(owner, found.uid, (*steps, "its user namespace is of that very user's"), found.place)
    return Inside(owner, found.uid, (*steps, f"uid {found.uid} is nobody's of this host there"), found.place, reply)


def with_sub_ids(owner: Owner, range_of: Callable[[int], int | None] | None = None) -> Owner:
    """Return who owns a local socket, where a uid without a login name may be one of somebody's range (subuid(5)).

    May block as the name service does.

    :raises IdentError: the uid has a login name too, or it can't be found out.
    """
    from .users import names

    holder = (range_of or range_owner)(owner.uid)
    if holder is None or holder == owner.uid:
        return owner
    if names.entry(owner.uid)[0][0] == "UNIX":
        raise IdentError(f"uid {owner.uid} has a login name, and is in a range of uid {holder}'s", owner.uid)
    steps = (*owner.steps, f"uid {owner.uid} is in a range of uid {holder}'s")
    return Inside(owner, holder, steps, owner.place)


def range_owner(uid: int) -> int | None:
    """Return in whose range of /etc/subuid a uid is; None: in nobody's. May block as the name service does.

    :raises IdentError: that can't be told.
    """
    from .users import sub_ids

    holder = sub_ids.owner_of(uid)
    if isinstance(holder, Unknown):
        raise IdentError(holder.reason, uid)
    return holder


def _local(local: Owner | NoUser, sub_ids: bool, range_of: Callable[[int], int | None] | None = None) -> Owner:
    if isinstance(local, NoUser):
        raise local
    return with_sub_ids(local, range_of) if sub_ids else local


def _behind(kind: type[Behind] | type[Unseen], found: Found) -> Behind | Unseen:
    steps = "; ".join([*found.steps, found.reason])
    error = kind(steps)
    error.server, error.client = found.server, found.client
    return error
