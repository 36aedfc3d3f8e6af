"""How is an entry handed to systemd's journal?

By its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram is one entry.
"""

from __future__ import annotations

import _socket as socket  # see lookup/connection.py
import struct
from sys import byteorder

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Where the journal takes entries (systemd-journald.service(8)).
PATH = "/run/systemd/journal/socket"

_LENGTH = struct.Struct("<Q")
_SIOCOUTQ = 0x5411  # linux/sockios.h: octets that the receiver has not taken yet


def entry(fields: Iterable[tuple[str, bytes]]) -> bytes:
    """Return an entry as it is sent. :param fields: names, which are ours, and values, in which any octet may stand.

    Each value comes after its length, so that no line end in one begins another field.
    """
    return b"".join(
        b"%s\n%s%s\n" % (name.encode("ascii"), _LENGTH.pack(len(value)), value) for name, value in fields
    )


class Journal:
    """A socket to send entries by."""

    def __init__(self) -> None:
        """:raises OSError: there is none to be had."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, fields: Iterable[tuple[str, bytes]]) -> None:
        """Send one entry. Never blocks.

        :raises OSError: the journal does not take it. ENOENT, ECONNREFUSED: it is not there. EACCES: it is closed to
            us. EAGAIN: its queue is full. EMSGSIZE: the entry is too long.
        """
        # Not connected, so that a journal that was started anew is found again.
        self._socket.sendto(entry(fields), PATH)

    def all_taken(self) -> bool:
        """Return whether the journal has taken what was sent.

        It looks a sender's unit up when it does: who has ended by then is of no unit, for `journalctl -u`.
        """
        from fcntl import ioctl  # at the end of a process

        try:
            return not int.from_bytes(ioctl(self._socket.fileno(), _SIOCOUTQ, bytes(4)), byteorder)
        except OSError:  # EPERM: a sandbox
            return True

    def close(self) -> None:
        self._socket.close()
