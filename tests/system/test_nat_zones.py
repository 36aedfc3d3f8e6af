"""Is nobody named for somebody else's connection where conntrack's zones tell equal addresses apart?

(nat.md, section 2: `ct original zone set N`, and `ct zone set N`.)
"""

from __future__ import annotations

import contextlib

import pytest
from helpers.askers import FORMS
from helpers.hosts import ip, nameless_uid
from helpers.judged import FAR, OUTSIDE, REAL, Judged
from test_nat_namespaces import namespace

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: Where the second of two containers with one address is masqueraded.
SECOND = OUTSIDE + 1

#: The rules of whoever has both: a zone for each, and a mark by which the replies find the way back.
_ZONES = "iifname in ct original zone set 1\niifname in2 ct original zone set 2"
_MARKS = """\
table inet marks {
    chain r {
        type filter hook prerouting priority -150
        iifname in ct mark set 1
        iifname in2 ct mark set 2
        meta mark set ct mark
    }
}
"""


@pytest.mark.parametrize("form", FORMS)
def test_a_zone_for_both_directions(judged: Judged, form: str) -> None:
    """The query does not tell the zone, so that conntrack has no entry for it: nobody."""
    rule = f"oifname out tcp dport {FAR} masquerade to :{OUTSIDE}"
    zone = "iifname { in, out } tcp dport != 113 ct zone set 9"
    gateway = judged.gateway
    with (
        gateway.translating(rule, zone=zone),
        judged.living("behind", gateway.here, judged.user.pw_uid, image=False),
    ):
        judged.dials("behind", gateway.THERE, gateway.HERE)
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:NO-USER", judged.log


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("open_first", (True, False), ids=("both", "one"))
def test_equal_addresses_in_two_zones(judged: Judged, form: str, open_first: bool) -> None:
    """Two containers have the same address, port and far end: each one's owner is named for their own, or nobody is."""
    gateway, uid = judged.gateway, nameless_uid()
    rules = [
        f"meta l4proto tcp oifname out ct original zone {zone} masquerade to :{port}"
        for zone, port in ((1, OUTSIDE), (2, SECOND))
    ]
    with contextlib.ExitStack() as stack:
        second = stack.enter_context(namespace(judged, "second"))
        pair = "type", "veth", "peer", "name", "eth0", "netns", second
        ip("link", "add", "name", "in2", *pair, namespace=gateway.gate)
        for place, device, host in ((gateway.gate, "in2", "10.92.0.1/32"), (second, "eth0", f"{gateway.HERE}/24")):
            ip("addr", "add", host, "dev", device, namespace=place)
            ip("link", "set", device, "up", namespace=place)
        ip("route", "add", "default", "via", gateway.INNER, namespace=second)
        ip("route", "add", f"{gateway.HERE}/32", "dev", "in2", "table", "200", namespace=gateway.gate)
        ip("rule", "add", "fwmark", "2", "table", "200", namespace=gateway.gate)
        stack.callback(ip, "rule", "del", "fwmark", "2", "table", "200", namespace=gateway.gate)
        stack.enter_context(gateway.translating(*rules, zone=_ZONES))
        gateway.nft(_MARKS)
        stack.callback(gateway.nft, "delete table inet marks\n")
        stack.enter_context(judged.living("behind", gateway.here, judged.user.pw_uid, image=False))
        stack.enter_context(judged.living("other", second, uid))
        if open_first:
            judged.dials("behind", gateway.THERE, gateway.HERE, port=REAL)
        judged.dials("other", gateway.THERE, gateway.HERE, port=REAL)
        unknown = "ERROR:UNKNOWN-ERROR"
        first = f"USERID:UNIX:{judged.user.pw_name}" if open_first else "ERROR:NO-USER"
        assert judged.asked(form, (OUTSIDE, FAR), "-m") in (first, unknown), judged.log
        assert judged.asked(form, (SECOND, FAR), "-m") in (f"USERID:OTHER:{uid}", unknown), judged.log
