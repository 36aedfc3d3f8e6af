"""Who holds this connection?  Every trap of sock_diag, built for real, and the right answer to each."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT, connect, program, skip
from hosts import (
    CLOSE_WAIT,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    IPPROTO_MPTCP,
    LAST_ACK,
    SYN_RECV,
    SYN_SENT,
    TIME_WAIT,
    Person,
    Town,
    call,
    inside,
    listening,
    nameless_uid,
    other,
    table,
    until,
    welcome,
)

from lookup import sock_diag
from lookup.errors import IdentError, NoUser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hosts import Ends

    from lookup.connection import Address, Owner

NLM_F_DUMP = 0x300
LOOPBACK = "127.0.0.1"

pytest_plugins = ["people"]


def find(town: Town, ends: Ends) -> Owner:
    """Ask on the host `here`."""
    with inside(town.here):
        return sock_diag.find(*ends)


def by_ports(town: Town, server: Address, client: Address) -> Owner:
    """Ask on the host `here`, by the ports."""
    with inside(town.here):
        return sock_diag.find_by_ports(server, client)


class Wire(socket.socket):
    """A socket whose netlink requests are written down before they go to the kernel."""

    sent: list[tuple[int, int, int]] = []  # noqa: RUF012 - one list for all of them
    netlink: list[Wire] = []  # noqa: RUF012

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.family == socket.AF_NETLINK:
            self.netlink.append(self)

    def send(self, data: Any, *flags: int) -> int:
        if self.family == socket.AF_NETLINK:
            whole, offset = bytes(data), 0
            while offset < len(whole):
                length, kind, flag = struct.unpack_from("=IHH", whole, offset)
                (states,) = struct.unpack_from("=I", whole, offset + 20)
                self.sent.append((kind, flag, states))
                offset += length
        return super().send(data, *flags)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> type[Wire]:
    """Every netlink request that is sent, as (type, flags, states asked for), and the sockets that sent them."""
    monkeypatch.setattr(Wire, "sent", [])
    monkeypatch.setattr(Wire, "netlink", [])
    monkeypatch.setattr(socket, "socket", Wire)
    return Wire


# Connections that somebody holds.


@pytest.mark.parametrize(("near", "far"), [(Town.HERE, Town.THERE), (Town.HERE_6, Town.THERE_6)])
def test_the_one_who_connected(town: Town, alice: Person, near: str, far: str) -> None:
    """The connecting process' user holds the connection, over IPv4 and IPv6."""
    with call(town, alice, far) as (ends, _):
        owner = find(town, ends)
        assert (owner.uid, owner.state, owner.server, owner.client) == (alice.uid, "ESTABLISHED", *ends)
        assert ends[0][0] == near
        assert owner.inode == alice.tell("os.fstat(kept[-1].fileno()).st_ino")
        assert owner.source == "sock_diag"


@pytest.mark.parametrize("host", [Town.HERE, Town.HERE_6])
def test_the_one_who_accepted(town: Town, alice: Person, host: str) -> None:
    """The accepting process' user holds the connection, not the listener's or the peer's."""
    with welcome(town, alice, host, host) as (ends, _):
        assert find(town, ends).uid == alice.uid


def test_each_end_of_a_loopback_connection_has_its_own_holder(town: Town, alice: Person, bob: Person) -> None:
    """Both ends are on this host; the order of the two addresses says which end is meant."""
    port = bob.tell("listener = listen('127.0.0.1'); listener.getsockname()[1]")
    ends = alice.dial((LOOPBACK, port))
    bob.tell("kept.append(listener.accept()[0])")
    assert find(town, ends).uid == alice.uid
    assert find(town, (ends[1], ends[0])).uid == bob.uid


def test_a_second_local_address(town: Town, alice: Person, bob: Person) -> None:
    """Two users may have the same ports at two addresses of this host: the address decides."""
    with town.listen(town.THERE) as listener:
        first = alice.dial(listener.getsockname())
        second = bob.dial(listener.getsockname(), source=(town.HERE_TOO, first[0][1]))
        assert find(town, first).uid == alice.uid
        assert find(town, second).uid == bob.uid


def test_a_local_address_without_the_connection(town: Town, alice: Person) -> None:
    """The right ports at another address of this host are no connection."""
    with call(town, alice) as (ends, _), pytest.raises(NoUser):
        find(town, other(ends, server=town.HERE_TOO))


