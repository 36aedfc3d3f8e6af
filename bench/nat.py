"""What does a query cost whose owner is behind this host's NAT, or in a container, beside one about a local process?

    python3 -m bench.nat [--namespaces N] [--entries N] [--processes N] [--descriptors N] [--queries N]

Run it as root from the checkout; it needs the Debian packages xinetd, nftables, iproute2 and python3-venv. The far end
of every connection is a network namespace, and so is each container; conntrack's entries are made by netlink; the
processes that are to be seen are the measurement's own. One xinetd and two warm processes serve, with --masquerade (as
root, who gives it up) and without it (as `nobody`). They are asked from the far end, in turns, in changing order. What
counts is the ratios: in the table, to a local query with --masquerade and to one without it. They grow with what is on
the host: who holds a container's socket is looked for among all processes and descriptors.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import host, load
from .single_shot import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Where `host.Connections` has its two ends; the port there that everybody may connect to.
HERE, FAR, FAR_PORT = "10.113.0.1", "10.113.0.2", 7000

#: The local port of the container's connection, which masquerading keeps; the port that is led to the next one.
CONTAINER_PORT, LED = 40000, 8000

RULES = f"""
table ip bench {{
    chain out {{
        type nat hook postrouting priority 100
        ip saddr 10.114.0.0/16 oifname "bench0" masquerade
    }}
    chain in {{
        type nat hook prerouting priority -100
        tcp dport {LED} redirect to :{LED + 1}
    }}
}}
"""

#: So many entries are few; and how often few and many of them take turns.
FEW, ROUNDS = 10, 4

#: Warm queries for each one of a single shot's.
WARM = 8

#: What issue 12 asks for: a single shot with one namespace and with many, and a warm query, as ratios to a local one;
#: and how far many entries may be from few.
ONE, MANY, WARM_MOST, FLAT = 1.5, 2.0, 3.0, 0.1

#: Seconds for the kernel to take down what a container had.
GONE_SECONDS = 60.0

#: linux/netfilter/nfnetlink_conntrack.h: messages of the subsystem, and attributes.
_CT_NEW, _CT_DELETE = 0x100, 0x102
_CREATE, _DELETE = 0x1 | 0x400 | 0x200, 0x1  # NLM_F_REQUEST, NLM_F_CREATE, NLM_F_EXCL
_ORIGINAL, _REPLY, _TIMEOUT, _NESTED = 1, 2, 7, 0x8000
_CLONE_NEWNET, _NETLINK_NETFILTER = 0x40000000, 12


class Kind(NamedTuple):
    """A query that is compared: its name in the table, and what is asked of which server."""

    name: str
    question: load.Question
    single: int
    warm: int


# Network namespaces


def enter(path: str) -> None:
    """Move this process into a network namespace."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)  # os.setns is younger than Python 3.9
        if libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)


