"""Is nobody named wrongly where conntrack has zones, so that two containers may have the same addresses?

(Items 1 and 3 of issue 12.)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.hosts import ip, nameless_uid
from helpers.judged import FAR, MASQUERADING, OUTSIDE, Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: What the judged host calls its link to the second container.
OTHER = "in-too"


@pytest.mark.parametrize("form", FORMS)
def test_a_zone_for_both_directions(judged: Judged, form: str) -> None:
    """The query does not tell the zone, and no request without it finds the entry: nobody."""
    rule = MASQUERADING.format(OUTSIDE)
    with (
        judged.gateway.translating(rule, zone=f"tcp dport {FAR} ct zone set 7\ntcp sport {FAR} ct zone set 7"),
        judged.living("behind", judged.gateway.here, judged.user.pw_uid, image=False),
    ):
        judged.dials("behind", judged.gateway.THERE, judged.gateway.HERE)
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:NO-USER", judged.log


@contextlib.contextmanager
def equals(judged: Judged) -> Iterator[None]:
    """Two containers, called behind and too, have equal addresses, and the same connection, each in a zone of its own.

    What comes back is led by marks, as a host of that kind has to.
    """
    gateway = judged.gateway
    too = f"{gateway.gate}-too"
    zones = f"iifname in ct original zone set 1\niifname {OTHER} ct original zone set 2"
    # The marks are set where the zones are known, and read where the route is chosen.
    marking = (
        "table inet marking {\nchain m {\ntype filter hook prerouting priority -150\n"
        "iifname in ct mark set 1\n"
        f"iifname {OTHER} ct mark set 2\n"
        "iifname out meta mark set ct mark\n}\n}\n"
    )
    with contextlib.ExitStack() as stack:
        ip("netns", "add", too)
        stack.callback(ip, "netns", "del", too)
        ip("link", "add", "name", OTHER, "type", "veth", "peer", "name", "in", "netns", too, namespace=gateway.gate)
        ip("addr", "add", "10.96.0.1/24", "dev", OTHER, namespace=gateway.gate)
        for place, device in ((gateway.gate, OTHER), (too, "in"), (too, "lo")):
            ip("link", "set", device, "up", namespace=place)
        ip("addr", "add", f"{gateway.HERE}/24", "dev", "in", namespace=too)
        ip("route", "add", "10.96.0.1", "dev", "in", namespace=too)
        ip("route", "add", "default", "via", "10.96.0.1", namespace=too)
        ip("route", "add", gateway.HERE, "dev", OTHER, "table", "96", namespace=gateway.gate)
        ip("rule", "add", "fwmark", "2", "table", "96", namespace=gateway.gate)
        stack.callback(ip, "rule", "del", "fwmark", "2", "table", "96", namespace=gateway.gate)
        stack.enter_context(gateway.ruled(marking, "marking"))
        rule = "meta l4proto tcp iifname {} masquerade to :{}"
        rules = rule.format("in", OUTSIDE), rule.format(OTHER, OUTSIDE + 1)
        stack.enter_context(gateway.translating(*rules, zone=zones))
        stack.enter_context(judged.living("behind", gateway.here, judged.user.pw_uid, image=False))
        stack.enter_context(judged.living("too", too, nameless_uid()))
        for name in ("behind", "too"):
            judged.dials(name, gateway.THERE, gateway.HERE)
        yield


@pytest.mark.parametrize("form", FORMS)
def test_equal_addresses(judged: Judged, form: str) -> None:
    """An address does not tell which of two containers is meant: neither's name is sent, also when one hangs up."""
    gateway = judged.gateway
    with equals(judged):
        for port in (OUTSIDE, OUTSIDE + 1):
            assert judged.asked(form, (port, FAR), "-m") == "ERROR:UNKNOWN-ERROR", judged.log
            assert "different owners fit" in judged.log
        with gateway.forgetting():
            judged.within("behind", "kept.pop().close()")
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:UNKNOWN-ERROR", judged.log
        assert "conntrack's zones" in judged.log
        judged.within("too", "kept.pop().close()")
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:NO-USER", judged.log