def test_an_asker_who_is_not_the_peer(town: Town, alice: Person) -> None:
    """Whoever asks from another address learns nothing of the connection."""
    with call(town, alice) as (ends, _):
        for stranger in (town.MUTED, town.NOBODY, LOOPBACK):
            with pytest.raises(NoUser):
                find(town, other(ends, client=stranger))


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_wrong_port(town: Town, alice: Person, wrong: int) -> None:
    """One port that differs is another connection, and there is none."""
    with call(town, alice) as (ends, _):
        asked = [(host, port % 65535 + 1 if index == wrong else port) for index, (host, port) in enumerate(ends)]
        with pytest.raises(NoUser):
            find(town, (asked[0], asked[1]))


@pytest.mark.parametrize("mapped", ["", "::ffff:"])
def test_a_dual_stack_socket(town: Town, alice: Person, mapped: str) -> None:
    """An IPv4 peer of a `::` socket is found, whether asked for as IPv4 or IPv4-mapped; the answer says IPv4."""
    with welcome(town, alice, "::", town.HERE, socket.AF_INET6) as (ends, _):
        owner = find(town, other(ends, mapped + ends[0][0], mapped + ends[1][0]))
        assert (owner.uid, owner.server, owner.client) == (alice.uid, *ends)


def test_a_mapped_address_of_a_plain_socket(town: Town, alice: Person) -> None:
    """A connection of an AF_INET socket is found when it is asked for as IPv4-mapped."""
    with call(town, alice) as (ends, _):
        assert find(town, other(ends, f"::ffff:{ends[0][0]}", f"::FFFF:{ends[1][0]}")).uid == alice.uid


def test_addresses_of_two_families(town: Town, alice: Person) -> None:
    """An IPv4 and an IPv6 address have no connection."""
    with call(town, alice) as (ends, _), pytest.raises(NoUser):
        find(town, other(ends, client=town.THERE_6))


def test_half_closed_by_the_peer(town: Town, alice: Person) -> None:
    """A connection whose peer has finished is still its holder's."""
    with call(town, alice) as (ends, far):
        far.shutdown(socket.SHUT_WR)
        until(lambda: (table(town.here, ends) or [0])[0] == CLOSE_WAIT)
        owner = find(town, ends)
        assert (owner.uid, owner.state) == (alice.uid, "CLOSE_WAIT")


def test_half_closed_by_its_holder(town: Town, alice: Person) -> None:
    """A connection that was shut down but not closed is its holder's."""
    with call(town, alice) as (ends, _):
        alice.tell("kept[-1].shutdown(socket.SHUT_WR)")
        until(lambda: (table(town.here, ends) or [0])[0] == FIN_WAIT2)
        owner = find(town, ends)
        assert (owner.uid, owner.state) == (alice.uid, "FIN_WAIT2")


def test_not_yet_answered(town: Town, alice: Person) -> None:
    """A connection that waits for the peer's consent is the connecting user's: a firewall asks then."""
    ends = alice.dial((town.NOBODY, 6667), wait=False)
    assert table(town.here, ends) is not None
    owner = find(town, ends)
    assert (owner.uid, owner.state) == (alice.uid, "SYN_SENT")
    assert (table(town.here, ends) or [0])[0] == SYN_SENT


def test_a_uid_without_passwd_entry(town: Town) -> None:
    """A socket's uid is told as it is, whether it has a name or not."""
    with Person(nameless_uid(), town.here) as stranger, call(town, stranger) as (ends, _):
        assert find(town, ends).uid == stranger.uid


def test_nobodys_socket(town: Town) -> None:
    """A process of nobody's holds its sockets like any other."""
    with Person(65534, town.here) as nobody, call(town, nobody) as (ends, _):
        assert find(town, ends).uid == 65534
        assert nobody.ask(ends) == ("UNIX", pwd.getpwuid(65534).pw_name)


def test_a_process_that_became_another_user(town: Town, alice_uid: int) -> None:
    """A socket belongs to the user that its process was when it made it."""
    with Person(0, town.here) as daemon, call(town, daemon) as (ends, _):
        daemon.tell("os.setresuid(uid, uid, uid)", uid=alice_uid)
        assert find(town, ends).uid == 0
        with call(town, daemon) as (later, _):
            assert find(town, later).uid == alice_uid


def test_a_socket_handed_to_another_user(town: Town, bob_uid: int) -> None:
    """A socket that only another user's process holds by now still belongs to who made it."""
    heir = f"import os; os.setresuid(*3 * [{bob_uid}]); os.write(1, b'!'); os.read(0, 1)"
    with Person(0, town.here) as root, call(town, root) as (ends, _):
        root.tell(
            "import subprocess as s; fd = kept[-1].fileno();"
            "heir = s.Popen([sys.executable, '-c', heir], stdin=s.PIPE, stdout=s.PIPE, pass_fds=[fd], cwd='/');"
            "heir.stdout.read(1); kept.pop().close()",
            heir=heir,
        )  # fmt: skip
        assert find(town, ends).uid == 0
        root.tell("heir.communicate(b'!')")


