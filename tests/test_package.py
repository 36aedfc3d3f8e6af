"""Is a source distribution whole, has every package what administrators need, and does --install-service find it?"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest
from helpers.built import copy, set_up, tracked
from helpers.machine import ROOT, run

import identd
from identserver.admin import install
from identserver.options import Options, UsageError
from lookup.connection import IdentError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_source_distribution_is_whole(tmp_path: Path) -> None:
    """It has every file of the repository, and nothing else but what setuptools writes."""
    names = copy(tmp_path / "sources")
    set_up(tmp_path / "sources", "sdist", "--dist-dir", str(tmp_path))
    with tarfile.open(next(tmp_path.glob("identd-*.tar.gz"))) as archive:
        inside = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    assert set(names) - inside == set()
    assert {name for name in inside - set(names) if not name.startswith("identd.egg-info/")} == {"PKG-INFO"}


@pytest.mark.parametrize(
    ("command", "file", "other"), [("bdist_wheel", "identd-*.whl", 0o022), ("sdist", "identd-*.tar.gz", 0o077)]
)
def test_what_is_built_alike(command: str, file: str, other: int, tmp_path: Path) -> None:
    """Two builds of the same files, in different places, at different times, are equal, octet by octet."""
    built: list[tuple[str, bytes]] = []
    for zone, umask in (("UTC-9", 0o022), ("UTC+9", other)):
        sources = tmp_path / zone / "sources"
        before = os.umask(umask)
        try:
            names = copy(sources)
            for name in names:
                os.utime(sources / name, (0, 1_600_000_000 + len(built)))
            set_up(sources, command, "--dist-dir", str(tmp_path / zone), SOURCE_DATE_EPOCH="1700000000", TZ=zone)
        finally:
            os.umask(before)
        (one,) = (tmp_path / zone).glob(file)
        built.append((one.name, one.read_bytes()))
    assert built[0] == built[1]


@pytest.mark.parametrize("url", ["", "https://example.org/identd/blob/v1"])
def test_links_where_the_package_is_shown(url: str, tmp_path: Path) -> None:
    """README's links are absolute if the place of the files is known; if not, they are names, and no broken links."""
    copy(tmp_path)
    set_up(tmp_path, "egg_info", IDENTD_URL=url)
    shown = (tmp_path / "identd.egg-info" / "PKG-INFO").read_text()
    assert "Description-Content-Type: text/markdown" in shown
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", shown) == []
    assert ("(https://example.org/identd/blob/v1/docs/firewall.md)" in shown) == bool(url)
    assert ("Project-URL: Changelog, https://example.org/identd/blob/v1/CHANGELOG.md" in shown) == bool(url)


def test_the_wheel_has_what_administrators_need() -> None:
    """Manual pages, units and xinetd's file are installed; where man and --install-service look for them."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    installed = {file: folder for folder, files in settings["options.data_files"].items() for file in files.split()}
    expected = {}
    for path in tracked():
        folder, _, name = path.rpartition("/")
        if folder == "man":
            expected[path] = f"share/man/man{name[-1]}"
        elif folder in ("systemd", "xinetd.d"):
            expected[path] = f"share/identd/{folder}"
        elif folder == "docs":
            expected[path] = "share/doc/identd"
    assert installed == expected


def test_debian_has_the_same_version() -> None:
    """The package's changelog begins with the version of the code."""
    first = (ROOT / "debian" / "changelog").read_text().partition("\n")[0]
    found = re.fullmatch(r"identd \(([^)-]+)\) \w+; urgency=\w+", first)
    assert found is not None, first
    assert found[1] == identd.__version__


@pytest.mark.parametrize("name", ["identd@.service", "identd-wait.service"])
def test_the_units_start_what_the_lines_install(name: str) -> None:
    """The path that --install-service and the package put another in place of is there, once for all that counts."""
    text = (ROOT / "systemd" / name).read_text()
    assert re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE) == ["/opt/identd/bin/python3 -I /opt/identd/bin/identd"]


