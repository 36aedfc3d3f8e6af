"""Is a network by name the one that the DNS confirms?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.dns import SERVFAIL, asking, serving
from helpers.installed import readable_folder
from helpers.pairs import PATIENCE, Pair
from helpers.residents import system_file
from helpers.single_shot import COMMAND, by_hand
from helpers.warm import warming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SYSTEM = "default { default { force reply elsewhere } to .example.org { force reply member } }"

#: The far end of the tests' connections, as the DNS has it.
REVERSE = "1.0.0.127.in-addr.arpa"


@pytest.fixture(scope="module")
def config() -> Iterator[Path]:
    """A system file with a rule for a network by name."""
    with system_file(SYSTEM) as path:
        yield path


@pytest.fixture(scope="module")
def with_dns() -> Iterator[list[str]]:
    """The words before a command that have it ask our name server."""
    with readable_folder() as folder:
        yield asking(folder)


CASES = {
    "a member": ({REVERSE: ["irc.example.org"], "irc.example.org": ["127.0.0.1"]}, "USERID:UNIX:member", "confirmed"),
    "no name": ({}, "USERID:UNIX:elsewhere", "has no name"),
    "a stranger": ({REVERSE: ["a.example.net"], "a.example.net": ["127.0.0.1"]}, "USERID:UNIX:elsewhere", "confirmed"),
    "an impostor": (
        {REVERSE: ["irc.example.org"], "irc.example.org": ["192.0.2.1"]}, "USERID:UNIX:elsewhere", "another address",
    ),
    "a failure": ({REVERSE: SERVFAIL}, "ERROR:UNKNOWN-ERROR", "the names of 127.0.0.1"),
    "half a failure": (
        {REVERSE: ["irc.example.org"], "irc.example.org": SERVFAIL}, "ERROR:UNKNOWN-ERROR", "whether irc.example.org",
    ),
    "silence": ({REVERSE: None}, "ERROR:UNKNOWN-ERROR", "no answer within"),
}  # fmt: skip


@pytest.mark.parametrize(("zone", "told", "said"), CASES.values(), ids=CASES.keys())
def test_what_the_dns_says(
    with_dns: list[str], config: Path, pair: Pair, zone: dict[str, list[str] | int | None], told: str, said: str
) -> None:
    """The reply is what the DNS confirms, and --explain shows what it said; silence lasts 1.5 s, not longer."""
    query = pair.query.decode().strip()
    ends = ("--server-address", "127.0.0.1", "--client-address", "127.0.0.1")
    with serving(zone) as dns:
        done = by_hand(b"", "--explain", query, "-C", str(config), *ends, command=[*with_dns, *COMMAND])
    lines = done.stdout.decode().splitlines()
    assert lines[-1] == f"reply    {query}:{told}", lines
    assert any(line.startswith("dns      ") and said in line for line in lines) or any(
        line.startswith("why ") and said in line for line in lines
    ), lines
    assert REVERSE in dns.asked


def test_the_warm_process(with_dns: list[str], config: Path, pair: Pair) -> None:
    """It asks once for many queries of one asker."""
    zone: dict[str, list[str] | int | None] = {REVERSE: ["irc.example.org"], "irc.example.org": ["127.0.0.1"]}
    with serving(zone) as dns, warming("-C", str(config), command=[*with_dns, *COMMAND]) as warm:
        for _ in range(5):
            assert warm.ask(pair.query + b"\r\n").endswith(b":USERID:UNIX:member\r\n")
        assert dns.asked.count(REVERSE) == 1


def test_check_takes_it(config: Path) -> None:
    """Nothing is asked when the file is checked: the network is whoever asks."""
    done = subprocess.run(
        [*COMMAND, "--check", "-C", str(config)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not [line for line in done.stdout.splitlines() if f"{config}:" in line]
