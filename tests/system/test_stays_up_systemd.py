"""Under a real systemd: does port 113 stay open whatever befalls identd, and does systemd know how it fares?"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until
from helpers.machine import skip
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


def journal_of(container: Container, priority: str, unit: str = "identd-wait.service") -> list[str]:
    """Return the lines of one priority since the unit was started last."""
    since = f"_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID {unit})"
    return container.run(f"journalctl --sync; journalctl -o cat -p {priority}..{priority} {since}").splitlines()


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


#: What upstream's unit for oidentd says. It does not say that it is to be a daemon.
UPSTREAMS = """
[Service]
ExecStart=/usr/sbin/oidentd -S
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
Type=forking
"""


@pytest.fixture
def in_its_place(container: Container) -> Iterator[Container]:
    """The container, where the command oidentd is identd, and nobody has the port."""
    sockets = "identd.socket identd-wait.socket identd-wait.service"
    container.run(f"systemctl stop {sockets}; rm -f {CONF}", check=False)
    container.run("ln -sfn /opt/identd/bin/identd /usr/sbin/oidentd")
    yield container
    unit = "oidentd.service"
    container.run(f"systemctl stop {unit}; rm -f {CONF} /etc/systemd/system/{unit}; systemctl daemon-reload")


@pytest.mark.parametrize("whose", ["upstream's", "Debian's"])
def test_units_for_oidentd(in_its_place: Container, whose: str) -> None:
    """They start identd in oidentd's place, as a daemon that answers, is told to read its file again, and ends."""
    if whose == "upstream's":
        in_its_place.run("cat > /etc/systemd/system/oidentd.service", given=UPSTREAMS)
    elif not Path("/lib/systemd/system/oidentd.service").exists():
        skip("needs the package oidentd, for its units")
    in_its_place.run("systemctl daemon-reload; systemctl start oidentd.service")
    assert in_its_place.ask() == ":USERID:UNIX:root"
    assert in_its_place.state("oidentd.service") == ["active"]
    in_its_place.run(f"cat > {CONF}; systemctl reload oidentd.service", given=RIGHT)
    until(lambda: in_its_place.ask() == ":USERID:UNIX:right")
    journal = "\n".join(journal_of(in_its_place, "info", "oidentd.service"))
    assert (whose == "upstream's") == ("standard input is /dev/null" in journal)
    assert "was told" in journal
