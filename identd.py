#!/usr/bin/env python3
"""Who owns a TCP connection of this host?

An ident server (RFC 1413) answers that. As a script this file serves the connection on its standard input (see
`identserver`); as a module it publishes these names.
"""

from __future__ import annotations

import sys

from identserver import __version__
from identserver.start import main

TYPE_CHECKING = False  # typing takes 2 ms to import, and every connection may be a new process
if TYPE_CHECKING:
    from typing import Any

    from identserver.protocol import IdentServer
    from lookup.errors import HiddenUser, IdentError, InvalidPort, NoUser

__all__ = ["HiddenUser", "IdentError", "IdentServer", "InvalidPort", "NoUser", "__version__", "main"]


def __getattr__(name: str) -> Any:
    """Return a published name: they are imported when somebody asks for one, not by each process that answers a query.

    :raises AttributeError: there is no such name.
    """
    if name == "IdentServer":
        from identserver.protocol import IdentServer

        return IdentServer
    if name in __all__:
        from lookup import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'identd' has no attribute {name!r}")


if __name__ == "__main__":
    sys.exit(main())
