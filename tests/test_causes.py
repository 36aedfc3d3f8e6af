"""Why is a connection nobody's: has each cause its text, and what can't be excluded, for want of what?"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import Person, Refused, inside, listen
from helpers.machine import NOBODY, only_with_namespaces
from helpers.pairs import connect

from identserver.warm.causes import SECONDS, Causes
from identserver.warm.workers import CAUSES
from lookup.connection import IdentError, Owner
from lookup.kernel import causes, conntrack, dumps, namespaces, routes
from lookup.kernel.conntrack import ConntrackUnavailable, Entry, Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from helpers.hosts import Town

    from lookup.connection import Address

pytest_plugins = ["helpers.people"]

OURS, FAR = ("192.0.2.7", 40000), ("198.51.100.9", 6667)
FORBIDDEN = ConntrackUnavailable("conntrack answers only who has CAP_NET_ADMIN", forbidden=True)


def owner(server: Address = OURS, client: Address = FAR, state: str = "ESTABLISHED", **more: int) -> Owner:
    """Return a socket."""
    values = {"uid": 1001, "inode": 7, **more}
    return Owner(values["uid"], values["inode"], state, server, client, "sock_diag", values.get("device", 0))


def entry(original: tuple[Address, Address], reply: tuple[Address, Address], state: str = "ESTABLISHED") -> Entry:
    """Return what conntrack has."""
    return Entry(Flow(*original), Flow(*reply), 1, state)


class Host:
    """What the kernel of a host has: sockets, an entry of conntrack, its gateway, namespaces."""

    def __init__(self) -> None:
        self.sockets: list[Owner] = []
        self.entry: Entry | Exception | None = None
        self.gateway = b""
        self.own: set[bytes] = set()
        self.joined = 0
        self.elsewhere: dict[str, Owner | Exception | None] = {}
        #: What was asked for.
        self.asked: list[str] = []

    def with_ports(self, local_port: int, remote_port: int) -> list[Owner]:
        self.asked.append("dump")
        return [one for one in self.sockets if (one.server[1], one.client[1]) == (local_port, remote_port)]

    def with_far_end(self, far: Address) -> list[Owner]:
        self.asked.append("dump")
        return [one for one in self.sockets if one.client == far]

    def get(self, source: Address, destination: Address) -> Entry | None:
        self.asked.append("conntrack")
        if isinstance(self.entry, Exception):
            raise self.entry
        return self.entry

    def ask_inside(self, path: str, function: Callable[[], Any]) -> Owner | None:
        found = self.elsewhere[path]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Host:
    """A host without anything."""
    host = Host()
    monkeypatch.setattr(dumps, "with_ports", host.with_ports)
    monkeypatch.setattr(dumps, "with_far_end", host.with_far_end)
    monkeypatch.setattr(conntrack, "get", host.get)
    monkeypatch.setattr(routes, "gateway_to", lambda address: host.gateway)
    monkeypatch.setattr(routes, "device_of", lambda address: int(address in host.own))
    monkeypatch.setattr(namespaces, "joined", lambda: host.joined)
    monkeypatch.setattr(namespaces, "paths", lambda: iter(host.elsewhere))
    monkeypatch.setattr(namespaces, "ask_inside", host.ask_inside)
    monkeypatch.setattr(causes, "_COUNT", str(tmp_path / "count"))
    return host


NAT = entry((("10.0.0.2", 5), FAR), (FAR, OURS))

#: What a host has, and the words in what is said of it.
FOUND: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "no such socket"),
    "TIME_WAIT": ({"sockets": [owner(state="TIME_WAIT", inode=0)]}, "only TIME_WAIT is left"),
    "FIN_WAIT2": ({"sockets": [owner(state="FIN_WAIT2", inode=0)]}, "closed by its process"),
    "not accepted": ({"sockets": [owner(inode=0)]}, "nobody has accepted it yet"),
    "a device": ({"sockets": [owner(device=3)]}, "bound to a device"),
    "late": ({"sockets": [owner()]}, "has an owner by now"),
    "another far end": ({"sockets": [owner(client=("203.0.113.1", 6667))]}, "198.51.100.9, is not the far end of "),
    "our gateway": (
        {"sockets": [owner(client=("203.0.113.1", 6667))], "gateway": bytes([198, 51, 100, 9])},
        "own gateway, so a proxy (docker-proxy)",
    ),
    "another address here": ({"sockets": [owner(server=("192.0.2.8", 40000))]}, "another address here than 192.0.2.7"),
    "turned around": (
        {"sockets": [owner(server=("192.0.2.7", 6667), client=("198.51.100.9", 40000))]}, "6667,40000 is a connection"
    ),
    "NAT here": ({"entry": NAT}, "NAT by this host: it is the connection from 10.0.0.2:5 to 198.51.100.9:6667"),
    "NAT of our own": ({"entry": NAT, "own": {b"\12\0\0\2"}}, "this host's own connection from 10.0.0.2:5"),
    "routed": ({"entry": entry((OURS, FAR), (FAR, OURS))}, "conntrack has it (ESTABLISHED), untranslated"),
    "over": ({"entry": entry((OURS, FAR), (FAR, OURS), "TIME_WAIT")}, "conntrack still has it, in TIME_WAIT"),
    "NAT before": ({"sockets": [owner(server=("192.0.2.7", 555))]}, "but one has 555: a gateway before this host"),
    "elsewhere": ({"joined": 1, "elsewhere": {"/run/netns/x": owner()}}, "another network namespace, /run/netns/x: "),
}  # fmt: skip


@pytest.mark.parametrize(("has", "said"), FOUND.values(), ids=FOUND.keys())
def test_each_cause_has_its_text(host: Host, has: dict[str, Any], said: str) -> None:
    """What a host has is said in words that no other cause has, and nothing else is said to be possible."""
    vars(host).update(has)
    found = causes.find(OURS, FAR)
    assert len(found.found) == 1 and said in found.found[0]
    assert [name for name, (_, other) in FOUND.items() if other in found.found[0]] == [
        name for name, (_, other) in FOUND.items() if other == said
    ]
    assert found.possible == []
    assert causes.as_text(OURS, FAR) == found.found[0]
    assert str(found).isascii() and str(found).isprintable()


def test_what_can_not_be_excluded(host: Host) -> None:
    """Without a privilege, what it would show is said to be possible, and which that is; with a cause, it is not."""
    host.entry = FORBIDDEN
    host.joined, host.elsewhere = 3, {"/run/netns/x": None, "/run/netns/y": PermissionError(errno.EPERM, "no")}
    found = causes.find(OURS, FAR)
    assert found.found[0].startswith("no such socket") and len(found.found) == 1
    assert found.possible[0] == "NAT by this host (conntrack answers only who has CAP_NET_ADMIN)"
    assert found.possible[1].startswith("another network namespace (2 of the 3 joined to this one could not be looked")
    assert "CAP_SYS_ADMIN and CAP_SYS_PTRACE" in found.possible[1]
    assert "; can't be excluded: NAT by this host" in str(found)
    host.sockets = [owner(state="TIME_WAIT", inode=0)]
    assert causes.find(OURS, FAR).possible == []


@pytest.mark.parametrize(("count", "possible"), [("0\n", False), ("1\n", True), ("", True), (None, True)])
def test_no_connection_is_followed(host: Host, count: str | None, possible: bool) -> None:
    """Where conntrack follows none at all, which everybody may see, there is no NAT by this host."""
    host.entry = FORBIDDEN
    if count is not None:
        with open(causes._COUNT, "w") as file:
            file.write(count)
    assert bool(causes.find(OURS, FAR).possible) == possible


def test_what_root_saw(host: Host) -> None:
    """What was gathered before root was given up counts, and is not asked for again."""
    host.entry = NAT
    evidence = causes.gather(OURS, FAR)
    host.entry = FORBIDDEN
    host.asked.clear()
    assert causes.find(OURS, FAR, evidence).found[0].startswith("NAT by this host")
    assert host.asked == []


def test_addresses_that_are_not_given(host: Host) -> None:
    """Conntrack is asked about addresses alone: without them, that NAT is not excluded, and how it could be."""
    found = causes.find(("", 1), ("", 2))
    assert found.found[0].startswith("no such socket")
    assert "--server-address" in found.possible[0]
    assert "conntrack" not in host.asked
    host.sockets = [owner(inode=0, state="TIME_WAIT")]
    assert "TIME_WAIT" in str(causes.find(("", OURS[1]), ("", FAR[1])))


def test_many_ports(host: Host) -> None:
    """Of many connections to the asker a few ports are named, each once."""
    host.sockets = [owner(server=("192.0.2.7", port)) for port in (*range(1, 9), 1, 2)]
    assert "but one has 1, 2, 3, 4 and 4 more: " in str(causes.find(OURS, FAR))


# What the kernel says, in real namespaces.


def test_sockets_by_their_ends() -> None:
    """The kernel picks those with a far end, IPv4 ones of IPv6 sockets too, and no others; and those with ports."""
    with connect() as (client, accepted, _), connect() as (other, *_):
        far = accepted.getsockname()[:2]
        found = dumps.with_far_end(far)
        assert [one.server for one in found] == [client.getsockname()[:2]]
        assert found[0].inode
        assert dumps.with_far_end(("127.0.0.2", far[1])) == []
        ports = client.getsockname()[1], far[1]
        assert [one.client for one in dumps.with_ports(*ports)] == [far]
        assert other.getsockname()[1] not in {one.server[1] for one in found}
    with listen("127.0.0.1") as listener, socket.socket(socket.AF_INET6) as caller:
        caller.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        (one,) = dumps.with_far_end(listener.getsockname())
        assert one.server == ("127.0.0.1", caller.getsockname()[1])
        assert dumps.with_far_end(("::1", listener.getsockname()[1])) == []


@pytest.fixture(scope="module")
def joined(quiet_town: Town) -> Iterator[Town]:
    """Hosts of which one is joined to two others, by links."""
    only_with_namespaces()
    yield quiet_town


def test_namespaces_that_are_joined(joined: Town) -> None:
    """Those count that a link of ours leads to, for everybody; this process' own, where no link leads, does not."""
    with inside(joined.here):
        assert namespaces.joined() == 2
        found = {path for path in namespaces.paths() if path.startswith("/run/netns/")}
        assert found == {f"/run/netns/{name}" for name in (joined.there, joined.elsewhere)}
        home = namespaces.ask_inside(f"/run/netns/{joined.there}", namespaces.joined)
        assert home == 1, "it is the other one's view"
        assert namespaces.joined() == 2, "this thread has stayed where it was"
    with Person(NOBODY, joined.here) as person:
        assert person.tell("namespaces.joined()") == 2
        assert len(person.tell("[*namespaces.paths()]")) == 2
        with pytest.raises(Refused, match="Operation not permitted"):
            person.tell("namespaces.ask_inside(path, namespaces.joined)", path=f"/run/netns/{joined.there}")
    with pytest.raises(FileNotFoundError):
        namespaces.ask_inside("/run/netns/identd-none", namespaces.joined)


