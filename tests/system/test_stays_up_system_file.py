"""Does a system file that can't be obeyed keep identd from starting, or from obeying it once it is right?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers.hosts import until
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY
from helpers.pairs import Pair
from helpers.single_shot import by_hand, driver
from helpers.superservers import driving
from helpers.warm import log_of, warming

pytest_plugins = ["helpers.superservers"]

WRONG = "default {\n  default { alow hide } }\n"
RIGHT = 'default { default { force reply "right" } }\n'


@pytest.mark.parametrize("name", ["xinetd", "xinetd-wait", "inetd-wait", "foreground"])
def test_under_a_superserver(needs_root: None, installed: Path, pair: Pair, name: str) -> None:
    """The reply is UNKNOWN-ERROR, the log has file, line and column at err; the file counts as soon as it is right."""
    with readable_folder() as folder:
        path = folder / "oidentd.conf"
        path.write_text(WRONG)
        with driving(name, installed, f"-C {path}") as served:
            if name != "foreground":  # which may have said it by now
                served.forget()
            assert served.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
            lines = [line for line in served.logged(b"was told") if b"%s:2:13: " % os.fsencode(path) in line]
            assert lines and all(line.startswith(b"<27>identd[") for line in lines), lines
            assert sum(b"nobody is named until that is mended" in line for line in lines) == (name != "xinetd")
            path.write_text(RIGHT)
            until(lambda: served.ask(pair.query + b"\r\n").endswith(b":right\r\n"))


@pytest.mark.parametrize("what", ["wrong", "missing", "closed", "in a folder that is closed"])
def test_the_warm_process(needs_root: None, pair: Pair, what: str) -> None:
    """Whatever keeps it from being obeyed: one line at err, and once that is gone the file counts, without a signal."""
    with readable_folder() as folder:
        path = folder / "etc" / "oidentd.conf"
        path.parent.mkdir()
        if what != "missing":
            path.write_text(WRONG if what == "wrong" else RIGHT)
        if what == "closed":
            path.chmod(0o600)
        if what.startswith("in"):
            path.parent.chmod(0o700)
        with warming("-S", "-C", str(path), stderr=subprocess.PIPE, **AS_NOBODY) as warm:
            assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
            path.parent.chmod(0o755)
            if what in ("wrong", "missing"):
                path.write_text(RIGHT)
            path.chmod(0o644)
            until(lambda: warm.ask(pair.query + b"\r\n").endswith(b":right\r\n"))
            said = [line for line in log_of(warm).splitlines() if "nobody is named until that is mended" in line]
    assert len(said) == 1, said


def test_a_mode_alone(needs_root: None, pair: Pair) -> None:
    """The file that becomes readable is the one that was there: neither its time nor its size tells."""
    with readable_folder() as folder:
        path = folder / "oidentd.conf"
        path.write_text(RIGHT)
        with warming("-C", str(path), **AS_NOBODY) as warm:
            assert warm.ask(pair.query + b"\r\n").endswith(b":right\r\n")
            path.chmod(0o600)
            path.write_text(RIGHT.replace("right", "again"))
            until(lambda: warm.process.poll() is None)
            path.chmod(0o644)
            until(lambda: warm.ask(pair.query + b"\r\n").endswith(b":again\r\n"))


def test_a_name_service_that_hangs_at_the_start(pair: Pair, tmp_path: Path) -> None:
    """A user in the file about whom nobody answers does not keep the socket's clients waiting for ever."""
    code = (
        "import lookup.config.system_file as file, time\nfile.load = lambda *_: time.sleep(3600)\n"
        "from identserver.warm import reloading\nreloading.LOOKUP_SECONDS = 0.5\n"
    )
    with readable_folder() as folder:
        path = folder / "oidentd.conf"
        path.write_text(RIGHT)
        with warming("-C", str(path), command=driver(tmp_path, code)) as warm:
            assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"


def test_check_is_where_it_ends_badly(tmp_path: Path) -> None:
    """`--check` exits with 1, and says where the error is."""
    path = tmp_path / "oidentd.conf"
    path.write_text(WRONG)
    said = by_hand(b"", "--check", "-C", str(path))
    assert said.status == 1
    assert f"{path}:2:13: " in said.stdout.decode()
