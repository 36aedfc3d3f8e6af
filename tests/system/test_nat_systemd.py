"""Do the drop-ins for --masquerade do in a real systemd what stands in them, and hold it to that?

(Issue 12, Privileges.)
"""

from __future__ import annotations

import itertools
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.containers import UNITS, Container
from helpers.installed import PYTHON
from helpers.machine import program, run

from identserver.capabilities import mask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["helpers.containers"]

SERVICES = {"single": "identd@.service", "warm": "identd-wait.service"}

#: By drop-in: systemd-analyze's rating of both units with it, at most (README has the figures), and what it keeps.
DROP_INS = {"identd-masquerade.conf": (2.2, mask("CAP_NET_ADMIN")), "identd-containers.conf": (3.0, mask())}

#: What a host with one container has: addresses here and there, and rules that translate.
NET = """
ip netns add box
ip link add name to-box type veth peer name inside netns box
ip addr add 10.77.0.1/24 dev to-box
ip link set to-box up
ip -n box addr add 10.77.0.2/24 dev inside
ip -n box link set inside up
nft -f - <<'END'
table inet identd {
    chain out { type nat hook output priority 0; tcp dport 1130 redirect to :113; }
    chain in { type nat hook input priority 0; ip saddr 10.77.0.2 tcp dport 113 snat ip to 10.77.0.1; }
}
END
"""

#: From which ports is asked: below those that the kernel hands out, and each but once. Where another connection has
#: ended by which conntrack knows the pair of ports still, it gives a translated one yet another port.
PORTS = itertools.count(20000)

#: Asks identd about the very connection by which it is asked, as identd sees it, and prints the reply.
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20, ("", int(sys.argv[3]))) as client:
    client.sendall(b"%d,113\\r\\n" % client.getsockname()[1])
    print(b"".join(iter(lambda: client.recv(9999), b"")).decode().strip().partition(":")[2])
"""


@pytest.mark.parametrize("name", DROP_INS)
@pytest.mark.parametrize("unit", SERVICES.values())
def test_locked_down(name: str, unit: str, tmp_path: Path) -> None:
    """systemd-analyze knows every line, and finds hardly more to take away than README says."""
    shutil.copy(UNITS / unit, tmp_path)
    (tmp_path / f"{unit}.d").mkdir()
    shutil.copy(UNITS / name, tmp_path / f"{unit}.d")
    words = [program("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(tmp_path / unit)]
    said = run(*words, check=False)
    found = re.search(r"exposure level for .*: ([0-9.]+)", said.stdout)
    assert found is not None, said.stdout + said.stderr
    assert float(found[1]) < DROP_INS[name][0]
    assert "nknown" not in said.stderr


@pytest.fixture(scope="module")
def net(container: Container) -> Iterator[Container]:
    """The booted systemd, with a container of its own and rules that translate."""
    container.run(NET)
    yield container
    container.run("nft delete table inet identd; ip netns del box", check=False)


@pytest.fixture(params=FORMS)
def form(net: Container, request: pytest.FixtureRequest) -> Iterator[str]:
    """Each form; its drop-in goes away afterwards."""
    request.getfixturevalue(request.param)
    yield request.param
    folder = f"/etc/systemd/system/{SERVICES[request.param]}.d"
    net.run(f"rm -rf {folder}; systemctl daemon-reload; systemctl stop identd-wait.service", check=False)


def installed(net: Container, drop_in: str, form: str) -> None:
    """Install a drop-in by the lines in it."""
    text = (UNITS / drop_in).read_text()
    *copying, loading = re.findall(r"^#   (\w.*)$", text, re.MULTILINE)
    assert len(copying) == 2
    net.run("cd /identd && " + "; ".join(line for line in copying if SERVICES[form] in line))
    # There is no warm process to restart where only the other unit is installed.
    net.run(loading, check=form == "warm")


def asked(net: Container, *words: str, place: str = "") -> str:
    """Have a user ask; return the reply without the ports."""
    command = f"{PYTHON} - {' '.join(words)} {next(PORTS)}"
    return net.run(f"{place} setpriv --reuid=identd-anna --clear-groups {command}", given=ASK)


def checked(net: Container) -> int:
    """Return how many times --check says that something is missing in the unit; the answer there is true."""
    said = net.run("/opt/identd/bin/identd --check --unit identd-wait.service", check=False)
    assert "the answer is true" in said, said
    return len(re.findall("^nat ", said, re.MULTILINE))


@pytest.mark.parametrize("drop_in", ["", *DROP_INS])
def test_tells_the_user(net: Container, form: str, drop_in: str) -> None:
    """Who has a connection that a rule leads elsewhere, by the first step; and one in a container, by the second.

    The process that answers has no capability, and its one child those in the drop-in, and neither another user.
    """
    if drop_in:
        installed(net, drop_in, form)
    here = asked(net, "127.0.0.1", "1130")
    scope = "systemd-run --quiet --collect --scope --unit=machine-box.scope"
    inside = asked(net, "10.77.0.1", "113", place=f"{scope} ip netns exec box")
    name = "USERID:UNIX:identd-anna"
    assert here == (name if drop_in else "ERROR:NO-USER")
    assert inside == {"": "ERROR:NO-USER", "identd-masquerade.conf": "ERROR:UNKNOWN-ERROR"}.get(drop_in, name)
    if inside == name:
        # The journal has the container's name, of the newest query, and of no local one.
        fields = net.run("journalctl --no-pager -o cat --output-fields=IDENT_CONTAINER -b -n 2 IDENT_OWNER=identd-anna")
        assert fields == "box", fields
        assert "identd-anna" in net.run("journalctl --no-pager -o cat -b IDENT_CONTAINER=box")
    if form == "warm":
        assert checked(net) == {"": 0, "identd-masquerade.conf": 1}.get(drop_in, 0)
    hold = "import socket,time; c=socket.create_connection(('127.0.0.1', 113)); c.sendall(b'1'); time.sleep(60)"
    holder = net.run(f'{PYTHON} -c "{hold}" >/dev/null 2>&1 & echo $!')
    try:
        pid = net.main_pid()
        has_some = f"grep -q 'CapPrm:.*[^0:[:space:]]' /proc/{pid}/status"
        net.run(f"for n in $(seq 100); do {has_some} || break; sleep .1; done")
        children = net.run(f"cat /proc/{pid}/task/*/children").split()
        statuses = [net.run(f"cat /proc/{one}/status") for one in (pid, *children)]
    finally:
        net.run(f"kill {holder}")
    sets = {
        name: [int(text.partition(f"{name}:")[2].split()[0], 16) for text in statuses] for name in ("CapPrm", "CapAmb")
    }
    kept = [DROP_INS[drop_in][1]] if drop_in else []
    assert sets == {"CapPrm": [0, *kept], "CapAmb": [0] * len(statuses)}
