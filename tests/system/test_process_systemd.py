"""Under a real systemd: does the log name the unit that holds the socket, from within our units' sandbox?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until
from helpers.installed import PYTHON

if TYPE_CHECKING:
    from helpers.containers import Container

pytest_plugins = ["helpers.containers"]

#: Holds a connection, and asks identd about it; ends when the test has seen the log.
PROBE = """
import os, socket, time
with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as held:
    with listener.accept()[0], socket.create_connection(("127.0.0.1", 113)) as client:
        client.sendall(b"%d,%d\\r\\n" % (held.getsockname()[1], held.getpeername()[1]))
        client.recv(999)
        end = time.monotonic() + 60
        while not os.path.exists("/run/seen") and time.monotonic() < end:
            time.sleep(0.05)
"""
UNIT = f"[Service]\nUser=identd-anna\nExecStart={PYTHON} /run/probe.py\n"


@pytest.mark.parametrize(("form", "unit"), [("warm", "identd-wait.service"), ("single", "identd@.service")])
def test_the_unit_that_holds_the_socket(request: pytest.FixtureRequest, form: str, unit: str) -> None:
    """The processes of others are hidden there (ProtectProc=), their control groups are not; psutil is not asked."""
    container: Container = request.getfixturevalue(form)
    drop_in = f"/run/systemd/system/{unit}.d"
    command = "/opt/identd/bin/python3 -I /opt/identd/bin/identd --process"
    again = "systemctl daemon-reload; systemctl stop identd-wait.service"

    def logged() -> list[str]:
        return container.run("journalctl --sync; journalctl -b -o cat -n 20 -t identd").splitlines()

    container.run(f"mkdir -p {drop_in}; cat > {drop_in}/p.conf", given=f"[Service]\nExecStart=\nExecStart={command}\n")
    container.run("cat > /run/probe.py", given=PROBE)
    container.run(f"cat > /run/systemd/system/identd-probe-{form}.service", given=UNIT)
    try:
        container.run(f"rm -f /run/seen; {again}; systemctl start identd-probe-{form}.service")
        until(lambda: any(f", held by a process in unit identd-probe-{form}.service" in line for line in logged()))
        assert not any("Traceback" in line or "psutil" in line for line in logged())
    finally:
        container.run(f"touch /run/seen; rm -r {drop_in}; {again}; systemctl stop identd-probe-{form}.service")
