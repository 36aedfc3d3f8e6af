"""Does a header of the PROXY protocol say who asked, in haproxy's words?"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack

import pytest
from helpers.machine import skip

from lookup.config import forward
from lookup.config.forward import BINARY, TEXT, header

#: Version 2's first twelve octets, as the specification has them.
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def pair(stack: ExitStack, host: str, listen: str = "") -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection to an address, the asker's first. :param listen: where, if not there."""
    family = socket.AF_INET6 if ":" in (listen or host) else socket.AF_INET
    try:
        listener = stack.enter_context(
            socket.create_server((listen or host, 0), family=family, dualstack_ipv6=listen == "::")
        )
    except OSError:
        skip(f"needs the address {host}")
        raise
    asker = stack.enter_context(socket.create_connection((host, listener.getsockname()[1]), 30))
    accepted = stack.enter_context(listener.accept()[0])
    return asker, accepted


@pytest.mark.parametrize(("host", "listen", "family"), [("127.0.0.1", "", 4), ("127.0.0.1", "::", 4), ("::1", "", 6)])
def test_the_askers_end_and_ours(host: str, listen: str, family: int) -> None:
    """Both versions have the asker's address and ours, and both ports; IPv4 on an IPv6 socket is IPv4."""
    with ExitStack() as stack:
        asker, accepted = pair(stack, host, listen)
        theirs, ours = asker.getsockname()[1], asker.getpeername()[1]
        assert header(TEXT, accepted) == f"PROXY TCP{family} {host} {host} {theirs} {ours}\r\n".encode()
        packed = socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, host)
        rest = packed * 2 + struct.pack("!HH", theirs, ours)
        kind = bytes((0x21, 0x11 if family == 4 else 0x21))
        assert header(BINARY, accepted) == SIGNATURE + kind + struct.pack("!H", len(rest)) + rest


def test_nobody_asks() -> None:
    """Where a person asks by hand, the header says that it is about no connection."""
    assert header(TEXT, None) == b"PROXY UNKNOWN\r\n"
    assert header(BINARY, None) == SIGNATURE + b"\x20\x00\x00\x00"


@pytest.mark.parametrize("form", [TEXT, BINARY])
def test_it_stands_before_the_query(form: str) -> None:
    """The header comes first, then the query, on one connection to the server."""
    with ExitStack() as stack:
        _, accepted = pair(stack, "127.0.0.1")
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        heard = []

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.settimeout(30)
                data = b""
                while not data.endswith(b"1,2\r\n"):
                    data += connection.recv(1000)
                heard.append(data)
                connection.sendall(b"1,2:USERID:UNIX:alice\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        assert forward.ask("127.0.0.1", server.getsockname()[1], 1, 2, accepted, form) == b"alice"
        thread.join(30)
        assert heard == [header(form, accepted) + b"1,2\r\n"]


def test_the_asker_has_gone() -> None:
    """Where the asker's connection is closed already, nobody is asked."""
    with ExitStack() as stack:
        _, accepted = pair(stack, "127.0.0.1")
        accepted.close()
        said = forward.ask("127.0.0.1", 9, 1, 2, accepted, TEXT)
        assert isinstance(said, str) and "Bad file descriptor" in said
