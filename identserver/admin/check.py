"""Does a query get a true answer on this host?"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
import time

from lookup.errors import IdentError
from lookup.users import names

from .. import __version__
from ..answer import LOOKUP_SECONDS
from .files import check_files
from .obstacles import obstacles, versions
from .printing import show

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options

#: The script at the top of the installation, next to the package `identserver`.
_SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "identd.py")

#: A system file under which the reply is the login name, whatever the owner's file says.
_LOGIN_NAMES_ONLY = b"default { default { force spoof } }"

#: Seconds that the fresh identd may take to start and to reply, apart from the lookup; and to end afterwards.
_START_SECONDS, _END_SECONDS = 2.0, 2.0


def check(options: Options) -> int:
    """Show that a query gets a true answer here, list what is wrong with the files; return the exit status."""
    show(f"identd {__version__}, {versions()}, {platform.system()} {platform.release()}")
    answer_is_true = check_answer()
    # Last, because with --user it may give up root for good.
    files_are_right = check_files(options)
    show("the answer is true" if answer_is_true else "no true answer")
    return 0 if files_are_right and answer_is_true else 1


def check_answer() -> bool:
    """Ask a fresh identd about a real connection; print what came of it, and what stands in the way of true answers."""
    try:
        expected = ":".join(names.login(os.geteuid()))
    except IdentError as error:
        expected = f"unknown ({error.detail})"
    query, reply, log = "", "", ""
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(
            listener.getsockname()
        ) as asked_about:
            # This end is not needed: `asked_about` holds the connection that the query is about.
            listener.accept()[0].close()
            query = f"{asked_about.getsockname()[1]},{asked_about.getpeername()[1]}"
            began = time.monotonic()
            reply, log = _ask_a_fresh_identd(listener, query)
            took = time.monotonic() - began
    except OSError as error:
        # ENETUNREACH, EADDRNOTAVAIL: loopback is down. EMFILE, EAGAIN: a limit. EACCES: Python is closed to us.
        show(f"obstacle: no connection over loopback: {error.strerror or error}")
        show("          try `ip link set lo up`")
    else:
        source = re.search(r", uid [0-9]+, (\w+)", log)
        show(f"query    {query}")
        show(f"reply    {reply or 'none'}")
        show(f"source   {source[1] if source else 'none'}")
        show(f"time     {took * 1e3:.0f} ms, the start of a process included")
    is_true = bool(query) and reply == f"{query}:USERID:{expected}"
    for obstacle, remedy in obstacles():
        show(f"obstacle: {obstacle}")
        show(f"          {remedy}")
    if query and not is_true:
        show(f"wrong: the owner of that connection is {expected}; the fresh identd logged:")
        for line in log.splitlines() or ["nothing"]:
            show(line)
    return is_true


def _ask_a_fresh_identd(listener: socket.socket, query: str) -> tuple[str, str]:
    """Start identd on a connection of its own, ask it, and return its reply and what it wrote to standard error."""
    system, text = os.pipe()
    os.write(text, _LOGIN_NAMES_ONLY)
    os.close(text)
    command = [sys.executable, _SCRIPT, "--debug", "--nosyslog", "--config", f"/dev/fd/{system}"]
    with socket.create_connection(listener.getsockname()) as asker:
        with listener.accept()[0] as handed_over:
            process = subprocess.Popen(
                command, stdin=handed_over.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=[system],
            )  # fmt: skip
        os.close(system)
        reply = _ask(asker, query)
        try:
            log = process.communicate(timeout=_END_SECONDS)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            log = process.communicate()[1]
    return reply, log.decode("ascii", "replace").rstrip("\n")


def _ask(asker: socket.socket, query: str) -> str:
    """Return the reply to a query, without its line end; ``""``: there is none."""
    asker.settimeout(LOOKUP_SECONDS + _START_SECONDS)
    reply = b""
    try:
        asker.sendall(query.encode("ascii") + b"\r\n")
        while not reply.endswith(b"\n") and (more := asker.recv(1024)):
            reply += more
    except OSError:
        # ECONNRESET: the process died. A timeout: it hangs.
        return ""
    return reply.decode("latin-1").rstrip("\r\n")
