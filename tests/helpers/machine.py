"""What does this machine offer to the tests, and what is skipped for want of it?"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent
IDENTD = ROOT / "identd.py"

#: Set in CI: what would skip must run there, so a missing program is a failure.
NO_SKIP = bool(os.environ.get("IDENTD_NO_SKIP"))

#: The user without any rights.
NOBODY = 65534

#: What makes subprocess start a program as nobody.
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}

#: What an identd of another user imports: the checkout, and what it needs.
_IMPORTS = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import asyncio, psutil, pyroute2, identd, lookup"


def skip(reason: str) -> NoReturn:
    """Skip the running test because something is missing."""
    import pytest

    pytest.skip(reason)


def program(name: str) -> str:
    """Return the path of a program that a test uses, or skip the test."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        skip(f"needs the program {name}")
    return path


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it wrote."""
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)


def only_root() -> None:
    """Skip the running test unless root runs it."""
    if os.geteuid() != 0:
        skip("needs root")


def only_with_namespaces() -> None:
    """Skip the running test unless network namespaces can be made: by root, with ip(8)."""
    only_root()
    program("ip")


def only_if_others_can_read_it() -> None:
    """Skip the running test if root runs it and other users can't read the interpreter, its packages or the checkout.

    Another user's identd, or root's after it has given root up, could not start there. A clone below /root is such
    a place.
    """
    if os.geteuid() == 0 and not _nobody_can_import():
        skip(f"another user has to read the interpreter {sys.executable}, its packages and the checkout {ROOT}")


@functools.cache
def _nobody_can_import() -> bool:
    try:
        return subprocess.run(
            [sys.executable, "-c", _IMPORTS], stderr=subprocess.DEVNULL, check=False, timeout=60, **AS_NOBODY
        ).returncode == 0  # fmt: skip
    except PermissionError:  # the interpreter itself
        return False
