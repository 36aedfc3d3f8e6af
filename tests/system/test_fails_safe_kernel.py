"""Does the kernel's answer count only where it is about the connection of the query, and about users of this host?"""

from __future__ import annotations

import contextlib
import pwd
import re
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS, asking
from helpers.calls import call
from helpers.hosts import Person, Town, family_of, inside, until
from helpers.machine import program
from helpers.pairs import LOOPBACK
from helpers.single_shot import COMMAND, driver
from helpers.states import FIN_WAIT2, SYN_SENT, table
from helpers.warm import pause

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helpers.askers import Asker
    from helpers.hosts import Ends

pytest_plugins = ["helpers.people"]

NO_USER, UNKNOWN = "ERROR:NO-USER", "ERROR:UNKNOWN-ERROR"


def named(person: Person) -> str:
    """Return the reply that names a person, without the ports."""
    return f"USERID:UNIX:{pwd.getpwuid(person.uid).pw_name}"


# W3: a connection that the far end has not answered.


@contextlib.contextmanager
def unanswered(town: Town, person: Person, ends: Ends) -> Iterator[None]:
    """Have a person connect with ends that may be another connection's, and lose what is sent, so that none answers."""
    with town.mute():
        person.tell("late = socket.socket(); kept.append(late); late.setblocking(False)")
        person.tell("late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); late.bind(near)", near=ends[0])
        person.tell("late.connect_ex(far)", far=ends[1])
        until(lambda: (table(town.here, ends) or [0])[0] == SYN_SENT)
        yield


def answered_meanwhile(asker: Asker, ends: Ends) -> None:
    """Ask, and wait until the reply has been written, which can't arrive yet."""
    asker.send(ends)
    if asker.form == "single":
        asker.process.wait(40)
    else:
        pause(0.3)


@pytest.mark.parametrize("form", FORMS)
def test_a_connection_behind_somebodys_syn(town: Town, alice: Person, bob: Person, form: str) -> None:
    """Alice's connection is bound to a device, and the kernel gives bob its ends: he is not told in her place."""
    with call(town, alice, town.MUTED, device="lan", source=(town.HERE, 0)) as (ends, _), asking(
        town, form, client=town.MUTED
    ) as asker:
        with unanswered(town, bob, ends):
            answered_meanwhile(asker, ends)
        assert asker.read() in (named(alice), UNKNOWN)


@pytest.mark.parametrize("form", FORMS)
def test_a_closed_connection_behind_somebodys_syn(town: Town, alice: Person, bob: Person, form: str) -> None:
    """The same where alice has closed hers, which the far end still knows: no process holds what is asked about."""
    with call(town, alice, town.MUTED, device="lan", source=(town.HERE, 0)) as (ends, _), asking(
        town, form, client=town.MUTED
    ) as asker:
        alice.tell("kept.pop().close()")
        until(lambda: (table(town.here, ends) or [0])[0] == FIN_WAIT2)
        with unanswered(town, bob, ends):
            answered_meanwhile(asker, ends)
        assert asker.read() in (NO_USER, UNKNOWN)


@pytest.mark.parametrize("form", FORMS)
def test_who_connects_is_named_while_nobody_else_has_these_ends(town: Town, bob: Person, form: str) -> None:
    """A firewall asks before it lets the connection through."""
    with town.listen(town.MUTED) as listener, asking(town, form, client=town.MUTED) as asker:
        ends = (town.HERE, 40404), (town.MUTED, listener.getsockname()[1])
        with unanswered(town, bob, ends):
            answered_meanwhile(asker, ends)
        assert asker.read() == named(bob)


# W4: two links with the same addresses.


@contextlib.contextmanager
def listening_elsewhere(town: Town, host: str, port: int) -> Iterator[None]:
    """Listen on the same address and port at the other end of the link ``vpn``."""
    with inside(town.elsewhere):
        listener = socket.create_server((host, port), family=family_of(host))
    with listener:
        yield


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", [4, 6])
def test_two_links_with_the_same_addresses(town: Town, alice: Person, bob: Person, form: str, version: int) -> None:
    """Who asks over a link is told who has the connection over that link, and no other, also once it has ended."""
    near, far = (town.HERE, town.THERE) if version == 4 else (town.HERE_6, town.THERE_6)
    lan = {"client": far, "server": near}
    vpn = {**lan, "asker": town.elsewhere, "device": "vpn"}
    with call(town, bob, far, device="lan") as (ends, distant), listening_elsewhere(town, far, ends[1][1]):
        alice.dial(ends[1], source=ends[0], device="vpn")
        for over, right in ((lan, named(bob)), (vpn, named(alice)), ({**lan, "device": "lan"}, named(bob))):
            with asking(town, form, **over) as asker:
                assert asker.ask(ends) == right
        bob.tell("kept.pop().close()")
        distant.close()
        with asking(town, form, **lan) as asker:
            assert asker.ask(ends) in (NO_USER, UNKNOWN)
        with asking(town, form, **vpn) as asker:
            assert asker.ask(ends) == named(alice)


