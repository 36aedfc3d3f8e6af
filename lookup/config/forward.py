"""What does another ident server reply about this connection?

This is the client's side of RFC 1413, for ``forward``. The reply is untrusted input: the caller decides what may be
done with the name. Users choose whom we ask, so that no question may come back to us or go round in circles.

A header of the PROXY protocol (haproxy's proxy-protocol.txt) may go before the query. soju and others tell from it who
asks, if they trust where it comes from, and so whose connection is meant.
"""

from __future__ import annotations

import errno
import re
import select
import socket
import struct
import time

from ..connection import IDENT_PORT, asked_name, pack, unpack
from .blocks import quoted

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    import _socket
    from typing import Any

#: Seconds for connecting and the reply; less than a lookup may take, so that our own reply still goes out.
FORWARD_SECONDS = 3.0

#: Seconds between two looks at whether our own client is still there, where its connection is closed by another thread.
_LOOK_SECONDS = 0.25

#: Octets of the reply's line, its end included (RFC 1413 section 4: it is shorter than 1000), and how many are shown.
MAX_LINE, _SHOWN = 1000, 80

# line   = *WSP ( reply / refusal ) *WSP [ CR ] LF
# reply  = ports "USERID" *WSP ":" *WSP opsys ":" *WSP user-id [ 1*WSP *( VCHAR / WSP ) ]
# ports  = port *WSP "," *WSP port *WSP ":" *WSP
# opsys  = VCHAR *( any VCHAR or WSP but ":" )  ; with its charset; dropped, ours is sent
# WSP    = HTAB / SP                            ; what ends the user id as well
# Any other octet makes it no reply: a control character or an octet beyond ASCII is not passed on, nor is anything
# taken out of a line that has one.
_PORTS = rb"[\t ]*([0-9]+)[\t ]*,[\t ]*([0-9]+)[\t ]*:[\t ]*"
_REPLY = re.compile(_PORTS + rb"USERID[\t ]*:[\t ]*[!-9;-~][\t -9;-~]*:[\t ]*([!-~]+)(?:[\t ][\t -~]*)?")
# refusal = ports "ERROR" *WSP ":" *WSP token
_REFUSAL = re.compile(_PORTS + rb"ERROR[\t ]*:[\t ]*([!-~]{1,64})[\t ]*")

#: The forms of the header, as the configuration and the command line have them: versions 1 and 2.
TEXT, BINARY = "proxy", "proxy2"

# Version 2: signature; version and command (0: our own connection, 1: somebody else's); family (1, 2) and stream; how
# long the addresses are.
_BINARY = struct.Struct("!12sBBH")
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEADER_PORTS = struct.Struct("!HH")

#: What an errno of a connection means, where its own text is less plain.
_FAILED = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ECONNRESET: "reset the connection",
    errno.EPIPE: "reset the connection",
    errno.ECANCELED: "is not asked any more: the client that asked us has gone",
}


def ask(
    host: str, port: int, port_on_server: int, port_on_client: int, asked: _socket.socket | None = None,
    proxy: str = "", also_here: bool = True,
) -> bytes | str:  # fmt: skip
    """Return the user id that an ident server gives for a port pair; or, as text, what it does in place of that.

    The user id is printable ASCII without blanks, and has fewer than `MAX_LINE` octets. The text is printable, and says
    what the server did, without a subject.

    :param host: address of that server, with its scope where it needs one. Names are not resolved, as a resolver
        keeps no deadline: nobody is asked at a name.
    :param port: its port.
    :param asked: the connection on which we were asked: its client's host is not asked in turn, we are not asked on the
        port that it came to, and nobody is asked once it ends.
    :param proxy: the form of a header that says who asked (`TEXT`, `BINARY`); ``""``: there is none.
    :param also_here: whether another server of this host may be asked, on any port but those.
    """
    try:
        query = b"%d,%d\r\n" % (port_on_server, port_on_client)
        if proxy:
            query = header(proxy, asked) + query
        line = _first_line(host, port, query, asked, also_here)
    except (socket.gaierror, ValueError):
        # EAI_NONAME: not an address. ValueError: not ASCII, or an octet of 0.
        return "is not asked: that is not an address"
    except TimeoutError as error:
        # ETIMEDOUT: the kernel's own patience; or ours, from below.
        return str(error) if error.errno is None else "did not answer the connection in time"
    except OSError as error:
        # Any errno of a failed connection (ECONNREFUSED, EHOSTUNREACH ...). ELOOP: from below. EMFILE: our own.
        if error.errno == errno.ELOOP:
            return f"is not asked: {error.strerror}"
        return _FAILED.get(error.errno or 0, f"can't be asked: {error.strerror}")
    text = _text_of(line)
    match = None if text is None else _REPLY.fullmatch(text)
    if match is None:
        return _no_name(line)
    ports = int(match[1]), int(match[2])
    if ports != (port_on_server, port_on_client):
        asked_for = f"{port_on_server},{port_on_client}"
        return f"replied about wrong ports: {_decimal(match[1])},{_decimal(match[2])}, not {asked_for}"
    return match[3]


