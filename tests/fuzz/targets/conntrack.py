"""Is what conntrack's answer comes to in it, by whichever name, and about the connection asked for?

The octets are one answer, without its header's length and sequence number, after one that says which connection is
asked for.
"""

from __future__ import annotations

import logging
import struct
from socket import AF_INET, AF_INET6, inet_ntop

from fuzz.netlink import HEADER, Kernel

from lookup.connection import MAPPED, IdentError
from lookup.kernel import conntrack

# The codec's own words about what it can't decode.
logging.disable()

_ASKED = (
    (("10.91.0.2", 6667), ("10.91.0.1", 50123)),
    (("fd91::2", 6667), ("fd91::1", 50123)),
)


def check(data: bytes) -> None:
    """Ask a kernel that answers so, and read its answer a second time."""
    if not data:
        return
    answer = data[1:]
    kernel = Kernel(struct.pack(">H", len(answer) & 0xFFFF) + answer)
    kernel.stand_in(conntrack)
    asked = _ASKED[data[0] & 1]
    try:
        with conntrack.Conntrack() as opened:
            entry = opened.get(*asked)
    except (IdentError, conntrack.ConntrackUnavailable):
        return
    answer = kernel.taken[0]
    if entry is None:
        assert HEADER.unpack_from(answer)[1] == 2, "no error"
        return
    top = _attributes(answer[HEADER.size + 4 : HEADER.unpack_from(answer)[0]])
    found = _flow(top[1]), _flow(top[2])
    assert found == (entry.original.ends, entry.reply.ends), (found, entry.original, entry.reply)
    assert asked in found, (asked, found)


def _attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by number; of several with one, the first."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, at)
        assert 4 <= length <= len(data) - at, length
        found.setdefault(number & 0x3FFF, data[at + 4 : at + length])
        at += length + 3 & ~3
    return found


def _flow(data: bytes) -> tuple[tuple[str, int], ...]:
    tuples = _attributes(data)
    hosts, ports = _attributes(tuples[1]), _attributes(tuples[2])
    assert ports[1] == b"\6"
    return tuple(
        (_host(hosts.get(address) or hosts[address + 2]), struct.unpack(">H", ports[port])[0])
        for address, port in ((1, 2), (2, 3))
    )


def _host(packed: bytes) -> str:
    if packed.startswith(MAPPED):
        packed = packed[12:]
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)
