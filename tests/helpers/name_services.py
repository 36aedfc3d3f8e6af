"""What does the name service ask in a test?  Its own nsswitch.conf, libraries, and daemons that answer or are down."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.machine import NOBODY, only_root, program, skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[[socket.socket], None]

#: Where CI has unpacked libnss-ldapd and libnss-sss, which would change this host's nsswitch.conf if installed.
_UNPACKED = os.environ.get("IDENTD_NSS_LIBRARIES", "")

_SCRIPT = """
    set -e
    mount --bind '{0}/nsswitch.conf' /etc/nsswitch.conf
    mount --bind '{0}/passwd' /etc/passwd
    mount -t tmpfs -o mode=755 none /run
    mkdir /run/nslcd /run/systemd /run/systemd/userdb
    mount -t tmpfs -o mode=755 none /var/lib
    mkdir -p /var/lib/sss/pipes
    mount --bind '{0}/nslcd' /run/nslcd
    mount --bind '{0}/userdb' /run/systemd/userdb
    mount --bind '{0}/sss' /var/lib/sss/pipes
    {1}
    exec setpriv --reuid={2} --regid={2} --clear-groups "$@"
"""


def asking(folder: Path, line: str, more: str = "") -> list[str]:
    """Return the words to put before a command, for it to run as nobody with a name service of its own.

    :param folder: that nobody may search; the daemons' sockets are in ``nslcd``, ``sss`` and ``userdb`` there.
    :param line: the services. :param more: shell commands to run first.
    """
    only_root()
    program("setpriv")
    (folder / "nsswitch.conf").write_text(f"passwd: {line}\n")
    (folder / "passwd").write_bytes(Path("/etc/passwd").read_bytes())
    for daemon in ("nslcd", "sss", "userdb"):
        (folder / daemon).mkdir(exist_ok=True)
    found = [
        name for name in line.split()
        if name in ("ldap", "sss") and not list(Path("/").glob(f"usr/lib*/**/libnss_{name}.so.2")) and not libraries()
    ]  # fmt: skip
    if found:
        skip(f"needs the library of {', '.join(found)} (libnss-ldapd, libnss-sss)")
    paths = f"LD_LIBRARY_PATH={libraries()}"
    return [
        program("unshare"), "-m", "sh", "-c", _SCRIPT.format(folder, more, NOBODY), "sh", program("env"), paths
    ]  # fmt: skip


def libraries() -> str:
    """Return the folder with the libraries that are not installed, or ``""``."""
    for path in sorted(Path(_UNPACKED).glob("**/libnss_*.so.2")) if _UNPACKED else ():
        return str(path.parent)
    return ""


@contextlib.contextmanager
def daemon(path: Path, serve: Serve) -> Iterator[None]:
    """Answer on a socket: each connection gets a thread."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=_answer, args=(listener.accept()[0], serve), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _answer(connection: socket.socket, serve: Serve) -> None:
    with connection, contextlib.suppress(OSError, struct.error):
        serve(connection)


def nslcd_without_users(connection: socket.socket) -> None:
    """Do as nslcd(8), whose LDAP server answers that it has no such user."""
    version, action = struct.unpack(">ii", connection.recv(8, socket.MSG_WAITALL))
    connection.recv(4096)
    connection.sendall(struct.pack(">iii", version, action, 2))


def nslcd_without_server(connection: socket.socket) -> None:
    """Do as nslcd(8), whose LDAP server is down: it ends the connection without a result."""
    connection.recv(4096)


def sssd_without_users(connection: socket.socket) -> None:
    """Do as sssd(8), which has no such user."""
    while True:
        length, command, _, _ = struct.unpack("=4I", connection.recv(16, socket.MSG_WAITALL))
        connection.recv(length - 16, socket.MSG_WAITALL)
        # SSS_GET_VERSION; otherwise, the number of entries.
        body = struct.pack("=I", 1) if command == 1 else struct.pack("=II", 0, 0)
        connection.sendall(struct.pack("=4I", 16 + len(body), command, 0, 0) + body)


def userdb(reply: bytes) -> Serve:
    """Return what answers each varlink call with the same octets."""

    def serve(connection: socket.socket) -> None:
        call = b""
        while not call.endswith(b"\0"):
            call += connection.recv(4096)
        connection.sendall(reply)

    return serve


#: What a service of systemd's says of who is nobody there, and what it says when it fails.
NO_RECORD = b'{"error":"io.systemd.UserDatabase.NoRecordFound","parameters":{}}\0'
FAILS = b'{"error":"io.systemd.UserDatabase.ServiceNotAvailable","parameters":{}}\0'
