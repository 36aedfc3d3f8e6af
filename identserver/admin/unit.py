"""Does a systemd unit's sandbox leave true answers possible?

A copy of the unit's [Service] section, with its drop-ins, is started under another name with identd's own check for
its command. So every setting counts as systemd understands it, and the unit itself is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile

from lookup.config.user_file import FILES
from lookup.connection import IdentError

from ..options import Options, UsageError, read
from . import asking
from .fresh import SCRIPT
from .installation import closed_to_others
from .listeners import properties
from .port import check_port
from .printing import WARNING, WRONG, line_of_its_own, row
from .sandbox import network

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from typing import Any

#: Where units live until the next boot (systemd.unit(5)).
_RUNTIME = "/run/systemd/system"

#: Seconds in which the copy must have started, looked around and ended.
_SECONDS = 60

#: What comes last in the copy. What else the unit does when it starts or ends is left out; its directories in /run and
#: elsewhere are its own, and are not touched.
_REPLACED = """
[Service]
Type=oneshot
ExecCondition=
ExecStartPre=
ExecStart=
ExecStart={command}
ExecStartPost=
ExecStop=
ExecStopPost=
Restart=no
RemainAfterExit=no
PIDFile=
BusName=
Sockets=
RuntimeDirectory=
StateDirectory=
CacheDirectory=
LogsDirectory=
ConfigurationDirectory=
WatchdogSec=0
TimeoutStartSec={seconds}
StandardInput=file:{folder}/question
StandardOutput=file:{folder}/answer
StandardError=file:{folder}/error
"""

#: Users from here on are people (login.defs(5)).
_FIRST_PERSON = 1000

#: What identd's script is called.
_SCRIPTS = ("identd", "identd.py")

#: Exit statuses of systemd's own (systemd.exec(5)).
_STATUSES = {
    "200": "its working directory is not there", "203": "it can't be executed", "217": "there is no such user",
    "216": "there is no such group", "226": "its sandbox can't be set up (namespaces)", "228": "seccomp",
}  # fmt: skip

#: What is asked of the unit.
_PROPERTIES = ("Id", "LoadState", "FragmentPath", "DropInPaths", "TriggeredBy", "User", "IPAddressDeny")

#: How many users are looked at.
_MOST_USERS = 10000


def check_unit(options: Options, name: str) -> dict[str, Any]:
    """Print what an identd finds within a unit's sandbox, and what its socket says; return that, for programs.

    :raises IdentError: that can't be found out here.
    """
    if os.geteuid() != 0:
        raise IdentError("--unit starts a copy of the unit, which only root may")
    unit = properties(_service_of(name), *_PROPERTIES)
    if unit.get("LoadState") != "loaded" or not unit.get("FragmentPath"):
        raise IdentError(_no_unit(name, unit.get("LoadState", "")))
    files = [unit["FragmentPath"], *unit.get("DropInPaths", "").split()]
    settings = "".join(map(_service_section, files))
    command = _command(settings)
    ours = _identd_in(command)
    row("unit", f"{unit['Id']}, user {unit.get('User') or 'root'}, from {', '.join(files)}")
    own = _own_options(options, command)
    if not ours:
        row("unit", f"{os.path.basename(command.split()[0])} is another server: this identd looks around in its place")
    within = _look_from_within(settings, ours, own, bool(unit.get("IPAddressDeny")))
    port = _port(options, unit)
    return {"unit": unit["Id"], "within": within, **check_port(own, port)}


def _no_unit(name: str, state: str) -> str:
    """Return why a unit can't be started, by the state that systemd has it in (``LoadState``; ``""``: no answer)."""
    if state in ("bad-setting", "error"):
        return f"systemd can't read the unit {name} ({state}): `systemctl status {name}` says why"
    if state == "masked":
        return f"the unit {name} is masked: `systemctl unmask {name}`"
    return f"systemd has no unit {name} ({state or 'it does not answer'})"


def _service_of(name: str) -> str:
    """Return the service that a name stands for: a template's instance, a socket's service."""
    if name.endswith(".socket"):
        stem = name.rpartition(".")[0]
        accepts = properties(name, "Accept").get("Accept") == "yes"
        return f"{stem}@check.service" if accepts else properties(name, "Triggers").get("Triggers") or f"{stem}.service"
    if not name.endswith(".service"):
        name += ".service"
    return name.replace("@.service", "@check.service")


