"""Who owns a TCP connection of this host?

>>> from lookup import lookup
>>> lookup(("10.0.0.1", 51234), ("10.0.0.9", 6667))  # doctest: +SKIP
('UNIX', 'alice')

The rooms below: `sock_diag` asks the kernel who holds the socket, `processes` asks psutil where the
kernel can't be asked, `users` finds the login name. Nothing here prints, logs or reads argv.
"""

from __future__ import annotations

import os

from .errors import ConfigError, HiddenUser, IdentError, InvalidPort, NoUser

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from .connection import Address, Owner
    from .grammar import Notice, System, UserBlock
    from .known import Known

__all__ = [
    "Answer", "ConfigError", "HiddenUser", "IdentError", "InvalidPort", "NoUser", "Verdict",
    "find", "judge", "load", "lookup", "name", "said", "told",
]  # fmt: skip


class Answer(tuple[str, str]):
    """The pair ``(system, user)``, with the `Owner` that it was made from, and the `Verdict` where there is one."""

    owner: Owner
    verdict: Verdict | None = None

    @property
    def login(self) -> str:
        """The owner's login name, ``""`` where he has none, whatever is told in its place."""
        if self.verdict is not None:
            return self.verdict.login
        return self[1] if self[0] == "UNIX" else ""

    def about(self, owner: Owner) -> Answer:
        """Return the same answer for another connection of the same owner."""
        answer = Answer(self)
        answer.owner = owner
        return answer


class Verdict:
    """What may be said of an owner, and why.

    ``login``: his login name; ``user``: the user id in octets, None where it is hidden; ``rule``: the blocks that
    decided (``file:line``);
    ``path``: the owner's file that counts; ``files``: what became of his files, as pairs of (worth a line in the
    log, text); ``steps``: the reasons, in order; ``lacking``: the capabilities that his wish needs in vain;
    ``posed``: the other user's name, in quotes, that he wished for and may not have.
    """

    def __init__(self, login: str) -> None:
        self.login = login
        self.user: bytes | None = None
        self.rule = self.path = self.posed = ""
        self.files: list[tuple[bool, str]] = []
        self.steps: list[str] = []
        self.lacking: list[str] = []


def lookup(serverAddress: Address, clientAddress: Address) -> Answer:
    """Return the owner of the connection between two endpoints as ``(system, user)``, whatever a configuration says.

    May block for as long as the name service does.

    :param serverAddress: ``(host, port)`` of the end on this host; a link-local IPv6 host carries its scope.
    :param clientAddress: ``(host, port)`` of the far end. Where both hosts are ``""``, or one is, the ports decide.
    :return: ``("UNIX", login name)``, or ``("OTHER", uid in decimal)`` for an owner without a login name.
    :raises NoUser: there is no such connection, or no process holds it.
    :raises InvalidPort: a port is outside 1..65535.
    :raises IdentError: the owner can't be told.
    :raises ValueError: an address is none.
    """
    return name(find(serverAddress, clientAddress))


def name(owner: Owner, known: Known | None = None) -> Answer:
    """Return what an owner is called. May block for as long as the name service does.

    :param known: what is known of him already.
    """
    from .known import Known  # here, so that a process that names nobody does not read the name service's modules

    return Answer((known or Known(owner.uid)).login()).about(owner)


def load(path: str, required: bool, notices: list[Notice] | None = None) -> System | None:
    """Return what the system file allows, or None where there is none: then nobody may do anything.

    :param required: whether the file must be there.
    :param notices: takes what is surely not meant as it is written, even if there is an error too.
    :raises ConfigError: it can't be read, or says what it should not. May block as the name service does.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        if not required:
            return None
        raise ConfigError(path, 0, 0, "no such file") from None
    except OSError as error:
        # EACCES, EISDIR, EIO ...: who may do what is not known.
        raise ConfigError(path, 0, 0, error.strerror or str(error)) from None
    from .grammar import parse_system  # 2 ms, and only where there is a file

    return parse_system(data, path, notices=notices)


def told(
    owner: Owner, serverAddress: Address, clientAddress: Address, system: System | None, known: Known | None = None
) -> Answer:
    """Return what an owner is called, or what the configuration has in place of that. Arguments: see `judge`.

    :raises HiddenUser: with the `Verdict` as ``verdict``. :raises IdentError: the owner can't be told.
    """
    from .known import Known

    known = known or Known(owner.uid)
    answer = name(owner, known)
    # Without a system file nobody may do anything, so nobody is asked what he wishes.
    if answer[0] != "UNIX" or system is None:
        return answer
    return said(answer, judge(owner, answer[1], serverAddress, clientAddress, system, known))


def said(answer: Answer, verdict: Verdict) -> Answer:
    """Return what a verdict makes of an owner's name. :raises HiddenUser: it hides him."""
    if verdict.user is None:
        hidden = HiddenUser("", answer.owner.uid)
        hidden.verdict = verdict
        raise hidden
    decided = Answer((answer[0], os.fsdecode(verdict.user))).about(answer.owner)
    decided.verdict = verdict
    return decided


def judge(
    owner: Owner, login: str, serverAddress: Address, clientAddress: Address, system: System, known: Known
) -> Verdict:
    """Decide what may be said of an owner whose login name is known.

    May block as the name service does, on the owner's files, and for `forward.FORWARD_SECONDS`.

    :param serverAddress: our end as the query names it. :param clientAddress: the far end. A host of ``""`` is the
        socket's own.
    :param system: from `load`.
    :param known: what is known of him already, and how to find out the rest.
    :raises IdentError: his privileges could not be taken on. :raises Forgotten: ``known`` is to block no more.
    """
    from . import policy

    verdict = Verdict(login)

    def read_wishes() -> list[UserBlock]:
        found = known.wishes()
        last = f"read {found.path}" if found.path else "the owner has no file that counts"
        if found.error is not None:
            last = f"nothing in {found.path} counts until that is mended"
        verdict.path, verdict.files = found.path, [*found.notes, (False, last)]
        return found.blocks

    def ask(host: str, port: int) -> bytes | None:
        from . import forward  # before root is given up, as in known.py

        known.before_forwarding()
        return forward.ask(host, port, serverAddress[1], clientAddress[1])

    server = serverAddress if serverAddress[0] else owner.server
    client = clientAddress if clientAddress[0] else owner.client
    decision = policy.decide(
        owner.uid, os.fsencode(login), server, client, system, read_wishes, known.uid_of, ask
    )
    verdict.user, verdict.steps, verdict.lacking = decision.answer, decision.steps, decision.lacking
    if decision.posed is not None:
        verdict.posed = ascii(decision.posed)[1:]
    verdict.rule = ", ".join(filter(None, (decision.rule, decision.wish)))
    return verdict


def find(serverAddress: Address, clientAddress: Address) -> Owner:
    """Like `lookup`, but return the socket's `Owner`, with its uid in place of the name."""
    for _, port in (serverAddress, clientAddress):
        if not 1 <= port <= 65535:
            raise InvalidPort(f"port {port}")
    from . import sock_diag  # pyroute2's codec takes 16 ms: after the query was found valid

    try:
        if serverAddress[0] and clientAddress[0]:
            return sock_diag.find(serverAddress, clientAddress)
        return sock_diag.find_by_ports(serverAddress, clientAddress)
    except (sock_diag.SockDiagUnavailable, ImportError) as unavailable:
        from . import processes

        try:
            return processes.find(serverAddress, clientAddress)
        except ImportError as error:
            raise IdentError(f"neither sock_diag ({unavailable}) nor psutil ({error}) can be asked") from error
