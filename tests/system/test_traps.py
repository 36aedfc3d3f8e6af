"""Do both drivers give the one right answer where the kernel sets a trap, over the network, about real users?"""

from __future__ import annotations

import contextlib
import pwd
import socket
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from helpers.calls import call, listening, other, welcome
from helpers.hosts import Person, Town, family_of, inside, nameless_uid, until
from helpers.installed import free_port
from helpers.machine import only_if_others_can_read_it
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, ending, start
from helpers.states import CLOSE_WAIT, FIN_WAIT2, SYN_SENT, TIME_WAIT, table
from helpers.warm import until_it_serves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from helpers.hosts import Ends

pytest_plugins = ["helpers.people"]


class Question(NamedTuple):
    """A connection, who is to be told as its owner (or why nobody), and over which device the far end asks."""

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
    """A socket that is bound to a device, which hides it from requests without one."""
    with call(town, alice, town.THERE, town.elsewhere, device="vpn") as (ends, _far):
        yield Question(ends, alice)


def two_devices_two_owners(town: Town, alice: Person, bob: Person) -> Iterator[Question]:
    """Two users' connections differ in the device alone: nobody is named."""
    with call(town, alice, town.THERE, device="lan") as (ends, far), listening(
        town, town.THERE, far.getsockname()[1]
    ):
        bob.dial(ends[1], source=ends[0], device="vpn")
        yield Question(ends, "UNKNOWN-ERROR")


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


TRAPS = (
    connected_over_ipv4, connected_over_ipv6, accepted, listener_only, not_accepted, time_wait, orphaned,
    half_closed_by_the_peer, half_closed_by_its_holder, not_answered, dual_stack, link_local, link_local_on_two_links,
    bound_to_a_device, two_devices_two_owners, without_passwd_entry, another_asker, another_server,
)  # fmt: skip


def ask_as_the_peer(town: Town, question: Question, port: int) -> socket.socket:
    """Send a query from the far end's address to identd on ours, and return the asker's socket."""
    with inside(town.elsewhere if question.device == "vpn" else town.there):
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
    with inside(town.elsewhere if question.device == "vpn" else town.there):
        return socket.getaddrinfo(question.host(end), port)[0][4]


def by_a_single_shot(town: Town, question: Question) -> bytes:
    """Ask an identd that was started for this one query."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(town.listen(question.host(0), town.here))
        asker = stack.enter_context(ask_as_the_peer(town, question, listener.getsockname()[1]))
        connection, _ = listener.accept()
        with connection, inside(town.here):
            process = stack.enter_context(ending(start(COMMAND, connection)))
        reply = everything(asker)
        assert process.wait(PATIENCE) == 0
        return reply


@pytest.fixture(scope="module")
def foreground(town: Town) -> Iterator[int]:
    """The port of a warm identd that has opened its own socket, on all addresses of the host."""
    only_if_others_can_read_it()
    with inside(town.here):
        port = free_port()
        process = subprocess.Popen(
            [*COMMAND, "--foreground", "--port", str(port)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    with ending(process):
        until_it_serves(process)
        yield port


@pytest.mark.parametrize("trap", TRAPS, ids=[trap.__name__ for trap in TRAPS])
def test_the_kernels_traps(
    town: Town, alice: Person, bob: Person, foreground: int, trap: Callable[..., Iterator[Question]]
) -> None:
    """Both drivers give the one right answer, the warm one when it meets the owner first and again."""
    for question in trap(town, alice, bob):
        replies = {"single": by_a_single_shot(town, question)}
        for time_ in ("first", "again"):
            with ask_as_the_peer(town, question, foreground) as asker:
                replies[time_] = everything(asker)
        assert replies == dict.fromkeys(("single", "first", "again"), question.reply)
