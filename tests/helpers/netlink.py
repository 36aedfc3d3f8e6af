"""How do tests ask the kernel about the hosts that they made, and what goes to it meanwhile?"""

from __future__ import annotations

import _socket
import socket
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from helpers.hosts import inside
from lookup.kernel import dumps, sock_diag

if TYPE_CHECKING:
    from helpers.hosts import Ends, Town
    from lookup.connection import Address, Owner

NLM_F_DUMP = 0x300


def find(town: Town, ends: Ends) -> Owner:
    """Ask on the host `here`."""
    with inside(town.here):
        return sock_diag.find(*ends)


def by_ports(town: Town, server: Address, client: Address) -> Owner:
    """Ask on the host `here`, by the ports."""
    with inside(town.here):
        return dumps.find_by_ports(server, client)


class Wire(socket.socket):
    """A socket whose netlink requests are written down before they go to the kernel."""

    sent: list[tuple[int, int, int]] = []  # noqa: RUF012 - one list for all of them
    netlink: list[Wire] = []  # noqa: RUF012

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.family == socket.AF_NETLINK:
            self.netlink.append(self)

    def send(self, data: Any, *flags: int) -> int:
        if self.family == socket.AF_NETLINK:
            whole, offset = bytes(data), 0
            while offset < len(whole):
                length, kind, flag = struct.unpack_from("=IHH", whole, offset)
                (states,) = struct.unpack_from("=I", whole, offset + 20)
                self.sent.append((kind, flag, states))
                offset += length
        return super().send(data, *flags)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> type[Wire]:
    """Every netlink request that is sent, as (type, flags, states asked for), and the sockets that sent them."""
    monkeypatch.setattr(Wire, "sent", [])
    monkeypatch.setattr(Wire, "netlink", [])
    monkeypatch.setattr(sock_diag, "socket", SimpleNamespace(**{**vars(_socket), "socket": Wire}))
    return Wire
