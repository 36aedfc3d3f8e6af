"""Does --check say who serves the port, ask that server at each address, and believe it no lie?"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from helpers.installed import free_port, until_it_listens
from helpers.machine import only_if_others_can_read_it, program, skip
from helpers.pairs import PATIENCE, me
from helpers.residents import system_file
from helpers.single_shot import COMMAND, ending

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["helpers.people"]


@pytest.fixture(autouse=True)
def readable() -> None:
    """Root's identd becomes nobody."""
    only_if_others_can_read_it()


def checked(*options: str, before: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """Run --check; return its lines and its exit status."""
    done = subprocess.run(
        [*before, *COMMAND, "--check", *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE * 2, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines(), done.returncode


def labelled(lines: list[str], label: str) -> list[str]:
    """Return the texts of the rows with a label."""
    return [line[len(label) :].strip(" :") for line in lines if re.match(rf"{label}[ :]", line)]


@contextlib.contextmanager
def saying(reply: str, host: str = "127.0.0.1") -> Iterator[int]:
    """A server that says something of every query; ``%s`` stands for the ports. Yields its port."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = listener.accept()[0]
                    with client, contextlib.suppress(OSError):
                        query = client.recv(1024).decode().strip()
                        client.sendall((reply.replace("%s", query)).encode())

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def identd(tmp_path: Path, *options: str) -> Iterator[int]:
    """An identd that serves a port of its own. Yields the port."""
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as output:
        command = [*COMMAND, "--foreground", "--nosyslog", "--port", str(port), *options]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    with ending(process):
        until_it_listens(process, port, log)
        yield port


def test_nobody_listens() -> None:
    """That is no untrue answer, but the last word is not that all is well: status 0."""
    port = free_port()
    lines, status = checked("--port", str(port))
    assert status == 0
    (warning,) = labelled(lines, "port")
    assert warning.startswith(f"warning: nobody listens on port {port} yet")
    assert lines[-2].startswith("but ")
    assert lines[-1].startswith("what helps, by symptom: ")


def test_a_server_that_is_right(tmp_path: Path) -> None:
    """identd on all addresses is asked over IPv4 and IPv6, and at every address of this host."""
    with system_file("") as path, identd(tmp_path, "-C", str(path)) as port:
        lines, status = checked("--port", str(port), "-C", str(path))
    assert status == 0, lines
    (listens,) = labelled(lines, "listens")
    assert re.match(rf"(\[::\]|0\.0\.0\.0):{port} identd(\.py)? \(pid \d+\)", listens)
    asked = labelled(lines, "asked")
    for at in (f"127.0.0.1:{port}", f"[::1]:{port}"):
        (line,) = (line for line in asked if line.startswith(f"{at} said "))
        assert line.endswith(f",{port}:USERID:UNIX:{me()}, as it should")
    import psutil

    own = {address.address for found in psutil.net_if_addrs().values() for address in found if address.family == 2}
    assert {line.partition(":")[0] for line in asked if not line.startswith("[")} >= own


LIES = {
    "another user": "%s:USERID:UNIX:mallory\r\n",
    "no name": "%s:ERROR:NO-USER\r\n",
    "of other ports": "1,2:USERID:UNIX:{me}\r\n",
    "no reply": "hello\r\n",
    "nothing": "",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_server_that_lies(lie: str) -> None:
    """Whoever it is that serves the port, what is not true is not well: status 1, and what it should have said."""
    with saying(lie.replace("{me}", me())) as port:
        lines, status = checked("--port", str(port))
    assert status == 1
    (wrong,) = labelled(lines, "wrong")
    assert wrong.startswith(f"127.0.0.1:{port} said ")
    assert wrong.endswith(f",{port}:USERID:UNIX:{me()}")
    assert lines[-2] == "no true answer"


@pytest.mark.parametrize("reply", ["%s : USERID : OTHER : {me}\r\n", "%s:USERID:UNIX,UTF-8:{me}\r\n"])
def test_servers_write_in_their_own_way(reply: str) -> None:
    """Blanks, the operating system and the character set are the server's choice."""
    with saying(reply.replace("{me}", me())) as port:
        lines, status = checked("--port", str(port))
    assert status == 0, lines


def test_open_to_this_host_alone() -> None:
    """A listener on loopback answers truly, and nobody else can ask it."""
    with saying(f"%s:USERID:UNIX:{me()}\r\n") as port:
        lines, status = checked("--port", str(port))
    assert status == 0
    assert any("is open to this host alone: 127.0.0.1:" in line for line in labelled(lines, "port"))


FILES = {
    "hidden": ("default { default { force hide } }", "ERROR:HIDDEN-USER"),
    "another name": ('default { default { force reply "x" } }', "USERID:UNIX:x"),
    "a made-up name": ("default { default { force random } }", "USERID:UNIX:"),
    "by address": ("default { default { force hide } to 127.0.0.0/8 { force reply y } }", "USERID:UNIX:y"),
}


@pytest.mark.parametrize(("text", "told"), FILES.values(), ids=FILES)
def test_the_system_file_decides_what_is_right(tmp_path: Path, text: str, told: str) -> None:
    """What the file says is what the server should say, not the login name."""
    with system_file(text) as path, identd(tmp_path, "-a", "127.0.0.1", "-C", str(path)) as port:
        lines, status = checked("--port", str(port), "-C", str(path))
        assert status == 0, lines
        assert told in labelled(lines, "asked")[0]


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [("USERID:UNIX:{me}", 1), ("ERROR:NO-USER", 1), ("ERROR:HIDDEN-USER", 0), ("ERROR:UNKNOWN-ERROR", 0)],
)
def test_a_server_with_another_file(reply: str, wrong: int) -> None:
    """A server that does not obey the file is wrong. It may hide which error it is (`--error`)."""
    with system_file("default { default { force hide } }") as path, saying(
        f"%s:{reply.replace('{me}', me())}\r\n"
    ) as port:
        lines, status = checked("--port", str(port), "-C", str(path))
    assert status == wrong, lines
    assert all(line.endswith("ERROR:HIDDEN-USER") for line in labelled(lines, "wrong"))


def test_for_a_program(tmp_path: Path) -> None:
    """One object says what the rows say, and has the listener, what was asked, and whether all is well."""
    with saying("%s:USERID:UNIX:mallory\r\n") as port:
        lines, status = checked("--json", "--port", str(port))
    (line,) = lines
    found: dict[str, Any] = json.loads(line)
    assert (status, found["well"]) == (1, False)
    assert found["answer"]["reply"] == f"{found['answer']['query']}:USERID:UNIX:{me()}"
    (listener,) = found["listeners"]
    assert (listener["address"], listener["port"], listener["pid"]) == ("127.0.0.1", port, os.getpid())
    (asked,) = (one for one in found["asked"] if one["address"] == "127.0.0.1")
    assert (asked["right"], asked["reply"]) == (False, f"{asked['query']}:USERID:UNIX:mallory")
    assert [row["text"] for row in found["rows"] if row["severity"] == "wrong"][-1] == "no true answer"


def test_on_a_terminal() -> None:
    """There, what is wrong has a colour, unless nobody wants one."""
    for no_color, coloured in (("", True), ("1", False)):
        master, slave = os.openpty()
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
        command = [*COMMAND, "--check", "--port", str(free_port())]
        with os.fdopen(slave, "wb") as terminal:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, env=environment)
        with ending(process), os.fdopen(master, "rb", buffering=0) as reading:
            said = b""
            # EIO: the other end is closed.
            with contextlib.suppress(OSError):
                while more := reading.read(4096):
                    said += more
        assert (b"\033[33mport\033[0m" in said) is coloured, said


def test_an_input_chain_that_drops(needs_root: None) -> None:
    """It is a hint to look for the port, in these words, and no judgement."""
    nft, ip, unshare = program("nft"), program("ip"), program("unshare")
    rules = "add table inet t; add chain inet t in { type filter hook input priority 0; policy drop; }"
    script = f"{ip} link set lo up && {nft} '{rules}; add rule inet t in iif lo accept' && exec \"$@\""
    before = (unshare, "--net", "sh", "-c", script, "sh")
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        skip("no rules can be set in a network namespace here")
    lines, _ = checked(before=before)
    (hint,) = labelled(lines, "hint")
    assert "input chain inet t in" in hint
    assert "drops by default: look for port 113" in hint


def test_an_empty_network(needs_root: None) -> None:
    """PrivateNetwork= leaves loopback alone: the own connection is known there, the host's are not. Status 1."""
    before = (program("unshare"), "--net", "sh", "-c", f'{program("ip")} link set lo up && exec "$@"', "sh")
    lines, status = checked(before=before)
    assert status == 1
    assert any("PrivateNetwork=" in line for line in lines)
    assert lines[-2] == "no true answer about everybody"


def test_a_network_with_a_device(needs_root: None) -> None:
    """A host's or a container's network has a device that is up: nothing is in the way."""
    ip = program("ip")
    script = f'{ip} link set lo up && {ip} link add d0 type bridge && {ip} link set d0 up && exec "$@"'
    lines, status = checked(before=(program("unshare"), "--net", "sh", "-c", script, "sh"))
    assert status == 0, lines


def test_another_users_listener(needs_root: None) -> None:
    """Who may not look into the holder still learns which user's socket it is."""
    with saying("%s:USERID:UNIX:nobody\r\n") as port:
        done = subprocess.run(
            [program("setpriv"), "--reuid=nobody", "--clear-groups", sys.executable, COMMAND[1], "--check", "-p",
             str(port)], capture_output=True, text=True, timeout=PATIENCE, check=False, cwd="/",
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert labelled(done.stdout.splitlines(), "listens") == [f"127.0.0.1:{port} user root"]