def test_without_netlink() -> None:
    """Where nobody can be asked, that is the text."""
    with Person(NOBODY) as person:
        person.tell("forbid_netlink()")
        with pytest.raises(Refused) as caught:
            person.tell("causes.as_text(('127.0.0.1', 1), ('127.0.0.1', 1))")
    assert caught.value.detail.startswith("sock_diag can't be asked: no netlink socket: ")


# The warm process.


class Pending:
    """A result that came at once."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def addCallbacks(self, succeed: Callable[[Any], Any], fail: Callable[[Any], Any]) -> None:
        if isinstance(self._result, Exception):
            fail(type("Failure", (), {"value": self._result}))
        else:
            succeed(self._result)


def test_once_a_second(host: Host, clock: list[float]) -> None:
    """A warm process looks for a cause in a thread, and for one in a second; others are told that nobody looked."""
    threads = []

    def in_thread(uid: int, function: Callable[..., Iterator[str]], argument: Any) -> Pending:
        threads.append(uid)
        return Pending(next(function([argument])))

    told: list[str] = []
    warm = Causes(in_thread)
    for _ in range(3):
        warm.find(OURS, FAR, told.append)
    assert told[0].startswith("no such socket")
    assert all("once in 1 s" in text for text in told[1:]) and len(told) == 3
    clock[0] = SECONDS + 0.1
    warm.find(OURS, FAR, told.append)
    assert told[3] == told[0]
    assert threads == [CAUSES] * 2


@pytest.mark.parametrize("error", [IdentError("the lookup took longer than 4 s"), OSError(errno.EMFILE, "too many")])
def test_a_search_that_fails(error: Exception) -> None:
    """Whatever keeps it from being found out is said, and raises nothing in the loop."""
    told: list[str] = []
    Causes(lambda *_: Pending(error)).find(OURS, FAR, told.append)
    assert len(told) == 1 and told[0].startswith("can't be found out: ")

    def refuse(*_: object) -> Pending:
        raise IdentError("too much")

    Causes(refuse).find(OURS, FAR, told.append)
    assert told[1] == "can't be found out: too much"
