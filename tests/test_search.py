"""What comes of a search in which things change, and who holds a socket that different ones have?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import ip, nameless_uid
from helpers.inner import namespace, twin
from helpers.judged import FAR, REAL, Judged, Net

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: On the judged host: search, and have something change when the socket was found, and when its holder was.
SEARCH = """
from lookup.kernel import custody, search, wire
custody._hints.clear()
genuine, searches = custody.of, 0
def of(*asked):
    global searches
    searches += 1
    if changes:
        exec(changes.pop(0), globals())
    answer = genuine(*asked)
    if later:
        exec(later.pop(0), globals())
    return answer
custody.of = of
try:
    found = search.search(wire.Request((ours, 50123), (far, 6667)))
finally:
    custody.of = genuine
found.kind, found.uid, found.held, found.reason, searches
"""


@pytest.fixture
def masqueraded(judged: Judged) -> Iterator[Judged]:
    """A container's process, called behind, has a connection, which the judged host masquerades."""
    with judged.masqueraded(judged.user.pw_uid):
        yield judged


def searched(judged: Judged, *changes: str, later: tuple[str, ...] = ()) -> Any:
    """Return the kind, the uid, who holds it, the reason, and how often a socket was found.

    :param changes: what each time is run before its holder is looked for; :param later: and after that.
    """
    gateway = judged.gateway
    values: dict[str, Any] = {"changes": list(changes), "later": list(later)}
    values.update(ours=gateway.OUTER, far=gateway.THERE)
    return judged.host.tell("import pathlib\n" + SEARCH, **values)


def test_it_ends_meanwhile(masqueraded: Judged) -> None:
    """Its process ends when its socket was found, and conntrack's entry outlives it: nobody, and no error."""
    from lookup.kernel.wire import INSIDE, NOBODY, OF_A_CONTAINER

    assert searched(masqueraded)[:3] == (INSIDE, masqueraded.user.pw_uid, OF_A_CONTAINER)
    with masqueraded.gateway.forgetting():
        assert searched(masqueraded, "people['behind'].tell('kept.pop().close()')")[0] == NOBODY


#: On the judged host: what is found is another by now.
CHANGES = "raise custody.Changing('for the test')"


def test_what_changes_is_looked_for_again(masqueraded: Judged) -> None:
    """What has changed while it was looked at is looked for once more, and no more than that."""
    from lookup.kernel.wire import FAILED, INSIDE, OF_A_CONTAINER

    uid = masqueraded.user.pw_uid
    assert searched(masqueraded) == (INSIDE, uid, OF_A_CONTAINER, "", 1)
    assert searched(masqueraded, CHANGES) == (INSIDE, uid, OF_A_CONTAINER, "", 2)
    assert searched(masqueraded, later=(CHANGES,)) == (INSIDE, uid, OF_A_CONTAINER, "", 2)
    kind, _, _, reason, searches = searched(masqueraded, CHANGES, CHANGES, CHANGES)
    assert (kind, reason, searches) == (FAILED, "for the test", 2)


#: On the judged host: the connection ends, and somebody else's begins, perhaps when conntrack has forgotten the first.
REPLACE = """
import time
people["behind"].tell("kept.pop().close()")
time.sleep(pause)
people["next"].tell("dial(address, source=here)", address=(far, {far}), here=(inside, port))
people["next"].tell("kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))")
""".replace("{far}", str(FAR))

#: On the judged host: for so long conntrack knows of a connection that was reset.
TIMEOUT = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close"


@pytest.mark.parametrize("early", [True, False], ids=["before its holder is found", "after that"])
def test_it_is_replaced_meanwhile(masqueraded: Judged, early: bool) -> None:
    """Another user of the container has the connection by the time the socket was looked at: that one is named.

    No process holds the socket any more; or conntrack's entry is another one.
    """
    from lookup.kernel.wire import INSIDE, OF_A_CONTAINER

    gateway, uid, host = masqueraded.gateway, nameless_uid(), masqueraded.host
    values: dict[str, Any] = {"inside": gateway.HERE, "port": REAL if early else REAL + 1, "pause": 0 if early else 1.5}
    look = "from lookup.kernel import search; pathlib.Path(at).read_text(), search.SECONDS"
    change = "pathlib.Path(at).write_text(limits[0]); search.SECONDS = limits[1]"
    limits = host.tell(f"import pathlib; {look}", at=TIMEOUT)
    try:
        host.tell(change, at=TIMEOUT, limits=("1", 30.0), **values)
        with masqueraded.living("next", gateway.here, uid):
            found = searched(masqueraded, *([REPLACE] if early else []), later=() if early else (REPLACE,))
        assert found == (INSIDE, uid, OF_A_CONTAINER, "", 2)
    finally:
        host.tell(change, at=TIMEOUT, limits=limits)


