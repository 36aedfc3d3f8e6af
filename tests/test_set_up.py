"""Does --check say what keeps a superserver from starting identd, and nothing of one that can?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from helpers.machine import ROOT, only_if_others_can_read_it
from helpers.pairs import me

from identserver.admin import listeners, printing, set_up
from identserver.admin.fresh import SCRIPT
from identserver.admin.installation import Findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.service_files import Etc

pytest_plugins = ["helpers.service_files"]

#: This installation, as service files start it.
COMMAND = f"{sys.executable} -I {SCRIPT}"


@pytest.fixture(autouse=True)
def readable() -> Iterator[None]:
    """Who serves can read all of it; and what is shown later is shown to a person again."""
    only_if_others_can_read_it()
    yield
    printing.begin(for_program=False)


def said(*holders: tuple[str, str]) -> list[str]:
    """Return what --check says of the files. ``holders``: program and unit of those who listen."""
    printing.begin(for_program=True)
    found = [listeners.Listener("::", 113, 0, 999999999, program, unit) for program, unit in holders]
    set_up.check_set_up(113, found, Findings("nobody", "", ""))
    found_rows = printing.rows()
    printing.begin(for_program=False)
    return [f"{row.label} {row.text}" for row in found_rows]


def xinetd(etc: Etc, old: str = "", new: str = "") -> None:
    """Write the project's file for this installation, with a mistake in it."""
    etc.xinetd()
    path = etc.folder / "xinetd.d" / "identd"
    text = path.read_text().replace("/opt/identd/bin/python3", sys.executable).replace("/opt/identd/bin/identd", SCRIPT)
    assert old in text
    path.write_text(text.replace(old, new, 1))


def systemd(etc: Etc, name: str, drop_in: str = "") -> None:
    """Install one of the project's pairs for this installation, with a drop-in for its service."""
    service = {"identd": "identd@", "identd-wait": "identd-wait"}[name] + ".service"
    etc.enable(f"{name}.socket", (ROOT / "systemd" / f"{name}.socket").read_text())
    text = (ROOT / "systemd" / service).read_text().replace("User=identd\n", f"User={me()}\n")
    text = text.replace("/opt/identd/bin/python3 -I /opt/identd/bin/identd", COMMAND)
    etc.write(f"systemd/lib/{service}", text)
    etc.write(f"systemd/etc/{service}.d/local.conf", f"[Service]\n{drop_in}\n")


def inetd(etc: Etc, user: str = "nobody", command: str = COMMAND) -> None:
    """Write README's line for this installation."""
    etc.write("inetd.conf", f"113 stream tcp nowait.10000 {user} {command.split()[0]} {command}\n")


def test_as_it_should_be(etc: Etc) -> None:
    """Of the project's own files and README's line nothing is said."""
    xinetd(etc)
    inetd(etc)
    inetd(etc, user="nobody.nogroup")
    systemd(etc, "identd")
    systemd(etc, "identd-wait")
    assert said() == []


NOBODY = "runs identd as nobdy, and there is no such user"
MISSING = "starts /opt/no-such/identd, which is not there"
OPTION = "gives identd an option that it can't obey: there is no option --eror: see identd --help"

#: What is written in place of what, and what is said of that.
XINETD = {
    "user": ("= nobody\n", "= nobdy\n", NOBODY),
    "program": (f"server\t\t= {sys.executable}\n", "server\t\t= /opt/no-such/identd\n", MISSING),
    "path": (f"-I {SCRIPT}", "-I /opt/no-such/identd", MISSING),
    "option": (f"{SCRIPT}\n", f"{SCRIPT} --eror\n", OPTION),
}  # fmt: skip


@pytest.mark.parametrize("mistake", XINETD)
def test_xinetd(etc: Etc, mistake: str) -> None:
    """A mistake in xinetd's file is an error, with the service and the file."""
    old, new, what = XINETD[mistake]
    xinetd(etc, old, new)
    assert said() == [f"error xinetd's service identd ({etc.folder}/xinetd.d/identd) {what}"]


def test_inetd(etc: Etc) -> None:
    """The same of inetd's lines, whose user may have a group."""
    path = etc.folder / "inetd.conf"
    for user in ("nobdy", "nobdy.nogroup", "nobdy:nogroup"):
        inetd(etc, user)
        assert said() == [f"error inetd's line 1 ({path}) {NOBODY}"]
    inetd(etc, command=f"{COMMAND} --eror")
    assert said() == [f"error inetd's line 1 ({path}) {OPTION}"]
    inetd(etc, user="4711")
    assert said() == []


def test_options_that_count_now(etc: Etc) -> None:
    """Of options that an older identd ignored it is said what they do, and whom -P trusts."""
    inetd(etc, command=f"{COMMAND} -mf -P 192.0.2.1")
    forward, proxy = said()
    where = f"option inetd's line 1 ({etc.folder / 'inetd.conf'}): "
    assert forward.startswith(where + "--forward counts (identd 1.0.0 ignored it): a machine behind this one is asked")
    assert proxy.startswith(where + "--proxy counts (identd 1.0.0 ignored it): who asks from 192.0.2.1 is told whose")


SYSTEMD = {
    "DynamicUser=no\nUser=nobdy": NOBODY,
    f"ExecStart=\nExecStart={sys.executable} /opt/no-such/identd": MISSING,
    f"ExecStart=\nExecStart={COMMAND} --eror": OPTION,
    f"ExecStart={COMMAND} --error": "has two ExecStart=: an empty one takes back what stood before",
}  # fmt: skip


@pytest.mark.parametrize("settings", SYSTEMD)
@pytest.mark.parametrize("name", ["identd", "identd-wait"])
def test_systemd(etc: Etc, name: str, settings: str) -> None:
    """The same of the service that a socket starts, with an administrator's drop-in."""
    systemd(etc, name, settings)
    found = said()
    assert f"error {name}.socket ({etc.folder}/systemd/lib/{name}.socket) " in found[0]
    assert found[0].endswith(SYSTEMD[settings])


def test_systemd_alone_knows(etc: Etc) -> None:
    """A user who is made at the start, specifiers and variables are no mistakes; a service that is missing is one."""
    for settings in ("DynamicUser=yes\nUser=nobdy", "User=%i", "ExecStart=\nExecStart=-@/opt/%i/identd ${OPTIONS}"):
        systemd(etc, "identd", settings)
        assert said() == []
    (etc.folder / "systemd/lib/identd@.service").unlink()
    assert [line.partition(") ")[2] for line in said()] == ["starts identd@.service, which is not installed"]


def test_help_is_not_printed(etc: Etc, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that prints something is none that can't be obeyed."""
    inetd(etc, command=f"{COMMAND} --version")
    assert said() == []
    assert capsys.readouterr().out == ""


def test_the_port_is_anothers(etc: Etc) -> None:
    """Who has the port in the place of what is set up is named. Where we can't see who has it, nothing is said."""
    systemd(etc, "identd")
    waiting = f"identd.socket ({etc.folder}/systemd/lib/identd.socket)"
    taken = f"port port 113 is not free for what is set up, {waiting}: oidentd has it"
    assert said(("oidentd", "oidentd.service")) == [taken]
    assert said(("oidentd", ""), ("oidentd", "")) == [taken]
    assert said(("", "")) == said(("systemd", "identd.socket")) == []
    inetd(etc)
    assert said(("inetd", "")) == said(("identd", "")) == []
