"""Which hosts do tests of NAT need?  One behind a gateway, the gateway, and one before it: a plugin, see `gateway`."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.hosts import Town, inside, ip
from helpers.machine import only_with_namespaces, program

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gateway(Town):
    """Three hosts in a row: `here`, behind; `gate`, which forwards between the two networks; `there`, outside."""

    HERE, HERE_6 = "10.92.0.2", "fd92::2"
    INNER, INNER_6, OUTER, OUTER_6 = "10.92.0.1", "fd92::1", "10.91.0.1", "fd91::1"
    THERE, THERE_TOO, THERE_6 = "10.91.0.2", "10.91.0.9", "fd91::2"

    @property
    def gate(self) -> str:
        """The network namespace of the gateway."""
        return self.elsewhere

    def _build(self, bridges: int) -> None:
        for namespace in (self.here, self.gate, self.there):
            ip("netns", "add", namespace)
            self.namespaces.append(namespace)
            ip("link", "set", "lo", "up", namespace=namespace)
        for device, far, inner, outer in (
            ("in", self.here, (self.INNER, self.INNER_6), (self.HERE, self.HERE_6)),
            ("out", self.there, (self.OUTER, self.OUTER_6), (self.THERE, self.THERE_TOO, self.THERE_6)),
        ):
            ip("link", "add", "name", device, "type", "veth", "peer", "name", device, "netns", far, namespace=self.gate)
            # Without a link-local address of its own a router asks for no neighbour.
            self._address(self.gate, device, *inner, self.HERE_LINK)
            self._address(far, device, *outer, self.THERE_LINK)
        for gateway in (self.INNER, self.INNER_6):
            ip("route", "add", "default", "via", gateway, namespace=self.here)
        # Outside knows the way back, for what is not translated.
        for network, gateway in (("10.92.0.0/24", self.OUTER), ("fd92::/64", self.OUTER_6)):
            ip("route", "add", network, "via", gateway, namespace=self.there)
        with inside(self.gate):
            for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", setting).write_text("1")

    @contextlib.contextmanager
    def translating(
        self, *rules: str, hook: str = "postrouting", zone: str = "", namespace: str = ""
    ) -> Iterator[None]:
        """Have the gateway translate, by rules in nft(8)'s language.

        :param hook: where: ``"prerouting"`` for destinations. :param zone: a rule for what is raw, before that.
        :param namespace: which other host does.
        """
        raw = f"chain r {{\ntype filter hook prerouting priority -300\n{zone}\n}}" if zone else ""
        chain = f"chain n {{\ntype nat hook {hook} priority 0\n" + "\n".join(rules) + "\n}"
        self.nft(f"table inet identd {{\n{raw}\n{chain}\n}}\n", namespace)
        try:
            yield
        finally:
            self.nft("delete table inet identd\n", namespace)

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """Have the gateway lose what ends a connection, so that conntrack's entries outlive it."""
        chain = "chain f {\ntype filter hook forward priority -200\ntcp flags & (fin | rst) != 0 drop\n}"
        self.nft(f"table inet forgetting {{\n{chain}\n}}\n")
        try:
            yield
        finally:
            self.nft("delete table inet forgetting\n")

    def nft(self, commands: str, namespace: str = "") -> None:
        """Have a host obey commands in nft(8)'s language; the gateway unless another one is named."""
        words = [program("ip"), "netns", "exec", namespace or self.gate, program("nft"), "-f", "-"]
        done = subprocess.run(words, input=commands, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{commands}: {done.stderr}"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """A host behind a gateway, and one before it, where somebody listens on two ports."""
    only_with_namespaces()
    program("nft")
    with contextlib.closing(Gateway()) as hosts:
        yield hosts