@contextlib.contextmanager
def inside(path: str) -> Iterator[None]:
    """Be in a network namespace for a while."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        yield
    finally:
        enter(f"/proc/self/fd/{home}")
        os.close(home)


def container(number: int, root: Path | None) -> host._Child:
    """Start a process in a network namespace of its own that a link joins to ours.

    :param number: a different one for each, up to 250. :param root: its root directory, if it is to connect to the far
        end as a user, and otherwise None.
    """

    def live(us: socket.socket) -> None:
        alone(us)
        host._unshare(_CLONE_NEWNET)
        us.sendall(b".")
        host._heard(us)
        if root is not None:
            host._run("ip", "link", "set", "eth0", "up")
            host._run("ip", "addr", "add", f"10.114.{number}.2/24", "dev", "eth0")
            host._run("ip", "route", "add", "default", "via", f"10.114.{number}.1")
            os.chroot(root)
            os.chdir("/")
            os.setgroups([])
            os.setresgid(host.PLAIN_UID, host.PLAIN_UID, host.PLAIN_UID)
            os.setresuid(host.PLAIN_UID, host.PLAIN_UID, host.PLAIN_UID)
            connection = socket.socket()
            connection.bind((f"10.114.{number}.2", CONTAINER_PORT))
            connection.connect((FAR, FAR_PORT))
        us.sendall(b".")
        host._heard(us)

    child = host._Child(live)
    child.wait()
    device = f"box{number}"
    host._run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(child.pid))
    host._run("ip", "addr", "add", f"10.114.{number}.1/24", "dev", device)
    host._run("ip", "link", "set", device, "up")
    child.tell(0)
    child.wait()
    return child


def idle(descriptors: int) -> host._Child:
    """Start a process that does nothing. :param descriptors: how many it has open, besides the standard ones."""

    def stay(us: socket.socket) -> None:
        alone(us)
        for _ in range(descriptors - 1):
            os.dup(us.fileno())
        us.recv(1)

    return host._Child(stay)


def alone(us: socket.socket) -> None:
    """Close what this child inherited: each one would have more than the one before it."""
    os.closerange(3, us.fileno())
    os.closerange(us.fileno() + 1, 4096)


def close_all(containers: list[host._Child]) -> None:
    """End containers, and wait until no link leads to them."""
    left = len(boxes()) - len(containers)
    while containers:
        containers.pop().close()
    deadline = time.monotonic() + GONE_SECONDS
    while len(boxes()) > left:
        if time.monotonic() > deadline:
            raise RuntimeError("the containers' links stay")
        time.sleep(0.1)


def boxes() -> list[str]:
    """Return the names of the links that lead into containers."""
    return [name for _, name in socket.if_nameindex() if name.startswith("box")]


# Conntrack's entries


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust((len(value) + 3) & ~3, b"\0")


def _tuple(kind: int, source: int, target: int, ports: tuple[int, int]) -> bytes:
    addresses = _attribute(1, struct.pack("!I", source)) + _attribute(2, struct.pack("!I", target))
    protocol = _attribute(1, bytes([socket.IPPROTO_TCP])) + b"".join(
        _attribute(2 + number, struct.pack("!H", port)) for number, port in enumerate(ports)
    )
    return _attribute(kind | _NESTED, _attribute(1 | _NESTED, addresses) + _attribute(2 | _NESTED, protocol))


def _message(kind: int, flags: int, number: int) -> bytes:
    """Return the message that makes or removes one entry, of a connection between two addresses far away."""
    one, other, port = 0xC6120000 + number // 50000, 0xC6130001, 10000 + number % 50000  # 198.18.0.0/15: for benchmarks
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + _tuple(_ORIGINAL, one, other, (port, 443))
    if kind == _CT_NEW:
        body += _tuple(_REPLY, other, one, (443, port)) + _attribute(_TIMEOUT, struct.pack("!I", 3600))
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number + 1, 0) + body


def change_entries(kind: int, numbers: Sequence[int]) -> None:
    """Make or remove entries. :raises RuntimeError: the kernel says no."""
    flags = _CREATE if kind == _CT_NEW else _DELETE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.setblocking(False)  # the kernel has answered when send() returns
        for at in range(0, len(numbers), 100):
            netlink.send(b"".join(_message(kind, flags, number) for number in numbers[at : at + 100]))
            with contextlib.suppress(BlockingIOError):
                error = -struct.unpack_from("=i", netlink.recv(65536), 16)[0]
                raise RuntimeError(f"conntrack's entries: {os.strerror(error)}")


def entries() -> int:
    """Return how many entries this network namespace has."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


# Servers, and what they are asked


def start_servers(directory: Path, venv: Path) -> tuple[dict[str, int], list[host.Daemon]]:
    """Start all of them; return their ports: ``single``, ``warm``, and each with ``-m``."""
    ports = {name: host.free_port() for name in ("single", "single -m", "warm", "warm -m")}
    identd, started = str(venv / "identd"), []
    services = directory / "xinetd.conf"
    services.write_text("".join(
        SERVICE.format(
            name=f"bench-{user}", port=ports[name], bind="0.0.0.0", user=user, server=identd, arguments=words
        )
        for name, user, words in (("single", "nobody", ""), ("single -m", "root", "server_args = --masquerade"))
    ))  # fmt: skip
    try:
        started.append(host.Daemon([host.program("xinetd"), "-dontfork", "-f", str(services)], ports["single"]))
        for name, words in (("warm", []), ("warm -m", ["--masquerade"])):
            command = [identd, "-i", "-a", "0.0.0.0", "-p", str(ports[name]), *words]
            started.append(host.Daemon(command, ports[name]))
    except RuntimeError:
        host.stop_servers(dict(enumerate(started)))  # type: ignore[arg-type]
        raise
    return ports, started


