"""What may be said of an owner?

The decision is a function of the owner, the connection, what the system file says and what the owner wishes: it
opens nothing and asks nobody, and is given what it needs to know, if it needs to, as functions.
"""

from __future__ import annotations

import os

from .blocks import end, show

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol, TypeVar

    from .blocks import Range, System, UserBlock, Wish
    from .connection import Address

    Item = TypeVar("Item")
    Block = TypeVar("Block", Range, UserBlock)

    class Choose(Protocol):
        """What picks one item of a sequence at random."""

        def __call__(self, sequence: Sequence[Item]) -> Item: ...


#: Octets of a user id that are sent (RFC 1413 section 6); whoever sends it cuts it there.
MAX_USER_ID = 512

#: The length of a ``random`` name and what it is made of, and how many ``random_numeric`` ones there are.
_RANDOM_LENGTH, _RANDOM_NUMERIC = 11, 100_000
_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#: Far ports below this one are the privileged ones (ip(7)), whose servers may trust the name.
_PRIVILEGED = 1024

#: What clients take off a name's ends: C's isspace(3), and the control characters that are blank to some.
_BLANKS = b" \t\n\v\f\r\x1c\x1d\x1e\x1f"

_NO_RULE = "no rule"


class Decision:
    """What is said of an owner, and why.

    ``answer``: the user id, or None where ``hidden`` (HIDDEN-USER); ``rule`` and ``wish``: the blocks that decided,
    as ``path:line`` (``"no rule"``; ``""``: the owner's wish was not asked for, or there is none);
    ``steps``: the reasons in order, for a person; ``lacking``: the capabilities that the owner's wish needs in vain;
    ``posed``: whose login name he wished for, where it is another's and he may not have it.
    """

    __slots__ = ("answer", "lacking", "posed", "rule", "steps", "wish")

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.rule = _NO_RULE
        self.wish = ""
        self.steps: list[str] = []
        self.lacking: list[str] = []
        self.posed: bytes | None = None

    @property
    def hidden(self) -> bool:
        return self.answer is None


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
    uid: int,
    name: bytes,
    server: Address,
    client: Address,
    system: System | None,
    read_wishes: Callable[[], list[UserBlock]],
    uid_of: Callable[[bytes], int | None],
    forward: Callable[[str, int], bytes | None],
    choose: Choose = pick,
) -> Decision:
    """Return what may be said of a connection's owner.

    :param uid: the owner's user id; :param name: his login name.
    :param server: our end as ``(host, port)``; :param client: the far end.
    :param system: what the system file says; None: there is none, and nobody may do anything.
    :param read_wishes: returns the blocks of the owner's file. Called only where no rule is forced on him; what it
        raises is passed on.
    :param uid_of: returns whose login name a text is, or None.
    :param forward: asks the ident server at ``(host, port)``; None: it names nobody. Called only where it is allowed.
    :param choose: returns one item of a sequence at random.
    :raises ValueError: a host is no address.
    """
    question = _Question(uid, name, client[1], uid_of, forward, choose)
    say = question.decision.steps.append
    if system is None:
        say("there is no system file, so nobody may do anything")
        return question.real_name()
    ends = end(server), end(client)
    rule = question.rule(system, ends)
    if rule is not None and rule.force is not None:
        say(f"it forces {rule.force} (line {rule.force.line})")
        return question.forced(rule.force)
    block = _last(read_wishes(), ends)
    if block is None:
        say("the owner wishes nothing for this connection")
        return question.real_name()
    question.decision.wish = block.rule
    say(f"the owner's wish at {block.rule} is the last that matches: {block.wish}")
    return question.wished(block.wish, rule.capabilities if rule else frozenset())


def _last(blocks: Sequence[Block], ends: tuple[tuple[bytes, int], tuple[bytes, int]]) -> Block | None:
    """Return the block that counts: the last one that matches."""
    for block in reversed(blocks):
        if block.where.means(*ends):
            return block
    return None