@pytest.mark.parametrize("accepting", [False, True], ids=["connecting", "accepting"])
def test_mptcp(town: Town, alice: Person, accepting: bool) -> None:
    """A Multipath TCP connection is its holder's, on either side of it."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        skip(f"needs MPTCP: {error}")
    really_mptcp = "kept[-1].getsockopt(284, 1, 8) and True"  # SOL_MPTCP, MPTCP_INFO: refused after a fallback to TCP
    if not accepting:
        with call(town, alice, protocol=IPPROTO_MPTCP) as (ends, _):
            assert alice.tell(really_mptcp)
            assert find(town, ends).uid == alice.uid
        return
    port = alice.tell("listener = listen(host, 0, 262); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as caller:
        caller.connect((town.HERE, port))
        alice.tell("kept.append(listener.accept()[0])")
        assert alice.tell(really_mptcp)
        assert find(town, ((town.HERE, port), caller.getsockname())).uid == alice.uid


# Connections that nobody holds: uid 0 says nothing there.


@pytest.mark.parametrize("host", [Town.HERE, Town.HERE_6, "::"])
def test_a_listener_without_the_connection(town: Town, alice: Person, host: str) -> None:
    """Where nothing but a listener has the port, the kernel shows the listener; nobody has the connection."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=host)
    far = town.THERE_6 if ":" in host else town.THERE
    near = town.HERE_6 if host == "::" else host
    with pytest.raises(NoUser):
        find(town, ((near, port), (far, 6667)))
    with pytest.raises(NoUser):
        by_ports(town, ("", port), ("", 6667))


def test_a_listener_asked_about_itself(town: Town, alice: Person) -> None:
    """The unspecified address is no peer: a query that fits a listener's own address names nobody."""
    for host, nowhere in ((town.HERE, "0.0.0.0"), (town.HERE_6, "::")):
        port = alice.tell("listener = listen(host); kept.append(listener); listener.getsockname()[1]", host=host)
        with pytest.raises(NoUser):
            find(town, ((host, port), (nowhere, 1)))


def test_no_connection_and_no_listener(town: Town) -> None:
    """Nothing at all."""
    with pytest.raises(NoUser):
        find(town, ((town.HERE, 1), (town.THERE, 1)))


def test_not_yet_accepted(town: Town, alice: Person) -> None:
    """A connection that no process has accepted yet is not the listener's, who may be another user by then."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), socket.create_connection((town.HERE, port)) as caller:
        ends = (town.HERE, port), caller.getsockname()
        state, _, inode = table(town.here, ends) or (0, 0, 1)
        assert (state, inode) == (ESTABLISHED, 0)
        with pytest.raises(NoUser):
            find(town, ends)
        with pytest.raises(NoUser):
            by_ports(town, *ends)
        alice.tell("kept.append(listener.accept()[0])")
        assert find(town, ends).uid == alice.uid


def test_half_open(town: Town, alice: Person) -> None:
    """A peer that has asked for a connection and not yet confirmed it has none."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), town.mute(), socket.socket() as caller:
        caller.bind((town.MUTED, 0))
        caller.setblocking(False)
        assert caller.connect_ex((town.HERE, port))
        ends = (town.HERE, port), caller.getsockname()
        until(lambda: (table(town.here, ends) or [0])[0] == SYN_RECV)
        with pytest.raises(NoUser):
            find(town, ends)


def test_time_wait(town: Town, alice: Person) -> None:
    """What remains of a closed connection is nobody's, though the kernel says uid 0."""
    with call(town, alice) as (ends, far):
        alice.tell("kept.pop().close()")
        far.close()
        until(lambda: table(town.here, ends) == (TIME_WAIT, 0, 0))
        with pytest.raises(NoUser):
            find(town, ends)
        with pytest.raises(NoUser):
            by_ports(town, *ends)


def test_orphaned_in_fin_wait_2(town: Town, alice: Person) -> None:
    """A connection that its holder closed and the peer did not is nobody's."""
    with call(town, alice) as (ends, _):
        alice.tell("kept.pop().close()")
        until(lambda: (table(town.here, ends) or [0])[0] == FIN_WAIT2)
        assert table(town.here, ends) == (FIN_WAIT2, 0, 0)
        with pytest.raises(NoUser):
            find(town, ends)