@contextlib.contextmanager
def connected(far: str) -> Iterator[tuple[load.Question, load.Question]]:
    """Hold a local connection and one that a rule led here; yield the questions whose they are."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HERE, LED + 1)))
        with inside(far):
            caller = stack.enter_context(socket.create_connection((HERE, LED)))
        os.seteuid(host.PLAIN_UID)
        try:
            stack.enter_context(listener.accept()[0])
            local = stack.enter_context(socket.socket())
            local.connect((FAR, FAR_PORT))
        finally:
            os.seteuid(0)
        yield (
            question(local.getsockname()[1], FAR_PORT, "UNIX", "benchplain"),
            question(LED, caller.getsockname()[1], "UNIX", "benchplain"),
        )


def question(port: int, far_port: int, system: str, name: str) -> load.Question:
    """Return a query and the reply that is right."""
    reply = rf"{port} ?, ?{far_port} ?: ?USERID ?: ?{system} ?: ?{name}\r\n"
    return load.Question(b"%d,%d\r\n" % (port, far_port), re.compile(reply.encode()))


Times = dict[str, dict[str, list[float]]]


def measure(kinds: list[Kind], far: str, queries: int, times: Times) -> None:
    """Ask from the far end, in turns; add the milliseconds from connect to reply."""
    with inside(far):
        for form, count in (("single", queries), ("warm", queries * WARM)):
            for kind in kinds * 2:
                try:
                    load.ask(getattr(kind, form), kind.question, HERE)
                except (RuntimeError, OSError) as error:
                    raise RuntimeError(f"{kind.name}, {form}: {error}") from None
            for _ in range(count):
                # Each after each other one: a process finds the processor's caches as the last one left them.
                for kind in random.sample(kinds, len(kinds)):
                    took = load.ask(getattr(kind, form), kind.question, HERE) * 1e3
                    times.setdefault(form, {}).setdefault(kind.name, []).append(took)


Ratios = dict[str, dict[str, tuple[float, float]]]


def report(kinds: list[Kind], times: Times, where: str) -> Ratios:
    """Print lines of the table; return the ratios to local queries with and without --masquerade, by form and name."""
    median = {form: {name: statistics.median(took) for name, took in of.items()} for form, of in times.items()}
    ratio = {
        form: {name: (took / of["local -m"], took / of["local"]) for name, took in of.items()}
        for form, of in median.items()
    }
    for kind in kinds:
        cells = [
            f"{median[form][kind.name]:.2f} | {ratio[form][kind.name][0]:.2f} | {ratio[form][kind.name][1]:.2f}"
            for form in ("single", "warm")
        ]
        print(f"| {kind.name} | {where} | {' | '.join(cells)} |", flush=True)
    return ratio


def verdict(what: str, ratio: float, most: float) -> None:
    """Print whether a ratio is as it should be."""
    print(f"{what}: {ratio:.2f} (at most {most:.2f}){'' if ratio <= most else ': TOO MUCH'}")


def run(options: argparse.Namespace, far: str, ports: dict[str, int], root: Path) -> None:
    """Measure and print everything."""
    others = [container(number, None) for number in range(1, options.namespaces)]
    # The last one: whoever looks for it comes to the others first.
    mine = container(0, root)
    try:
        with connected(far) as (local, led):
            inner = question(CONTAINER_PORT, FAR_PORT, "OTHER", str(host.PLAIN_UID))
            masquerading = ports["single -m"], ports["warm -m"]
            kinds = [
                Kind("local", local, ports["single"], ports["warm"]),
                Kind("local -m", local, *masquerading),
                Kind("redirected -m", led, *masquerading),
                Kind("container -m", inner, *masquerading),
            ]
            titles = ["query", "namespaces, entries"]
            for form in ("single shot", "warm"):
                titles += [f"{form}, ms", "to local -m", "to local"]
            print(f"| {' | '.join(titles)} |\n{'| --- ' * len(titles)}|")
            found = measured(kinds, far, options, others)
        for form, one, many in (("single", ONE, MANY), ("warm", WARM_MOST, WARM_MOST)):
            for name in ("redirected -m", "container -m"):
                for at, base in enumerate(("local -m", "local")):
                    verdict(f"{form}, {name} to {base}, 1 namespace", found["one"][form][name][at], one)
                    count = f"{options.namespaces} namespaces"
                    verdict(f"{form}, {name} to {base}, {count}", found["many"][form][name][at], many)
                moved = found["full"][form][name][0] / found["one"][form][name][0]
                verdict(f"{form}, {name}, {options.entries} entries to {FEW}", moved, 1 + FLAT)
    finally:
        close_all([*others, mine])


def measured(kinds: list[Kind], far: str, options: argparse.Namespace, others: list[host._Child]) -> dict[str, Ratios]:
    """Measure with many namespaces, then with one, and with few and many entries; return the ratios."""
    change_entries(_CT_NEW, range(FEW))
    times: dict[str, Times] = {"many": {}, "one": {}, "full": {}}
    measure(kinds, far, options.queries, times["many"])
    found = {"many": report(kinds, times["many"], f"{options.namespaces}, {FEW}")}
    close_all(others)
    most = 0
    for number in range(ROUNDS):
        for name in ("one", "full") if number % 2 else ("full", "one"):
            more = range(FEW, options.entries) if name == "full" else ()
            change_entries(_CT_NEW, more)
            most = max(most, entries())
            measure(kinds, far, -(-options.queries // ROUNDS), times[name])
            change_entries(_CT_DELETE, more)
    if most < options.entries:
        raise RuntimeError(f"there were only {most} entries")
    for name, count in (("one", FEW), ("full", options.entries)):
        found[name] = report(kinds, times[name], f"1, {count}")
    return found


def main() -> int:
    """Run from the command line."""
    parser = host.parser(__doc__)
    parser.add_argument("--namespaces", type=int, default=200, help="joined ones, up to 250 (default: %(default)s)")
    parser.add_argument("--entries", type=int, default=50000, help="of conntrack (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=80, help="single shots for each median (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=150, help="idle ones of the host (default: %(default)s)")
    parser.add_argument("--descriptors", type=int, default=16, help="of each idle one (default: %(default)s)")
    options = parser.parse_args()
    if not 1 <= options.namespaces <= 250 or options.entries <= FEW or options.queries < 1:
        parser.error("one of the numbers makes no sense")
    host.require(options.python, "xinetd", "nft")
    if os.getpid() != 1:
        # Whose a process is, is told by process 1, which not every sandbox shows.
        words = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "bench.nat"]
        os.execv(host.program("unshare"), ["unshare", *words, *sys.argv[1:]])
    with host.prepared(options, "xinetd", "nft") as (directory, venv, found), contextlib.ExitStack() as stack:
        syslog = host.Syslog()
        stack.callback(syslog.close)
        connections = host.Connections(1)
        stack.callback(connections.close)
        subprocess.run([host.program("nft"), "-f", "-"], input=RULES, text=True, check=True)
        host._sysctl("ip_forward", "1")
        # What a query leaves behind is no entry for long.
        Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close").write_text("1")
        root = directory / "root"
        root.mkdir()
        for _ in range(options.processes):
            stack.callback(idle(options.descriptors).close)
        print(
            f"{host.describe(found)}; {options.processes} idle processes of {options.descriptors} descriptors",
            flush=True,
        )
        ports, servers = start_servers(directory, venv)
        for server in servers:
            stack.callback(server.stop)
        run(options, connections.far, ports, root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
