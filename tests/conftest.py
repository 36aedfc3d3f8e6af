"""What holds for every test?  When a skip is a failure, and that no descriptor is left open."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

# Before they are imported, so that an assertion that fails there shows its values.
pytest.register_assert_rewrite("helpers")

from helpers.machine import NO_SKIP, ROOT, only_root  # noqa: E402
from helpers.pairs import Pair, connect  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

# What needs clean trees of Debian, which .ci/full makes, is no part of the suite where there are none.
collect_ignore_glob = [] if os.environ.get("IDENTD_TREES") else ["full/*"]

# pytest itself adds this folder, from which `helpers` comes.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the monotonic clock is ahead."""
    ahead = [0.0]
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + ahead[0])
    return ahead


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """In CI, where nothing may be missing, a test that skips fails, however it does so."""
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
    only_root()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """An open IPv4 connection over loopback."""
    with connect() as pair:
        yield pair


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
