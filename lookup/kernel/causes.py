"""Why is a connection that was asked about nobody's?

For people alone: `--explain`, and the log with `--debug`. No reply depends on what is found here. It may walk the
kernel's table of sockets a few times, and asks conntrack for one entry.
"""

from __future__ import annotations

from ..connection import IdentError, NoUser, pack, unpack
from . import conntrack, dumps, namespaces, routes, sock_diag
from .candidates import UNACCEPTED
from .conntrack import ConntrackUnavailable

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from ..connection import Address, Owner
    from .conntrack import Entry

#: How many ports, addresses or namespaces a text names.
_NAMED = 4

#: In which conntrack's entry outlives a connection.
_OVER = {"FIN_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"}

#: Addresses that no network has (RFC 5737, RFC 3849): what goes there takes the default route.
_ANYWHERE = {4: pack("192.0.2.1")[0], 16: pack("2001:db8::1")[0]}

#: How many entries conntrack has in this network namespace; every user may read it.
_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"


class Causes:
    """``found``: the causes that there are, the surest first; ``possible``: those that can't be excluded, with what it
    would take."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.possible: list[str] = []

    def __str__(self) -> str:
        return "; ".join([*self.found, *(f"can't be excluded: {one}" for one in self.possible)])


class Evidence:
    """What only those may see who have privileges.

    ``entry``: conntrack's; None: there is none; or why it can't be told. ``elsewhere``: in which joined network
    namespaces the connection is, and who owns it there. ``unseen``: why there may be more of these; ``""``: surely not.
    """

    def __init__(self, entry: Entry | str | None, elsewhere: list[tuple[str, Owner]], unseen: str) -> None:
        self.entry = entry
        self.elsewhere = elsewhere
        self.unseen = unseen


def as_text(server: Address, client: Address) -> str:
    """Return the causes as one line. Arguments and exceptions: see `find`."""
    try:
        return str(find(server, client))
    except sock_diag.SockDiagUnavailable as error:
        raise IdentError(f"sock_diag can't be asked: {error}") from None


def gather(server: Address, client: Address) -> Evidence:
    """Return what our privileges let us see. Arguments: see `find`."""
    return Evidence(_entry(server, client), *_elsewhere(server, client))


def find(server: Address, client: Address, evidence: Evidence | None = None) -> Causes:
    """Return why the connection between two endpoints, of which `sock_diag.find` found none, is nobody's.

    :param server: ``(host, port)`` of our end as the query has it; :param client: of the far end. A host may be ``""``.
    :param evidence: what was gathered with more privileges than we have; None: it is gathered now.
    :raises IdentError: something can't be found out. :raises SockDiagUnavailable: nobody can be asked.
    :raises ValueError: a host is not an address.
    """
    causes = Causes()
    entry = evidence.entry if evidence is not None else _entry(server, client)
    if entry is not None and not isinstance(entry, str) and entry.is_translated:
        causes.found.append(_translated(entry, server, client))
    else:
        _look_at_the_ports(causes, server, client)
    if causes.found:
        return causes
    if entry is not None and not isinstance(entry, str):
        causes.found.append(_untranslated(entry))
    elsewhere, unseen = (evidence.elsewhere, evidence.unseen) if evidence is not None else _elsewhere(server, client)
    for name, owner in elsewhere[:_NAMED]:
        causes.found.append(f"it is in another network namespace, {name}: {owner!r}")
    if not causes.found:
        _look_for_another_port(causes, server, client)
    if not causes.found:
        causes.found.append("no such socket: none of this host has these two ports, or had them a moment ago")
        gateway = _gateway(client)
        if gateway:
            causes.found.append(gateway)
    if isinstance(entry, str):
        causes.possible.append(f"NAT by this host ({entry})")
    if unseen:
        causes.possible.append(f"another network namespace ({unseen})")
    return causes


def _look_at_the_ports(causes: Causes, server: Address, client: Address) -> None:
    """Look at the sockets with the two ports: some that no process holds, or that have another far end."""
    local, remote = _packed(server[0]), _packed(client[0])
    others: list[Owner] = []
    for owner in dumps.with_ports(server[1], client[1]):
        here, there = _packed(owner.server[0]), _packed(owner.client[0])
        if local in (b"", here) and remote in (b"", there):
            causes.found.append(_unheld(owner))
        elif owner.inode:
            others.append(owner)
    causes.found[:] = dict.fromkeys(causes.found)
    if causes.found:
        return
    far = [owner for owner in others if remote not in (b"", _packed(owner.client[0]))]
    if far:
        hosts = ", ".join(list(dict.fromkeys(owner.client[0] for owner in far))[:_NAMED])
        gateway = _gateway(client, far[0])
        what = gateway or f"the asker, {client[0]}, is not the far end of the connection with these ports"
        causes.found.append(f"{what}: its far end is {hosts} ({far[0]!r})")
    elif others:
        causes.found.append(f"the connection with these ports has another address here than {server[0]}: {others[0]!r}")
    for owner in dumps.with_ports(client[1], server[1]) if client[1] != server[1] else ():
        if local in (b"", _packed(owner.server[0])) and remote in (b"", _packed(owner.client[0])) and owner.inode:
            turned = f"{client[1]},{server[1]} is a connection"
            causes.found.append(f"the ports are in the wrong order: {turned}, the port on this host comes first")
            return


def _unheld(owner: Owner) -> str:
    """Say why a socket with the right ends is nobody's."""
    if owner.inode and owner.device:
        return f"it is bound to a device by which the query did not come: {owner!r}"
    if owner.inode:
        return f"it has an owner by now: {owner!r}"
    if owner.state == "TIME_WAIT":
        return "it was closed at this end: only TIME_WAIT is left, which is nobody's"
    if owner.state in UNACCEPTED:
        return f"nobody has accepted it yet: it waits for a program that listens on port {owner.server[1]}"
    return f"it was closed by its process, and the kernel finishes it ({owner.state})"


