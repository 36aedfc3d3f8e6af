"""Does a query get the right reply, and the same one whole, octet by octet, and in pieces?

The first octet says how the server is set up, the second what its lookups give, the third where the rest is cut.
"""

from __future__ import annotations

from typing import Any

from helpers.conversation import REPLY, Server, converse, divided, outcome

from identd import HiddenUser, IdentError, NoUser

_RESULTS: list[list[Any]] = [
    [("UNIX", "alice")],
    [("UNIX,UTF-8", b"a\r\nb"), NoUser],
    [("x" * 65, "alice"), ("OTHER", b"\xff" * 600)],
    [HiddenUser, IdentError, None],
    [KeyError, ("UNIX", "")],
]


def check(data: bytes) -> None:
    """Compare what becomes of the octets with what RFC 1413 says."""
    if len(data) < 3:
        return
    multi_query, later = bool(data[0] & 1), bool(data[0] & 2)
    results, cuts, sent = _RESULTS[data[1] % len(_RESULTS)], [data[2] % 16] * 64, data[3:]
    expected = outcome(sent, multi_query)
    whole = converse(Server(results, multi_query), [sent])
    assert len(whole.writes) == len(expected.pairs), (whole.writes, expected)
    assert whole.disconnecting == expected.closed
    for reply, (left, right, valid) in zip(whole.writes, expected.pairs):
        assert REPLY.fullmatch(reply), reply
        if valid:
            assert reply.startswith(b"%d,%d:" % (int(left), int(right))), reply
        else:
            assert reply == b"%b,%b:ERROR:INVALID-PORT\r\n" % (left, right), reply
    for portions in ([sent[place : place + 1] for place in range(len(sent))], divided(sent, cuts), [sent]):
        other = converse(Server(results, multi_query, later), portions)
        assert (other.writes, other.disconnecting) == (whole.writes, whole.disconnecting)
