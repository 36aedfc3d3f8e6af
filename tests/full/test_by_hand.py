"""Do README's lines work on a clean Debian 12 and 13, from the upgrade of 1.0.0 to the removal, in both forms?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.containers import header
from helpers.hosts import until
from helpers.installed import FROM_DISTRIBUTION, PYTHON
from helpers.machine import ROOT, program, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.containers import Container

pytest_plugins = ["helpers.releases"]

#: The commit that was released as 1.0.0.
RELEASE_1_0_0 = "8bd3b0f9a608c71ea0f9c89378b184d65264989a"

FORMS = ("identd", "identd-wait")
USERS = ("t-anna", "t-bob")



#: Lists what is called so, apart from the sources.
NAMED = "find / -xdev -path /proc -prune -o -path /identd -prune -o -path /old -prune -o -name '*identd*' -print"


@pytest.fixture(scope="module")
def upgraded(clean: Container) -> Container:
    """A booted Debian on which 1.0.0 was installed as its README says, served, and was replaced by this version."""
    clean.run(f"{NAMED} > /before")
    archive = clean.root / "old.tar"
    run(program("git"), "-C", str(ROOT), "archive", "-o", str(archive), RELEASE_1_0_0)
    clean.run("mkdir /old && tar -C /old -xf /old.tar && rm /old.tar")
    for user in USERS:
        clean.run(f"useradd {user}")
    # 1.0.0 had its units run as a user that the administrator makes.
    clean.run("useradd --system --no-create-home --shell /usr/sbin/nologin identd")
    clean.run(f"cd /old && umask 022 && {FROM_DISTRIBUTION}")
    clean.run("cp /old/systemd/* /etc/systemd/system/ && systemctl daemon-reload && systemctl start identd.socket")
    assert clean.ask("t-anna") == ":USERID:UNIX:t-anna"
    assert clean.run("/opt/identd/bin/identd --version") == "identd 1.0.0"
    clean.run("systemctl stop identd.socket")
    clean.run(f"cd /identd && umask 022 && {FROM_DISTRIBUTION}")
    return clean


@pytest.fixture(params=FORMS)
def served(request: pytest.FixtureRequest, upgraded: Container) -> Iterator[tuple[Container, str]]:
    """Each form, enabled as the header of its socket unit says."""
    form = request.param
    for line in header(f"{form}.socket"):
        upgraded.run(f"cd /identd && {line}")
    yield upgraded, form
    upgraded.run(f"systemctl disable --now {form}.socket; systemctl stop 'identd*.service'")


def test_nothing_of_1_0_0_is_left(upgraded: Container) -> None:
    """The modules are this version's, and no others."""
    found = upgraded.run(
        "cd /opt/identd/lib/python3*/site-packages && find identd.py identserver lookup -name '*.py'"
    ).split()
    ours = {str(path.relative_to(ROOT)) for top in ("identserver", "lookup") for path in (ROOT / top).rglob("*.py")}
    assert set(found) == {"identd.py", *ours}


def test_two_users(served: tuple[Container, str]) -> None:
    """Each user is named, over IPv4 and IPv6; the journal has it; --check finds nothing wrong; no unit failed."""
    debian, form = served
    for host in ("127.0.0.1", "::1"):
        for user in USERS:
            assert debian.ask(user, host) == f":USERID:UNIX:{user}"
    debian.run("journalctl --sync")
    for user in USERS:
        said = debian.run(f"journalctl --no-pager -b -o cat IDENT_OWNER={user}")
        assert f":USERID:UNIX:{user}" in said
    unit = "identd@.service" if form == "identd" else "identd-wait.service"
    for options in ("", f"--unit {unit}"):
        status = debian.run(f"/opt/identd/bin/identd --check {options} >/run/said; echo $?")
        assert status == "0", debian.run("cat /run/said")
    assert debian.run("systemctl list-units --failed --plain --no-legend") == ""


def test_stopped_and_started(served: tuple[Container, str]) -> None:
    """Stopped, nobody listens; restarted or reloaded, it answers."""
    debian, form = served
    debian.run(f"systemctl stop {form}.socket 'identd*.service'")
    assert debian.run("ss -Hltn sport = :113") == ""
    debian.run(f"systemctl start {form}.socket")
    assert debian.ask("t-bob") == ":USERID:UNIX:t-bob"
    # Not restarted: systemd 257 finds the port of any socket unit taken then, now and then, by itself.
    debian.run(f"systemctl stop {form}.socket; systemctl start {form}.socket")
    assert debian.ask("t-bob") == ":USERID:UNIX:t-bob"
    if form == "identd-wait":
        debian.run("systemctl reload identd-wait.service")
        assert debian.ask("t-bob") == ":USERID:UNIX:t-bob"


#: A client that connects and says nothing; and what lists the processes that wait for such.
SILENT = 'import socket; socket.create_connection(("127.0.0.1", 113), 60).recv(1)'
SINGLE = "pgrep -f '[/]opt/identd/bin/identd'"


def until_gone(debian: Container, pids: str) -> None:
    """Wait until processes have ended."""
    until(lambda: debian.run(f"ps -o pid= -p {','.join(pids.split())}", check=False) == "")


def test_crashed(served: tuple[Container, str]) -> None:
    """After seven crashes, of either form, the next query is answered."""
    debian, form = served
    for _ in range(7):
        if form == "identd-wait":
            assert debian.ask("t-anna") == ":USERID:UNIX:t-anna"
            pid = debian.run("systemctl show -P MainPID identd-wait.service")
        else:
            # A client that says nothing has a process wait, which is then killed.
            debian.run(f"timeout 60 {PYTHON} -c '{SILENT}' >/dev/null 2>&1 &")
            until(lambda: debian.run(SINGLE, check=False) != "")
            pid = " ".join(debian.run(SINGLE).split())
        debian.run(f"kill -SEGV {pid}")
        until_gone(debian, pid)
    assert debian.ask("t-anna") == ":USERID:UNIX:t-anna"
    assert debian.state(f"{form}.socket") == ["active"]
    debian.run("systemctl reset-failed", check=False)


def test_installed_service(upgraded: Container) -> None:
    """`--install-service` writes units that start this very installation, and says what to do then."""
    upgraded.run("rm /etc/systemd/system/identd*")
    for warm in ("", "--warm"):
        said = upgraded.run(f"/opt/identd/bin/identd --install-service systemd {warm} --write")
        (then,) = (line for line in said.splitlines() if line.startswith("now: "))
        upgraded.run(then.removeprefix("now: "))
        assert upgraded.ask("t-anna") == ":USERID:UNIX:t-anna"


def test_removed(upgraded: Container) -> None:
    """The lines of removal leave no file, unit or process, and the port free."""
    page = (ROOT / "docs" / "migrating.md").read_text().partition("## Removal")[2]
    upgraded.run(page.partition("```sh\n")[2].partition("```")[0])
    assert upgraded.run("ss -Hltn sport = :113") == ""
    left = set(upgraded.run(NAMED).splitlines()) - set(upgraded.run("cat /before").splitlines())
    assert [path for path in left if not path.startswith(("/tmp/", "/var/tmp/", "/run/"))] == []
    assert upgraded.run("pgrep -f '[/]opt/identd/'", check=False) == ""
