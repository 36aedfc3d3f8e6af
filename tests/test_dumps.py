"""Which connection has these ports, or which are somebody's, where the kernel's whole table has to be read?"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest
from helpers.calls import call, welcome
from helpers.hosts import Person, Town
from helpers.netlink import NLM_F_DUMP, Wire, by_ports
from helpers.pairs import LOOPBACK

from lookup.connection import IdentError, NoUser
from lookup.kernel import dumps

if TYPE_CHECKING:


    pass


pytest_plugins = ["helpers.people", "helpers.netlink"]


def test_the_ports_decide(town: Town, alice: Person) -> None:
    """Without addresses the ports find the connection, over IPv4 and IPv6, bound to a device or not."""
    for host, how in (
        (town.THERE, {}), (town.THERE_6, {}), (town.THERE, {"device": "vpn", "namespace": town.elsewhere}),
    ):  # fmt: skip
        with call(town, alice, host, **how) as (ends, _):
            owner = by_ports(town, ("", ends[0][1]), ("", ends[1][1]))
            assert (owner.uid, owner.server, owner.client) == (alice.uid, *ends)


def test_the_ports_of_a_dual_stack_socket(town: Town, alice: Person) -> None:
    """A dual-stack connection is found by its ports, and by either form of its IPv4 address."""
    with welcome(town, alice, "::", town.HERE, socket.AF_INET6) as (ends, _):
        for host in ("", town.HERE, f"::ffff:{town.HERE}"):
            assert by_ports(town, (host, ends[0][1]), ("", ends[1][1])).uid == alice.uid


def test_the_ports_of_another_owner_too(town: Town, alice: Person, bob: Person) -> None:
    """Ports that fit connections of two users name neither; one address that tells them apart decides."""
    with town.listen(town.THERE) as listener:
        hers = alice.dial(listener.getsockname())
        his = bob.dial(listener.getsockname(), source=(town.HERE_TOO, hers[0][1]))
        server, client = ("", hers[0][1]), ("", hers[1][1])
        with pytest.raises(IdentError) as ambiguous:
            by_ports(town, server, client)
        assert not isinstance(ambiguous.value, NoUser)
        for person, ends in ((alice, hers), (bob, his)):
            assert f"{ends[0][0]}:{ends[0][1]} " in ambiguous.value.detail
            assert f"uid {person.uid} " in ambiguous.value.detail
            assert by_ports(town, ends[0], client).uid == person.uid
        with pytest.raises(IdentError) as ambiguous:
            by_ports(town, server, hers[1])
        assert not isinstance(ambiguous.value, NoUser)
        for nobody in (town.NOBODY, town.THERE_6):
            with pytest.raises(NoUser):
                by_ports(town, server, (nobody, client[1]))


def test_the_ports_of_one_owner_twice(town: Town, alice: Person) -> None:
    """Ports that fit two connections of one user name that user."""
    with town.listen(town.THERE) as listener:
        first = alice.dial(listener.getsockname())
        alice.dial(listener.getsockname(), source=(town.HERE_TOO, first[0][1]))
        assert by_ports(town, ("", first[0][1]), ("", first[1][1])).uid == alice.uid


def test_a_closed_connection_with_the_same_ports(town: Town, alice: Person, bob: Person) -> None:
    """What remains of a closed connection does not make a holder of the same ports ambiguous."""
    with town.listen(town.THERE) as listener:
        hers = alice.dial(listener.getsockname())
        bob.dial(listener.getsockname(), source=(town.HERE_TOO, hers[0][1]))
        alice.tell("kept.pop().close()")
        assert by_ports(town, ("", hers[0][1]), ("", hers[1][1])).uid == bob.uid


def test_a_socket_that_is_only_bound(town: Town, alice: Person) -> None:
    """What is bound to a port and not connected is nobody's connection, whichever ports are asked about."""
    with Person(0, town.here) as root:
        port = root.tell("one = socket.socket(); one.bind(('', 0)); one.getsockname()[1]")
        for ports in ((1, 1), (port, 1), (1, port)):
            with pytest.raises(NoUser):
                by_ports(town, ("", ports[0]), ("", ports[1]))
        with call(town, alice) as (ends, _):
            assert by_ports(town, ("", ends[0][1]), ("", ends[1][1])).uid == alice.uid


def test_a_long_dump_is_read_to_its_end(wire: type[Wire]) -> None:
    """By the ports alone, the one connection that fits is found among thousands, with one dump per family."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=1000))
        clients = []
        for _ in range(300):
            clients.append(stack.enter_context(socket.create_connection(listener.getsockname())))
            stack.enter_context(listener.accept()[0])
        for client in (clients[0], clients[150], clients[-1]):
            server, peer = client.getsockname(), client.getpeername()
            wire.sent.clear()
            assert dumps.find_by_ports(("", server[1]), ("", peer[1])).uid == os.getuid()
            assert [(flags & NLM_F_DUMP) for _, flags, _ in wire.sent] == [NLM_F_DUMP, NLM_F_DUMP]
        owner = dumps.find_by_ports((LOOPBACK, listener.getsockname()[1]), ("", clients[7].getsockname()[1]))
        assert owner.client == clients[7].getsockname()
