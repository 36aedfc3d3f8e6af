"""Is it known which of a unit's settings hides a home?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.machine import ROOT

from identserver.admin import needs, units
from identserver.options import Options

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What another test was told is not remembered."""
    units._installed.cache_clear()


@pytest.mark.parametrize(
    ("settings", "hidden"),
    [
        ({"ProtectHome": "read-only"}, {}),
        ({"ProtectHome": "yes"}, {"/home/alice": "ProtectHome=yes", "/root": "ProtectHome=yes"}),
        ({"ProtectHome": "tmpfs"}, {"/home/alice": "ProtectHome=tmpfs", "/root": "ProtectHome=tmpfs"}),
        ({"ProtectHome": "tmpfs", "BindReadOnlyPaths": "/home:/home:rbind"}, {"/root": "ProtectHome=tmpfs"}),
        ({"PrivateTmp": "yes"}, {"/tmp/home": "PrivateTmp=yes"}),
        ({"InaccessiblePaths": "-/srv /opt"}, {"/srv/alice": "InaccessiblePaths=/srv"}),
        (
            # As version 1.0.0 shipped them.
            {"TemporaryFileSystem": "/:ro", "BindReadOnlyPaths": "/usr:/usr:rbind /home:/home:rbind"},
            dict.fromkeys(["/root", "/srv/alice", "/tmp/home", "/homes/alice"], "TemporaryFileSystem=/"),
        ),
        ({"TemporaryFileSystem": "/:ro", "BindPaths": "/data/srv:/srv:rbind"}, dict.fromkeys(
            ["/home/alice", "/root", "/tmp/home", "/homes/alice"], "TemporaryFileSystem=/")),
    ],
)  # fmt: skip
def test_what_hides_a_home(settings: dict[str, str], hidden: dict[str, str]) -> None:
    """The deepest of what covers a home counts, unless something is bound there, or above it."""
    homes = ("/home/alice", "/root", "/srv/alice", "/tmp/home", "/homes/alice")
    assert {home: setting for home in homes if (setting := units.hidden_by(settings, home))} == hidden


SHOWN = """\
Id=identd@check.service
LoadState=loaded
FragmentPath=/etc/systemd/system/identd@.service
ProtectHome=tmpfs

Id=identd-wait.service
LoadState=not-found
FragmentPath=
ProtectHome=yes
"""


def test_the_units_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is installed is told of, under its own name; systemd is asked once, and not where it does not run."""
    asked = []

    def say(*command: str) -> str:
        asked.append(command)
        return SHOWN

    monkeypatch.setattr(units, "asked", say)
    monkeypatch.setattr(units, "_SYSTEMD", "/proc")
    for _ in range(2):
        assert units.hiding("/home/alice") == [("identd@.service", "ProtectHome=tmpfs")]
    assert len(asked) == 1
    assert units.hiding("/srv/alice") == []
    units._installed.cache_clear()
    monkeypatch.setattr(units, "_SYSTEMD", "/nonexistent")
    assert units.hiding("/home/alice") == []
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("families", "denied", "state", "forbids"),
    [
        ("AF_NETLINK AF_UNIX", "::/0 0.0.0.0/0", "active", True), ("AF_NETLINK AF_UNIX", "", "active", True),
        ("AF_INET AF_INET6 AF_NETLINK AF_UNIX", "", "active", False), ("", "::/0 0.0.0.0/0", "active", True),
        ("~AF_INET AF_INET6", "", "active", True), ("~AF_PACKET", "", "active", False), ("", "", "active", False),
        ("AF_NETLINK AF_UNIX", "", "inactive", False),
    ],
)  # fmt: skip
def test_units_without_a_network(
    families: str, denied: str, state: str, forbids: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A unit that serves and may open no connection is named with the lines that need one, and the drop-in."""

    def say(*command: str) -> str:
        if command[-1].endswith(".socket"):
            return f"ActiveState={state}\nUnitFileState=disabled\n"
        return SHOWN.replace("ProtectHome=tmpfs", f"RestrictAddressFamilies={families}\nIPAddressDeny={denied}")

    monkeypatch.setattr(units, "asked", say)
    monkeypatch.setattr(units, "_SYSTEMD", "/proc")
    file = tmp_path / "system"
    forward = "default {\n default { force forward 192.0.2.7 113 }\n}\n"
    file.write_text(f"{forward}user root {{ to .example.org {{ allow hide }} }}\n")
    options = Options()
    options.config = str(file)
    needs.check_units(options)
    said = capsys.readouterr().out
    assert (f"{file}:2 has another server asked (forward), which identd@.service forbids" in said) == forbids
    assert (f"{file}:4 names a host: identd@.service forbids to ask the DNS" in said) == forbids
    assert (f"give the unit {ROOT}/systemd/identd-network.conf as a drop-in" in said) == forbids
