"""What may stand behind the judged host: further network namespaces, joined or not, and what is forged in them?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from helpers.hosts import ip
from helpers.judged import FAR, REAL, Judged, Net

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def namespace(judged: Judged, name: str) -> Iterator[str]:
    """Make another network namespace."""
    full = f"{judged.gateway.gate}-{name}"
    ip("netns", "add", full)
    try:
        ip("link", "set", "lo", "up", namespace=full)
        yield full
    finally:
        ip("netns", "del", full)


@contextlib.contextmanager
def joined(net: Net, around: str, inner: str, device: str, number: int) -> Iterator[None]:
    """Join two network namespaces by a link with an address at each end (see `hosts`)."""
    ip("link", "add", "name", device, "type", "veth", "peer", "name", "eth0", "netns", inner, namespace=around)
    try:
        outside, within = hosts(net, number)
        for place, name, host in ((around, device, outside), (inner, "eth0", within)):
            ip("addr", "add", *prefixed(host), "dev", name, namespace=place)
            ip("link", "set", name, "up", namespace=place)
        ip("route", "add", "default", "via", outside, namespace=inner)
        yield
    finally:
        # Its namespace may end later, by itself, and the name is wanted again.
        ip("link", "del", device, namespace=around)


def hosts(net: Net, number: int) -> tuple[str, str]:
    """Return the addresses of a link's two ends, the outer one first."""
    network = f"fd94:{number}::" if ":" in net.there else f"10.94.{number}."
    return f"{network}1", f"{network}2"


def prefixed(host: str) -> list[str]:
    """Return an address with its network's length, and what makes it one at once."""
    return [f"{host}/64", "nodad"] if ":" in host else [f"{host}/24"]


def twin(judged: Judged, net: Net, name: str) -> None:
    """Have somebody who is root of a network namespace make "the same" connection, between two addresses of their own.

    Both are on the loopback device.
    """
    judged.within(name, "import subprocess")
    for host in (net.behind, net.there):
        words = ["ip", "addr", "add", host, "dev", "lo", *(["nodad"] if ":" in host else [])]
        judged.within(name, "subprocess.run(words, check=True).returncode", words=words)
    listen = "listener = socket.create_server((host, port), family=family_of(host))"
    judged.within(name, listen, host=net.there, port=FAR)
    judged.within(name, "dial(address, source=here)", address=(net.there, FAR), here=(net.behind, REAL))
