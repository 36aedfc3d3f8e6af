"""Does the package do on a clean Debian 12 and 13 what an administrator expects, from installation to purge?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until
from helpers.machine import ROOT, program, run
from helpers.releases import USERS, install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.containers import Container

pytest_plugins = ["helpers.releases"]

FORMS = ("identd", "identd-wait")

#: Everything on the disk that a package could leave behind.
LISTED = "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /run -prune -o -path /tmp -prune -o -print"

#: What apt and dpkg note of every package, and the journal.
NOTED = re.compile(
    "/var/(lib/(dpkg|apt|systemd/(timers|random-seed))|cache/(apt|ldconfig|man|debconf)|log)(/|$)|/etc/ld.so.cache"
    "|/root(/|$)|/var/lib/systemd(/deb-systemd-helper-(enabled|masked)(/sockets.target.wants)?)?$|/var/tmp/systemd-private"
)


def files(container: Container) -> set[str]:
    """Return the files and folders of a system, but for what is noted of every package."""
    return {path for path in container.run(LISTED).splitlines() if not NOTED.match(path)}


def exposure(container: Container, unit: str) -> float:
    """Return systemd-analyze's rating of a unit of the package's, with the drop-ins that it has."""
    path = container.run(f"dpkg -L identd | grep {unit} | grep systemd/system")
    said = container.run(f"systemd-analyze security --offline=true --no-pager {path}", check=False)
    found = re.search(r"exposure level for .*: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


def start(container: Container, form: str) -> None:
    """Have one of the two forms serve the port."""
    container.run(f"systemctl start {form}.socket")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, debian: Container) -> Iterator[str]:
    """Each of the two forms; afterwards the first serves, as after the installation."""
    start(debian, request.param)
    yield request.param
    debian.run("systemctl stop identd-wait.socket identd-wait.service; systemctl start identd.socket")


def test_it_serves_at_once(debian: Container) -> None:
    """Installed, it answers: the process for each query is enabled, the warm one is not; the manual is there."""
    assert debian.ask("t-anna") == ":USERID:UNIX:t-anna"
    sockets = " ".join(f"{form}.socket" for form in FORMS)
    assert debian.run(f"systemctl is-enabled {sockets}", check=False).split() == ["enabled", "disabled"]
    assert debian.run("ls /usr/share/identd/__pycache__").count("identd.cpython") == 1
    assert debian.run("dpkg -L identd | grep -c /usr/share/man/") != "0"
    assert debian.run("ls /etc/oidentd.conf", check=False) == ""
    assert "disable\t\t= no" not in debian.run("cat /etc/xinetd.d/identd")
    assert debian.run("dpkg -L identd | grep dist-packages", check=False) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_two_users(debian: Container, form: str, host: str) -> None:
    """Both forms tell each user's name, over IPv4 and IPv6, whatever the uid; the journal has it; --check agrees."""
    for user in USERS:
        assert debian.ask(user, host) == f":USERID:UNIX:{user}"
    debian.run("journalctl --sync")
    assert ":USERID:UNIX:t-ldap" in debian.run("journalctl --no-pager -b -t identd -o cat IDENT_OWNER=t-ldap")
    assert debian.run("identd --check >/dev/null; echo $?") == "0"
    unit = "identd@.service" if form == "identd" else "identd-wait.service"
    assert debian.run(f"identd --check --unit {unit} >/dev/null; echo $?") == "0"
    assert debian.run("systemctl list-units --failed --plain --no-legend") == ""


def test_users_who_hide(debian: Container, form: str) -> None:
    """A user's file counts wherever the home is; where the sandbox hides it, nobody is named."""
    debian.run("cat > /etc/oidentd.conf", given="default { default { allow hide } }")
    for user in USERS:
        debian.run(f"cat > ~{user}/.oidentd.conf; chown {user} ~{user}/.oidentd.conf", given="global { hide }")
    debian.run("systemctl try-restart identd-wait.service")
    try:
        replies = {user: debian.ask(user) for user in USERS}
    finally:
        debian.run("rm /etc/oidentd.conf")
        for user in USERS:
            debian.run(f"rm ~{user}/.oidentd.conf")
        debian.run("systemctl try-restart identd-wait.service")
    expected = dict.fromkeys(USERS, ":ERROR:HIDDEN-USER")
    assert replies == {**expected, "t-tmp": ":ERROR:UNKNOWN-ERROR"}


