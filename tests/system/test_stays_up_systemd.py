"""Under a real systemd: does port 113 stay open whatever befalls the warm process, and does systemd know how it fares?"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until
from helpers.pairs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.containers import Container

pytest_plugins = ["helpers.containers"]

CONF = "/etc/oidentd.conf"
WRONG = "default {\n  default { alow hide } }\n"
RIGHT = 'default { default { force reply "right" } }\n'


@pytest.fixture
def fresh(warm: Container) -> Iterator[Container]:
    """The warm form, whose process does not run yet; no system file stays behind."""
    warm.run("systemctl stop identd-wait.service")
    yield warm
    warm.run(f"rm -f {CONF}; systemctl stop identd-wait.service")


def status(container: Container) -> str:
    """Return the line that `systemctl status` shows."""
    return container.run("systemctl show -P StatusText identd-wait.service")


def journal_of(container: Container, priority: str) -> list[str]:
    """Return identd's lines of one priority since it was started last."""
    unit = "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID identd-wait.service)"
    return container.run(f"journalctl --sync; journalctl -o cat -p {priority}..{priority} {unit}").splitlines()


def test_an_error_in_the_system_file(fresh: Container) -> None:
    """It starts, answers UNKNOWN-ERROR, says where the error is, once at err and in its status, until it is right."""
    fresh.run(f"cat > {CONF}", given=WRONG)
    assert fresh.ask() == ":ERROR:UNKNOWN-ERROR"
    assert fresh.state("identd-wait.socket", "identd-wait.service") == ["active", "active"]
    at = f"{CONF}:2:13: "
    assert at in status(fresh)
    errors = journal_of(fresh, "err")
    assert sum(line.startswith(at) for line in errors) == 1, errors
    pid = fresh.main_pid()
    fresh.run(f"cat > {CONF}", given=RIGHT)
    until(lambda: fresh.ask() == ":USERID:UNIX:right")
    until(lambda: at not in status(fresh))
    assert fresh.main_pid() == pid


def test_crashes_do_not_close_the_port(fresh: Container) -> None:
    """However often it crashes, the next query is answered; none is refused."""
    drop_in = "/run/systemd/system/identd-wait.service.d"
    # So that the test takes a tenth of the time: what counts is that there is no limit.
    fresh.run(f"mkdir -p {drop_in}; printf '[Service]\\nRestartSec=100ms\\n' > {drop_in}/fast.conf")
    fresh.run("systemctl daemon-reload")
    try:
        for _ in range(7):
            assert fresh.ask() == ":USERID:UNIX:root"
            fresh.run("kill -SEGV $(systemctl show -P MainPID identd-wait.service)")
        assert fresh.ask() == ":USERID:UNIX:root"
        assert fresh.state("identd-wait.socket", "identd-wait.service") == ["active", "active"]
    finally:
        fresh.run(f"rm -r {drop_in}; systemctl daemon-reload")


def test_systemd_knows_that_it_serves_and_reloads(fresh: Container) -> None:
    """Type=notify: active means that it serves, the status says which port, and a reload comes to its end."""
    assert fresh.run("systemctl show -P Type identd-wait.service") == "notify"
    fresh.run("systemctl start identd-wait.service")
    assert re.search(r"Serving .*port 113", status(fresh))
    fresh.run(f"cat > {CONF}", given=RIGHT)
    fresh.run("systemctl reload identd-wait.service")
    end = time.monotonic() + PATIENCE
    while fresh.ask() != ":USERID:UNIX:right":
        assert time.monotonic() < end
    assert fresh.state("identd-wait.service") == ["active"]


def test_a_bad_option(fresh: Container) -> None:
    """What keeps it from starting is said once, at err, without the name that the journal adds; the port stays open."""
    drop_in = "/run/systemd/system/identd-wait.service.d"
    command = "/opt/identd/bin/python3 -I /opt/identd/bin/identd --nonsense"
    fresh.run(f"mkdir -p {drop_in}; printf '[Service]\\nExecStart=\\nExecStart={command}\\n' > {drop_in}/bad.conf")
    fresh.run("systemctl daemon-reload; systemctl start identd-wait.service", check=False)
    try:
        errors = fresh.run("journalctl --sync; journalctl -b -o cat -p err..err -t identd").splitlines()
        about = [line for line in errors if "--nonsense" in line]
        assert about and not any(line.startswith("identd:") for line in about)
        assert fresh.state("identd-wait.socket") == ["active"]
    finally:
        fresh.run(f"rm -r {drop_in}; systemctl daemon-reload; systemctl restart identd-wait.service")
    assert fresh.ask() == ":USERID:UNIX:root"
