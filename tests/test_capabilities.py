"""Are capabilities kept, and the rest given up for good?  The kernel's own account counts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers.machine import NOBODY, ROOT, only_if_others_can_read_it, program
from helpers.pairs import PATIENCE

from identserver.capabilities import NEEDED, lacking, mask, suffice

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What a process says of itself that has kept some: its sets, its securebits, and what it can't have back.
KEEPS = """
import ctypes, json, os
from identserver.capabilities import held, keep_only, mask
keep_only({kept}, {ids})
fields = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
refused = 0
for call in (lambda: os.setuid(0), lambda: keep_only(1 << 7, None)):
    try:
        call()
    except OSError:
        refused += 1
print(json.dumps(dict(
    {{name: int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd")}},
    securebits=ctypes.CDLL(None).prctl(27), no_new=fields["NoNewPrivs"], ids=[*os.getresuid(), *os.getresgid()],
    groups=os.getgroups(), refused=refused,
)))
"""


def said_by(kept: int, ids: tuple[int, int] | None, before: Sequence[str] = ()) -> dict[str, Any]:
    """Have a process keep some capabilities, and return what it says of itself."""
    words = [*before, sys.executable, "-c", KEEPS.format(kept=kept, ids=ids)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("kept", [mask(), mask("CAP_NET_ADMIN"), 0])
def test_of_root(kept: int) -> None:
    """Another user, no group but one; nothing to inherit, nothing that an exec could bring back, and all is locked."""
    assert said_by(kept, (NOBODY, 1)) == {
        "CapPrm": kept, "CapEff": kept, "CapInh": 0, "CapAmb": 0, "CapBnd": 0, "securebits": 0xEF, "no_new": "1",
        "ids": [NOBODY] * 3 + [1] * 3, "groups": [], "refused": 2,
    }  # fmt: skip


@pytest.mark.usefixtures("needs_root")
def test_of_a_user_with_ambient_ones() -> None:
    """As a unit starts identd: nothing is ambient any more, and an exec could bring nothing back."""
    only_if_others_can_read_it()
    four = ",".join(f"+{name[4:].lower()}" for name in NEEDED)
    before = [
        program("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={four}",
        f"--ambient-caps={four}",
    ]  # fmt: skip
    said = said_by(mask("CAP_NET_ADMIN"), None, before)
    found = [said[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "no_new", "refused")]
    assert found == [mask("CAP_NET_ADMIN"), mask("CAP_NET_ADMIN"), 0, 0, "1", 2]


@pytest.mark.usefixtures("needs_root")
def test_no_more_than_there_are() -> None:
    """What a process does not have, it can't keep: that is an error."""
    before = [program("setpriv"), "--bounding-set=-net_admin"]
    with pytest.raises(AssertionError, match="PermissionError"):
        said_by(mask(), (NOBODY, NOBODY), before)


def test_what_is_missing() -> None:
    """What it is for comes with it, and what concerns all of it first."""
    assert lacking(mask()) == []
    assert suffice(mask())
    (only,) = lacking(mask("CAP_NET_ADMIN"))
    assert "CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH" in only
    assert "container" in only
    (only,) = lacking(mask() & ~mask("CAP_NET_ADMIN"))
    assert "CAP_NET_ADMIN" in only
    assert not suffice(mask() & ~mask("CAP_NET_ADMIN"))
    assert len(lacking(0)) == 2