def header(form: str, asked: _socket.socket | None) -> bytes:
    """Return the header for a query that was asked on a connection.

    :param form: `TEXT` or `BINARY`. :param asked: whose ends it has, the asker's and ours; None: it says that there is
        no asker.
    :raises OSError: the asker has gone.
    """
    if asked is None:
        return b"PROXY UNKNOWN\r\n" if form == TEXT else _BINARY.pack(_SIGNATURE, 0x20, 0, 0)
    theirs, ours = asked.getpeername(), asked_name(asked)
    asker, here = pack(theirs[0].partition("%")[0])[0], pack(ours[0].partition("%")[0])[0]
    if form == BINARY:
        family = 0x11 if len(asker) == 4 else 0x21
        addresses = asker + here + _HEADER_PORTS.pack(theirs[1], ours[1])
        return _BINARY.pack(_SIGNATURE, 0x21, family, len(addresses)) + addresses
    family_name = "TCP4" if len(asker) == 4 else "TCP6"
    return f"PROXY {family_name} {unpack(asker)} {unpack(here)} {theirs[1]} {ours[1]}\r\n".encode("ascii")


def _text_of(line: bytes) -> bytes | None:
    """Return a line without its end; None: it has none."""
    return line[: -2 if line.endswith(b"\r\n") else -1] if line.endswith(b"\n") else None


def _no_name(line: bytes) -> str:
    """Say what a line is that names nobody."""
    text = _text_of(line)
    refusal = None if text is None else _REFUSAL.fullmatch(text)
    if refusal:
        return f"replied ERROR: {refusal[3].decode('ascii')}"
    if line and text is None:
        what = f"no line of at most {MAX_LINE} octets" if len(line) == MAX_LINE else "and closed within the line"
        return f"said {quoted(line[:_SHOWN].rstrip())}, {what}, which is not a reply"
    if not line.strip():
        return "closed the connection without a reply" if not line else "sent an empty line, which is no reply"
    return f"said {quoted(line[:_SHOWN].rstrip())}, which is not a reply"


def _decimal(digits: bytes) -> str:
    """Return a number as it came, without its end if that is far."""
    return digits[:20].decode("ascii")


def is_this_host(address: tuple[Any, ...]) -> bool:
    """Return whether a socket address is one of this host's: only from these can it send (ip(7), bind(2))."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
            # Nothing is sent. Where ip_nonlocal_bind is set, this fails in place of bind(2).
            probe.connect((address[0], address[1] or IDENT_PORT, *address[2:]))
        except OSError as error:
            # EMFILE, ENOBUFS and the like: it may be. EADDRNOTAVAIL, EINVAL: it is another host's. EACCES and the like:
            # no query gets there either.
            return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)
    return True


def _first_line(host: str, port: int, query: bytes, asked: _socket.socket | None, also_here: bool) -> bytes:
    """Send a query, and return what comes back up to and with the first LF, to its end, or to `MAX_LINE` octets.

    :raises OSError: that failed, took too long, or must not be. :raises ValueError: the host is not ASCII.
    """
    deadline = time.monotonic() + FORWARD_SECONDS
    # As octets: text would be encoded as a host name, which takes a codec and 4 ms to import it.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, address = found[0]
    if _leads_back(address, asked):
        raise OSError(errno.ELOOP, "the query would come back, and be forwarded again without end")
    if not also_here and is_this_host(address):
        raise OSError(errno.ELOOP, "that is this host")
    line = b""
    silent = f"did not answer the connection within {FORWARD_SECONDS:g} s"
    with socket.socket(family, kind, protocol) as connection:
        connection.setblocking(False)
        try:
            connection.connect_ex(address)
            _wait(connection, select.POLLOUT, deadline, asked, silent)
            # Raises what connecting came to.
            connection.sendall(query)
            while b"\n" not in line and len(line) < MAX_LINE:
                silent = f"gave {'no whole' if line else 'no'} reply within {FORWARD_SECONDS:g} s"
                _wait(connection, select.POLLIN, deadline, asked, silent)
                more = connection.recv(MAX_LINE - len(line))
                if not more:
                    break
                line += more
        except BaseException:
            # With a reset, so that an identd at the other end notices that nobody waits for it (socket(7), SO_LINGER).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise
    text, end, _ = line.partition(b"\n")
    return text + end


def _leads_back(address: tuple[Any, ...], asked: _socket.socket | None) -> bool:
    """Return whether a query to a socket address comes to us again, or to who asks us."""
    ports = [IDENT_PORT]
    if asked is not None:
        ours, theirs = asked.getsockname(), asked.getpeername()
        ports.append(ours[1])
        target, asker = pack(address[0])[0], pack(theirs[0])[0]
        # This host may ask itself: for an IRC server here, about a bouncer here that has an ident server of its own.
        if target == asker and asker != pack(ours[0])[0] and not _is_loopback(asker):
            return True
    return address[1] in ports and is_this_host(address)


def _is_loopback(packed: bytes) -> bool:
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\1"


def _wait(connection: socket.socket, event: int, deadline: float, asked: _socket.socket | None, silent: str) -> None:
    """Wait until a connection is ready, or has failed.

    :raises TimeoutError: it takes too long; its text is ``silent``. :raises OSError: nobody waits for us.
    """
    while True:
        ready = select.poll()
        ready.register(connection, event)
        fd = -1 if asked is None else asked.fileno()
        if asked is not None:
            if fd < 0:
                raise OSError(errno.ECANCELED, "the client has gone")
            # A client that sends no more is taken for gone: the kernel can't tell the two apart.
            ready.register(fd, select.POLLRDHUP)
        left = deadline - time.monotonic()
        # Half a line may hold half a name.
        if left <= 0:
            raise TimeoutError(silent)
        events = dict(ready.poll((left if asked is None else min(left, _LOOK_SECONDS)) * 1e3))
        if fd in events:
            raise OSError(errno.ECANCELED, "the client has gone")
        if events:
            return
