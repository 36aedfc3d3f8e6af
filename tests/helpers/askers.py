"""How does a query come in over a certain device, or in another network namespace?"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import TYPE_CHECKING

from helpers.hosts import Town, family_of, inside
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, ending, start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from helpers.hosts import Ends

FORMS = ("single", "warm")


class Asker:
    """A client that is connected to an identd, which runs on the host `Town.here`."""

    def __init__(self, client: socket.socket, process: subprocess.Popen[bytes], form: str) -> None:
        self.client = client
        self.process = process
        self.form = form

    def send(self, ends: Ends) -> None:
        """Ask about a connection."""
        self.client.sendall(f"{ends[0][1]},{ends[1][1]}\r\n".encode())

    def read(self) -> str:
        """Return the reply, without the ports; ``""``: there is none."""
        return everything(self.client).decode().rstrip("\r\n").partition(":")[2]

    def ask(self, ends: Ends) -> str:
        """Ask about a connection, and return the reply without the ports."""
        self.send(ends)
        return self.read()

    def log(self) -> str:
        """End identd, and return what it has written to standard error."""
        if self.form == "warm":
            self.process.terminate()
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


@contextlib.contextmanager
def asking(
    town: Town, form: str, *options: str, asker: str = "", device: str = "", server: str = "", client: str = "",
    listens_in: str = "", command: Sequence[str] = COMMAND,
) -> Iterator[Asker]:  # fmt: skip
    """Connect to an identd on the host `here`, in one of the `FORMS`.

    :param asker: the host that asks (`there`). :param device: what identd's listening socket is bound to.
    :param server: the address that is asked; :param client: the asker's.
    :param listens_in: the network namespace of that socket, where it is another one.
    """
    server = server or (town.HERE_6 if ":" in client else town.HERE)
    with contextlib.ExitStack() as stack:
        with inside(listens_in or town.here):
            listener = stack.enter_context(socket.socket(family_of(server)))
            if device:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            listener.bind((server, 0))
            listener.listen()
        with inside(asker or town.there):
            caller = stack.enter_context(socket.socket(family_of(server)))
            caller.settimeout(PATIENCE)
            if client:
                caller.bind((client, 0))
            caller.connect(listener.getsockname()[:2])
        with inside(town.here):
            if form == "single":
                accepted, _ = listener.accept()
                process = start([*command, *options], accepted)
                accepted.close()
            else:
                process = subprocess.Popen(
                    [*command, *options], stdin=listener.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
        stack.enter_context(ending(process))
        yield Asker(caller, process, form)


