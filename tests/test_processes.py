"""Which process has this connection open?  psutil's answer, in processes that may not open AF_NETLINK."""

from __future__ import annotations

import os
import pwd
import socket
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers.calls import call, inherited, listening, other, welcome
from helpers.hosts import IPPROTO_MPTCP, Person, Town, inside, nameless_uid, until
from helpers.machine import program, skip
from helpers.pairs import connect
from helpers.states import CLOSE_WAIT, FIN_WAIT2, TIME_WAIT, table

from lookup.connection import IdentError, NoUser
from lookup.kernel import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.hosts import Ends

    from lookup.connection import Owner

pytest_plugins = ["helpers.people"]

NO_USER, UNKNOWN = "NO-USER", "UNKNOWN-ERROR"


@pytest.fixture
def root(town: Town) -> Iterator[Person]:
    """A process of root's that may not open AF_NETLINK."""
    with Person(0, town.here) as person:
        person.tell("forbid_netlink()")
        yield person


@pytest.fixture
def locked_up(alice: Person, bob: Person) -> None:
    """Neither alice's process nor bob's may open AF_NETLINK."""
    for person in (alice, bob):
        person.tell("forbid_netlink()")
        assert person.tell("open('/proc/self/status').read()").count("Seccomp:\t2") == 1


def find(town: Town, ends: Ends) -> Owner:
    """Ask on the host `here`, as root."""
    with inside(town.here):
        return processes.find(*ends)


def name(person: Person) -> tuple[str, str]:
    """Return what a person is called."""
    return "UNIX", pwd.getpwuid(person.uid).pw_name


# Who asks about whom.


@pytest.mark.parametrize("host", [Town.THERE, Town.THERE_6])
def test_the_running_users_own(town: Town, alice: Person, locked_up: None, host: str) -> None:
    """Without privilege a user's process tells of that user's sockets, whichever process holds them."""
    with Person(alice.uid, town.here) as sister, call(town, alice, host) as (ends, _):
        sister.tell("forbid_netlink()")
        for person in (alice, sister):
            assert person.ask(ends) == name(alice)
            assert person.tell("ask(('', a), ('', b))", a=ends[0][1], b=ends[1][1]) == name(alice)


@pytest.mark.parametrize("host", [Town.THERE, Town.THERE_6])
def test_somebody_elses(town: Town, alice: Person, bob: Person, locked_up: None, host: str) -> None:
    """Without privilege a connection of somebody else's is UNKNOWN-ERROR, never a name and never NO-USER."""
    with call(town, alice, host) as (ends, far):
        assert bob.ask(ends) == UNKNOWN
        far.shutdown(socket.SHUT_WR)
        assert bob.ask(ends) == UNKNOWN


def test_roots_seen_by_another(town: Town, root: Person, bob: Person, locked_up: None) -> None:
    """Root's connection, too, is UNKNOWN-ERROR to an unprivileged process."""
    with call(town, root) as (ends, _):
        assert root.ask(ends) == ("UNIX", "root")
        assert bob.ask(ends) == UNKNOWN


def test_root_sees_everybody(town: Town, root: Person, alice: Person, bob: Person) -> None:
    """Root's process tells of everybody's sockets, over IPv4 and IPv6."""
    for person, host in ((alice, Town.THERE), (bob, Town.THERE_6)):
        with call(town, person, host) as (ends, _):
            assert root.ask(ends) == name(person)


def test_no_such_connection(town: Town, root: Person, bob: Person, alice: Person, locked_up: None) -> None:
    """What differs in an address or a port is no connection, to anybody."""
    with call(town, alice) as (ends, _):
        for person in (root, alice, bob):
            assert person.ask(other(ends, server=town.HERE_TOO)) == NO_USER
            assert person.ask(other(ends, client=town.MUTED)) == NO_USER
            assert person.ask(((ends[0][0], ends[0][1] % 65535 + 1), ends[1])) == NO_USER
            assert person.ask((ends[0], (ends[1][0], ends[1][1] % 65535 + 1))) == NO_USER
            assert person.ask((ends[1], ends[0])) == NO_USER


def test_a_uid_without_passwd_entry(town: Town, root: Person) -> None:
    """An owner without a name is a number here as well, to root and to that user."""
    with Person(nameless_uid(), town.here) as stranger, call(town, stranger) as (ends, _):
        stranger.tell("forbid_netlink()")
        assert root.ask(ends) == stranger.ask(ends) == ("OTHER", str(stranger.uid))


# Kinds of connections.