@pytest.mark.parametrize(("peer_first", "state"), [(True, LAST_ACK), (False, FIN_WAIT1)])
def test_orphaned_before_the_peer_knows(town: Town, alice: Person, peer_first: bool, state: int) -> None:
    """A closed connection whose last octets the kernel still sends is nobody's, whoever closed first."""
    with call(town, alice, town.MUTED) as (ends, far):
        if peer_first:
            far.shutdown(socket.SHUT_WR)
            until(lambda: (table(town.here, ends) or [0])[0] == CLOSE_WAIT)
        with town.mute():
            alice.tell("kept.pop().close()")
            assert (table(town.here, ends) or [0])[0] == state
            with pytest.raises(NoUser):
                find(town, ends)
            with pytest.raises(NoUser):
                by_ports(town, *ends)


# Interfaces: link-local addresses, and sockets that are bound to a device.


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("by_number", [False, True], ids=["name", "number"])
def test_link_local(town: Town, alice: Person, side: int, by_number: bool) -> None:
    """A link-local connection is found with its scope on either address, as a name or a number."""
    with inside(town.here):
        scope = str(socket.if_nametoindex("vpn")) if by_number else "vpn"
    with call(town, alice, f"{town.THERE_LINK}%vpn", town.elsewhere) as (ends, _):
        hosts = [host + (f"%{scope}" if index == side else "") for index, (host, _) in enumerate(ends)]
        owner = find(town, other(ends, *hosts))
        assert (owner.uid, owner.server) == (alice.uid, (town.HERE_LINK, ends[0][1]))


def test_link_local_behind_a_listener(town: Town, bob: Person) -> None:
    """Without the interface the kernel shows a link-local connection's listener; with it, the one who accepted."""
    port = bob.tell("listener = listen('::'); listener.getsockname()[1]")
    with inside(town.there):
        caller = socket.create_connection((f"{town.HERE_LINK}%lan", port))
    with caller:
        bob.tell("kept.append(listener.accept()[0])")
        ends = (f"{town.HERE_LINK}%lan", port), (f"{town.THERE_LINK}%lan", caller.getsockname()[1])
        assert find(town, ends).inode == bob.tell("os.fstat(kept[-1].fileno()).st_ino")


def test_the_kernel_needs_the_scope(town: Town, alice: Person, wire: type[Wire]) -> None:
    """A scope is asked about at once: one request, and none about other interfaces."""
    with call(town, alice, f"{town.THERE_LINK}%vpn", town.elsewhere) as (ends, _):
        find(town, other(ends, client=f"{town.THERE_LINK}%vpn"))
        assert len(wire.sent) == 1


def test_link_local_without_scope(town: Town, alice: Person) -> None:
    """Without a scope the interfaces are tried, for only one can be meant."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, _):
        assert find(town, ends).uid == alice.uid


def test_link_local_on_another_link(town: Town, alice: Person) -> None:
    """The same addresses on another link are another connection."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, _), pytest.raises(NoUser):
        find(town, other(ends, client=f"{town.THERE_LINK}%vpn"))


def test_link_local_on_both_links(town: Town, alice: Person, bob: Person) -> None:
    """Two users may have the same ports and addresses on two links: the scope decides."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, far):
        port = far.getsockname()[1]
        with listening(town, town.THERE_LINK, port):
            bob.dial((f"{town.THERE_LINK}%vpn", port), source=(f"{town.HERE_LINK}%vpn", ends[0][1]))
            assert find(town, other(ends, server=f"{town.HERE_LINK}%lan")).uid == alice.uid
            assert find(town, other(ends, server=f"{town.HERE_LINK}%vpn")).uid == bob.uid
            with pytest.raises(IdentError) as ambiguous:
                find(town, ends)
        assert not isinstance(ambiguous.value, NoUser)


@pytest.mark.parametrize(("near", "far"), [(Town.HERE, Town.THERE), (Town.HERE_6, Town.THERE_6)])
def test_bound_to_a_device(town: Town, alice: Person, near: str, far: str) -> None:
    """A connection of a socket that is bound to a device is found."""
    with call(town, alice, far, town.elsewhere, device="vpn") as (ends, _):
        assert ends[0][0] == near
        assert find(town, ends).uid == alice.uid


def test_two_devices_two_owners(town: Town, alice: Person, bob: Person) -> None:
    """Where two users' connections differ in the device alone nobody is named, and both stand in the detail."""
    with call(town, alice, town.THERE, device="lan") as (ends, far):
        with listening(town, town.THERE, far.getsockname()[1]):
            assert bob.dial(ends[1], source=ends[0], device="vpn") == ends
            with pytest.raises(IdentError) as ambiguous:
                find(town, ends)
        assert not isinstance(ambiguous.value, NoUser)
        assert str(ambiguous.value) == "UNKNOWN-ERROR"
        for person in (alice, bob):
            assert f"uid {person.uid} " in ambiguous.value.detail