def _service_section(path: str) -> str:
    """Return what a unit's file says in its [Service] sections, as a section of its own.

    Its dependencies must not be started with a copy.
    """
    kept, section, goes_on = [], "", False
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                heading = re.fullmatch(r"\[(.+)\]\s*", line)
                if heading and not goes_on:
                    section = heading[1]
                elif section == "Service":
                    kept.append(line)
                goes_on = line.rstrip("\n").endswith("\\")
    except OSError as error:
        # ENOENT: it has just gone.
        raise IdentError(f"{path}: {error.strerror}") from None
    return "[Service]\n" + "".join(kept) + "\n"


def _command(settings: str) -> str:
    """Return a service's command line as its files have it. :raises IdentError: there is none."""
    command = ""
    joined = re.sub(r"\\\n", " ", settings)
    for value in re.findall(r"^[ \t]*ExecStart[ \t]*=[ \t]*(.*?)[ \t]*$", joined, re.MULTILINE):
        command = value
    if not command:
        raise IdentError("the unit has no ExecStart=")
    return command


def _identd_in(command: str) -> str:
    """Return the part of a command line that starts identd, its options with it; ``""``: it starts something else."""
    try:
        words = shlex.split(command)
    except ValueError:
        # An open quote. systemd quotes otherwise than a shell now and then.
        words = []
    if any(os.path.basename(word) in _SCRIPTS for word in words[:1]) or (
        words and os.path.basename(words[0]).startswith("python")
    ):
        return command
    # A shell starts it, as in Debian's units for oidentd.
    found = re.search(r"(?:[\w./-]*/python[\d.]*\s+(?:-\w+\s+)*)?[\w./-]*/identd(?:\.py)?(?=[\s\"']|$)", command)
    return found[0] if found else ""


def _own_options(options: Options, command: str) -> Options:
    """Return the options that the unit's command line has, as far as they can be read, with those of ours."""
    try:
        words = shlex.split(command)
        first = next(at for at, word in enumerate(words) if os.path.basename(word) in _SCRIPTS)
        own = read(words[first + 1 :])
    except (ValueError, StopIteration, UsageError, SystemExit):
        # An open quote, another program, options of another version: what is started says what is wrong.
        own = Options()
    if options.config is not None:
        own.config = options.config
    return own


def _look_from_within(settings: str, command: str, own: Options, denied: bool) -> dict[str, Any]:
    """Start the copy, ask it about a connection that is made out here, and print what it found; return that.

    :param command: what starts identd there; ``""``: this identd has to do.
    :param denied: whether the unit has IPAddressDeny=.
    """
    homes = _homes()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(
        listener.getsockname()
    ) as asked_about:
        query = f"{asked_about.getsockname()[1]},{listener.getsockname()[1]}"
        question = {"addresses": ["127.0.0.1"] * 2, "query": query, "homes": list(homes), "denied": denied}
        started = command or f"{sys.executable} {SCRIPT}"
        said, error = _started(settings, f"{started} --check --json --stdio", question)
        try:
            within: dict[str, Any] = json.loads(said)
        except ValueError:
            why = _closed(started) or error or "it says nothing"
            # Where it is another server that runs there, its own answers count.
            row("unit", f"identd can't be run there by `{started}`: {why}", WRONG if command else WARNING)
            return {"error": why}
        for one in within["rows"]:
            row(one["label"], one["text"], one["severity"])
        if within["network"] != network():
            row("obstacle", "the unit has a network of its own: the host's connections can't be seen there")
            row("", "leave PrivateNetwork=, NetworkNamespacePath= and JoinsNamespaceOf= out")
        expected = asking.expected_replies(own, "127.0.0.1", query)
    row("within", f"a fresh identd says {within['reply'] or 'nothing'}")
    within["right"] = asking.fits(within["reply"], expected)
    if not within["right"]:
        row("wrong", f"it should say {' or '.join(expected)}; it logged:")
        for line in within["log"].splitlines() or ["nothing"]:
            line_of_its_own(line, WRONG)
    _tell_hidden_homes([home for home, seen in within["homes"].items() if not seen], homes, own)
    return within


