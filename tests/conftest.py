"""What tests share: when to skip, real connections, real users, network namespaces."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
IDENTD = ROOT / "identd.py"

#: Set in CI: there, what would skip must run, so a missing program is a failure.
NO_SKIP = bool(os.environ.get("IDENTD_NO_SKIP"))

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def skip(reason: str) -> NoReturn:
    """Skip the running test for want of something."""
    pytest.skip(reason)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Where nothing may be wanting, a test that skips fails, however it does so."""
    outcome = yield
    _may_not_skip(outcome.get_result())  # type: ignore[attr-defined]


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """So does a file that skips all of its tests."""
    outcome = yield
    _may_not_skip(outcome.get_result())  # type: ignore[attr-defined]


def _may_not_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"may not skip here: {reason}"


@pytest.fixture
def needs_root() -> None:
    """Skip a test that an ordinary user may not run."""
    if os.geteuid() != 0:
        skip("needs root")


def program(name: str) -> str:
    """Return the path of a program that a test drives, or skip the test."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        skip(f"needs the program {name}")
    return path


class Pair(NamedTuple):
    """A TCP connection of this process with itself: both ends, and the listener that made it."""

    client: socket.socket
    server: socket.socket
    listener: socket.socket

    @property
    def query(self) -> bytes:
        """The query about the client's end, as a program at the server's end would ask it."""
        return b"%d,%d" % (self.client.getsockname()[1], self.client.getpeername()[1])


@contextlib.contextmanager
def connect(host: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> Iterator[Pair]:
    """Open a connection over loopback, and close it afterwards."""
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client, listener.accept()[0] as server:
            yield Pair(client, server, listener)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """An open IPv4 connection over loopback."""
    with connect() as pair:
        yield pair


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said."""
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()


@pytest.fixture(autouse=True)
def _no_descriptor_leaks() -> Iterator[None]:
    """Every test leaves as many descriptors open as it found."""
    before = _descriptors()
    yield
    if len(_descriptors()) > len(before):
        gc.collect()
        after = _descriptors()
        assert len(after) <= len(before), f"descriptors left open: {sorted(after - before)}"
