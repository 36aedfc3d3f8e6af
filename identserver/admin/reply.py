"""Which line does a client get for an answer, or for what keeps it from one?"""

from __future__ import annotations

from ..answer import AnsweringServer
from ..log import NoLog
from ..protocol import Endpoint, Ends

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.connection import Address
    from lookup.machines import Named
    from lookup.owner import Answer

    from ..options import Options


class _OneReply(Ends):
    """A transport that keeps what is written as ``reply``."""

    disconnecting = False
    arrival = None

    def __init__(self, host: str, peer: str) -> None:
        super().__init__(Endpoint(host), Endpoint(peer))
        self.reply = b""

    def write(self, data: bytes) -> None:
        self.reply += data

    def loseConnection(self) -> None:
        self.disconnecting = True


def reply_line(outcome: Answer | Named | Exception, server: Address, client: Address, options: Options) -> str:
    """Return the line that a client gets for an answer, or for an exception."""

    def given(*_: object) -> Answer | Named:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    transport = _OneReply(server[0], client[0])
    protocol = AnsweringServer(options, NoLog(options), given)
    protocol.makeConnection(transport)
    protocol.dataReceived(b"%d,%d\n" % (server[1], client[1]))
    return transport.reply.decode("latin-1").rstrip("\r\n")
