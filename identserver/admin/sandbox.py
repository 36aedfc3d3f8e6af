"""What does an identd see that runs within a unit's sandbox?

`unit` starts this there, as the unit's user, with a question on standard input, and reads what is printed. It makes no
connection of its own: a sandbox may well forbid that, and serve all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from lookup.config import sandbox
from lookup.connection import IdentError

from ..answer import LOOKUP_SECONDS
from . import fresh, installation, masquerade
from .files import check_files
from .needs import check_needs
from .obstacles import check_hindrances
from .printing import begin, finish

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options

#: Seconds for a fresh identd, apart from the lookup.
_SECONDS = 10.0


def look_from_within(options: Options) -> int:
    """Print as one JSON object what is seen here; return the exit status, 0.

    The question, JSON too, has ``addresses`` and ``query``, a connection that somebody holds outside, ``homes``, and
    ``denied``: whether the unit has IPAddressDeny=.
    """
    question = json.load(sys.stdin)
    begin(for_program=True)
    check_hindrances(within_a_unit=True)
    installation.tell(installation.look(options, for_others=False))
    reply, log = _ask(options, question["addresses"], question["query"])
    homes = {home: _seen(home) for home in question["homes"]}
    options.user = None  # whose file to read, elsewhere
    check_files(options)
    check_needs(options, question["denied"])
    masquerade.check_own(options)
    finish(reply=reply, log=log, homes=homes, uid=os.geteuid(), network=network())
    return 0


def _ask(options: Options, addresses: list[str], query: str) -> tuple[str, str]:
    """Have a fresh identd asked by hand about a connection; return its reply, and what it logs."""
    server, client = addresses
    command = [
        sys.executable, fresh.SCRIPT, "--stdio", "--debug", "--nosyslog", "--server-address", server,
        "--client-address", client,
    ]  # fmt: skip
    if options.requires_system_file:
        command += ["--config", options.system_file]
    for name, value in (("--user", options.user), ("--group", options.group)):
        command += [name, value] if value else []
    try:
        done = subprocess.run(
            command, input=f"{query}\r\n".encode(), capture_output=True, check=False,
            timeout=LOOKUP_SECONDS + _SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        # EACCES, EPERM: the sandbox lets nothing be started. EAGAIN: TasksMax=.
        return "", str(error)
    return done.stdout.decode("latin-1").rstrip("\r\n"), done.stderr.decode("ascii", "replace").rstrip("\n")


def network() -> list[int]:
    """Return what tells this process' network namespace from others; nothing: it can't be seen."""
    try:
        status = os.stat("/proc/self/ns/net")
    except OSError:
        # ENOENT, EACCES: no /proc.
        return []
    return [status.st_dev, status.st_ino]


def _seen(home: str) -> bool:
    """Return whether a home that is there outside is there for us as well, however far it is open to us."""
    try:
        if sandbox.hides(os.path.join(home, ".oidentd.conf"), home):
            return False
        os.stat(home)
    except PermissionError:
        # EACCES: a folder on the way is closed, which is no sandbox's doing.
        return True
    except (OSError, IdentError):
        # ENOENT, ENOTDIR: TemporaryFileSystem=/ without a line for it.
        return False
    return True
