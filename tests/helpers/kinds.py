"""Which kinds of connections are there, who is the owner of each, and how does its far end ask?"""

from __future__ import annotations

import pwd
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.calls import call, inherited, listening, other, welcome
from helpers.hosts import IPPROTO_MPTCP, Person, Town, family_of, inside, nameless_uid, until
from helpers.machine import NOBODY, skip
from helpers.pairs import LOOPBACK, PATIENCE
from helpers.states import CLOSE_WAIT, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_RECV, SYN_SENT, TIME_WAIT, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.hosts import Ends


class Question(NamedTuple):
    """A connection, who is to be told as its owner (or why nobody), and over which device the far end asks.

    ``device``: "lo" where that is this host; ``""``: what goes to the far end is lost, so it can't ask.
    """

    ends: Ends
    told: Person | str
    device: str = "lan"

    @property
    def reply(self) -> bytes:
        ports = b"%d,%d" % (self.ends[0][1], self.ends[1][1])
        if isinstance(self.told, str):
            return b"%b:ERROR:%b\r\n" % (ports, self.told.encode())
        try:
            return b"%b:USERID:UNIX:%b\r\n" % (ports, pwd.getpwuid(self.told.uid).pw_name.encode())
        except KeyError:
            return b"%b:USERID:OTHER:%d\r\n" % (ports, self.told.uid)

    def host(self, end: int) -> str:
        """Return the address of an end, a link-local one with its scope, which is called the same on both sides."""
        host = self.ends[end][0]
        return f"{host}%{self.device}" if host.startswith("fe80:") else host

    def far_host(self, town: Town) -> str:
        """Return the network namespace of the far end."""
        return {"lan": town.there, "vpn": town.elsewhere, "lo": town.here}[self.device]


