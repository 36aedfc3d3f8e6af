"""What has to be written into the system file so that a user's statement is granted?"""

from __future__ import annotations

import os
import re

from lookup.config.blocks import quoted

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.config.blocks import System
    from lookup.config.decision import Decision


def grant(system: System | None, path: str, uid: int, name: str, decision: Decision | None = None) -> str:
    """Return advice for an administrator: what stands between backquotes can be pasted as it stands.

    :param name: the owner's login name, or their uid as text.
    :param decision: what refused their statement; None: there is no system file, and a name is to be allowed.
    """
    lines = " ".join(f"allow {capability}" for capability in (decision.lacking if decision else ["spoof"]))
    own = system.users.get(uid) if system else None
    if own is None:
        block = f"user {quoted(os.fsencode(name))} {{ default {{ {lines} }} }}"
        return f"the administrator can grant it: `{block}` in {path}"
    block = f"in the block for user {name if re.fullmatch('[A-Za-z0-9_.-]+', name) else quoted(os.fsencode(name))}"
    if decision is None or any(one.rule == decision.rule for one in own):
        return f"the administrator can grant it: `{lines}` {block} in {path}"
    # No range of that block is about this connection, and the last that matches counts.
    return f"the administrator can grant it: `default {{ {lines} }}` at the beginning {block} in {path}"
