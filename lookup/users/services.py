"""Is it sure that there is no such user: does every service of nsswitch.conf say so?

The C library says "no such user" also where it could not ask: its last service alone decides, and some services hide
that they failed. So whoever is absent from it is asked for once more, at each service of nsswitch.conf(5) alone, and
only if each of them says no, there is no such user. Nothing is remembered here.

An action in brackets, which may end the search early, is not followed: more services are asked than need be.
"""

from __future__ import annotations

import os

from ..connection import IdentError

#: What the name service asks, and in which order (nsswitch.conf(5)).
NSSWITCH = "/etc/nsswitch.conf"

#: What counts on some distributions where an administrator has no such file.
_VENDORS = "/usr/etc/nsswitch.conf"

#: The user database (passwd(5)).
PASSWD = "/etc/passwd"

#: What musl asks about users who are not in `PASSWD`, in place of services; and the GNU C library before all of them.
_NSCD = "/var/run/nscd/socket"

#: Where a daemon listens whose library may say "no such user" when the daemon is down.
_DAEMONS = {b"sss": "/var/lib/sss/pipes/nss"}


def knows(user: bytes | int) -> bool:
    """Return whether any service knows a login name or a uid. May block as the name service does.

    :raises IdentError: one of them could not be asked.
    """
    if not is_glibc():
        return _musl_knows(user)
    try:
        return any(_service_knows(service, user) for service in listed() if not service.startswith(b"["))
    except ImportError as error:
        # There is no _ctypes, or these files are closed to us.
        raise IdentError(f"the name service can't be asked: {error}") from None


def listed() -> list[bytes]:
    """Return the services that know users, in order, with what stands between them in brackets, each as one word.

    :raises IdentError: nsswitch.conf can't be read, or names none.
    """
    data = b""  # the C library's default, where there is no file
    for path in (NSSWITCH, _VENDORS):
        try:
            data = read(path)
            break
        except FileNotFoundError:
            continue
        except OSError as error:
            # EACCES, EMFILE and the like: the name service may know more.
            raise IdentError(f"{path} can't be read: {error.strerror}") from None
    services: list[bytes] = []
    has_line = False
    # The first of several lines counts in an older C library, the last in a newer one.
    for line in data.split(b"\n"):
        statement = line.partition(b"#")[0].lstrip()
        rest = statement.removeprefix(b"passwd")
        # The C library takes white space for the colon, too.
        if rest != statement and not rest[:1].strip(b": \t\r\v\f"):
            has_line = True
            for part in rest[1:].replace(b"[", b"\n[").replace(b"]", b"]\n").split(b"\n"):
                services += [b"".join(part.split())] if part.startswith(b"[") else part.split()
    if has_line and not services:
        raise IdentError(f"{path} names no service for users")
    return services or [b"files"]


def prepare() -> None:
    """Import what this host's services need, for a process that may give up the right to read these files."""
    import contextlib

    with contextlib.suppress(IdentError, ImportError):
        for service in listed():
            if service == b"systemd":
                from . import userdb

                if userdb.is_spoken():
                    continue
            if service != b"files" and not service.startswith(b"["):
                from . import library  # noqa: F401


def read(path: str) -> bytes:
    """Return what a file holds. :raises OSError: it can't be read to its end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    finally:
        os.close(fd)


def connects(path: str) -> None:
    """Return if a daemon listens there. :raises OSError: none does, or that can't be found out."""
    import _socket as socket  # see lookup/connection.py; a pipe's queries do not even need that

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(1)
        connection.connect(path)
    finally:
        connection.close()


def is_glibc() -> bool:
    """Return whether the C library is the one that reads nsswitch.conf."""
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        # The name, or EINVAL: another C library does not have it.
        return False


def _musl_knows(user: bytes | int) -> bool:
    """Do as `knows`, where the C library is musl or another that does not read nsswitch.conf."""
    if _files_know(user):
        return True
    if not may_have_nscd():
        return False
    raise IdentError(f"this C library does not tell whether {_NSCD} knows no such user or failed")


def may_have_nscd() -> bool:
    """Return whether a daemon may answer in place of the services. :raises IdentError: that can't be seen."""
    try:
        os.stat(_NSCD)
    except (FileNotFoundError, NotADirectoryError):
        # ENOENT, ENOTDIR: there is nobody else to ask.
        return False
    except OSError as error:
        raise IdentError(f"{_NSCD} can't be looked for: {error.strerror}") from None
    return True


def _service_knows(service: bytes, user: bytes | int) -> bool:
    if service == b"files":
        return _files_know(user)
    if service == b"systemd":
        from . import userdb  # others do without

        # A systemd older than 245 has its own way to its users, which only its library knows.
        if userdb.is_spoken():
            return userdb.knows(user)
    from . import library  # 1 ms, which most queries do without

    if library.knows(service, user):
        return True
    daemon = _DAEMONS.get(service)
    if daemon:
        try:
            connects(daemon)
        except OSError as error:
            # ENOENT, ECONNREFUSED: it is down. EACCES, EMFILE, EAGAIN: it can't be asked.
            named = os.fsdecode(service)
            raise IdentError(f"the name service {named} can't be asked: {error.strerror or error}") from None
    return False


def _files_know(user: bytes | int) -> bool:
    """Return whether a line of the user database may be this user's: where in doubt, it is.

    Read here, as older C libraries take an error at a later block for the file's end.
    """
    try:
        data = read(PASSWD)
    except OSError as error:
        # ENOENT, too: the service "files" is listed, and has no file. EMFILE, ENFILE: out of descriptors.
        # EACCES: a sandbox.
        raise IdentError(f"{PASSWD} can't be read: {error.strerror}") from None
    if (user if isinstance(user, bytes) else b"%d" % user) not in data:
        return False
    # line = name ":" password ":" uid ":" gid ":" gecos ":" directory ":" shell
    entries = (line.split(b":") for line in data.split(b"\n"))
    return any(len(entry) > 2 and _is(user, entry[0].strip(), entry[2].strip()) for entry in entries)


def _is(user: bytes | int, name: bytes, uid: bytes) -> bool:
    if name.startswith(b"#"):
        return False
    return name == user if isinstance(user, bytes) else uid.isdigit() and int(uid) == user
