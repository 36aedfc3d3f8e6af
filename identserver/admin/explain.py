"""What would be replied now, and why?"""

from __future__ import annotations

import contextlib
import os

import lookup
from lookup.config import system_file
from lookup.connection import ConfigError, IdentError
from lookup.kernel import codec, dumps, holder, sock_diag

from .. import __version__, capabilities
from ..answer import with_key
from ..options import UsageError
from ..privileges import drop_privileges, serving_ids
from ..protocol import parse_ports
from ..seeker import Seeker
from . import nobody
from .access import NOBODY
from .people import uid_of
from .printing import WARNING, begin, finish, line_of_its_own, row
from .reasons import Explanation, Told

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lookup.behind import Ask
    from lookup.config.blocks import System
    from lookup.connection import Address, Owner

    from ..options import Options


def explain(options: Options) -> int:
    """Print what the reply to a query would be now, and why, step by step; return the exit status.

    Without ports, print the reply about each connection of the user that --user names, or of whoever runs this.

    :raises UsageError: these are not two ports, or there is no such user. :raises IdentError: the connections can't be
        listed. :raises OSError: root can't be given up.
    """
    begin(options.json)
    uid = os.getuid() if options.user is None else uid_of(options.user)
    ports = parse_ports(os.fsencode(options.explain)) if options.explain else None
    if options.explain and ports is None:
        raise UsageError(f"two ports expected, PORT-ON-SERVER,PORT-ON-CLIENT, not {options.explain!r}")
    path = options.system_file
    system: System | ConfigError | None
    try:
        system = with_key(system_file.load(path, options.requires_system_file), options)
    except ConfigError as error:
        system = error
    evidence = None
    held = None if ports is not None else ""
    ask = _ask() if options.masquerade else None
    if os.geteuid() == 0:
        if ports is not None:
            ends = (options.server_address, ports[0]), (options.client_address, ports[1])
            evidence, held = nobody.seen_as_root(*ends), _held_as_root(*ends)
        _give_up_root(options)
        if not isinstance(system, ConfigError) and system is not None and not os.access(path, os.R_OK):
            reason = f"{path} was read as root: an identd that is not started as root replies UNKNOWN-ERROR"
            row("but", reason, WARNING, in_words=False)
        if not isinstance(system, ConfigError) and system is not None and system.needs_key:
            reason = "the key was read as root: an identd that starts as another user needs one that it can read"
            row("but", reason, WARNING, in_words=False)
    explanation = Explanation(options, system, evidence, held, ask)
    if ports is not None:
        told = [_explain_one(explanation, options, ports, uid)]
    else:
        told = list(_explain_all(explanation, uid))
    finish(identd=__version__, system_file=path, connections=[_as_fields(one) for one in told])
    return 0


def _ask() -> Ask | None:
    """Return who looks behind NAT and into containers, with what capabilities whoever runs this has; None: nobody."""
    having = capabilities.held()
    for reason in capabilities.lacking(having):
        row("but", f"--masquerade: {reason}", WARNING, in_words=False)
    return Seeker(having & capabilities.mask(), serving_ids(None, None)).ask if capabilities.suffice(having) else None


def _held_as_root(server: Address, client: Address) -> str:
    """Return which process holds the socket: root sees every process, and the user whom root becomes does not."""
    try:
        return holder.describe([lookup.find(server, client)])[0]
    except (IdentError, ValueError):
        # The steps say why.
        return ""


def _give_up_root(options: Options) -> None:
    # Whatever follows is imported now: root's Python may stand where nobody else can read it.
    lookup.import_all(options.looks_behind)
    # Without pyroute2, psutil answers; without psutil too, a step says so.
    with contextlib.suppress(ImportError):
        codec.messages()
    with contextlib.suppress(ImportError):
        import psutil  # noqa: F401
    drop_privileges(NOBODY, options.group)
    row("as", f"{NOBODY}, like the warm process and the files for inetd, xinetd and systemd")


def _explain_one(explanation: Explanation, options: Options, ports: tuple[int, int], uid: int) -> Told:
    """Print each step to the reply to one query. :param uid: whose connection it should be, with --user."""
    server, client = (options.server_address, ports[0]), (options.client_address, ports[1])
    if options.user is not None:
        server, client = _ends(server, client, uid)
    told = Told(server, client)
    for step in explanation.steps(told):
        row(*step, in_words=False)
        if step.label == "socket" and told.owner is not None and options.user is not None and told.owner.uid != uid:
            row("but", f"that is a connection of uid {told.owner.uid}, not of {options.user}", WARNING, in_words=False)
    return told


def _ends(server: Address, client: Address, uid: int) -> tuple[Address, Address]:
    """Return the ends of a user's own connection with these ports, and with the addresses that were given."""
    try:
        own = [owner for owner in dumps.held_by(uid) if _fits(owner.server, server) and _fits(owner.client, client)]
    except (sock_diag.SockDiagUnavailable, IdentError):
        # Whatever asks for that one connection says so.
        own = []
    return (own[0].server, own[0].client) if len(own) == 1 else (server, client)


def _fits(end: Address, asked: Address) -> bool:
    return end[1] == asked[1] and asked[0] in ("", end[0])


def _explain_all(explanation: Explanation, uid: int) -> Iterator[Told]:
    """Print the reply about each connection of a user. :raises IdentError: the kernel can't be asked."""
    try:
        owners: list[Owner] = dumps.held_by(uid)
    except sock_diag.SockDiagUnavailable as error:
        reason = f"the kernel can't be asked which connections are those of uid {uid} ({error}): give the ports of one"
        raise IdentError(reason) from None
    for owner in owners:
        told = Told(owner.server, owner.client)
        *_, reply = explanation.steps(told)
        line_of_its_own(f"{owner.ends} {reply.text}", reply.severity)
        yield told
    if not owners:
        line_of_its_own(f"uid {uid} has no TCP connection")


def _as_fields(told: Told) -> dict[str, Any]:
    """Return what programs are told of one connection."""
    owner = told.owner
    ends = (told.server, told.client) if owner is None else (owner.server, owner.client)
    return {
        "query": f"{told.server[1]},{told.client[1]}",
        "server": {"host": ends[0][0] or None, "port": ends[0][1]},
        "client": {"host": ends[1][0] or None, "port": ends[1][1]},
        "uid": None if owner is None else owner.uid,
        "login": told.login or None,
        "rule": told.rule or None,
        "statement": told.statement or None,
        "reply": told.reply,
    }
