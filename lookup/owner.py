"""What is known of an owner, how long is that remembered, and what is answered?

Here the three rooms below meet: `kernel` found the owner, `users` has their login name, `config` decides.
`answer` is the one composition, for a single shot and for the warm process. It asks `Facts` for what is known of the
owner, which hold for a moment; `Memory` keeps them in the warm process.
"""

from __future__ import annotations

import os
import time

from .connection import HiddenUser, IdentError, NoUser, Unknown, asked_name, can_be_sent
from .users import names

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import Any

    from .config.blocks import HostName, System
    from .config.decision import Decision
    from .config.names import Resolver
    from .config.user_file import Fetched, UserFile
    from .connection import Address, Arrival, Owner

    Fetch = Callable[[int, str], Fetched]
    Read = Callable[[int, str], UserFile]

#: Seconds for which facts hold after the first question was asked: long enough for a storm of queries about one
#: bouncer, too short for a renamed user to notice. How many owners are remembered, and octets of names for each.
SECONDS, MAX_OWNERS, MAX_NAMES = 1.0, 4096, 4096


class Answer(tuple[str, str]):
    """The pair ``(system, user)``; ``owner``: whom it is about; ``decision``: what led to it, with a system file."""

    owner: Owner
    decision: Decision | None
    _login: str

    @classmethod
    def about(
        cls, owner: Owner, system: str, user: str, decision: Decision | None = None, login: str | None = None
    ) -> Answer:
        """Return an answer about a connection's owner. :param login: their login name, where it is not the ``user``."""
        answer = cls((system, user))
        answer.owner = owner
        answer.decision = decision
        answer._login = (user if system == "UNIX" else "") if login is None else login
        return answer

    @property
    def login(self) -> str:
        """The owner's login name, ``""`` where they have none, whatever is sent in its place."""
        return self._login if self.decision is None else self.decision.login


def answer(
    owner: Owner, serverAddress: Address, clientAddress: Address, system: System | Unknown | None, facts: Facts,
    arrival: Arrival | None = None, form: str = "",
) -> Answer | Unknown:  # fmt: skip
    """Return what is answered about an owner: the login name, or what the configuration has in its place.

    May block as the name service does, on the owner's files, and for `forward.FORWARD_SECONDS`, until
    `Facts.stop_asking`.

    :param serverAddress: our end as the query names it. :param clientAddress: the far end. A host of ``""`` is the
        socket's own.
    :param system: what the system file allows (`system_file.load`); `Unknown`: it can't be obeyed.
    :param facts: what is known of the owner. :param arrival: how the query came in: nobody asks back on its behalf.
    :param form: what is sent in place of the login name (`formats`); ``""``: that is sent.
    :return: the answer; or what would have to be asked first, where ``facts`` asks nothing any more.
    :raises HiddenUser: the owner is hidden; with the ``decision``.
    :raises IdentError: something that the answer depends on could not be found out.
    """
    if isinstance(system, Unknown):
        return _to_be_asked(system, owner)
    login = facts.login()
    if isinstance(login, Unknown):
        return _to_be_asked(login, owner)
    if owner.nameless:
        # Neither a login name's rules nor its form are theirs.
        system, form = system.of_a_container() if system is not None else None, ""
    # Without a system file nobody may do anything, so the user's file does not matter.
    if system is None:
        if owner.reply:
            return Answer.about(owner, "UNIX", owner.reply, login="")
        if form:
            return _formatted(form, login, owner, facts, None)
        return (_nobodys(login[1], owner, facts) if login[0] == "OTHER" else None) or Answer.about(owner, *login)
    from .config import policy  # only where there is a system file

    def forward(host: str, port: int, proxy: str = "") -> bytes | str | Unknown:
        return facts.forward(host, port, serverAddress[1], clientAddress[1], arrival, proxy)

    decision = policy.decide(
        owner.uid,
        os.fsencode(login[1]) if login[0] == "UNIX" else b"",
        serverAddress if serverAddress[0] else owner.server,
        clientAddress if clientAddress[0] else owner.client,
        system,
        facts.user_file,
        facts.uid_of,
        forward,
        resolve=facts.addresses,
        resolve_rule=lambda name, octets: system.hosts.addresses(name, octets, facts.addresses),
    )
    return _decided(decision, login, owner, facts, form)


def _decided(decision: Decision, login: tuple[str, str], owner: Owner, facts: Facts, form: str) -> Answer | Unknown:
    """Return the answer that a decision comes to, with what `answer` raises."""
    if decision.unknown is not None:
        return _to_be_asked(decision.unknown, owner)
    if decision.user is None:
        hidden = HiddenUser("", owner.uid)
        hidden.decision, hidden.owner = decision, owner
        raise hidden
    if form and decision.sends_login:
        if isinstance(decision.sends_login, Unknown):
            raise IdentError(decision.sends_login.reason, owner.uid)
        return _formatted(form, login, owner, facts, decision)
    if owner.reply and decision.sends_login:
        if isinstance(decision.sends_login, Unknown):
            raise IdentError(decision.sends_login.reason, owner.uid)
        return Answer.about(owner, "UNIX", owner.reply, decision)
    user = os.fsdecode(decision.user)
    if decision.system == "OTHER" and (unknown := _nobodys(user, owner, facts)) is not None:
        return unknown
    return Answer.about(owner, decision.system, user, decision)


