"""What is sent for an owner: what is forced on them, and what may they ask for?

The decision is a function of the owner, the connection and the two files. It opens nothing and asks nobody: what it
may need to know comes as functions, which are called only where the decision depends on the result.
"""

from __future__ import annotations

from ..connection import Unknown
from .blocks import FAKEID, NOIDENT, REGISTERED, UNREAD, UserBlock, pack_end, unresolved
from .decision import NO_RULE, Decision
from .made_up import pick
from .naming import INVENTED, Naming
from .selection import Selection

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Optional

    from ..connection import Address
    from .blocks import Range, Resolve, Statement, System
    from .made_up import Choose
    from .user_file import UserFile

    #: A range of the system file, and a block of the owner's file, that may be the ones that count.
    _Case = tuple[Optional[Range], Optional[UserBlock]]

#: What a user's file may ask for so that their name is not told. Where none of it is allowed, and the file can't be
#: read, it is told.
_DISGUISES = frozenset(("hide", "random", "random_numeric", "numeric", "pseudonym"))


def decide(
    owner_uid: int,
    login: bytes,
    server: Address,
    client: Address,
    system: System | None,
    read_user_file: Callable[[], UserFile | Unknown],
    uid_of: Callable[[bytes], int | Unknown | None],
    forward: Callable[..., bytes | str | Unknown],
    choose: Choose = pick,
    resolve: Resolve = unresolved,
    resolve_rule: Resolve = unresolved,
) -> Decision:
    """Return what is sent for a connection's owner.

    What these functions return may be `Unknown`. Then the decision is made both ways, or all ways, and where these
    differ it has it as ``unknown``; where something was not asked yet, at once.

    :param login: the owner's login name; ``b""``: they have none.
    :param server: our end as ``(host, port)``; :param client: the far end.
    :param system: what the system file says; None: there is none, and nobody may do anything.
    :param read_user_file: returns what the owner's file says. Called only where nothing is forced on them.
    :param uid_of: returns the uid that a login name has, or None.
    :param forward: asks the ident server at ``(host, port)`` for a name, or says what it does in place of naming
        somebody; a third argument, if any, is the form of the header before the query. Called only where it is allowed.
    :param choose: returns one item of a sequence at random.
    :param resolve: returns the addresses of a host name in the owner's file; :param resolve_rule: in the system file.
    :raises ValueError: a host is not an address. What the functions raise is passed on.
    """
    far_end = pack_end(client)
    question = _Question(owner_uid, login, far_end, uid_of, forward, choose, resolve)
    if system is None:
        question.explain("there is no system file, so nobody may do anything")
        question.decision.explained_the_rule()
        return question.send_login()
    question.pseudonyms = system.pseudonyms
    selection = Selection((pack_end(server), far_end), question.explain)
    rules = selection.rules(system, owner_uid, resolve_rule)
    question.decision.rule = selection.rule or NO_RULE
    question.decision.explained_the_rule()
    if isinstance(rules, Unknown):
        return question.give_up(rules)
    cases: list[_Case] = [(rule, None) for rule in rules if rule is not None and rule.force is not None]
    free = [rule for rule in rules if rule is None or rule.force is None]
    if free:
        found = read_user_file()
        if isinstance(found, Unknown):
            if found.unasked or any(rule is not None and rule.capabilities & _DISGUISES for rule in free):
                return question.give_up(found)
            question.decision.files = [(True, found.reason)]
            question.explain("the owner's file can't be read, but may not hide them")
            cases += [(rule, None) for rule in free]
        else:
            question.decision.path, question.decision.files = found.counts, found.report()
            owners = _owners_cases(free, found, selection, resolve)
            if isinstance(owners, Unknown):
                return question.give_up(owners)
            cases += owners
    return question.decide_alike(cases, selection.doubt)


def _owners_cases(
    rules: list[Range | None], found: UserFile, selection: Selection, resolve: Resolve
) -> list[_Case] | Unknown:
    """Return each range of the system file that may count, with each block of the owner's that may count then."""
    registered = found.others.get(REGISTERED)
    # One that is registered for this connection counts before all blocks.
    blocks = [registered] if isinstance(registered, UserBlock) else selection.blocks(found.blocks, resolve)
    cases: list[_Case] = []
    for rule in rules:
        older = _older(found, rule)
        if isinstance(older, Unknown):
            return older
        cases += [(rule, block or older) for block in blocks]
    return cases