def test_forward_needs_the_drop_in(debian: Container, form: str) -> None:
    """--check names the line of the system file and the drop-in; with that, a forward reaches its host."""
    unit = "identd@.service" if form == "identd" else "identd-wait.service"
    debian.run("cat > /etc/oidentd.conf", given="default {\n default { force forward 127.0.0.1 113 } }")
    try:
        said = debian.run(f"identd --check --unit {unit}", check=False)
        assert "obstacle: /etc/oidentd.conf:2 has another server asked (forward)" in said
        assert "identd-network.conf" in said
        source = "/usr/share/identd/systemd/identd-network.conf"
        debian.run(f"install -Dm644 {source} /etc/systemd/system/{unit}.d/network.conf; systemctl daemon-reload")
        said = debian.run(f"identd --check --unit {unit}", check=False)
        assert "which the sandbox forbids" not in said
        assert exposure(debian, unit) <= 1.5
    finally:
        debian.run(f"rm -rf /etc/oidentd.conf /etc/systemd/system/{unit}.d; systemctl daemon-reload")


def test_pseudonyms(debian: Container, form: str) -> None:
    """The unit's user, whom systemd makes, reads the key among its credentials; --reveal knows who a name is."""
    service = "identd@.service" if form == "identd" else "identd-wait.service"
    folder = f"/etc/systemd/system/{service}.d"
    debian.run("cat > /etc/oidentd.conf", given="default { default { force pseudonym } }")
    debian.run(f"identd --new-key && mkdir -p {folder}")
    debian.run(f"cat > {folder}/key.conf", given="[Service]\nLoadCredential=identd.key:/etc/identd.key\n")
    debian.run("systemctl daemon-reload; systemctl try-restart identd-wait.service")
    try:
        name = debian.ask("t-anna").rpartition(":")[2]
        assert debian.run(f"identd --reveal {name}").split()[0] == "t-anna"
    finally:
        debian.run(f"rm -r /etc/oidentd.conf /etc/identd.key {folder}; systemctl daemon-reload")
        debian.run("systemctl try-restart identd-wait.service")


@pytest.mark.parametrize("unit", ["identd@.service", "identd-wait.service"])
def test_locked_down(debian: Container, unit: str) -> None:
    """`systemd-analyze security` finds at most 1.0, by this release's systemd."""
    assert exposure(debian, unit) <= 1.0


def test_the_warm_process(debian: Container) -> None:
    """Reloaded it goes on; crashed, stopped or restarted it comes back; a new package replaces it while it runs."""
    debian.run("systemctl disable --now identd.socket; systemctl enable --now identd-wait.socket")
    assert debian.ask() == ":USERID:UNIX:root"
    pid = pid_of(debian)
    debian.run("systemctl reload identd-wait.service")
    assert (debian.ask(), pid_of(debian)) == (":USERID:UNIX:root", pid)
    debian.run(f"kill -SEGV {pid}")
    assert debian.ask() == ":USERID:UNIX:root"
    until(lambda: pid_of(debian) not in ("0", pid))
    debian.run("systemctl stop identd-wait.service")
    assert debian.ask() == ":USERID:UNIX:root"
    debian.run("systemctl stop identd-wait.socket; systemctl start identd-wait.socket")
    assert debian.ask() == ":USERID:UNIX:root"
    pid = pid_of(debian)
    debian.run("dpkg -i /packages/identd_*.deb")
    assert debian.ask() == ":USERID:UNIX:root"
    assert pid_of(debian) != pid
    assert debian.state("identd-wait.socket") == ["active"]
    assert debian.state("identd.socket") == ["inactive"]
    debian.run("systemctl disable --now identd-wait.socket; systemctl stop identd-wait.service")
    debian.run("systemctl enable --now identd.socket")


def pid_of(container: Container) -> str:
    """Return the pid of the warm process; "0": there is none."""
    return container.run("systemctl show -P MainPID identd-wait.service")


def answers_after(debian: Container, crash: str) -> None:
    """See that a service answers, crash it, see that it answers again, and crash it once more."""
    for _ in range(2):
        until(lambda: debian.run("ss -Hltn sport = :113") != "")
        assert debian.ask("t-anna") == ":USERID:UNIX:t-anna"
        debian.run(crash)


def end_service(debian: Container, end: str) -> None:
    """End a supervised service, and have systemd serve again as before."""
    debian.run(end, check=False)
    until(lambda: debian.run("ss -Hltn sport = :113") == "")
    debian.run("systemctl start identd.socket")


