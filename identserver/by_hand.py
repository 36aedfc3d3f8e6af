"""How is somebody served who tests by hand?

Every line of a pipe, file or terminal is a query.
"""

from __future__ import annotations

import errno
import os
import threading  # noqa: F401  (whichever thread imports it first counts as the main one, for which the end waits)

from .answer import AnsweringServer
from .log import Log, octets, say
from .protocol import Endpoint, Ends

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .options import Options


class TextTransport(Ends):
    """Standard input and output. ``errno``: why replies can't be written."""

    errno = 0
    #: Nothing tells how the query would have come in.
    arrival = None

    def __init__(self, host: str, peer: str) -> None:
        super().__init__(Endpoint(host), Endpoint(peer))
        self.disconnecting = False

    def write(self, data: bytes) -> None:
        try:
            os.write(1, data)
        except BrokenPipeError:  # EPIPE: nobody reads on
            self.disconnecting = True
        except OSError as error:  # ENOSPC, EIO, EBADF: `serve_lines` raises it
            self.errno = error.errno or errno.EIO
            self.disconnecting = True

    def loseConnection(self) -> None:
        """Nothing to lose: the input's end is the end."""


class ByHandServer(AnsweringServer):
    """The server at the end of a pipe: an invalid line ends nothing, and standard error says why nobody is named."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.multi_query = True

    def refuse(self, what: str, line: bytes) -> None:
        say(f"{what}: {octets(line[:80])}")

    def _ebLookup(self, failure: Any, sport: int | str, cport: int | str) -> None:
        if getattr(failure.value, "detail", ""):
            say(f"{sport},{cport}: {failure.value.detail}")
        super()._ebLookup(failure, sport, cport)


def serve_lines(options: Options, log: Log, look_up: Callable[..., Any]) -> None:
    """Answer every line of standard input, until its end.

    :param look_up: see `AnsweringServer`.
    :raises OSError: the replies can't be written.
    """
    transport = TextTransport(options.server_address, options.client_address)
    protocol = ByHandServer(options, log, look_up)
    protocol.makeConnection(transport)
    if os.isatty(0):
        say("one query a line: the port here, a comma, the port at the far end (51234,6667); Ctrl-D ends", Log.INFO)
    while not transport.disconnecting and (data := os.read(0, 65536)):
        protocol.dataReceived(data)
        protocol.say_why_nobody()
    if protocol.unfinished:
        protocol.dataReceived(b"\n")
        protocol.say_why_nobody()
    protocol.connectionLost()
    log.finish()
    if transport.errno:
        raise OSError(transport.errno, os.strerror(transport.errno))
