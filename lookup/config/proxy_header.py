"""How is a server told who asks, by whoever passes a query on?

By a header of the PROXY protocol (haproxy's proxy-protocol.txt) before the query: soju and others tell from it whose
connection is meant, if they trust where it comes from.
"""

from __future__ import annotations

import struct

from ..connection import asked_name, pack, unpack

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    import _socket

#: The forms of the header, as the configuration and the command line have them.
TEXT, BINARY = "proxy", "proxy2"
FORMS = (TEXT, BINARY)

# Version 2: signature; version and command (0: our own connection, 1: somebody else's); family (1, 2) and stream; how
# long the addresses are.
_BINARY = struct.Struct("!12sBBH")
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PORTS = struct.Struct("!HH")


def header(form: str, asked: _socket.socket | None) -> bytes:
    """Return the header for a query that was asked on a connection.

    :param form: one of `FORMS`. :param asked: whose ends it has, the asker's and ours; None: nobody asks, as it says.
    :raises OSError: the asker has gone.
    """
    if asked is None:
        return b"PROXY UNKNOWN\r\n" if form == TEXT else _BINARY.pack(_SIGNATURE, 0x20, 0, 0)
    theirs, ours = asked.getpeername(), asked_name(asked)
    asker, here = pack(theirs[0].partition("%")[0])[0], pack(ours[0].partition("%")[0])[0]
    if form == BINARY:
        family = 0x11 if len(asker) == 4 else 0x21
        addresses = asker + here + _PORTS.pack(theirs[1], ours[1])
        return _BINARY.pack(_SIGNATURE, 0x21, family, len(addresses)) + addresses
    family_name = "TCP4" if len(asker) == 4 else "TCP6"
    return f"PROXY {family_name} {unpack(asker)} {unpack(here)} {theirs[1]} {ours[1]}\r\n".encode("ascii")
