"""Is it known which of a unit's settings hides a home?"""

from __future__ import annotations

import pytest

from identserver.admin import units


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
