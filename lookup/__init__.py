"""Who owns a TCP connection of this host, and who is asked: sock_diag, or psutil without it?

>>> from lookup import lookup
>>> lookup(("10.0.0.1", 51234), ("10.0.0.9", 6667))  # doctest: +SKIP
('UNIX', 'alice')

The rooms below: `kernel` finds the socket and its owner's uid, `users` the login name, `config` what may be sent in
its place; `owner` puts them together. Nothing here prints, logs or reads argv.
"""

from __future__ import annotations

from .connection import ACCEPT_PAUSES as ACCEPT_PAUSES
from .connection import ACCEPT_SECONDS, ConfigError, HiddenUser, IdentError, InvalidPort, NotAccepted, NoUser, Unknown

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from typing import Any

    from .connection import Address, Arrival, Owner
    from .owner import Answer

__all__ = [
    "Answer", "ConfigError", "HiddenUser", "IdentError", "InvalidPort", "NoUser", "Unknown",
    "find", "import_all", "lookup",
]  # fmt: skip


def lookup(serverAddress: Address, clientAddress: Address) -> Answer:
    """Return the owner of the connection between two endpoints as ``(system, user)``, whatever a configuration says.

    May block for as long as the name service does.

    :param serverAddress: ``(host, port)`` of the end on this host; a link-local IPv6 host carries its scope.
    :param clientAddress: ``(host, port)`` of the far end. Where one host is ``""``, or both are, the ports decide.
    :return: ``("UNIX", login name)``, or ``("OTHER", uid in decimal)`` for an owner without a login name.
    :raises NoUser: there is no such connection, or no process holds it.
    :raises InvalidPort: a port is outside 1..65535.
    :raises IdentError: the owner could not be found out.
    :raises ValueError: a host is not an address.
    """
    owner = find(serverAddress, clientAddress)
    from .owner import Facts, answer  # here, so that a query about nobody does not read the name service's modules

    found = answer(owner, serverAddress, clientAddress, None, Facts(owner.uid))
    if isinstance(found, Unknown):
        raise IdentError(found.reason, owner.uid)
    return found


def find(serverAddress: Address, clientAddress: Address, arrival: Arrival | None = None) -> Owner:
    """Like `lookup`, but return the socket's `Owner`, with the uid in place of the name.

    :param arrival: how the query came in: only a connection that can be meant there counts.
    """
    for _, port in (serverAddress, clientAddress):
        if not 1 <= port <= 65535:
            raise InvalidPort(f"port {port}")
    began = None
    for pause in ACCEPT_PAUSES:
        try:
            return _find(serverAddress, clientAddress, arrival)
        except NotAccepted:
            import time

            now = time.monotonic()
            began = began or now
            if now + pause > began + 2 * ACCEPT_SECONDS:  # psutil takes its time
                raise
            time.sleep(pause)
    return _find(serverAddress, clientAddress, arrival)


def _find(serverAddress: Address, clientAddress: Address, arrival: Arrival | None) -> Owner:
    """Do `find` once."""
    from .kernel import sock_diag  # pyroute2's codec takes 16 ms: after the query was found valid

    try:
        if serverAddress[0] and clientAddress[0]:
            return sock_diag.find(serverAddress, clientAddress, arrival)
        from .kernel import dumps  # only for people, who may leave a host out

        return dumps.find_by_ports(serverAddress, clientAddress)
    except (sock_diag.SockDiagUnavailable, ImportError) as unavailable:
        from .kernel import processes  # only where the kernel has no sock_diag

        try:
            return processes.find(serverAddress, clientAddress, arrival)
        except ImportError as error:
            raise IdentError(f"neither sock_diag ({unavailable}) nor psutil ({error}) can be asked") from error
        except NoUser:
            raise
        except IdentError as error:
            raise IdentError(f"{error.detail}; sock_diag can't be asked: {unavailable}", error.uid) from error


def import_all(also_behind: bool = False) -> None:
    """Import whatever a query may need, for a process that answers many: it may give up the right to read these files.

    pyroute2 and psutil stay with those who use them.

    :param also_behind: whether owners behind NAT, in containers, or of ranges of uids may be looked for.
    """
    from . import owner, user_namespace  # noqa: F401
    from .config import forward, policy, readings, sandbox, system_file  # noqa: F401
    from .kernel import candidates, devices, dumps, processes, routes, sock_diag  # noqa: F401
    from .users import database, names, services  # noqa: F401

    if also_behind:
        from . import behind  # noqa: F401
        from .kernel import wire  # noqa: F401
        from .users import sub_ids  # noqa: F401
    services.prepare()


def __getattr__(name: str) -> Any:
    # Imported only where somebody asks for it: the modules that every query imports begin here.
    if name == "Answer":
        from .owner import Answer

        return Answer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
