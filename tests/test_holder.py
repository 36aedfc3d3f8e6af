"""Is the process that holds a socket named with its unit or container, as far as we may see it?"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from helpers.pairs import Pair
from hypothesis import given
from hypothesis import strategies as st

from lookup.connection import Owner
from lookup.kernel import holder, sock_diag

HEX = "0123456789abcdef" * 4

PLACES = {
    "/": "",
    "": "",
    "/user.slice/user-1001.slice/session-3.scope": "unit session-3.scope",
    "/user.slice/user-1001.slice/user@1001.service/app.slice/znc.service": "unit znc.service",
    "/system.slice/ssh.service": "unit ssh.service",
    "/system.slice/system-getty.slice": "",
    f"/system.slice/docker-{HEX}.scope": "container 0123456789ab (docker)",
    f"/docker/{HEX}": "container 0123456789ab (docker)",
    f"/user.slice/user-1.slice/user@1.service/user.slice/libpod-{HEX}.scope/container": (
        "container 0123456789ab (libpod)"
    ),
    f"/libpod_parent/libpod-{HEX}": "container 0123456789ab (libpod)",
    f"/libpod_parent/libpod-conmon-{HEX}": "",
    f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{HEX}.scope": "container 0123456789ab (cri-containerd)",
    f"/kubepods/besteffort/pod1234/{HEX}": "container 0123456789ab (kubepods)",
    "/lxc.payload.web/system.slice/x.service": "container web (lxc)",
    "/lxc/web": "container web (lxc)",
    "/machine.slice/machine-deb12.scope/payload": "container deb12 (machine)",
    "/system.slice/a\nb.service": "unit a\\nb.service",
}


#: The same as a regular expression.
CONTAINER = re.compile(
    r"(?:^|/)(?:(docker|libpod|crio|cri-containerd)-([0-9a-f]{12})(?:[0-9a-f]*\.scope|[0-9a-f]{52})"
    r"|(docker|kubepods[^/]*(?:/[^/]+)*)/(?:[^/]*/)?([0-9a-f]{12})[0-9a-f]{52}"
    r"|(lxc)(?:\.payload\.|/)([^/]+)"
    r"|(machine)-([^/]+)\.scope)(?:/|$)"
)

#: What paths are made of that are nearly a container's.
PIECES = [
    "/", "/", "/", HEX, HEX, HEX[1:], HEX[:12], HEX[:11], "0", "g", "-", "x", ".scope", "y.service", ".slice", "docker",
    "docker-", "libpod-", "crio-", "cri-containerd-", "kubepods", "lxc", "lxc.payload.", ".payload.", "machine-",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=9))
def test_places_as_a_regular_expression_has_them(pieces: list[str]) -> None:
    """Read without `re`, which takes longer to import than a single shot has for it."""
    group = "".join(pieces)
    found = CONTAINER.search(group)
    place = holder.place(group)
    assert place.startswith("container ") == bool(found)
    if found:
        runtime, name = (part for part in found.groups() if part)
        assert place == f"container {name} ({runtime.partition('/')[0]})"


@pytest.mark.parametrize(("group", "place"), PLACES.items())
def test_places(group: str, place: str) -> None:
    """A container's runtime and name, or the innermost unit; a name of the user's choice is shown on one line."""
    assert holder.place(group) == place


def found(pair: Pair) -> Owner:
    """Return the socket of a pair."""
    server, client = pair.client.getsockname(), pair.client.getpeername()
    return sock_diag.find(server, client)


def test_our_own_process(pair: Pair) -> None:
    """The process that has the socket open is told, whoever runs the test; with its name, quoted."""
    name = Path("/proc/self/comm").read_text().rstrip("\n")
    (text,) = holder.describe([found(pair)])
    assert text.startswith(f"process {os.getpid()} {name[:8]!r}"[:-1])
    assert "more" not in text


def test_several_processes(pair: Pair) -> None:
    """A socket that was handed on to a child has two holders; the first one is named."""
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    try:
        (text,) = holder.describe([found(pair)])
        assert f"process {min(os.getpid(), child)} " in text and " and 1 more" in text
    finally:
        os.close(go)
        os.close(wait)
        os.waitpid(child, 0)


def test_many_at_once(pair: Pair) -> None:
    """One search serves all; what nobody holds, or what has no inode, is no process."""
    owner = found(pair)
    gone = Owner(1, 1, "ESTABLISHED", owner.server, owner.client, "sock_diag")
    without = Owner(1, 0, "SYN_SENT", owner.server, owner.client, "psutil")
    texts = holder.describe([gone, owner, without])
    assert [bool(text) for text in texts] == [False, True, False]


def test_without_psutil(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing breaks where it is not installed."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert "process" not in holder.describe([found(pair)])[0].partition(" in ")[0].replace("a process", "")


def test_a_deadline(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search ends when its time is over."""
    monkeypatch.setattr(holder, "SEARCH_SECONDS", -1)
    assert not holder.describe([found(pair)])[0].startswith("process")


def test_what_the_kernel_tells_everybody(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket has the number of the control group that it was made in; another socket's is not taken for it."""
    root = holder._unified()
    owner = found(pair)
    if root:
        group = Path("/proc/self/cgroup").read_text().rsplit("0::", 1)[1].split("\n")[0]
        assert holder._group_of_socket(owner) == os.stat(root + group).st_ino
    owner.inode += 1
    assert holder._group_of_socket(owner) == 0


def test_the_folder_of_a_number(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit is known by the socket's control group where the process may not be seen."""
    unit = tmp_path / "system.slice" / "znc.service"
    unit.mkdir(parents=True)
    monkeypatch.setattr(holder, "_holders", lambda inodes, deadline: {})
    monkeypatch.setattr(holder, "_unified", lambda: str(tmp_path))
    monkeypatch.setattr(holder, "_group_of_socket", lambda owner: unit.stat().st_ino)
    assert holder.describe([found(pair)]) == ["a process in unit znc.service"]
    monkeypatch.setattr(holder, "_group_of_socket", lambda owner: 0)
    assert holder.describe([found(pair)]) == [""]
    monkeypatch.setattr(holder, "_group_of_socket", lambda owner: 1 << 60)
    assert holder.describe([found(pair)]) == [""]
    monkeypatch.setattr(holder, "_unified", lambda: "")
    assert holder.describe([found(pair)]) == [""]
