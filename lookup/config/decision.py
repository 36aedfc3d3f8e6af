"""What is sent for an owner, and why?"""

from __future__ import annotations

from .blocks import quoted

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from ..connection import Unknown

#: Where no block of the system file matches.
NO_RULE = "no rule"


class Decision:
    """What is sent for an owner, and why.

    ``user``: the user id in octets, None where the owner is hidden (HIDDEN-USER), and ``system``: what kind it is
    (``"OTHER"``: a uid that has no name); ``login``: their login name, or ``""``;
    ``rule`` and ``statement_at``: the blocks that decided, as ``path:line`` (``"no rule"``; ``""``: the owner's file
    was not asked for, or says nothing about the connection); ``path``: the owner's file that counts; ``files``: what
    became of their files, as pairs of (worth a line in the log, text); ``rule_steps``: how many of the ``steps`` are
    about the system file;
    ``lacking``: the capabilities that the owner's statement needs and has not; ``impersonated``: the other user's
    name, in quotes, that the owner asked for and may not have; ``sends_login``: whether ``user`` is the login name (the
    number of who has none) because nothing else is sent; `Unknown`: it is, or somebody asked for just that name;
    ``forwarded``: why the server that was to be asked named nobody.

    ``unknown``: what the decision depends on and is not known; then nothing else of it counts.
    """

    __slots__ = (
        "_reasons", "files", "forwarded", "impersonated", "lacking", "login", "path", "rule", "rule_steps",
        "sends_login", "statement_at", "system", "unknown", "user",
    )  # fmt: skip

    def __init__(self, login: str) -> None:
        self.login = login
        self.user: bytes | None = None
        self.system = "UNIX"
        self.sends_login: bool | Unknown = False
        self.rule = NO_RULE
        self.statement_at = self.path = self.impersonated = self.forwarded = ""
        self.files: list[tuple[bool, str]] = []
        self._reasons: list[tuple[str, tuple[object, ...]]] = []
        self.rule_steps = 0
        self.lacking: list[str] = []
        self.unknown: Unknown | None = None

    def explain(self, text: str, *values: object) -> None:
        """Keep a reason. It is put together only for a person who asks: a query waits for the decision.

        :param values: what stands in the text at each ``{}``: octets in quotes, a set as its members.
        """
        self._reasons.append((text, values))

    def explained_the_rule(self) -> None:
        """Have the reasons so far count as those that are about the system file."""
        self.rule_steps = len(self._reasons)

    def begin_like(self, other: Decision) -> None:
        """Take over the rule, the files and the reasons of another decision so far."""
        self.files, self.path, self.rule = other.files, other.path, other.rule
        self._reasons, self.rule_steps = [*other._reasons], other.rule_steps

    @property
    def steps(self) -> list[str]:
        """The reasons in order, as texts."""
        return [text.format(*map(_shown, values)) if values else text for text, values in self._reasons]

    @property
    def has_rule(self) -> bool:
        """Whether a block of the system file is about the connection."""
        return self.rule != NO_RULE


def _shown(value: object) -> object:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "nothing"
    return quoted(value) if isinstance(value, bytes) else value