@pytest.mark.parametrize("mapped", ["", "::ffff:"])
def test_a_dual_stack_socket(town: Town, alice: Person, root: Person, mapped: str) -> None:
    """An IPv4 peer of a `::` socket is found in either form."""
    with welcome(town, alice, "::", town.HERE, socket.AF_INET6) as (ends, _):
        assert root.ask(other(ends, mapped + ends[0][0], mapped + ends[1][0])) == name(alice)


def test_link_local(town: Town, alice: Person, root: Person) -> None:
    """A link-local connection is found, with its scope or without; but no link is guessed where there are several."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, _):
        scoped = other(ends, server=f"{town.HERE_LINK}%lan")
        wrong = other(ends, server=f"{town.HERE_LINK}%vpn")
        for question in (ends, scoped, wrong):
            assert root.ask(question) == "UNKNOWN-ERROR"
        root.tell("really = processes._is_the_only_link; processes._is_the_only_link = lambda: True")
        try:
            for question in (ends, scoped):
                assert root.ask(question) == name(alice)
        finally:
            root.tell("processes._is_the_only_link = really")


def test_the_only_link(needs_root: None) -> None:
    """Loopback has no link-local address; one interface with such an address leaves nothing to guess, a second does."""
    ip = program("ip")
    with Person(0) as person:
        person.tell("from helpers.hosts import CLONE_NEWNET; checked(libc.unshare(CLONE_NEWNET))")
        seen = []
        for number in range(3):
            seen.append(person.tell("processes._is_the_only_link()"))
            for command in (
                f"{ip} link add name b{number} type bridge",
                f"{ip} address add fe80::{number + 1}/64 dev b{number} nodad",
                f"{ip} link set b{number} up",
            ):
                assert person.tell(f"os.system({command!r})") == 0
    assert seen == [True, True, False]


def test_mptcp(town: Town, alice: Person, root: Person) -> None:
    """A Multipath TCP connection is its holder's."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        skip(f"needs MPTCP: {error}")
    with call(town, alice, protocol=IPPROTO_MPTCP) as (ends, _):
        assert root.ask(ends) == name(alice)


def test_half_closed(town: Town, alice: Person, root: Person) -> None:
    """A connection whose peer has finished is still its holder's."""
    with call(town, alice) as (ends, far):
        far.shutdown(socket.SHUT_WR)
        until(lambda: (table(town.here, ends) or [0])[0] == CLOSE_WAIT)
        assert root.ask(ends) == name(alice)


def test_not_yet_answered(town: Town, alice: Person, root: Person) -> None:
    """A connection that waits for the peer's consent is the connecting user's."""
    ends = alice.dial((town.NOBODY, 6667), wait=False)
    assert root.ask(ends) == name(alice)


def test_not_yet_answered_with_an_address_of_another_host(town: Town, alice: Person, root: Person) -> None:
    """Anybody may make such a socket (IPV6_FREEBIND), so it is nobody's; with this host's address it is its maker's."""
    dial = """
client = socket.socket(socket.AF_INET6)
client.setblocking(False)
client.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND, linux/in6.h
client.bind((ours, 0))
client.connect_ex((far, 6667))
kept.append(client)
client.getsockname()[:2]
"""
    for ours, expected in ((town.HERE_6, name(alice)), ("fd09::78", NO_USER)):
        server = alice.tell(dial, ours=ours, far="fd09::77")
        assert root.ask((tuple(server), ("fd09::77", 6667))) == expected


def test_a_listener(town: Town, alice: Person, bob: Person, root: Person, locked_up: None) -> None:
    """A listener on the port is no connection."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    for person in (root, alice, bob):
        assert person.ask(((town.HERE, port), (town.THERE, 6667))) == NO_USER
        assert person.ask((("", port), ("", 6667))) == NO_USER


def test_not_yet_accepted(town: Town, alice: Person, bob: Person, root: Person, locked_up: None) -> None:
    """What nobody has accepted yet is nobody's; who may not see that is not told a name either."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), socket.create_connection((town.HERE, port)) as caller:
        ends = (town.HERE, port), caller.getsockname()
        assert root.ask(ends) == NO_USER
        for person in (alice, bob):
            assert person.ask(ends) == UNKNOWN


def test_time_wait(town: Town, alice: Person, bob: Person, root: Person, locked_up: None) -> None:
    """What remains of a closed connection is nobody's, as everybody may see."""
    with call(town, alice) as (ends, far):
        alice.tell("kept.pop().close()")
        far.close()
        until(lambda: table(town.here, ends) == (TIME_WAIT, 0, 0))
        for person in (root, alice, bob):
            assert person.ask(ends) == NO_USER


