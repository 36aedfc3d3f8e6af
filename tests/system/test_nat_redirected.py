"""Is a query that a rule has led here answered about the address that was asked, and never about another one's?

(Item 5 of issue 12.)
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest
from helpers.askers import FORMS
from helpers.gateways import Gateway
from helpers.hosts import Person, inside, login
from helpers.machine import NOBODY
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, ending, start
from helpers.warm import until_it_serves

from lookup.connection import asked_name
from lookup.owner import _is_forwarded

if TYPE_CHECKING:
    import pwd
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways"]

#: Both hosts have a connection with these ports.
REAL, FAR = 40000, 6667


class Hosts(NamedTuple):
    """The gateway, a login of its own, and two addresses of each host: IPv4 or IPv6."""

    gateway: Gateway
    user: pwd.struct_passwd
    behind: str
    gate: str
    there: str


@pytest.fixture(scope="module")
def user() -> Iterator[pwd.struct_passwd]:
    """Somebody has a login on the gateway."""
    with login() as entry:
        yield entry


@pytest.fixture(params=("IPv4", "IPv6"))
def hosts(gateway: Gateway, user: pwd.struct_passwd, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """The gateway's user and the host behind have each a connection with the same ports to the same host outside."""
    if request.param == "IPv4":
        hosts = Hosts(gateway, user, gateway.HERE, gateway.OUTER, gateway.THERE)
    else:
        hosts = Hosts(gateway, user, gateway.HERE_6, gateway.OUTER_6, gateway.THERE_6)
    with contextlib.ExitStack() as stack:
        with inside(gateway.there):
            family = socket.AF_INET6 if ":" in hosts.there else socket.AF_INET
            stack.enter_context(socket.create_server((hosts.there, FAR), family=family))
        for uid, namespace, host in ((user.pw_uid, gateway.gate, hosts.gate), (NOBODY, gateway.here, hosts.behind)):
            person = stack.enter_context(Person(uid, namespace))
            person.dial((hosts.there, FAR), source=(host, REAL))
            # With a reset, so that the port is free for the next test.
            person.tell("import struct")
            reset = "kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))"
            person.tell(reset)
        yield hosts


def asked(hosts: Hosts, form: str, target: str, *options: str, dual: bool = False) -> str:
    """Ask the port 113 of an address, which the gateway leads to its identd; return the reply without the ports.

    :param dual: whether identd's socket is one of IPv6's, whatever the address.
    """
    listens = {"family": socket.AF_INET6, "dualstack_ipv6": True} if dual or ":" in target else {}
    with contextlib.ExitStack() as stack:
        with inside(hosts.gateway.gate):
            listener = stack.enter_context(socket.create_server(("", 0), **listens))  # type: ignore[arg-type]
        listener.settimeout(PATIENCE)
        address = listener.getsockname()
        rule = f"iifname out tcp dport 113 redirect to :{address[1]}"
        stack.enter_context(hosts.gateway.translating(rule, hook="prerouting"))
        with inside(hosts.gateway.gate):
            if form == "warm":
                process = start([*COMMAND, *options], listener)
                stack.enter_context(ending(process))
                until_it_serves(process)
        with inside(hosts.gateway.there):
            caller = stack.enter_context(socket.create_connection((target, 113), PATIENCE, (hosts.there, 0)))
        if form == "single":
            with inside(hosts.gateway.gate), listener.accept()[0] as accepted:
                stack.enter_context(ending(start([*COMMAND, *options], accepted)))
        caller.sendall(f"{REAL},{FAR}\r\n".encode())
        return everything(caller).decode().rstrip("\r\n").partition(":")[2]


@pytest.mark.parametrize("form", FORMS)
def test_never_the_name_of_another_addresss_connection(hosts: Hosts, form: str) -> None:
    """The host behind is asked by its own address: its connection is not the gateway's user's, whose ports it has."""
    assert asked(hosts, form, hosts.behind) == "ERROR:NO-USER"
    # The rule leads here what asks for the gateway itself as well.
    assert asked(hosts, form, hosts.gate) == f"USERID:UNIX:{hosts.user.pw_name}"


@pytest.mark.parametrize("form", FORMS)
def test_a_socket_for_both_families(hosts: Hosts, form: str) -> None:
    """An IPv6 socket takes IPv4's queries too, and the rule's address of them is IPv4's."""
    assert asked(hosts, form, hosts.behind, dual=True) == "ERROR:NO-USER"
    assert asked(hosts, form, hosts.gate, dual=True) == f"USERID:UNIX:{hosts.user.pw_name}"


def test_a_query_of_our_own_user(gateway: Gateway) -> None:
    """Who asks, and by which socket, is found by the address that was asked: queries of identd's own are told by it."""
    with inside(gateway.gate), socket.create_server(("", 0)) as listener:
        rule = f"ip daddr {gateway.HERE} tcp dport 113 redirect to :{listener.getsockname()[1]}"
        with (
            gateway.translating(rule, hook="output"),
            socket.create_connection((gateway.HERE, 113), PATIENCE) as caller,
            listener.accept()[0] as accepted,
        ):
            assert asked_name(accepted) == caller.getpeername() != accepted.getsockname()
            assert _is_forwarded(accepted)
        here = gateway.OUTER, listener.getsockname()[1]
        with socket.create_connection(here, PATIENCE), listener.accept()[0] as accepted:
            assert asked_name(accepted) == accepted.getsockname()
