"""Do the units work as they stand, in a real systemd, after the install lines that stand in them?"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.containers import ASK, UNITS, Container, started
from helpers.installed import PYTHON, replaced
from helpers.machine import program, run, skip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

pytest_plugins = ["helpers.containers"]

NAMES = ("identd.socket", "identd@.service", "identd-wait.socket", "identd-wait.service")

#: systemd-analyze security, 0 (none) to 10: "OK" begins at 2. What is left is netlink, the host's network, NSS; with
#: the drop-in for `forward` and the DNS, connections of its own as well.
MOST_EXPOSED, MOST_WITH_A_NETWORK = 1.0, 1.5


@pytest.mark.parametrize("name", NAMES)
def test_systemd_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` finds no unknown key, no bad value, no missing program.

    The manual is not looked up: it need not be installed here. (tests/test_package.py knows that there is one.)
    """
    analyze = program("systemd-analyze")
    for unit in NAMES:
        text = (UNITS / unit).read_text()
        if unit.endswith(".service"):
            text = replaced(text, "ExecStart=/opt/identd/bin/python3", f"ExecStart={sys.executable}")
        (tmp_path / unit).write_text(text)
    result = run(analyze, "verify", "--man=no", str(tmp_path / name), check=False)
    ours = [line for line in (result.stdout + result.stderr).splitlines() if "identd" in line]
    assert (ours, result.returncode) == ([], 0)


