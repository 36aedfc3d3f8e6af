"""Can what is set up to serve the port do so?

A superserver that can't start identd says so in its own log, if at all, and the asker just gets nothing: a user who
does not exist, a path with a typing error, an option that identd has not, an installation that this user can't read.
"""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import re
import shlex

from ..elsewhere import what_counts
from ..options import UsageError, read
from . import installation, reach
from .fresh import SCRIPT
from .listeners import Listener, unit_of
from .printing import WARNING, row

#: What identd's script is called.
_SCRIPTS = ("identd", "identd.py")

#: What systemd itself strips from the front of a command (systemd.service(5)).
_PREFIXES = "@-:+!"


def check_set_up(port: int, listeners: list[Listener], installed: installation.Findings) -> None:
    """Print what keeps those who are set up to serve a port from that.

    :param installed: what was found, and said, of the installation.
    """
    told = installed.user if installed.unreadable and not installed.is_a_trial else ""
    holders = ", ".join(dict.fromkeys(listener.program for listener in listeners))
    are_known = listeners and all(listener.program for listener in listeners)
    claims = reach.claims(port)
    for claim in claims:
        for obstacle in [*claim.mistakes, *_obstacles(claim, told)]:
            row("error", f"{claim.what} ({claim.path}) {obstacle}")
    if claims and are_known and not any(_is_of(claim, listener) for claim in claims for listener in listeners):
        waiting = ", ".join(f"{claim.what} ({claim.path})" for claim in claims)
        row("port", f"port {port} is not free for what is set up, {waiting}: {holders} has it", WARNING)


def _is_of(claim: reach.Claim, listener: Listener) -> bool:
    """Return whether a listener may well be that of a claim."""
    if claim.superserver:
        return listener.program in (*reach.SUPERSERVERS[claim.superserver], *_SCRIPTS)
    return claim.what in listener.unit.split() or unit_of(listener.pid) == claim.what


def _obstacles(claim: reach.Claim, told: str) -> list[str]:
    """Return what keeps a superserver from starting identd, as far as its file tells."""
    try:
        words = shlex.split(claim.command)
    except ValueError:
        # An open quote. What the superserver makes of it is its own matter.
        return []
    if not words or "%" in claim.user:
        return []
    program = words[0].lstrip(_PREFIXES)
    at = next((at for at, word in enumerate(words) if os.path.basename(word) in _SCRIPTS), None)
    paths = [program] if at is None else [program, words[at]]
    found = [f"starts {path}, which is not there" for path in dict.fromkeys(paths) if _is_missing(path)]
    if at is not None and not found and _is_ours(words[at]):
        counts: list[str] = []
        try:
            # It prints what --help would.
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                counts = what_counts(read(words[at + 1 :]))
        except UsageError as error:
            found.append(f"gives identd an option that it can't obey: {error}")
        for text in counts:
            row("option", f"{claim.what} ({claim.path}): {text}")
    if not _exists(claim.user):
        found.append(f"runs identd as {claim.user}, and there is no such user")
    elif at is not None and not found and _may_become(claim.user) and claim.user != told and _is_ours(words[at]):
        unreadable, _, _ = installation.as_another(claim.user, None, [("Python", program)])
        if unreadable:
            found.append(f"runs identd as {claim.user}: {unreadable}")
    return found


def _may_become(user: str) -> bool:
    """Return whether we can try what a user can read; no uid without a login name."""
    return os.geteuid() == 0 and user not in ("", "root") and not user.isdecimal()


def _is_missing(path: str) -> bool:
    # systemd's specifiers and variables are its own matter.
    return os.path.isabs(path) and not re.search("[%$]", path) and not os.path.exists(path)


def _is_ours(script: str) -> bool:
    """Return whether a script starts this very installation, whose options we know."""
    real = os.path.realpath(script)
    # In a virtual environment it is bin/identd.
    return real == SCRIPT or SCRIPT.startswith(f"{os.path.dirname(os.path.dirname(real))}/")


def _exists(user: str) -> bool:
    """Return whether a user is known, by name or number; ``""``, which is root or made at the start, is."""
    try:
        return not user or user.isdecimal() or bool(pwd.getpwnam(user))
    except KeyError:
        return False
