"""What does another ident server reply about this connection?

This is the client's side of RFC 1413, for ``forward``. The reply is untrusted input: the caller decides what may be
done with the name.
"""

from __future__ import annotations

import errno
import re
import socket
import time

from ..connection import IDENT_PORT

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from typing import Any

#: Seconds for connecting and the reply; less than a lookup may take, so that our own reply still goes out.
FORWARD_SECONDS = 3.0

#: Octets of the reply's line that are read (RFC 1413 section 4: it is shorter than 1000).
MAX_LINE = 1023

# reply  = *WSP port *WSP "," *WSP port *WSP ":" *WSP "USERID" *WSP ":" *WSP opsys *WSP ":" *WSP user-id [ WSP *OCTET ]
# opsys  = 1*( any octet but ":" )          ; with its charset; dropped, ours is sent
# WSP    = %x09 / %x0B / %x0C / %x0D / SP   ; what ends the user id as well
# A NUL ends nothing: a reply with one in its user id is not taken.
_REPLY = re.compile(
    rb"[\t\v\f\r ]*[0-9]+[\t\v\f\r ]*,[\t\v\f\r ]*[0-9]+[\t\v\f\r ]*:[\t\v\f\r ]*USERID[\t\v\f\r ]*:"
    rb"[\t\v\f\r ]*[^:\t\v\f\r ][^:]*:[\t\v\f\r ]*([^\t\v\f\r \0]+)(?![^\t\v\f\r ])"
)


def ask(host: str, port: int, port_on_server: int, port_on_client: int) -> bytes | None:
    """Return the user id that an ident server gives for a port pair, or None if it gives none in time.

    It has neither blanks, CR, LF nor NUL, and at most `MAX_LINE` octets.

    :param host: address of that server, with its scope where it needs one. Names are not resolved, as a resolver
        keeps no deadline: for a name the result is None.
    :param port: its port.
    """
    try:
        line = _first_line(host, port, b"%d,%d\r\n" % (port_on_server, port_on_client))
    except (OSError, ValueError):
        # Any errno of a failed connection (ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT ...), ELOOP from below.
        # EAI_NONAME: not an address. ValueError: not ASCII.
        return None
    match = _REPLY.match(line)
    return match[1] if match else None


def _first_line(host: str, port: int, query: bytes) -> bytes:
    """Send a query, and return what comes back up to the first LF, to its end, or to `MAX_LINE` octets.

    :raises OSError: that failed, or took too long. :raises ValueError: the host is not ASCII.
    """
    deadline = time.monotonic() + FORWARD_SECONDS
    # As octets: text would be encoded as a host name, which takes a codec and 4 ms to import it.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, address = found[0]
    if port == IDENT_PORT and _is_this_host(family, address):
        raise OSError(errno.ELOOP, "the query would come back to us, and be forwarded again without end")
    line = b""
    with socket.socket(family, kind, protocol) as connection:
        connection.settimeout(FORWARD_SECONDS)
        connection.connect(address)
        connection.sendall(query)
        while b"\n" not in line and len(line) < MAX_LINE:
            left = deadline - time.monotonic()
            if left <= 0:
                # Half a line may hold half a name.
                raise TimeoutError
            connection.settimeout(left)
            more = connection.recv(MAX_LINE - len(line))
            if not more:
                break
            line += more
    return line.partition(b"\n")[0]


def _is_this_host(family: int, address: tuple[Any, ...]) -> bool:
    """Return whether a socket address is one of this host's: only from these can it send (ip(7), bind(2))."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
            # Nothing is sent. Where ip_nonlocal_bind is set, this fails in place of bind(2).
            probe.connect(address)
        except OSError:
            # EADDRNOTAVAIL, EINVAL: it is another host's. EACCES and the like: no query gets there either.
            return False
    return True
