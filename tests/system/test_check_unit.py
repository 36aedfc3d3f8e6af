"""Does --check look from within a systemd unit's sandbox, and say which unit serves the port?"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

import pytest
from helpers.installed import PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.containers import Container

pytest_plugins = ["helpers.containers"]


def checked(container: Container, *options: str) -> tuple[str, int]:
    """Run `identd --check` in the container; return what it says, and its exit status."""
    said = container.run(f"/opt/identd/bin/identd --check {' '.join(options)}; echo $?", check=False)
    text, _, status = said.rpartition("\n")
    return text, int(status)


@contextlib.contextmanager
def drop_in(container: Container, unit: str, *settings: str) -> Iterator[None]:
    """Give a unit settings of an administrator's."""
    text = "\n".join([f"[{unit.rpartition('.')[2].title()}]", *settings])
    folder = f"/etc/systemd/system/{unit}.d"
    container.run(f"mkdir -p {folder} && cat > {folder}/local.conf && systemctl daemon-reload", given=text)
    try:
        yield
    finally:
        container.run(f"rm -r {folder} && systemctl daemon-reload && (systemctl stop identd-wait.service || true)")


@pytest.mark.parametrize(
    ("form", "unit"),
    [("single", "identd@.service"), ("warm", "identd-wait.service"), ("warm", "identd-wait.socket")],
)
def test_check_within_a_unit(form: str, unit: str, request: pytest.FixtureRequest) -> None:
    """The shipped units let identd give true answers, and their sockets do: status 0. Nothing is left behind."""
    container: Container = request.getfixturevalue(form)
    text, status = checked(container, "--unit", unit)
    assert status == 0, text
    assert "within   a fresh identd says " in text
    assert len(re.findall(r"^asked .*:113 said .*:USERID:UNIX:root, as it should$", text, re.M)) >= 2
    assert container.run("ls /run/systemd/system | grep identd-check; ls /run | grep identd-check", check=False) == ""
    assert container.run("systemctl list-units --all --plain --no-legend 'identd-check*'") == ""


def test_check_says_which_unit_listens(single: Container) -> None:
    """The socket that systemd holds is told by the name of its unit, and what else wants the port."""
    text, status = checked(single)
    assert status == 0, text
    assert re.search(r"^listens +\[::\]:113 systemd \(pid 1\), identd.socket, user root$", text, re.M), text
    single.run("cp /identd/systemd/identd-wait.* /etc/systemd/system/ && systemctl enable identd-wait.socket")
    try:
        text, status = checked(single)
    finally:
        single.run("systemctl disable identd-wait.socket")
    assert status == 0, text
    (line,) = re.findall(r"^port +warning: port 113 goes to one of these only.*$", text, re.M)
    assert "identd.socket (/etc/systemd/system/identd.socket)" in line
    assert "identd-wait.socket (/etc/systemd/system/identd-wait.socket)" in line


def test_a_port_that_is_taken(single: Container) -> None:
    """Who has the port is told without a unit whose socket could not have it, and that this unit can't."""
    single.run("systemctl stop identd.socket")
    held = "import socket; s = socket.create_server((str(), 113)); print(flush=True)"
    held = f"{PYTHON} -c '{held}; [s.accept()[0].close() for _ in iter(int, 1)]' >/run/held 2>/dev/null"
    single.run(f"{held} & echo $! >/run/holder; until [ -s /run/held ]; do sleep 0.1; done")
    try:
        single.run("systemctl start identd.socket", check=False)
        text, _ = checked(single)
    finally:
        single.run("kill $(cat /run/holder); systemctl reset-failed identd.socket")
    (listens,) = re.findall(r"^listens  0.0.0.0:113 .*$", text, re.M)
    assert "identd.socket" not in listens
    (line,) = re.findall(r"^port +warning: port 113 is not free .*$", text, re.M)
    assert "identd.socket (/etc/systemd/system/identd.socket)" in line
    assert re.search(": python3[.0-9]* has it$", line)


def test_two_commands(warm: Container) -> None:
    """A drop-in that forgets the empty ExecStart= makes a unit that systemd refuses. Both ways to look say so."""
    with drop_in(warm, "identd-wait.service", "ExecStart=/opt/identd/bin/python3 -I /opt/identd/bin/identd --error"):
        text, status = checked(warm)
        assert status == 1
        assert "starts identd-wait.service, which has two ExecStart=: " in text
        text = warm.run("/opt/identd/bin/identd --check --unit identd-wait.service 2>&1", check=False)
    assert "systemd can't read the unit identd-wait.service (bad-setting): `systemctl status " in text


