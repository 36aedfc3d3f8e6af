"""Which files look as if identd read them, and it does not?"""

from __future__ import annotations

import os

import identserver

from .printing import WARNING, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from ..options import Options

#: What people write for oidentd's files, and what nothing here reads.
_LOOK_ALIKES = ("oident.conf", "oidentd.cfg", "identd.conf", "oidentd/oidentd.conf")
_MASQUERADE = ("oidentd_masq.conf", "oident_masq.conf")


def check_strays(options: Options) -> None:
    """Print which files nobody reads."""
    if options.requires_system_file:
        # Whoever names a file looks nowhere else.
        return
    folder = os.path.dirname(identserver.CONFIG)
    if not os.path.lexists(options.system_file):
        for name in _LOOK_ALIKES:
            if os.path.exists(path := os.path.join(folder, name)):
                row("file", f"nobody reads {path}: the system file is {options.system_file}", WARNING)
    for name in _MASQUERADE:
        if _says_something(path := os.path.join(folder, name)):
            row("file", f"nobody reads {path}: identd does not name hosts behind it (NAT)", WARNING)


def _says_something(path: str) -> bool:
    """Return whether a file is there with more than comments, which is what oidentd's package leaves behind."""
    try:
        with open(path, "rb") as lines:
            return any(line.strip() and not line.lstrip().startswith(b"#") for line in lines)
    except OSError as error:
        # EACCES: it may say something. ENOENT and whatever else: it does not.
        return isinstance(error, PermissionError)
