"""Which network namespaces count, how many layers deep, and what can somebody inside forge?

(Items 1, 3 and 4 of issue 12.)
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.hosts import inside, ip, nameless_uid
from helpers.judged import FAR, MASQUERADING, OUTSIDE, REAL, Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]

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


def joined(around: str, inner: str, device: str, outside: str, inside: str) -> None:
    """Join two network namespaces by a link with an address at each end."""
    ip("link", "add", "name", device, "type", "veth", "peer", "name", "eth0", "netns", inner, namespace=around)
    for place, name, host in ((around, device, outside), (inner, "eth0", inside)):
        ip("addr", "add", f"{host}/24", "dev", name, namespace=place)
        ip("link", "set", name, "up", namespace=place)
    ip("route", "add", "default", "via", outside, namespace=inner)


def twin(judged: Judged, name: str, source: str) -> None:
    """Have somebody who is root of a network namespace make "the same" connection, between two addresses of their own.

    Both are on the loopback device.
    """
    judged.within(name, "import subprocess")
    for host in (source, judged.gateway.THERE):
        judged.within(
            name, "subprocess.run(words, check=True).returncode", words=["ip", "addr", "add", f"{host}/32", "dev", "lo"]
        )
    judged.within(name, "listener = socket.create_server((host, port))", host=judged.gateway.THERE, port=FAR)
    judged.within(name, "dial(address, source=here)", address=(judged.gateway.THERE, FAR), here=(source, REAL))


@pytest.mark.parametrize("form", FORMS)
def test_a_forged_one_is_never_named(judged: Judged, form: str) -> None:
    """Any user may make a network namespace that is not joined to ours: no twin in it counts, stale or true."""
    gateway, uid = judged.gateway, nameless_uid()
    with contextlib.ExitStack() as stack:
        stack.enter_context(judged.masqueraded(judged.user.pw_uid, image=False))
        forged = stack.enter_context(namespace(judged, "forged"))
        stack.enter_context(judged.living("mallory", forged, 0, image=False))
        twin(judged, "mallory", gateway.HERE)
        judged.within("mallory", "os.setuid(uid); checked(libc.prctl(4, 1, 0, 0, 0))", uid=uid)
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == f"USERID:UNIX:{judged.user.pw_name}", judged.log
        with gateway.forgetting():
            judged.within("behind", "kept.pop().close()")
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:NO-USER", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_root_of_a_joined_one_forges(judged: Judged, form: str) -> None:
    """Root of a container that is joined to ours has a twin: whom the packets go to is named, or nobody is."""
    gateway = judged.gateway
    with contextlib.ExitStack() as stack:
        stack.enter_context(judged.masqueraded(judged.user.pw_uid, image=False))
        other = stack.enter_context(namespace(judged, "other"))
        joined(gateway.gate, other, "other", "10.93.0.1", "10.93.0.2")
        stack.enter_context(judged.living("mallory", other, 0, image=False))
        twin(judged, "mallory", gateway.HERE)
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == named, judged.log
        with gateway.forgetting():
            judged.within("behind", "kept.pop().close()")
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:NO-USER", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_two_that_fit(judged: Judged, form: str) -> None:
    """Where the route does not tell which network namespace is meant, two owners are none."""
    gateway = judged.gateway
    with contextlib.ExitStack() as stack:
        ip("rule", "add", "fwmark", "77", "table", "main", namespace=gateway.gate)
        stack.callback(ip, "rule", "del", "fwmark", "77", "table", "main", namespace=gateway.gate)
        stack.enter_context(judged.masqueraded(judged.user.pw_uid, image=False))
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == f"USERID:UNIX:{judged.user.pw_name}", judged.log
        other = stack.enter_context(namespace(judged, "other"))
        joined(gateway.gate, other, "other", "10.93.0.1", "10.93.0.2")
        stack.enter_context(judged.living("mallory", other, 0, image=False))
        twin(judged, "mallory", gateway.HERE)
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:UNKNOWN-ERROR"
        assert "different owners fit" in judged.log


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("translates", (True, False), ids=("NAT", "routed"))
def test_layers(judged: Judged, form: str, translates: bool) -> None:
    """Containers in containers, three deep, whether these translate or route; a fourth is too deep to be named."""
    gateway = judged.gateway
    named = f"USERID:UNIX:{judged.user.pw_name}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(gateway.translating(MASQUERADING.format(OUTSIDE)))
        around = gateway.here
        for layer in (2, 3, 4):
            inner = stack.enter_context(namespace(judged, f"layer{layer}"))
            joined(around, inner, f"down{layer}", f"10.94.{layer}.1", f"10.94.{layer}.2")
            with inside(around):
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            if translates:
                rule = f"oifname {'eth0' if layer > 2 else 'in'} masquerade"
                stack.enter_context(gateway.translating(rule, namespace=around))
            else:
                for outer, device, hop in routes_to(judged, layer):
                    ip("route", "add", f"10.94.{layer}.0/24", "via", hop, "dev", device, namespace=outer)
                    stack.callback(ip, "route", "del", f"10.94.{layer}.0/24", "dev", device, namespace=outer)
            # A namespace that has neither a name nor a process is not to be seen.
            stack.enter_context(judged.living(f"router{layer}", around, nameless_uid()))
            with judged.living("deep", inner, judged.user.pw_uid, image=False):
                judged.dials("deep", gateway.THERE, f"10.94.{layer}.2")
                expected = named if layer < 4 else "ERROR:UNKNOWN-ERROR"
                assert judged.asked(form, (OUTSIDE, FAR), "-m") == expected, judged.log
            around = inner


def routes_to(judged: Judged, layer: int) -> list[tuple[str, str, str]]:
    """Return by which device, and which next hop, each host around a layer but the next reaches it."""
    gateway = judged.gateway
    hosts = [(gateway.gate, "in", gateway.HERE), (gateway.here, "down2", "10.94.2.2")]
    hosts += [(f"{gateway.gate}-layer{n}", f"down{n + 1}", f"10.94.{n + 1}.2") for n in (2, 3)]
    return hosts[: layer - 1]


@pytest.mark.parametrize("form", FORMS)
def test_a_routed_container(judged: Judged, form: str) -> None:
    """The query is led here that was for the container's own address, and nothing else is translated."""
    gateway = judged.gateway
    rule = "iifname out tcp dport 113 redirect to :1130"
    with (
        gateway.translating(rule, hook="prerouting"),
        judged.living("behind", gateway.here, judged.user.pw_uid, image=False),
        judged.living("bob", "", nameless_uid(), image=False),
    ):
        for name, host in (("behind", gateway.HERE), ("bob", gateway.OUTER)):
            judged.dials(name, gateway.THERE, host, port=REAL + 1)
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (REAL + 1, FAR), "-m", target=gateway.HERE, led_to=1130) == named, judged.log
        assert judged.asked(form, (REAL + 1, FAR), target=gateway.HERE, led_to=1130) == "ERROR:NO-USER"


