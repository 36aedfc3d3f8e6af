"""Is the owner named where a rule leads packets here and leaves them their addresses (TPROXY): a query, a connection?

(Items 2 and 5 of issue 12.)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.hosts import ip, nameless_uid
from helpers.judged import FAR, MASQUERADING, OUTSIDE, REAL, Judged, Net

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: The ports here that rules lead queries and connections to.
QUERIES, CONNECTIONS = 1130, 13129

#: Both hosts have a connection with this port.
BOTH = REAL + 21


@contextlib.contextmanager
def led_here(judged: Judged, net: Net, **ports: int) -> Iterator[None]:
    """Have what comes over a device and is for a port led here, and what is for a socket here with such an address.

    :param ports: the port here, by device and port: ``out_113=1130``.
    """
    gate, family = judged.gateway.gate, "ip6" if ":" in net.outer else "ip"
    host, number = (f"[{net.outer}]", "-6") if family == "ip6" else (net.outer, "-4")
    lines = ["meta l4proto tcp socket transparent 1 meta mark set 1 accept"]
    for word, port in ports.items():
        device, _, asked = word.partition("_")
        version = f"meta nfproto ipv{number[1]}"
        lines.append(
            f"iifname {device} {version} tcp dport {asked} tproxy {family} to {host}:{port} meta mark set 1 accept"
        )
    chain = "chain p {\ntype filter hook prerouting priority mangle\n" + "\n".join(lines) + "\n}"
    with contextlib.ExitStack() as stack:
        for words in (("rule", "{}", "fwmark", "1", "lookup", "100"),
                      ("route", "{}", "local", "default", "dev", "lo", "table", "100")):  # fmt: skip
            ip(number, *(word.format("add") for word in words), namespace=gate)
            stack.callback(ip, number, *(word.format("del") for word in words), namespace=gate)
        stack.enter_context(judged.gateway.ruled(f"table inet transparent {{\n{chain}\n}}\n", "transparent"))
        yield


@pytest.mark.parametrize("form", FORMS)
def test_a_query_that_keeps_its_address(judged: Judged, net: Net, form: str) -> None:
    """A query for the container's own address is about the container's connection, and not about ours of its ports."""
    uid = nameless_uid()
    with (
        led_here(judged, net, out_113=QUERIES),
        judged.living("behind", judged.gateway.here, uid),
        judged.living("bob", "", judged.user.pw_uid, image=False),
    ):
        judged.dials("behind", net.there, net.behind, port=BOTH)
        judged.dials("bob", net.there, net.outer, port=BOTH)
        for target, options, reply in (
            (net.behind, ["-m"], f"USERID:OTHER:{uid}"), (net.behind, [], "ERROR:NO-USER"),
            (net.outer, ["-m"], f"USERID:UNIX:{judged.user.pw_name}"),
            (net.outer, [], f"USERID:UNIX:{judged.user.pw_name}"),
        ):  # fmt: skip
            said = judged.asked(form, (BOTH, FAR), *options, target=target, led_to=QUERIES, transparent=True)
            assert said == reply, (target, options, judged.log)


#: A proxy that root started and that is a user's by now has accepted a connection.
_ACCEPTS = """
from helpers.judged import be_transparent
listener = socket.create_server((host, port), family=family_of(host))
be_transparent(listener)
os.setresuid(uid, uid, uid)
checked(libc.prctl(4, 1, 0, 0, 0))
None
"""

#: A user's proxy that calls the far end with the address of who called it.
_CALLS = """
import struct
from helpers.judged import be_transparent
os.seteuid(uid)
kept.append(socket.socket(family_of(near[0])))
os.seteuid(0)
be_transparent(kept[-1])
kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
kept[-1].bind(near)
kept[-1].settimeout(20)
kept[-1].connect(far)
None
"""


@pytest.mark.parametrize("form", FORMS)
def test_the_proxy_that_accepted(judged: Judged, net: Net, form: str) -> None:
    """What the container calls is far away, and a proxy here has it: the container asks whose its far end is."""
    uid = judged.user.pw_uid
    with (
        led_here(judged, net, **{"in_113": QUERIES, f"in_{FAR}": CONNECTIONS}),
        judged.living("proxy", "", 0, image=False),
        judged.living("behind", judged.gateway.here, nameless_uid()),
    ):
        judged.within("proxy", _ACCEPTS, host=net.outer, port=CONNECTIONS, uid=uid)
        judged.dials("behind", net.there, net.behind, port=BOTH)
        assert judged.within("proxy", "kept.append(listener.accept()[0]); kept[-1].getsockname()[:2]") == (
            net.there, FAR,
        )  # fmt: skip
        for options in ([], ["-m"]):
            said = judged.asked(
                form, (FAR, BOTH), *options, target=net.there, led_to=QUERIES, transparent=True, asker=net.behind
            )
            assert said == f"USERID:UNIX:{judged.user.pw_name}", (options, judged.log)


@pytest.mark.parametrize("form", FORMS)
def test_the_proxy_that_calls(judged: Judged, net: Net, form: str) -> None:
    """It has the container's address, and the far end asks for that one."""
    with led_here(judged, net, out_113=QUERIES), calling(judged, net):
        said = judged.asked(form, (BOTH, FAR), "-m", target=net.behind, led_to=QUERIES, transparent=True)
        assert said == f"USERID:UNIX:{judged.user.pw_name}", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_the_proxy_that_calls_is_masqueraded(judged: Judged, net: Net, form: str) -> None:
    """It has the container's address, which a rule translates to ours: the far end asks for ours.

    So it is where the route leads to the container alone, in which no such socket is.
    """
    named = f"USERID:UNIX:{judged.user.pw_name}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(judged.gateway.translating(MASQUERADING.format(OUTSIDE)))
        with led_here(judged, net):
            stack.enter_context(calling(judged, net))
            assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == named, judged.log
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == named, judged.log


@contextlib.contextmanager
def calling(judged: Judged, net: Net) -> Iterator[None]:
    """Have a user's proxy call the far end with the address of a container."""
    with (
        judged.living("proxy", "", 0, image=False),
        judged.living("behind", judged.gateway.here, nameless_uid()),
    ):
        judged.within("proxy", _CALLS, uid=judged.user.pw_uid, near=(net.behind, BOTH), far=(net.there, FAR))
        yield
