"""Does a name count only if its own name server says so, and is what may be asked bounded?"""

from __future__ import annotations

import _socket
import pickle
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from lookup.config import confirmed_names as room
from lookup.config.blocks import Domain, Where, pack_end
from lookup.config.confirmed_names import ConfirmedNames, Names, look_up
from lookup.config.grammar import parse_system, parse_user
from lookup.config.names import Hosts
from lookup.config.policy import decide
from lookup.config.user_file import UserFile
from lookup.connection import ConfigError, Unknown, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from lookup.config.blocks import HostName

HOST = "192.0.2.1"
ADDRESS = pack(HOST)[0]


class Dns:
    """What the resolver says: the names of addresses, and the addresses of names; an error where it can't."""

    def __init__(self) -> None:
        self.names: dict[str, list[str] | int] = {}
        self.addresses: dict[str, list[str] | int] = {}
        self.asked: list[str] = []

    def gethostbyaddr(self, host: str) -> tuple[str, list[str], list[str]]:
        self.asked.append(host)
        found = self.names.get(host, 1)
        if isinstance(found, int):
            raise socket.herror(found, "Unknown host")
        return found[0], found[1:], [host]

    def getaddrinfo(self, name: bytes, port: None, family: int, kind: int) -> list[tuple[Any, ...]]:
        self.asked.append(name.decode())
        found = self.addresses.get(name.decode(), socket.EAI_NONAME)
        if isinstance(found, int):
            raise socket.gaierror(found, "Temporary failure in name resolution")
        return [(family, kind, 6, "", (host, 0)) for host in found]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Dns:
    """A DNS of our own."""
    made = Dns()
    monkeypatch.setattr(socket, "gethostbyaddr", made.gethostbyaddr)
    monkeypatch.setattr(_socket, "getaddrinfo", made.getaddrinfo)
    return made


def test_confirmed(dns: Dns) -> None:
    """A name counts in small letters and without the last dot; each of several is looked at."""
    dns.names[HOST] = ["IRC.Example.ORG.", "mail.example.net"]
    dns.addresses.update({"irc.example.org": ["192.0.2.9", HOST], "mail.example.net": ["192.0.2.9"]})
    names = look_up(ADDRESS)
    assert (names.confirmed, names.unknown) == (["irc.example.org"], None)
    assert "irc.example.org, confirmed" in names.text and "mail.example.net" in names.text


def test_six(dns: Dns) -> None:
    """IPv6 addresses have names, too."""
    dns.names["2001:db8::1"] = ["irc.example.org"]
    dns.addresses["irc.example.org"] = ["2001:db8::1"]
    assert look_up(pack("2001:db8::1")[0]).confirmed == ["irc.example.org"]


def test_none_for_certain(dns: Dns) -> None:
    """No name, or none that is confirmed, is an answer."""
    assert (look_up(ADDRESS).confirmed, look_up(ADDRESS).unknown) == ([], None)
    dns.names[HOST] = ["irc.example.org", "no such name!", "x\n.example.org", ""]
    names = look_up(ADDRESS)
    assert (names.confirmed, names.unknown) == ([], None)
    assert names.text.isprintable()
    assert not [asked for asked in dns.asked if "!" in asked or "\n" in asked]


@pytest.mark.parametrize("code", [2, 3, -1])
def test_nobody_could_say(dns: Dns, code: int) -> None:
    """SERVFAIL and the like for the address, and for the name, is unknown."""
    dns.names[HOST] = code
    assert look_up(ADDRESS).unknown is not None
    dns.names[HOST] = ["irc.example.org"]
    for error in (socket.EAI_AGAIN, socket.EAI_FAIL):
        dns.addresses["irc.example.org"] = error
        assert look_up(ADDRESS).unknown is not None


def test_more_names_than_are_looked_at(dns: Dns) -> None:
    """Whoever has an address may give it a thousand names, and each would be a question."""
    dns.names[HOST] = [f"{number}.example.org" for number in range(1000)]
    names = look_up(ADDRESS)
    assert names.unknown is not None
    assert len(dns.asked) == 1 + room.MAX_NAMES


