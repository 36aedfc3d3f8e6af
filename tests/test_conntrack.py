"""What does conntrack have, as real kernels tell it, and what of an answer that makes no sense?"""

from __future__ import annotations

import _socket
import contextlib
import errno
import socket
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from helpers.gateways import Gateway
from helpers.hosts import Person, Refused, inside
from helpers.machine import NOBODY
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lookup.connection import IdentError
from lookup.kernel import conntrack
from lookup.kernel.conntrack import ConntrackUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways"]

#: What Linux 6.18 answered about `ASKED`, translated by "masquerade to :50123".
ANSWER = bytes.fromhex(
    "d40000000001020001000000e3790000020000003400018014000180080001000a5c0002080002000a5b00021c0002800500010006000000"
    "060002009c400000060003001a0b00003400028014000180080001000a5b0002080002000a5b00011c000280050001000600000006000200"
    "1a0b000006000300c3cb0000080003000000019e080008000000000008000c005d69500b08000b0000000002080007000006977f300004802c"
    "0001800500010003000000050002000a000000050003000a00000006000400230000000600050023000000"
)
ASKED = ("10.91.0.2", 6667), ("10.91.0.1", 50123)

#: And about `ASKED_6`.
ANSWER_6 = bytes.fromhex(
    "040100000001020001000000e37900000a0000004c0001802c00018014000300fd92000000000000000000000000000214000400fd910000"
    "0000000000000000000000021c0002800500010006000000060002009c400000060003001a0b00004c0002802c00018014000300fd910000"
    "00000000000000000000000214000400fd9100000000000000000000000000011c0002800500010006000000060002001a0b000006000300"
    "c3cb0000080003000000019e080008000000000008000c007edae23208000b0000000002080007000006977f300004802c00018005000100"
    "03000000050002000a000000050003000a00000006000400230000000600050023000000"
)
ASKED_6 = ("fd91::2", 6667), ("fd91::1", 50123)


class Kernel:
    """A socket that gives one answer to whatever is sent."""

    def __init__(self, answer: bytes | OSError, sender: int = 0) -> None:
        self.sent: list[bytes] = []
        self._answer, self._sender = answer, sender

    def answers(self, answer: bytes) -> None:
        """Have another answer, to the next request."""
        self._answer = answer[:8] + struct.pack("=I", len(self.sent) + 1) + answer[12:]

    def setblocking(self, blocks: bool) -> None:
        assert not blocks

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        if isinstance(self._answer, OSError) and self._answer.filename == "send":
            raise self._answer

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer, (self._sender, 0)

    def close(self) -> None:
        pass


@contextlib.contextmanager
def answering(answer: bytes | OSError, sender: int = 0) -> Iterator[Kernel]:
    """Let the kernel give an answer; an OSError whose file name is "socket" or "send" is raised there."""
    kernel = Kernel(answer, sender)

    def make(*_: object) -> Kernel:
        if isinstance(answer, OSError) and answer.filename == "socket":
            raise answer
        return kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conntrack, "socket", SimpleNamespace(**{**vars(_socket), "socket": make}))
        yield kernel


def refusal(number: int) -> bytes:
    """Return the message of an errno."""
    return struct.pack("=IHHIIi", 36, 2, 0, 1, 1, -number) + bytes(16)


@pytest.mark.parametrize(
    ("answer", "asked", "inner", "identifier"),
    [
        (ANSWER, ASKED, (("10.92.0.2", 40000), ("10.91.0.2", 6667)), 0x5D69500B),
        (ANSWER_6, ASKED_6, (("fd92::2", 40000), ("fd91::2", 6667)), 0x7EDAE232),
    ],
)
def test_an_answer(answer: bytes, asked: Any, inner: Any, identifier: int) -> None:
    """Both directions, state and identifier are read, and which socket is meant, whichever direction was asked for."""
    for source, destination in (asked, inner):
        with answering(answer):
            entry = conntrack.get(source, destination)
        assert entry is not None
        assert (entry.original.ends, entry.reply.ends) == (inner, asked)
        assert (entry.identifier, entry.state, entry.zone, entry.mark) == (identifier, "ESTABLISHED", 0, 0)
        assert entry.is_translated
    assert entry is not None
    assert entry.socket_for(*asked) == inner
    assert entry.socket_for(*inner) == asked
    with pytest.raises(ValueError, match="another"):
        entry.socket_for(*asked[::-1])


