"""What does the DNS say in a test?  A name server of our own, and a command that asks nobody else."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

from helpers.machine import only_root, program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

#: Where it listens: resolv.conf(5) has no place for a port.
ADDRESS = "127.9.9.9"

#: Types of records, and what is answered where there is no such name, or the server fails (RFC 1035 section 4.1.1).
_A, _PTR, _AAAA = 1, 12, 28
NXDOMAIN, SERVFAIL = 3, 2

_SCRIPT = """
    set -e
    mount --bind '{0}/resolv.conf' /etc/resolv.conf
    mount --bind '{0}/nsswitch.conf' /etc/nsswitch.conf
    exec "$@"
"""


class Server:
    """A name server. ``zone``: by name, in small letters, its addresses or names, an error, or None: no answer."""

    def __init__(self, zone: Mapping[str, Sequence[str] | int | None]) -> None:
        self.zone = zone
        #: The names that were asked for.
        self.asked: list[str] = []

    def reply(self, query: bytes) -> bytes | None:
        """Return the reply to a query; None: there is none."""
        name, at = "", 12
        while query[at]:
            name += query[at + 1 : at + 1 + query[at]].decode().lower() + "."
            at += 1 + query[at]
        (kind,) = struct.unpack_from(">H", query, at + 1)
        self.asked.append(name.rstrip("."))
        found = self.zone.get(name.rstrip("."), NXDOMAIN)
        if found is None:
            return None
        question, code, answers = query[12 : at + 5], found if isinstance(found, int) else 0, b""
        count = 0
        for value in found if not isinstance(found, int) else ():
            data = _data(kind, value)
            if data:
                answers += struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data
                count += 1
        return query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, count, 0, 0) + question + answers


def _data(kind: int, value: str) -> bytes:
    if kind == _PTR:
        return b"".join(bytes((len(label),)) + label.encode() for label in value.split(".")) + b"\0"
    with contextlib.suppress(OSError):
        return socket.inet_pton({_A: socket.AF_INET, _AAAA: socket.AF_INET6}[kind], value)
    return b""


@contextlib.contextmanager
def serving(zone: Mapping[str, Sequence[str] | int | None]) -> Iterator[Server]:
    """Answer questions until the end of the block; each gets a thread, as some are never answered."""
    only_root()
    server = Server(zone)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((ADDRESS, 53))

        def serve() -> None:
            while True:
                try:
                    query, peer = listener.recvfrom(512)
                except OSError:
                    return
                if not query:
                    return
                reply = server.reply(query)
                if reply is not None:
                    listener.sendto(reply, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", (ADDRESS, 53))
            thread.join()


def asking(folder: Path) -> list[str]:
    """Return the words to put before a command, for it to ask this name server and read no hosts file."""
    (folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\noptions timeout:5 attempts:1\n")
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: dns\nservices: files\n")
    folder.chmod(0o755)
    return [program("unshare"), "-m", "sh", "-c", _SCRIPT.format(folder), "sh"]