def test_two_devices_one_owner(town: Town, alice: Person) -> None:
    """Where two connections differ in the device alone and one user has both, that user is named."""
    on_lan = call(town, alice, town.THERE, device="lan")
    with on_lan as (ends, far), listening(town, town.THERE, far.getsockname()[1]):
        assert alice.dial(ends[1], source=ends[0], device="vpn") == ends
        assert find(town, ends).uid == alice.uid


def test_a_closed_socket_on_another_device(town: Town, alice: Person, bob: Person) -> None:
    """What remains of a closed connection on one device does not hide the holder of the one on another."""
    on_lan = call(town, alice, town.THERE, device="lan")
    with on_lan as (ends, far), listening(town, town.THERE, far.getsockname()[1]):
        bob.dial(ends[1], source=ends[0], device="vpn")
        alice.tell("kept.pop().close()")
        assert find(town, ends).uid == bob.uid


@pytest.fixture(scope="module")
def city(town: Town) -> Iterator[Town]:
    """A host of 500 interfaces, of which the last ones lead to others."""
    with Town(bridges=500) as city:
        yield city


def test_five_hundred_interfaces(city: Town, alice_uid: int, wire: type[Wire]) -> None:
    """A connection on the last of 500 interfaces is found, with no more requests than there are interfaces."""
    with Person(alice_uid, city.here) as alice, call(city, alice, namespace=city.elsewhere, device="vpn") as (ends, _):
        assert find(city, ends).uid == alice.uid
        with inside(city.here):
            interfaces = len(socket.if_nameindex())
        assert interfaces > 500
        assert len(wire.sent) == 1 + interfaces