def _closed(command: str) -> str:
    """Return what keeps users without rights from a program; ``""``: nothing that modes tell."""
    program = command.split()[0].lstrip("@-:+!")
    return closed_to_others(program) if os.path.exists(program) else ""


def _homes() -> dict[str, bool]:
    """Return the homes that are there, and whether identd would read a file in them."""
    found: dict[str, bool] = {}
    for _, entry in zip(range(_MOST_USERS), pwd.getpwall()):
        has_file = any(os.path.isfile(os.path.join(entry.pw_dir, name)) for name in FILES)
        if has_file or (entry.pw_uid >= _FIRST_PERSON and os.path.isdir(entry.pw_dir) and entry.pw_dir != "/"):
            found[entry.pw_dir] = found.get(entry.pw_dir, False) or has_file
    return found


def _tell_hidden_homes(hidden: list[str], homes: dict[str, bool], own: Options) -> None:
    """Print which homes the unit hides: a user's `hide` in there would be lost."""
    with_files = [home for home in hidden if homes[home]]
    # Without a system file nobody's file counts.
    counts = os.path.exists(own.system_file)
    folders = ", ".join(sorted({os.path.dirname(home) or "/" for home in with_files or hidden}))
    remedy = "ProtectHome=read-only, and a line BindReadOnlyPaths= for each folder of homes"
    if with_files and counts:
        who = "1 user" if len(with_files) == 1 else f"{len(with_files)} users"
        row("obstacle", f"the unit hides the files of {who}, in {folders}")
        row("", f"give it {remedy}")
    elif hidden:
        row("homes", f"the unit does not show the homes in {folders}: no file is read there ({remedy})", WARNING)


def _started(settings: str, command: str, question: dict[str, Any]) -> tuple[str, str]:
    """Start a copy of a unit with another command, wait for its end; return its standard output and its last error."""
    name = f"identd-check-{os.getpid()}.service"
    drop_in = os.path.join(_RUNTIME, f"{name}.d")
    folder = tempfile.mkdtemp(prefix="identd-check-", dir="/run")
    try:
        _write(os.path.join(folder, "question"), json.dumps(question))
        os.makedirs(drop_in)
        _write(os.path.join(_RUNTIME, name), settings)
        _write(os.path.join(drop_in, "zz.conf"), _REPLACED.format(command=command, seconds=_SECONDS, folder=folder))
        status = _systemctl("daemon-reload") or _systemctl("start", name)
        said, error = (_content(os.path.join(folder, one)) for one in ("answer", "error"))
        if status:
            number = properties(name, "ExecMainStatus").get("ExecMainStatus", "")
            status = _STATUSES.get(number, status)
        return said, error.strip().rpartition("\n")[2] or status
    finally:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(_RUNTIME, name))
        for path in (drop_in, folder):
            shutil.rmtree(path, ignore_errors=True)
        _systemctl("reset-failed", name)
        _systemctl("daemon-reload")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        # ENOENT: it was never started.
        return ""


def _systemctl(*arguments: str) -> str:
    """Have systemd do something; return why it did not."""
    try:
        done = subprocess.run(
            ["systemctl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False,
            encoding="utf-8", errors="replace", timeout=_SECONDS + 30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        # ENOENT: there is no systemctl.
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip().partition("\n")[0] or f"status {done.returncode}"


def _port(options: Options, unit: dict[str, str]) -> int:
    """Return the port that a unit's socket listens on, and say if it does not."""
    stem = re.sub(r"(@.*)?\.service$", "", unit["Id"])
    for name in [*unit.get("TriggeredBy", "").split(), f"{stem}.socket"]:
        shown = properties(name, "LoadState", "ActiveState", "Listen")
        ports = re.findall(r":(\d+) \(Stream\)", shown.get("Listen", ""))
        if shown.get("LoadState") == "loaded" and ports:
            if shown.get("ActiveState") != "active":
                row("port", f"{name} is not started, nobody listens for it", WARNING)
            return int(ports[0])
    return options.port
