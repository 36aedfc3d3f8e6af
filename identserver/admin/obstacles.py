"""What stands in the way of true answers on this host, and what helps?"""

from __future__ import annotations

import os

from lookup.errors import IdentError
from lookup.kernel import sock_diag
from lookup.user_namespace import owns_the_network, sees_every_uid
from lookup.users import names


def obstacles() -> list[tuple[str, str]]:
    """Return pairs of (what was found, what helps); an empty list when nothing was found."""
    found = []
    try:
        with sock_diag.SockDiag() as diag:
            if not diag.answers_for(6):
                remedy = "load the module tcp_diag; until then psutil answers, about our own user only"
                found.append(("the kernel has no sock_diag for TCP", remedy))
    except (sock_diag.SockDiagUnavailable, IdentError) as error:
        reason = getattr(error, "detail", "") or str(error)
        found.append((
            f"the kernel's sock_diag can't be asked: {reason}",
            "allow AF_NETLINK (RestrictAddressFamilies=, seccomp); until then psutil answers, about our own user only",
        ))  # fmt: skip
    except ImportError as error:
        remedy = "install it; until then psutil answers, about our own user only"
        found.append((f"pyroute2 can't be imported: {error}", remedy))
    if not sees_every_uid() and not owns_the_network():
        found.append((
            "a user namespace maps uids: owners outside it can't be named",
            "run identd outside it; in a systemd unit, leave PrivateUsers= out",
        ))  # fmt: skip
        return found
    uid = os.geteuid()
    if names.login(uid)[0] == "OTHER":
        found.append((
            f"uid {uid} has no login name: replies about it have OTHER and the number",
            "if it should have one, look at the passwd line of /etc/nsswitch.conf and at `getent passwd`",
        ))  # fmt: skip
    return found


def versions() -> str:
    """Return the versions of the interpreter and of the two packages, as text for a person."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {platform.python_version()}"]
    for package in ("pyroute2", "psutil"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)
