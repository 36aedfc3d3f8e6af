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
from helpers.inner import hosts, joined, namespace, prefixed, twin
from helpers.judged import FAR, MASQUERADING, OUTSIDE, REAL, Judged, Net

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]


@contextlib.contextmanager
def untold(judged: Judged, net: Net) -> Iterator[None]:
    """Have a rule that may lead packets elsewhere, so that the route does not tell which namespace is meant."""
    rule = "fwmark", "77", "table", "main"
    version = "-6" if ":" in net.there else "-4"
    ip(version, "rule", "add", *rule, namespace=judged.gateway.gate)
    try:
        yield
    finally:
        ip(version, "rule", "del", *rule, namespace=judged.gateway.gate)


def masqueraded(judged: Judged, net: Net) -> contextlib.AbstractContextManager[None]:
    """Have a process of the user's behind have a connection, which this host masquerades."""
    return judged.masqueraded(judged.user.pw_uid, there=net.there, source=net.behind, image=False)


@pytest.mark.parametrize("form", FORMS)
def test_a_forged_one_is_never_named(judged: Judged, net: Net, form: str) -> None:
    """Any user may make a network namespace that is not joined to ours: no twin in it counts, stale or true.

    So it is where the route tells which one is meant, and where all that are joined are searched.
    """
    gateway, uid = judged.gateway, nameless_uid()
    with contextlib.ExitStack() as stack:
        stack.enter_context(masqueraded(judged, net))
        forged = stack.enter_context(namespace(judged, "forged"))
        stack.enter_context(judged.living("mallory", forged, 0, image=False))
        twin(judged, net, "mallory")
        judged.within("mallory", "os.setuid(uid); checked(libc.prctl(4, 1, 0, 0, 0))", uid=uid)
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == named, judged.log
        with untold(judged, net):
            assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == named, judged.log
        with gateway.forgetting():
            judged.within("behind", "kept.pop().close()")
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == "ERROR:NO-USER", judged.log
        with untold(judged, net):
            assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == "ERROR:NO-USER", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_root_of_a_joined_one_forges(judged: Judged, net: Net, form: str) -> None:
    """Root of a container that is joined to ours has a twin: whom the packets go to is named, or nobody is."""
    gateway = judged.gateway
    with contextlib.ExitStack() as stack:
        stack.enter_context(masqueraded(judged, net))
        other = stack.enter_context(namespace(judged, "other"))
        stack.enter_context(joined(net, gateway.gate, other, "other", 9))
        stack.enter_context(judged.living("mallory", other, 0, image=False))
        twin(judged, net, "mallory")
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == named, judged.log
        with gateway.forgetting():
            judged.within("behind", "kept.pop().close()")
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == "ERROR:NO-USER", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_two_that_fit(judged: Judged, net: Net, form: str) -> None:
    """Where the route does not tell which network namespace is meant, two owners are none."""
    gateway = judged.gateway
    with contextlib.ExitStack() as stack:
        stack.enter_context(untold(judged, net))
        stack.enter_context(masqueraded(judged, net))
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == named, judged.log
        other = stack.enter_context(namespace(judged, "other"))
        stack.enter_context(joined(net, gateway.gate, other, "other", 9))
        stack.enter_context(judged.living("mallory", other, 0, image=False))
        twin(judged, net, "mallory")
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == "ERROR:UNKNOWN-ERROR"
        assert "different owners fit" in judged.log


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("translates", (True, False), ids=("NAT", "routed"))
def test_layers(judged: Judged, net: Net, form: str, translates: bool) -> None:
    """Containers in containers, three deep, whether these translate or route; a fourth is too deep to be named."""
    gateway = judged.gateway
    named = f"USERID:UNIX:{judged.user.pw_name}"
    with contextlib.ExitStack() as stack:
        around = gateway.here
        for layer in (2, 3, 4):
            inner = stack.enter_context(namespace(judged, f"layer{layer}"))
            stack.enter_context(joined(net, around, inner, f"down{layer}", layer))
            with inside(around):
                for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                    Path("/proc/sys/net", setting).write_text("1")
            if translates:
                rule = f"oifname {'eth0' if layer > 2 else 'in'} masquerade"
                stack.enter_context(gateway.translating(rule, namespace=around))
            else:
                network = prefixed(hosts(net, layer)[0])[0].replace("::1/", "::/").replace(".1/", ".0/")
                for outer, device, hop in routes_to(judged, net, layer):
                    ip("route", "add", network, "via", hop, "dev", device, namespace=outer)
                    stack.callback(ip, "route", "del", network, "dev", device, namespace=outer)
            # A namespace that has neither a name nor a process is not to be seen.
            stack.enter_context(judged.living(f"router{layer}", around, nameless_uid()))
            # A port for each: conntrack keeps it for some seconds.
            port = OUTSIDE + layer
            with (
                gateway.translating(MASQUERADING.format(port)),
                judged.living("deep", inner, judged.user.pw_uid, image=False),
            ):
                judged.dials("deep", net.there, hosts(net, layer)[1])
                expected = named if layer < 4 else "ERROR:UNKNOWN-ERROR"
                assert judged.asked(form, (port, FAR), "-m", target=net.outer) == expected, judged.log
            around = inner


def routes_to(judged: Judged, net: Net, layer: int) -> list[tuple[str, str, str]]:
    """Return by which device, and which next hop, each host around a layer but the next reaches it."""
    gateway = judged.gateway
    steps = [(gateway.gate, "in", net.behind), (gateway.here, "down2", hosts(net, 2)[1])]
    steps += [(f"{gateway.gate}-layer{n}", f"down{n + 1}", hosts(net, n + 1)[1]) for n in (2, 3)]
    return steps[: layer - 1]


@pytest.mark.parametrize("form", FORMS)
def test_a_routed_container(judged: Judged, net: Net, form: str) -> None:
    """The query is led here that was for the container's own address, and nothing else is translated."""
    gateway = judged.gateway
    rule = "iifname out tcp dport 113 redirect to :1130"
    with (
        gateway.translating(rule, hook="prerouting"),
        judged.living("behind", gateway.here, judged.user.pw_uid, image=False),
        judged.living("bob", "", nameless_uid(), image=False),
    ):
        for name, host in (("behind", net.behind), ("bob", net.outer)):
            judged.dials(name, net.there, host, port=REAL + 1)
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (REAL + 1, FAR), "-m", target=net.behind, led_to=1130) == named, judged.log
        assert judged.asked(form, (REAL + 1, FAR), target=net.behind, led_to=1130) == "ERROR:NO-USER"


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