def test_orphaned(town: Town, alice: Person, bob: Person, root: Person, locked_up: None) -> None:
    """A connection that its holder closed and the peer did not is nobody's, and never root's."""
    with call(town, alice) as (ends, _):
        alice.tell("kept.pop().close()")
        until(lambda: table(town.here, ends) == (FIN_WAIT2, 0, 0))
        assert root.ask(ends) == NO_USER
        for person in (alice, bob):
            assert person.ask(ends) in (NO_USER, UNKNOWN)


# Sockets and processes of different users.


def test_a_process_that_became_another_user(town: Town, alice_uid: int, root: Person) -> None:
    """A socket belongs to the user that its process was when it made it, not to whom the process is now."""
    with Person(0, town.here) as daemon, call(town, daemon) as (before, _):
        daemon.tell("os.setresuid(uid, uid, uid); forbid_netlink()", uid=alice_uid)
        with call(town, daemon) as (after, _):
            assert find(town, before).uid == 0
            assert find(town, after).uid == alice_uid
            assert root.ask(before) == daemon.ask(before) == ("UNIX", "root")


def test_a_socket_that_two_processes_hold(town: Town, bob_uid: int) -> None:
    """A socket that a process of another user's inherited belongs to who made it."""
    with Person(0, town.here) as maker, call(town, maker) as (ends, _), inherited(maker, bob_uid):
        assert find(town, ends).uid == 0
        maker.tell("kept.pop().close()")
        assert find(town, ends).uid == 0


def test_systems_without_the_sockets_own_owner(
    town: Town, alice_uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the process' user is known, one that has been several users names nobody."""
    with Person(0, town.here) as daemon, call(town, daemon) as (ends, _):
        monkeypatch.setattr(sys, "platform", "freebsd14")
        found = find(town, ends)
        assert (found.uid, found.inode) == (0, 0)
        daemon.tell("os.seteuid(uid)", uid=alice_uid)
        with pytest.raises(IdentError) as several:
            find(town, ends)
        assert not isinstance(several.value, NoUser)
        assert str(alice_uid) in several.value.detail


def entry(ends: Ends) -> Any:
    """Return what psutil says of a connection."""
    connections: list[Any] = psutil.net_connections("tcp")
    for connection in connections:
        if connection.raddr and (connection.laddr[1], connection.raddr[1]) == (ends[0][1], ends[1][1]):
            return connection
    raise AssertionError("psutil does not see it")


def wanted(ends: Ends) -> tuple[bytes, int, bytes, int]:
    """Return a question as this module's parts ask it of each other."""
    return socket.inet_aton(ends[0][0]), ends[0][1], socket.inet_aton(ends[1][0]), ends[1][1]


def test_a_descriptor_that_was_reused() -> None:
    """A descriptor that is another socket by the time it is looked at names nobody."""
    with connect() as first, connect() as second:
        ends = first.client.getsockname(), first.client.getpeername()
        seen = entry(ends)
        found = processes._owner(psutil, seen, wanted(ends))
        assert found is not None
        assert found.uid == os.getuid()
        os.dup2(second.client.fileno(), first.client.fileno())
        assert processes._owner(psutil, seen, wanted(ends)) is None
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, first.client.fileno())
        os.close(null)
        assert processes._owner(psutil, seen, wanted(ends)) is None
        os.close(first.client.detach())
        assert processes._owner(psutil, seen, wanted(ends)) is None


def test_a_process_that_ended(town: Town, alice_uid: int) -> None:
    """A process that is gone by the time it is looked at holds nothing."""
    with inside(town.here):
        with Person(alice_uid, town.here) as person, call(town, person) as (ends, _):
            seen = entry(ends)
            assert seen.pid == person.pid
            found = processes._owner(psutil, seen, wanted(ends))
            assert found is not None
            assert found.uid == alice_uid
        assert processes._owner(psutil, seen, wanted(ends)) is None


def test_a_process_that_may_no_longer_be_seen(town: Town, alice: Person, bob_uid: int) -> None:
    """A process that is kept from us by the time it is looked at is UNKNOWN-ERROR."""
    with Person(0, town.here) as watcher, call(town, alice) as (ends, _):
        assert watcher.tell(
            "seen = [c for c in psutil.net_connections('tcp') if c.raddr and c.laddr[1] == port][0]; seen.pid",
            port=ends[0][1],
        ) == alice.pid  # fmt: skip
        watcher.tell("os.setresuid(uid, uid, uid)", uid=bob_uid)
        assert watcher.tell(
            "try:\n    answer = repr(processes._owner(psutil, seen, wanted))\n"
            "except Exception as error:\n    answer = str(error)\n"
            "answer",
            wanted=wanted(ends),
        ) == UNKNOWN  # fmt: skip


