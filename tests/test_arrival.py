"""By which device and in which network namespace did a query come in?  Asked of real sockets."""

from __future__ import annotations

import socket

import pytest
from helpers.hosts import Town, family_of, inside
from helpers.pairs import connect

from lookup.connection import LOOPBACK, Arrival, cookie_of

pytest_plugins = ["helpers.people"]


@pytest.mark.parametrize(("host", "peer"), [("127.0.0.1", ""), ("::1", ""), ("::", "127.0.0.1"), ("::", "::1")])
def test_over_loopback(host: str, peer: str) -> None:
    """What this host sends to itself comes in by the loopback interface."""
    with connect(host, peer) as pair:
        arrival = Arrival(pair.server)
        assert (arrival.bound, arrival.device()) == (0, LOOPBACK)
        assert arrival.cookie == cookie_of(pair.client) != b""


@pytest.mark.parametrize("device", ["", "lan"])
@pytest.mark.parametrize(("near", "dual"), [(Town.HERE, False), (Town.HERE_6, False), (Town.HERE, True)])
def test_over_a_device(town: Town, near: str, dual: bool, device: str) -> None:
    """The kernel tells the device that a connection came in by, and the one that the listening socket is bound to."""
    with inside(town.here):
        listener = socket.create_server(
            ("" if dual else near, 0), family=socket.AF_INET6 if dual else family_of(near), dualstack_ipv6=dual
        )
        lan = socket.if_nametoindex("lan")
    with listener:
        if device:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        with inside(town.there):
            caller = socket.create_connection((near, listener.getsockname()[1]))
        with caller, listener.accept()[0] as accepted:
            arrival = Arrival(accepted)
            assert (arrival.bound, arrival.device()) == (lan if device else 0, lan)
            assert arrival.cookie == cookie_of(listener) != cookie_of(caller)


def test_a_socket_that_was_closed() -> None:
    """Where the client has gone meanwhile nothing is known, and nothing is raised."""
    with connect() as pair:
        pair.server.close()
        arrival = Arrival(pair.server)
        assert (arrival.bound, arrival.device(), arrival.cookie) == (0, 0, b"")
