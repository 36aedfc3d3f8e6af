"""Do uids reach this process as they are?"""

from __future__ import annotations

#: The whole range of uids, as /proc/self/uid_map counts it in a process that sees every uid as it is.
_ALL_UIDS = 4294967295


def sees_every_uid() -> bool:
    """Return whether uids reach this process unmapped (user_namespaces(7), /proc/self/uid_map)."""
    try:
        with open("/proc/self/uid_map", "rb") as uid_map:
            return [int(field) for field in uid_map.read().split()] == [0, 0, _ALL_UIDS]
    except FileNotFoundError:
        import os

        # ENOENT: a kernel without user namespaces, where nothing is mapped; or no /proc that would show it.
        return os.path.exists("/proc/self")
    except OSError:
        # EACCES, EPERM: /proc is closed to us, so nothing shows that the uid is real.
        return False
