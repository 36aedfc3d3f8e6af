"""What is replied about a connection of a machine behind this one?

What its own ident server says (--forward), or what oidentd_masq.conf has for it. The machine is a stranger like any
other: its reply is parsed, and nothing else of it is passed on.
"""

from __future__ import annotations

import os

from .config import forward
from .config.masquerade import Entries

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from typing import Union

    from .behind import Behind, Unseen
    from .config.masquerade import Entry
    from .connection import Arrival

    Elsewhere = Union[Behind, Unseen]


class Named(tuple[str, str]):
    """The pair ``(system, user)``; ``how``: who named that user; ``as_it_is``: whether no option changes the system."""

    how: str
    as_it_is: bool

    @classmethod
    def by(cls, how: str, system: str, user: bytes, as_it_is: bool) -> Named:
        """Return such a pair."""
        named = cls((system, os.fsdecode(user)))
        named.how = how
        named.as_it_is = as_it_is
        return named


class Machines:
    """The machines behind this one: whom they name, and what the file has for them."""

    def __init__(
        self, port: int | None, entry_first: bool, path: str, required: bool, proxy: str = ""
    ) -> None:
        """:param port: of their ident servers; None: nobody asks them.

        :param entry_first: whether they are asked only where the file has no entry.
        :param path: the file; :param required: whether it must be there.
        :param proxy: the form of a header that tells them who asks (`forward.ask`).
        """
        self._port = port
        self._entry_first = entry_first
        self._entries = Entries(path, required)
        self._proxy = proxy

    def answer(self, meant: Elsewhere, arrival: Arrival | None) -> Named:
        """Return what is replied. May block for `forward.FORWARD_SECONDS`, and on host names in the file.

        :param meant: which connection of which machine; raised, with what happened, where nobody is named.
        :param arrival: how our own query came in.
        :raises IdentError: the file can't be read, or its entry is wrong.
        """
        host, port = meant.server[0], self._port
        entry = None
        if port is None or self._entry_first:
            entry = self._entries.find(host)
        if entry is None and port is not None:
            asked = None if arrival is None else arrival.socket
            ports = meant.server[1], meant.client[1]
            named = forward.ask(host, port, *ports, asked, self._proxy, also_here=False)
            if isinstance(named, bytes):
                return Named.by(f"named by {host} port {port}, asked about {ports[0]},{ports[1]}", "UNIX", named, False)
            meant.detail = "; ".join(filter(None, (meant.detail, f"the server at {host} port {port} {named}")))
            if not self._entry_first:
                entry = self._entries.find(host)
        if entry is None:
            meant.detail = "; ".join(filter(None, (meant.detail, f"{self._entries.path} has no entry for {host}")))
            raise meant
        return _said(entry, host)


def _said(entry: Entry, host: str) -> Named:
    return Named.by(f"{host}, {entry.rule}", entry.opsys, entry.name, True)
