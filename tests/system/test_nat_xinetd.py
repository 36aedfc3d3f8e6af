"""Do the files for --masquerade do in a real xinetd what stands in them?

(Issue 12, Privileges.)
"""

from __future__ import annotations

import contextlib
import pwd
from pathlib import Path

import psutil
import pytest
from helpers.hosts import until
from helpers.machine import NOBODY, ROOT
from helpers.residents import system_file
from helpers.superservers import MASQUERADING, driving, without_system_file
from helpers.warm import status

from identserver.capabilities import mask

pytest_plugins = ["helpers.superservers"]
pytestmark = pytest.mark.usefixtures("needs_root")

KEPT = {"identd-masquerade": mask("CAP_NET_ADMIN"), "identd-containers": mask()}


def rights(process: psutil.Process) -> tuple[str, int]:
    """Return whose a process is, and which capabilities it has."""
    fields = status(process.pid)
    return fields["Uid"], int(fields["CapPrm"], 16)


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize(("file", "service"), MASQUERADING)
def test_who_serves_has_none(file: str, service: str, configured: bool, installed: Path) -> None:
    """Nobody serves, with one child that has what the file is about and is nobody, too; the answer is right.

    With a system file there is one more, which has users' files read: root's where root serves one connection.
    """
    superserver, nobody = MASQUERADING[file, service], "\t".join([str(NOBODY)] * 4)
    expected = [(nobody, 0), (nobody, KEPT[file])]
    with contextlib.ExitStack() as stack:
        options = ""
        if configured:
            options = f"-C {stack.enter_context(system_file('default { default { allow hide } }'))}"
            if service == "identd-wait":
                expected.append((nobody, 0))
            elif file == "identd-containers":
                expected.append(rights(psutil.Process()))
        else:
            superserver = without_system_file(superserver)
        driver = stack.enter_context(driving("xinetd", installed, options, superserver))
        with driver.call() as client:
            client.sendall(b"1")
            found: list[tuple[str, int]] = []

            def is_so() -> bool:
                found[:] = sorted(map(rights, driver.descendants()))
                return found == sorted(expected)

            until(is_so)
        with driver.call() as client:
            query = b"%d,%d" % (client.getsockname()[1], driver.port)
            client.sendall(query + b"\r\n")
            name = pwd.getpwuid(0).pw_name.encode()
            assert client.makefile("rb").read() == query + b":USERID:UNIX:" + name + b"\r\n"


@pytest.mark.parametrize("file", KEPT)
def test_they_are_alike(file: str) -> None:
    """But for who starts, with which options, they are the file for xinetd without --masquerade."""

    def settings(name: str) -> list[str]:
        lines = (ROOT / "xinetd.d" / name).read_text().splitlines()
        own = ("#", "user\t", "server\t", "server_args\t")
        return [line for line in map(str.strip, lines) if line and not line.startswith(own)]

    assert settings(file) == settings("identd")
    assert Path(ROOT / "xinetd.d" / file).read_text().count("/bin/identd --masquerade\n") == 2
