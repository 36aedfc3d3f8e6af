"""What is answered about an owner?

Here the three rooms below meet: `kernel` found the owner, `users` has their login name, `config` decides.
`answer` is the one composition, for a single shot and for the warm process. It asks `Facts` for what is known of the
owner, which hold for a moment; `Memory` keeps them in the warm process.
"""

from __future__ import annotations

import os
import time

from .errors import HiddenUser, IdentError, NoUser, Unknown
from .users import names

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from .config.blocks import System
    from .config.changes import Mark
    from .config.policy import Decision
    from .config.user_file import Fetched, UserFile
    from .connection import Address, Owner
    from .kernel.arrival import Arrival

    Fetch = Callable[[int, str], Fetched]

#: Seconds for which facts hold after the last question was asked: long enough for a storm of queries about one
#: bouncer, too short for a renamed user to notice. And how many owners are remembered.
SECONDS, MAX_OWNERS = 1.0, 4096


class Answer(tuple[str, str]):
    """The pair ``(system, user)``; ``owner``: whom it is about; ``decision``: what led to it, with a system file."""

    owner: Owner
    decision: Decision | None

    @classmethod
    def about(cls, owner: Owner, system: str, user: str, decision: Decision | None = None) -> Answer:
        """Return an answer about a connection's owner."""
        answer = cls((system, user))
        answer.owner = owner
        answer.decision = decision
        return answer

    @property
    def login(self) -> str:
        """The owner's login name, ``""`` where they have none, whatever is sent in its place."""
        if self.decision is not None:
            return self.decision.login
        return self[1] if self[0] == "UNIX" else ""


def answer(
    owner: Owner, serverAddress: Address, clientAddress: Address, system: System | None, facts: Facts,
    arrival: Arrival | None = None,
) -> Answer | Unknown:  # fmt: skip
    """Return what is answered about an owner: the login name, or what the configuration has in its place.

    May block as the name service does, on the owner's files, and for `forward.FORWARD_SECONDS`, until
    `Facts.stop_asking`.

    :param serverAddress: our end as the query names it. :param clientAddress: the far end. A host of ``""`` is the
        socket's own.
    :param system: what the system file allows (`system_file.load`).
    :param facts: what is known of the owner. :param arrival: how the query came in: nobody asks back on its behalf.
    :return: the answer; or what would have to be asked first, where ``facts`` asks nothing any more.
    :raises HiddenUser: the owner is hidden; with the ``decision``.
    :raises IdentError: something that the answer depends on could not be found out.
    """
    login = facts.login()
    if isinstance(login, Unknown):
        return _to_be_asked(login, owner)
    # Without a system file nobody may do anything, so the user's file does not matter.
    if login[0] != "UNIX" or system is None:
        return Answer.about(owner, *login)
    from .config import policy  # only where there is a system file

    def forward(host: str, port: int) -> bytes | Unknown | None:
        return facts.forward(host, port, serverAddress[1], clientAddress[1], arrival)

    decision = policy.decide(
        owner.uid,
        os.fsencode(login[1]),
        serverAddress if serverAddress[0] else owner.server,
        clientAddress if clientAddress[0] else owner.client,
        system,
        facts.user_file,
        facts.uid_of,
        forward,
    )
    if decision.unknown is not None:
        return _to_be_asked(decision.unknown, owner)
    if decision.user is None:
        hidden = HiddenUser("", owner.uid)
        hidden.decision = decision
        raise hidden
    return Answer.about(owner, login[0], os.fsdecode(decision.user), decision)


def _to_be_asked(unknown: Unknown, owner: Owner) -> Unknown:
    """Return what nobody has asked yet. :raises IdentError: it was asked, in vain."""
    if unknown.unasked:
        return unknown
    raise IdentError(unknown.reason, owner.uid)


def _is_forwarded(asked: socket.socket) -> bool:
    """Return whether a query comes, or may come, from our own user on this host: from another process like this one."""
    from .config import forward
    from .kernel import sock_diag

    try:
        here, asker = asked.getsockname(), asked.getpeername()
        if not forward.is_this_host(asker):
            return False
        asking = sock_diag.find(_address(asker), _address(here))
    except NoUser:
        # A process in another network namespace, or one that has gone.
        return False
    except (IdentError, OSError, ImportError, ValueError, sock_diag.SockDiagUnavailable):
        # ENOTCONN: the client has gone. The others: it can't be found out.
        return True
    return asking.uid == os.geteuid()


def _address(name: tuple[Any, ...]) -> Address:
    """Return a socket's address as a pair, with the scope where it has one."""
    return (f"{name[0]}%{name[3]}" if len(name) == 4 and name[3] else name[0]), name[1]


