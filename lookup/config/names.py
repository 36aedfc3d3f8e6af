"""Which address or port does a name in a configuration file stand for?"""

from __future__ import annotations

import _socket as socket  # see lookup/connection.py
import os
import time

from ..connection import Unknown, pack, unpack, within
from .blocks import Asked, HostName, quoted

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from .blocks import Resolve

    #: An address as its 4 or 16 octets, and how many of its first bits count.
    Network = tuple[bytes, int]
    Result = TypeVar("Result")

#: Seconds that all the names that one query needs may take together. Clients wait for the reply meanwhile, the
#: most hasty of them for 3 to 5 s, and the rest of the lookup needs its share.
NAME_SECONDS = 2.0

#: Seconds from the question for which the addresses of a name in the system file hold, and for which it is not asked
#: again where there was no answer. Whoever runs the name server may change them meanwhile.
HOST_SECONDS, UNANSWERED_SECONDS = 60.0, 5.0

#: Seconds from the question for which addresses hold in any case, while the name server does not answer.
KEPT_SECONDS = 3600.0

#: Where the names of services are, and their numbers (services(5)).
_SERVICES = "/etc/services"

# What follows is read from octets, and compared with these expressions by a test (see `words.TOKEN`).

# port = [ 1*blank ] [ "+" ] 1*DIGIT     ; strtol(3)'s, as oidentd reads it
PORT = rb"[ \t\n\v\f\r]*\+?([0-9]+)"

# An IPv4 address as inet_aton(3) takes it: 1 to 4 parts, each decimal, octal or hexadecimal.
IPV4 = rb"(?i:0x[0-9a-f]+|[0-9]+)(?:\.(?i:0x[0-9a-f]+|[0-9]+)){0,3}"

# What is never worth a question to the resolver: nothing, a wild card, blanks and control characters.
NO_NAME = rb"\*?|(?s:.*[\0- \x7f].*)"

_BLANKS, _HEXADECIMAL, _NOT_IN_NAMES = b" \t\n\v\f\r", b"0123456789abcdefABCDEF", bytes((*range(33), 127))


class _Bounded:
    """Asks the name service within a bound of time.

    :param seconds: that all questions may take together.
    """

    def __init__(self, seconds: float = NAME_SECONDS) -> None:
        self._left = seconds

    def within(self, function: Callable[..., Result], *arguments: object) -> Result:
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


class Names(_Bounded):
    """What the words of one file mean that name addresses and ports. The services of this host are asked."""

    def __init__(self, seconds: float = NAME_SECONDS) -> None:
        super().__init__(seconds)
        self._ports: dict[bytes, int | Unknown] = {}

    @staticmethod
    def network(text: bytes) -> Network | HostName:
        """Return the network that a filter names: an address, ``address/bits``, or a host name, which is not looked up.

        :raises ValueError: it is none of these; the text says what was expected.
        """
        address, slash, bits = text.partition(b"/")
        if slash:
            return _network(address, bits)
        packed = _literal(text)
        return _host_name(text) if packed is None else (packed, 8 * len(packed))

    @staticmethod
    def host(text: bytes) -> str | HostName:
        """Return the address of a host to connect to, with the scope that it was given; or its name.

        :raises ValueError: as `network`'s; a second argument says what stands there.
        """
        if b"/" in text:
            raise ValueError("a host expected", "the network ")
        packed = _literal(text)
        if packed is None:
            return _host_name(text)
        scope = text.partition(b"%")[2].decode("latin-1")
        return f"{unpack(packed)}%{scope}" if scope else unpack(packed)

    def ports(self, text: bytes) -> tuple[int, int] | Unknown:
        """Return the first and the last of ``port``, ``first:last``, ``first:``, ``:last`` or ``:``.

        `Unknown`: it has the name of a service that can't be looked up.

        :raises ValueError: it is none of these; the text says what was expected.
        """
        first, colon, last = text.partition(b":")
        # Nothing at all is port 1, as oidentd has it.
        low = self.port(first) if first else 1
        high = low if not colon else self.port(last) if last else 65535
        for port in (low, high):
            if isinstance(port, Unknown):
                return port
        assert isinstance(low, int) and isinstance(high, int)
        return low, high

    def port(self, text: bytes) -> int | Unknown:
        """Return the port that a TCP service has, or that a number is. `Unknown`: the service can't be looked up.

        :raises ValueError: it is neither; the text says what was expected.
        """
        if text in self._ports:
            return self._ports[text]
        digits = port_digits(text)
        # Five digits after any zeros: int() takes time that grows with the square of the length.
        number = digits.lstrip(b"0")
        port: int | Unknown = int(number) if number and len(number) <= 5 else 0
        if not digits:
            port = self._service(text)
        if isinstance(port, int) and not 1 <= port <= 65535:
            raise ValueError("a port from 1 to 65535, the name of a TCP service, or first:last expected")
        self._ports[text] = port
        return port

    def _service(self, text: bytes) -> int | Unknown:
        if is_no_name(text) or not text.isascii():
            return 0
        try:
            return self.within(socket.getservbyname, text.decode("ascii"), "tcp")
        except TimeoutError:
            return Unknown(f"the service {quoted(text)}: the name service did not answer in time")
        except OSError as error:
            # No errno: there is no such service, or the file could not be read.
            return _listed_port(text) if error.errno is None else Unknown(f"the service {quoted(text)}: {error}")