def test_more_interfaces_than_are_tried(
    city: Town, alice_uid: int, wire: type[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the bound there is no answer, and what is sent stays within it."""
    monkeypatch.setattr(sock_diag, "MAX_INTERFACES", 100)
    with Person(alice_uid, city.here) as alice, call(city, alice, namespace=city.elsewhere, device="vpn") as (ends, _):
        with pytest.raises(NoUser):
            find(city, ends)
        exact = [flags for _, flags, _ in wire.sent if not flags & NLM_F_DUMP]
        assert len(exact) == 1 + 100


def test_the_bound_holds_for_whole_and_broken_batches(
    city: Town, wire: type[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of interfaces tried is the bound, whether or not it is a multiple of what one datagram takes."""
    for bound in (0, 1, 63, 64, 65, 128):
        wire.sent.clear()
        monkeypatch.setattr(sock_diag, "MAX_INTERFACES", bound)
        with pytest.raises(NoUser):
            find(city, ((city.HERE, 1), (city.THERE, 1)))
        assert len([flags for _, flags, _ in wire.sent if not flags & NLM_F_DUMP]) == 1 + bound


# What is sent, and what comes back.


def test_one_exact_request(town: Town, alice: Person, wire: type[Wire]) -> None:
    """A hit costs one request, which is no dump."""
    with call(town, alice) as (ends, _):
        find(town, ends)
        assert [(kind, flags) for kind, flags, _ in wire.sent] == [(20, 1)]


def test_a_miss_walks_no_table(town: Town, wire: type[Wire]) -> None:
    """A miss asks once per interface; what it dumps is of no state at all, so the kernel walks nothing."""
    with pytest.raises(NoUser):
        find(town, ((town.HERE, 1), (town.THERE, 1)))
    exact = [flags for _, flags, _ in wire.sent if not flags & NLM_F_DUMP]
    dumped = [states for _, flags, states in wire.sent if flags & NLM_F_DUMP]
    with inside(town.here):
        assert exact == [1] * (1 + len(socket.if_nameindex()))
    assert dumped in ([], [0])


def test_strace_sees_no_dump(town: Town, alice: Person) -> None:
    """Seen from outside, too, a hit is one netlink socket and one datagram."""
    strace = program("strace")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lookup.sock_diag import find; print(find(*{{}}).uid)"
    with call(town, alice) as (ends, _):
        command = [strace, "-f", "-e", "trace=socket,sendto,sendmsg,sendmmsg", "-o", "/dev/stderr"]
        command += [sys.executable, "-c", code.format(ends)]
        with inside(town.here):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "PTRACE" in done.stderr and not done.stdout:
        skip("may not trace here")
    assert done.stdout == f"{alice.uid}\n"
    sends = [line for line in done.stderr.splitlines() if "send" in line]
    assert len(sends) == 1
    assert "NLM_F_REQUEST" in sends[0]
    assert "NLM_F_DUMP" not in sends[0]


def test_a_long_dump_is_read_to_its_end(wire: type[Wire]) -> None:
    """By the ports alone, the one connection that fits is found among thousands, with one dump per family."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=1000))
        clients = []
        for _ in range(300):
            clients.append(stack.enter_context(socket.create_connection(listener.getsockname())))
            stack.enter_context(listener.accept()[0])
        for client in (clients[0], clients[150], clients[-1]):
            server, peer = client.getsockname(), client.getpeername()
            wire.sent.clear()
            assert sock_diag.find_by_ports(("", server[1]), ("", peer[1])).uid == os.getuid()
            assert [(flags & NLM_F_DUMP) for _, flags, _ in wire.sent] == [NLM_F_DUMP, NLM_F_DUMP]
        owner = sock_diag.find_by_ports((LOOPBACK, listener.getsockname()[1]), ("", clients[7].getsockname()[1]))
        assert owner.client == clients[7].getsockname()


@pytest.mark.parametrize("host", ["127.0.0.1", "not an address"])
def test_the_netlink_socket_is_closed(wire: type[Wire], host: str) -> None:
    """A hit, a miss and an error each leave no netlink socket behind."""
    with connect() as pair:
        ends = (host, pair.client.getsockname()[1]), pair.client.getpeername()
        for asked in (ends, (ends[0], ("127.0.0.2", 1))):
            with contextlib.suppress(NoUser, ValueError):
                sock_diag.find(*asked)
            with contextlib.suppress(NoUser, ValueError):
                sock_diag.find_by_ports(*asked)
    assert len(wire.netlink) == 4
    assert [diag.fileno() for diag in wire.netlink] == [-1] * 4


def test_no_privilege_is_needed(town: Town, alice: Person) -> None:
    """A process of nobody's without any capability gets the same answers as root's."""
    with Person(65534, town.here) as nobody, Person(0, town.here) as root:
        status = nobody.tell("open('/proc/self/status').read()")
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
        with call(town, alice) as (ends, _), call(town, root) as (roots, _):
            bound = call(town, alice, namespace=town.elsewhere, device="vpn")
            with bound as (over_vpn, _):
                for asked in (ends, roots, over_vpn, other(ends, client=town.MUTED)):
                    assert nobody.ask(asked) == root.ask(asked)
                assert nobody.ask(over_vpn) == ("UNIX", pwd.getpwuid(alice.uid).pw_name)


def test_another_errno_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel refuses with another errno than ENOENT is UNKNOWN-ERROR, and the errno stands in the detail."""
    monkeypatch.setattr(sock_diag, "_SOCK_DIAG_BY_FAMILY", 99)
    with connect() as pair:
        ends = pair.client.getsockname(), pair.client.getpeername()
        for ask in (sock_diag.find, sock_diag.find_by_ports):
            with pytest.raises(IdentError) as refused:
                ask(*ends)
            assert not isinstance(refused.value, NoUser)
            assert refused.value.detail == "sock_diag says EINVAL"


def test_a_silent_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer at all (here a socket filter takes it) is UNKNOWN-ERROR, at once."""
    with connect() as pair, sock_diag.SockDiag() as diag:
        drop_everything = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET|BPF_K, 0
        address = socket_filter(drop_everything)
        diag._socket.setsockopt(socket.SOL_SOCKET, 26, address[0])  # SO_ATTACH_FILTER
        with pytest.raises(IdentError, match="UNKNOWN-ERROR") as refused:
            diag.find(pair.client.getsockname(), pair.client.getpeername())
    assert "sock_diag answer" in refused.value.detail


def socket_filter(program: bytes) -> tuple[bytes, object]:
    """Return a struct sock_fprog, and the buffer that it points at, which must outlive it."""
    import ctypes

    text = ctypes.create_string_buffer(program, len(program))
    return struct.pack("@HP", len(program) // 8, ctypes.addressof(text)), text


def test_answers_that_overrun_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where answers were lost (ENOBUFS) nothing is said of the connection."""
    with sock_diag.SockDiag() as diag, pytest.raises(IdentError) as refused:
        diag._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        nowhere = bytes([127, 0, 0, 1])
        diag._holders(nowhere, (LOOPBACK, 1), nowhere, (LOOPBACK, 1), [0] * 64)
    assert not isinstance(refused.value, NoUser)
    assert "sock_diag answer" in refused.value.detail


def test_another_process_on_the_netlink_socket(needs_root: None) -> None:
    """What another process writes to the socket is no answer, well-formed as it may be."""
    with connect() as pair, sock_diag.SockDiag() as diag:
        server, client = pair.client.getsockname(), pair.client.getpeername()
        diag._socket.bind((0, 0))
        message = struct.pack("=4B", socket.AF_INET, ESTABLISHED, 0, 0)
        message += struct.pack(">HH", server[1], client[1])
        message += socket.inet_aton(server[0]).ljust(16, b"\0") + socket.inet_aton(client[0]).ljust(16, b"\0")
        message += struct.pack("=IQIIIII", 0, 1, 0, 0, 0, 4242, 4242)
        forged = struct.pack("=IHHII", 16 + len(message), 20, 0, 1, 0) + message
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as forger:
            forger.sendto(forged, diag._socket.getsockname())
        assert diag._socket.recvfrom(65536, socket.MSG_PEEK)[0] == forged
        assert diag.find(server, client).uid == os.getuid()


def test_a_late_answer_to_an_earlier_request() -> None:
    """An answer that was not waited for is not taken for the next one's."""
    with connect() as first, connect() as second, sock_diag.SockDiag() as diag:
        ends = [(pair.client.getsockname(), pair.client.getpeername()) for pair in (first, second)]
        inodes = [os.fstat(pair.client.fileno()).st_ino for pair in (first, second)]
        addresses = [(socket.inet_aton(server[0]), server[1], socket.inet_aton(client[0]), client[1])
                     for server, client in ends]  # fmt: skip
        diag._send(diag._encode(*addresses[0], 1))
        assert diag.find(*ends[1]).inode == inodes[1]


def test_one_socket_answers_many_questions(town: Town, alice: Person, bob: Person) -> None:
    """A `SockDiag` can be asked again and again, hits and misses in turn."""
    with inside(town.here):
        diag = sock_diag.SockDiag()
    with diag, call(town, alice) as (hers, _), call(town, bob) as (his, _):
        for _ in range(3):
            assert diag.find(*hers).uid == alice.uid
            with pytest.raises(NoUser):
                diag.find(*other(hers, client=town.MUTED))
            assert diag.find_by_ports(("", his[0][1]), ("", his[1][1])).uid == bob.uid
            assert diag.find(*his).uid == bob.uid


def test_no_tcp_diag_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no handler for the protocol it says ENOENT to everything: that is no answer."""
    encode = sock_diag.SockDiag._encode

    def encode_unhandled(self: sock_diag.SockDiag, *arguments: Any, **named: Any) -> bytearray:
        return encode(self, *arguments, **{**named, "protocol": 253})  # RFC 3692: for experiments

    monkeypatch.setattr(sock_diag.SockDiag, "_encode", encode_unhandled)
    with connect() as pair, pytest.raises(sock_diag.SockDiagUnavailable, match="no tcp_diag"):
        sock_diag.find(pair.client.getsockname(), pair.client.getpeername())


def test_which_protocols_the_kernel_answers_for() -> None:
    """TCP has a handler here, and a protocol for experiments has none."""
    with sock_diag.SockDiag() as diag:
        assert diag.answers_for(6)
        assert not diag.answers_for(253)


@pytest.mark.parametrize("number", ["EAFNOSUPPORT", "EPROTONOSUPPORT", "EPERM", "EACCES"])
def test_forbidden_netlink(number: str) -> None:
    """A process that may not open AF_NETLINK must ask elsewhere, whichever errno says so."""
    with Person(os.getuid()) as prisoner:
        prisoner.tell(f"forbid_netlink(errno.{number})")
        assert prisoner.tell(FIND_KIND) == "SockDiagUnavailable"


FIND_KIND = """
from lookup import sock_diag
try:
    sock_diag.find(("127.0.0.1", 1), ("127.0.0.1", 1))
except Exception as error:
    kind = type(error).__name__
kind
"""


def test_no_descriptor_left() -> None:
    """A process that has run out of descriptors can tell nothing, and asks nobody else."""
    with Person(os.getuid()) as person:
        person.tell("import resource; sock_diag.SockDiag().close()")
        person.tell("resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))")
        assert person.tell(FIND_KIND) == "IdentError"


@pytest.mark.parametrize("host", ["", "localhost", "1.2.3", "1.2.3.4%lo", "::1%no-such-device", "::g", "1.2.3.4\0"])
def test_what_is_no_address(host: str) -> None:
    """Text that is no address is a ValueError, on either side."""
    for ends in (((host, 1), (LOOPBACK, 1)), ((LOOPBACK, 1), (host, 1))):
        with pytest.raises(ValueError):
            sock_diag.find(*ends)


def test_a_scope_too_large_for_an_interface() -> None:
    """A scope that no interface could have finds nothing, and breaks nothing."""
    for scope in (2**31 - 1, 2**32 - 1, 2**32, 10**100):
        with pytest.raises((ValueError, NoUser)):
            sock_diag.find((f"fe80::1%{scope}", 1), ("fe80::2", 1))


# By the ports alone.


def test_the_ports_decide(town: Town, alice: Person) -> None:
    """Without addresses the ports find the connection, over IPv4 and IPv6, bound to a device or not."""
    for host, how in (
        (town.THERE, {}), (town.THERE_6, {}), (town.THERE, {"device": "vpn", "namespace": town.elsewhere}),
    ):  # fmt: skip
        with call(town, alice, host, **how) as (ends, _):
            owner = by_ports(town, ("", ends[0][1]), ("", ends[1][1]))
            assert (owner.uid, owner.server, owner.client) == (alice.uid, *ends)


def test_the_ports_of_a_dual_stack_socket(town: Town, alice: Person) -> None:
    """A dual-stack connection is found by its ports, and by either form of its IPv4 address."""
    with welcome(town, alice, "::", town.HERE, socket.AF_INET6) as (ends, _):
        for host in ("", town.HERE, f"::ffff:{town.HERE}"):
            assert by_ports(town, (host, ends[0][1]), ("", ends[1][1])).uid == alice.uid


def test_the_ports_of_another_owner_too(town: Town, alice: Person, bob: Person) -> None:
    """Ports that fit connections of two users name neither; one address that tells them apart decides."""
    with town.listen(town.THERE) as listener:
        hers = alice.dial(listener.getsockname())
        his = bob.dial(listener.getsockname(), source=(town.HERE_TOO, hers[0][1]))
        server, client = ("", hers[0][1]), ("", hers[1][1])
        with pytest.raises(IdentError) as ambiguous:
            by_ports(town, server, client)
        assert not isinstance(ambiguous.value, NoUser)
        for person, ends in ((alice, hers), (bob, his)):
            assert f"{ends[0][0]}:{ends[0][1]} " in ambiguous.value.detail
            assert f"uid {person.uid} " in ambiguous.value.detail
            assert by_ports(town, ends[0], client).uid == person.uid
        with pytest.raises(IdentError) as ambiguous:
            by_ports(town, server, hers[1])
        assert not isinstance(ambiguous.value, NoUser)
        for nobody in (town.NOBODY, town.THERE_6):
            with pytest.raises(NoUser):
                by_ports(town, server, (nobody, client[1]))


def test_the_ports_of_one_owner_twice(town: Town, alice: Person) -> None:
    """Ports that fit two connections of one user name that user."""
    with town.listen(town.THERE) as listener:
        first = alice.dial(listener.getsockname())
        alice.dial(listener.getsockname(), source=(town.HERE_TOO, first[0][1]))
        assert by_ports(town, ("", first[0][1]), ("", first[1][1])).uid == alice.uid


def test_a_closed_connection_with_the_same_ports(town: Town, alice: Person, bob: Person) -> None:
    """What remains of a closed connection does not make a holder of the same ports ambiguous."""
    with town.listen(town.THERE) as listener:
        hers = alice.dial(listener.getsockname())
        bob.dial(listener.getsockname(), source=(town.HERE_TOO, hers[0][1]))
        alice.tell("kept.pop().close()")
        assert by_ports(town, ("", hers[0][1]), ("", hers[1][1])).uid == bob.uid


# A reader who sees other uids than the socket's.


@pytest.mark.parametrize("mapping", [(), (0, 0, 1)], ids=["nothing", "root"])
def test_a_user_namespace_that_hides_uids(town: Town, alice: Person, mapping: tuple[int, ...]) -> None:
    """Behind a user namespace an unmapped owner is UNKNOWN-ERROR, never "nobody", whose uid the kernel shows."""
    with Person(0, town.here) as prisoner, Person(65534, town.here) as nobody:
        prisoner.tell("leave_user_namespace(*mapping)", mapping=mapping)
        for person in (alice, nobody):
            with call(town, person) as (ends, _):
                assert prisoner.tell("sock_diag.find(*ends).uid", ends=ends) == 65534
                assert prisoner.ask(ends) == "UNKNOWN-ERROR"
        if mapping:
            with call(town, prisoner) as (ends, _):
                assert prisoner.ask(ends) == ("UNIX", "root")


def test_both_sources_say_the_same(town: Town, alice: Person, bob: Person) -> None:
    """To root, psutil tells of the same owners as the kernel does."""
    with Person(0, town.here) as root, call(town, alice) as (hers, _), call(town, bob, town.THERE_6) as (his, _):
        for ends in (hers, his):
            kernels, psutils = (
                root.tell(f"o = {source}.find(*ends); (o.uid, o.inode, o.state, o.server, o.client)", ends=ends)
                for source in ("sock_diag", "processes")
            )
            assert kernels == psutils