class _Question:
    """One decision on its way."""

    def __init__(
        self,
        uid: int,
        name: bytes,
        far_port: int,
        uid_of: Callable[[bytes], int | None],
        forward: Callable[[str, int], bytes | None],
        choose: Choose,
    ) -> None:
        self.uid = uid
        self.name = name
        self.far_port = far_port
        self.uid_of = uid_of
        self.forward = forward
        self.choose = choose
        self.decision = Decision()
        self.say = self.decision.steps.append

    def rule(self, system: System, ends: tuple[tuple[bytes, int], tuple[bytes, int]]) -> Range | None:
        """Return the range of the system file that counts: the user's own, else the default block's."""
        own = system.users.get(self.uid)
        if own is not None:
            found = _last(own, ends)
            if found is not None:
                return self.ruled(found, "the user's own block")
            self.say(f"no block for this user in {system.path} matches")
        if system.default is None:
            self.say(f"{system.path} has no default block, so nothing is allowed")
            return None
        found = _last(system.default, ends)
        if found is not None:
            return self.ruled(found, "the default block")
        self.say(f"nothing in the default block of {system.path} matches, so nothing is allowed")
        return None

    def ruled(self, found: Range, of: str) -> Range:
        self.decision.rule = found.rule
        allowed = ", ".join(sorted(found.capabilities)) or "nothing"
        self.say(f"the rule at {found.rule}, in {of}, is the last that matches")
        if found.force is None:
            self.say(f"it allows {allowed}")
        return found

    def answer(self, answer: bytes) -> Decision:
        self.decision.answer = answer
        return self.decision

    def real_name(self) -> Decision:
        self.say(f"the login name is told: {show(self.name)}")
        return self.answer(self.name)

    def hide(self) -> Decision:
        self.say("the owner is hidden")
        return self.decision

    def forced(self, wish: Wish) -> Decision:
        """Do what the system file forces: unchecked, but for what can't be sent."""
        if wish.kind == "hide":
            return self.hide()
        if wish.kind == "reply":
            reply = self.chosen(wish)
            return self.answer(reply) if self.can_be_sent(reply) else self.real_name()
        if wish.kind == "forward":
            told = self.forwarded(wish)
            return self.hide() if told is None else self.answer(told)
        if wish.kind in _MADE_UP:
            return self.answer(self.made_up(wish.kind))
        # A forced spoof and its like: no wish is heard.
        return self.real_name()

    def wished(self, wish: Wish, capabilities: frozenset[str]) -> Decision:
        """Do what the owner wishes, as far as it is allowed."""
        if wish.kind == "reply":
            reply = self.chosen(wish)
            return self.answer(reply) if self.may_be_told(reply, capabilities) else self.real_name()
        if wish.kind not in capabilities:
            self.lacks(wish.kind, f"{wish.kind} is not allowed")
            return self.real_name()
        self.say(f"granted: {wish.kind} is allowed")
        if wish.kind == "hide":
            return self.hide()
        if wish.kind in _MADE_UP:
            return self.answer(self.made_up(wish.kind))
        told = self.forwarded(wish)
        if told is not None:
            return self.answer(told) if self.may_be_told(told, capabilities) else self.real_name()
        if "hide" in capabilities:
            self.say("hide is allowed, so a failure hides")
            return self.hide()
        return self.real_name()

    def chosen(self, wish: Wish) -> bytes:
        replies = [text for text in wish.arguments if isinstance(text, bytes)]
        reply = self.choose(replies)
        if len(replies) > 1:
            self.say(f"chosen from {len(replies)} replies: {show(reply)}")
        return reply

    def made_up(self, kind: str) -> bytes:
        name = _MADE_UP[kind](self.uid, self.choose)
        self.say(f"made up: {show(name)}")
        return name

    def forwarded(self, wish: Wish) -> bytes | None:
        """Return the name that another server gives, or None."""
        host, port = wish.arguments
        assert isinstance(host, str) and isinstance(port, int)
        told = self.forward(host, port)
        if told is None:
            self.say(f"the server at {host} port {port} named nobody")
            return None
        self.say(f"the server at {host} port {port} named {show(told)}")
        return told if self.can_be_sent(told) else None

    def can_be_sent(self, name: bytes) -> bool:
        """Say whether a reply line can hold a name (RFC 1413 section 6: 1 to 512 octets but NUL, CR and LF)."""
        if name and not any(octet in name for octet in (b"\0", b"\r", b"\n")):
            return True
        self.say(f"refused: {show(name)} can't be sent, for it is empty or holds a NUL, CR or LF")
        return False

    def may_be_told(self, name: bytes, capabilities: frozenset[str]) -> bool:
        """Say whether the owner may answer with a name, be it his reply or another server's."""
        if not self.can_be_sent(name):
            return False
        privileged = self.far_port < _PRIVILEGED
        if capabilities >= {"spoof", "spoof_all"} and ("spoof_privport" in capabilities or not privileged):
            # The name service need not be asked.
            self.say(f"granted: {show(name)} may be told, whosoever's name it is")
            return True
        if self.uid_of(name) == self.uid:
            self.say(f"granted: {show(name)} is the owner's own name")
            return True
        taken_for = self.another(name)
        if taken_for is not None and "spoof_all" not in capabilities:
            self.decision.posed = taken_for
            self.lacks("spoof_all", f"{show(taken_for)} is another user's name, and spoof_all is not allowed")
        if "spoof" not in capabilities:
            self.lacks("spoof", "spoof is not allowed")
        if privileged and "spoof_privport" not in capabilities:
            reason = f"the far port {self.far_port} is below {_PRIVILEGED}, and spoof_privport is not allowed"
            self.lacks("spoof_privport", reason)
        if self.decision.lacking:
            return False
        self.say(f"granted: {show(name)} may be told")
        return True

    def lacks(self, capability: str, reason: str) -> None:
        self.decision.lacking.append(capability)
        self.say(f"refused: {reason}")

    def another(self, name: bytes) -> bytes | None:
        """Return the other user's login name that a client may take a name for, or None."""
        sent = name[:MAX_USER_ID]
        # Some read one word: tcp_wrappers' "%255s", and oidentd where it forwards.
        stripped = sent.strip(_BLANKS)
        word = stripped[: next((at for at, octet in enumerate(stripped) if octet in _BLANKS), None)]
        for taken_for in dict.fromkeys((name, name.strip(_BLANKS), sent, stripped, word)):
            # A name of one's own in another form needs spoof, but is not another's.
            if taken_for and self.uid_of(taken_for) not in (None, self.uid):
                return taken_for
        return None


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