@pytest.mark.parametrize("drop_in", ["", "identd-network.conf"])
@pytest.mark.parametrize("name", ["identd@.service", "identd-wait.service"])
def test_locked_down(name: str, drop_in: str, tmp_path: Path) -> None:
    """`systemd-analyze security` finds little left to take away, with the drop-in that is shipped, too."""
    unit = tmp_path / name
    unit.write_text((UNITS / name).read_text() + ((UNITS / drop_in).read_text() if drop_in else ""))
    result = run(program("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(unit), check=False)
    found = re.search(r"exposure level for .*: ([0-9.]+)", result.stdout)
    assert found is not None, result.stdout + result.stderr
    assert float(found[1]) <= (MOST_WITH_A_NETWORK if drop_in else MOST_EXPOSED)


@pytest.mark.parametrize("form", ["single", "warm"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tells_the_user(form: str, host: str, request: pytest.FixtureRequest) -> None:
    """A real user's connection is answered with his name, and the journal has it; nothing failed."""
    container: Container = request.getfixturevalue(form)
    assert container.ask("identd-anna", host) == ":USERID:UNIX:identd-anna"
    assert container.ask("4321", host) == ":USERID:OTHER:4321"
    journal = container.run("journalctl --sync; journalctl --no-pager -b -t identd -o cat")
    assert ":USERID:UNIX:identd-anna" in journal
    assert container.run("systemctl list-units --failed --plain --no-legend 'identd*'") == ""


def entries(container: Container, *matches: str) -> list[dict[str, Any]]:
    """Return what the journal has that matches."""
    container.run("journalctl --sync")
    lines = container.run(f"journalctl --no-pager -b -o json {' '.join(matches)}").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("form", ["single", "warm"])
def test_the_journal_has_fields(form: str, request: pytest.FixtureRequest) -> None:
    """`journalctl IDENT_OWNER=…` finds a query: one entry, with the text and severity of any line, and what it says."""
    container: Container = request.getfixturevalue(form)
    uid = container.run("id -u identd-anna")
    before = len(entries(container, "IDENT_OWNER=identd-anna"))
    assert container.ask("identd-anna") == ":USERID:UNIX:identd-anna"
    found = entries(container, "IDENT_OWNER=identd-anna")
    assert len(found) == before + 1
    entry = found[-1]
    ports = entry["IDENT_PORTS"]
    assert re.fullmatch("[0-9]+,113", ports)
    expected = {
        "IDENT_ASKER": "127.0.0.1", "IDENT_UID": uid, "IDENT_REPLY": f"{ports}:USERID:UNIX:identd-anna",
        "MESSAGE": f"uid {uid}: 127.0.0.1 was told {ports}:USERID:UNIX:identd-anna (identd-anna, uid {uid}, sock_diag)",
        "PRIORITY": "6", "SYSLOG_IDENTIFIER": "identd", "SYSLOG_FACILITY": "3", "_TRANSPORT": "journal",
    }  # fmt: skip
    assert {name: entry.get(name) for name in expected} == expected
    assert "IDENT_RULE" not in entry
    assert entry["_SYSTEMD_UNIT"].startswith("identd")
    # It stands in place of the line.
    assert [one["MESSAGE"] for one in entries(container, "-t identd")].count(entry["MESSAGE"]) == 1


@pytest.mark.parametrize("form", ["single", "warm"])
def test_no_reply_forges_a_field(form: str, request: pytest.FixtureRequest) -> None:
    """A name that looks like other fields is one value, octet by octet; the block that decided is a field."""
    container: Container = request.getfixturevalue(form)
    file = 'default {\n default { force reply "x\\x0bIDENT_OWNER=forged\\x1b\\xff" } }'
    container.run("cat > /etc/oidentd.conf", given=file)
    container.run("systemctl try-restart identd-wait.service")
    try:
        script = ASK.replace("print(reply[len(query):].decode().strip())", "print(ascii(reply[len(query):]))")
        reply = container.run(f"setpriv --reuid=identd-anna --clear-groups {PYTHON} - 127.0.0.1", given=script)
        assert reply == ascii(b":USERID:UNIX:x\x0bIDENT_OWNER=forged\x1b\xff\r\n")
    finally:
        container.run("rm /etc/oidentd.conf; systemctl try-restart identd-wait.service")
    assert entries(container, "IDENT_OWNER=forged") == []
    entry = entries(container, "IDENT_OWNER=identd-anna")[-1]
    octets = entry["IDENT_REPLY"]
    assert isinstance(octets, list), "it has octets that are no text"
    assert bytes(octets).endswith(b":USERID:UNIX:x\x0bIDENT_OWNER=forged\x1b\xff")
    assert entry["IDENT_RULE"] == "/etc/oidentd.conf:2"
    assert r"x\x0bIDENT_OWNER=forged\x1b\xff (identd-anna, " in entry["MESSAGE"]


@pytest.mark.parametrize("form", ["single", "warm"])
def test_names_come_from_the_name_service(form: str, request: pytest.FixtureRequest) -> None:
    """A user who is in no file, but known to systemd alone (DynamicUser=), has a name: NSS reaches its daemons."""
    container: Container = request.getfixturevalue(form)
    if "systemd" not in Path("/etc/nsswitch.conf").read_text():
        skip("needs libnss-systemd")
    unit = (
        f"[Service]\nType=oneshot\nDynamicUser=yes\nStandardOutput=file:/run/identd-dyn.out\n"
        f"ExecStart={PYTHON} /run/identd-dyn.py 127.0.0.1\n"
    )
    container.run("cat > /run/identd-dyn.py", given=ASK)
    container.run("cat > /run/systemd/system/identd-dyn.service", given=unit)
    container.run("rm -f /run/identd-dyn.out; systemctl daemon-reload; systemctl start identd-dyn.service")
    assert container.run("cat /run/identd-dyn.out") == ":USERID:UNIX:identd-dyn"


@pytest.mark.parametrize("form", ["single", "warm"])
def test_may_do_next_to_nothing(form: str, request: pytest.FixtureRequest) -> None:
    """The process has a user of its own, no capability, and files that not even root could change."""
    container: Container = request.getfixturevalue(form)
    hold = "import socket,time; c=socket.create_connection(('127.0.0.1', 113)); c.sendall(b'1'); time.sleep(60)"
    holder = container.run(f'{PYTHON} -c "{hold}" >/dev/null 2>&1 & echo $!')
    try:
        pid = container.main_pid()
        folders = "/etc /home /opt /root /srv /usr /var/lib"
        kept = f"for one in {folders} /tmp /var/tmp; do touch $one/identd-was-here; done"
        said = container.run(f"nsenter --target {pid} --mount -- sh -c '{kept}' 2>&1", check=False)
        assert said.count("Read-only file system") == len(folders.split()), said
        # These two are of its own, and end with it.
        assert container.run("ls /tmp /var/tmp | grep identd-was-here", check=False) == ""
        status = container.run(f"cat /proc/{pid}/status")
        assert re.search(r"^CapBnd:\s*0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE)
        assert container.run(f"stat -c %U /proc/{pid}") == "identd"
    finally:
        container.run(f"kill {holder}")


@pytest.fixture(scope="module")
def homes(container: Container) -> Iterator[dict[str, str]]:
    """Users who hide, and where their homes are; they may hide."""
    users = {f"identd-hides{at}": home for at, home in enumerate(("/home/identd", "/srv/identd", "/var/lib/identd"))}
    container.run("cat > /etc/oidentd.conf", given="default { default { allow hide } }")
    for user, home in users.items():
        container.run(f"useradd --create-home --home-dir {home} {user} && chmod 755 {home}")
        container.run(f"cat > {home}/.oidentd.conf && chown {user} {home}/.oidentd.conf", given="global { hide }")
    yield users
    container.run("rm /etc/oidentd.conf")
    for user in users:
        container.run(f"userdel --remove {user}", check=False)


@pytest.mark.parametrize("form", ["single", "warm"])
def test_reads_homes_wherever_they_are(form: str, homes: dict[str, str], request: pytest.FixtureRequest) -> None:
    """A user's file counts in /home, in /srv and in a bouncer's home below /var/lib."""
    container: Container = request.getfixturevalue(form)
    assert {home: container.ask(user) for user, home in homes.items()} == dict.fromkeys(
        homes.values(), ":ERROR:HIDDEN-USER"
    )
    assert container.ask("identd-anna") == ":USERID:UNIX:identd-anna"


def test_the_warm_process_keeps_up(warm: Container) -> None:
    """A user made after its start has a name (passwd is replaced, not rewritten); a reload leaves it running."""
    assert warm.ask() == ":USERID:UNIX:root"
    pid = warm.main_pid()
    warm.run("useradd identd-new")
    try:
        assert warm.ask("identd-new") == ":USERID:UNIX:identd-new"
    finally:
        warm.run("userdel identd-new")
    warm.run("systemctl reload identd-wait.service")
    assert warm.ask() == ":USERID:UNIX:root"
    assert warm.main_pid() == pid


def test_the_warm_process_comes_back(warm: Container) -> None:
    """Stopped, it ends well, and the next query starts it again."""
    assert warm.ask() == ":USERID:UNIX:root"
    warm.run("systemctl stop identd-wait.service")
    assert warm.state("identd-wait.service") == ["inactive"]
    assert warm.ask() == ":USERID:UNIX:root"
    assert warm.state("identd-wait.service") == ["active"]


def test_one_form_takes_the_port_from_the_other(container: Container) -> None:
    """Each socket, when it is started, ends the other form, which answers no more; then it answers itself."""
    for ours, other in (("identd", "identd-wait"), ("identd-wait", "identd"), ("identd", "identd-wait")):
        started(container, f"{ours}.socket")
        assert container.state(f"{ours}.socket", f"{other}.socket") == ["active", "inactive"]
        assert container.ask() == ":USERID:UNIX:root"


def test_a_unit_that_hides_homes_is_named(container: Container, homes: dict[str, str]) -> None:
    """Outside the sandbox, --explain and --check say which of the installed units does not see a user's home."""
    started(container, "identd.socket")
    container.run("mkdir -p /run/systemd/system/identd@.service.d")
    drop_in = "/run/systemd/system/identd@.service.d/homes.conf"
    container.run(f"cat > {drop_in}", given="[Service]\nTemporaryFileSystem=/srv:ro\nBindReadOnlyPaths=\n")
    container.run("systemctl daemon-reload")
    try:
        for user, home in homes.items():
            said = container.run(f"/opt/identd/bin/identd --check --user {user}", check=False)
            setting = {"/home": "ProtectHome=tmpfs", "/srv": "TemporaryFileSystem=/srv"}.get(home.rpartition("/")[0])
            assert (f"identd@.service hides it ({setting})" in said) == (setting is not None), said
            assert "identd-wait.service hides it" not in said
    finally:
        container.run(f"rm {drop_in}; systemctl daemon-reload")
