"""Is nobody named wrongly where identd's listening socket is bound to a device (BindToDevice=, a VRF)?

Conntrack knows nothing of devices. (Issue 12, 1.)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.hosts import nameless_uid
from helpers.judged import FAR, OUTSIDE, REAL, Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]
pytestmark = pytest.mark.usefixtures("needs_root")

BIND = """
genuine = judged.socket.create_server
def bound(*arguments, **named):
    listener = genuine(*arguments, **named)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out")
    return listener
judged.socket.create_server = bound
None
"""


@contextlib.contextmanager
def bound_listener(judged: Judged) -> Iterator[None]:
    """Have identd's socket bound to the device that the far end is behind."""
    judged.host.tell(BIND)
    try:
        yield
    finally:
        judged.host.tell("judged.socket.create_server = genuine\nNone")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_translated(judged: Judged, form: str) -> None:
    """A container's connection is nobody's, even where a local user has a socket with the same ends (W8)."""
    gateway, at = judged.gateway, [*FORMS].index(form)
    port, outside = REAL + 50 + at, OUTSIDE + 30 + at
    with (
        gateway.translating(f"oifname out tcp sport {port} masquerade to :{outside}"),
        judged.living("behind", gateway.here, nameless_uid(), image=False),
        judged.living("bob", "", judged.user.pw_uid, image=False),
        bound_listener(judged),
    ):
        judged.dials("behind", gateway.THERE, gateway.HERE, port=port)
        assert judged.asked(form, (outside, FAR), "-m") == "ERROR:UNKNOWN-ERROR", judged.log
        judged.dials("bob", gateway.THERE, gateway.OUTER, port=outside)
        assert judged.asked(form, (outside, FAR), "-m") == "ERROR:UNKNOWN-ERROR", judged.log
        assert "bound to a device" in judged.log


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_translated(judged: Judged, form: str) -> None:
    """This host's own connection is its owner's, and one that there is not is nobody's."""
    gateway, port = judged.gateway, REAL + 55 + [*FORMS].index(form)
    with judged.living("bob", "", judged.user.pw_uid, image=False), bound_listener(judged):
        judged.dials("bob", gateway.THERE, gateway.OUTER, port=port)
        assert judged.asked(form, (port, FAR), "-m") == f"USERID:UNIX:{judged.user.pw_name}", judged.log
        assert judged.asked(form, (port + 20, FAR), "-m") == "ERROR:NO-USER", judged.log
