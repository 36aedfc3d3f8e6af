"""Which steps lead to the reply about one connection?"""

from __future__ import annotations

import functools
import os

import lookup
from lookup.config import user_file
from lookup.config.blocks import quoted
from lookup.connection import ConfigError, HiddenUser, IdentError, NoUser, Unknown
from lookup.kernel import holder
from lookup.owner import Answer, Facts, answer, facts_about
from lookup.users import names

from ..answer import elsewhere
from . import nobody
from .access import UNTOLD, fetch_as_nobody
from .grants import grant
from .permissions import CannotTell
from .printing import FINE, WARNING, WRONG, Row
from .reply import reply_line
from .units import hiding

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Union

    from lookup.behind import Ask
    from lookup.config.blocks import System
    from lookup.config.decision import Decision
    from lookup.connection import Address, Owner
    from lookup.kernel.causes import Evidence
    from lookup.machines import Named

    from ..options import Options

    #: What a query comes to.
    Outcome = Union[Answer, IdentError]


class Told:
    """What has been found out of one connection, for programs.

    ``server`` and ``client``: what was asked; ``owner``: None, nobody's; ``login``, ``rule``, ``statement``: of the
    `Decision`; ``reply``: None, it cannot be told without root.
    """

    def __init__(self, server: Address, client: Address) -> None:
        self.server = server
        self.client = client
        self.owner: Owner | None = None
        self.login = self.rule = self.statement = ""
        self.reply: str | None = None


class Explanation:
    """What leads to the replies under one system file."""

    def __init__(
        self, options: Options, system: System | ConfigError | None, evidence: Evidence | None = None,
        held: str | None = None, ask: Ask | None = None,
    ) -> None:  # fmt: skip
        """:param system: what the system file says, or why it can't be used; None: there is none.

        :param evidence: what root saw of a connection that is nobody's (`nobody.seen_as_root`).
        :param held: which process holds the socket (`holder.describe`); None: that is still to be found out.
        :param ask: looks behind NAT and into containers, with --masquerade.
        """
        self._elsewhere = elsewhere(options, ask)
        self._held = held
        self._evidence = evidence
        self._options = options
        self._path = options.system_file
        self._system = system

    def steps(self, told: Told) -> Iterator[Row]:
        """Yield the steps to a reply; the last one is the reply. Keep for programs what they lead to.

        May block as the name service does, and on the owner's files.

        :param told: with the ends that were asked about. A host may be ``""``.
        :raises ValueError: an address is none.
        """
        server, client = told.server, told.client
        outcome: Outcome | Named
        try:
            told.owner = self._find(server, client)
        except IdentError as error:
            meant = error.detail
            outcome = self._said_elsewhere(error)
            if isinstance(outcome, IdentError):
                yield Row("socket", f"{outcome.detail or outcome}", WARNING if isinstance(outcome, NoUser) else WRONG)
                yield from _advice(outcome, server, client)
                if isinstance(outcome, NoUser):
                    yield from nobody.steps(server, client, self._evidence)
            else:
                yield Row("socket", meant, FINE)
                yield Row("machine", outcome.how, FINE)
        else:
            if told.owner.by_ports:
                told.server, told.client = told.owner.server, told.owner.client
            yield from (Row("behind", step, FINE) for step in told.owner.steps)
            yield Row("socket", repr(told.owner), FINE)
            if held := holder.describe([told.owner])[0] if self._held is None else self._held:
                yield Row("holder", held, FINE)
            try:
                outcome = yield from self._about(told.owner, told)
            except CannotTell as error:
                text = f"whether an identd of another user, such as nobody, can read it {UNTOLD}: {error}"
                yield Row("file", text, WARNING)
                yield Row("reply", UNTOLD, WARNING)
                return
        told.reply = reply_line(outcome, server, client, self._options)
        is_unknown = isinstance(outcome, IdentError) and not isinstance(outcome, (HiddenUser, NoUser))
        yield Row("reply", told.reply, WRONG if is_unknown else FINE)

    def _find(self, server: Address, client: Address) -> Owner:
        """Return the owner as a server with these options finds them. Exceptions: see `lookup.find`."""
        if self._elsewhere is None:
            return lookup.find(server, client)
        return self._elsewhere.find(server, client, None, lookup.find)

    def _said_elsewhere(self, error: IdentError) -> Named | IdentError:
        """Return what is replied about a machine behind this one, or the error if it is about none."""
        try:
            return error if self._elsewhere is None else self._elsewhere.answer(error, None)
        except IdentError as failed:
            return failed

    def _about(self, owner: Owner, told: Told) -> Generator[Row, None, Outcome]:
        """Yield the steps from a socket to what the query comes to, and return that.

        :raises CannotTell: it depends on a file of which that can't be told.
        """
        facts = facts_about(owner, functools.partial(fetch_as_nobody, also=self._others(owner, told)))
        login = facts.login()
        if isinstance(login, Unknown):
            yield Row("login", login.reason, WRONG)
            return IdentError(login.reason, owner.uid)
        opsys, name = login
        told.login = name if opsys == "UNIX" else ""
        none = "is a container's" if owner.nameless else "has no passwd entry"
        yield Row("login", told.login or f"none: uid {name} {none}", FINE)
        system = self._system
        if isinstance(system, ConfigError):
            yield Row("system", str(system), WRONG)
            return IdentError(str(system), owner.uid)
        yield Row("system", self._path if system else f"no {self._path}, so nobody may do anything", FINE)
        outcome = _outcome(owner, told, system, facts, self._options.form)
        decision = _decision(outcome)
        for said in dict.fromkeys(facts.said):
            yield Row("dns", said, FINE)
        if decision is not None:
            told.rule, told.statement = decision.rule if decision.has_rule else "", decision.statement_at
            yield from _reasons(decision)
            if decision.lacking:
                yield Row("fix", grant(system, self._path, owner.uid, name, decision), WARNING)
            if not owner.nameless:
                yield from _other_readers(owner, decision)
            if os.getuid() == owner.uid and not owner.nameless:
                yield from self._as_the_owner(owner, told, decision)
        elif not isinstance(outcome, Answer):
            yield Row("why", outcome.detail or str(outcome), WRONG)
            if system and isinstance(system.pseudonyms, Unknown) and os.geteuid() != 0:
                yield Row("but", "an identd that can read the key sends the pseudonym", WARNING)
        elif opsys == "UNIX":
            yield Row("file", "not read: nobody may do anything", FINE)
            yield Row("fix", grant(None, self._path, owner.uid, name), WARNING)
        if (
            self._options.form
            and not owner.nameless
            and isinstance(outcome, Answer)
            and (decision is None or decision.sends_login)
        ):
            yield Row("form", f"{self._options.form} makes {quoted(os.fsencode(outcome[1]))} of it", FINE)
        return outcome

    def _others(self, owner: Owner, told: Told) -> user_file.Also:
        """Return for which connection other files of the owner's are looked at."""
        system = self._system
        older = bool(system and not isinstance(system, ConfigError) and system.older)
        return user_file.others_of(told.server, told.client if told.client[0] else owner.client, older)

    def _as_the_owner(self, owner: Owner, told: Told, decision: Decision) -> Iterator[Row]:
        """Yield what an identd would reply that reads all that the owner may read, where that is another file."""
        assert not isinstance(self._system, ConfigError)
        facts = Facts(owner.uid, functools.partial(user_file.fetch, also=self._others(owner, told)))
        outcome = _outcome(owner, told, self._system, facts, self._options.form)
        own = _decision(outcome)
        if own is not None and own.path != decision.path:
            reply = reply_line(outcome, told.server, told.client, self._options)
            text = f"an identd that is started as root for each query reads {own.path}, and replies {reply}"
            yield Row("else", text, WARNING)


