"""Which part of a user's file matters to the connections asked about, where they are many?

A file is read anew each time, as a bouncer rewrites it just before it connects. What was understood of it is remembered
by its content. Of thousands of blocks only those are handed on that may concern one of the connections asked about.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from ..connection import ConfigError, IdentError
from .blocks import pack_end
from .grammar import parse_user
from .user_file import Fetched, UserFile, fetch, look_at_older, look_for_registered, others_of, parse

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..connection import Address
    from .blocks import UserBlock

    Ends = tuple[Address, Address]
    Key = tuple[bytes, str]

#: Octets of the contents that are remembered; what was understood takes 40 times as much. And what one costs at least.
MAX_OCTETS, _LEAST = 256 * 1024, 512

#: Seconds for which a content that was understood counts, from when its services' names were asked for. (Host names
#: are looked up when a block with one may decide.)
SECONDS = 1.0

#: Blocks that may concern one connection, where it is not known for thousands of them.
_MAX_UNKNOWN = 64


class Excerpts:
    """The files of users that one process reads."""

    def __init__(self) -> None:
        #: By content and path: until when it counts, and the blocks, or what is wrong.
        self._parsed: OrderedDict[Key, tuple[float, list[UserBlock] | ConfigError]] = OrderedDict()
        self._octets = 0

    def about(self, uid: int, home: str, ends: Sequence[Ends], older: bool = False) -> list[UserFile]:
        """Return, for each connection, what the owner's files say about it. May block as their file system does.

        :param older: whether older servers' files count (`others_of`).
        :raises IdentError: what they say could not be found out.
        """
        found = parse(fetch(uid, home, parse=self._parse))
        # The same for all connections, so they are looked at once.
        alike = Fetched(found.path)
        if older and home.startswith("/") and not found.path:
            look_at_older(alike, uid, home)
        return [_with_others(_excerpt(found, one, uid), one, uid, home, alike) for one in ends]

    def forget(self) -> None:
        """Drop all that is remembered."""
        self._parsed.clear()
        self._octets = 0

    def _parse(self, content: bytes, path: str) -> list[UserBlock]:
        """Do what `parse_user` does, once a second for each content."""
        key = content, path
        now = time.monotonic()
        expires, found = self._parsed.pop(key, (now, None))
        if found is None:
            self._octets += len(content) + _LEAST
        if found is None or now >= expires:
            expires = now + SECONDS
            try:
                found = parse_user(content, path)
            except ConfigError as error:
                found = error.with_traceback(None)
        self._parsed[key] = expires, found
        while self._octets > MAX_OCTETS and len(self._parsed) > 1:
            dropped = self._parsed.popitem(last=False)[0]
            self._octets -= len(dropped[0]) + _LEAST
        if isinstance(found, ConfigError):
            raise found
        return found


def _with_others(excerpt: UserFile, ends: Ends, uid: int, home: str, alike: Fetched) -> UserFile:
    """Add to an excerpt what other files have for that connection. :raises IdentError: that can't be found out.

    :param alike: what they have for every connection.
    """
    if home.startswith("/"):
        fetched = Fetched(excerpt.path)
        look_for_registered(fetched, uid, home, others_of(*ends, False))
        fetched.others.update(alike.others)
        excerpt.others = parse(fetched).others
        excerpt.notes = [*excerpt.notes, *fetched.notes, *alike.notes]
    return excerpt


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
