"""What do systemd's, xinetd's and inetd's files look like to who reads them?  `etc` is a fixture: a folder for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from helpers.machine import ROOT
from identserver.admin import reach

if TYPE_CHECKING:
    from pathlib import Path


class Etc:
    """A folder for the files of all three."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "xinetd.d").mkdir()
        self.write("xinetd.conf", f"defaults\n{{\n}}\nincludedir {folder}/xinetd.d\n")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def enable(self, name: str, text: str, place: str = "systemd/lib") -> None:
        """Install a unit, and enable it."""
        path = self.write(f"{place}/{name}", text)
        wants = self.folder / "systemd" / "etc" / "sockets.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / name).unlink(missing_ok=True)
        (wants / name).symlink_to(path)

    def xinetd(self, **disabled: str) -> None:
        """Install the project's file for xinetd, with services switched on and off."""
        text = (ROOT / "xinetd.d" / "identd").read_text()
        for service, word in disabled.items():
            heading = f"service {service.replace('_', '-')}\n"
            head, tail = text.split(heading, 1)
            text = head + heading + re.sub(r"(disable\s*= )\w+", rf"\g<1>{word}", tail, count=1)
        self.write("xinetd.d/identd", text)


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Etc:
    """Such a folder, on a host that has both superservers."""
    etc = Etc(tmp_path)
    monkeypatch.setattr(reach, "UNITS", tuple(str(tmp_path / "systemd" / name) for name in ("etc", "run", "lib")))
    monkeypatch.setattr(reach, "XINETD", str(tmp_path / "xinetd.conf"))
    monkeypatch.setattr(reach, "INETD", str(tmp_path / "inetd.conf"))
    monkeypatch.setattr(reach, "PROGRAMS", str(tmp_path / "sbin"))
    for name in ("xinetd", "inetd"):
        etc.write(f"sbin/{name}", "").chmod(0o755)
    return etc
