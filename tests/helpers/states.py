"""In which state does the kernel show a connection, whoever asks?"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.hosts import inside

if TYPE_CHECKING:
    from helpers.hosts import Ends

#: include/net/tcp_states.h
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE_WAIT, LAST_ACK = 1, 2, 3, 4, 5, 6, 8, 9


def table(namespace: str, ends: Ends) -> tuple[int, int, int] | None:
    """Return the state, uid and inode that proc_net_tcp shows for an IPv4 connection; None when it has none."""
    wanted = [f"{struct.unpack('=I', socket.inet_aton(host))[0]:08X}:{port:04X}" for host, port in ends]
    with inside(namespace):
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    for fields in map(str.split, lines):
        if fields[1:3] == wanted:
            return int(fields[3], 16), int(fields[7]), int(fields[9])
    return None
