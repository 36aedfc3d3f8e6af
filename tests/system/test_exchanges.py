"""Does the same come back for what a client sends, whichever driver answers and whatever the options?"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
from helpers.pairs import Pair, everything, me
from helpers.single_shot import feed, handler
from helpers.warm import Warm, warming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator



#: Options, what is sent, what comes back.
EXCHANGES: list[tuple[tuple[str, ...], bytes, bytes]] = [
    ((), b"QUERY\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b" QUERY \n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\r\nQUERY\r\n1,1\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\r\n" + b"x" * 5000, b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"QUERY\r\n" + b"x" * (1 << 18), b"QUERY:USERID:UNIX:NAME\r\n"),
    ((), b"1,1\r\n", b"1,1:ERROR:NO-USER\r\n"),
    ((), b"0,5\r\n", b"0,5:ERROR:INVALID-PORT\r\n"),
    ((), b"65536,5\r\n", b"65536,5:ERROR:INVALID-PORT\r\n"),
    ((), b"a,b\r\n", b"a,b:ERROR:INVALID-PORT\r\n"),
    ((), b"\r\n", b""),
    ((), b"hello\r\n", b""),
    ((), b"1,2,3\r\n", b""),
    ((), b"\xff\xfe\0\r\n", b""),
    ((), b"x" * 1000, b""),
    ((), b"x" * (1 << 18), b""),
    ((), b"", b""),
    ((), b"1", b""),
    ((), b"1,2", b""),
    ((), b"1,2\r", b""),
    (("-e",), b"1,1\r\n", b"1,1:ERROR:UNKNOWN-ERROR\r\n"),
    (("-e",), b"a,b\r\n", b"a,b:ERROR:UNKNOWN-ERROR\r\n"),
    (("-e",), b"QUERY\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    (("-o",), b"QUERY\r\n", b"QUERY:USERID:OTHER:NAME\r\n"),
    (("-oWIN32", "-c", "UTF-8"), b"QUERY\r\n", b"QUERY:USERID:WIN32,UTF-8:NAME\r\n"),
    (("-oWIN32", "-c", "UTF-8"), b"1,1\r\n", b"1,1:ERROR:NO-USER\r\n"),
    (("-c", "US-ASCII"), b"QUERY\r\n", b"QUERY:USERID:UNIX,US-ASCII:NAME\r\n"),
    (("-r", "guest"), b"1,1\r\n", b"1,1:USERID:UNIX:guest\r\n"),
    (("-r", "guest"), b"QUERY\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    (("-r", "guest"), b"0,1\r\n", b"0,1:ERROR:INVALID-PORT\r\n"),
    (("-R", " a:b "), b"QUERY\r\n", b"QUERY:USERID:UNIX: a:b \r\n"),
    (("-R", " a:b "), b"0,1\r\n", b"0,1:ERROR:INVALID-PORT\r\n"),
    (("-oOS", "-cX", "-e", "-r", "guest"), b"1,1\r\n", b"1,1:USERID:OS,X:guest\r\n"),
    (
        ("--multi-query",), b"QUERY\r\n0,1\r\nQUERY\n1,1\r\n",
        b"QUERY:USERID:UNIX:NAME\r\n0,1:ERROR:INVALID-PORT\r\nQUERY:USERID:UNIX:NAME\r\n1,1:ERROR:NO-USER\r\n",
    ),
    (("--multi-query",), b"QUERY\r\nhello\r\n1,2\r\n", b"QUERY:USERID:UNIX:NAME\r\n"),
    (("--multi-query",), b"1,1\n" * 1000, b"1,1:ERROR:NO-USER\r\n" * 1000),
    (("--multi-query", "-e", "-R", "x"), b"1,1\r\n0,0\n", b"1,1:USERID:UNIX:x\r\n0,0:ERROR:UNKNOWN-ERROR\r\n"),
]  # fmt: skip


@pytest.fixture(scope="module")
def warm_by_options() -> Iterator[Callable[[tuple[str, ...]], Warm]]:
    """A warm identd for each set of options, started when it is first wanted."""
    with contextlib.ExitStack() as stack:
        started: dict[tuple[str, ...], Warm] = {}

        def get(options: tuple[str, ...]) -> Warm:
            if options not in started:
                started[options] = stack.enter_context(warming(*options))
            return started[options]

        yield get


def converse(client: socket.socket, sent: bytes) -> bytes:
    """Send, end the sending side, and return all that comes."""
    sender = feed(client, sent)
    received = b""
    if len(sent) < 100_000:
        sender.join()
        with contextlib.suppress(OSError):  # identd has hung up already
            client.shutdown(socket.SHUT_WR)
    received = everything(client)
    sender.join()
    return received


@pytest.mark.parametrize(("options", "sent", "expected"), EXCHANGES)
@pytest.mark.parametrize("form", ["single", "warm"])
def test_exchanges(
    form: str, options: tuple[str, ...], sent: bytes, expected: bytes, pair: Pair,
    warm_by_options: Callable[[tuple[str, ...]], Warm],
) -> None:  # fmt: skip
    """What comes back for what is sent is the same from both drivers, and ends without a reset."""
    for word, value in ((b"QUERY", pair.query), (b"NAME", me().encode())):
        sent, expected = sent.replace(word, value), expected.replace(word, value)
    if form == "single":
        with handler(*options) as served:
            assert converse(served.client, sent) == expected
            assert served.status() == 0
        return
    with warm_by_options(options).call() as client:
        assert converse(client, sent) == expected
