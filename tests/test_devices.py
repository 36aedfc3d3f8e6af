"""Which interface does a connection go over, where only that tells it from another?"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from helpers.calls import call, listening, other
from helpers.hosts import Person, Town, inside
from helpers.netlink import NLM_F_DUMP, Wire, find

from lookup.connection import IdentError, NoUser
from lookup.kernel import devices

if TYPE_CHECKING:
    from collections.abc import Iterator


pytest_plugins = ["helpers.people", "helpers.netlink"]


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
    """Without a scope the interfaces are tried: only one can be meant."""
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
    monkeypatch.setattr(devices, "MAX_INTERFACES", 100)
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
        monkeypatch.setattr(devices, "MAX_INTERFACES", bound)
        with pytest.raises(NoUser):
            find(city, ((city.HERE, 1), (city.THERE, 1)))
        assert len([flags for _, flags, _ in wire.sent if not flags & NLM_F_DUMP]) == 1 + bound