def _formatted(
    form: str, login: tuple[str, str], owner: Owner, facts: Facts, decision: Decision | None
) -> Answer | Unknown:
    """Return an answer with the login name in another form.

    :raises IdentError: there is none, or a client may take it for another user's name, or that can't be found out.
    """
    from .config.readings import another_user

    name = login[1] if login[0] == "UNIX" else ""
    found = facts.formatted(form, name)
    if isinstance(found, Unknown):
        return _to_be_asked(found, owner)
    if not can_be_sent(os.fsencode(found)):
        raise IdentError(f"what {form} makes of the owner can't be sent: {found!r}", owner.uid)
    another = another_user(os.fsencode(found), owner.uid, facts.uid_of) if found != name else None
    if isinstance(another, Unknown):
        return _to_be_asked(another, owner)
    if another is not None:
        raise IdentError(f"what {form} makes of the owner is the name of uid {another[1]}: {found!r}", owner.uid)
    return Answer.about(owner, login[0], found, decision, name)


def _nobodys(name: str, owner: Owner, facts: Facts) -> Unknown | None:
    """Return None where the number of a uid without a login name is not the login name of another user.

    :raises IdentError: it is, or that can't be found out.
    """
    holder = facts.uid_of(os.fsencode(name))
    if isinstance(holder, Unknown):
        return _to_be_asked(holder, owner)
    if holder is not None and (holder != owner.uid or owner.nameless):
        raise IdentError(f"the owner has no login name, and their number is that of uid {holder}", owner.uid)
    return None


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
        here, asker = asked_name(asked), asked.getpeername()
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

    Login names and homes are asked for once, when they are needed, and then remembered for as long as these facts are
    used: by one query, or by those that come within `SECONDS` after the first question. Asking may block until
    `stop_asking`; afterwards what was not asked is `Unknown` with ``unasked``.

    The administrator may change login names and uids meanwhile, and that goes unnoticed for as long. The owner may
    change their file: what it says is remembered by one query only. What another server says is never remembered.
    """

    def __init__(self, uid: int, fetch: Fetch | None = None, read: Read | None = None, forwards: bool = True) -> None:
        """:param fetch: reads the owner's file: `user_file.fetch`, or what does that with other privileges.

        :param read: returns what the file says about the connection in question, each time that it is needed; then
            ``fetch`` is not.
        :param forwards: whether other servers may be asked; otherwise that stays unasked.
        """
        self.uid = uid
        #: By what they are remembered (`Owner.key`).
        self.key = uid
        self._fetch = fetch
        self._read = read
        self._forwards = forwards
        self._asks = True
        self._login: tuple[str, str] | None = None
        self._home = ""
        self._uids: dict[bytes, int | Unknown | None] = {}
        self._hosts: dict[tuple[bytes, int], tuple[bytes, ...] | Unknown] = {}
        self._resolver: Resolver | None = None
        #: What the DNS said about addresses, for a person.
        self.said: list[str] = []
        self._user_file: UserFile | None = None
        self._formatted: str | None = None
        #: Whether ``read`` was needed, so that it probably will be again.
        self.needed_file = False
        self._since = time.monotonic()

    def again(self, read: Read, forwards: bool) -> Facts:
        """Return the same facts for other queries, for which what is not known yet is asked."""
        facts = type(self)(self.uid, read=read, forwards=forwards)
        facts.key = self.key
        facts._login, facts._home, facts._uids, facts._since = self._login, self._home, dict(self._uids), self._since
        facts._hosts, facts._formatted = dict(self._hosts), self._formatted
        return facts

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

    @property
    def home(self) -> str:
        """The owner's home directory, once `login` was asked for; ``""``: they have none."""
        return self._home

    def formatted(self, form: str, login: str) -> str | Unknown:
        """Return what a form makes of the owner (`formats.expand`); it is always the same form."""
        if self._formatted is None:
            if not self._asks:
                return Unknown("what the login name's form has", unasked=True)
            from .users import formats  # few servers have one

            try:
                self._formatted = formats.expand(form, login, self.uid)
            except IdentError as error:
                return Unknown(error.detail)
        return self._formatted

    def uid_of(self, name: bytes) -> int | Unknown | None:
        """Return the uid that a login name has, or None."""
        if name not in self._uids:
            if not self._asks:
                return Unknown("who has a login name", unasked=True)
            self._uids[name] = names.uid_of(name)
        return self._uids[name]

    def addresses(self, name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
        """Return the addresses of a host name (`names.Resolver.addresses`)."""
        key = name, octets
        if key not in self._hosts:
            if not self._asks:
                return Unknown("the addresses of a host name", unasked=True)
            self._hosts[key] = self._look_up(name, octets)
        return self._hosts[key]

    def _look_up(self, name: HostName, octets: int) -> tuple[bytes, ...] | Unknown:
        from .config.blocks import Asked

        if isinstance(name, Asked):
            from .config import confirmed_names  # few files name domains

            found, text = confirmed_names.shared.addresses(name)
            self.said.append(text)
            return found
        if self._resolver is None:
            from .config.names import Resolver  # only where files name hosts

            self._resolver = Resolver()
        return self._resolver.addresses(name, octets)

    def user_file(self) -> UserFile | Unknown:
        """Return what the owner's file says."""
        if not self._asks:
            return Unknown("the owner's file", unasked=True)
        if self._user_file is not None:
            return self._user_file
        # First, as the owner may not be allowed to read root's Python.
        from .config import user_file

        login = self.login()
        if isinstance(login, Unknown):
            return login
        if not self._home.startswith("/"):
            return user_file.UserFile()
        try:
            if self._read is not None:
                self.needed_file = True
                return self._read(self.uid, self._home)
            self._user_file = user_file.parse((self._fetch or user_file.fetch)(self.uid, self._home))
        except IdentError as error:
            return Unknown(error.detail)
        return self._user_file

    def forward(
        self, host: str, port: int, port_on_server: int, port_on_client: int, arrival: Arrival | None = None,
        proxy: str = "",
    ) -> bytes | str | Unknown:  # fmt: skip
        """Return the name that the ident server at an address has for the owner of a connection, or why it has none.

        :param arrival: how our own query came in. One that an identd of this host has forwarded is not forwarded again.
        :param proxy: see `forward.ask`.
        """
        if not (self._forwards and self._asks):
            return Unknown("another server", unasked=True)
        from .config import forward  # 1 ms, and few owners forward

        if arrival is not None and _is_forwarded(arrival.socket):
            return "is not asked: the query may itself come from an identd of this host, which forwards"
        asked = None if arrival is None else arrival.socket
        return forward.ask(host, port, port_on_server, port_on_client, asked, proxy)

    def stop_asking(self) -> None:
        """Ask nothing more, and hold what was found out until `SECONDS` after the first question."""
        self._asks = False
        self._read = self._user_file = None
        if sum(map(len, self._uids)) > MAX_NAMES:
            self._uids = {}
        if sum(len(name) for name, _ in self._hosts) > MAX_NAMES:
            self._hosts = {}

    def still_hold(self) -> bool:
        """Return whether what was found out is young enough."""
        return time.monotonic() < self._since + SECONDS


class Nameless(Facts):
    """What is known of who has a uid in a container, and is not the host's user with that uid: the number alone."""

    def login(self) -> tuple[str, str] | Unknown:
        return "OTHER", str(self.uid)

    def user_file(self) -> UserFile | Unknown:
        from .config import user_file

        return user_file.UserFile()


def facts_about(owner: Owner, fetch: Fetch | None = None) -> Facts:
    """Return what is known of an owner when nothing was asked yet. :param fetch: see `Facts`."""
    facts = (Nameless if owner.nameless else Facts)(owner.uid, fetch)
    facts.key = owner.key
    return facts


class Memory:
    """The facts about the owners that a warm process has met in the last moment: `SECONDS`, `MAX_OWNERS`."""

    def __init__(self) -> None:
        import threading  # a single shot remembers nothing

        #: In the order in which they were met. The loop and threads look at it, and threads add to it.
        self._owners: dict[int, Facts] = {}
        self._lock = threading.Lock()

    def recall(self, key: int) -> Facts | None:
        """Return what is known of an owner and still holds. Never blocks. :param key: see `Owner.key`."""
        facts = self._owners.get(key)
        if facts is not None and not facts.still_hold():
            with self._lock:
                if self._owners.get(key) is facts:
                    del self._owners[key]
            return None
        return facts

    def keep(self, facts: Facts) -> None:
        """Remember what was found out; these facts ask nothing more."""
        facts.stop_asking()
        with self._lock:
            self._owners.pop(facts.key, None)
            if facts.still_hold():
                self._owners[facts.key] = facts
            self._drop(MAX_OWNERS)

    def forget(self) -> None:
        """Drop what no longer holds."""
        with self._lock:
            self._drop(MAX_OWNERS)

    def _drop(self, most: int) -> None:
        while self._owners:
            first = next(iter(self._owners))
            if len(self._owners) <= most and self._owners[first].still_hold():
                break
            del self._owners[first]