@pytest.mark.parametrize("path", sorted((ROOT / "systemd").glob("*.s*")), ids=lambda path: path.name)
def test_the_units_name_a_manual_that_there_is(path: Path) -> None:
    """`systemctl help` opens the first page of Documentation=, which every package has."""
    found = re.search(r"^Documentation=man:(\S+)\((\d)\) https:", path.read_text(), re.MULTILINE)
    assert found is not None
    assert (ROOT / "man" / f"{found[1]}.{found[2]}").exists()


def printed(*options: str) -> str:
    """Return what `identd --install-service` prints for the checkout."""
    return run(sys.executable, str(ROOT / "identd.py"), "--install-service", *options).stdout


@pytest.mark.parametrize("warm", [[], ["--warm"]], ids=["single", "warm"])
@pytest.mark.parametrize("server", ["systemd", "xinetd", "inetd"])
def test_a_service_for_this_installation(server: str, warm: list[str]) -> None:
    """The shipped file is printed with the interpreter and the command that run now, wherever they are."""
    text = printed(server, *warm)
    assert f"-I {ROOT / 'identd.py'}\n" in text
    started = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert not any("/opt/identd" in line for line in started)
    if server == "systemd":
        names = ("identd-wait.socket", "identd-wait.service") if warm else ("identd.socket", "identd@.service")
        assert re.findall(r"^# (/etc/systemd/system/.*)$", text, re.MULTILINE) == [
            f"/etc/systemd/system/{name}" for name in names
        ]
    elif server == "xinetd":
        assert re.findall(r"^service (\S+)\n\{\n\tdisable\s+= (\w+)$", text, re.MULTILINE) == [
            ("identd", "yes" if warm else "no"), ("identd-wait", "no" if warm else "yes"),
        ]  # fmt: skip
    else:
        assert f"{text.split()[4]} {text.split()[3]}" == f"nobody {'wait' if warm else 'nowait.10000'}"


@pytest.mark.parametrize(("server", "path"), [("runit", "sv/identd/run"), ("openrc", "init.d/identd")])
def test_supervisors(server: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written for a supervisor is a program that starts this very installation, and stays its child."""
    for folder in ("sv", "init.d"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(install, "_RUNIT", str(tmp_path / "sv"))
    monkeypatch.setattr(install, "_OPENRC", str(tmp_path / "init.d"))
    options = Options()
    options.install_service, options.write = server, True
    assert install.install_service(options) == install.install_service(options) == 0
    written = tmp_path / path
    assert written.stat().st_mode & 0o777 == 0o755
    assert f"-I {ROOT / 'identd.py'} --foreground" in written.read_text()
    assert subprocess.run(["sh", "-n", str(written)], check=False).returncode == 0


def test_services_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--write writes what is printed otherwise, over an older file, as a whole; inetd.conf it never writes."""
    monkeypatch.setattr(install, "_SYSTEMD", str(tmp_path))
    (tmp_path / "identd.socket").write_text("older")
    options = Options()
    options.install_service, options.write = "systemd", True
    assert install.install_service(options) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"identd.socket", "identd@.service"}
    assert "ListenStream=113" in (tmp_path / "identd.socket").read_text()
    assert (tmp_path / "identd.socket").stat().st_mode & 0o777 == 0o644
    for wrong in ("inetd", "launchd"):
        options.install_service = wrong
        with pytest.raises(UsageError, match=r"inetd"):
            install.install_service(options)


@pytest.mark.parametrize("path", ["/opt/my identd/bin/identd", '/opt/"/identd', "/opt/100%/identd", "/opt/$x/identd"])
def test_a_path_that_cannot_stand_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd, xinetd and inetd would read it as something else: no file is made."""
    monkeypatch.setattr(sys, "executable", path)
    options = Options()
    options.install_service = "xinetd"
    with pytest.raises(IdentError) as refused:
        install.install_service(options)
    assert "install elsewhere" in refused.value.detail
