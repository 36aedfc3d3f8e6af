"""What does a user's file say about these connections, where it is asked again and again?

A file is read anew each time, as a bouncer rewrites it just before it connects. What was understood of it is remembered
by its content. Of thousands of blocks only those are handed on that may concern one of the connections asked about.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from ..errors import ConfigError, IdentError
from .blocks import pack_end
from .grammar import parse_without_names
from .user_file import UserFile, fetch, parse

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..connection import Address
    from .blocks import UserBlock
    from .user_file import Fetched

    Ends = tuple[Address, Address]
    Key = tuple[bytes, str]

#: Octets of the contents that are remembered; what was understood takes 40 times as much. And what one costs at least.
MAX_OCTETS, _LEAST = 256 * 1024, 512

#: Seconds for which the addresses of host names are remembered, from when they were asked for.
SECONDS = 1.0

#: Blocks that may concern one connection, where it is not known for thousands of them.
_MAX_UNKNOWN = 64


class Excerpts:
    """The files of users that one process reads."""

    def __init__(self) -> None:
        #: By content and path: the blocks, and whether they are complete; or what is wrong.
        self._parsed: OrderedDict[Key, tuple[list[UserBlock], bool] | ConfigError] = OrderedDict()
        self._octets = 0
        #: By content and path, where there are host names: until when it holds, and what was understood.
        self._resolved: dict[Key, tuple[float, UserFile]] = {}

    def about(self, uid: int, home: str, ends: Sequence[Ends]) -> list[UserFile]:
        """Return, for each connection, what the owner's file says about it. May block as their file system does.

        :raises IdentError: what it says could not be found out.
        """
        found = self._understood(fetch(uid, home, parse=self._parse))
        return [_excerpt(found, one, uid) for one in ends]

    def forget(self) -> None:
        """Drop all that is remembered."""
        self._parsed.clear()
        self._resolved.clear()
        self._octets = 0

    def _parse(self, content: bytes, path: str) -> tuple[list[UserBlock], bool]:
        """Do what `parse_without_names` does, once for each content."""
        key = content, path
        found = self._parsed.get(key)
        if found is None:
            try:
                found = parse_without_names(content, path)
            except ConfigError as error:
                found = error.with_traceback(None)
            self._parsed[key] = found
            self._octets += len(content) + _LEAST
            while self._octets > MAX_OCTETS and len(self._parsed) > 1:
                dropped = self._parsed.popitem(last=False)[0]
                self._resolved.pop(dropped, None)
                self._octets -= len(dropped[0]) + _LEAST
        else:
            self._parsed.move_to_end(key)
        if isinstance(found, ConfigError):
            raise found
        return found

    def _understood(self, fetched: Fetched) -> UserFile:
        """Return what was read, with its host names resolved."""
        if fetched.blocks is not None or fetched.content is None:
            return parse(fetched)
        key = fetched.content, fetched.path
        expires, found = self._resolved.get(key, (0.0, None))
        if found is None or time.monotonic() >= expires:
            asked = time.monotonic()
            found = parse(fetched)
            if key in self._parsed:
                self._resolved[key] = asked + SECONDS, found
        return found


def _excerpt(found: UserFile, ends: Ends, uid: int) -> UserFile:
    """Return of a file what may decide about one connection: the last block that matches, and what may match after it.

    :raises IdentError: that would be too much.
    """
    kept: list[UserBlock] = []
    server, client = map(pack_end, ends)
    for block in reversed(found.blocks):
        matches = block.where.matches_packed(server, client)
        if matches is False:
            continue
        kept.append(block)
        if matches is True:
            break
        if len(kept) > _MAX_UNKNOWN:
            raise IdentError(f"{found.path}: more than {_MAX_UNKNOWN} blocks that may match, or not", uid)
    excerpt = UserFile(found.path, kept[::-1])
    excerpt.error, excerpt.notes = found.error, found.notes
    return excerpt