def _translated(entry: Entry, server: Address, client: Address) -> str:
    """Say whose connection conntrack's entry is, which this host translates."""
    local, remote = entry.socket_for((_plain(client[0]), client[1]), (_plain(server[0]), server[1]))
    ends = f"{_shown(local)} to {_shown(remote)}"
    if routes.device_of(_packed(local[0])):
        return f"NAT by this host: it is this host's own connection from {ends}, as conntrack has it"
    return f"NAT by this host: it is the connection from {ends}, of the host behind, {local[0]}"


def _untranslated(entry: Entry) -> str:
    """Say what it means that conntrack has a connection as it was asked about, and no socket does."""
    if entry.state in _OVER:
        return f"it is over: conntrack still has it, in {entry.state}, and no socket does"
    return (
        f"conntrack has it ({entry.state}), untranslated, and no socket here does: it is routed through this host, or "
        "its process ended without a word to the far end"
    )


def _look_for_another_port(causes: Causes, server: Address, client: Address) -> None:
    """Look for connections with the asker's end and another port here."""
    if not client[0]:
        return
    held = [owner for owner in dumps.with_far_end(client) if owner.inode and owner.server[1] != server[1]]
    if not held:
        return
    ports = list(dict.fromkeys(owner.server[1] for owner in held))
    shown = ", ".join(map(str, ports[:_NAMED])) + (f" and {len(ports) - _NAMED} more" if len(ports) > _NAMED else "")
    causes.found.append(
        f"no connection from here to {_shown(client)} has the port {server[1]}, but one has {shown}: a gateway before "
        "this host (NAT) may have rewritten the port"
    )


def _gateway(client: Address, other: Owner | None = None) -> str:
    """Say that the asker is our own gateway; ``""``: it is not.

    :param other: a connection with the ports in question, to another far end.
    """
    asker = _packed(client[0])
    if not asker:
        return ""
    targets = [_ANYWHERE[len(asker)]]
    if other is not None and len(_packed(other.client[0])) == len(asker):
        targets.append(_packed(other.client[0]))
    for target in targets:
        try:
            if routes.gateway_to(target) == asker:
                return (
                    f"the asker, {client[0]}, is this host's own gateway, so a proxy (docker-proxy), a gateway or NAT "
                    "asks in place of the far end"
                )
        except IdentError:
            # It is one cause of many.
            continue
    return ""


def _entry(server: Address, client: Address) -> Entry | str | None:
    """Return conntrack's entry, None, or why that can't be told."""
    if not (server[0] and client[0]):
        return "conntrack is asked about addresses: --server-address and --client-address name them"
    try:
        return conntrack.get(client, server)
    except ConntrackUnavailable as error:
        return None if error.forbidden and _has_none() else str(error)
    except IdentError as error:
        return error.detail
    except ValueError:
        # Addresses of two families: there is no such connection.
        return None


def _has_none() -> bool:
    """Return whether conntrack surely follows no connection of this network namespace."""
    try:
        with open(_COUNT, "rb") as count:
            return int(count.read()) == 0
    except (OSError, ValueError):
        # ENOENT: no conntrack, or a /proc without it (ProcSubset=pid). EACCES: it is closed to us.
        return False


def _elsewhere(server: Address, client: Address) -> tuple[list[tuple[str, Owner]], str]:
    """Return where in joined network namespaces the connection is, and why there may be more; ``""``: surely not."""
    found = []
    looked_into = 0
    try:
        count = namespaces.joined()
        for path in namespaces.paths() if count else ():
            try:
                owner = namespaces.ask_inside(path, lambda: _find_inside(server, client))
            except PermissionError:
                # EPERM: we may look into none.
                break
            except (IdentError, OSError, ImportError, sock_diag.SockDiagUnavailable):
                # ENOENT, ESRCH: it has ended meanwhile. What can't be found out counts as unseen.
                continue
            looked_into += 1
            if owner is not None:
                found.append((path, owner))
            if looked_into >= namespaces.MOST:
                break
    except IdentError as error:
        return found, error.detail
    if looked_into >= count:
        return found, ""
    unseen = f"{count - looked_into} of the {count} joined to this one could not be looked into"
    return found, f"{unseen}: that needs CAP_SYS_ADMIN and CAP_SYS_PTRACE"


def _find_inside(server: Address, client: Address) -> Owner | None:
    try:
        return sock_diag.find(server, client) if server[0] and client[0] else dumps.find_by_ports(server, client)
    except NoUser:
        return None


def _packed(host: str) -> bytes:
    return pack(host)[0] if host else b""


def _plain(host: str) -> str:
    """Return an address as conntrack's entries have it: without a scope, and in its shortest form."""
    return unpack(_packed(host))


def _shown(end: Address) -> str:
    return f"[{end[0]}]:{end[1]}" if ":" in end[0] else f"{end[0]}:{end[1]}"