#: On the judged host: a name of the container's network namespace, which leads to another one from some moment on.
NAME = """
import os, pathlib
box, pid = "/run/netns/box", people["behind"].pid
def bound(source):
    if os.path.ismount(box) or os.path.exists(box):
        checked(libc.umount2(box.encode(), 2))  # MNT_DETACH
    pathlib.Path(box).touch()
    checked(libc.mount(source.encode(), box.encode(), None, 4096, None))  # MS_BIND
bound(f"/proc/{pid}/ns/net")
from lookup.kernel import namespaces
genuine_identity, moved = namespaces.identity, False
def identity(path):
    global moved
    found = genuine_identity(path)
    if path == box and not moved:
        moved = True
        bound(other)
    return found
None
"""

NAMELESS = """
namespaces.identity = genuine_identity
checked(libc.umount2(box.encode(), 2))
os.unlink(box)
"""


@pytest.mark.parametrize("route", [True, False], ids=["the route tells which", "all are searched"])
@pytest.mark.parametrize("meanwhile", [True, False], ids=["meanwhile", "since the last time"])
def test_a_name_leads_to_another_namespace(masqueraded: Judged, meanwhile: bool, route: bool) -> None:
    """By the time a namespace is opened, somebody's forged one stands there, with the same connection: it is none."""
    from lookup.kernel.wire import INSIDE, OF_A_CONTAINER

    right = (INSIDE, masqueraded.user.pw_uid, OF_A_CONTAINER, "", 1)
    gateway = masqueraded.gateway
    net = Net(gateway.HERE, gateway.INNER, gateway.OUTER, gateway.THERE)
    with contextlib.ExitStack() as stack:
        forged = stack.enter_context(namespace(masqueraded, "forged"))
        stack.enter_context(masqueraded.living("mallory", forged, 0, image=False))
        twin(masqueraded, net, "mallory")
        if not route:
            rule = "fwmark", "77", "table", "main"
            ip("rule", "add", *rule, namespace=gateway.gate)
            stack.callback(ip, "rule", "del", *rule, namespace=gateway.gate)
        masqueraded.host.tell(NAME, other=f"/run/netns/{masqueraded.path(forged)}")
        stack.callback(masqueraded.host.tell, NAMELESS)
        assert searched(masqueraded) == right
        if route:
            assert masqueraded.host.tell("box in search._hints.values()")
        masqueraded.host.tell("namespaces.identity = identity" if meanwhile else "bound(other)")
        assert searched(masqueraded) == right
        assert masqueraded.host.tell("moved") == meanwhile


#: On the judged host: a process takes each descriptor of the container's, in a network namespace.
TAKE = """
home = os.open("/proc/self/ns/net", os.O_RDONLY)
pid = people["behind"].pid
if inside:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    checked(libc.setns(namespace, 0))
    os.close(namespace)
pidfd = os.pidfd_open(pid)
taken = [libc.syscall(438, pidfd, int(fd), 0) for fd in os.listdir(f"/proc/{pid}/fd")]  # pidfd_getfd(2)
waits, goes = os.pipe()
holder = os.fork()
if not holder:
    os.close(goes)
    os.read(waits, 1)
    os._exit(0)
for fd in (*taken, pidfd, waits):
    os.close(fd)
checked(libc.setns(home, 0))
os.close(home)
None
"""


@pytest.mark.parametrize("inside", [True, False])
def test_held_by_different_ones(masqueraded: Judged, inside: bool) -> None:
    """A process of the host's has the container's socket, too: nobody of the host's is named, wherever it is."""
    from lookup.kernel.wire import FAILED, INSIDE, OF_A_CONTAINER

    masqueraded.host.tell(TAKE, inside=inside)
    try:
        kind, uid, held, reason, _ = searched(masqueraded)
    finally:
        masqueraded.host.tell("os.close(goes); os.waitpid(holder, 0)\nNone")
    if inside:
        # As `nsenter -n` puts it there.
        assert kind == FAILED
        assert "held by different ones" in reason
    else:
        assert (kind, uid, held) == (INSIDE, masqueraded.user.pw_uid, OF_A_CONTAINER)


def test_a_kernel_without_conntrack(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found locally stands, as without --masquerade (socket(2): EPROTONOSUPPORT)."""
    from lookup.kernel import conntrack, places, search
    from lookup.kernel.wire import STANDS, Request

    monkeypatch.setattr(conntrack, "_NETLINK_NETFILTER", 31)
    monkeypatch.setattr(places, "_homes", [])
    for _ in range(2):
        found = search.search(Request(("127.0.0.1", 1), ("127.0.0.1", 2), local=True))
        assert (found.kind, found.reason) == (STANDS, "no netlink socket: Protocol not supported")
    for home in places._homes:
        home.close()


def test_where_a_holder_is_looked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one held a socket of the same network namespace: no other container's processes are looked at."""
    from lookup.kernel import custody

    looked: list[int] = []

    def holds(pid: int, wanted: str) -> tuple[str, bool]:
        looked.append(pid)
        return "", True

    monkeypatch.setattr(custody, "_hints", {(1, 1): [10, 11], (2, 2): [20]})
    monkeypatch.setattr(custody, "_holds", holds)
    monkeypatch.setattr(custody, "_processes", list)
    for network, pids in (((1, 1), [10, 11]), ((2, 2), [20]), ((3, 3), [])):
        looked.clear()
        with pytest.raises(custody.Changing):
            custody.of(5, 1000, network)
        assert looked == pids
