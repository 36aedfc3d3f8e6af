"""How does a person of another host come to a connection?  They call, or are called."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from helpers.hosts import Town, inside, listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.hosts import Ends, Person


@contextlib.contextmanager
def call(
    town: Town, person: Person, host: str = Town.THERE, namespace: str = "", **how: object
) -> Iterator[tuple[Ends, socket.socket]]:
    """Have a person connect to a listener; give both ends of the connection, and the far end's socket."""
    protocol = int(str(how.get("protocol", 0)))
    with town.listen(host, namespace, protocol=protocol) as listener:
        ends = person.dial((host, listener.getsockname()[1]), **how)
        far, _ = listener.accept()
        with far:
            yield ends, far


@contextlib.contextmanager
def listening(town: Town, host: str, port: int) -> Iterator[None]:
    """Listen `elsewhere` on a port that somebody has `there`."""
    with inside(town.elsewhere):
        listener = listen(f"{host}%vpn" if ":" in host else host, port=port)
    with listener:
        yield


@contextlib.contextmanager
def welcome(
    town: Town, person: Person, host: str, target: str, family: int = 0
) -> Iterator[tuple[Ends, socket.socket]]:
    """Connect to a person's listener from `there`; give both ends, and the caller's socket."""
    port = person.tell("listener = listen(host, family); listener.getsockname()[1]", host=host, family=family)
    with inside(town.there), socket.create_connection((target, port)) as caller:
        person.tell("kept.append(listener.accept()[0])")
        yield ((target, port), caller.getsockname()[:2]), caller


def other(ends: Ends, server: str = "", client: str = "") -> Ends:
    """Return the same ports at other addresses."""
    return (server or ends[0][0], ends[0][1]), (client or ends[1][0], ends[1][1])


@contextlib.contextmanager
def inherited(person: Person, uid: int) -> Iterator[None]:
    """Have a process of another user's inherit the socket that root made last, and keep it until the end."""
    heir = f"import os; os.setresuid(*3 * [{uid}]); os.write(1, b'!'); os.read(0, 1)"
    person.tell(
        "import subprocess as s; fd = kept[-1].fileno();"
        "heir = s.Popen([sys.executable, '-c', heir], stdin=s.PIPE, stdout=s.PIPE, pass_fds=[fd], cwd='/');"
        "heir.stdout.read(1)",
        heir=heir,
    )  # fmt: skip
    yield
    person.tell("heir.communicate(b'!')")