#: How many network namespaces there are beside the container's.
MANY = 500

_MANY = """
home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
for path in paths:
    open(path, "x").close()
    checked(libc.unshare(CLONE_NEWNET))
    checked(libc.mount(b"/proc/thread-self/ns/net", path.encode(), None, 4096, None))  # MS_BIND
checked(libc.setns(home, CLONE_NEWNET))
os.close(home)
# As a link does: by RTM_NEWNSID.
lines = "".join(f"netns set {os.path.basename(path)} {number}\\n" for number, path in enumerate(paths, 1000))
subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, timeout=60).returncode
"""

_NO_MORE = """
for path in paths:
    if os.path.exists(path):
        libc.umount2(path.encode(), 2)  # MNT_DETACH
        os.unlink(path)
"""


@contextlib.contextmanager
def many(judged: Judged) -> Iterator[None]:
    """Have the judged host see so many other network namespaces, all joined to it."""
    paths = [f"/run/netns/many-{number}" for number in range(MANY)]
    try:
        judged.host.tell(_MANY, paths=paths)
        yield
    finally:
        judged.host.tell(_NO_MORE, paths=paths)


def test_500_of_them(judged: Judged) -> None:
    """Among 500 others a container's user is named, whether the route tells where the container is or all are searched.

    Who is nobody's there is nobody's, and not unknown.
    """
    gateway, named = judged.gateway, f"USERID:UNIX:{judged.user.pw_name}"
    with many(judged), contextlib.ExitStack() as stack:
        stack.enter_context(gateway.translating(MASQUERADING.format(OUTSIDE)))
        stack.enter_context(judged.living("behind", gateway.here, judged.user.pw_uid, image=False))
        # A port of its own: conntrack may still have what went through the container on the usual one.
        judged.dials("behind", gateway.THERE, gateway.HERE, port=REAL + 5)
        for form in FORMS:
            assert judged.asked(form, (OUTSIDE, FAR), "-m") == named, judged.log
        ip("rule", "add", "fwmark", "77", "table", "main", namespace=gateway.gate)
        stack.callback(ip, "rule", "del", "fwmark", "77", "table", "main", namespace=gateway.gate)
        for form in FORMS:
            assert judged.asked(form, (OUTSIDE, FAR), "-m") == named, judged.log
        with gateway.forgetting():
            judged.within("behind", "kept.pop().close()")
        assert judged.asked("warm", (OUTSIDE, FAR), "-m") == "ERROR:NO-USER", judged.log
