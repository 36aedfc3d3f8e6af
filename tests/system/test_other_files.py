"""Does each form of service read what programs register, and what users have for older servers?"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.machine import AS_NOBODY, ROOT
from helpers.pairs import PATIENCE
from helpers.residents import Resident, system_file
from helpers.single_shot import by_hand, handler
from helpers.warm import warming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["helpers.people"]

ALLOWED = "default { default { allow spoof allow hide allow noident allow fakeid } }"

#: How many connections register at once, and how many askers ask.
CONNECTIONS, ASKERS = 500, 8


@pytest.fixture(scope="module")
def config() -> Iterator[Path]:
    """A system file that allows it all."""
    with system_file(ALLOWED) as path:
        yield path


@pytest.fixture
def written(carol: Resident) -> Iterator[Callable[[str, str], Path]]:
    """Write files of carol's, and take them away again."""
    paths: list[Path] = []

    def write(name: str, text: str) -> Path:
        path = carol.home / name
        for folder in reversed([folder for folder in path.parents if carol.home in folder.parents]):
            if not folder.exists():
                folder.mkdir()
                os.chown(folder, carol.uid, carol.gid)
        paths.append(carol.write(text, path))
        return path

    carol.file.unlink(missing_ok=True)
    yield write
    for path in paths:
        path.unlink(missing_ok=True)


def single(ports: str, config: Path, **popen: Any) -> str:
    """Ask a process for one query."""
    with handler("-C", str(config), **popen) as served:
        return served.ask(ports.encode() + b"\r\n").decode().strip().partition(":")[2]


@pytest.mark.parametrize("who", ["root", "nobody", "warm"])
def test_each_form_of_service(
    carol: Resident, ports: str, config: Path, written: Callable[[str, str], Path], who: str
) -> None:
    """As root, where the owner reads their files; as nobody; and the warm process, where a helper reads."""
    with warming("-C", str(config)) as warm:

        def told() -> str:
            if who == "warm":
                return warm.ask(ports.encode() + b"\r\n").decode().strip().partition(":")[2]
            return single(ports, config, **(AS_NOBODY if who == "nobody" else {}))

        assert told() == f"USERID:UNIX:{carol.name}"
        fake = written(".fakeid", "fake\n")
        assert told() == "USERID:UNIX:fake"
        hides = written(".noident", "")
        assert told() == "ERROR:HIDDEN-USER"
        registered = written(f".config/identd/{ports}", "bouncer\n")
        assert told() == "USERID:UNIX:bouncer"
        for path in (registered, fake, hides):
            path.unlink()
        assert told() == f"USERID:UNIX:{carol.name}"


def test_explained(carol: Resident, ports: str, config: Path, written: Callable[[str, str], Path]) -> None:
    """--explain has the file that decided, and what was passed over; the log has the file, too."""
    written(".noident", "")
    lines = by_hand(b"", "--explain", ports, "-C", str(config)).stdout.decode().splitlines()
    assert f"file     read {carol.home}/.noident" in lines
    assert any(f"the owner's statement at {carol.home}/.noident:1" in line for line in lines)
    assert lines[-1].endswith(":ERROR:HIDDEN-USER")
    path = written(f".config/identd/{ports}", "bouncer\n")
    lines = by_hand(b"", "--explain", ports, "-C", str(config)).stdout.decode().splitlines()
    assert f"file     read {path}" in lines and lines[-1].endswith(":bouncer")
    assert f"{path}:1" in by_hand(ports.encode() + b"\n", "-C", str(config), "-S").stderr


def test_checked(carol: Resident, config: Path, written: Callable[[str, str], Path]) -> None:
    """--check warns of a file that has no effect, and says why."""

    def warned(config: Path) -> list[str]:
        said = by_hand(b"", "--check", "-C", str(config), "--user", carol.name)
        assert said.status == 0, said
        return [line[9:] for line in said.stdout.decode().splitlines() if line.startswith("warning: ")]

    fake = written(".fakeid", "longernamed\n")
    registered = written(".config/identd/6667", "x\n")
    assert [line.partition(": ")[0] for line in warned(config)] == [str(fake), str(registered)]
    assert "IRC servers cut names" in warned(config)[0]
    assert "LPORT,FPORT" in warned(config)[1]
    with system_file("default { default { allow spoof } }") as other:
        assert "has no effect, as nothing in" in warned(other)[0]
        assert "`allow spoof allow fakeid`" in warned(other)[0]
    carol.write("")
    try:
        assert warned(config)[0] == f"{fake}: it has no effect, as {carol.file} counts"
    finally:
        carol.file.unlink()


