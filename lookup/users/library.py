"""Does one service (LDAP, say) have no such user, or could it not be asked, as its own library says?

Each service of nsswitch.conf(5) has a library that the C library asks. It says what the C library keeps to itself:
whether the service has no such user, or could not be asked.
"""

from __future__ import annotations

import errno
import os

# What ctypes itself stands on: that would take 6 ms more.
from _ctypes import FUNCFLAG_CDECL, Array, CFuncPtr, _SimpleCData, byref, dlopen, dlsym

from ..connection import IdentError
from .services import read

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from typing import Any

#: What a library returns (enum nss_status in nss.h).
_NOT_FOUND, _SUCCESS = 0, 1

#: Where the C library finds libraries: a list made by ldconfig(8).
_CACHE = "/etc/ld.so.cache"

#: Octets for an entry: a struct passwd, and the texts that it points to. An entry that needs more is no answer.
_STRUCT, _TEXTS = 256, 65536

# Declared as ctypes would: an int, a uid_t, a size_t, a char *, and room for an entry.
_Int = type("_Int", (_SimpleCData,), {"_type_": "i"})
_Uid = type("_Uid", (_SimpleCData,), {"_type_": "I"})
_Size = type("_Size", (_SimpleCData,), {"_type_": "L"})
_Name = type("_Name", (_SimpleCData,), {"_type_": "z"})
_Octet = type("_Octet", (_SimpleCData,), {"_type_": "B"})
_Struct = type("_Struct", (Array,), {"_type_": _Octet, "_length_": _STRUCT})
_Texts = type("_Texts", (Array,), {"_type_": _Octet, "_length_": _TEXTS})
_Function = type("_Function", (CFuncPtr,), {"_flags_": FUNCFLAG_CDECL, "_restype_": _Int})

#: The functions that were looked for, by service and what they do. They stay until the process ends, as in the C
#: library: an administrator who replaces a library starts identd again.
_functions: dict[tuple[bytes, str], Any] = {}


def knows(service: bytes, user: bytes | int) -> bool:
    """Return whether a service knows a login name or a uid. May block as the service does.

    :raises IdentError: it could not be asked.
    """
    key = service, "getpwnam_r" if isinstance(user, bytes) else "getpwuid_r"
    function = _functions.get(key) or _find(*key)
    if function is None:
        return False
    _functions[key] = function
    number = _Int(0)
    # enum nss_status _nss_SERVICE_getpwnam_r(const char *name, struct passwd *result, char *buffer, size_t buflen,
    #                                         int *errnop); _nss_SERVICE_getpwuid_r(uid_t uid, ...
    argument = _Name(user) if isinstance(user, bytes) else _Uid(user)
    status = function(argument, _Struct(), _Texts(), _Size(_TEXTS), byref(number))
    if status == _SUCCESS:
        return True
    if status == _NOT_FOUND:
        return False
    # NSS_STATUS_UNAVAIL: its daemon or file can't be had. NSS_STATUS_TRYAGAIN: it is out of something; with ERANGE, the
    # entry is longer than `_TEXTS`.
    raise _cannot_be_asked(service, os.strerror(number.value) if number.value else "it is not available")


def _cannot_be_asked(service: bytes, why: object) -> IdentError:
    return IdentError(f"the name service {os.fsdecode(service)} can't be asked: {why}")


def _find(service: bytes, asks: str) -> Any:
    """Return a service's function, or None where its library is not installed. :raises IdentError: nobody can tell."""
    name = os.fsdecode(service)
    library = f"libnss_{name}.so.2"
    try:
        handle = dlopen(library, os.RTLD_NOW)
    except OSError as error:
        if _is_missing(library, str(error)):
            return None
        raise _cannot_be_asked(service, error) from None
    try:
        return _Function(dlsym(handle, f"_nss_{name}_{asks}"))
    except OSError as error:
        raise _cannot_be_asked(service, error) from None


def _is_missing(library: str, error: str) -> bool:
    """Return whether a library is not installed, so that the C library has nobody to ask either.

    The error alone proves nothing: it tells about the last place where the library was looked for.
    """
    if not error.endswith(os.strerror(errno.ENOENT)):
        return False
    try:
        return library.encode() not in read(_CACHE)
    except OSError:
        # ENOENT: nothing shows which libraries there are. EMFILE and the like: it can't be read.
        return False
