"""Why is this the answer?  The way from a connection to its reply, step by step, for a person."""

from __future__ import annotations

import os

from .access import kept_from_nobody
from .errors import ConfigError, HiddenUser, IdentError, NoUser
from .known import Known
from .wishes import Wishes, read

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from .blocks import System
    from .connection import Address, Owner

    #: The line that a client gets for an answer, or for an IdentError.
    Reply = Callable[[Any], str]


class Explanation:
    """What leads to the answers under one system file."""

    def __init__(self, lookup: Any, system: System | ConfigError | None, path: str) -> None:
        """:param lookup: the package, which puts the rooms together and so stands above this one.

        :param system: what the system file says, or why it can't be obeyed; None: there is none.
        :param path: of the system file.
        """
        self._lookup = lookup
        self._system = system
        self._path = path

    def steps(self, server: Address, client: Address, reply: Reply) -> Iterator[str]:
        """Yield the steps to an answer, each a label of 9 columns and a text; the last one is the reply.

        May block as the name service does, and on the owner's files.

        :param server: our end as ``(host, port)``; :param client: the far end. A host may be ``""``.
        :raises ValueError: an address is none.
        """
        outcome: Any
        try:
            owner = self._lookup.find(server, client)
        except IdentError as error:
            yield f"socket   {error.detail or error}"
            yield from self._advice(error, server, client)
            outcome = error
        else:
            yield f"socket   {owner!r}"
            try:
                outcome = yield from self._of_owner(owner, server, client, reply)
            except IdentError as error:
                outcome = error
        yield f"reply    {reply(outcome)}"

    def _advice(self, error: IdentError, server: Address, client: Address) -> Iterator[str]:
        """Yield what may help where no socket is the one that was meant."""
        if not isinstance(error, NoUser):
            if not (server[0] and client[0]):
                yield "fix      tell which one is meant by --server-address and --client-address"
            return
        try:
            self._lookup.find((server[0], client[1]), (client[0], server[1]))
            yield f"fix      {client[1]},{server[1]} is a connection: the port on this host comes first"
        except IdentError:
            return

    def _of_owner(self, owner: Owner, server: Address, client: Address, reply: Reply) -> Generator[str, None, Any]:
        """Yield the steps from a socket to what is told of its owner, and return that."""
        try:
            answer = self._lookup.name(owner)
        except IdentError as error:
            yield f"login    {error.detail}"
            raise
        named = answer[0] == "UNIX"
        yield f"login    {answer[1]}" if named else f"login    none: uid {answer[1]} has no passwd entry"
        system = self._system
        if isinstance(system, ConfigError):
            yield f"system   {system}"
            raise IdentError(str(system), owner.uid)
        yield f"system   {self._path}" if system else f"system   no {self._path}, so nobody may do anything"
        if not named:
            return answer
        if system is None:
            yield "file     not read: nobody may do anything"
            yield self._permit(owner, answer[1], ["spoof"])
            return answer
        verdict = self._lookup.judge(owner, answer[1], server, client, system, _Stranger(owner.uid))
        at = next((at for at, step in enumerate(verdict.steps) if step.startswith("the owner")), len(verdict.steps))
        for step in verdict.steps[:at]:
            yield f"rule     {step}"
        for _, text in verdict.files:
            yield f"file     {text}"
        if not verdict.files:
            yield "file     not read: what is forced counts"
        for step in verdict.steps[at:]:
            yield f"why      {step}"
        if verdict.lacking:
            yield self._permit(owner, answer[1], verdict.lacking)
        if os.getuid() == owner.uid:
            own = self._lookup.judge(owner, answer[1], server, client, system, Known(owner.uid))
            if own.path != verdict.path:
                told = reply(self._said(answer, own))
                yield f"else     an identd that is started as root for each query reads {own.path}, and replies {told}"
        return self._said(answer, verdict)

    def _said(self, answer: Any, verdict: Any) -> Any:
        try:
            return self._lookup.said(answer, verdict)
        except HiddenUser as hidden:
            return hidden

    def _permit(self, owner: Owner, login: str, capabilities: list[str]) -> str:
        """Return what an administrator would have to write for a wish to be granted."""
        allow = " ".join(f"allow {capability}" for capability in capabilities)
        block = f'`user "{login}" {{ default {{ {allow} }} }}`'
        if self._system and not isinstance(self._system, ConfigError) and owner.uid in self._system.users:
            block = f"`{allow}` in the block for user {login}"
        return f"fix      the administrator can grant it: {block} in {self._path}"


class _Stranger(Known):
    """What an identd that runs as nobody would know, whoever runs this."""

    def wishes(self) -> Wishes:
        self.login()
        return read(self.uid, self._home, self._kept_from_nobody)

    def _kept_from_nobody(self, path: str) -> str:
        fix = kept_from_nobody(path, self.uid)
        return fix and f"an identd of another user, such as nobody, can't read it ({fix})"
