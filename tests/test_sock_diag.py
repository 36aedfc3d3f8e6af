"""Who holds this connection?  Every trap of sock_diag, built for real, and the right answer to each."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
import subprocess
import sys
from typing import Any

import pytest
from helpers import kinds
from helpers.calls import call, inherited, other, welcome
from helpers.hosts import IPPROTO_MPTCP, Person, Refused, Town, inside, nameless_uid, until
from helpers.machine import ROOT, program, skip
from helpers.netlink import NLM_F_DUMP, Wire, by_ports, find
from helpers.pairs import LOOPBACK, connect
from helpers.states import CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_SENT, TIME_WAIT, table

from lookup.connection import IdentError, NoUser
from lookup.kernel import dumps, sock_diag

pytest_plugins = ["helpers.people", "helpers.netlink"]


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
    with Person(0, town.here) as root, call(town, root) as (ends, _), inherited(root, bob_uid):
        root.tell("kept.pop().close()")
        assert find(town, ends).uid == 0


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


def test_half_open(town: Town, alice: Person, bob: Person) -> None:
    """A peer that has asked for a connection and not yet confirmed it has none."""
    for question in kinds.half_open(town, alice, bob):
        with pytest.raises(NoUser):
            find(town, question.ends)


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
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom lookup.kernel.sock_diag import find\n"
    with call(town, alice) as (ends, _):
        command = [strace, "-f", "-e", "trace=socket,sendto,sendmsg,sendmmsg", "-o", "/dev/stderr"]
        command += [sys.executable, "-c", f"{code}print(find(*{ends}).uid)"]
        with inside(town.here):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "PTRACE" in done.stderr and not done.stdout:
        skip("may not trace here")
    assert done.stdout == f"{alice.uid}\n"
    sends = [line for line in done.stderr.splitlines() if "send" in line]
    assert len(sends) == 1
    assert "NLM_F_REQUEST" in sends[0]
    assert "NLM_F_DUMP" not in sends[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "not an address"])
def test_the_netlink_socket_is_closed(wire: type[Wire], host: str) -> None:
    """A hit, a miss and an error each leave no netlink socket behind."""
    with connect() as pair:
        ends = (host, pair.client.getsockname()[1]), pair.client.getpeername()
        for asked in (ends, (ends[0], ("127.0.0.2", 1))):
            with contextlib.suppress(NoUser, ValueError):
                sock_diag.find(*asked)
            with contextlib.suppress(NoUser, ValueError):
                dumps.find_by_ports(*asked)
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
        for ask in (sock_diag.find, dumps.find_by_ports):
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
        diag._holders((nowhere, 1, nowhere, 1), [0] * 64)
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
            assert [found.uid for found in diag.dump(socket.AF_INET, his[0][1], his[1][1])] == [bob.uid]
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
from lookup.kernel import sock_diag
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


# A reader who sees other uids than the socket's.


@pytest.mark.parametrize("mapping", [(), (0, 0, 1)], ids=["nothing", "root"])
def test_a_user_namespace_that_hides_uids(town: Town, alice: Person, mapping: tuple[int, ...]) -> None:
    """F13. Behind a user namespace an unmapped owner is UNKNOWN-ERROR, never "nobody", whose uid the kernel shows."""
    with Person(0, town.here) as prisoner, Person(65534, town.here) as nobody:
        prisoner.tell("leave_user_namespace(*mapping)", mapping=mapping)
        for person in (alice, nobody):
            with call(town, person) as (ends, _):
                shown = "d = sock_diag.SockDiag(); [found.uid for found in d.dump(2, ends[0][1], ends[1][1])]"
                assert prisoner.tell(shown, ends=ends) == [65534]
                with pytest.raises(Refused, match="IdentError: UNKNOWN-ERROR uid 65534 may be anybody"):
                    prisoner.tell("sock_diag.find(*ends).uid", ends=ends)
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
