"""Whose is a connection that this host translates, or that a container has, and what are they called?

Only with --masquerade. `kernel.search` finds the socket, with capabilities, perhaps in another process; here, without
any, it is decided whose it is.
"""

from __future__ import annotations

from .connection import IdentError, NoUser, Owner

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Address, Arrival
    from .kernel.wire import Found, Request

    #: Asks `kernel.search.search`, here or in another process. Raises IdentError: nobody can be asked.
    Ask = Callable[[Request], Found]


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


def find(server: Address, client: Address, arrival: Arrival | None, ask: Ask) -> Owner:
    """Like `lookup.find`, but find the owner also behind NAT and in other network namespaces of this host.

    :param ask: who looks there.
    :raises Behind, Unseen: it may be another machine's, behind this one.
    """
    raise NotImplementedError


def decide(request: Request, local: Owner | NoUser, found: Found) -> Owner:
    """Return the owner that a request comes to, for who has asked in another way than `find` does.

    :param local: who was found in our own network namespace, or why nobody was. Exceptions: see `find`.
    """
    raise NotImplementedError
