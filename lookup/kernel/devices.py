"""Which network interfaces does this host have?"""

from __future__ import annotations

import _socket as socket  # see connection.py
import time

#: How many interfaces are tried for a socket that is bound to a device: 1024 take 3 ms, and 8 ms more to find out about
#: them once a second; a query that anyone may send must stay cheap on a host with ten thousand of them.
MAX_INTERFACES = 1024

#: Seconds for which the list is kept, from when it was asked for: it costs as much as the rest of a lookup. The
#: administrator may add an interface meanwhile, and only a connection over that one can be missed.
SECONDS = 1.0


class Devices:
    """The interfaces of the network namespace that this process is in."""

    def __init__(self) -> None:
        self._expires = 0.0
        self._found: list[int] = []

    def indices(self) -> list[int]:
        """Return the indices of the interfaces, asked for again after `SECONDS`."""
        now = time.monotonic()
        if now >= self._expires:
            self._found = _indices()
            self._expires = now + SECONDS
        return self._found


def _indices() -> list[int]:
    """Ask for the indices.

    Not by if_nameindex(3), which waits while the kernel's lock for interfaces is held: for seconds where a host ends
    containers. These two do without that lock.
    """
    try:
        with open("/proc/self/net/dev", "rb") as devices:
            names = [line.partition(b":")[0].strip() for line in devices.read().splitlines()[2:]]
    except OSError:
        # ENOENT, EACCES: a sandbox without /proc.
        return [index for index, _ in socket.if_nameindex()[:MAX_INTERFACES]]
    found = []
    for name in names[:MAX_INTERFACES]:
        try:
            found.append(socket.if_nametoindex(name.decode("utf-8", "surrogateescape")))
        except OSError:
            # ENODEV, ENXIO: it has just gone.
            continue
    return found
