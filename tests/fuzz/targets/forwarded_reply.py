"""Is a name that another ident server gives one that stands in its reply about the connection asked for?

The octets are all that the server sends.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from lookup.config import forward

_PORTS = 6193, 23


class _Far:
    """A connection to a server that has said everything already, in pieces of one size."""

    def __init__(self, said: bytes) -> None:
        self.left = said

    def __enter__(self) -> _Far:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def setblocking(self, blocks: bool) -> None:
        assert not blocks

    def setsockopt(self, *_: object) -> None:
        pass

    def connect_ex(self, address: object) -> int:
        return 0

    def sendall(self, query: bytes) -> None:
        assert query.endswith(b"6193,23\r\n"), query

    def recv(self, size: int) -> bytes:
        assert size > 0
        taken, self.left = self.left[: min(size, 100)], self.left[min(size, 100) :]
        return taken


def check(data: bytes) -> None:
    """Ask a server that says these octets, and look for the name in them."""
    patched: Any = forward
    patched.socket = SimpleNamespace(**{**vars(socket), "socket": lambda *_: _Far(data)})
    patched._leads_back = lambda *_: False
    patched._wait = lambda *_: None
    found = forward.ask("192.0.2.1", 1113, *_PORTS)
    if isinstance(found, str):
        assert found.isprintable(), found
        assert found.isascii(), found
        assert 0 < len(found) < 500, found
        return
    assert found, "no name"
    assert not any(octet in b"\t\n\v\f\r \0" for octet in found), found
    assert len(found) <= forward.MAX_LINE
    # Without the expressions that the program has: four fields, the last of which may have colons.
    ports, kind, opsys, name = data.partition(b"\n")[0][: forward.MAX_LINE].split(b":", 3)
    assert tuple(map(int, ports.split(b","))) == _PORTS, ports
    assert kind.strip() == b"USERID", kind
    assert opsys.strip(), opsys
    assert name.split()[0] == found, (name, found)
