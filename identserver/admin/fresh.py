"""What does a fresh identd reply about a real connection, and is that true?"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time

from lookup.connection import IdentError
from lookup.users import names

from ..answer import LOOKUP_SECONDS
from .printing import WRONG, line_of_its_own, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from typing import Any

#: The script at the top of the installation, next to the package `identserver`.
SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "identd.py")

#: A system file under which the reply is the login name, whatever the owner's file says.
_LOGIN_NAMES_ONLY = b"default { default { force spoof } }"

#: Starts an identd that remains root.
_AS_ROOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from identserver import start; start.serve_for_root()"

#: Seconds that the fresh identd may take to start and to reply, apart from the lookup; and to end afterwards.
_START_SECONDS, _END_SECONDS = 2.0, 2.0


def check_answer(as_root: bool = False) -> dict[str, Any]:
    """Ask a fresh identd about a real connection; print what came of it, and return that.

    :param as_root: it remains root, because it could read nothing here as anybody else.
    """
    try:
        expected = ":".join(names.login(os.geteuid()))
    except IdentError as error:
        expected = f"unknown ({error.detail})"
    query, reply, log = "", "", ""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as asked_about,
        ):
            # This end is not needed: `asked_about` holds the connection that the query is about.
            listener.accept()[0].close()
            query = f"{asked_about.getsockname()[1]},{asked_about.getpeername()[1]}"
            began = time.monotonic()
            reply, log = _ask_a_fresh_identd(listener, query, as_root)
            took = time.monotonic() - began
    except OSError as error:
        # ENETUNREACH, EADDRNOTAVAIL: loopback is down. EMFILE, EAGAIN: a limit. EACCES: Python is closed to us.
        row("obstacle", f"no connection over loopback: {error.strerror or error}")
        row("", "try `ip link set lo up`")
        return {}
    source = re.search(r", uid [0-9]+, (\w+)", log)
    row("query", query)
    row("reply", reply or "none")
    row("source", source[1] if source else "none")
    row("time", f"{took * 1e3:.0f} ms, the start of a process included")
    if reply != f"{query}:USERID:{expected}":
        row("wrong", f"the owner of that connection is {expected}; the fresh identd logged:")
        for line in log.splitlines() or ["nothing"]:
            line_of_its_own(line, WRONG)
    return {
        "query": query,
        "reply": reply or None,
        "source": source[1] if source else None,
        "milliseconds": round(took * 1e3),
    }


def _ask_a_fresh_identd(listener: socket.socket, query: str, as_root: bool) -> tuple[str, str]:
    """Start identd on a connection of its own, ask it, and return its reply and what it wrote to standard error."""
    system, text = os.pipe()
    os.write(text, _LOGIN_NAMES_ONLY)
    os.close(text)
    how = ["-c", _AS_ROOT, os.path.dirname(SCRIPT)] if as_root else [SCRIPT]
    command = [sys.executable, *how, "--debug", "--nosyslog", "--config", f"/dev/fd/{system}"]
    with socket.create_connection(listener.getsockname()) as asker:
        with _accepted(listener, asker) as handed_over:
            process = subprocess.Popen(
                command, stdin=handed_over.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=[system],
            )  # fmt: skip
        os.close(system)
        reply = ask(asker, query)
        try:
            log = process.communicate(timeout=_END_SECONDS)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            log = process.communicate()[1]
    return reply, log.decode("ascii", "replace").rstrip("\n")


def _accepted(listener: socket.socket, asker: socket.socket) -> socket.socket:
    """Accept our own connection. Whoever else comes here is not talked to."""
    while True:
        accepted, address = listener.accept()
        if address == asker.getsockname():
            return accepted
        accepted.close()


def ask(asker: socket.socket, query: str) -> str:
    """Return the reply to a query, without its line end; ``""``: there is none in time."""
    end = time.monotonic() + LOOKUP_SECONDS + _START_SECONDS
    reply = b""
    try:
        asker.settimeout(LOOKUP_SECONDS + _START_SECONDS)
        asker.sendall(query.encode("ascii") + b"\r\n")
        while not reply.endswith(b"\n") and len(reply) < 4096 and (more := asker.recv(1024)):
            reply += more
            asker.settimeout(max(end - time.monotonic(), 0.001))
    except OSError:
        # ECONNRESET: the process died. A timeout: it hangs.
        return ""
    return reply.decode("latin-1").rstrip("\r\n")
