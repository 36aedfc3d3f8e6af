"""Why is this the reply to a query?"""

from __future__ import annotations

import contextlib
import functools
import os

import lookup
from lookup.config import system_file, user_file
from lookup.config.blocks import quoted
from lookup.errors import ConfigError, HiddenUser, IdentError, NoUser, Unknown
from lookup.kernel import codec, dumps, holder, sock_diag
from lookup.owner import Answer, Facts, answer

from ..answer import reply_line, with_key
from ..options import UsageError
from ..privileges import drop_privileges
from ..protocol import parse_ports
from . import nobody
from .access import note_for_nobody
from .printing import show

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Union

    from lookup.config.blocks import System
    from lookup.config.decision import Decision
    from lookup.config.user_file import Fetched
    from lookup.connection import Address, Owner
    from lookup.kernel.causes import Evidence

    from ..options import Options

    #: What a query comes to.
    Outcome = Union[Answer, IdentError]


def explain(options: Options) -> int:
    """Print what the reply to a query would be now, and why, step by step; return the exit status.

    Without ports, print the reply about each connection of whoever runs this.

    :raises UsageError: these are not two ports. :raises IdentError: the connections can't be listed.
    :raises OSError: root can't be given up.
    """
    uid = os.getuid()
    path = options.system_file
    system: System | ConfigError | None
    try:
        system = with_key(system_file.load(path, options.requires_system_file), options)
    except ConfigError as error:
        system = error
    ports = parse_ports(os.fsencode(options.explain or ""))
    evidence = None
    held = None if ports is not None else ""
    if os.geteuid() == 0:
        if ports is not None:
            ends = (options.server_address, ports[0]), (options.client_address, ports[1])
            evidence, held = nobody.seen_as_root(*ends), _held_as_root(*ends)
        _give_up_root(options)
        if not isinstance(system, ConfigError) and system is not None and not os.access(path, os.R_OK):
            show(f"but      {path} was read as root: an identd that is not started as root replies UNKNOWN-ERROR")
        if not isinstance(system, ConfigError) and system is not None and system.needs_key:
            show("but      the key was read as root: an identd that starts as another user needs one that it can read")
    explanation = Explanation(options, system, evidence, held)
    if options.explain:
        if ports is None:
            raise UsageError(f"two ports expected, PORT-ON-SERVER,PORT-ON-CLIENT, not {options.explain!r}")
        for step in explanation.steps((options.server_address, ports[0]), (options.client_address, ports[1])):
            show(step)
        return 0
    owners = _held_by(uid)
    for owner in owners:
        *_, reply = explanation.steps(owner.server, owner.client)
        show(f"{owner.ends} {reply.partition(' ')[2].strip()}")
    if not owners:
        show(f"uid {uid} has no TCP connection")
    return 0


def _held_as_root(server: Address, client: Address) -> str:
    """Return which process holds the socket: root sees every process, and the user whom root becomes does not."""
    try:
        return holder.describe([lookup.find(server, client)])[0]
    except (IdentError, ValueError):
        # The steps say why.
        return ""


def _give_up_root(options: Options) -> None:
    # Whatever follows is imported now: root's Python may stand where nobody else can read it.
    lookup.import_all()
    # Without pyroute2, psutil answers; without psutil too, a step says so.
    with contextlib.suppress(ImportError):
        codec.messages()
    with contextlib.suppress(ImportError):
        import psutil  # noqa: F401
    drop_privileges(options.user, options.group)
    show(f"as       {options.user or 'nobody'}, like the warm process and the files for inetd, xinetd and systemd")


def _held_by(uid: int) -> list[Owner]:
    """Return a user's connections. :raises IdentError: the kernel can't be asked."""
    try:
        return dumps.held_by(uid)
    except sock_diag.SockDiagUnavailable as error:
        reason = f"the kernel can't be asked which connections are yours ({error}): give the ports of one"
        raise IdentError(reason) from None