@pytest.mark.parametrize(("asked", "family"), [(ASKED, socket.AF_INET), (ASKED_6, socket.AF_INET6)])
def test_the_request(asked: Any, family: int) -> None:
    """It is one exact request, never a dump, with both ends in network order, and a zone only where one is given."""
    with answering(refusal(errno.ENOENT)) as kernel, conntrack.Conntrack() as open_:
        assert open_.get(asked[0], asked[1]) is None
        plain = kernel.sent[0]
    length, kind, flags, sequence = struct.unpack_from("=IHHI", plain)
    assert (length, kind, flags, sequence) == (len(plain), 0x101, 1, 1)
    assert plain[16:20] == struct.pack(">BBH", family, 0, 0)
    addresses = b"".join(socket.inet_pton(family, host) for host, _ in asked)
    for part in (addresses[: len(addresses) // 2], addresses[len(addresses) // 2 :], b"\x1a\x0b", b"\xc3\xcb", b"\x06"):
        assert part in plain[20:]
    zone = struct.pack("=HH", 6, 18) + b"\0\7"
    assert zone not in plain
    with answering(refusal(errno.ENOENT)) as kernel, conntrack.Conntrack() as open_:
        open_.get(asked[0], asked[1], zone=7)
        assert zone in kernel.sent[0]


@pytest.mark.parametrize("asked", [ASKED, ASKED_6])
def test_the_request_is_the_codecs(asked: Any) -> None:
    """What was built before gets the ends that the codec would have put there, octet by octet."""
    netlink = conntrack._message()
    (source, port), (destination, far_port) = asked
    version, family = ("V6", socket.AF_INET6) if ":" in source else ("V4", socket.AF_INET)
    request = netlink()
    request["header"]["type"], request["header"]["flags"], request["header"]["sequence_number"] = 0x101, 1, 1
    request["nfgen_family"], request["version"], request["res_id"] = family, 0, 0
    hosts = [(f"CTA_IP_{version}_{end}", socket.inet_pton(family, host)) for end, host in (
        ("SRC", source), ("DST", destination)
    )]  # fmt: skip
    ports = [("CTA_PROTO_NUM", 6), ("CTA_PROTO_SRC_PORT", port), ("CTA_PROTO_DST_PORT", far_port)]
    flow = [("CTA_TUPLE_IP", {"attrs": hosts}), ("CTA_TUPLE_PROTO", {"attrs": ports})]
    request["attrs"] = [("CTA_TUPLE_ORIG", {"attrs": flow})]
    request.encode()
    with answering(refusal(errno.ENOENT)) as kernel, conntrack.Conntrack() as open_:
        for _ in range(2):
            kernel.answers(refusal(errno.ENOENT))
            open_.get(*asked)
    assert kernel.sent[0] == bytes(request.data)
    assert kernel.sent[1] == kernel.sent[0][:8] + struct.pack("=I", 2) + kernel.sent[0][12:]


@pytest.mark.parametrize("answer", [ANSWER, ANSWER_6])
def test_the_second_answer(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decoded once more only where it differs in what counts; then it is another entry's."""
    asked = ASKED if answer is ANSWER else ASKED_6
    decoded = conntrack._decoded
    count: list[bytes] = []

    def counted(data: bytes) -> conntrack.Entry:
        count.append(data)
        return decoded(data)

    monkeypatch.setattr(conntrack, "_decoded", counted)
    identifier = struct.pack("=HH", 8, 12)
    at = answer.index(identifier) + 4
    timeout = answer.index(struct.pack("=HH", 8, 7)) + 4
    with answering(answer) as kernel, conntrack.Conntrack() as open_:
        first = open_.get(*asked)
        kernel.answers(answer[:timeout] + b"\0\0\0\1" + answer[timeout + 4 :])
        assert open_.get(*asked) is first
        assert len(count) == 1
        kernel.answers(answer[:at] + b"none" + answer[at + 4 :])
        third = open_.get(*asked)
        assert len(count) == 2
    assert first is not None and third is not None
    assert first.identifier != third.identifier == int.from_bytes(b"none", "big")


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (refusal(errno.EPERM), ConntrackUnavailable, "conntrack answers only who has CAP_NET_ADMIN"),
        (refusal(errno.EINVAL), ConntrackUnavailable, "the kernel has no conntrack"),
        (refusal(errno.EOPNOTSUPP), ConntrackUnavailable, "the kernel has no conntrack"),
        (refusal(errno.ENOMEM), IdentError, "conntrack says ENOMEM"),
        (OSError(errno.EPROTONOSUPPORT, "no", "socket"), ConntrackUnavailable, "no netlink socket: no"),
        (OSError(errno.EMFILE, "too many", "socket"), IdentError, "no netlink socket: too many"),
        (OSError(errno.ECONNREFUSED, "refused", "send"), ConntrackUnavailable, "no conntrack request: refused"),
        (OSError(errno.ENOBUFS, "no room", "send"), IdentError, "conntrack: no room"),
        (OSError(errno.EAGAIN, "nothing"), IdentError, "conntrack: nothing"),
    ],
)
def test_no_answer(answer: bytes | OSError, kind: type[Exception], said: str) -> None:
    """Who may not ask, or has nobody to ask, is told so; a kernel that has run out says nothing about an entry."""
    with answering(answer), pytest.raises(kind) as caught:
        conntrack.get(*ASKED)
    assert said in getattr(caught.value, "detail", str(caught.value))
    if isinstance(caught.value, ConntrackUnavailable):
        assert caught.value.forbidden == ("CAP_NET_ADMIN" in said)


@pytest.mark.parametrize(
    "answer",
    [
        b"", ANSWER[:10], ANSWER[:30], ANSWER[:60],
        ANSWER[:4] + b"\1\1" + ANSWER[6:],  # another type of message
        ANSWER[:8] + b"\2" + ANSWER[9:],  # another sequence number
        ANSWER.replace(b"\x05\0\1\0\6", b"\x05\0\1\0\x11"),  # UDP
        ANSWER.replace(b"\x1a\x0b", b"\x1a\x0c"),  # another connection
        ANSWER.replace(b"\x34\0\2\x80", b"\x30\0\2\x80"),  # the reply's last port is behind its end
        ANSWER.replace(b"\x06\0\3\0\xc3\xcb", b"\x05\0\3\0\xc3\xcb"),  # a port of one octet
        ANSWER.replace(b"\x08\0\1\0\x0a\x5b", b"\x07\0\1\0\x0a\x5b"),  # an address of three
        ANSWER[:20] + bytes(8) + ANSWER[20:],  # empty space before what it says
        ANSWER[:20] + ANSWER[20:72] + ANSWER[20:],  # two originals
        ANSWER.replace(b"\x34\0\2\x80", b"\xf4\0\2\x80"),  # longer than the message
    ],
)  # fmt: skip
def test_an_answer_without_sense(answer: bytes) -> None:
    """What is no answer about the connection in question is no entry, and not "no entry" either."""
    with answering(answer), pytest.raises(IdentError) as caught:
        conntrack.get(*ASKED)
    assert "makes no sense" in caught.value.detail
    with answering(ANSWER, sender=77), pytest.raises(IdentError):
        conntrack.get(*ASKED)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(ANSWER) - 1), st.integers(0, 255))
