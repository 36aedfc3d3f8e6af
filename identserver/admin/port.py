"""Who serves the port, is what they say true, and what may keep others from it?"""

from __future__ import annotations

from . import asking, listeners, reach, set_up
from .printing import row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from typing import Any

    from ..options import Options
    from .installation import Findings


def check_port(options: Options, port: int, installed: Findings | None = None) -> dict[str, Any]:
    """Print who serves a port, what that server says, and what may keep others from it; return that, for programs.

    :param installed: what was found of the installation; None: whoever calls looks at how the port is served.
    """
    found = listeners.listeners(port)
    for listener in found:
        row("listens", f"{listener.at} {listener.holder}")
    asked = asking.check_server(options, port, found, asking.own_addresses()) if found else []
    reach.check_addresses(found, any("error" not in one for one in asked))
    claims = reach.check_claims(port, bool(found))
    if installed is not None:
        set_up.check_set_up(port, found, installed)
    return {
        "listeners": [listener._asdict() for listener in found],
        "asked": asked,
        "claims": claims,
        "dropping": reach.check_packet_filter(port),
    }
