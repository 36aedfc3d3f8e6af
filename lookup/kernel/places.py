"""What may be asked in one network namespace that is looked into, and what stays open of it?

Only what is open in our own: in any other it would keep alive what a container had.
"""

from __future__ import annotations

import os

from ..connection import IdentError, pack, within
from . import namespaces
from .conntrack import Conntrack, ConntrackUnavailable
from .links import ANYWHERE, LOCAL, Links
from .sock_diag import SockDiag

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from ..connection import Address
    from .conntrack import Entry

#: Seconds to wait for the kernel to say where packets go.
LINK_SECONDS = 0.7

#: What no search uses just now of what they have opened in our own network namespace. (In any other nothing stays
#: open: it would keep alive what a container had.)
_homes: list[Place] = []
_MOST_HOMES = 4


def home() -> Place:
    """Return this thread's network namespace, with what is asked there: what the last search has left, if any.

    To be entered (``with``), so that the next search finds it, unless something goes wrong: then answers to what failed
    may still arrive.
    """
    while _homes:
        try:
            found = _homes.pop()
        except IndexError:
            break  # another thread has taken it
        if found.identity == namespaces.identity(namespaces.OURS):
            return found
        found.close()
    return Place("", 0)


class Place:
    """A network namespace that is looked into: what is opened in there asks there, wherever the thread goes."""

    def __init__(self, path: str, layer: int) -> None:
        """:param path: of the namespace; ``""``: our own. :param layer: how many lie around it."""
        self.path = path
        self.layer = layer
        self.identity = namespaces.identity(namespaces.OURS)
        self.diag = SockDiag(self._is_ours)
        self._conntrack: Conntrack | None = None
        self._without_conntrack = ""
        try:
            self._conntrack = Conntrack()
        except ConntrackUnavailable as error:
            self._without_conntrack = str(error)
        self.fd = os.open(namespaces.OURS, os.O_RDONLY | os.O_CLOEXEC)
        #: For what is asked about links, and about routes: the latter may have to be left to itself (``hangs``).
        self._links: tuple[Links, Links] | None = None
        self.hangs = False

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Keep what is open for the next search, if nobody else may be waiting for its answers."""
        if kind is not None or self.hangs or len(_homes) >= _MOST_HOMES:
            self.close()
        else:
            _homes.append(self)

    def close(self) -> None:
        for one in (self.diag, self._conntrack, *(self._links or ())):
            if one is not None:
                one.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def look_on(self) -> None:
        """Open what is asked about links and routes, while this thread is in this namespace."""
        if self._links is None:
            self._links = Links(), Links()

    @property
    def links(self) -> Links:
        """What is asked about links. :raises IdentError: `look_on` was not called."""
        if self._links is None:
            raise IdentError("links are asked about in no namespace")
        return self._links[0]

    def entry(self, server: Address, client: Address) -> Entry | None:
        """Return the entry that translates a connection; None: there is none, or it translates nothing.

        :raises ConntrackUnavailable: we may not ask; or, in our own namespace, the kernel has no conntrack.
        """
        try:
            if self._conntrack is None:
                raise ConntrackUnavailable(self._without_conntrack)
            found = self._conntrack.get(client, server)
        except ConntrackUnavailable as error:
            if error.forbidden or not self.path:
                raise
            return None
        return found if found is not None and found.is_translated else None

    def sends_to(self, host: str) -> int:
        """Return into which namespace packets for an address are sent (see `Links.sends_to`).

        The kernel answers about links only while it adds and removes none, which may take it ten seconds.
        """
        address = pack(host)[0]
        try:
            return within(LINK_SECONDS, self._sends_to, address)
        except TimeoutError:
            self.hangs = True
            return ANYWHERE

    def _sends_to(self, address: bytes) -> int:
        routes = self._routes()
        number = routes.sends_to(address)
        return ANYWHERE if routes.has_rules(len(address)) else number

    def _routes(self) -> Links:
        if self._links is None:
            raise IdentError("routes are asked about in no namespace")
        return self._links[1]

    def _is_ours(self, address: bytes) -> bool:
        """Return whether an address is its own. :raises IdentError: the kernel does not tell in time."""
        self.look_on()  # this thread is in this namespace, unless that was done before
        try:
            return within(LINK_SECONDS, self._routes().sends_to, address) == LOCAL
        except TimeoutError:
            self.hangs = True
            raise IdentError("the kernel does not tell in time which addresses are this host's") from None

    def has(self, host: str) -> bool:
        """Return whether an address is its own, or may be. This thread is in this namespace."""
        try:
            return self._is_ours(pack(host)[0])
        except IdentError:
            return True

    def __str__(self) -> str:
        return f"in {self.path}" if self.path else "on this host"
