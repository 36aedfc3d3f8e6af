"""What is sent for an owner, as the system file and the owner's own file have it?

The decision is a function of the owner, the connection and the two files. It opens nothing and asks nobody: what it
may need to know comes as functions, which are called only where the decision depends on the result.
"""

from __future__ import annotations

import os

from ..connection import MAX_USER_ID, can_be_sent
from ..errors import Unknown
from .blocks import pack_end, quoted

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol, TypeVar

    from ..connection import Address
    from .blocks import End, Range, Statement, System, UserBlock
    from .user_file import UserFile

    Item = TypeVar("Item")
    Block = TypeVar("Block", Range, UserBlock)

    class Choose(Protocol):
        """What picks one item of a sequence at random."""

        def __call__(self, sequence: Sequence[Item]) -> Item: ...


#: The length of a ``random`` name and what it is made of, and how many ``random_numeric`` ones there are.
_RANDOM_LENGTH, _RANDOM_NUMERIC = 11, 100_000
_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#: Far ports below this one are the privileged ones (ip(7)), whose servers may trust the name.
_PRIVILEGED = 1024

#: What clients strip from a name's ends: C's isspace(3), and the control characters that are blank to some.
_BLANKS = b" \t\n\v\f\r\x1c\x1d\x1e\x1f"

_NO_RULE = "no rule"


class Decision:
    """What is sent for an owner, and why.

    ``user``: the user id in octets, None where the owner is hidden (HIDDEN-USER); ``login``: their login name;
    ``rule`` and ``statement_at``: the blocks that decided, as ``path:line`` (``"no rule"``; ``""``: the owner's file
    was not asked for, or says nothing about the connection); ``path``: the owner's file that counts; ``files``: what
    became of their files, as pairs of (worth a line in the log, text); ``steps``: the reasons in order, for a person;
    ``lacking``: the capabilities that the owner's statement needs and has not; ``impersonated``: the other user's
    name, in quotes, that the owner asked for and may not have.

    ``unknown``: what the decision depends on and is not known; then nothing else of it counts.
    """

    __slots__ = (
        "files", "impersonated", "lacking", "login", "path", "rule", "statement_at", "steps", "unknown", "user",
    )  # fmt: skip

    def __init__(self, login: str) -> None:
        self.login = login
        self.user: bytes | None = None
        self.rule = _NO_RULE
        self.statement_at = self.path = self.impersonated = ""
        self.files: list[tuple[bool, str]] = []
        self.steps: list[str] = []
        self.lacking: list[str] = []
        self.unknown: Unknown | None = None


def pick(sequence: Sequence[Item]) -> Item:
    """Return one item of a sequence, each with the same probability, by the operating system's generator.

    The library's ``secrets`` does the same and takes 10 ms to import.
    """
    octets = (len(sequence).bit_length() + 7) // 8
    # Numbers from the last, incomplete round of remainders would favour the first items.
    limit = 256**octets - 256**octets % len(sequence)
    while (number := int.from_bytes(os.urandom(octets), "big")) >= limit:
        pass
    return sequence[number % len(sequence)]


def decide(
    owner_uid: int,
    login: bytes,
    server: Address,
    client: Address,
    system: System | None,
    read_user_file: Callable[[], UserFile | Unknown],
    uid_of: Callable[[bytes], int | Unknown | None],
    forward: Callable[[str, int], bytes | Unknown | None],
    choose: Choose = pick,
) -> Decision:
    """Return what is sent for a connection's owner.

    What the last three functions return may be `Unknown`: then the decision has it as ``unknown``.

    :param login: the owner's login name.
    :param server: our end as ``(host, port)``; :param client: the far end.
    :param system: what the system file says; None: there is none, and nobody may do anything.
    :param read_user_file: returns what the owner's file says. Called only where nothing is forced on them.
    :param uid_of: returns the uid that a login name has, or None.
    :param forward: asks the ident server at ``(host, port)``; None: it names nobody. Called only where it is allowed.
    :param choose: returns one item of a sequence at random.
    :raises ValueError: a host is not an address. What the functions raise is passed on.
    """
    question = _Question(owner_uid, login, client[1], uid_of, forward, choose)
    explain, decision = question.explain, question.decision
    if system is None:
        explain("there is no system file, so nobody may do anything")
        return question.send_login()
    ends = pack_end(server), pack_end(client)
    rule = question.find_rule(system, ends)
    if rule is not None and rule.force is not None:
        explain(f"it forces {rule.force} (line {rule.force.line})")
        return question.do_forced(rule.force)
    found = read_user_file()
    if isinstance(found, Unknown):
        return question.give_up(found)
    decision.path, decision.files = found.path, found.report()
    block = _last_match(found.blocks, ends)
    if block is None:
        explain("the owner's file says nothing about this connection")
        return question.send_login()
    decision.statement_at = block.rule
    explain(f"the owner's statement at {block.rule} is the last that matches: {block.statement}")
    return question.do_stated(block.statement, rule.capabilities if rule else frozenset())


def _last_match(blocks: Sequence[Block], ends: tuple[End, End]) -> Block | None:
    """Return the block that counts: the last one that matches."""
    for block in reversed(blocks):
        if block.where.matches_packed(*ends):
            return block
    return None


