"""Which names does the DNS have for an address, that have that address?

Whoever has an address may give it any name. So a name counts if its own name server says that it has this address.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter

from ..connection import Unknown, unpack, within
from .blocks import quoted
from .names import NO_ADDRESS, addresses_of

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from .blocks import Asked

#: Seconds to wait for both questions: clients wait for the reply, and the lookup needs the rest of the time.
NAME_SECONDS = 1.5

#: Seconds from the question for which an answer counts, and for which there is no other question where none came.
#: Whoever runs the name servers may change the names meanwhile.
SECONDS, UNANSWERED_SECONDS = 60.0, 5.0

#: Addresses that are remembered; questions at once, in all and about one network: askers choose when they ask, and a
#: question may outlast its deadline. And names of one address that are looked at.
MAX_REMEMBERED, AT_ONCE, AT_ONCE_OF_ONE, MAX_NAMES = 4096, 16, 4, 8

#: Octets of the network that an address belongs to, by the octets of the address: /24 and /64.
_NETWORK = {4: 3, 16: 8}

#: What h_errno is where there is no name for certain (netdb.h): HOST_NOT_FOUND, NO_DATA.
_NO_NAME = (1, 4)

_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class Names:
    """The names of one address. ``confirmed``: those that have it; ``unknown``: why there may be more, or None.

    ``text``: what the DNS said, for a person.
    """

    __slots__ = ("confirmed", "text", "unknown")

    def __init__(self, confirmed: list[str], unknown: Unknown | None, text: str) -> None:
        self.confirmed = confirmed
        self.unknown = unknown
        self.text = text


class ConfirmedNames:
    """The names of those who asked lately. Any thread may ask."""

    def __init__(self) -> None:
        #: By address: when it was asked for, and what came of it.
        self._found: dict[bytes, tuple[float, Names]] = {}
        #: What is being asked for, by address, and how much of that by network.
        self._asking: set[bytes] = set()
        self._of_one: Counter[bytes] = Counter()
        self._changed = threading.Condition()

    def addresses(self, asked: Asked) -> tuple[tuple[bytes, ...] | Unknown, str]:
        """Return the address that is asked about, if it has a name in that domain; and what the DNS said.

        May block for `NAME_SECONDS`. `Unknown`: it may have one.
        """
        names = self.names(asked.address)
        # RFC 4343: case does not matter.
        if any(name.endswith(asked.domain.decode("ascii")) for name in names.confirmed):
            return (asked.address,), names.text
        return names.unknown or (), names.text

    def names(self, address: bytes) -> Names:
        """Return the names of an address."""
        deadline = time.monotonic() + NAME_SECONDS
        with self._changed:
            # Who asks about the same address waits for the same answer.
            while address in self._asking and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            if (found := self._remembered(address)) is not None:
                return found
            if address in self._asking:
                return _unknown(address, f"no answer within {NAME_SECONDS:g} s")
            network = address[: _NETWORK[len(address)]]
            if len(self._asking) >= AT_ONCE or self._of_one[network] >= AT_ONCE_OF_ONE:
                return _unknown(address, "too many such questions at once")
            self._asking.add(address)
            self._of_one[network] += 1
        try:
            return within(deadline - time.monotonic(), self._ask, address, network)
        except TimeoutError:
            return _unknown(address, f"no answer within {NAME_SECONDS:g} s")
        except OSError as error:
            # No thread is to be had.
            self._done(address, network)
            return _unknown(address, str(error))

    def _remembered(self, address: bytes) -> Names | None:
        asked, found = self._found.get(address, (0.0, None))
        if found is not None:
            kept = SECONDS if found.unknown is None else UNANSWERED_SECONDS
            if time.monotonic() < asked + kept:
                return found
            del self._found[address]
        return None

    def _ask(self, address: bytes, network: bytes) -> Names:
        """Run in a thread, which may outlast the deadline: then the next query has the answer."""
        began, found = time.monotonic(), None
        try:
            found = look_up(address)
        except OSError as error:
            # An error of the name service's that `look_up` does not expect.
            found = _unknown(address, str(error))
        finally:
            with self._changed:
                if found is not None:
                    self._found[address] = began, found
                    while len(self._found) > MAX_REMEMBERED:
                        del self._found[next(iter(self._found))]
            self._done(address, network)
        return found

    def _done(self, address: bytes, network: bytes) -> None:
        with self._changed:
            self._asking.discard(address)
            self._of_one[network] -= 1
            if not self._of_one[network]:
                del self._of_one[network]
            self._changed.notify_all()


#: Those of this process: what may be asked at once is bounded for all files and owners together.
shared = ConfirmedNames()


def look_up(address: bytes) -> Names:
    """Ask the resolver for the names of an address, and for the addresses of these. May block as it does."""
    host = unpack(address)
    try:
        first, others, _ = socket.gethostbyaddr(host)
    except socket.herror as error:
        if error.errno in _NO_NAME:
            return Names([], None, f"{host} has no name in the DNS")
        # TRY_AGAIN, NO_RECOVERY, NETDB_INTERNAL: nobody could say.
        return _unknown(address, error.strerror or str(error))
    except (OSError, UnicodeError) as error:
        return _unknown(address, str(error))
    names = list(dict.fromkeys(name.rstrip(".").lower() for name in (first, *others)))
    confirmed, texts, unknown = [], [], None
    for name in names[:MAX_NAMES]:
        has_it = _has(name, address)
        if has_it is True:
            confirmed.append(name)
            texts.append(f"{host} is {name}, confirmed")
        elif has_it is False:
            texts.append(f"{host} calls itself {quoted(name.encode('utf-8', 'replace'))}, which has another address")
        else:
            unknown = has_it
            texts.append(has_it.reason)
    if len(names) > MAX_NAMES:
        unknown = Unknown(f"{host} has more than {MAX_NAMES} names")
        texts.append(unknown.reason)
    return Names(confirmed, unknown, "; ".join(texts))


def _has(name: str, address: bytes) -> bool | Unknown:
    """Return whether a name has an address. `Unknown`: nobody could say."""
    if not name or not _SIGNS.issuperset(name):
        return False
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    try:
        return address in addresses_of(name.encode("ascii"), family)
    except socket.gaierror as error:
        if error.errno in NO_ADDRESS:
            return False
        # EAI_AGAIN, EAI_FAIL: nobody could say.
        return Unknown(f"whether {name} has {unpack(address)}: {error.strerror}")


def _unknown(address: bytes, reason: str) -> Names:
    unknown = Unknown(f"the names of {unpack(address)}: {reason}")
    return Names([], unknown, unknown.reason)
