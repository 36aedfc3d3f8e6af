"""Which file has a superserver start this very installation?

The shipped files name /opt/identd. What is printed or written here is one of them, with the interpreter and the command
that run now in its place.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys

from lookup.connection import IdentError

from ..options import UsageError
from .fresh import SCRIPT

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..options import Options

#: What the shipped files start.
_INTERPRETER, _COMMAND = "/opt/identd/bin/python3", "/opt/identd/bin/identd"

#: Where each superserver looks for files of an administrator's; inetd has one for all its services.
_SYSTEMD, _XINETD = "/etc/systemd/system", "/etc/xinetd.d"

#: Where supervisors have their services, and what starts one; both of them keep a process that serves all queries.
_RUNIT, _OPENRC = "/etc/sv", "/etc/init.d"
_RUN = """#!/bin/sh
# identd under runit, one process for all queries. To start it: ln -s /etc/sv/identd /etc/service/
exec {interpreter} -I {command} --foreground 2>&1
"""
_INIT = """#!/sbin/openrc-run
# identd under OpenRC, one process for all queries. To start it: rc-update add identd; rc-service identd start
description="Ident server (RFC 1413)"
supervisor=supervise-daemon
command="{interpreter}"
command_args="-I {command} --foreground"

depend() {{
	need net
	use logger
}}
"""

#: What systemd and xinetd would take for something else in a path: blanks, quotes, their own signs.
_PLAIN = re.compile(r"[A-Za-z0-9_./+@,=:-]+")


def install_service(options: Options) -> int:
    """Print the files with which a superserver starts identd, or write them; return the exit status.

    :raises UsageError: no such superserver, or none whose file may be written. :raises IdentError: the shipped files
        are missing, or this installation's path can't stand in them. :raises OSError: a file can't be written.
    """
    files, then = _files(options.install_service or "", options.warm)
    if options.write and not files[0][0]:
        raise UsageError("--write: inetd.conf is shared with other services; add the line that is printed yourself")
    if options.write:
        # All of them, whether anybody reads what is printed or not.
        for path, text in files:
            _write(path, text)
        print(*(f"wrote {path}" for path, _ in files), f"now: {then}", sep="\n")
    else:
        for path, text in files:
            print((f"# {path}\n" if len(files) > 1 else "") + text, end="")
    return 0


def _files(kind: str, warm: bool) -> tuple[list[tuple[str, str]], str]:
    """Return the files for a superserver, each with its path (``""``: no file of its own), and what to do then."""
    interpreter, command = _running()
    if kind == "inetd":
        wait = "wait" if warm else "nowait.10000"
        return [("", f"113 stream tcp {wait} nobody {interpreter} {interpreter} -I {command}\n")], ""
    if kind in ("runit", "openrc"):
        path, text, then = {
            "runit": (f"{_RUNIT}/identd/run", _RUN, "ln -s /etc/sv/identd /etc/service/"),
            "openrc": (f"{_OPENRC}/identd", _INIT, "rc-update add identd; rc-service identd start"),
        }[kind]
        return [(path, text.format(interpreter=interpreter, command=command))], then
    if kind == "xinetd":
        return [(f"{_XINETD}/identd", _enabled(_shipped("xinetd.d/identd"), warm))], "have xinetd reload its files"
    if kind != "systemd":
        raise UsageError(f"--install-service takes systemd, xinetd, inetd, runit or openrc, not '{kind}'")
    service, socket = ("identd-wait.service", "identd-wait.socket") if warm else ("identd@.service", "identd.socket")
    files = [(f"{_SYSTEMD}/{name}", _without_install_lines(_shipped(f"systemd/{name}"))) for name in (socket, service)]
    other = "identd.socket" if warm else "identd-wait.socket"
    return files, f"systemctl daemon-reload; systemctl disable {other}; systemctl enable --now {socket}"


def _running() -> tuple[str, str]:
    """Return the interpreter and the command that run now. :raises IdentError: they can't stand in such a file."""
    command = os.path.realpath(sys.argv[0])
    if os.path.basename(command) not in ("identd", "identd.py") or not os.path.isfile(command):
        command = SCRIPT
    found = os.path.abspath(sys.executable), command
    for path in found:
        if not _PLAIN.fullmatch(path):
            raise IdentError(f"{path!r} has characters that superservers take for something else: install elsewhere")
    return found


def _shipped(name: str) -> str:
    """Return a shipped file, for this installation. :raises IdentError: it is not there."""
    interpreter, command = _running()
    for folder in _folders():
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            continue  # ENOENT, ENOTDIR: it is in another of them
        return text.replace(_INTERPRETER, interpreter).replace(_COMMAND, command)
    raise IdentError(f"{name} is in none of {', '.join(_folders())}: this installation is not whole")


def _folders(of: str = "identd") -> Iterator[str]:
    """Yield where the shipped files may be: beside identd.py, or in PREFIX/share of PREFIX/lib/pythonX.Y/…-packages."""
    top = os.path.dirname(SCRIPT)
    yield top
    yield os.path.normpath(os.path.join(top, "..", "..", "..", "share", of))
    yield os.path.join(sys.prefix, "share", of)


def shipped(name: str) -> str:
    """Return the path of a shipped file; its name, where this installation does not have it."""
    paths = (os.path.join(folder, name) for folder in _folders())
    return next(filter(os.path.isfile, paths), name)


def page(name: str) -> str:
    """Return the path of a page of the documentation, or the manual page that there is everywhere."""
    beside, *others = _folders("doc/identd")
    # A package may have compressed it.
    found = [os.path.join(folder, name) + end for folder in (f"{beside}/docs", *others) for end in ("", ".gz")]
    return next((path for path in found if os.path.isfile(path)), "identd(8)")


def _enabled(text: str, warm: bool) -> str:
    """Return xinetd's file with one of its two services enabled, and without its first line, which says to copy it."""
    blocks = text.partition("\n")[2].split("\nservice ")
    wanted = "identd-wait" if warm else "identd"
    for at, block in enumerate(blocks[1:], 1):
        answer = "no" if block.startswith(f"{wanted}\n") else "yes"
        blocks[at] = re.sub(r"(\tdisable\t+= )\w+", rf"\g<1>{answer}", block)
    return "\nservice ".join(blocks)


def _without_install_lines(text: str) -> str:
    return re.sub(r"^# To install.*\n(?:#.*\n)*", "", text, flags=re.MULTILINE)


def _write(path: str, text: str) -> None:
    """Write a file as a whole. :raises OSError: EACCES, EROFS: we may not. ENOENT: there is no such superserver."""
    new = f"{path}.new"
    try:
        if path.startswith(f"{_RUNIT}/"):
            # A service of runit's is a folder; without /etc/sv there is no runit: ENOENT.
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.dirname(path))
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o755 if text.startswith("#!") else 0o644)
        os.rename(new, path)
    except OSError:
        if os.path.exists(new):
            os.unlink(new)
        raise
