"""Does a user's file parse, or say where it does not, within a time that grows as the file does?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzz import files

from lookup.config.grammar import parse_system, parse_user
from lookup.config.policy import decide
from lookup.config.user_file import UserFile

if TYPE_CHECKING:
    from lookup.config.blocks import UserBlock

files.without_a_name_service()

_ENDS = ("192.0.2.1", 40000), ("198.51.100.7", 6667)
_ALL = (
    b"default { default { allow spoof allow spoof_privport allow hide allow random allow numeric"
    b" allow random_numeric allow forward } }"
)
_SYSTEM = parse_system(_ALL, "system", lambda names: {})
_UIDS = {b"alice": 1001, b"bob": 1002}


def check(data: bytes) -> None:
    """Parse it, and decide about its owner, who may do everything but take another user's name."""
    files.check(data, True, lambda data, path, notices: parse_user(data, path, notices), _use)


def _use(blocks: list[UserBlock]) -> None:
    def forward(host: str, port: int) -> str:
        return "nobody is asked"

    decision = files.look_at_decision(
        lambda: decide(1001, b"alice", *_ENDS, _SYSTEM, lambda: UserFile("f", blocks), _UIDS.get, forward)
    )
    assert decision.user is None or decision.user.split(b" ")[0] != b"bob", decision.user
