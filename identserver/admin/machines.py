"""What do the options for gateways let others do, and what is wrong with the file for machines behind this one?"""

from __future__ import annotations

from lookup.config import masquerade

from .. import MASQUERADE
from ..elsewhere import what_counts
from .access import UNTOLD, kept_from_nobody
from .permissions import CannotTell
from .printing import row, show

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options


def check_machines(options: Options) -> bool:
    """Print that; return whether there is no error in the file."""
    for text in what_counts(options):
        row("option", text)
    if not options.masquerade:
        return True
    path, required = options.masquerade_file or MASQUERADE, options.masquerade_file is not None
    count, errors, notices = masquerade.check(path, required)
    for notice in sorted(notices, key=lambda notice: (notice.line, notice.column)):
        show(f"warning: {notice}")
    for error in errors:
        show(f"error: {error}")
    if count:
        try:
            fix = kept_from_nobody(path, 0)
        except CannotTell as error:
            show(f"machines whether an identd that is not started as root can read {path} {UNTOLD} ({error})")
        else:
            if fix:
                reason = "an identd that has given up root can't read it, and replies UNKNOWN-ERROR about such machines"
                show(f"warning: {path}: {reason} ({fix})")
    if not errors:
        lines = f"{count} line{'s' * (count != 1)}" if count else "nothing"
        show(f"machines {path} has {lines} about machines behind this one")
    return not errors