# What is remembered, and bounded.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only this test moves."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def asks(monkeypatch: pytest.MonkeyPatch, answer: Callable[[bytes], Names]) -> list[bytes]:
    """Have something else answer in place of the DNS; return the list of what it will be asked."""
    asked: list[bytes] = []

    def look(address: bytes) -> Names:
        asked.append(address)
        return answer(address)

    monkeypatch.setattr(room, "look_up", look)
    return asked


def test_remembered_for_a_minute(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    """From the question on; what could not be found out for less long."""
    for unknown, seconds in ((None, room.SECONDS), (Unknown("x"), room.UNANSWERED_SECONDS)):
        answered = Names(["a.example.org"], unknown, "")
        asked = asks(monkeypatch, lambda address, answered=answered: answered)  # type: ignore[misc]
        names = ConfirmedNames()
        began = clock[0]
        for moment in (0.0, seconds - 0.1):
            clock[0] = began + moment
            assert names.names(ADDRESS) is answered
        assert len(asked) == 1
        clock[0] = began + seconds
        names.names(ADDRESS)
        assert len(asked) == 2
    assert room.SECONDS <= 60


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Askers come from as many addresses as they like."""
    monkeypatch.setattr(room, "MAX_REMEMBERED", 3)
    asked = asks(monkeypatch, lambda address: Names([], None, ""))
    names = ConfirmedNames()
    for number in (1, 2, 3, 4, 4, 3, 1):
        names.names(bytes((192, 0, 2, number)))
    assert [address[3] for address in asked] == [1, 2, 3, 4, 1]


def test_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that is silent holds up few questions of one network, some of all; each for its time alone."""
    monkeypatch.setattr(room, "NAME_SECONDS", 0.05)
    silent = threading.Event()
    asked = asks(monkeypatch, lambda address: (silent.wait(30), Names([], None, ""))[1])
    names = ConfirmedNames()
    for network in range(room.AT_ONCE):
        for host in range(room.AT_ONCE_OF_ONE + 1):
            if len(asked) < room.AT_ONCE:
                names.names(bytes((10, 0, network, host)))
    assert len(asked) == room.AT_ONCE
    assert max(sum(address[2] == network for address in asked) for network in range(room.AT_ONCE)) == (
        room.AT_ONCE_OF_ONE
    )  # fmt: skip
    found = names.names(pack("2001:db8::1")[0])
    assert found.unknown is not None and "at once" in found.text
    again = names.names(asked[0])
    assert again.unknown is not None and "no answer" in again.text
    silent.set()
    until(lambda: names.names(pack("2001:db8::1")[0]).unknown is None)
    # What came too late for one query is there for the next.
    assert names.names(asked[0]).unknown is None
    assert asked.count(asked[0]) == 1


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that takes a moment."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A /64 is one asker's."""
    monkeypatch.setattr(room, "NAME_SECONDS", 0.05)
    silent = threading.Event()
    asked = asks(monkeypatch, lambda address: (silent.wait(30), Names([], None, ""))[1])
    names = ConfirmedNames()
    for host in range(10):
        names.names(pack(f"2001:db8::{host}")[0])
    assert len(asked) == room.AT_ONCE_OF_ONE
    names.names(pack("2001:db8:0:1::1")[0])
    assert len(asked) == room.AT_ONCE_OF_ONE + 1
    silent.set()


def test_who_asks_about_the_same_address_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks about ten connections at once: that is one question, and all get its answer."""
    go = threading.Event()
    asked = asks(monkeypatch, lambda address: (go.wait(30), Names(["a.b"], None, ""))[1])
    monkeypatch.setattr(room, "NAME_SECONDS", 30)
    names, found = ConfirmedNames(), []
    threads = [threading.Thread(target=lambda: found.append(names.names(ADDRESS))) for _ in range(10)]
    for thread in threads:
        thread.start()
    until(lambda: len(asked) == 1)
    go.set()
    for thread in threads:
        thread.join()
    assert [one.confirmed for one in found] == [["a.b"]] * 10
    assert len(asked) == 1


# The language.


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        (b".example.org", b".example.org"), (b"*.example.org", b".example.org"), (b".Example.ORG.", b".example.org"),
        (b".org", b".org"), (b"example.org", None), (b"192.0.2.1", None), (b"*", None), (b"*x.org", None),
    ],
)  # fmt: skip
def test_domains(text: bytes, domain: bytes | None) -> None:
    """A leading dot, or a star before it, is a domain; case and a last dot don't matter."""
    assert Domain.named(text) == domain


@pytest.mark.parametrize("text", [".", "*.", "..", ".a..b", ".*.org", ".a/24", '". b"'])
def test_what_is_no_domain(text: str) -> None:
    """It is an error with its place."""
    with pytest.raises(ConfigError, match="a domain expected after the dot") as error:
        parse_system(f"default {{ to {text} {{ allow hide }} }}".encode(), "f", lambda names: {})
    assert error.value.column == 14


def test_where() -> None:
    """A far end matches that has a name below the domain; what has none, or a name like it, does not."""
    where = Where()
    where.to = Domain.named(b".example.org")

    def resolver(names: list[str], unknown: Unknown | None = None) -> Any:
        made = ConfirmedNames()
        made.names = lambda address: Names(names, unknown, "")  # type: ignore[method-assign]
        return lambda asked, octets: made.addresses(asked)[0]

    ends = ("10.0.0.1", 1), (HOST, 2)
    assert where.matches(*ends, resolver(["irc.example.org"])) is True
    assert where.matches(*ends, resolver(["a.b.example.org", "x.net"])) is True
    for name in ("example.org", "badexample.org", "example.org.evil.net", "irc.example.com"):
        assert where.matches(*ends, resolver([name])) is False
    assert where.matches(*ends, resolver([])) is False
    assert isinstance(where.matches(*ends, resolver([], Unknown("x"))), Unknown)
    assert where.matches(*ends, resolver(["irc.example.org"], Unknown("x"))) is True
    assert where.matches(("10.0.0.1", 1), ("", 2), resolver(["irc.example.org"])) is False
    where.fport = 6667, 6667
    assert where.matches(*ends, lambda asked, octets: pytest.fail("asked")) is False


def test_what_is_unknown_is_not_told() -> None:
    """As with host names: where the reply depends on it, nobody is named."""
    system = parse_system(b"default { default { allow spoof } to .example.org { force hide } }", "f", lambda names: {})
    file = UserFile("user", parse_user(b'to *.example.net { reply "x" }', "user"))
    ends = ("10.0.0.1", 1), (HOST, 6667)

    def decided(resolve: Callable[[HostName, int], Any]) -> Any:
        return decide(
            1, b"alice", *ends, system, lambda: file, lambda name: None, lambda host, port: "no reply", resolve=resolve,
            resolve_rule=resolve,
        )  # fmt: skip

    assert decided(lambda asked, octets: Unknown("SERVFAIL")).unknown is not None
    assert decided(lambda asked, octets: ()).user == b"alice"
    assert decided(lambda asked, octets: (ADDRESS,) if bytes(asked).endswith(b".net") else ()).user == b"x"
    hidden = decided(lambda asked, octets: (ADDRESS,))
    assert (hidden.user, hidden.unknown) == (None, None)


def test_from_is_our_end() -> None:
    """Our end has no domain: there it is what it was, a host name that nobody has."""
    (block,) = parse_user(b"from .example.org { hide }", "f")
    assert not isinstance(block.where.from_, Domain)


def test_a_block_is_handed_on() -> None:
    """Between the processes of the warm identd it stays what it is."""
    (block,) = parse_user(b"to *.example.org { hide }", "f")
    where = pickle.loads(pickle.dumps(block)).where
    assert isinstance(where.to, Domain) and where.to == b".example.org"
    assert isinstance(where.matches_packed(pack_end(("10.0.0.1", 1)), pack_end((HOST, 2))), Unknown)


def test_the_system_file_does_not_remember_askers() -> None:
    """What is remembered of host names has no bound, as they are few; askers are not."""
    hosts, asked = Hosts(), []
    for number in (1, 2, 1):
        question = Domain(b".example.org").about(bytes((192, 0, 2, number)))
        hosts.addresses(question, 4, lambda name, octets: asked.append(unpack(name.address)) or ())  # type: ignore
    assert asked == ["192.0.2.1", "192.0.2.2", "192.0.2.1"]
