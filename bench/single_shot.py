"""How long does a query take when xinetd starts a process for it, beside a script that answers a constant and oidentd?

    python3 -m bench.single_shot [--python INTERPRETER] [--config]

Run it as root from the checkout; it needs the Debian packages xinetd, oidentd, python3-venv and iproute2. One xinetd
serves every handler, each on a port of its own, all as `nobody`, all logging to the same /dev/log; they are asked in
turns, in changing order. What counts is the ratios.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from . import daemon, host, load

#: The least that a Python program can do under inetd: the floor.
CONSTANT = """\
#!{python}
import os
query = os.read(0, 1000).strip()
os.write(1, query + b":USERID:UNIX:{name}\\r\\n")
"""

SERVICE = """\
service {name}
{{
    type = UNLISTED
    port = {port}
    bind = 127.0.0.1
    socket_type = stream
    protocol = tcp
    wait = no
    user = nobody
    server = {server}
    {arguments}
    passenv =
    instances = UNLIMITED
    per_source = UNLIMITED
    cps = 1000000 1
    log_on_success =
    log_on_failure =
}}
"""

#: Blocks of a system file that ought not to hurt.
MANY_USERS = 2000

#: A small interpreter between us and the handler, for a child begins with the peak memory of who forked it.
LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], {})
print(os.wait4(pid, 0)[2].ru_maxrss, file=sys.stderr)
"""


class Handler(NamedTuple):
    """A program that xinetd starts, and the question that it is asked."""

    name: str
    command: list[str]
    question: load.Question
    configuration: str = ""
    port: int = 0


def handlers(venv: Path, directory: Path, plain: load.Question, wishing: load.Question | None) -> list[Handler]:
    """Return what is compared; with ``wishing``, the variants with configuration too."""
    python = str(venv / "python")
    constant = directory / "constant"
    constant.write_text(CONSTANT.format(python=python, name="benchplain"))
    constant.chmod(0o755)
    identd = [str(venv / "identd")]
    compared = [
        Handler("constant", [str(constant)], plain),
        Handler("identd", identd, plain),
        Handler("oidentd", [host.program("oidentd"), "-I"], plain),
        Handler("identd.py", [python, str(directory / "source" / "identd.py")], plain),
    ]
    before = directory / host.BEFORE / "venv/bin/identd"
    if before.exists():
        compared += [
            Handler(host.BEFORE, [str(before)], plain),
            Handler(f"{host.BEFORE} -q", [str(before), "-q"], plain),
            Handler("identd -q", [*identd, "-q"], plain),
        ]
    if wishing is not None:
        many = "".join(f"user bench{number} {{ default {{ deny spoof }} }}\n" for number in range(MANY_USERS))
        compared += [
            Handler("identd+example", identd, wishing, daemon.EXAMPLE),
            Handler(f"identd+{MANY_USERS}", identd, wishing, many + daemon.EXAMPLE),
            Handler("oidentd+example", [host.program("oidentd"), "-I"], wishing, daemon.EXAMPLE),
        ]
    return [handler._replace(port=host.free_port()) for handler in compared]


def arguments_of(handler: Handler) -> str:
    """Return xinetd's line of arguments; it takes no empty one."""
    return " ".join(["server_args =", *handler.command[1:]]) if handler.command[1:] else ""


def start_xinetd(directory: Path, served: list[Handler]) -> list[host.Daemon]:
    """Start one xinetd for each system file that the handlers are to find."""
    started = []
    for number, text in enumerate(dict.fromkeys(handler.configuration for handler in served)):
        own = [handler for handler in served if handler.configuration == text]
        system_file, services = directory / f"oidentd.conf.{number}", directory / f"xinetd.conf.{number}"
        system_file.write_text(text)
        services.write_text("".join(
            SERVICE.format(
                name=f"bench-{handler.name.replace(' ', '-')}", port=handler.port,
                server=handler.command[0], arguments=arguments_of(handler),
            )
            for handler in own
        ))  # fmt: skip
        command = [host.program("xinetd"), "-dontfork", "-f", str(services)]
        # Without a configuration there is no such file.
        users = MANY_USERS if "bench1 " in text else 0
        prepare = (host.with_configuration(system_file, users),) if text else ()
        started.append(host.Daemon(command, own[0].port, *prepare))
    return started


