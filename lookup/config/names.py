"""Which address or port does a name in a configuration file stand for?"""

from __future__ import annotations

import re
import socket
import time

from ..connection import pack, unpack
from ..deadline import within

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    #: An address as its 4 or 16 octets, and how many of its first bits count.
    Network = tuple[bytes, int]
    Result = TypeVar("Result")

#: Seconds that all the names of one file may take together. Clients wait for the reply meanwhile, the
#: most hasty of them for 3 to 5 s, and the rest of the lookup needs its share.
NAME_SECONDS = 2.0

# None of these is compiled before it is needed: most files name no host, and each takes 0.2 ms.

# port = [ 1*blank ] [ "+" ] 1*DIGIT     ; strtol(3)'s, as oidentd reads it
_PORT = rb"[ \t\n\v\f\r]*\+?([0-9]+)"

# An IPv4 address as inet_aton(3) takes it: 1 to 4 parts, each decimal, octal or hexadecimal.
_IPV4 = rb"(?i:0x[0-9a-f]+|[0-9]+)(?:\.(?i:0x[0-9a-f]+|[0-9]+)){0,3}"

# What is never worth a question to the resolver: nothing, a wild card, blanks and control characters.
_NO_NAME = rb"\*?|(?s:.*[\0- \x7f].*)"


class Names:
    """The resolver and the services of this host, asked for one file within a bound of time.

    :param seconds: that all questions may take together.
    """

    def __init__(self, seconds: float = NAME_SECONDS) -> None:
        self._left = seconds
        self._packed: dict[bytes, bytes] = {}
        self._ports: dict[bytes, int] = {}

    def network(self, text: bytes) -> Network:
        """Return the network that a filter names: an address, ``address/bits``, or a host name.

        :raises ValueError: it is none of these; the text says what was expected.
        """
        address, slash, bits = text.partition(b"/")
        if slash:
            return _network(address, bits)
        packed = self._resolve(text)
        return packed, 8 * len(packed)

    def host(self, text: bytes) -> str:
        """Return the address of a host to connect to, with the scope that it was given.

        :raises ValueError: as `network`'s.
        """
        if b"/" in text:
            raise ValueError("a host expected, not a network")
        scope = text.partition(b"%")[2].decode("latin-1")
        address = unpack(self._resolve(text))
        return f"{address}%{scope}" if scope else address

    def ports(self, text: bytes) -> tuple[int, int]:
        """Return the first and the last of ``port``, ``first:last``, ``first:``, ``:last`` or ``:``.

        :raises ValueError: it is none of these; the text says what was expected.
        """
        first, colon, last = text.partition(b":")
        # Nothing at all is port 1, as oidentd has it.
        low = self.port(first) if first else 1
        if not colon:
            return low, low
        return low, self.port(last) if last else 65535

    def port(self, text: bytes) -> int:
        """Return the port that a TCP service has, or that a number is.

        :raises ValueError: it is neither; the text says what was expected.
        """
        if text in self._ports:
            return self._ports[text]
        # Most ports are digits, which need no expression.
        match = None if text.isdigit() else re.fullmatch(_PORT, text)
        # Five digits after any zeros: int() takes time that grows with the square of the length.
        number = (text if match is None else match[1]).lstrip(b"0")
        port = int(number) if number.isdigit() and len(number) <= 5 else 0
        if match is None and not text.isdigit():
            port = self._service(text)
        if not 1 <= port <= 65535:
            raise ValueError("a port from 1 to 65535, the name of a TCP service, or first:last expected")
        self._ports[text] = port
        return port

    def _service(self, text: bytes) -> int:
        if re.fullmatch(_NO_NAME, text) or not text.isascii():
            return 0
        try:
            return self._within(socket.getservbyname, text.decode("ascii"), "tcp")
        except TimeoutError:
            raise ValueError("the name service did not answer in time about this service") from None
        except OSError:
            # No errno: there is no such service.
            return 0

    def _resolve(self, text: bytes) -> bytes:
        if text not in self._packed:
            self._packed[text] = _literal(text) or self._lookup(text)
        return self._packed[text]

    def _lookup(self, name: bytes) -> bytes:
        if re.fullmatch(_NO_NAME, name):
            raise ValueError("an address, a network or a host name expected")
        return self._ask(name)

    def _ask(self, name: bytes) -> bytes:
        try:
            found = self._within(socket.getaddrinfo, name, None, 0, socket.SOCK_STREAM)
            return pack(str(found[0][4][0]).partition("%")[0])[0]
        except TimeoutError:
            raise ValueError("the name service did not answer in time about this host name") from None
        except (OSError, UnicodeError) as error:
            # EAI_NONAME, EAI_AGAIN and the like: no such host, or nobody to ask.
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"an address, a network or a host name expected ({reason})") from None

    def _within(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call what may block, as long as there is time left.

        :raises TimeoutError: no time is left.
        :raises OSError: whatever the function raised.
        """
        if self._left <= 0:
            raise TimeoutError
        began = time.monotonic()
        try:
            return within(self._left, function, *arguments)
        finally:
            self._left -= time.monotonic() - began


class Unasked(Names):
    """Asks for no host's address, but notes as ``postponed`` that there is one to ask for."""

    postponed = False

    def _ask(self, name: bytes) -> bytes:
        self.postponed = True
        return bytes(4)


def _literal(text: bytes) -> bytes | None:
    """Return an address that is written in numbers, in any form that getaddrinfo(3) takes; None: it is a name."""
    try:
        # Most addresses are written in full, and need no expression.
        return socket.inet_pton(socket.AF_INET, text.decode("latin-1"))
    except (OSError, ValueError):
        # No errno: another form, another family, or a name. ValueError: a NUL in it.
        pass
    if b":" not in text:
        if not re.fullmatch(_IPV4, text):
            return None
        try:
            return socket.inet_aton(text.decode("ascii"))
        except OSError:
            raise ValueError(f"an IPv4 address expected, and {text.decode('ascii')} is too much for one") from None
    address, percent, scope = text.partition(b"%")
    try:
        packed = pack(address.decode("latin-1"))[0]
    except (ValueError, UnicodeError):
        raise ValueError("an IPv6 address expected") from None
    if percent and not (len(packed) == 16 and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 and scope):
        raise ValueError("no scope (%) expected: only a link-local address has one")
    return packed


def _network(address: bytes, bits: bytes) -> Network:
    """Return a network in CIDR notation (RFC 4632, RFC 4291 section 2.3), its host bits cleared."""
    try:
        # Without the scope that `pack` would take: a network has none.
        packed = pack(address.replace(b"%", b"/").decode("ascii"))[0]
    except (ValueError, UnicodeError):
        raise ValueError("an address expected before the slash, in full") from None
    most, mapped = 8 * len(packed), b":" in address and len(packed) == 4
    length = int(bits) if bits.isdigit() and len(bits) <= 3 else -1
    if mapped:
        length -= 96
    if not 0 <= length <= most:
        least, most = (96, 128) if mapped else (0, most)
        raise ValueError(f"a number of bits from {least} to {most} expected after the slash")
    mask = (1 << most) - (1 << (most - length))
    return (int.from_bytes(packed, "big") & mask).to_bytes(len(packed), "big"), length
