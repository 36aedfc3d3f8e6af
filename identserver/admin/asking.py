"""What does the server on a port say of a connection of ours, whichever server it is, and what should it say?"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lookup.connection import IdentError, Owner, Unknown
from lookup.owner import Facts, answer

from ..answer import load_system_file
from .fresh import ask
from .listeners import place
from .printing import WARNING, row
from .reply import reply_line

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from typing import Any

    from lookup.config.user_file import Fetched

    from ..options import Options
    from .listeners import Listener

#: Seconds in which this host must take a connection with itself.
_CONNECT_SECONDS = 3.0

#: How many of this host's addresses are asked at, and how many at once.
_MOST, _AT_ONCE = 64, 16

#: How often a reply is worked out, and for how many seconds at most, to see whether it is the same each time.
_SAMPLES, _SAMPLING_SECONDS = 8, 0.05

_LOOPBACK = ("127.0.0.1", "::1")


class Asked(NamedTuple):
    """What came of asking at one address: the query, the reply (``""``: none), or why there is no connection."""

    address: str
    query: str = ""
    reply: str = ""
    refused: str = ""


def own_addresses() -> list[str]:
    """Return this host's addresses, loopback first. Those of one link are left out: nobody far away asks there."""
    found = list(_LOOPBACK)
    # Without psutil, or where a sandbox keeps it from the kernel, loopback has to do.
    with contextlib.suppress(ImportError, OSError):
        import psutil

        for addresses in psutil.net_if_addrs().values():
            for address in addresses:
                if address.family in (socket.AF_INET, socket.AF_INET6):
                    host = address.address.partition("%")[0]
                    if host not in found and not host.lower().startswith("fe80:"):
                        found.append(host)
    return found[:_MOST]


def check_server(options: Options, port: int, listening: list[Listener], hosts: list[str]) -> list[dict[str, Any]]:
    """Ask the server on a port, at each address of this host, about the connection by which it is asked.

    :param listening: who listens there. :return: what came of it, for programs.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        results = list(threads.map(lambda host: _ask_at(host, port), hosts))
    told = [_tell(options, asked, port) for asked in results]
    _tell_families(results, port, listening)
    return told


def _ask_at(host: str, port: int) -> Asked:
    try:
        with socket.create_connection((host, port), _CONNECT_SECONDS) as asker:
            query = f"{asker.getsockname()[1]},{port}"
            return Asked(host, query, ask(asker, query))
    except OSError as error:
        # ECONNREFUSED: nobody listens there. ETIMEDOUT, a timeout: packets are lost. ENETUNREACH, EADDRNOTAVAIL,
        # EAFNOSUPPORT: this host has no such address. EPERM, EACCES, EHOSTUNREACH: a packet filter.
        timed_out = isinstance(error, TimeoutError) or not error.strerror
        return Asked(host, refused="no connection in time" if timed_out else str(error.strerror))


def _tell(options: Options, asked: Asked, port: int) -> dict[str, Any]:
    """Print what came of asking at one address, and return it."""
    at = place(asked.address, port)
    found: dict[str, Any] = {"address": asked.address, "port": port, "query": asked.query or None}
    if asked.refused:
        return {**found, "error": asked.refused, "right": None}
    expected = expected_replies(options, asked.address, asked.query)
    right = fits(asked.reply, expected)
    found |= {"reply": asked.reply or None, "expected": expected, "right": right}
    if right:
        row("asked", f"{at} said {asked.reply}, as it should")
    else:
        should = " or ".join(expected)
        row("wrong", f"{at} said {asked.reply or 'nothing'}, and should say {should}")
    return found


def _tell_families(results: list[Asked], port: int, listening: list[Listener]) -> None:
    """Print at which addresses the server can't be reached."""
    local = {asked.address for asked in results if asked.address in _LOOPBACK or asked.address.startswith("127.")}
    refused = {asked.address: asked.refused for asked in results if asked.refused and asked.address not in local}
    for address, reason in refused.items():
        row("port", f"nobody is reached at {place(address, port)}: {reason}", WARNING)
    if listening and all(listener.is_local for listener in listening):
        row("port", f"port {port} is open to this host alone: {', '.join(one.at for one in listening)}", WARNING)
    elif not refused and all(asked.refused for asked in results):
        row("port", f"somebody listens on port {port}, and nobody is reached there: {results[0].refused}", WARNING)


def expected_replies(options: Options, host: str, query: str) -> list[str]:
    """Return what a server that obeys the system file may say of a connection of ours with this host.

    Whether it can read our own file depends on how it was started, so that both replies may be right.
    """
    local, _, remote = query.partition(",")
    server, client = (host, int(local)), (host, int(remote))
    owner = Owner(os.geteuid(), 0, "ESTABLISHED", server, client, "our own")
    found: list[str] = []
    for facts in (Facts(owner.uid), Facts(owner.uid, fetch=_no_file)):
        # Some names are made up, or chosen among several, anew each time. What takes long depends on another server.
        end = time.monotonic() + _SAMPLING_SECONDS
        samples = [_expected(options, owner, facts)]
        while len(samples) < _SAMPLES and time.monotonic() < end:
            samples.append(_expected(options, owner, facts))
        found.append(samples[0] if len(set(samples)) == 1 else f"{query}:USERID:UNIX:")
    return list(dict.fromkeys(found))


def _expected(options: Options, owner: Owner, facts: Facts) -> str:
    outcome: Any
    try:
        outcome = answer(owner, owner.server, owner.client, load_system_file(options), facts)
        if isinstance(outcome, Unknown):
            outcome = IdentError(outcome.reason, owner.uid)
    except IdentError as error:
        outcome = error
    return reply_line(outcome, owner.server, owner.client, options)


def _no_file(uid: int, home: str) -> Fetched:
    """Return what is fetched where a server can't read the user's file."""
    from lookup.config.user_file import Fetched

    return Fetched()


def fits(reply: str, expected: list[str]) -> bool:
    """Return whether a reply says what it should: servers differ in blanks, and `--error` hides which error it is."""
    said = _parsed(reply)
    return said is not None and any(_same(said, parsed) for parsed in map(_parsed, expected) if parsed)


def _same(said: tuple[str, ...], expected: tuple[str, ...]) -> bool:
    if said[:2] != expected[:2]:
        return False
    return said[2] == expected[2] or not expected[2] or said[1:] == ("ERROR", "UNKNOWN-ERROR")


def _parsed(reply: str) -> tuple[str, ...] | None:
    """Return the ports, the kind and the name of a reply; None: it is no reply.

    reply = ports ":" ( "USERID" ":" opsys ":" name / "ERROR" ":" error )      ; RFC 1413, blanks around the words
    """
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*:\s*(USERID\s*:[^:]*|ERROR)\s*:\s?(.*)", reply, re.DOTALL)
    return found and (f"{int(found[1])},{int(found[2])}", found[3][:6].rstrip(" :\t"), found[4].rstrip("\r\n"))
