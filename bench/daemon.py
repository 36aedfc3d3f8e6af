"""How does the warm process compare with Debian's oidentd daemon, under load, on busy hosts and against silent clients?

    python3 -m bench.daemon [--connections N] [--silent N] [--config [FILE]] [--json FILE]

Run it as root from the checkout; it needs the Debian packages oidentd, python3-venv and iproute2, and about 1 GiB of
memory for 100,000 connections. Both servers run side by side in a network namespace of their own, log to the same
/dev/log, and are asked in turns. What counts is the ratios: the load generator shares the processors with them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import host, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from .load import Question

#: Numbers of connections on the host at which latency is measured, up to --connections.
STEPS = (10, 100, 1000, 10000, 100000)

#: How often each server is asked some queries one at a time. With 20, and always in the same order, the ratio of the
#: same two servers came out between 0.80 and 0.90.
PORTIONS = 60

#: What both servers read with --config: a file such as an administrator writes, and what a bouncer's user wants.
EXAMPLE = """\
default {
    default {
        deny spoof
        deny spoof_all
        deny spoof_privport
        allow random
        allow hide
    }
}
user root {
    default {
        force hide
    }
}
user benchwish {
    default {
        allow spoof
        allow spoof_all
    }
    to 192.0.2.1 {
        force reply "someone"
    }
}
"""
WISH = """\
global {
    reply "bouncer"
}
to 192.0.2.7 lport 6667 {
    reply "another"
}
"""


class Bench:
    """One run: the servers, and the question that all are asked."""

    def __init__(self, servers: dict[str, host.Daemon], question: Question, options: argparse.Namespace) -> None:
        self.servers = servers
        self.question = question
        self.options = options

    def in_turns(self, rounds: int, measure: Callable[[host.Daemon], Any]) -> dict[str, list[Any]]:
        """Measure one server after the other, so many times."""
        results: dict[str, list[Any]] = {name: [] for name in self.servers}
        for _ in range(rounds):
            for name, server in self.servers.items():
                results[name].append(measure(server))
        return results

    def throughput(self, question: Question, what: str) -> None:
        """Print queries per second with 50 and 400 in flight."""
        for concurrency in (50, 400):
            self._throughput(question, concurrency, what)

    def _throughput(self, question: Question, concurrency: int, what: str) -> None:
        cpu: dict[str, list[float]] = {name: [] for name in self.servers}

        def measure(server: host.Daemon) -> load.Load:
            before = server.cpu()
            done = load.run(server.port, question, self.options.queries, concurrency)
            name = next(name for name, one in self.servers.items() if one is server)
            cpu[name].append((server.cpu() - before) / self.options.queries * 1e6)
            return done

        loads = self.in_turns(self.options.rounds, measure)
        rates, late, bad = {}, {}, {}
        for name, runs in loads.items():
            rates[name] = [one.per_second for one in runs]
            late[name] = statistics.median(one.times[len(one.times) * 99 // 100] for one in runs) * 1e3
            bad[name] = sum(one.wrong + one.lost for one in runs)
        say(
            f"{what}, {concurrency} in flight, queries/s", rates, "{:.0f}",
            "p99 " + " and ".join(f"{value:.1f}" for value in late.values()) + " ms;"
            " wrong or lost " + " and ".join(map(str, bad.values())),
        )  # fmt: skip
        # oidentd has a process for each query, whose time this is not.
        cpu["oidentd"] = [float("nan")] * len(cpu["identd"])
        say(f"{what}, {concurrency} in flight, CPU of a query, us", cpu, "{:.0f}")

    def latency(self, question: Question, what: str, oidentds: int = 1000) -> dict[str, float]:
        """Print and return the median of queries asked one at a time, in milliseconds.

        :param oidentds: how many oidentd is asked; identd is asked 3000.
        """
        # In portions, and in changing order, so that all meet the same noise, and each is as warm as in a storm.
        asked = dict.fromkeys(self.servers, 50) | {"oidentd": max(oidentds // PORTIONS, 1)}
        portions: dict[str, list[float]] = {name: [] for name in self.servers}
        for _ in range(PORTIONS):
            for name, server in random.sample(list(self.servers.items()), len(self.servers)):
                times = [load.ask(server.port, question) * 1e3 for _ in range(asked[name])]
                portions[name].append(statistics.median(times))
        say(f"{what}, one at a time, ms", portions, "{:.3f}")
        return {name: statistics.median(each) for name, each in portions.items()}


def say(what: str, rounds: dict[str, list[float]], form: str, note: str = "") -> None:
    """Print one line of the table: medians of all rounds; and ratios, which are medians of those of each round.

    The machine's own pace changes from second to second, and by more than what is to be seen.

    :param rounds: what was measured, by server; the servers were measured in turns.
    """
    columns = "".join(f"{form.format(statistics.median(rounds[name])):>10}" for name in ("identd", "oidentd"))
    if host.BEFORE in rounds:
        before = form.format(statistics.median(rounds[host.BEFORE]))
        note = f"{host.BEFORE} {before}, ratio {_ratio(rounds, host.BEFORE):.3f}; {note}"
    print(f"{what:<56}{columns}{_ratio(rounds, 'oidentd'):>9.3g}  {note}".rstrip(), flush=True)


def _ratio(rounds: dict[str, list[float]], other: str) -> float:
    return statistics.median(one / two for one, two in zip(rounds["identd"], rounds[other]))


def measure_connections(bench: Bench) -> list[dict[str, Any]]:
    """Measure latency while the host holds more and more connections; at the most, throughput too."""
    most = bench.options.connections
    points = []
    connections = host.Connections(most)
    try:
        for count in sorted({*(step for step in STEPS if step < most), most}):
            connections.grow(count)
            hit = bench.latency(bench.question, f"hit, {count} connections")
            # oidentd takes half a second for one of these where there are many connections.
            miss = bench.latency(load.MISS, f"miss, {count} connections", 20 if count >= 10000 else 200)
            points.append({"connections": count, **{
                name: {"hit_ms": round(hit[name], 4), "miss_ms": round(miss[name], 4)} for name in hit
            }})  # fmt: skip
        measure_miss(bench, miss)
        bench.throughput(bench.question, f"hit, {most} connections")
    finally:
        connections.close()
    return points


def measure_miss(bench: Bench, miss: dict[str, float]) -> None:
    """Print what a query that finds nothing costs. oidentd's misses are not asked for in numbers: it takes minutes."""
    port = bench.servers["identd"].port
    hits, misses = [], []
    for _ in range(20):
        hits += [load.ask(port, bench.question) for _ in range(50)]
        misses += [load.ask(port, load.MISS) for _ in range(50)]
    print(
        f"identd with {bench.options.connections} connections: miss/hit"
        f" {statistics.median(misses) / statistics.median(hits):.2f} (at most 1.2); its miss is"
        f" {miss['oidentd'] / miss['identd']:.0f} times faster than oidentd's (at least 100)"
    )
    for concurrency in (50, 400):
        runs = [load.run(port, load.MISS, bench.options.queries, concurrency) for _ in range(bench.options.rounds)]
        print(
            f"identd, misses with {concurrency} in flight:"
            f" {statistics.median(one.per_second for one in runs):.0f} queries/s,"
            f" wrong or lost {sum(one.wrong + one.lost for one in runs)}",
            flush=True,
        )


