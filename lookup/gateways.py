"""Whose connection does a gateway mean that asks about two ports, and translates addresses?

Only for --proxy: the gateway is trusted, and passes on what others ask it, under its own address. Whose far end it is
about is not known, so the ports decide. Every other asker is answered as without.
"""

from __future__ import annotations

import time

from .config.blocks import HostName
from .config.names import Hosts, Names, Resolver
from .connection import IdentError, NotAccepted, NoUser, Owner, Unknown, pack
from .kernel.dumps import find_for_gateway
from .kernel.routes import device_of

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .connection import Address

#: Queries a second, of all gateways together, for which the kernel's whole table is walked.
MOST = 50


class ByPorts(Owner):
    """An owner whose connection has the ports that a gateway has asked about, and other addresses."""

    __slots__ = ()
    by_ports = True
    steps = ("a gateway asks that is trusted (--proxy): found by the ports alone",)


class Gateways:
    """The gateways that are trusted, and how often they may still ask."""

    def __init__(self, names: Sequence[str]) -> None:
        """:param names: addresses, networks and host names. :raises ValueError: one is none of these."""
        found = [Names.network(name.encode("utf-8", "surrogateescape")) for name in names]
        self._networks = [one for one in found if not isinstance(one, HostName)]
        self._names = [one for one in found if isinstance(one, HostName)]
        #: The addresses of these; for how long they hold, `Hosts` says.
        self._hosts = Hosts()
        #: Of the second that counts: when it began, and how often the table was walked.
        self._since, self._walked = 0.0, 0

    def may_trust(self, asker: str) -> bool:
        """Return whether an asker may be a gateway that is trusted: for certain, unless there are host names."""
        return bool(self._names) or self._is_listed(asker)

    def trusts(self, asker: str) -> bool:
        """Return whether an asker is a gateway that is trusted. May block on host names for `names.NAME_SECONDS`."""
        if not asker or self._is_listed(asker) or not self._names:
            return self._is_listed(asker)
        packed, resolver = pack(asker.partition("%")[0])[0], Resolver()
        for name in self._names:
            found = self._hosts.addresses(name, len(packed), resolver.addresses)
            if not isinstance(found, Unknown) and packed in found:
                return True
        return False

    def _is_listed(self, asker: str) -> bool:
        if not asker:
            return False
        packed = pack(asker.partition("%")[0])[0]
        bits, address = 8 * len(packed), int.from_bytes(packed, "big")
        return any(
            len(network) == len(packed) and (address ^ int.from_bytes(network, "big")) >> (bits - length) == 0
            for network, length in self._networks
        )

    def find(self, server: Address, client: Address, find: Callable[[], Owner]) -> Owner:
        """Return the owner of the connection that is asked about, if need be by its ports alone. May block.

        :param server: our end as the query names it; :param client: the far end: the gateway's address.
        :param find: finds the owner by both addresses, as for every other asker.
        :raises NoUser: nobody has one. :raises IdentError: two users do, or it can't be found out.
        """
        if not self.trusts(client[0]):
            return find()
        owner: Owner | None
        try:
            owner, missing = find(), None
        except NotAccepted:
            raise
        except NoUser as error:
            if hasattr(error, "server"):
                # A machine behind this one is meant: conntrack knows the gateway's address there.
                raise
            owner, missing = None, error
        self._count()
        asker = pack(client[0].partition("%")[0])[0]
        try:
            other = find_for_gateway(server[1], client[1], lambda far: far != asker and _is_far(far))
        except NoUser as error:
            if owner is None:
                raise missing or error from None
            return owner
        if owner is not None and owner.uid != other.uid:
            reason = f"{client[0]}, which is trusted (--proxy), may mean {owner!r} or {other!r}"
            raise IdentError(reason)
        return owner or ByPorts(
            other.uid, other.inode, other.state, other.server, other.client, other.source, other.device
        )

    def _count(self) -> None:
        """Count one more walk. :raises IdentError: there were too many."""
        now = time.monotonic()
        if now >= self._since + 1:
            self._since, self._walked = now, 0
        self._walked += 1
        if self._walked > MOST:
            raise IdentError(f"gateways (--proxy) have asked more than {MOST} times a second")


def _is_far(far: bytes) -> bool:
    """Return whether an address is another host's. :raises IdentError: the kernel does not tell."""
    # By netlink: a sandbox may forbid other sockets.
    return not device_of(far)
