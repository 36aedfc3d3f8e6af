"""Which capabilities has this process, and how does it keep a few of them and nothing else?

Only with --masquerade. See capabilities(7).
"""

from __future__ import annotations

import errno
import os
import struct

from lookup.kernel.unsynced import checked, function, room

#: What it takes to look behind NAT and into containers, by number (linux/capability.h).
NEEDED = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_PTRACE": 19, "CAP_DAC_READ_SEARCH": 2}

#: Those of them without which conntrack tells nothing; the others are for containers.
_FOR_NAT = "CAP_NET_ADMIN"

# linux/prctl.h
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 24, 28, 8, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

#: SECBIT_NOROOT, _NO_SETUID_FIXUP and _NO_CAP_AMBIENT_RAISE; these and _KEEP_CAPS are locked (linux/securebits.h).
_SECUREBITS = 0xEF

#: struct __user_cap_header_struct: version 3, this thread; and both struct __user_cap_data_struct, which have the lower
#: and the upper half of each set: effective, permitted, inheritable.
_HEADER = struct.pack("=Ii", 0x20080522, 0)
_SETS = struct.Struct("=6I")


def mask(*names: str) -> int:
    """Return capabilities as a set of bits; without names, all that are `NEEDED`."""
    return sum(1 << NEEDED[name] for name in names or NEEDED)


def held() -> int:
    """Return the capabilities that this thread may use, as a set of bits (capget(2)). :raises OSError: see there."""
    data = room(_SETS.size)
    checked("capget", _HEADER, data)
    _, low, _, _, high, _ = _SETS.unpack(bytes(data))
    return int(low | high << 32)


def lacking(having: int) -> list[str]:
    """Return which capabilities are missing and what for, as text, with what concerns all of it first.

    :param having: the capabilities that there are, as a set of bits.
    """
    missing = [name for name, number in NEEDED.items() if not having >> number & 1]
    found = []
    if _FOR_NAT in missing:
        missing.remove(_FOR_NAT)
        found.append(f"without {_FOR_NAT} conntrack tells nothing: nobody is found behind NAT or in a container")
    if missing:
        found.append(f"without {', '.join(missing)} no container (another network namespace) is looked into")
    return found


def suffice(having: int) -> bool:
    """Return whether capabilities are enough to look behind NAT at least."""
    return bool(having & mask(_FOR_NAT))


def keep_only(kept: int, ids: tuple[int, int] | None) -> None:
    """Become a user, keep some capabilities for good, and no way to any other. This process has one thread.

    :param kept: as a set of bits. :param ids: uid and gid; None: who we are.
    :raises OSError: the kernel refuses, or more is left.
    """
    # Where there is no CAP_SETPCAP, the next two do nothing (EPERM), and what comes after them does as well.
    prctl = function("prctl")
    number = 0
    while prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    prctl(_PR_SET_SECUREBITS, _SECUREBITS, 0, 0, 0)
    if ids is not None:
        # Refused where the bits above are locked, which keep them as well.
        prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        uid, gid = ids
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    checked("capset", _HEADER, _SETS.pack(low, low, 0, high, high, 0))
    # EINVAL: Linux before 4.3. With nothing to inherit, nothing is ambient.
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    no_new_privileges()
    if held() != kept or (ids is not None and (os.getresuid(), os.getresgid()) != ((ids[0],) * 3, (ids[1],) * 3)):
        raise OSError(errno.EPERM, "capabilities can't be given up")


def no_new_privileges() -> None:
    """Have no program that this process starts gain anything, for good. :raises OSError: never, from Linux 3.5 on."""
    checked("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
