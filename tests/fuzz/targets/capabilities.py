"""Is what the process with capabilities is asked a request of the one form that there is, and its answer likewise?

The first octet says which of the two the rest is.
"""

from __future__ import annotations

from typing import Any

from lookup.connection import pack
from lookup.kernel.wire import FAILED, MAX_ANSWER, OF_A_CONTAINER, REQUEST_SIZE, Found, Request


def check(data: bytes) -> None:
    """Unpack it, and pack again what came of it."""
    kind: Any = Found if data[:1] == b"\1" else Request
    try:
        read = kind.unpack(data[1:])
    except ValueError:
        return
    hosts = pack(read.server[0])[0], pack(read.client[0])[0]
    again = read.pack()
    if kind is Request:
        assert len(again) == REQUEST_SIZE == len(data) - 1
        assert len(hosts[0]) == len(hosts[1])
        assert 0 < read.server[1] < 65536 and 0 < read.client[1] < 65536
        assert _fields(Request.unpack(again)) == _fields(read)
        return
    assert read.kind <= FAILED and read.held <= OF_A_CONTAINER
    assert len(again) <= MAX_ANSWER
    # Of texts, what is too long is cut off.
    same = _fields(Found.unpack(again))
    for name, value in _fields(read).items():
        assert same[name] == value or name in ("place", "reason", "steps"), name


def _fields(read: Any) -> dict[str, object]:
    return {name: getattr(read, name) for name in read.__slots__}
