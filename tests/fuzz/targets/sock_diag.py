"""Is the owner that sock_diag's answer comes to one that a whole message has for the connection asked for?

The octets are what `netlink.Kernel` answers, after one that says which connection is asked for.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from fuzz.netlink import HEADER, Kernel

from lookup.connection import IdentError
from lookup.kernel import sock_diag

_ASKED = (
    (("127.0.0.1", 40000), ("127.0.0.1", 6667)),
    (("fd91::1", 40000), ("fd91::2", 6667)),
)
_BY_FAMILY = 20


class _Devices:
    """Two devices, wherever this runs."""

    def indices(self) -> list[int]:
        return [1, 2]


def check(data: bytes) -> None:
    """Ask a kernel that answers so, and look for the owner in its messages."""
    if not data:
        return
    kernel = Kernel(data[1:])
    kernel.stand_in(sock_diag)
    server, client = _ASKED[data[0] & 1]
    with sock_diag.SockDiag() as diag:
        patched: Any = diag
        patched._devices = _Devices()
        patched._has_every_uid = True
        try:
            owner = diag.find(server, client)
        except (IdentError, sock_diag.SockDiagUnavailable):
            return
        finally:
            sock_diag._walks.clear()
    assert (owner.server, owner.client) == (server, client)
    messages = [one for datagram in kernel.taken for one in _messages(datagram)]
    assert (owner.uid, owner.inode) in [_holder(one) for one in messages if _is_about(one, server, client)], owner


def _messages(datagram: bytes) -> list[bytes]:
    found, at = [], 0
    while at + HEADER.size <= len(datagram):
        length = HEADER.unpack_from(datagram, at)[0]
        found.append(datagram[at : at + length])
        at += max(length + 3 & ~3, HEADER.size)
    return found


def _is_about(message: bytes, server: tuple[str, int], client: tuple[str, int]) -> bool:
    """Say whether a message is whole, and describes the socket with these ends."""
    if len(message) < HEADER.size:
        return False
    length, kind = HEADER.unpack_from(message)[:2]
    if kind != _BY_FAMILY or length != len(message) or length < 88 or struct.unpack_from(">HH", message, 20) != (
        server[1], client[1],
    ):  # fmt: skip
        return False
    hosts = message[24:40], message[40:56]
    for host, (text, _) in zip(hosts, (server, client)):
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
        mapped = bytes(10) + b"\xff\xff" + packed
        if message[16] == AF_INET and host[: len(packed)] != packed:
            return False
        if message[16] == AF_INET6 and host not in (packed, mapped):
            return False
    return message[16] in (AF_INET, AF_INET6)


def _holder(message: bytes) -> tuple[int, ...]:
    return struct.unpack_from("=II", message, 80)
