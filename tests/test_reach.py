"""What commonly keeps the ident port from being served?  Files as systemd, xinetd and inetd have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.machine import ROOT

from identserver.admin import listeners, printing, reach

if TYPE_CHECKING:
    from helpers.service_files import Etc

pytest_plugins = ["helpers.service_files"]


def found(port: int = 113) -> list[str]:
    """Return what is set up to serve a port."""
    return [claim.what for claim in reach.claims(port)]


def test_nothing(etc: Etc) -> None:
    """On a host without any of it, nothing is set up."""
    (etc.folder / "xinetd.conf").unlink()
    assert found() == []


def test_both_sockets(etc: Etc, capsys: pytest.CaptureFixture[str]) -> None:
    """The project's two socket units, both enabled: one warning names them and their files."""
    for name in ("identd.socket", "identd-wait.socket"):
        etc.enable(name, (ROOT / "systemd" / name).read_text())
    assert sorted(found()) == ["identd-wait.socket", "identd.socket"]
    printing.begin(for_program=False)
    reach.check_claims(113, is_served=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("port     warning: port 113 goes to one of these only, disable the others: ")
    assert f"identd-wait.socket ({etc.folder}/systemd/lib/identd-wait.socket)" in line


def test_one_is_enough(etc: Etc, capsys: pytest.CaptureFixture[str]) -> None:
    """One that serves is as it should be. One that does not serve yet is to be started."""
    etc.enable("identd.socket", (ROOT / "systemd" / "identd.socket").read_text())
    printing.begin(for_program=False)
    assert len(reach.check_claims(113, is_served=True)) == 1
    assert capsys.readouterr().out == ""
    reach.check_claims(113, is_served=False)
    assert "nobody listens on port 113 yet: start what is enabled, identd.socket" in capsys.readouterr().out


def test_a_drop_in_moves_a_socket(etc: Etc) -> None:
    """An administrator's drop-in may give a socket another port, and takes the old one away."""
    etc.enable("identd.socket", "[Socket]\nListenStream=113\n")
    etc.write("systemd/etc/identd.socket.d/port.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:1139\n")
    assert (found(), found(1139)) == ([], ["identd.socket"])


def test_another_server(etc: Etc) -> None:
    """Another ident server's service counts, once where a socket of its own starts it; any other service does not."""
    etc.enable("ssh.service", "[Service]\n")
    assert found() == []
    etc.enable("oidentd.service", "[Service]\n")
    assert found() == ["oidentd.service"]
    etc.enable("oidentd.socket", "[Socket]\nListenStream=113\n")
    assert found() == ["oidentd.socket"]


def test_xinetd(etc: Etc) -> None:
    """The services of the project's file count as they are switched on; files that xinetd passes over do not."""
    etc.xinetd()
    assert found() == ["xinetd's service identd"]
    etc.xinetd(identd="no", identd_wait="no")
    assert found() == ["xinetd's service identd", "xinetd's service identd-wait"]
    etc.xinetd(identd="yes", identd_wait="yes")
    etc.write("xinetd.d/identd.dpkg-old", "service ident\n{\n\tdisable = no\n}\n")
    assert found() == []
    etc.write("xinetd.d/other", "service ident\n{\n\tid\t= theirs\n}\n")
    assert found() == ["xinetd's service theirs"]


def test_inetd(etc: Etc) -> None:
    """A line for the port counts, by number or by name, unless it is a comment, for UDP or for another port."""
    lines = (
        "# 113 stream tcp nowait nobody /x x",
        "113 stream tcp nowait.10000 nobody /x identd",
        "113 dgram udp wait nobody /x x",
        "127.0.0.1:ident stream tcp6 nowait nobody /x x",
        "79 stream tcp nowait nobody /x x",
    )
    etc.write("inetd.conf", "\n".join(lines))
    assert found() == ["inetd's line 2", "inetd's line 4"]


def test_a_superserver_that_is_not_there(etc: Etc) -> None:
    """What a package left behind in /etc serves nobody without its program."""
    etc.xinetd()
    etc.write("inetd.conf", "113 stream tcp nowait.10000 nobody /x identd")
    for name in ("xinetd", "inetd"):
        (etc.folder / "sbin" / name).unlink()
    assert found() == []


@pytest.mark.parametrize(
    ("own", "slices", "is_reached", "label", "said"),
    [
        ("::/0 0.0.0.0/0|", "|", False, "obstacle", "keeps every asker out: IPAddressDeny=::/0 0.0.0.0/0"),
        ("|", "0.0.0.0/0|", False, "obstacle", "identd.socket keeps every asker out: IPAddressDeny=0.0.0.0/0"),
        ("::/0|", "|", True, "hint", "(IPAddressDeny=::/0, IPAddressAllow=)"),
        ("::/0|192.0.2.0/24", "|", False, "hint", "(IPAddressDeny=::/0, IPAddressAllow=192.0.2.0/24)"),
        ("|127.0.0.0/8", "::/0|", False, "hint", "(IPAddressDeny=::/0, IPAddressAllow=127.0.0.0/8)"),
        ("192.0.2.0/24|", "|", False, "hint", "(IPAddressDeny=192.0.2.0/24, IPAddressAllow=)"),
        ("|192.0.2.0/24", "|", False, "", ""),
    ],
)  # fmt: skip
def test_addresses_kept_out(
    own: str, slices: str, is_reached: bool, label: str, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A socket unit, or its slice, that lets nobody in is an obstacle, where nobody was reached; else it is a hint."""

    def show(*command: str) -> str:
        lists, outer = {"identd.socket": (own, "system.slice"), "system.slice": (slices, "-.slice")}.get(
            command[-1], ("|", "")
        )
        denied, _, allowed = lists.partition("|")
        return f"IPAddressDeny={denied}\nIPAddressAllow={allowed}\nSlice={outer}\n"

    monkeypatch.setattr(listeners, "asked", show)
    printing.begin(for_program=False)
    listening = [
        listeners.Listener("::", 113, 0, unit="identd-wait.service identd.socket"),
        listeners.Listener("0.0.0.0", 113, 0),
    ]
    reach.check_addresses(listening, is_reached)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0].rstrip(":") for line in lines if line[0] != " "] == ([label] if label else [])
    assert said in "".join(lines)