BREAKING = {
    "PrivateUsers=yes": "PrivateUsers=",
    "PrivateNetwork=yes": "PrivateNetwork=",
    "RestrictAddressFamilies=~AF_NETLINK": "AF_NETLINK",
    "InaccessiblePaths=/opt/identd/lib": "identd can't be run there",
}


@pytest.mark.parametrize(("setting", "named"), BREAKING.items(), ids=BREAKING)
def test_check_within_a_unit_that_breaks_answers(warm: Container, setting: str, named: str) -> None:
    """What must never be set is found, and told by its name: status 1, and no happy end."""
    with drop_in(warm, "identd-wait.service", setting):
        text, status = checked(warm, "--unit", "identd-wait.service")
    assert status == 1, text
    assert named in text
    assert "the answer is true" not in text


def test_check_within_a_unit_that_hides_homes(warm: Container) -> None:
    """ProtectHome=yes hides the file of a user who wants to be hidden: status 1, and what to write."""
    home = warm.run("getent passwd identd-anna").split(":")[5]
    warm.run(f"chmod 755 {home}; cd {home}; echo 'global {{ hide }}' > .oidentd.conf; chown identd-anna: .oidentd.conf")
    warm.run("echo 'default { default { allow hide } }' > /etc/oidentd.conf")
    try:
        text, status = checked(warm, "--unit", "identd-wait")
        assert status == 0, text
        with drop_in(warm, "identd-wait.service", "ProtectHome=yes"):
            text, status = checked(warm, "--unit", "identd-wait")
    finally:
        warm.run(f"rm /etc/oidentd.conf {home}/.oidentd.conf")
    assert status == 1, text
    assert re.search(r"^obstacle: the unit hides .* of 1 user, in /home\n +.*ProtectHome=read-only", text, re.M), text


@pytest.mark.parametrize(
    "settings",
    [("RestrictAddressFamilies=", "RestrictAddressFamilies=AF_NETLINK AF_UNIX"), ("IPAddressDeny=any",)],
    ids=["no AF_INET", "IPAddressDeny"],
)
def test_check_within_a_unit_without_a_network(warm: Container, settings: tuple[str, ...]) -> None:
    """A unit that opens no connection serves all the same, unless the system file has another server asked."""
    with drop_in(warm, "identd-wait.service", *settings):
        text, status = checked(warm, "--unit", "identd-wait.service")
        assert status == 0, text
        warm.run("printf 'default {\n default { force forward 192.0.2.7 113 } }' > /etc/oidentd.conf")
        try:
            text, status = checked(warm, "--unit", "identd-wait.service")
        finally:
            warm.run("rm /etc/oidentd.conf")
    assert status == 1, text
    assert "obstacle: /etc/oidentd.conf:2 has another server asked (forward), which the sandbox forbids" in text


@pytest.mark.parametrize("options", ["", "--unit identd.socket"])
def test_check_of_a_socket_that_keeps_askers_out(single: Container, options: str) -> None:
    """IPAddressDeny= of the socket unit shuts out everybody whom it does not let in: the unit is named, status 1."""
    for settings, said in (
        ("IPAddressDeny=any", r"^obstacle: identd.socket keeps every asker out: IPAddressDeny="),
        ("IPAddressDeny=any\nIPAddressAllow=localhost", r"^hint +identd.socket keeps askers out by their addresses \("),
    ):
        with drop_in(single, "identd.socket", settings):
            single.run("systemctl restart identd.socket")
            text, status = checked(single, options)
        single.run("systemctl restart identd.socket")
        assert re.search(said, text, re.M), text
        assert status == (1 if "obstacle" in said else 0), text
    assert checked(single, options)[1] == 0


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ('/usr/bin/sh -c "exec /opt/identd/bin/identd --error"', 0),
        ("/opt/identd/bin/python3 -I /opt/identd/bin/identd -e", 0),
        ("/opt/identd/bin/identd --nonsense", 1),
    ],
)
def test_check_within_a_unit_with_another_command(warm: Container, command: str, status: int) -> None:
    """identd is found in a shell's command line, and behind an interpreter; what can't be run there is told."""
    with drop_in(warm, "identd-wait.service", "ExecStart=", f"ExecStart={command}"):
        text, ended = checked(warm, "--unit", "identd-wait.service")
    assert ended == status, text
    assert ("within   a fresh identd says " in text) == (status == 0)


def test_check_within_no_unit(container: Container) -> None:
    """A name that no unit has is said in one line: status 1."""
    command = "/opt/identd/bin/identd --check --unit identd-none"
    done = container.run(f"{command} 2>&1 >/dev/null; echo $?")
    assert done.splitlines() == ["identd: systemd has no unit identd-none (not-found)", "1"]
    done = container.run(f"{command} --json 2>&1; echo $?")
    found, status = done.splitlines()
    assert (json.loads(found)["well"], status) == (False, "1")