def test_under_runit(debian: Container) -> None:
    """The service that --install-service writes starts, is started again after a crash, and is stopped."""
    debian.run("systemctl stop identd.socket; mkdir -p /etc/sv; identd --install-service runit --write")
    # One of the supervisor's processes by itself, as runsvdir starts it.
    debian.run("setsid runsv /etc/sv/identd >/dev/null 2>&1 &")
    try:
        answers_after(debian, "kill -SEGV $(cat /etc/sv/identd/supervise/pid)")
    finally:
        end_service(debian, "sv -w 20 exit /etc/sv/identd; rm -r /etc/sv/identd")


# Debian 13's can't be installed beside systemd.
@pytest.mark.parametrize("clean", ["bookworm"], indirect=True)
def test_under_openrc(debian: Container) -> None:
    """The service that --install-service writes is started and stopped; its supervisor lives through a crash."""
    debian.run("systemctl stop identd.socket; identd --install-service openrc --write")
    # OpenRC has not booted this system; it wants to see that it had, and would start the network.
    folders = "starting started stopping stopped inactive wasinactive failed hotplugged daemons options exclusive"
    debian.run(f"mkdir -p /run/openrc/tmp && cd /run/openrc && mkdir -p {folders} scheduled init.d && touch softlevel")
    debian.run("sed -i 's/need net/:/' /etc/init.d/identd")
    try:
        debian.run("rc-service identd start >/dev/null 2>&1")
        answers_after(debian, "pkill -SEGV -f '^/usr/bin/python3 -I /usr/sbin/identd'")
    finally:
        end_service(debian, "rc-service identd stop; rm /etc/init.d/identd")


def test_upgraded_while_it_serves(debian: Container) -> None:
    """The socket stays as it is, and open: the next query is the new version's."""
    show = "systemctl show -P ActiveEnterTimestampMonotonic identd.socket"
    before = debian.run(show)
    assert debian.ask() == ":USERID:UNIX:root"
    debian.run("dpkg -i /packages/identd_*.deb")
    assert debian.ask() == ":USERID:UNIX:root"
    assert debian.run(show) == before


def test_autopkgtests(debian: Container) -> None:
    """What Debian's own machinery runs after a change of the package's or of what it needs."""
    copied = debian.root / "source"
    run(program("git"), "clone", "-q", str(ROOT), str(copied))
    # To Debian 13's autopkgtest a container is no machine; this one has an init, and a network of its own.
    command = "autopkgtest --no-built-binaries --ignore-restrictions=isolation-machine /source/ -- null"
    said = debian.run(f"cd / && timeout 110 {command} 2>&1", check=False)
    debian.run("systemctl start identd.socket")
    assert re.findall(r"^(answers|by-hand) +(\w+)", said, re.MULTILINE)[-2:] == [
        ("answers", "PASS"), ("by-hand", "PASS"),
    ], said  # fmt: skip


def test_oidentd_and_back(debian: Container) -> None:
    """Either package takes the other's place and its port, without a boot; oidentd's file is its own."""
    install(debian, "oidentd")
    assert debian.run("dpkg-query -W -f '${db:Status-Abbrev}' identd", check=False).strip() in ("", "rc")
    until(lambda: "USERID" in debian.ask("t-anna"))
    debian.run("printf 'default { default { force reply \"kept\" } }' > /etc/oidentd.conf")
    install(debian, "identd")
    assert debian.ask("t-anna") == ":USERID:UNIX:kept"
    debian.run("dpkg --purge oidentd; rm -f /etc/oidentd.conf")
    assert debian.ask("t-anna") == ":USERID:UNIX:t-anna"


def test_purged(debian: Container) -> None:
    """After `apt purge` no file, unit, user or state is left, nobody listens, and nothing runs."""
    debian.run("systemctl start identd-wait.socket")
    assert debian.ask("t-anna") == ":USERID:UNIX:t-anna"
    debian.run("dpkg --purge identd oidentd")
    before = files(debian)
    install(debian, "identd")
    debian.run("systemctl enable --now identd-wait.socket")
    assert debian.ask("t-anna") == ":USERID:UNIX:t-anna"
    debian.run("DEBIAN_FRONTEND=noninteractive apt-get purge -y identd")
    assert files(debian) - before == set()
    assert debian.run("ss -Hltn sport = :113") == ""
    units = debian.run("systemctl list-units --all --plain --no-legend 'identd*'").splitlines()
    # systemd 252 remembers for a while that another unit named it.
    forgotten = "not-found inactive dead"
    known = ("identd-test.target", forgotten)
    assert [line for line in units if not any(one in " ".join(line.split()) for one in known)] == []
    assert debian.run("getent passwd identd; pgrep -f '[/]usr/sbin/identd'", check=False) == ""