def peak_memory(python: Path, handler: Handler) -> int:
    """Return the most memory that a handler had resident, in KiB."""
    nothing: dict[str, str] = {}
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as asker:
        accepted = listener.accept()[0]
        asker.sendall(handler.question.query)
        launcher = subprocess.run(
            [str(python), "-I", "-S", "-c", LAUNCHER, *handler.command],
            stdin=accepted.fileno(), stdout=accepted.fileno(), stderr=subprocess.PIPE, env=nothing, check=True,
        )  # fmt: skip
        return int(launcher.stderr.split()[-1])


def measure(served: list[Handler], queries: int) -> dict[str, list[float]]:
    """Ask each handler in turn; return the milliseconds from connect to reply."""
    times: dict[str, list[float]] = {handler.name: [] for handler in served}
    for handler in served * 3:
        try:
            load.ask(handler.port, handler.question)
        except (RuntimeError, OSError) as error:
            raise RuntimeError(f"{handler.name}: {error}") from None
    for _ in range(queries):
        # Each after each other one, for a process finds the processor's caches as the last one left them.
        for handler in random.sample(served, len(served)):
            times[handler.name].append(load.ask(handler.port, handler.question) * 1e3)
    return times


def report(served: list[Handler], options: argparse.Namespace, python: Path) -> None:
    """Measure and print."""
    times = measure(served, options.queries)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'handler':<18}{'median, ms':>11}{'quartiles':>16}{'queries/s, 50 at once':>23}{'peak memory, KiB':>18}")
    for handler in served:
        first, _, third = statistics.quantiles(times[handler.name], n=4)
        rates = [load.run(handler.port, handler.question, options.burst, 50) for _ in range(3)]
        bad = sum(rate.wrong + rate.lost for rate in rates)
        # A C program's is below the launcher's own.
        memory = "" if handler.name.startswith("oidentd") else str(peak_memory(python, handler))
        print(
            f"{handler.name:<18}{medians[handler.name]:>11.2f}{f'{first:.2f} - {third:.2f}':>16}"
            f"{statistics.median(rate.per_second for rate in rates):>23.0f}{memory:>18}"
            + (f"   {bad} wrong or lost" if bad else ""),
            flush=True,
        )
    print(f"identd/constant      {medians['identd'] / medians['constant']:.2f} (at most 3.5; aim: 3)")
    print(f"identd/oidentd       {medians['identd'] / medians['oidentd']:.2f}")
    print(f"identd.py/constant   {medians['identd.py'] / medians['constant']:.2f}")
    if host.BEFORE in medians:
        print(f"identd/before        {medians['identd'] / medians[host.BEFORE]:.3f}")
        print(f"with -q              {medians['identd -q'] / medians[f'{host.BEFORE} -q']:.3f}")
    if "identd+example" in medians:
        print(f"example/none         {medians['identd+example'] / medians['identd']:.2f} (at most 1.1)")
        more = medians[f"identd+{MANY_USERS}"] - medians["identd+example"]
        print(f"{MANY_USERS} blocks cost {more:.1f} ms (at most 15)")


def main() -> int:
    """Run from the command line."""
    parser = host.parser(__doc__)
    parser.add_argument("--queries", type=int, default=200, help="for each median (default: %(default)s)")
    parser.add_argument("--burst", type=int, default=300, help="for each figure of queries/s (default: %(default)s)")
    parser.add_argument("--config", action="store_true", help="also with an /etc/oidentd.conf and a ~/.oidentd.conf")
    options = parser.parse_args()
    with host.prepared(options, "xinetd", "oidentd") as (directory, venv, found):
        host.wish(directory, daemon.WISH)
        syslog = host.Syslog()
        started: list[host.Daemon] = []
        try:
            print(host.describe(found))
            with load.held(uid=host.PLAIN_UID) as plain, load.held(uid=host.WISHING_UID, told="bouncer") as wishing:
                served = handlers(venv, directory, plain, wishing if options.config else None)
                started = start_xinetd(directory, served)
                report(served, options, venv / "python")
        finally:
            for xinetd in started:
                xinetd.stop()
            syslog.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
