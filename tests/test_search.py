"""What comes of a search in which things change, and who holds a socket that different ones have?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from helpers.judged import Judged

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: On the judged host: search, and have a function do something when the socket was found.
SEARCH = """
from lookup.kernel import custody, search, wire
custody._hints.clear()
genuine = custody.of
def of(*asked):
    if changes:
        exec(changes.pop(0), globals())
    return genuine(*asked)
custody.of = of
try:
    found = search.search(wire.Request((ours, 50123), (far, 6667)))
finally:
    custody.of = genuine
found.kind, found.uid, found.held, found.reason
"""


@pytest.fixture
def masqueraded(judged: Judged) -> Iterator[Judged]:
    """A container's process, called behind, has a connection, which the judged host masquerades."""
    with judged.masqueraded(judged.user.pw_uid):
        yield judged


def searched(judged: Judged, *changes: str) -> Any:
    """Return the kind, the uid, who holds it, and the reason."""
    gateway = judged.gateway
    values: dict[str, Any] = {"changes": list(changes), "ours": gateway.OUTER, "far": gateway.THERE}
    return judged.host.tell("import pathlib\n" + SEARCH, **values)


def test_it_ends_meanwhile(masqueraded: Judged) -> None:
    """Its process ends when its socket was found, and conntrack's entry outlives it: nobody, and no error."""
    from lookup.kernel.wire import INSIDE, NOBODY, OF_A_CONTAINER

    assert searched(masqueraded)[:3] == (INSIDE, masqueraded.user.pw_uid, OF_A_CONTAINER)
    with masqueraded.gateway.forgetting():
        assert searched(masqueraded, "people['behind'].tell('kept.pop().close()')")[0] == NOBODY


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
        kind, uid, held, reason = searched(masqueraded)
    finally:
        masqueraded.host.tell("os.close(goes); os.waitpid(holder, 0)\nNone")
    if inside:
        # As `nsenter -n` puts it there.
        assert kind == FAILED
        assert "held by different ones" in reason
    else:
        assert (kind, uid, held) == (INSIDE, masqueraded.user.pw_uid, OF_A_CONTAINER)
