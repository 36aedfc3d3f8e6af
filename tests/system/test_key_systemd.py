"""Under a real systemd: does the unit's user have the key of the pseudonyms, which is root's, and nobody else?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.containers import Container

pytest_plugins = ["helpers.containers"]

CONF, KEY = "/etc/oidentd.conf", "/etc/identd.key"


@pytest.mark.parametrize(("form", "unit"), [("warm", "identd-wait.service"), ("single", "identd@.service")])
def test_the_key_is_a_credential(request: pytest.FixtureRequest, form: str, unit: str) -> None:
    """With the line that the unit shows, the reply is a pseudonym that root can open; without it, nobody is named."""
    container: Container = request.getfixturevalue(form)
    drop_in = f"/run/systemd/system/{unit}.d"
    again = "systemctl daemon-reload; systemctl stop identd-wait.service"
    container.run(f"cat > {CONF}", given="default { default { force pseudonym } }\n")
    try:
        container.run(f"/opt/identd/bin/identd --new-key; mkdir -p {drop_in}; {again}")
        assert container.run(f"stat -c '%a %u' {KEY}") == "400 0"
        assert container.ask() == ":ERROR:UNKNOWN-ERROR"
        container.run(f"cat > {drop_in}/key.conf", given=f"[Service]\nLoadCredential=identd.key:{KEY}\n")
        container.run(again)
        head, _, name = container.ask().rpartition(":")
        assert head == ":USERID:UNIX" and len(name) == 9 and name.isalnum()
        revealed = container.run(f"/opt/identd/bin/identd --reveal {name}")
        assert revealed.split()[0] == "root", revealed
    finally:
        container.run(f"rm -rf {CONF} {KEY} {drop_in}; {again}")
