"""What holds for each file of the configuration, whatever is in it?"""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lookup.config import names, words
from lookup.config.grammar import only_ours
from lookup.connection import ConfigError, can_be_sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from lookup.config.decision import Decision

#: Seconds of this thread that a file may take, and those for each octet: several times what a slow one does that is
#: instrumented, far less than one does whose time grows with the square of the size.
SECONDS, SECONDS_PER_OCTET = 2.0, 1e-4

_TOKEN = re.compile(words.TOKEN)
_SERVICES = {"ssh": 22, "ident": 113, "auth": 113}


def _service(name: str, protocol: str) -> int:
    if name not in _SERVICES:
        raise OSError("service/proto not found")
    return _SERVICES[name]


def _addresses(name: bytes, family: int) -> tuple[bytes, ...]:
    raise OSError(-2, "Name or service not known")


def without_a_name_service() -> None:
    """Let this process ask for no name: neither a file nor a server is to decide what is found."""
    patched: Any = names
    patched.socket = SimpleNamespace(**{**vars(patched.socket), "getservbyname": _service})
    patched.within = lambda seconds, function, *arguments: function(*arguments)
    patched.addresses_of = _addresses
    patched._listed_port = lambda text: 0


def check(data: bytes, of_user: bool, parse: Callable[..., Any], use: Callable[[Any], object]) -> None:
    """Parse a file as the server does, and as --check does.

    :param parse: is given the octets, a path and what takes the notices. :param use: uses what came of it.
    """
    began = time.thread_time()
    noticed: list[Any] = []
    found = [_outcome(data, parse, notices) for notices in (None, noticed)]
    assert (found[0] is None) == (found[1] is None)
    if found[0] is not None:
        use(found[0])
    for notice in only_ours(data, "f", of_user):
        look_at(data, notice)
    within(began, data)
    begin = 3 if data.startswith(words.BYTE_ORDER_MARK) else 0
    expected = [token for token in _TOKEN.findall(data, begin) if token and not token.startswith((b"#", b"/*"))]
    assert words.Words(data, "f").tokens == [*expected, b""]


def within(began: float, data: bytes) -> None:
    """Make sure that a file did not take too long. :param began: when that did, of this thread's time."""
    taken = time.thread_time() - began
    assert taken < SECONDS + SECONDS_PER_OCTET * len(data), f"{taken} s for {len(data)} octets"


def _outcome(data: bytes, parse: Callable[..., Any], notices: list[words.Notice] | None) -> Any:
    try:
        return parse(data, "f", notices)
    except ConfigError as error:
        look_at(data, error)
        return None
    finally:
        for notice in notices or ():
            look_at(data, notice)


def look_at(data: bytes, said: ConfigError | words.Notice) -> None:
    """Make sure that what is said of a file is one line of text, about a place that is there."""
    assert re.fullmatch(r"[ -~]+", str(said)), str(said)
    lines = data.split(b"\n")
    assert 1 <= said.line <= len(lines), str(said)
    assert 1 <= said.column <= len(lines[said.line - 1]) + 1, str(said)


def look_at_decision(decide: Callable[[], Decision]) -> Decision:
    """Return the decision, which a reply must be able to hold."""
    decision = decide()
    assert decision.user is None or decision.unknown is not None or can_be_sent(decision.user), decision.user
    for step in decision.steps:
        assert step.isprintable(), step
    return decision