class Explanation:
    """What leads to the replies under one system file."""

    def __init__(
        self, options: Options, system: System | ConfigError | None, evidence: Evidence | None = None,
        held: str | None = None,
    ) -> None:  # fmt: skip
        """:param system: what the system file says, or why it can't be used; None: there is none.

        :param evidence: what root saw of a connection that is nobody's (`nobody.seen_as_root`).
        :param held: which process holds the socket (`holder.describe`); None: that is still to be found out.
        """
        self._evidence = evidence
        self._held = held
        self._options = options
        self._path = options.system_file
        self._system = system

    def steps(self, server: Address, client: Address) -> Iterator[str]:
        """Yield the steps to a reply, each a label of 9 columns and a text; the last one is the reply.

        May block as the name service does, and on the owner's files.

        :param server: our end as ``(host, port)``; :param client: the far end. A host may be ``""``.
        :raises ValueError: an address is none.
        """
        outcome: Outcome
        try:
            owner = lookup.find(server, client)
        except IdentError as error:
            yield f"socket   {error.detail or error}"
            yield from _advice(error, server, client)
            if isinstance(error, NoUser):
                yield from nobody.steps(server, client, self._evidence)
            outcome = error
        else:
            yield f"socket   {owner!r}"
            if held := holder.describe([owner])[0] if self._held is None else self._held:
                yield f"holder   {held}"
            outcome = yield from self._about(owner, server, client)
        yield f"reply    {reply_line(outcome, server, client, self._options)}"

    def _about(self, owner: Owner, server: Address, client: Address) -> Generator[str, None, Outcome]:
        """Yield the steps from a socket to what the query comes to, and return that."""
        also = self._others(owner, server, client)
        facts = Facts(owner.uid, fetch=functools.partial(_fetch_as_nobody, also=also))
        login = facts.login()
        if isinstance(login, Unknown):
            yield f"login    {login.reason}"
            return IdentError(login.reason, owner.uid)
        opsys, name = login
        yield f"login    {name}" if opsys == "UNIX" else f"login    none: uid {name} has no passwd entry"
        system = self._system
        if isinstance(system, ConfigError):
            yield f"system   {system}"
            return IdentError(str(system), owner.uid)
        yield f"system   {self._path}" if system else f"system   no {self._path}, so nobody may do anything"
        outcome = _outcome(owner, server, client, system, facts, self._options.form)
        decision = _decision(outcome)
        for said in dict.fromkeys(facts.said):
            yield f"dns      {said}"
        if decision is not None:
            yield from _reasons(decision)
            if decision.lacking:
                yield self._permit(owner, name, decision.lacking)
            if os.getuid() == owner.uid:
                yield from self._as_the_owner(owner, server, client, decision)
        elif not isinstance(outcome, Answer):
            yield f"why      {outcome.detail or outcome}"
            if system and isinstance(system.pseudonyms, Unknown) and os.geteuid() != 0:
                yield "but      an identd that can read the key sends the pseudonym"
        elif opsys == "UNIX":
            yield "file     not read: nobody may do anything"
            yield self._permit(owner, name, ["spoof"])
        if self._options.form and isinstance(outcome, Answer) and (decision is None or decision.sends_login):
            yield f"form     {self._options.form} makes {quoted(os.fsencode(outcome[1]))} of it"
        return outcome

    def _as_the_owner(self, owner: Owner, server: Address, client: Address, decision: Decision) -> Iterator[str]:
        """Yield what an identd would reply that reads all that the owner may read, where that is another file."""
        assert not isinstance(self._system, ConfigError)
        also = self._others(owner, server, client)
        facts = Facts(owner.uid, functools.partial(user_file.fetch, also=also))
        outcome = _outcome(owner, server, client, self._system, facts, self._options.form)
        own = _decision(outcome)
        if own is not None and own.path != decision.path:
            reply = reply_line(outcome, server, client, self._options)
            yield f"else     an identd that is started as root for each query reads {own.path}, and replies {reply}"

    def _others(self, owner: Owner, server: Address, client: Address) -> user_file.Also:
        """Return for which connection other files of the owner's are looked at."""
        system = self._system
        older = bool(system and not isinstance(system, ConfigError) and system.older)
        return user_file.others_of(server, client if client[0] else owner.client, older)

    def _permit(self, owner: Owner, login: str, capabilities: list[str]) -> str:
        """Return the step that shows what an administrator has to write for a statement to be granted."""
        allow = " ".join(f"allow {capability}" for capability in capabilities)
        block = f'`user "{login}" {{ default {{ {allow} }} }}`'
        if self._system and not isinstance(self._system, ConfigError) and owner.uid in self._system.users:
            block = f"`{allow}` in the block for user {login}"
        return f"fix      the administrator can grant it: {block} in {self._path}"


def _advice(error: IdentError, server: Address, client: Address) -> Iterator[str]:
    """Yield what may help where no socket could be chosen."""
    if not isinstance(error, NoUser):
        if not (server[0] and client[0]):
            yield "fix      name the connection's addresses with --server-address and --client-address"
        return
    try:
        lookup.find((server[0], client[1]), (client[0], server[1]))
        yield f"fix      {client[1]},{server[1]} is a connection: the port on this host comes first"
    except IdentError:
        return


def _reasons(decision: Decision) -> Iterator[str]:
    """Yield the steps of a decision: the rule that counts, the owner's files, what comes of their statement."""
    steps = decision.steps
    at = next((at for at, step in enumerate(steps) if step.startswith("the owner")), len(steps))
    for step in steps[:at]:
        yield f"rule     {step}"
    for _, text in decision.files:
        yield f"file     {text}"
    if not decision.files:
        yield "file     not read: the system file decides alone"
    for step in steps[at:]:
        yield f"why      {step}"


def _outcome(
    owner: Owner, server: Address, client: Address, system: System | None, facts: Facts, form: str
) -> Outcome:
    """Return what a query about an owner comes to: an answer, or why there is none."""
    try:
        found = answer(owner, server, client, system, facts, form=form)
    except IdentError as error:
        return error
    if isinstance(found, Unknown):
        return IdentError(found.reason, owner.uid)
    return found


def _decision(outcome: Outcome) -> Decision | None:
    """Return the decision that made an outcome; None: the configuration had no part in it."""
    return outcome.decision if isinstance(outcome, (Answer, HiddenUser)) else None


def _fetch_as_nobody(uid: int, home: str, also: user_file.Also) -> Fetched:
    """Fetch a user's files as an identd that runs as nobody would, whoever runs this."""
    return user_file.fetch(uid, home, kept=lambda path: note_for_nobody(path, uid), also=also)