@pytest.mark.parametrize("form", FORMS)
def test_a_link_without_the_connection(town: Town, bob: Person, form: str) -> None:
    """A connection that is bound to no device leaves by one of two links: who asks over the other is told nobody.

    Over its own link it is found, whether identd's listening socket is bound to that or to none.
    """
    with call(town, bob) as (ends, _):
        with asking(town, form, asker=town.elsewhere, device="vpn", client=town.THERE) as asker:
            assert asker.ask(ends) in (NO_USER, UNKNOWN)
        for device in ("", "lan"):
            with asking(town, form, device=device, client=town.THERE) as asker:
                assert asker.ask(ends) == named(bob)


@pytest.mark.parametrize("form", FORMS)
def test_a_connection_over_a_device_of_this_host_to_itself(town: Town, alice: Person, form: str) -> None:
    """What is bound to a device and stays on this host is found, though it comes back by the loopback interface."""
    for host in (town.HERE, town.HERE_6):
        with call(town, alice, host, town.here, device="lan") as (ends, _), asking(
            town, form, asker=town.here, client=host
        ) as asker:
            assert asker.ask(ends) == named(alice)


# W5: a listening socket of another network namespace.


@pytest.mark.parametrize("before", ["", "forbid_netlink()"], ids=["sock_diag", "psutil"])
@pytest.mark.parametrize("form", FORMS)
def test_a_query_in_another_network_namespace(
    town: Town, alice: Person, tmp_path: Path, form: str, before: str
) -> None:
    """127.0.0.1 has the same connections in every namespace: identd knows only those of its own."""
    command = driver(tmp_path, f"sys.path.append('tests'); from helpers.hosts import forbid_netlink\n{before}")
    with call(town, alice, LOOPBACK, town.here) as (ends, _):
        for namespace in (town.here, town.there):
            with asking(
                town, form, server=LOOPBACK, command=command, asker=namespace, listens_in=namespace
            ) as asker:
                reply = asker.ask(ends)
            # Without netlink, psutil sees nothing of alice's.
            assert reply == (named(alice) if namespace == town.here and not before else UNKNOWN)


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_without_namespace_cookies(town: Town, alice: Person, tmp_path: Path, form: str) -> None:
    """Before Linux 5.14 the query's own connection must be among those that identd is shown."""
    command = driver(tmp_path, "import lookup.connection as a; a._SO_NETNS_COOKIE = 9999")
    with call(town, alice, LOOPBACK, town.here) as (ends, _):
        for namespace, right in ((town.here, named(alice)), (town.there, UNKNOWN)):
            with asking(
                town, form, server=LOOPBACK, command=command, asker=namespace, listens_in=namespace
            ) as asker:
                assert asker.ask(ends) == right
    with call(town, alice) as (ends, _), asking(town, form, device="lan", client=town.THERE, command=command) as asker:
        assert asker.ask(ends) == named(alice)


# F13: a user namespace.

#: Runs a program as root of a user namespace with the given map.
_IN_A_USER_NAMESPACE = """
import ctypes, os, sys
flags, uid_map, *command = sys.argv[1:]
told, tell = os.pipe()
me = os.getpid()
helper = os.fork()
if helper == 0:
    os.read(told, 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{me}/{name}", "w") as file:
            file.write(uid_map)
    os._exit(0)
assert ctypes.CDLL(None).unshare(int(flags)) == 0
os.write(tell, b"!")
assert os.waitpid(helper, 0)[1] == 0
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.execvp(command[0], command)
"""

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def in_a_user_namespace(uid_map: str, *command: str, flags: int = _CLONE_NEWUSER) -> list[str]:
    """Return the command that runs another one as root of a user namespace."""
    return [sys.executable, "-c", _IN_A_USER_NAMESPACE, str(flags), uid_map, *command]