def test_what_is_registered_is_checked(carol: Resident, config: Path, written: Callable[[str, str], Path]) -> None:
    """--check warns of a reply that is cut, empty or no file, and where nobody may choose one; of 20 files at most."""
    folder = written(".config/identd/1,6667", "short\n").parent
    written(".config/identd/2,6667", "longernamed\n")
    written(".config/identd/3,6667", "\n")
    fifo = folder / "4,6667"
    os.mkfifo(fifo)
    try:
        with system_file("default { default { allow hide } }") as other:
            said = [by_hand(b"", "--check", "-C", str(path), "--user", carol.name) for path in (config, other)]
        for number in range(30):
            written(f".config/identd/x{number}", "x\n")
        said.append(by_hand(b"", "--check", "-C", str(config), "--user", carol.name))
    finally:
        fifo.unlink()
    assert [one.status for one in said] == [0, 0, 0], said
    allowed, refused, many = (
        [line for line in one.stdout.decode().splitlines() if line.startswith(f"warning: {folder}")] for one in said
    )
    assert [line.partition(",")[0][-1] for line in allowed] == ["2", "3", "4"]
    for line, expected in zip(allowed, ("IRC servers cut names", "its first line is empty", "not a regular file")):
        assert expected in line
    assert refused[:-1] == allowed and "`allow spoof`" in refused[-1]
    assert len(many) == 21 and many[-1].endswith(": 13 more such files")


#: What carol runs: many connections, each with a file of its own, all at once. They stay until standard input ends.
BOUNCER = """
import sys, threading
{example}
port = int(sys.argv[1])
made = []
def one(number):
    made.append(connect("127.0.0.1", port, "bouncer"))
threads = [threading.Thread(target=lambda: [one(n) for n in range(int(sys.argv[2]) // 10)]) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(made), flush=True)
sys.stdin.read()
for connection, path in made:
    connection.close()
    os.remove(path)
"""


def example() -> str:
    """Return the example of the manual, each reply followed by the port, so that no two are alike."""
    page = (ROOT / "man" / "identd.conf.5").read_text()
    (code,) = re.findall(r"\.nf\n\.RS\n(import os, socket\n.*?)\.RE\n\.fi\n", page, re.DOTALL)
    code = code.replace("\\\\n", "\\n").replace("{reply}", "{reply}{connection.getsockname()[1]}")
    assert "os.rename" in code and "{reply}{" in code
    return str(code)


def test_many_register_at_once(carol: Resident, config: Path) -> None:
    """A bouncer connects 500 times while 8 askers ask: each gets the name that was registered for its connection."""
    replies: dict[int, bytes] = {}
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS) as listener, warming("-C", str(config)) as warm:
        port = listener.getsockname()[1]
        listener.settimeout(0.2)
        ready = threading.Event()

        def ask() -> None:
            while not ready.is_set():
                try:
                    connection, peer = listener.accept()
                except TimeoutError:
                    continue
                accepted.append(connection)
                replies[peer[1]] = warm.ask(b"%d,%d\r\n" % (peer[1], port))
                if len(replies) == CONNECTIONS:
                    ready.set()

        askers = [threading.Thread(target=ask) for _ in range(ASKERS)]
        for asker in askers:
            asker.start()
        environment = {"HOME": str(carol.home), "PATH": os.environ["PATH"]}
        bouncer = subprocess.Popen(
            [sys.executable, "-c", BOUNCER.format(example=example()), str(port), str(CONNECTIONS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **carol.who,
        )  # fmt: skip
        try:
            assert ready.wait(6 * PATIENCE), f"{len(replies)} replies"
        finally:
            ready.set()
            for asker in askers:
                asker.join()
            assert bouncer.communicate(timeout=PATIENCE)[0] == b"%d\n" % CONNECTIONS
            for connection in accepted:
                connection.close()
    wrong = {ours: reply for ours, reply in replies.items() if not reply.endswith(b":USERID:UNIX:bouncer%d\r\n" % ours)}
    assert not wrong, dict(list(wrong.items())[:3])
    assert os.listdir(carol.home / ".config" / "identd") == []


def test_the_shell_line(carol: Resident, ports: str, config: Path) -> None:
    """What the manual has for a shell registers a reply."""
    page = (ROOT / "man" / "identd.conf.5").read_text()
    (line,) = re.findall(r"^cd ~/.config/identd && echo guest > .*$", page, re.MULTILINE)
    run = {"env": {"HOME": str(carol.home), "PATH": os.environ["PATH"]}, **carol.who}
    folder = carol.home / ".config" / "identd"
    subprocess.run(["mkdir", "-p", str(folder)], check=True, timeout=PATIENCE, **run)
    try:
        subprocess.run(["sh", "-c", line.replace("51234,6667", ports)], check=True, timeout=PATIENCE, **run)
        deadline = time.monotonic() + PATIENCE
        while single(ports, config) != "USERID:UNIX:guest":
            assert time.monotonic() < deadline
    finally:
        (folder / ports).unlink(missing_ok=True)