class _Question:
    """One decision on its way."""

    def __init__(
        self,
        owner_uid: int,
        login: bytes,
        far_port: int,
        uid_of: Callable[[bytes], int | Unknown | None],
        forward: Callable[[str, int], bytes | Unknown | None],
        choose: Choose,
    ) -> None:
        self.owner_uid = owner_uid
        self.login = login
        self.far_port = far_port
        self.uid_of = uid_of
        self.forward = forward
        self.choose = choose
        self.decision = Decision(os.fsdecode(login))
        self.explain = self.decision.steps.append

    def find_rule(self, system: System, ends: tuple[End, End]) -> Range | None:
        """Return the range of the system file that counts: the user's own, else the default block's."""
        own = system.users.get(self.owner_uid)
        if own is not None:
            found = _last_match(own, ends)
            if found is not None:
                return self.found_rule(found, "the user's own block")
            self.explain(f"no block for this user in {system.path} matches")
        if system.default is None:
            self.explain(f"{system.path} has no default block, so nothing is allowed")
            return None
        found = _last_match(system.default, ends)
        if found is not None:
            return self.found_rule(found, "the default block")
        self.explain(f"nothing in the default block of {system.path} matches, so nothing is allowed")
        return None

    def found_rule(self, found: Range, of: str) -> Range:
        self.decision.rule = found.rule
        allowed = ", ".join(sorted(found.capabilities)) or "nothing"
        self.explain(f"the rule at {found.rule}, in {of}, is the last that matches")
        if found.force is None:
            self.explain(f"it allows {allowed}")
        return found

    # Each of the next returns the decision, so that nothing can follow it.

    def send(self, user: bytes) -> Decision:
        self.decision.user = user
        return self.decision

    def send_login(self) -> Decision:
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
        if statement.kind in _MADE_UP:
            return self.send(self.make_up(statement.kind))
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
        if statement.kind in _MADE_UP:
            return self.send(self.make_up(statement.kind))
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
        replies = [text for text in statement.arguments if isinstance(text, bytes)]
        reply = self.choose(replies)
        if len(replies) > 1:
            self.explain(f"chosen from {len(replies)} replies: {quoted(reply)}")
        return reply

    def make_up(self, kind: str) -> bytes:
        name = _MADE_UP[kind](self.owner_uid, self.choose)
        self.explain(f"made up: {quoted(name)}")
        return name

    def ask_server(self, statement: Statement) -> bytes | Unknown | None:
        """Return the name that another server gives, or None."""
        host, port = statement.arguments
        assert isinstance(host, str) and isinstance(port, int)
        named = self.forward(host, port)
        if isinstance(named, Unknown):
            return named
        if named is None:
            self.explain(f"the server at {host} port {port} named nobody")
            return None
        self.explain(f"the server at {host} port {port} named {quoted(named)}")
        return named if self.is_sendable(named) else None

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
        mistaken = self.mistaken_for(name)
        if isinstance(mistaken, Unknown):
            return mistaken
        if mistaken and "spoof_all" not in capabilities:
            self.decision.impersonated = ascii(mistaken)[1:]
            self.refuse("spoof_all", f"{quoted(mistaken)} is another user's name, and spoof_all is not allowed")
        if "spoof" not in capabilities:
            self.refuse("spoof", "spoof is not allowed")
        if privileged and "spoof_privport" not in capabilities:
            reason = f"the far port {self.far_port} is below {_PRIVILEGED}, and spoof_privport is not allowed"
            self.refuse("spoof_privport", reason)
        if self.decision.lacking:
            return False
        self.explain(f"granted: {quoted(name)} may be sent")
        return True

    def refuse(self, capability: str, reason: str) -> None:
        self.decision.lacking.append(capability)
        self.explain(f"refused: {reason}")

    def mistaken_for(self, name: bytes) -> bytes | Unknown:
        """Return the other user's login name that a client may take a name for, or ``b""``."""
        sent = name[:MAX_USER_ID]
        # Some read one word: tcp_wrappers' "%255s", and oidentd where it forwards.
        stripped = sent.strip(_BLANKS)
        word = stripped[: next((at for at, octet in enumerate(stripped) if octet in _BLANKS), None)]
        for form in dict.fromkeys((name, name.strip(_BLANKS), sent, stripped, word)):
            if not form:
                continue
            holder = self.uid_of(form)
            if isinstance(holder, Unknown):
                return holder
            # A name of one's own in another form needs spoof, but is not another's.
            if holder not in (None, self.owner_uid):
                return form
        return b""


def _random(uid: int, choose: Choose) -> bytes:
    return bytes(choose(_ALPHABET) for _ in range(_RANDOM_LENGTH))


def _random_numeric(uid: int, choose: Choose) -> bytes:
    return b"user%d" % choose(range(_RANDOM_NUMERIC))


def _numeric(uid: int, choose: Choose) -> bytes:
    return b"%d" % uid


_MADE_UP: dict[str, Callable[[int, Choose], bytes]] = {
    "random": _random,
    "random_numeric": _random_numeric,
    "numeric": _numeric,
}
