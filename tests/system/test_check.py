"""Does --check tell a host that answers truly from one that does not, and name what stands in the way?"""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import forbid_netlink, nameless_uid
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, NOBODY, ROOT, only_if_others_can_read_it, program, skip
from helpers.pairs import PATIENCE, me
from helpers.single_shot import COMMAND

from identserver import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator


def checked(*options: str, before: list[str] | None = None, **popen: Any) -> tuple[str, int]:
    """Run --check, which never ends in a traceback; return what it printed, and its exit status."""
    done = subprocess.run(
        [*(before or []), *COMMAND, "--check", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **popen,
    )
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    return done.stdout, done.returncode


def field(text: str, name: str) -> str:
    """Return what the line says that begins with a word."""
    found = re.search(rf"^{name} +(.*)$", text, re.MULTILINE)
    assert found, f"no line {name} in: {text}"
    return found[1]


def obstacles(text: str) -> list[str]:
    """Return the obstacles, each with the remedy that must stand on the line below it."""
    found = re.findall(r"^obstacle: (.+\n {2,}\S.*)$", text, re.MULTILINE)
    assert len(found) == text.count("obstacle"), text
    return [str(obstacle) for obstacle in found]


def site(tmp_path: Path, customization: str) -> dict[str, str]:
    """Return the environment of an interpreter that runs some code at its start."""
    (tmp_path / "sitecustomize.py").write_text(customization)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@contextlib.contextmanager
def without(*packages: str) -> Iterator[dict[str, str]]:
    """The environment of an interpreter that can't import some packages, whoever runs it."""
    with readable_folder() as folder:
        for package in packages:
            (folder / f"{package}.py").write_text("raise ImportError('kept away')\n")
        yield {**os.environ, "PYTHONPATH": str(folder)}


def test_a_true_answer() -> None:
    """A real query about a real connection is printed with its true reply, the source, the time and the versions."""
    text, status = checked()
    assert status == 0
    query = field(text, "query")
    assert re.fullmatch(r"[1-9][0-9]*,[1-9][0-9]*", query)
    assert field(text, "reply") == f"{query}:USERID:UNIX:{me()}"
    assert field(text, "source") == "sock_diag"
    assert re.match(r"[0-9]+ ms", field(text, "time"))
    first = text.splitlines()[0]
    for version in (f"identd {__version__}", f"Python {platform.python_version()}", "pyroute2 ", "psutil "):
        assert version in first
    assert platform.release() in first


def test_every_query_is_a_fresh_one() -> None:
    """Two runs ask about two connections: nothing of the reply is made up."""
    queries = {field(checked()[0], "query") for _ in range(2)}
    assert len(queries) == 2


@contextlib.contextmanager
def some_user() -> Iterator[dict[str, Any]]:
    """What makes a process one of a user's other than root, with that user's login name."""
    if os.geteuid():
        yield {"name": me()}
        return
    only_if_others_can_read_it()
    yield {"name": pwd.getpwuid(NOBODY).pw_name, **AS_NOBODY, "cwd": "/"}


def psutil_is_asked(reason: str, remedy: str, **popen: Any) -> None:
    """Where sock_diag can't be asked, psutil answers about the user that identd serves as, truly, and nobody else.

    That is not well: status 1. Root serves as nobody, to whom the kernel does not tell what root's processes hold: that
    is no true answer.
    """
    with some_user() as who:
        name = who.pop("name")
        text, status = checked(**popen, **who)
    assert status == 1
    assert text.splitlines()[-2] == "no true answer about everybody"
    assert text.splitlines()[-1] == f"what helps, by symptom: {ROOT / 'docs' / 'trouble.md'}"
    assert field(text, "reply") == f"{field(text, 'query')}:USERID:UNIX:{name}"
    assert field(text, "source") == "psutil"
    (obstacle,) = (said for said in obstacles(text) if reason in said)
    assert remedy in obstacle and "our own user only" in obstacle
    if os.geteuid() == 0:
        text, status = checked(**popen)
        assert status == 1
        assert field(text, "reply") == f"{field(text, 'query')}:ERROR:UNKNOWN-ERROR"
        assert field(text, "source") == "none"
        (obstacle,) = (said for said in obstacles(text) if reason in said)
        assert remedy in obstacle
        (line,) = (line for line in text.splitlines() if " was told " in line)
        assert "psutil" in line and "sock_diag can't be asked" in line
        assert text.splitlines()[-2] == "no true answer"


def test_without_netlink() -> None:
    """F16. A process that may not open AF_NETLINK has psutil answer, about its own user, and says what to allow."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64", "riscv64"):
        skip("needs a seccomp filter, written for other machines")
    psutil_is_asked("sock_diag", "AF_NETLINK", preexec_fn=forbid_netlink)


def test_without_pyroute2() -> None:
    """Without pyroute2, psutil answers, about its own user, and the remedy is to install it."""
    with without("pyroute2") as environment:
        psutil_is_asked("pyroute2", "install", env=environment)


def test_without_both() -> None:
    """With nobody to ask there is no true answer: status 1."""
    with without("pyroute2", "psutil") as environment:
        text, status = checked(env=environment)
    assert status == 1
    assert field(text, "reply").endswith(":ERROR:UNKNOWN-ERROR")
    assert field(text, "source") == "none"
    assert obstacles(text)


def namespace(*options: str) -> list[str]:
    """Return the words that run a command in namespaces of its own, or skip."""
    words = [program("unshare"), *options]
    if subprocess.run([*words, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        skip(f"unshare {' '.join(options)} is not allowed here")
    return words


def test_a_user_namespace_that_hides_every_uid() -> None:
    """Where our own uid is not mapped (PrivateUsers=), no answer can be true: status 1, and the way out."""
    text, status = checked(before=namespace("-U"))
    assert status == 1
    assert any("user namespace" in obstacle and "PrivateUsers" in obstacle for obstacle in obstacles(text))


def test_a_user_namespace_that_hides_others() -> None:
    """Where our uid alone is mapped, root can't be given up: nobody is named, not even truly. Status 1, and why."""
    text, status = checked(before=namespace("-U", "-r"))
    assert status == 1
    assert field(text, "reply") == f"{field(text, 'query')}:ERROR:UNKNOWN-ERROR"
    assert field(text, "source") == "none"
    assert any("user namespace" in obstacle for obstacle in obstacles(text))
    assert "root could not be given up" in text


def test_without_loopback() -> None:
    """In a network namespace whose loopback is down no query can be made: status 1."""
    text, status = checked(before=namespace("-U", "-r", "-n"))
    assert status == 1
    assert "loopback" in text


def test_a_uid_without_a_login_name(needs_root: None) -> None:
    """A user without a passwd entry is answered as OTHER and the number: true, but worth a warning."""
    uid = nameless_uid()
    only_if_others_can_read_it()
    text, status = checked(user=uid, group=uid, extra_groups=[], cwd="/")
    assert status == 0
    assert field(text, "reply").endswith(f":USERID:OTHER:{uid}")
    assert any(str(uid) in obstacle and "nsswitch" in obstacle for obstacle in obstacles(text))


def test_a_wrong_answer(tmp_path: Path) -> None:
    """An identd that names somebody else is found out: status 1, and who it should have been."""
    liar = """
import pwd, sys
if "--check" not in sys.argv:
    getpwuid = pwd.getpwuid
    pwd.getpwuid = lambda uid: pwd.struct_passwd(("mallory", *getpwuid(uid)[1:]))
"""
    text, status = checked(env=site(tmp_path, liar))
    assert status == 1
    assert field(text, "reply").endswith(":USERID:UNIX:mallory")
    assert me() in text


@pytest.mark.parametrize("death", ["os._exit(7)", "os.kill(os.getpid(), 9)"])
def test_no_answer(tmp_path: Path, death: str) -> None:
    """An identd that dies on the way gives no answer: status 1."""
    text, status = checked(env=site(tmp_path, f"import os, sys\nif '--check' not in sys.argv:\n    {death}"))
    assert status == 1
    assert field(text, "reply") == "none"


def test_a_name_service_that_hangs(tmp_path: Path) -> None:
    """A name service that never answers gives UNKNOWN-ERROR, no true answer, and the reason from identd's log."""
    stuck = """
import pwd, sys, time
if "--check" not in sys.argv:
    pwd.getpwuid = lambda uid: time.sleep(3600)
"""
    text, status = checked(env=site(tmp_path, stuck))
    assert status == 1
    assert field(text, "reply").endswith(":ERROR:UNKNOWN-ERROR")
    assert "4 s" in text
