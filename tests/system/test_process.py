"""Does the log say which process holds the socket, after the reply, and only where it is asked to?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until
from helpers.pairs import Pair
from helpers.residents import system_file
from helpers.single_shot import by_hand, handler
from helpers.warm import warming

if TYPE_CHECKING:
    from pathlib import Path


def who() -> str:
    """Return what is expected where the process may be seen: as root, identd has become nobody and sees none."""
    return rf", held by process {os.getpid()} '[^']+'" if os.geteuid() else "(, held by a process in .*)?"


def test_a_process_per_query(pair: Pair) -> None:
    """The reply is what it was; the line in the log has more at its end."""
    with handler("--process", "-S") as served:
        reply = served.ask(pair.query + b"\r\n")
        log = served.log()
    with handler("-S") as served:
        assert served.ask(pair.query + b"\r\n") == reply
        plain = served.log()
    assert "held by" not in plain
    told = re.escape(re.sub(r"127\.0\.0\.1 was", "PEER was", plain.splitlines()[-1]))
    assert re.fullmatch(told + who(), re.sub(r"127\.0\.0\.1 was", "PEER was", log.splitlines()[-1])), log


def test_our_own(pair: Pair) -> None:
    """Who runs identd by hand, as themselves, sees their own processes: by hand, root stays no root."""
    said = by_hand(pair.query + b"\n", "--process", "-S")
    assert re.search(who() + r"$", said.stderr.strip()), said.stderr


def test_quiet(pair: Pair) -> None:
    """What is not logged is not searched for."""
    said = by_hand(pair.query + b"\n", "--process", "-S", "-q")
    assert (said.stderr, said.status) == ("", 0)


@pytest.mark.parametrize("rule", ["force hide", "allow hide"])
def test_the_warm_process(pair: Pair, tmp_path: Path, rule: str) -> None:
    """Each reply's line comes, hidden owners' included, also when the process ends at once after the reply."""
    path = tmp_path / "log"
    with system_file(f"default {{ default {{ {rule} }} }}") as config, path.open("wb") as log:
        with warming("--process", "-S", "-C", str(config), stderr=log) as warm:
            replies = [warm.ask(pair.query + b"\r\n") for _ in range(3)]
            assert len(set(replies)) == 1
            warm.process.send_signal(signal.SIGTERM)
            until(lambda: warm.process.poll() is not None)
        lines = [line for line in path.read_text().splitlines() if "was told" in line]
    assert len(lines) == 3
    for line in lines:
        assert re.search(r"\)" + f"({who()})?$", line), line


def test_explained(pair: Pair) -> None:
    """--explain shows it whenever it can be seen: root sees it before it is nobody."""
    lines = by_hand(b"", "--explain", pair.query.decode().strip()).stdout.decode().splitlines()
    (held,) = [line for line in lines if line.startswith("holder   ")]
    assert held.startswith(f"holder   process {os.getpid()} ")
    assert "holder" in subprocess.list2cmdline(lines)
