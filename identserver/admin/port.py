"""Who serves the port, is what they say true, and what may keep others from it?"""

from __future__ import annotations

from . import asking, listeners, reach
from .printing import row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from typing import Any

    from ..options import Options


def check_port(options: Options, port: int) -> dict[str, Any]:
    """Print who serves a port, what that server says, and what may keep others from it; return that, for programs."""
    found = listeners.listeners(port)
    for listener in found:
        row("listens", f"{listener.at} {listener.holder}")
    asked = asking.check_server(options, port, found, asking.own_addresses()) if found else []
    claims = reach.check_claims(port, bool(found))
    return {
        "listeners": [listener._asdict() for listener in found],
        "asked": asked,
        "claims": claims,
        "dropping": reach.check_packet_filter(port),
    }