def _advice(error: IdentError, server: Address, client: Address) -> Iterator[Row]:
    """Yield what may help where no socket could be chosen."""
    if not isinstance(error, NoUser):
        if not (server[0] and client[0]):
            text = "name the connection's addresses with --server-address and --client-address"
            yield Row("fix", text, WARNING)
        return
    try:
        lookup.find((server[0], client[1]), (client[0], server[1]))
        yield Row("fix", f"{client[1]},{server[1]} is a connection: the port on this host comes first", WARNING)
    except IdentError:
        return


def _reasons(decision: Decision) -> Iterator[Row]:
    """Yield the steps of a decision: the rule that counts, the owner's files, what comes of their statement."""
    for step in decision.steps[: decision.rule_steps]:
        yield Row("rule", step, FINE)
    for logged, text in decision.files:
        yield Row("file", text, WRONG if logged else FINE)
    if not decision.files:
        yield Row("file", "not read: the system file decides alone", FINE)
    for step in decision.steps[decision.rule_steps :]:
        yield Row("why", step, FINE)


def _other_readers(owner: Owner, decision: Decision) -> Iterator[Row]:
    """Yield which of the installed units would not see the owner's files."""
    if not decision.files:
        return
    try:
        home = names.home(owner.uid)
    except IdentError:
        # Whether there is one was said above.
        return
    for unit, setting in hiding(home):
        text = f"{unit} hides {home} ({setting}): what the owner's file says is lost there, or unknown"
        yield Row("but", text, WRONG)


def _outcome(owner: Owner, told: Told, system: System | None, facts: Facts, form: str) -> Outcome:
    """Return what a query about an owner comes to: an answer, or why there is none."""
    try:
        found = answer(owner, told.server, told.client, system, facts, form=form)
    except IdentError as error:
        return error
    if isinstance(found, Unknown):
        return IdentError(found.reason, owner.uid)
    return found


def _decision(outcome: Outcome) -> Decision | None:
    """Return the decision that made an outcome; None: the configuration had no part in it."""
    return outcome.decision if isinstance(outcome, (Answer, HiddenUser)) else None
