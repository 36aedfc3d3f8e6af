"""What is sent for an owner: what may they hide, and which names may they not take?

The decision is a function of the owner, the connection and the two files. It opens nothing and asks nobody: what it
may need to know comes as functions, which are called only where the decision depends on the result.
"""

from __future__ import annotations

import os

from ..connection import can_be_sent, unpack
from ..errors import Unknown
from .blocks import HostName, pack_end, quoted, unresolved
from .made_up import MADE_UP, pick
from .selection import Selection

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Optional

    from ..connection import Address
    from .blocks import Range, Resolve, Statement, System, UserBlock
    from .made_up import Choose
    from .user_file import UserFile

    #: A range of the system file, and a block of the owner's file, that may be the ones that count.
    _Case = tuple[Optional[Range], Optional[UserBlock]]

#: Far ports below this one are the privileged ones (ip(7)), whose servers may trust the name.
_PRIVILEGED = 1024

#: How often a name is made up anew that turns out to be somebody's.
_ATTEMPTS = 5

#: What a user's file may ask for so that their name is not told. Where none of it is allowed, and the file can't be
#: read, it is told.
_DISGUISES = frozenset(("hide", "random", "random_numeric", "numeric"))

_NO_RULE = "no rule"


class Decision:
    """What is sent for an owner, and why.

    ``user``: the user id in octets, None where the owner is hidden (HIDDEN-USER), and ``system``: what kind it is
    (``"OTHER"``: a uid that has no name); ``login``: their login name, or ``""``;
    ``rule`` and ``statement_at``: the blocks that decided, as ``path:line`` (``"no rule"``; ``""``: the owner's file
    was not asked for, or says nothing about the connection); ``path``: the owner's file that counts; ``files``: what
    became of their files, as pairs of (worth a line in the log, text); ``steps``: the reasons in order, for a person,
    of which the first ``rule_steps`` are about the system file; ``lacking``: the capabilities that the owner's
    statement needs and has not; ``impersonated``: the other user's name, in quotes, that the owner asked for and may
    not have; ``forwarded``: why the server that was to be asked named nobody.

    ``unknown``: what the decision depends on and is not known; then nothing else of it counts.
    """

    __slots__ = (
        "files", "forwarded", "impersonated", "lacking", "login", "path", "rule", "rule_steps", "statement_at", "steps",
        "system", "unknown", "user",
    )  # fmt: skip

    def __init__(self, login: str) -> None:
        self.login = login
        self.user: bytes | None = None
        self.system = "UNIX"
        self.rule = _NO_RULE
        self.statement_at = self.path = self.impersonated = self.forwarded = ""
        self.files: list[tuple[bool, str]] = []
        self.steps: list[str] = []
        self.rule_steps = 0
        self.lacking: list[str] = []
        self.unknown: Unknown | None = None

    @property
    def has_rule(self) -> bool:
        """Whether a block of the system file is about the connection."""
        return self.rule != _NO_RULE