class Resolver(_Bounded):
    """The addresses of host names, asked for one query. Each is asked for once."""

    def __init__(self, seconds: float = NAME_SECONDS) -> None:
        super().__init__(seconds)
        self._found: dict[tuple[bytes, int], tuple[bytes, ...] | Unknown] = {}

    def addresses(self, name: HostName, octets: int = 0) -> tuple[bytes, ...] | Unknown:
        """Return a name's addresses of 4 or 16 octets, or (0) all, in the resolver's order. May block.

        `Unknown`: there is no such name, or it can't be found out, which few resolvers tell apart for certain.
        """
        key = name, octets
        if key not in self._found:
            self._found[key] = self._ask(name, octets)
        return self._found[key]

    def _ask(self, name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
        try:
            # Of both families at once: that is how the C library reads all lines of /etc/hosts.
            found = self._packed(name, socket.AF_UNSPEC)
            if not octets:
                return found
            wanted = tuple(packed for packed in found if len(packed) == octets)
            return wanted or self._of_one_family(name, octets)
        except TimeoutError:
            return Unknown(f"the addresses of {quoted(name)}: the name service did not answer in time")
        except (OSError, UnicodeError) as error:
            # EAI_NONAME, EAI_AGAIN and the like: no such host, or nobody to ask.
            return Unknown(f"the addresses of {quoted(name)}: {getattr(error, 'strerror', None) or error}")

    def _of_one_family(self, name: HostName, octets: int) -> tuple[bytes, ...]:
        """Return the addresses of a name that has others, so that these may have none, or could not be asked for."""
        try:
            return self._packed(name, socket.AF_INET if octets == 4 else socket.AF_INET6)
        except socket.gaierror as error:
            # What the name service says of a name that exists. EAI_AGAIN, EAI_FAIL: it could not say.
            if error.errno in NO_ADDRESS:
                return ()
            raise

    def _packed(self, name: HostName, family: int) -> tuple[bytes, ...]:
        return self.within(addresses_of, bytes(name), family)


#: What the name service says where a name has no address for certain (getaddrinfo(3)).
NO_ADDRESS = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)


def addresses_of(name: bytes, family: int) -> tuple[bytes, ...]:
    """Return a name's addresses of a family, as octets, in the resolver's order. May block as the resolver does.

    :raises OSError: it has none, or that can't be found out.
    """
    # Otherwise the C library, without a host.conf(5) that says so, reads only a name's first line in /etc/hosts.
    os.environ.setdefault("RESOLV_MULTI", "on")
    found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    return tuple(dict.fromkeys(pack(str(one[4][0]).partition("%")[0])[0] for one in found))