# Several connections.


def test_ports_of_two_owners(town: Town, alice: Person, bob: Person, root: Person, locked_up: None) -> None:
    """Ports that fit connections of two users name neither; an address that tells them apart decides."""
    with town.listen(town.THERE) as listener:
        hers = alice.dial(listener.getsockname())
        his = bob.dial(listener.getsockname(), source=(town.HERE_TOO, hers[0][1]))
        ports = ("", hers[0][1]), ("", hers[1][1])
        with pytest.raises(IdentError) as ambiguous:
            find(town, ports)
        assert not isinstance(ambiguous.value, NoUser)
        for person, ends in ((alice, hers), (bob, his)):
            assert f"uid {person.uid} " in ambiguous.value.detail
            assert root.ask(ends) == person.ask(ends) == name(person)
            assert root.ask((ends[0], ports[1])) == name(person)
            # The other's is not to be seen by an unprivileged process, so neither is which of the two is meant.
            assert person.ask(ports) == UNKNOWN
        assert root.ask(ports) == UNKNOWN


def test_ports_of_one_owner_twice(town: Town, alice: Person, locked_up: None) -> None:
    """Ports that fit two connections of one user name that user."""
    with town.listen(town.THERE) as listener:
        first = alice.dial(listener.getsockname())
        alice.dial(listener.getsockname(), source=(town.HERE_TOO, first[0][1]))
        assert alice.ask((("", first[0][1]), ("", first[1][1]))) == name(alice)


def test_two_devices_two_owners(town: Town, alice: Person, bob: Person, root: Person, locked_up: None) -> None:
    """Where two users' connections differ in the device alone, nobody is named."""
    with call(town, alice, town.THERE, device="lan") as (ends, far):
        assert root.ask(ends) == name(alice)
        with listening(town, town.THERE, far.getsockname()[1]):
            assert bob.dial(ends[1], source=ends[0], device="vpn") == ends
            for person in (root, alice, bob):
                assert person.ask(ends) == UNKNOWN


# Where psutil can see nothing.


@pytest.mark.parametrize("mapping", [(), (0, 0, 1)], ids=["nothing", "root"])
def test_a_user_namespace(town: Town, alice: Person, mapping: tuple[int, ...]) -> None:
    """Who is root in a user namespace only may not see who holds what, and does not take that for nobody."""
    with Person(0, town.here) as prisoner, call(town, alice) as (ends, _):
        prisoner.tell("leave_user_namespace(*mapping); forbid_netlink()", mapping=mapping)
        assert prisoner.ask(ends) == UNKNOWN


def test_root_without_capabilities(town: Town, alice: Person) -> None:
    """Uid 0 alone, as in a unit without capabilities, may not see who holds what, and says so."""
    with Person(0, town.here) as prisoner, call(town, alice) as (ends, _):
        prisoner.tell(
            "import ctypes; header = ctypes.create_string_buffer(struct.pack('=Ii', 0x20080522, 0));"
            "checked(libc.capset(header, ctypes.create_string_buffer(24))); forbid_netlink()"
        )
        assert "CapEff:\t0000000000000000" in prisoner.tell("open('/proc/self/status').read()")
        assert prisoner.ask(ends) == UNKNOWN


def test_no_proc(town: Town, alice: Person, tmp_path: object) -> None:
    """Where /proc is not mounted nothing is told, and nothing breaks."""
    with Person(0, town.here) as prisoner, call(town, alice) as (ends, _):
        prisoner.tell("forbid_netlink(); os.chroot(path)", path=str(tmp_path))
        assert prisoner.ask(ends) == UNKNOWN
        assert "No such file" in prisoner.tell(
            "try:\n    processes.find(*ends)\nexcept processes.IdentError as error:\n    detail = error.detail\ndetail",
            ends=ends,
        )


def test_a_table_that_is_kept_from_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system shows its connections to root alone (macOS, BSD), nothing is told."""

    def refuse(_: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    with connect() as pair, pytest.raises(IdentError) as refused:
        processes.find(pair.client.getsockname(), pair.client.getpeername())
    assert not isinstance(refused.value, NoUser)


@pytest.mark.parametrize("host", ["localhost", "1.2.3.4%lo", "::1%no-such-device"])
def test_what_is_no_address(host: str) -> None:
    """Text that is no address is a ValueError, on either side."""
    for ends in (((host, 1), ("", 1)), (("", 1), (host, 1))):
        with pytest.raises(ValueError):
            processes.find(*ends)
