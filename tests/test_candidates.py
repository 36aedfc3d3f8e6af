"""Which sockets may be meant, where an exact request does not decide that?  And what does the kernel say of routes?"""

from __future__ import annotations

import contextlib
import socket

import pytest
from helpers.hosts import Person, Town, inside
from helpers.netlink import NLM_F_DUMP, Wire

from lookup.connection import IdentError, pack
from lookup.kernel import routes, sock_diag

pytest_plugins = ["helpers.people", "helpers.netlink"]


def test_the_table_is_walked_a_few_times_a_second(
    town: Town, alice: Person, wire: type[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that the far end has not answered costs a walk; who asks more often is told UNKNOWN-ERROR."""
    monkeypatch.setattr(sock_diag, "_walks", [])
    ends = alice.dial((town.NOBODY, 6667), wait=False)
    with inside(town.here):
        for _ in range(sock_diag.MAX_WALKS):
            assert sock_diag.find(*ends).uid == alice.uid
        walks = sum(flags & NLM_F_DUMP == NLM_F_DUMP for _, flags, _ in wire.sent)
        for _ in range(100):
            with contextlib.suppress(IdentError):
                sock_diag.find(*ends)
        assert sum(flags & NLM_F_DUMP == NLM_F_DUMP for _, flags, _ in wire.sent) <= walks * 2
        with pytest.raises(IdentError):
            for _ in range(sock_diag.MAX_WALKS + 1):
                sock_diag.find(*ends)


@pytest.mark.parametrize(("here", "there"), [(Town.HERE, Town.THERE), (Town.HERE_6, Town.THERE_6)])
def test_routes(town: Town, here: str, there: str) -> None:
    """What goes to the other host leaves by the first link; an address of ours is on a device, the other's on none."""
    near, far = pack(here)[0], pack(there)[0]
    with inside(town.here):
        lan, vpn = socket.if_nametoindex("lan"), socket.if_nametoindex("vpn")
        assert routes.leaves_by(near, far, 0, lan)
        assert not routes.leaves_by(near, far, 0, vpn)
        assert routes.leaves_by(near, near, 0, vpn)
        assert routes.device_of(near) in (lan, vpn)
        assert routes.device_of(far) == 0
        assert not routes.leaves_by(pack("203.0.113.1")[0], pack("203.0.113.2")[0], 0, lan)
