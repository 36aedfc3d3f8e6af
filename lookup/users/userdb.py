"""Do systemd's user database services know a user?

Their library (nss-systemd) says "no such user" also where it had no descriptor left to ask them. So each service is
asked here, as https://systemd.io/USER_GROUP_API describes it: a varlink call, one JSON object that a NUL ends. What
does not come from a service stands in a file of its own (nss-systemd(8), DROP-IN).
"""

from __future__ import annotations

import _socket as socket  # see lookup/connection.py
import errno
import os

from ..connection import IdentError

#: Where each service has its socket, of its own name. Who starts systemd has the second folder.
_SERVICES, _BOOTED = "/run/systemd/userdb", "/run/systemd/system"

#: Those that only pass on what others say: the other services, the name service, or the files.
_PASS_ON = ("io.systemd.Multiplexer", "io.systemd.NameServiceSwitch", "io.systemd.DropIn")

#: Where there may be files about users.
_FOLDERS = (
    "/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/local/lib/userdb", "/usr/lib/userdb", "/lib/userdb",
)  # fmt: skip

#: What ends with the last of its users (systemd-machined.service(8)), and leaves its socket behind.
_ENDS = "io.systemd.Machine"

#: Octets of a reply, and seconds that a service may take for each of its parts.
_MAX_REPLY, _SECONDS = 1 << 20, 2.0

_NOBODY = b'"io.systemd.UserDatabase.NoRecordFound"'


def is_spoken() -> bool:
    """Return whether this host's systemd answers such calls, or none runs. :raises IdentError: it can't be seen."""
    return _exists(_SERVICES) or not _exists(_BOOTED)


def is_empty() -> bool:
    """Return whether no service and no file has any user at all: with their library, some hosts have no systemd.

    Such a library has names that it makes up all the same: see `makes_up`.

    :raises IdentError: it can't be seen.
    """
    if not is_spoken():
        return False
    if any(_listed(folder) for folder in _FOLDERS):
        return False
    return all(name in _PASS_ON or name.startswith(".") for name in _listed(_SERVICES))


def makes_up(name: bytes) -> bool:
    """Return whether the library may know a name that neither a service nor a file has."""
    return name in (b"root", b"nobody", b"nfsnobody") or name.startswith(b"foreign-")


def knows(user: bytes | int) -> bool:
    """Return whether a service or a file knows a login name or a uid. May block as the services do.

    :raises IdentError: one of them could not be asked.
    """
    if isinstance(user, bytes) and not _may_be_a_name(user):
        return False
    text = user if isinstance(user, bytes) else b"%d" % user
    if any(_exists(f"{folder}/{os.fsdecode(text)}.user") for folder in _FOLDERS):
        return True
    services = [name for name in _listed(_SERVICES) if name not in _PASS_ON and not name.startswith(".")]
    return any(_service_knows(name, user) for name in services)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        # ENOENT, ENOTDIR: systemd does not run here, or nobody has put a file there.
        return []
    except OSError as error:
        # EACCES: a sandbox. EMFILE, ENFILE: out of descriptors.
        raise IdentError(f"{folder} can't be read: {error.strerror}") from None


def _may_be_a_name(name: bytes) -> bool:
    """Return whether systemd would ask for this name: what it calls the relaxed syntax (systemd.io/USER_NAMES)."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return text.strip(" ") != "" and not any(sign < " " or sign in "\x7f:/" for sign in text)


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        # ENOENT, ENOTDIR.
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            # No file has this name.
            return False
        # EACCES: a sandbox, or a folder that is closed to us. EIO, ELOOP, ENOMEM.
        raise IdentError(f"{path} can't be looked for: {error.strerror}") from None
    return True


def _service_knows(service: str, user: bytes | int) -> bool:
    if isinstance(user, bytes):
        wanted = b'"userName":"%b"' % user.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    else:
        wanted = b'"uid":%d' % user
    call = b'{"method":"io.systemd.UserDatabase.GetUserRecord","parameters":{%b,"service":"%b"}}\0' % (
        wanted,
        os.fsencode(service),
    )
    try:
        reply = _ask(f"{_SERVICES}/{service}", call)
    except OSError as error:
        if isinstance(error, ConnectionRefusedError) and service == _ENDS:
            return False
        # ENOENT, ECONNREFUSED: it is down. EACCES, EMFILE: it can't be asked. Or it is silent.
        raise IdentError(f"the name service {service} can't be asked: {error.strerror or error}") from None
    if reply.endswith(b"\0") and b'"error"' not in reply:
        return True
    if reply.endswith(b"\0") and _NOBODY in reply.replace(b" ", b""):
        return False
    raise IdentError(f"the name service {service} failed: {ascii(reply[:200])[2:-1]}")


def _ask(path: str, call: bytes) -> bytes:
    """Return the reply to a varlink call, with the NUL that ends it unless it is cut. :raises OSError: none comes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_SECONDS)
        connection.connect(path)
        connection.sendall(call)
        reply = b""
        while not reply.endswith(b"\0") and len(reply) < _MAX_REPLY:
            received = connection.recv(65536)
            if not received:
                break
            reply += received
        return reply
    finally:
        connection.close()
