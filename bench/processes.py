"""Do several warm processes on one listening socket answer more than one?

    python3 -m bench.processes [--processes N ...]

Run it as root from the checkout; it needs the Debian packages python3-venv and iproute2. All groups of processes run
side by side in a network namespace of their own, log to the same /dev/log, and are asked in turns. What counts is the
ratios; the load generator is one process more that wants a processor.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys

from . import host, load


def main() -> int:
    """Run from the command line."""
    parser = host.parser(__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="on one socket (default: 1 2 4)")
    parser.add_argument("--queries", type=int, default=8000, help="for each figure of queries/s (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="for each figure of queries/s (default: %(default)s)")
    options = parser.parse_args()
    with host.prepared(options) as (_, venv, found):
        syslog = host.Syslog()
        started: list[host.Daemon] = []
        try:
            print(host.describe(found))
            ports = {}
            for count in options.processes:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    ports[count] = listener.getsockname()[1]
                    for _ in range(count):
                        started.append(host.Daemon([str(venv / "identd")], ports[count], stdin=listener.fileno()))
            measure(options, ports)
        finally:
            for daemon in started:
                daemon.stop()
            syslog.close()
    return 0


def measure(options: argparse.Namespace, ports: dict[int, int]) -> None:
    """Print queries per second of each group, with 50 and 400 in flight."""
    with load.held(uid=host.PLAIN_UID) as question:
        for concurrency in (50, 400):
            loads: dict[int, list[load.Load]] = {count: [] for count in ports}
            for _ in range(options.rounds):
                for count, port in ports.items():
                    loads[count].append(load.run(port, question, options.queries, concurrency))
            one = statistics.median(run.per_second for run in loads[next(iter(ports))])
            for count, runs in loads.items():
                rate = statistics.median(run.per_second for run in runs)
                late = statistics.median(run.times[len(run.times) * 99 // 100] for run in runs) * 1e3
                bad = sum(run.wrong + run.lost for run in runs)
                print(
                    f"{count} processes, {concurrency} in flight: {rate:.0f} queries/s ({rate / one:.2f}),"
                    f" p99 {late:.1f} ms, wrong or lost {bad}",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
