"""What does a machine behind a gateway reply to that gateway, which asks by ports alone?  (Item 6 of issue 12, -P.)"""

from __future__ import annotations

import contextlib
import itertools
import socket
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS, asking
from helpers.hosts import Person, inside, login
from helpers.residents import system_file

if TYPE_CHECKING:
    import pwd
    from collections.abc import Iterator

    from helpers.gateways import Gateway
    from helpers.hosts import Ends

pytest_plugins = ["helpers.gateways"]

#: Two ports at the far end.
FAR, OTHER = 6667, 6697

#: Ports of the machine behind: what is left of a test's connections has others than the next one's.
PORTS = itertools.count(40000)


@pytest.fixture(scope="module")
def users() -> Iterator[tuple[pwd.struct_passwd, pwd.struct_passwd]]:
    """Two users."""
    with login() as one, login() as two:
        yield one, two


@pytest.fixture(scope="module")
def far(gateway: Gateway) -> Iterator[Gateway]:
    """The far end and the gateway listen, too."""
    with contextlib.ExitStack() as stack:
        for namespace, hosts in (
            (gateway.there, (gateway.THERE, gateway.THERE_TOO, gateway.THERE_6)),
            (gateway.gate, (gateway.INNER, gateway.INNER_6)),
        ):
            with inside(namespace):
                for host in hosts:
                    family = socket.AF_INET6 if ":" in host else socket.AF_INET
                    for port in (FAR, OTHER):
                        stack.enter_context(socket.create_server((host, port), family=family))
        yield gateway


def asked(far: Gateway, form: str, *options: str, ends: Ends, asker: str = "", six: bool = False) -> str:
    """Return what the machine behind replies, to the gateway if to nobody else."""
    server, client = (far.HERE_6, far.INNER_6) if six else (far.HERE, far.INNER)
    if asker:
        client = asker
    namespace = far.there if asker else far.gate
    with asking(far, form, "-q", *options, asker=namespace, server=server, client=client) as query:
        return query.ask(ends)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("form", FORMS)
def test_the_ports_decide(far: Gateway, users: list[pwd.struct_passwd], form: str, six: bool) -> None:
    """The gateway that is trusted hears whose connection has the ports; any other asker hears as much as without -P."""
    port = next(PORTS)
    with Person(users[0].pw_uid, far.here) as person:
        ends = person.dial((far.THERE_6 if six else far.THERE, FAR), source=(far.HERE_6 if six else far.HERE, port))
        trusted = ("-P", "192.0.2.1", "-P", "fd92::/64" if six else "10.92.0.0/24")
        named = f"USERID:UNIX:{users[0].pw_name}"
        assert asked(far, form, *trusted, ends=ends, six=six) == named
        if six:
            return
        assert asked(far, form, "-P", far.INNER, ends=ends) == named
        assert asked(far, form, "-P", far.THERE_TOO, ends=ends) == "ERROR:NO-USER"
        assert asked(far, form, "-P", far.INNER, ends=ends, asker=far.THERE_TOO) == "ERROR:NO-USER"
        assert asked(far, form, ends=ends) == "ERROR:NO-USER"
        assert asked(far, form, "-P", far.INNER, ends=((far.HERE, port), (far.THERE, OTHER))) == "ERROR:NO-USER"


@pytest.mark.parametrize("form", FORMS)
def test_two_candidates(far: Gateway, users: list[pwd.struct_passwd], form: str) -> None:
    """Of two users with these ports neither is named; one user with two such connections is."""
    port = next(PORTS)
    one, two = users
    with Person(one.pw_uid, far.here) as person, Person(two.pw_uid, far.here) as other:
        ends = person.dial((far.THERE, FAR), source=(far.HERE, port))
        person.dial((far.THERE_6, FAR), source=(far.HERE_6, port))
        assert asked(far, form, "-P", far.INNER, ends=ends) == f"USERID:UNIX:{one.pw_name}"
        other.dial((far.THERE_TOO, FAR), source=(far.HERE, port))
        assert asked(far, form, "-P", far.INNER, ends=ends) == "ERROR:UNKNOWN-ERROR"
        # What is left of a connection is nobody's, and may be meant.
        other.tell("kept.pop().close()")
        assert asked(far, form, "-P", far.INNER, ends=ends) == "ERROR:UNKNOWN-ERROR"


@pytest.mark.parametrize("form", FORMS)
def test_the_gateways_own_connection(far: Gateway, users: list[pwd.struct_passwd], form: str) -> None:
    """A connection with the gateway is as without -P, unless somebody else's may be meant by the same ports."""
    port = next(PORTS)
    one, two = users
    with Person(one.pw_uid, far.here) as person, Person(two.pw_uid, far.here) as other:
        ends = person.dial((far.INNER, FAR), source=(far.HERE, port))
        for options in ((), ("-P", far.INNER)):
            assert asked(far, form, *options, ends=ends) == f"USERID:UNIX:{one.pw_name}"
        other.dial((far.THERE, FAR), source=(far.HERE, port))
        assert asked(far, form, ends=ends) == f"USERID:UNIX:{one.pw_name}"
        assert asked(far, form, "-P", far.INNER, ends=ends) == "ERROR:UNKNOWN-ERROR"


@pytest.mark.parametrize("form", FORMS)
def test_connections_of_this_host_alone(far: Gateway, users: list[pwd.struct_passwd], form: str) -> None:
    """The loopback's connections, and those with the host itself, are never meant by a gateway."""
    with Person(users[0].pw_uid, far.here) as person:
        for host in ("127.0.0.1", far.HERE):
            person.tell("listener = socket.create_server((host, 0))", host=host)
            ends = person.dial((host, person.tell("listener.getsockname()[1]")))
            assert asked(far, form, "-P", far.INNER, ends=ends) == "ERROR:NO-USER"


@pytest.mark.parametrize("form", FORMS)
def test_rules_see_the_far_end(far: Gateway, users: list[pwd.struct_passwd], form: str) -> None:
    """Filters are about the connection's real ends, not about the gateway's address."""
    port = next(PORTS)
    text = f'default {{ default {{ force hide }} to {far.THERE} from {far.HERE} {{ force reply "irc" }} }}'
    with Person(users[0].pw_uid, far.here) as person, system_file(text) as path:
        ends = person.dial((far.THERE, FAR), source=(far.HERE, port))
        assert asked(far, form, "-P", far.INNER, "-C", str(path), ends=ends) == "USERID:UNIX:irc"
