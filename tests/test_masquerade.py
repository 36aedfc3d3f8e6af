"""Does --check say what identd lacks for --masquerade, where that is switched on, and for what?"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import pytest
from helpers.machine import ROOT

from identserver import Options
from identserver import capabilities as of_process
from identserver.admin import masquerade, printing, reach
from identserver.capabilities import mask
from lookup.kernel.conntrack import ConntrackUnavailable

if TYPE_CHECKING:
    from helpers.service_files import Etc

pytest_plugins = ["helpers.service_files"]

ONE = mask("CAP_NET_ADMIN")


def unit(etc: Etc, *drop_ins: str, base: str | None = None) -> int:
    """Install a unit with drop-ins, and return which of the capabilities it is given."""
    etc.enable("identd-wait.socket", (ROOT / "systemd/identd-wait.socket").read_text())
    text = (ROOT / "systemd/identd-wait.service").read_text() if base is None else base
    etc.write("systemd/lib/identd-wait.service", text)
    for at, drop_in in enumerate(drop_ins):
        etc.write(f"systemd/etc/identd-wait.service.d/{at}.conf", drop_in)
    (claim,) = reach.claims(113)
    return claim.granted


DROP_INS = {name: (ROOT / "systemd" / f"identd-{name}.conf").read_text() for name in ("masquerade", "containers")}


@pytest.mark.parametrize(
    ("drop_ins", "granted"),
    [
        ([], 0),
        ([DROP_INS["masquerade"]], ONE),
        ([DROP_INS["containers"]], mask()),
        ([DROP_INS["masquerade"], DROP_INS["containers"]], mask()),
        ([DROP_INS["containers"], "[Service]\nAmbientCapabilities=\nAmbientCapabilities=CAP_NET_ADMIN\n"], ONE),
        ([DROP_INS["containers"], "[Service]\nCapabilityBoundingSet=~CAP_SYS_ADMIN\n"], mask() & ~(1 << 21)),
        (["[Service]\nAmbientCapabilities=CAP_NET_ADMIN\n"], 0),
        (["[Service]\nUser=root\nAmbientCapabilities=\nCapabilityBoundingSet=cap_net_admin\n"], ONE),
    ],
)
def test_what_a_unit_is_given(etc: Etc, drop_ins: list[str], granted: int) -> None:
    """As systemd reads it: ambient ones count as far as they are bounded, and root has what bounds it."""
    assert unit(etc, *drop_ins) == granted


def test_what_other_units_are_given(etc: Etc) -> None:
    """Without a user it is root, and without bounds it has all; but not who is made up."""
    assert unit(etc, base="[Service]\nExecStart=/opt/identd/bin/identd\n") == mask()
    dynamic = "[Service]\nDynamicUser=yes\nExecStart=/opt/identd/bin/identd\n"
    assert unit(etc, base=dynamic) == 0


XINETD = {"identd": 0, "identd-masquerade": ONE, "identd-containers": mask()}


@pytest.mark.parametrize(("name", "granted"), XINETD.items())
def test_what_xinetd_gives(etc: Etc, name: str, granted: int) -> None:
    """Nothing to a user; to root all, unless setpriv(1) leaves less."""
    etc.write("xinetd.d/identd", (ROOT / "xinetd.d" / name).read_text())
    (claim,) = reach.claims(113)
    assert claim.granted == granted


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what is printed about it."""
    printed = capsys.readouterr().out.splitlines()
    return [re.sub(" +", " ", line) for line in printed if line.startswith("nat ")]


def test_who_is_set_up_to_serve(etc: Etc, capsys: pytest.CaptureFixture[str]) -> None:
    """With --masquerade, which capability is missing, and what for; without it, nothing."""
    printing.begin(for_program=False)
    unit(etc)
    masquerade.check_claims(113)
    assert lines(capsys) == []
    unit(etc, DROP_INS["masquerade"])
    masquerade.check_claims(113)
    (line,) = lines(capsys)
    assert line.startswith(f"nat warning: identd-wait.socket ({etc.folder}/systemd/lib/identd-wait.socket) has --masq")
    assert line.endswith(" CAP_DAC_READ_SEARCH no container (another network namespace) is looked into")
    unit(etc, DROP_INS["containers"])
    masquerade.check_claims(113)
    assert lines(capsys) == []
    unit(etc, DROP_INS["containers"], "[Service]\nAmbientCapabilities=\n")
    masquerade.check_claims(113)
    found = [line.partition("but ")[2] for line in lines(capsys)]
    assert [reason[:21] for reason in found] == ["without CAP_NET_ADMIN", "without CAP_SYS_ADMIN"]


def without_conntrack() -> None:
    """What a kernel without conntrack does."""
    raise ConntrackUnavailable("the kernel has no conntrack")


def test_who_checks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process lacks; and where it has all, what the kernel or a sandbox does not have or allow."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("lookup.kernel.namespaces.enter", refused)
    monkeypatch.setattr(masquerade, "Conntrack", without_conntrack)
    options = Options()
    printing.begin(for_program=False)
    monkeypatch.setattr(of_process, "held", lambda: 0)
    masquerade.check_own(options)
    assert lines(capsys) == []
    options.masquerade = True
    masquerade.check_own(options)
    assert [line[13:34] for line in lines(capsys)] == ["without CAP_NET_ADMIN", "without CAP_SYS_ADMIN"]
    monkeypatch.setattr(of_process, "held", mask)
    masquerade.check_own(options)
    conntrack, entering = lines(capsys)
    assert conntrack.endswith("the kernel has no conntrack")
    assert entering.endswith("Operation not permitted")


@pytest.mark.parametrize(("number", "helps"), [(errno.EACCES, "AppArmor"), (errno.EPERM, "RestrictNamespaces=net")])
def test_what_keeps_out_of_containers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, helps: str
) -> None:
    """A security module and a unit's filter of system calls refuse with errors of their own: each has its remedy."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("lookup.kernel.namespaces.enter", refused)
    monkeypatch.setattr(masquerade, "Conntrack", without_conntrack)
    monkeypatch.setattr(of_process, "held", mask)
    options = Options()
    options.masquerade = True
    printing.begin(for_program=False)
    masquerade.check_own(options)
    printed = capsys.readouterr().out
    assert os.strerror(number) in printed
    assert [word for word in ("AppArmor", "RestrictNamespaces=net") if word in printed] == [helps]
