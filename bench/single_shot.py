"""How long does a query take when xinetd starts a process for it, beside a script that answers a constant and oidentd?

    python3 -m bench.single_shot [--python INTERPRETER] [--config]

Run it as root from the checkout; it needs the Debian packages xinetd, oidentd, python3-venv and iproute2. One xinetd
serves every handler, each on a port of its own, all as `nobody`, all logging to the same /dev/log; they are asked in
turns, in changing order. What counts is the ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import time
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
    bind = {bind}
    socket_type = stream
    protocol = tcp
    wait = no
    user = {user}
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

#: Blocks of a system file that ought not to hurt; and rules of one that an administrator may have.
MANY_USERS, RULES = 2000, 20

#: Who runs the handlers: by number, as the bench has an /etc/passwd of its own.
NOBODY = 65534

#: The environment that a handler gets.
NOTHING: dict[str, str] = {}

#: A small interpreter between us and the handler: a child begins with the peak memory of who forked it.
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
    #: The system file that the handler finds; "": none.
    configuration: str = ""
    port: int = 0


def handlers(venv: Path, directory: Path, plain: load.Question, wishing: load.Question | None) -> list[Handler]:
    """Return what is compared; with ``wishing``, the variants with configuration too."""
    python = str(venv / "python")
    constant = directory / "constant"
    constant.write_text(CONSTANT.format(python=python, name="benchplain"))
    constant.chmod(0o755)
    identd = [str(venv / "identd")]
    empty = directory / "empty.conf"
    empty.write_text("")
    compared = [
        Handler("constant", [str(constant)], plain),
        Handler("identd", identd, plain),
        Handler("oidentd", [host.program("oidentd"), "-I"], plain),
        Handler("identd.py", [python, str(directory / "source" / "identd.py")], plain),
        Handler("identd -q", [*identd, "-q"], plain),
        Handler("identd -q -C --error", [*identd, "-q", "-C", str(empty), "--error"], plain),
    ]
    before = directory / host.BEFORE / "venv/bin/identd"
    if before.exists():
        compared += [
            Handler(host.BEFORE, [str(before)], plain),
            Handler(f"{host.BEFORE} -q", [str(before), "-q"], plain),
        ]
    if wishing is not None:
        rules = "".join(
            f"user {70000 + number} {{ default {{ deny spoof }} to 192.0.2.{number} {{ allow hide }} }}\n"
            for number in range(RULES - 3)
        )
        many = "".join(f"user bench{number} {{ default {{ deny spoof }} }}\n" for number in range(MANY_USERS))
        compared += [
            Handler("identd+example", identd, wishing, daemon.EXAMPLE),
            Handler(f"identd+{RULES} rules", identd, wishing, rules + daemon.EXAMPLE),
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
                server=handler.command[0], arguments=arguments_of(handler), bind="127.0.0.1", user="nobody",
            )
            for handler in own
        ))  # fmt: skip
        command = [host.program("xinetd"), "-dontfork", "-f", str(services)]
        # Without a configuration there is no such file.
        users = MANY_USERS if "bench1 " in text else 0
        prepare = (host.with_configuration(system_file, users),) if text else ()
        started.append(host.Daemon(command, own[0].port, *prepare))
    return started


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def peak_memory(python: Path, handler: Handler) -> int:
    """Return the most memory that a handler had resident, in KiB."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as asker:
        accepted = listener.accept()[0]
        asker.sendall(handler.question.query)
        launcher = subprocess.run(
            [str(python), "-I", "-S", "-c", LAUNCHER, *handler.command],
            stdin=accepted.fileno(), stdout=accepted.fileno(), stderr=subprocess.PIPE, env=NOTHING, check=True,
            preexec_fn=_become_nobody,
        )  # fmt: skip
        return int(launcher.stderr.split()[-1])


def to_exit(handler: Handler) -> float:
    """Start a handler as xinetd does, but wait for its end; return the milliseconds that it took."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as asker:
        accepted = listener.accept()[0]
        asker.sendall(handler.question.query)
        began = time.perf_counter()
        subprocess.run(
            handler.command, stdin=accepted.fileno(), stdout=accepted.fileno(), stderr=accepted.fileno(),
            env=NOTHING, check=True, preexec_fn=_become_nobody,
        )  # fmt: skip
        return (time.perf_counter() - began) * 1e3


def measure(served: list[Handler], queries: int) -> dict[str, list[float]]:
    """Ask each handler in turn; return the milliseconds from connect to reply."""
    times: dict[str, list[float]] = {handler.name: [] for handler in served}
    for handler in served * 3:
        try:
            load.ask(handler.port, handler.question)
        except (RuntimeError, OSError) as error:
            raise RuntimeError(f"{handler.name}: {error}") from None
    for _ in range(queries):
        # Each after each other one: a process finds the processor's caches as the last one left them.
        for handler in random.sample(served, len(served)):
            times[handler.name].append(load.ask(handler.port, handler.question) * 1e3)
    return times


def report(served: list[Handler], options: argparse.Namespace, python: Path) -> None:
    """Measure and print a table, as README has it. In brackets: the ratio to the constant script."""
    times = measure(served, options.queries)
    exits: dict[str, list[float]] = {handler.name: [] for handler in served if not handler.configuration}
    for _ in range(options.queries // 4):
        for handler in served:
            if not handler.configuration:
                exits[handler.name].append(to_exit(handler))
    bursts: dict[str, list[load.Load]] = {handler.name: [] for handler in served}
    for _ in range(3):
        for handler in served:
            bursts[handler.name].append(load.run(handler.port, handler.question, options.burst, 50))
    found = {
        "reply": {name: statistics.median(values) for name, values in times.items()},
        "exit": {name: statistics.median(values) for name, values in exits.items()},
        "burst": {name: statistics.median(one.per_second for one in runs) for name, runs in bursts.items()},
    }
    print("| handler | to the reply, ms | quartiles | to the exit, ms | queries/s, 50 at once | peak memory, KiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for handler in served:
        cells = [
            f"{found[kind][handler.name]:.1f} ({found[kind][handler.name] / found[kind]['constant']:.2f})"
            if handler.name in found[kind] else "" for kind in ("reply", "exit", "burst")
        ]  # fmt: skip
        first, _, third = statistics.quantiles(times[handler.name], n=4)
        bad = sum(run.wrong + run.lost for run in bursts[handler.name])
        # A C program's is below the launcher's own.
        memory = "" if handler.name.startswith("oidentd") else str(peak_memory(python, handler))
        cells[1:1] = [f"{first:.1f} to {third:.1f}"]
        note = f" {bad} wrong or lost" if bad else ""
        print(f"| {handler.name} | {' | '.join(cells)} | {memory} |{note}", flush=True)
    reply = found["reply"]
    if f"identd+{MANY_USERS}" in reply:
        more = reply[f"identd+{MANY_USERS}"] - reply["identd+example"]
        print(f"{MANY_USERS} blocks cost {more:.1f} ms (at most 10)")


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