def connected_over_ipv4(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who connected, over IPv4."""
    with call(town, alice) as (ends, _far):
        yield Question(ends, alice)


def connected_over_ipv6(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who connected, over IPv6."""
    with call(town, alice, town.THERE_6) as (ends, _far):
        yield Question(ends, alice)


def accepted(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who accepted."""
    with welcome(town, alice, town.HERE, town.HERE) as (ends, _far):
        yield Question(ends, alice)


def listener_only(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Nothing but a listener has the port."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    yield Question(((town.HERE, port), (town.THERE, 6667)), "NO-USER")


def not_accepted(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Nobody has accepted the connection yet."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), socket.create_connection((town.HERE, port)) as caller:
        yield Question(((town.HERE, port), caller.getsockname()), "NO-USER")


def time_wait(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """What remains of a closed connection, of which the kernel says uid 0."""
    with call(town, alice) as (ends, far):
        alice.tell("kept.pop().close()")
        far.close()
        until(lambda: table(town.here, ends) == (TIME_WAIT, 0, 0))
        yield Question(ends, "NO-USER")


def orphaned(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Its holder has closed the connection, its peer has not."""
    with call(town, alice) as (ends, _far):
        alice.tell("kept.pop().close()")
        until(lambda: table(town.here, ends) == (FIN_WAIT2, 0, 0))
        yield Question(ends, "NO-USER")


def half_closed_by_the_peer(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The peer sends no more."""
    with call(town, alice) as (ends, far):
        far.shutdown(socket.SHUT_WR)
        until(lambda: (table(town.here, ends) or [0])[0] == CLOSE_WAIT)
        yield Question(ends, alice)


def half_closed_by_its_holder(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The holder sends no more, and still holds it."""
    with call(town, alice) as (ends, _far):
        alice.tell("kept[-1].shutdown(socket.SHUT_WR)")
        until(lambda: (table(town.here, ends) or [0])[0] == FIN_WAIT2)
        yield Question(ends, alice)


def not_answered(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The peer has not consented yet (SYN_SENT): a firewall asks then. Its listener's queue is full."""
    with town.listen(town.THERE) as listener:
        listener.listen(0)
        alice.dial(listener.getsockname())
        ends = alice.dial(listener.getsockname(), wait=False)
        assert (table(town.here, ends) or [0])[0] == SYN_SENT
        yield Question(ends, alice)


def dual_stack(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A `::` socket of which the peer is an IPv4 one."""
    with welcome(town, alice, "::", town.HERE, socket.AF_INET6) as (ends, _far):
        yield Question(ends, alice)


def link_local(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A link-local connection."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, _far):
        yield Question(ends, alice)


def link_local_on_two_links(town: Town, alice: Person, bob: Person) -> Iterator[Question]:
    """Two users have the same ports and addresses on two links: the link that the query comes over decides."""
    with call(town, alice, f"{town.THERE_LINK}%lan") as (ends, far), listening(
        town, town.THERE_LINK, far.getsockname()[1]
    ):
        bob.dial((f"{town.THERE_LINK}%vpn", ends[1][1]), source=(f"{town.HERE_LINK}%vpn", ends[0][1]))
        yield Question(ends, alice, "lan")
        yield Question(ends, bob, "vpn")


def bound_to_a_device(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A socket that is bound to a device, which hides it from requests without one, is found by who asks over that.

    To whoever has the far end's address on another link it is no connection of theirs.
    """
    with call(town, alice, town.ELSEWHERE, town.elsewhere, device="vpn") as (ends, _far):
        yield Question(ends, alice, "vpn")
    with call(town, alice, town.THERE, device="lan") as (ends, _far):
        yield Question(ends, alice, "lan")
    with call(town, alice, town.THERE, town.elsewhere, device="vpn") as (ends, _far):
        yield Question(ends, "NO-USER", "lan")


def two_devices_two_owners(town: Town, alice: Person, bob: Person) -> Iterator[Question]:
    """Two users' connections differ in the device alone: the one that the query comes over decides."""
    for own, others in ((alice, bob), (bob, alice)):
        with call(town, own, town.THERE, device="lan") as (ends, far), listening(
            town, town.THERE, far.getsockname()[1]
        ):
            others.dial(ends[1], source=ends[0], device="vpn")
            yield Question(ends, own, "lan")


def without_passwd_entry(town: Town, *_: Person) -> Iterator[Question]:
    """An owner who has no name."""
    with Person(nameless_uid(), town.here) as stranger, call(town, stranger) as (ends, _far):
        yield Question(ends, stranger)


def another_asker(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Whoever asks from another address than the peer's learns nothing."""
    with call(town, alice) as (ends, _far):
        yield Question(other(ends, client=town.MUTED), "NO-USER")


def another_server(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A query that comes to another address of this host is about another connection."""
    with call(town, alice) as (ends, _far):
        yield Question(other(ends, server=town.HERE_TOO), "NO-USER")


def accepted_over_ipv6(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who accepted, over IPv6."""
    with welcome(town, alice, town.HERE_6, town.HERE_6) as (ends, _far):
        yield Question(ends, alice)


def both_ends_here(_: Town, alice: Person, bob: Person) -> Iterator[Question]:
    """Each end of a connection of this host with itself has its own holder."""
    port = bob.tell("listener = listen('127.0.0.1'); listener.getsockname()[1]")
    ends = alice.dial((LOOPBACK, port))
    bob.tell("kept.append(listener.accept()[0])")
    yield Question(ends, alice, "lo")
    yield Question((ends[1], ends[0]), bob, "lo")


def two_addresses_two_owners(town: Town, alice: Person, bob: Person) -> Iterator[Question]:
    """Two users have the same ports at two addresses of this host."""
    with town.listen(town.THERE) as listener:
        first = alice.dial(listener.getsockname())
        second = bob.dial(listener.getsockname(), source=(town.HERE_TOO, first[0][1]))
        yield Question(first, alice)
        yield Question(second, bob)


def wrong_port(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """A port that differs, on either side."""
    with call(town, alice) as ((here, there), _far):
        yield Question((here, (there[0], there[1] % 65535 + 1)), "NO-USER")
        yield Question(((here[0], here[1] % 65535 + 1), there), "NO-USER")


def dual_stack_listener_only(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Nothing but a `::` listener has the port: over neither family there is a connection."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host="::")
    yield Question(((town.HERE, port), (town.THERE, 6667)), "NO-USER")
    yield Question(((town.HERE_6, port), (town.THERE_6, 6667)), "NO-USER")


def half_open(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The far end has asked for a connection and not yet confirmed it."""
    port = alice.tell("listener = listen(host); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), town.mute(), socket.socket() as caller:
        caller.bind((town.MUTED, 0))
        caller.setblocking(False)
        assert caller.connect_ex((town.HERE, port))
        ends = (town.HERE, port), caller.getsockname()
        until(lambda: (table(town.here, ends) or [0])[0] == SYN_RECV)
        yield Question(ends, "NO-USER", "")


def last_ack(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Both have closed it, and the kernel still sends the last octets."""
    with call(town, alice, town.MUTED) as (ends, far):
        far.shutdown(socket.SHUT_WR)
        until(lambda: (table(town.here, ends) or [0])[0] == CLOSE_WAIT)
        with town.mute():
            alice.tell("kept.pop().close()")
            assert (table(town.here, ends) or [0])[0] == LAST_ACK
            yield Question(ends, "NO-USER", "")


def fin_wait_1(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """Its holder has closed it, and the far end does not know that yet."""
    with call(town, alice, town.MUTED) as (ends, _far), town.mute():
        alice.tell("kept.pop().close()")
        assert (table(town.here, ends) or [0])[0] == FIN_WAIT1
        yield Question(ends, "NO-USER", "")


def mptcp_connected(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who connected, by Multipath TCP."""
    _only_with_mptcp()
    with call(town, alice, protocol=IPPROTO_MPTCP) as (ends, _far):
        yield Question(ends, alice)


def mptcp_accepted(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The one who accepted, by Multipath TCP."""
    _only_with_mptcp()
    port = alice.tell("listener = listen(host, 0, 262); listener.getsockname()[1]", host=town.HERE)
    with inside(town.there), socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as caller:
        caller.connect((town.HERE, port))
        alice.tell("kept.append(listener.accept()[0])")
        yield Question(((town.HERE, port), caller.getsockname()), alice)


def _only_with_mptcp() -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        skip(f"needs MPTCP: {error}")


def handed_to_another_user(town: Town, _: Person, bob: Person) -> Iterator[Question]:
    """Only another user's process holds it by now; it is of who made it."""
    with Person(0, town.here) as root, call(town, root) as (ends, _far), inherited(root, bob.uid):
        root.tell("kept.pop().close()")
        yield Question(ends, root)


def became_another_user(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """It is of the user that its process was when it made it."""
    with Person(0, town.here) as daemon, call(town, daemon) as (ends, _far):
        daemon.tell("os.setresuid(uid, uid, uid)", uid=alice.uid)
        yield Question(ends, daemon)
        with call(town, daemon) as (later, _far):
            yield Question(later, alice)


def nobodys(town: Town, *_: Person) -> Iterator[Question]:
    """The user called nobody has it."""
    with Person(NOBODY, town.here) as nobody, call(town, nobody) as (ends, _far):
        yield Question(ends, nobody)


def turned_round(town: Town, alice: Person, _: Person) -> Iterator[Question]:
    """The far end of a connection is not here: it is another one with the ends exchanged."""
    with call(town, alice) as (ends, _far):
        yield Question((ends[1], ends[0]), "NO-USER", "")


#: One kind: makes such connections, and yields the questions about each while it is there.
Kind = Callable[[Town, Person, Person], "Iterator[Question]"]

#: Those that both drivers are asked about, over the network.
TRAPS: tuple[Kind, ...] = (
    connected_over_ipv4, connected_over_ipv6, accepted, listener_only, not_accepted, time_wait, orphaned,
    half_closed_by_the_peer, half_closed_by_its_holder, not_answered, dual_stack, link_local, link_local_on_two_links,
    bound_to_a_device, two_devices_two_owners, without_passwd_entry, another_asker, another_server,
)  # fmt: skip


#: All of them.
KINDS: tuple[Kind, ...] = (
    *TRAPS, accepted_over_ipv6, both_ends_here, two_addresses_two_owners, wrong_port, dual_stack_listener_only,
    half_open, last_ack, fin_wait_1, mptcp_connected, mptcp_accepted, handed_to_another_user, became_another_user,
    nobodys, turned_round,
)  # fmt: skip

def ask_as_the_peer(town: Town, question: Question, port: int) -> socket.socket:
    """Send a query from the far end's address to identd on ours, and return the asker's socket."""
    with inside(question.far_host(town)):
        asker = socket.socket(family_of(question.host(0)))
    asker.settimeout(PATIENCE)
    try:
        asker.bind(_address(town, question, 1, 0))
        asker.connect(_address(town, question, 0, port))
        asker.sendall(b"%d,%d\r\n" % (question.ends[0][1], question.ends[1][1]))
    except BaseException:
        asker.close()
        raise
    return asker


def _address(town: Town, question: Question, end: int, port: int) -> Any:
    """Return an address with its scope as a number of the asker's host."""
    with inside(question.far_host(town)):
        return socket.getaddrinfo(question.host(end), port)[0][4]