def decide(
    owner_uid: int,
    login: bytes,
    server: Address,
    client: Address,
    system: System | None,
    read_user_file: Callable[[], UserFile | Unknown],
    uid_of: Callable[[bytes], int | Unknown | None],
    forward: Callable[[str, int], bytes | str | Unknown],
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
        somebody. Called only where it is allowed.
    :param choose: returns one item of a sequence at random.
    :param resolve: returns the addresses of a host name in the owner's file; :param resolve_rule: in the system file.
    :raises ValueError: a host is not an address. What the functions raise is passed on.
    """
    question = _Question(owner_uid, login, client[1], uid_of, forward, choose, resolve)
    if system is None:
        question.explain("there is no system file, so nobody may do anything")
        question.decision.rule_steps = 1
        return question.send_login()
    selection = Selection((pack_end(server), pack_end(client)), question.explain)
    rules = selection.rules(system, owner_uid, resolve_rule)
    question.decision.rule = selection.rule or _NO_RULE
    question.decision.rule_steps = len(question.decision.steps)
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
            blocks: list[UserBlock | None] = [None]
        else:
            question.decision.path, question.decision.files = found.path, found.report()
            blocks = selection.blocks(found.blocks, resolve)
        cases += [(rule, block) for rule in free for block in blocks]
    return question.decide_alike(cases, selection.doubt)


class _Question:
    """One decision on its way."""

    def __init__(
        self,
        owner_uid: int,
        login: bytes,
        far_port: int,
        uid_of: Callable[[bytes], int | Unknown | None],
        forward: Callable[[str, int], bytes | str | Unknown],
        choose: Choose,
        resolve: Resolve,
    ) -> None:
        self.owner_uid = owner_uid
        self.login = login
        self.far_port = far_port
        self.uid_of = uid_of
        self.forward = forward
        self.choose = choose
        self.resolve = resolve
        #: What was picked or made up, by the statement that it is for.
        self.picked: dict[object, bytes] = {}
        self.decision = Decision(os.fsdecode(login))
        self.explain = self.decision.steps.append

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
        assert first is not None
        first.steps.append("the reply is the same whether the blocks apply that can't be judged, or not")
        return first

    def decide_case(self, rule: Range | None, block: UserBlock | None) -> Decision:
        """Decide what comes of one range of the system file and one block of the owner's."""
        if rule is not None and rule.force is not None:
            self.decision.rule = rule.rule
            self.explain(f"it forces {rule.force} (line {rule.force.line})")
            self.decision.rule_steps = len(self.decision.steps)
            return self.do_forced(rule.force)
        if block is None:
            self.explain("the owner's file says nothing about this connection")
            return self.send_login()
        self.decision.statement_at = block.rule
        self.explain(f"the owner's statement at {block.rule} is the last that matches: {block.statement}")
        return self.do_stated(block.statement, rule.capabilities if rule else frozenset())

    def fork(self, doubt: Unknown) -> _Question:
        """Return the same question, for one of several cases, in which the same names are picked."""
        fork = _Question(
            self.owner_uid, self.login, self.far_port, self.uid_of, lambda host, port: doubt, self.choose,
            self.resolve,
        )  # fmt: skip
        fork.picked = self.picked
        fork.decision.files, fork.decision.path = self.decision.files, self.decision.path
        fork.decision.rule = self.decision.rule
        fork.decision.steps += self.decision.steps
        fork.decision.rule_steps = self.decision.rule_steps
        return fork

    # Each of the next returns the decision, so that nothing can follow it.

    def send(self, user: bytes) -> Decision:
        self.decision.user = user
        return self.decision

    def send_login(self) -> Decision:
        if not self.login:
            self.explain("the owner has no login name: the uid is sent")
            self.decision.system = "OTHER"
            return self.send(b"%d" % self.owner_uid)
        self.explain(f"the login name is sent: {quoted(self.login)}")
        return self.send(self.login)

    def hide(self) -> Decision:
        self.explain("the owner is hidden")
        return self.decision

    def give_up(self, unknown: Unknown) -> Decision:
        self.decision.unknown = unknown
        return self.decision

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
        if statement.kind in MADE_UP:
            name = self.make_up(statement.kind)
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
        self.explain(f"granted: {statement.kind} is allowed")
        if statement.kind == "hide":
            return self.hide()
        if statement.kind in MADE_UP:
            name = self.make_up(statement.kind)
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

    def choose_reply(self, statement: Statement) -> bytes:
        replies = tuple(text for text in statement.arguments if isinstance(text, bytes))
        if replies not in self.picked:
            self.picked[replies] = self.choose(replies)
        reply = self.picked[replies]
        if len(replies) > 1:
            self.explain(f"chosen from {len(replies)} replies: {quoted(reply)}")
        return reply

    def make_up(self, kind: str) -> bytes | Unknown | None:
        """Return a name that is nobody's, or None: those that were made up are another user's."""
        if kind in self.picked:
            return self.picked[kind]
        for _ in range(1 if kind == "numeric" else _ATTEMPTS):
            name = MADE_UP[kind](self.owner_uid, self.choose)
            mistaken = self.mistaken_for(name)
            if isinstance(mistaken, Unknown):
                return mistaken
            if not mistaken:
                self.explain(f"made up: {quoted(name)}")
                self.picked[kind] = name
                return name
            self.explain(f"made up, and not sent, as it is the name of another user: {quoted(name)}")
        return None

    def ask_server(self, statement: Statement) -> bytes | Unknown | None:
        """Return the name that another server gives, or None."""
        host, port = statement.arguments
        if isinstance(port, Unknown):
            self.not_named(f"where to ask is not known: {port.reason}")
            return None
        if isinstance(host, HostName):
            addresses = self.resolve(host, 0)
            if isinstance(addresses, Unknown) and addresses.unasked:
                return addresses
            if isinstance(addresses, Unknown) or not addresses:
                reason = addresses.reason if isinstance(addresses, Unknown) else f"{quoted(host)} has no address"
                self.not_named(f"where to ask is not known: {reason}")
                return None
            host = unpack(addresses[0])
        assert isinstance(host, str) and isinstance(port, int)
        named = self.forward(host, port)
        if isinstance(named, Unknown):
            return named
        if isinstance(named, str):
            self.not_named(f"the server at {host} port {port} {named}")
            return None
        self.explain(f"the server at {host} port {port} named {quoted(named)}")
        return named if self.is_sendable(named) else None

    def not_named(self, reason: str) -> None:
        """Keep why another server named nobody."""
        self.decision.forwarded = reason
        self.explain(reason)

    def is_sendable(self, name: bytes) -> bool:
        if can_be_sent(name):
            return True
        self.explain(f"refused: {quoted(name)} can't be sent: it is empty, or holds a NUL, CR or LF")
        return False

    def send_if_allowed(self, name: bytes, capabilities: frozenset[str]) -> Decision:
        """Send a name if the owner may have it, be it from their file or from another server."""
        allowed = self.is_sendable(name) and self.is_allowed(name, capabilities)
        if isinstance(allowed, Unknown):
            return self.give_up(allowed)
        return self.send(name) if allowed else self.send_login()

    def is_allowed(self, name: bytes, capabilities: frozenset[str]) -> bool | Unknown:
        """Return whether the owner may have a name."""
        privileged = self.far_port < _PRIVILEGED
        if capabilities >= {"spoof", "spoof_all"} and ("spoof_privport" in capabilities or not privileged):
            # The name service does not have to be asked.
            self.explain(f"granted: {quoted(name)} may be sent, whoever has it")
            return True
        holder = self.uid_of(name)
        if isinstance(holder, Unknown):
            return holder
        if holder == self.owner_uid:
            self.explain(f"granted: {quoted(name)} is the owner's own name")
            return True
        mistaken = b"" if "spoof_all" in capabilities else self.mistaken_for(name)
        if isinstance(mistaken, Unknown) and mistaken.unasked:
            return mistaken
        if mistaken and not isinstance(mistaken, Unknown):
            self.decision.impersonated = ascii(mistaken)[1:]
            self.refuse("spoof_all", f"{quoted(mistaken)} is another user's name, and spoof_all is not allowed")
        if "spoof" not in capabilities:
            self.refuse("spoof", "spoof is not allowed")
        if privileged and "spoof_privport" not in capabilities:
            reason = f"the far port {self.far_port} is below {_PRIVILEGED}, and spoof_privport is not allowed"
            self.refuse("spoof_privport", reason)
        if self.decision.lacking:
            return False
        if isinstance(mistaken, Unknown):
            return mistaken
        self.explain(f"granted: {quoted(name)} may be sent")
        return True

    def refuse(self, capability: str, reason: str) -> None:
        self.decision.lacking.append(capability)
        self.explain(f"refused: {reason}")

    def mistaken_for(self, name: bytes) -> bytes | Unknown:
        """Return the other user's login name that a client may take a name for, or ``b""``."""
        from .readings import readings  # only where a name is sent that is not the owner's

        for form in readings(name):
            holder = self.uid_of(form)
            if isinstance(holder, Unknown):
                return holder
            # A name of one's own in another form needs spoof, but is not another's.
            if holder not in (None, self.owner_uid):
                return form
        return b""


def _effect(rule: Range | None, block: UserBlock | None) -> tuple[object, ...]:
    """Return what a range of the system file and a block of the owner's come to: the same for the same reply."""
    if rule is not None and rule.force is not None:
        return "force", rule.force.kind, rule.force.arguments
    if block is None:
        return ("login",)
    return rule.capabilities if rule else frozenset(), block.statement.kind, block.statement.arguments
