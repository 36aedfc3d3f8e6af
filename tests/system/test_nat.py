"""Is the true owner named of a connection that this host translates, or that a container of its own has?

(Items 1 to 4 of issue 12.)
"""

from __future__ import annotations

import pytest
from helpers.judged import FAR, REAL, Judged

pytest_plugins = ["helpers.gateways", "helpers.judged"]

MASQUERADE = "oifname out masquerade to :50123"


@pytest.mark.parametrize("form", ("single",))
def test_the_hosts_user_in_a_namespace(judged: Judged, form: str) -> None:
    """A process of the host's own in another network namespace, as `ip netns exec` makes one: its login name."""
    gateway = judged.gateway
    with (
        gateway.translating("meta l4proto tcp oifname out masquerade to :50123"),
        judged.living("alice", gateway.here, judged.user.pw_uid, image=False),
    ):
        judged.dials("alice", gateway.THERE, gateway.HERE)
        print(judged.asked(form, (50123, FAR)), judged.log)
        assert judged.asked(form, (50123, FAR), "-m") == f"USERID:UNIX:{judged.user.pw_name}", judged.log