@example(26, 255)
def test_any_octet(at: int, octet: int) -> None:
    """Whatever an octet of the answer is, there is an entry about this connection, or none, or an error."""
    changed = ANSWER[:at] + bytes([octet]) + ANSWER[at + 1 :]
    with answering(changed), contextlib.suppress(IdentError, ConntrackUnavailable):
        entry = conntrack.get(*ASKED)
        assert entry is None or ASKED in (entry.original.ends, entry.reply.ends)


def test_two_families() -> None:
    """An IPv4 address and an IPv6 one are no connection; a mapped one is IPv4, and a scope does not matter."""
    with answering(ANSWER), pytest.raises(ValueError, match="families"):
        conntrack.get(("10.91.0.2", 6667), ("fd91::1", 50123))
    with answering(ANSWER):
        assert conntrack.get(("::ffff:10.91.0.2", 6667), ASKED[1]) is not None
    with answering(refusal(errno.ENOENT)):
        assert conntrack.get(("fe80::1%nowhere", 1), ("fe80::2", 1)) is None


# The real kernel.


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("zone", [0, 5])
def test_a_real_kernel(gateway: Gateway, version: int, zone: int) -> None:
    """An entry is found by either direction, where a rule gives the original one a zone as well, and tells the zone."""
    here, far, outer = (
        (gateway.HERE, gateway.THERE, gateway.OUTER) if version == 4
        else (gateway.HERE_6, gateway.THERE_6, gateway.OUTER_6)
    )  # fmt: skip
    rule = f"iifname in ct original zone set {zone}" if zone else ""
    with inside(gateway.there):
        listener = socket.create_server((far, 0), family=socket.AF_INET if version == 4 else socket.AF_INET6)
    port = listener.getsockname()[1]
    with listener, gateway.translating(f"tcp dport {port} masquerade to :50123", zone=rule), Person(
        NOBODY, gateway.here
    ) as person:
        ours = person.dial((far, port))[0]
        with inside(gateway.gate):
            entry = conntrack.get((far, port), (outer, 50123))
            assert entry is not None
            assert entry.original.ends == ((here, ours[1]), (far, port))
            assert (entry.original.zone, entry.reply.zone, entry.zone) == (zone, 0, 0)
            assert (entry.state, entry.is_translated) == ("ESTABLISHED", True)
            assert (conntrack.get(*entry.original.ends) is None) == bool(zone)
            assert conntrack.get((far, port), (outer, 50124)) is None
        with inside(gateway.here):
            assert conntrack.get((far, port), (here, ours[1])) is None, "nothing is followed there"


def test_without_the_privilege(gateway: Gateway) -> None:
    """Who has no CAP_NET_ADMIN is refused, and that is not "no entry"."""
    with Person(NOBODY, gateway.gate) as person, pytest.raises(Refused) as caught:
        person.tell("conntrack.get(('10.91.0.2', 6667), ('10.91.0.1', 50123))")
    assert (caught.value.kind, caught.value.text) == (
        "ConntrackUnavailable", "conntrack answers only who has CAP_NET_ADMIN"
    )  # fmt: skip