class Hosts:
    """What is remembered of the host names in the system file: `HOST_SECONDS`, `UNANSWERED_SECONDS`, `KEPT_SECONDS`."""

    def __init__(self) -> None:
        #: When it was asked for, and what came of it; and the same of the last time that there was an answer.
        self._asked: dict[tuple[bytes, int], tuple[float, tuple[bytes, ...] | Unknown]] = {}
        self._answered: dict[tuple[bytes, int], tuple[float, tuple[bytes, ...]]] = {}

    def addresses(self, name: HostName, octets: int, ask: Resolve) -> tuple[bytes, ...] | Unknown:
        """Return the addresses that still hold, or ask. What is asked of an address is remembered elsewhere."""
        if isinstance(name, Asked):
            return ask(name, octets)
        key, now = (name, octets), time.monotonic()
        asked, found = self._asked.get(key, (0.0, None))
        if found is None or now >= asked + (UNANSWERED_SECONDS if isinstance(found, Unknown) else HOST_SECONDS):
            found = ask(name, octets)
            if isinstance(found, Unknown) and found.unasked:
                return found
            self._asked[key] = now, found
        if not isinstance(found, Unknown):
            self._answered[key] = self._asked[key][0], found
            return found
        answered, last = self._answered.get(key, (0.0, None))
        return last if last is not None and now < answered + KEPT_SECONDS else found


def _host_name(text: bytes) -> HostName:
    if is_no_name(text):
        raise ValueError("an address, a network or a host name expected")
    return HostName(text)


def port_digits(text: bytes) -> bytes:
    """Return the digits of `PORT`; b"": it is no such number."""
    digits = text.lstrip(_BLANKS)
    digits = digits[1:] if digits.startswith(b"+") else digits
    return digits if digits.isdigit() else b""


def is_ipv4(text: bytes) -> bool:
    """Return whether a text is an `IPV4`."""
    parts = text.split(b".")
    return len(parts) <= 4 and all(
        part.isdigit() or (part[:2] in (b"0x", b"0X") and len(part) > 2 and not part[2:].translate(None, _HEXADECIMAL))
        for part in parts
    )


def is_no_name(text: bytes) -> bool:
    """Return whether a text is a `NO_NAME`."""
    return text in (b"", b"*") or len(text.translate(None, _NOT_IN_NAMES)) < len(text)


def _listed_port(text: bytes) -> int | Unknown:
    """Return the port that a service has which the C library does not find: 0, it is not in the file either."""
    try:
        with open(_SERVICES, "rb") as services:
            lines = services.read().split(b"\n")
    except FileNotFoundError:
        # ENOENT: there are no services.
        return 0
    except OSError as error:
        # EMFILE, EIO, EACCES: there may be such a service.
        return Unknown(f"the service {quoted(text)}: {_SERVICES}: {error.strerror}")
    for line in lines:
        # line = name blanks port "/" protocol *( blanks alias ) [ "#" comment ]
        words = line.partition(b"#")[0].split()
        if text in words[:1] + words[2:] and words[1].endswith(b"/tcp"):
            port = words[1][:-4]
            return int(port) if port.isdigit() and len(port) <= 5 else 0
    return 0


def _literal(text: bytes) -> bytes | None:
    """Return an address that is written in numbers, in any form that getaddrinfo(3) takes; None: it is a name."""
    try:
        # Most addresses are written in full.
        return socket.inet_pton(socket.AF_INET, text.decode("latin-1"))
    except (OSError, ValueError):
        # No errno: another form, another family, or a name. ValueError: a NUL in it.
        pass
    if b":" not in text:
        if not is_ipv4(text):
            return None
        try:
            return socket.inet_aton(text.decode("ascii"))
        except OSError:
            raise ValueError("an IPv4 address expected, of numbers up to 255") from None
    address, percent, scope = text.partition(b"%")
    try:
        packed = pack(address.decode("latin-1"))[0]
    except (ValueError, UnicodeError):
        raise ValueError("an IPv6 address expected") from None
    if percent and not (len(packed) == 16 and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 and scope):
        raise ValueError("an address without a scope (%) expected, as it is not link-local")
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
