"""Is nobody named for a socket that they bound to somebody else's address?

IPV6_FREEBIND takes no privilege, and IPv6 connects from whatever address a socket is bound to: the socket stays in
SYN_SENT, with the ends of a container's connection. (Issue 12: an entry proves nothing; attacks.md W8.)
"""

from __future__ import annotations

import contextlib

import pytest
from helpers.askers import FORMS
from helpers.hosts import nameless_uid
from helpers.judged import FAR, OUTSIDE, REAL, Judged

pytest_plugins = ["helpers.gateways", "helpers.judged"]
pytestmark = pytest.mark.usefixtures("needs_root")

#: A socket of a user's on the host, with the ends of a container's connection; returns what connect(2) said of it.
CLAIM = """
claim = socket.socket(socket.AF_INET6)
claim.setblocking(False)
claim.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND, linux/in6.h
claim.bind((here, port))
kept.append(claim)
claim.connect_ex((there, far)), os.getuid()
"""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("options", "lives"), [(("-m",), True), (("-m",), False), ((), True)])
def test_a_container_that_is_routed(judged: Judged, options: tuple[str, ...], lives: bool, form: str) -> None:
    """The container's own socket counts where it is looked for, and nobody's does where there is none."""
    gateway, port = judged.gateway, REAL + 20 + 5 * [*FORMS].index(form) + len(options) + 2 * lives
    with (
        gateway.translating("iifname out tcp dport 113 redirect to :1130", hook="prerouting"),
        judged.living("behind", gateway.here, nameless_uid(), image=False),
        judged.living("mallory", "", judged.user.pw_uid, image=False),
    ):
        if lives:
            judged.dials("behind", gateway.THERE_6, gateway.HERE_6, port=port)
        said = judged.within("mallory", CLAIM, here=gateway.HERE_6, port=port, there=gateway.THERE_6, far=FAR)
        assert said == (115, judged.user.pw_uid)  # EINPROGRESS
        reply = judged.asked(form, (port, FAR), *options, target=gateway.HERE_6, led_to=1130)
    assert reply == (f"USERID:OTHER:{nameless_uid()}" if lives and options else "ERROR:NO-USER"), judged.log


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lives", [True, False])
def test_a_container_that_is_translated(judged: Judged, lives: bool, form: str) -> None:
    """An entry that outlives the container's socket names nobody who has its inner address and port by now."""
    gateway, at = judged.gateway, 2 * [*FORMS].index(form) + lives
    port, outside = REAL + 40 + at, OUTSIDE + 20 + at
    with contextlib.ExitStack() as stack:
        stack.enter_context(gateway.translating(f"oifname out tcp dport {FAR} masquerade to :{outside}"))
        stack.enter_context(judged.living("behind", gateway.here, nameless_uid(), image=False))
        stack.enter_context(judged.living("mallory", "", judged.user.pw_uid, image=False))
        judged.dials("behind", gateway.THERE_6, gateway.HERE_6, port=port)
        if not lives:
            stack.enter_context(gateway.forgetting())
            judged.within("behind", "kept.pop().close()")
        said = judged.within("mallory", CLAIM, here=gateway.HERE_6, port=port, there=gateway.THERE_6, far=FAR)
        assert said == (115, judged.user.pw_uid)
        reply = judged.asked(form, (outside, FAR), "-m", target=gateway.OUTER_6)
    assert reply == (f"USERID:OTHER:{nameless_uid()}" if lives else "ERROR:NO-USER"), judged.log
