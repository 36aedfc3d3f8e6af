"""Does a system file parse, or say where it does not, within a time that grows as the file does?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzz import files

from lookup.config.grammar import parse_system
from lookup.config.policy import decide
from lookup.config.user_file import UserFile
from lookup.connection import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lookup.config.blocks import System, Uids
    from lookup.config.words import Notice

files.without_a_name_service()

_ENDS = ("192.0.2.1", 40000), ("198.51.100.7", 6667)


def check(data: bytes) -> None:
    """Parse it, and decide about a user of whom it may say something."""
    files.check(data, False, _parse, _use)


def _parse(data: bytes, path: str, notices: list[Notice] | None) -> System:
    return parse_system(data, path, _uids, notices)


def _uids(names: Iterable[bytes]) -> Uids:
    """Return uids for names: that of one that begins with a digit or "?" is not known, or nobody's."""
    found: Uids = {}
    for name in names:
        found[name] = 1000 + len(name) % 3 if name[:1].isalpha() else Unknown("nobody was asked") if name else None
    return found


def _use(system: System) -> None:
    files.look_at_decision(
        lambda: decide(1001, b"alice", *_ENDS, system, UserFile, lambda name: None, lambda host, port: "")
    )
