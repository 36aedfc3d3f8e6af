"""What does the kernel say, where the octets of a fuzzer stand for it?"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

HEADER = struct.Struct("=IHHII")


class Kernel:
    """A netlink socket whose answers are given: each goes to one request, whose sequence number it gets.

    The octets are datagrams, each after its length in 16 bits, big endian.
    """

    def __init__(self, data: bytes) -> None:
        self.given: list[bytes] = []
        while len(data) >= 2:
            length = int.from_bytes(data[:2], "big")
            self.given.append(data[2 : 2 + length])
            data = data[2 + length :]
        self.taken: list[bytes] = []
        self._sequence = 0

    def setblocking(self, blocks: bool) -> None:
        assert not blocks

    def send(self, data: bytes) -> None:
        self._sequence = HEADER.unpack_from(data)[3]

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.given:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        datagram = self.given.pop(0)[:size]
        if len(datagram) >= HEADER.size:
            datagram = datagram[:8] + struct.pack("=I", self._sequence) + datagram[12:]
        self.taken.append(datagram)
        return datagram, (0, 0)

    def close(self) -> None:
        pass

    def getsockopt(self, *_: object) -> bytes:
        return b""

    def stand_in(self, module: Any) -> None:
        """Have a module make this its socket, whatever it asks for."""
        real = getattr(module.socket, "real", module.socket)
        module.socket = SimpleNamespace(**{**vars(real), "socket": lambda *_: self, "real": real})