@pytest.mark.parametrize("form", FORMS)
def test_a_user_namespace_that_moves_uids(town: Town, alice: Person, form: str) -> None:
    """In a container with the host's network, alice looks like root, and another user like alice: nobody is named."""
    command = in_a_user_namespace(f"0 {alice.uid} 1\n1 100000 65536", *COMMAND)
    with Person(100000 + alice.uid - 1, town.here) as stranger:
        for person in (alice, stranger):
            with call(town, person) as (ends, _), asking(town, form, client=town.THERE, command=command) as asker:
                assert asker.ask(ends) == UNKNOWN


def test_check_in_a_user_namespace_that_moves_uids(alice_uid: int) -> None:
    """There `--check` finds no true answer, and says what is in the way."""
    command = in_a_user_namespace(f"0 {alice_uid} 1\n1 100000 65536", *COMMAND, "--check")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout
    assert "user namespace" in done.stdout
    assert "the answer is true" not in done.stdout


@pytest.mark.parametrize(
    ("uid_map", "hinders"), [("0 0 1\n1 1 4294967294", False), ("0 0 65536", True)], ids=["all", "the first 65536"]
)
def test_check_in_a_user_namespace_that_moves_nobody(needs_root: None, uid_map: str, hinders: bool) -> None:
    """F11. A map of every uid to itself is in nobody's way; one that leaves uids out is, though ours is in it."""
    done = subprocess.run(in_a_user_namespace(uid_map, *COMMAND, "--check"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, "a user namespace" in done.stdout) == (int(hinders), hinders), done.stdout


_IN_ITS_OWN_NETWORK = """
import socket, subprocess, sys
subprocess.run([sys.argv[1], "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 0))
caller = socket.create_connection(listener.getsockname())
query = f"{caller.getsockname()[1]},{listener.getsockname()[1]}\\n"
subprocess.run([*sys.argv[2:]], input=query.encode(), check=True)
sys.exit(subprocess.run([*sys.argv[2:4], "--check"]).returncode)
"""


def test_a_user_namespace_with_a_network_of_its_own(alice_uid: int) -> None:
    """A container whose network is its own names its own users, and its map is no obstacle."""
    identd = [*COMMAND, "--server-address=127.0.0.1", "--client-address=127.0.0.1"]
    command = in_a_user_namespace(
        f"0 {alice_uid} 1\n1 100000 65536", sys.executable, "-c", _IN_ITS_OWN_NETWORK, program("ip"), *identd,
        flags=_CLONE_NEWUSER | _CLONE_NEWNET,
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert re.search(r"^\d+,\d+:USERID:UNIX:root$", done.stdout, re.M), done.stdout + done.stderr
    assert "obstacle" not in done.stdout
    assert done.returncode == 0


# F17: a connection that nobody has accepted yet.


@contextlib.contextmanager
def knocking(town: Town, person: Person, host: str = Town.HERE) -> Iterator[Ends]:
    """A connection from `there` to a person's listener, who has not accepted it."""
    port = person.tell("listener = listen(host); listener.getsockname()[1]", host=host)
    with inside(town.there):
        caller = socket.create_connection((host, port))
    with caller:
        yield (host, port), caller.getsockname()[:2]


@pytest.mark.parametrize("form", FORMS)
def test_a_query_that_overtakes_accept(town: Town, alice: Person, form: str) -> None:
    """A client asks about its own connection before it is accepted: it learns who accepts it a moment later."""
    with asking(town, form, client=town.THERE) as asker, knocking(town, alice) as ends:
        later = "threading.Timer(0.15, lambda: kept.append(listener.accept()[0])).start()"
        alice.tell(f"import threading; {later}")
        assert asker.ask(ends) == named(alice)


def test_a_connection_that_nobody_accepts(town: Town, alice: Person, bob: Person) -> None:
    """It is nobody's after that time, and meanwhile others are answered."""
    with asking(town, "warm", client=town.THERE) as asker, knocking(town, alice) as ends, call(town, bob) as (his, _):
        with inside(town.there):
            second = socket.create_connection(asker.client.getpeername(), 40)
        with second:
            began = time.monotonic()
            asker.send(ends)
            second.sendall(f"{his[0][1]},{his[1][1]}\r\n".encode())
            assert second.recv(1000).decode().rstrip().endswith(named(bob))
            others = time.monotonic() - began
            assert asker.read() == NO_USER
        assert time.monotonic() - began >= 0.2
        assert others < 0.2


def test_many_who_ask_about_what_nobody_accepts(town: Town, alice: Person) -> None:
    """One asker may have some such queries wait, and is told UNKNOWN-ERROR at once about more."""
    with asking(town, "warm", client=town.THERE) as asker, knocking(town, alice) as ends:
        address = asker.client.getpeername()
        with inside(town.there):
            askers = [socket.create_connection(address, 40) for _ in range(60)]
        for one in askers:
            one.sendall(f"{ends[0][1]},{ends[1][1]}\r\n".encode())
        replies = [one.recv(1000).decode().rstrip().partition(":")[2] for one in askers]
        for one in askers:
            one.close()
        assert set(replies) == {NO_USER, UNKNOWN}


# D9: a host with many interfaces.


@pytest.fixture(scope="module")
def city() -> Iterator[Town]:
    """Hosts of which `here` has many interfaces."""
    with Town(bridges=120) as town:
        yield town


@pytest.mark.parametrize("version", [4, 6])
def test_a_miss_on_a_host_with_many_interfaces(city: Town, tmp_path: Path, version: int) -> None:
    """A query that finds nothing sends few requests, however many interfaces there are."""
    trace = tmp_path / "trace"
    strace = [program("strace"), "-f", "-q", "-e", "trace=sendto", "-o", str(trace), *COMMAND]
    near, far = (city.HERE, city.THERE) if version == 4 else (city.HERE_6, city.THERE_6)
    with asking(city, "single", client=far, server=near, command=strace) as asker:
        assert asker.ask(((near, 1), (far, 1))) == NO_USER
        asker.process.wait(40)
    sent = [int(line.rpartition("= ")[2]) for line in trace.read_text().splitlines() if "nlmsg_len" in line]
    assert sent
    assert sum(sent) < 8 * 72


# P2: what is no answer of the kernel's.

_LIAR = """
import _socket, struct
class Liar(_socket.socket):
    __slots__ = ()
    def recvfrom(self, *arguments):
        data, sender = super().recvfrom(*arguments)
        if self.family == _socket.AF_NETLINK:
            data = bytearray(data)
            CHANGE
            data = bytes(data)
        return data, sender
_socket.socket = Liar
"""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", [
    "del data[16:]", "del data[40:]", "del data[87:]", "data[4:6] = struct.pack('=H', 2); del data[16:]",
    "data[0:4] = struct.pack('=I', 0)", "data[0:4] = struct.pack('=I', 8)", "data[0:4] = struct.pack('=I', 16)",
    "data[0:4] = struct.pack('=I', 2**32 - 1)", "data[4:6] = struct.pack('=H', 2); data[16:20] = bytes(4)",
    "data[4:6] = struct.pack('=H', 3)", "data[4:6] = struct.pack('=H', 3); data[16:20] = bytes(4)",
    "data[4:6] = struct.pack('=H', 999)", "data[16] = 77", "data[16] = 0", "data[17] = 99", "data[17] = 0",
])  # fmt: skip
def test_garbage_from_netlink(town: Town, alice: Person, tmp_path: Path, form: str, change: str) -> None:
    """A message that is cut, has no body, an unknown state or family: UNKNOWN-ERROR, and one line in the log."""
    command = driver(tmp_path, _LIAR.replace("CHANGE", change))
    with call(town, alice) as (ends, _), asking(
        town, form, "--nosyslog", client=town.THERE, command=command
    ) as asker:
        assert asker.ask(ends) == UNKNOWN
        log = asker.log()
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if "serving" not in line]
    assert len(lines) == 1, log
    assert "sock_diag" in lines[0]


# F16: without netlink.


@pytest.mark.parametrize("form", FORMS)
def test_the_log_without_netlink(town: Town, alice: Person, tmp_path: Path, form: str) -> None:
    """Where a sandbox forbids AF_NETLINK, and psutil sees only our own processes, the log says why."""
    prepared = "sys.path.append('tests'); from helpers.hosts import forbid_netlink; forbid_netlink()"
    command = driver(tmp_path, prepared)
    with call(town, alice) as (ends, _), asking(
        town, form, "--nosyslog", client=town.THERE, command=command
    ) as asker:
        assert asker.ask(ends) == UNKNOWN
        log = asker.log()
    assert "netlink" in log
