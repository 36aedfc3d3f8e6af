"""Does a lookup cost more on a host with 100,000 sockets than on one with ten?

    python3 -m bench.sockets [--sockets N]

Run it as root from the checkout; it needs the Debian packages python3-venv and iproute2, and about 1 GiB of memory
for 100,000 sockets. Times `lookup.lookup` within one process, and one installed identd from the start of its process,
for a connection that exists (hit) and one that does not (miss).
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from . import host, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .load import Question

#: Runs in identd's interpreter: reads ports and a number of lookups, answers the median in microseconds.
WORKER = """
import statistics, sys, time
from lookup import NoUser, lookup
for line in sys.stdin:
    server, client, count = map(int, line.split())
    times = []
    for _ in range(count):
        began = time.perf_counter()
        try:
            lookup(("127.0.0.1", server), ("127.0.0.1", client))
        except NoUser:
            pass
        times.append(time.perf_counter() - began)
    print(statistics.median(times) * 1e6, flush=True)
"""


class Worker:
    """A process that looks up and tells how long it took."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), "-I", "-c", WORKER], env=host.clean_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def median(self, question: Question, lookups: int) -> float:
        """Return the median of so many lookups in microseconds."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{question.query.decode().strip().replace(',', ' ')} {lookups}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """Give a listener whose connections are handed to processes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def single_shot(identd: Path, listener: socket.socket, question: Question) -> float:
    """Return the milliseconds from the start of a process, with a connection on fd 0, to its reply."""
    with socket.create_connection(listener.getsockname()) as asker:
        accepted = listener.accept()[0]
        asker.sendall(question.query)
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(identd)], stdin=accepted.fileno(), stdout=accepted.fileno(), stderr=subprocess.DEVNULL,
            env=host.clean_environment(),
        )  # fmt: skip
        accepted.close()
        reply = asker.recv(2048)
        took = time.perf_counter() - began
        process.wait()
    if not question.reply.fullmatch(reply):
        raise RuntimeError(f"{question.query!r} was answered {reply!r}")
    return took * 1e3


def main() -> int:
    """Run from the command line."""
    parser = host.parser(__doc__)
    parser.add_argument("--sockets", type=int, default=100000, help="on the busy host (default: %(default)s)")
    parser.add_argument("--lookups", type=int, default=5000, help="for each figure (default: %(default)s)")
    options = parser.parse_args()
    with host.prepared(options) as (_, venv, found):
        print(host.describe(found))
        measure(venv, options)
    return 0


def measure(venv: Path, options: argparse.Namespace) -> None:
    """Time both kinds of lookup with ten sockets, and with many."""
    syslog = host.Syslog()
    print(f"{'sockets':>8}{'lookup() hit, us':>18}{'miss, us':>10}{'process hit, ms':>18}{'miss, ms':>10}")
    table = {}
    with load.held(uid=host.PLAIN_UID) as question, listening() as listener:
        worker = Worker(venv / "python")
        connections = host.Connections(options.sockets)
        try:
            for sockets in (10, options.sockets):
                connections.grow(sockets)
                row = [worker.median(asked, options.lookups) for asked in (question, load.MISS)]
                shots: tuple[list[float], list[float]] = ([], [])
                for _ in range(60):
                    for times, asked in zip(shots, (question, load.MISS)):
                        times.append(single_shot(venv / "identd", listener, asked))
                row += map(statistics.median, shots)
                print(f"{sockets:>8}{row[0]:>18.1f}{row[1]:>10.1f}{row[2]:>18.2f}{row[3]:>10.2f}", flush=True)
                table[sockets] = row
        finally:
            connections.close()
            worker.close()
            syslog.close()
    ratios = [many / few for few, many in zip(*table.values())]
    print(f"{'ratio':>8}{ratios[0]:>18.2f}{ratios[1]:>10.2f}{ratios[2]:>18.2f}{ratios[3]:>10.2f}")


if __name__ == "__main__":
    sys.exit(main())