class _Question(Naming):
    """One decision on its way."""

    def decide_alike(self, cases: list[_Case], doubt: Unknown | None) -> Decision:
        """Decide each case; where the reply is the same in all, that is sent.

        :param doubt: why there are several; None: there is one.
        """
        if doubt is not None and doubt.unasked:
            return self.give_up(doubt)
        different = list({_effect(*case): case for case in reversed(cases)}.values())[::-1]
        if doubt is None or len(different) == 1:
            return self.decide_case(*different[0])
        first: Decision | None = None
        for case in different:
            # Another server is not asked on behalf of a block that may not apply.
            one = self.fork(doubt).decide_case(*case)
            if one.unknown is not None and one.unknown.unasked:
                return self.give_up(one.unknown)
            first = first or one
            if one.unknown is not None or (one.system, one.user) != (first.system, first.user):
                return self.give_up(doubt)
            if one.sends_login != first.sends_login:
                first.sends_login = doubt
        assert first is not None
        first.explain("the reply is the same whether the blocks apply that can't be judged, or not")
        return first

    def decide_case(self, rule: Range | None, block: UserBlock | None) -> Decision:
        """Decide what comes of one range of the system file and one block of the owner's."""
        if rule is not None and rule.force is not None:
            self.decision.rule = rule.rule
            self.explain("it forces {} (line {})", rule.force, rule.force.line)
            self.decision.explained_the_rule()
            return self.do_forced(rule.force)
        self.instead = rule.instead if rule is not None else None
        if block is None:
            self.explain("the owner's file says nothing about this connection")
            return self.send_login()
        self.decision.statement_at = block.rule
        self.explain("the owner's statement at {} is the last that matches: {}", block.rule, block.statement)
        return self.do_stated(block.statement, rule.capabilities if rule else frozenset())

    def fork(self, doubt: Unknown) -> _Question:
        """Return the same question, for one of several cases, in which the same names are picked."""
        fork: _Question = object.__new__(_Question)
        fork.__dict__.update(self.__dict__)
        fork.forward = lambda *_: doubt
        fork.decision = Decision(self.decision.login)
        fork.decision.begin_like(self.decision)
        fork.explain = fork.decision.explain
        return fork

    def do_forced(self, statement: Statement) -> Decision:
        """Do what the system file forces, whoever has the name; only what can't be sent is not."""
        if statement.kind == "hide":
            return self.hide()
        if statement.kind == "reply":
            reply = self.choose_reply(statement)
            return self.send(reply) if self.is_sendable(reply) else self.send_login()
        if statement.kind == "forward":
            named = self.ask_server(statement)
            if isinstance(named, Unknown):
                return self.give_up(named)
            return self.hide() if named is None else self.send(named)
        if statement.kind in INVENTED:
            name = self.make_up(statement)
            if isinstance(name, Unknown):
                return self.give_up(name)
            return self.hide() if name is None else self.send(name)
        # A forced spoof and its like: the user's file is not read.
        return self.send_login()

    def do_stated(self, statement: Statement, capabilities: frozenset[str]) -> Decision:
        """Do what the owner's file says, as far as it is allowed."""
        if statement.kind == "reply":
            return self.send_if_allowed(self.choose_reply(statement), capabilities)
        if statement.kind not in capabilities:
            self.refuse(statement.kind, f"{statement.kind} is not allowed")
            return self.send_login()
        self.explain("granted: {} is allowed", statement.kind)
        if statement.kind == "hide":
            return self.hide()
        if statement.kind in INVENTED:
            name = self.make_up(statement)
            if isinstance(name, Unknown):
                return self.give_up(name)
            return self.send_login() if name is None else self.send(name)
        named = self.ask_server(statement)
        if isinstance(named, Unknown):
            return self.give_up(named)
        if named is not None:
            return self.send_if_allowed(named, capabilities)
        if "hide" in capabilities:
            self.explain("hide is allowed, so a failure hides")
            return self.hide()
        return self.send_login()


def _older(found: UserFile, rule: Range | None) -> UserBlock | Unknown | None:
    """Return what an older server's file asks for that is allowed, where no file of the owner's own counts."""
    if found.path or rule is None:
        return None
    for what, wish in ((NOIDENT, "hide"), (FAKEID, "spoof")):
        if rule.capabilities >= {what, wish} and (older := found.others.get(what + UNREAD) or found.others.get(what)):
            return older
    return None


def _effect(rule: Range | None, block: UserBlock | None) -> tuple[object, ...]:
    """Return what a range of the system file and a block of the owner's come to: the same for the same reply."""
    if rule is not None and rule.force is not None:
        return "force", rule.force.kind, rule.force.arguments
    instead = None if rule is None or rule.instead is None else (rule.instead.kind, rule.instead.arguments)
    if block is None:
        return "login", instead
    return rule.capabilities if rule else frozenset(), block.statement.kind, block.statement.arguments, instead