def measure_silent(bench: Bench) -> None:
    """Print what silent clients cost an honest one. oidentd is left out: it would start a process for each."""
    server, count = bench.servers["identd"], bench.options.silent
    medians = []
    for silent in (0, count):
        clients = host.Silent(server.port, silent) if silent else None
        try:
            medians.append(statistics.median(load.ask(server.port, bench.question) * 1e3 for _ in range(1000)))
            rate = load.run(server.port, bench.question, bench.options.queries, 50)
            print(
                f"identd with {silent} silent connections ({server.descriptors()} descriptors): median"
                f" {medians[-1]:.3f} ms, {rate.per_second:.0f} queries/s, wrong or lost {rate.wrong + rate.lost}"
            )
        finally:
            if clients:
                clients.close()
    print(f"with silent connections/without: {medians[1] / medians[0]:.2f} (at most 2)", flush=True)


def measure_memory(bench: Bench) -> None:
    """Print what each process holds after 1,000 and after 100,000 queries."""
    for name, server in bench.servers.items():
        bad, figures = 0, []
        for queries in (1000, bench.options.memory - 1000):
            result = load.run(server.port, bench.question, queries, 50, timeout=600)
            bad += result.wrong + result.lost
            figures.append((server.memory(), server.descriptors(), server.threads()))
        before, held = figures
        print(
            f"{name} after 1000 and {bench.options.memory} queries: {before[0]} and {held[0]} KiB resident"
            f" ({held[0] - before[0]:+d}; at most +2048), {before[1]} and {held[1]} descriptors,"
            f" {before[2]} and {held[2]} threads; wrong or lost {bad}",
            flush=True,
        )


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = host.parser(__doc__)
    parser.add_argument("--connections", type=int, default=100000, help="on the host (default: %(default)s)")
    parser.add_argument("--silent", type=int, default=20000, help="silent clients (default: %(default)s; 0: skip)")
    parser.add_argument("--memory", type=int, default=100000, help="queries (default: %(default)s; 0: skip)")
    parser.add_argument("--queries", type=int, default=2000, help="in a round of queries/s (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="for each figure of queries/s (default: %(default)s)")
    parser.add_argument(
        "--config", nargs="?", const="", metavar="FILE",
        help="both servers read FILE (default: an example), and the owner has a ~/.oidentd.conf",
    )  # fmt: skip
    parser.add_argument("--told", default="bouncer", metavar="NAME", help="what FILE and the owner's file make of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the latencies there, for bench.plot")
    return parser.parse_args()


def main() -> int:
    """Run from the command line."""
    options = arguments()
    with host.prepared(options, "oidentd") as (directory, venv, found):
        configuration = None
        if options.config is not None:
            if "--config" not in subprocess.run([venv / "identd", "--help"], stdout=subprocess.PIPE, text=True).stdout:
                print("this identd has no --config", file=sys.stderr)
                return 2
            configuration = directory / "oidentd.conf"
            configuration.write_text(Path(options.config).read_text() if options.config else EXAMPLE)
            host.wish(directory, WISH)
        syslog = host.Syslog()
        try:
            measure(options, directory, found, configuration, syslog)
        finally:
            syslog.close()
    return 0


def measure(
    options: argparse.Namespace, directory: Path, found: dict[str, str], configuration: Path | None, syslog: host.Syslog
) -> None:
    """Measure everything, and print it."""
    print(host.describe(found))
    print(f"configuration: {'none' if configuration is None else options.config or 'the example'}")
    print(f"{'':<56}{'identd':>10}{'oidentd':>10}{'ratio':>9}")
    servers = host.start_servers(directory, configuration)
    uid = host.PLAIN_UID if configuration is None else host.WISHING_UID
    try:
        with load.held(uid=uid, told=None if configuration is None else options.told) as question:
            bench = Bench(servers, question, options)
            # First: load leaves sockets in TIME_WAIT behind, and oidentd reads them all.
            points = measure_connections(bench)
            if options.json:
                options.json.write_text(json.dumps({"versions": found, "points": points}, indent=1) + "\n")
            bench.throughput(question, "hit, few connections")
            if options.silent:
                measure_silent(bench)
            if options.memory:
                host.stop_servers(servers)
                servers = host.start_servers(directory, configuration)
                measure_memory(Bench(servers, question, options))
    finally:
        host.stop_servers(servers)
    print(f"{syslog.messages} messages were logged")


if __name__ == "__main__":
    sys.exit(main())
