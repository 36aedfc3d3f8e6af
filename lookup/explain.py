"""Why is this the answer?  The way from a connection to its reply, step by step, for a person."""

from __future__ import annotations

import os
import re

from . import find, judge, name, said
from .access import kept_from_nobody
from .errors import ConfigError, HiddenUser, IdentError, NoUser
from .known import Known
from .users import home
from .wishes import Wishes, read

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from . import Answer, Verdict
    from .connection import Address, Owner
    from .grammar import System

    Outcome = Answer | IdentError
    Reply = Callable[[Outcome], str]


def steps(
    serverAddress: Address, clientAddress: Address, system: System | ConfigError | None, path: str, reply: Reply
) -> Iterator[str]:
    """Yield the steps to an answer, each a label of 9 columns and a text; the last one is the reply.

    May block as the name service does, and on the owner's files; what forbids this process to read them is a step too.

    :param serverAddress: our end as ``(host, port)``; :param clientAddress: the far end. A host may be ``""``.
    :param system: what the system file says, or why it can't be obeyed; None: there is none.
    :param path: of the system file.
    :param reply: returns the line that a client gets for an outcome.
    :raises ValueError: an address is none.
    """
    outcome: Outcome
    try:
        owner = find(serverAddress, clientAddress)
    except IdentError as error:
        yield f"socket   {error.detail or error}"
        yield from _advice(error, serverAddress, clientAddress)
        outcome = error
    else:
        yield f"socket   {owner!r}"
        try:
            outcome = yield from _of_owner(owner, serverAddress, clientAddress, system, path, reply)
        except IdentError as error:
            outcome = error
    yield f"reply    {reply(outcome)}"


def _advice(error: IdentError, server: Address, client: Address) -> Iterator[str]:
    """Yield what may help where no socket is the one that was meant."""
    if not isinstance(error, NoUser):
        if not (server[0] and client[0]):
            yield "fix      tell which one is meant by --server-address and --client-address"
        return
    try:
        find((server[0], client[1]), (client[0], server[1]))
        yield f"fix      {client[1]},{server[1]} is a connection: the port on this host comes first"
    except IdentError:
        return


def _of_owner(
    owner: Owner, server: Address, client: Address, system: System | ConfigError | None, path: str, reply: Reply
) -> Generator[str, None, Outcome]:
    """Yield the steps from a socket to what is told of its owner, and return that."""
    try:
        answer = name(owner)
    except IdentError as error:
        yield f"login    {error.detail}"
        raise
    named = answer[0] == "UNIX"
    yield f"login    {answer[1]}" if named else f"login    none: uid {answer[1]} has no passwd entry"
    if isinstance(system, ConfigError):
        yield f"system   {system}"
        raise IdentError(str(system), owner.uid)
    if system is None:
        yield f"system   no {path}, so nobody may do anything"
    else:
        yield f"system   {path}"
    if not named:
        return answer
    if system is None:
        yield "file     not read: nobody may do anything"
        yield _permit(owner, answer[1], "spoof", system, path)
        return answer
    verdict = judge(owner, answer[1], server, client, system, _Stranger(owner.uid))
    at = next((at for at, step in enumerate(verdict.steps) if step.startswith("the owner")), len(verdict.steps))
    for step in verdict.steps[:at]:
        yield f"rule     {step}"
    for _, text in verdict.files:
        yield f"file     {text}"
    if not verdict.files:
        yield "file     not read: what is forced counts"
    for step in verdict.steps[at:]:
        yield f"why      {step}"
        refused = re.search(r"^refused: .*?(\w+) is not allowed", step)
        if refused:
            yield _permit(owner, answer[1], refused[1], system, path)
    if os.getuid() == owner.uid:
        own = judge(owner, answer[1], server, client, system, Known(owner.uid))
        if own.path != verdict.path:
            told = reply(_outcome(answer, own))
            yield f"else     an identd that is started as root for each query reads {own.path}, and replies {told}"
    return _outcome(answer, verdict)


class _Stranger(Known):
    """What an identd that runs as nobody would know, whoever runs this."""

    def wishes(self) -> Wishes:
        return read(self.uid, home(self.uid), self._kept_from_nobody)

    def _kept_from_nobody(self, path: str) -> str:
        fix = kept_from_nobody(path, self.uid)
        return fix and f"an identd of another user, such as nobody, can't read it ({fix})"


def _outcome(answer: Answer, verdict: Verdict) -> Outcome:
    try:
        return said(answer, verdict)
    except HiddenUser as hidden:
        return hidden


def _permit(owner: Owner, login: str, capability: str, system: System | None, path: str) -> str:
    """Return what an administrator would have to write for a wish to be granted."""
    block = f'`user "{login}" {{ default {{ allow {capability} }} }}`'
    if system is not None and owner.uid in system.users:
        block = f"`allow {capability}` in the block for user {login}"
    return f"fix      the administrator can grant it: {block} in {path}"