class Facts:
    """What is known of one owner: their login name and home, their file, and which names are whose.

    Everything is asked for once, when it is needed, and then remembered for as long as these facts are used: by one
    query, or by those that come within `SECONDS` after `stop_asking`. Asking may block until then; afterwards what
    was not asked is `Unknown` with ``unasked``.

    The administrator may change login names and uids meanwhile, and that goes unnoticed for as long; the owner may
    change their file, which `still_holds` notices. What another server says is never remembered.
    """

    def __init__(self, uid: int, fetch: Fetch | None = None, watch: bool = False, forwards: bool = True) -> None:
        """:param fetch: reads the owner's file: `user_file.fetch`, or what does that with other privileges.

        :param watch: whether these facts will be remembered, so that changes of the file must be noticed.
        :param forwards: whether other servers may be asked; otherwise that stays unasked.
        """
        self.uid = uid
        self._fetch = fetch
        self._watch = watch
        self._forwards = forwards
        self._asks = True
        self._login: tuple[str, str] | None = None
        self._home = ""
        self._uids: dict[bytes, int | None] = {}
        self._user_file: UserFile | None = None
        self._marks: list[Mark] | None = None
        self._expires = 0.0

    def login(self) -> tuple[str, str] | Unknown:
        """Return ``("UNIX", login name)``, or ``("OTHER", number)`` for an owner without a login name."""
        if self._login is None:
            if not self._asks:
                return Unknown("the owner's login name", unasked=True)
            try:
                self._login, self._home = names.entry(self.uid)
            except IdentError as error:
                return Unknown(error.detail)
        return self._login

    def uid_of(self, name: bytes) -> int | Unknown | None:
        """Return the uid that a login name has, or None."""
        if name not in self._uids:
            if not self._asks:
                return Unknown("who has a login name", unasked=True)
            self._uids[name] = names.uid_of(name)
        return self._uids[name]

    def user_file(self) -> UserFile | Unknown:
        """Return what the owner's file says."""
        if self._user_file is None:
            if not self._asks:
                return Unknown("the owner's file", unasked=True)
            # First, as the owner may not be allowed to read root's Python.
            from .config import user_file

            if self._watch:
                from .config import changes
            login = self.login()
            if isinstance(login, Unknown):
                return login
            before = changes.marks(self._home) if self._watch else None
            try:
                fetched = (self._fetch or user_file.fetch)(self.uid, self._home)
            except IdentError as error:
                return Unknown(error.detail)
            self._user_file = user_file.parse(fetched)
            # Unless something changed meanwhile, what was read is what the marks say.
            self._marks = before if before is not None and before == changes.marks(self._home) else None
        return self._user_file

    def forward(
        self, host: str, port: int, port_on_server: int, port_on_client: int, arrival: Arrival | None = None
    ) -> bytes | Unknown | None:
        """Return the name that the ident server at an address has for the owner of a connection, or None.

        :param arrival: how our own query came in. One that an identd of this host has forwarded is not forwarded again.
        """
        if not (self._forwards and self._asks):
            return Unknown("another server", unasked=True)
        from .config import forward  # 1 ms, and few owners forward

        if arrival is not None and _is_forwarded(arrival.socket):
            return None
        return forward.ask(host, port, port_on_server, port_on_client, None if arrival is None else arrival.socket)

    def stop_asking(self) -> None:
        """Ask nothing more, and hold for `SECONDS` what was found out."""
        self._asks = False
        self._expires = time.monotonic() + SECONDS

    def still_holds(self) -> bool:
        """Return whether what was found is young enough, and the owner's files are as they were. Never blocks."""
        if time.monotonic() >= self._expires:
            return False
        if self._user_file is None:
            return True
        if self._marks is None:
            return False
        from .config.changes import unchanged  # only where the warm process watches files

        return unchanged(self._marks)


class Memory:
    """The facts about the owners that a warm process has met in the last moment: `SECONDS`, `MAX_OWNERS`."""

    def __init__(self) -> None:
        self._owners: dict[int, Facts] = {}

    def recall(self, uid: int) -> Facts | None:
        """Return what is known of an owner and still holds. Never blocks."""
        facts = self._owners.get(uid)
        if facts is not None and not facts.still_holds():
            self._owners.pop(uid, None)
            return None
        return facts

    def keep(self, facts: Facts) -> None:
        """Remember what was found out; these facts ask nothing more."""
        facts.stop_asking()
        if len(self._owners) >= MAX_OWNERS:
            self._owners.clear()
        self._owners[facts.uid] = facts
