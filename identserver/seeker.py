"""Which process looks behind NAT and into other network namespaces, for those that may not?

One of its own, forked before anything is read that a stranger sent: it takes requests of a fixed form (`kernel.wire`)
over a socketpair, answers each, and ends with whoever asks. It alone keeps capabilities.
"""

from __future__ import annotations

import os
import socket

from lookup.connection import IdentError
from lookup.kernel import search
from lookup.kernel.wire import MAX_ANSWER, REQUEST_SIZE, Found, Request

from . import reader

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from typing import NoReturn

#: Seconds to wait for an answer: less than a lookup may take.
SECONDS = 3.0


class Seeker:
    """A process that looks where this one may not. It is forked while this process has one thread."""

    def __init__(self) -> None:
        """:raises OSError: there is no process to be had."""
        search.prepare()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(SECONDS)
        with theirs:
            if os.fork() == 0:
                _serve(theirs)

    def ask(self, request: Request) -> Found:
        """Return what a request comes to. :raises IdentError: nobody answers, or not in time."""
        try:
            self._socket.send(request.pack())
            return Found.unpack(self._socket.recv(MAX_ANSWER))
        except (OSError, ValueError) as error:
            # EPIPE, ECONNRESET: it was killed. A timeout. ValueError: it was killed, and answers nothing.
            # What comes too late must not be the next one's answer.
            self._socket.close()
            raise IdentError(f"nobody looks into other network namespaces: {error}") from None


def _serve(requests: socket.socket) -> NoReturn:
    """Answer each request, until the process that asks has ended."""
    try:
        reader.let_go_of_all_but(requests.fileno())
        while request := requests.recv(REQUEST_SIZE + 1):
            requests.send(search.search(Request.unpack(request)).pack())
    finally:
        os._exit(0)
