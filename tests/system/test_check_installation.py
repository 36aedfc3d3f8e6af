"""Does --check find what keeps the user who serves from the installation, and files that nobody reads?"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers.hosts import login
from helpers.installed import PYTHON, copy_sources, free_port, readable_folder
from helpers.machine import AS_NOBODY, ROOT, only_if_others_can_read_it, program, run, skip
from helpers.pairs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("needs_root")


@pytest.fixture(autouse=True)
def readable() -> None:
    """The interpreter is not what is closed."""
    only_if_others_can_read_it()


@pytest.fixture
def copy() -> Iterator[Path]:
    """An installation of root's own, that all may read."""
    with readable_folder() as folder:
        yield copy_sources(folder / "identd")


def checked(
    copy: Path, *options: str, before: tuple[str, ...] = (), python: str = sys.executable, **popen: Any
) -> tuple[str, int]:
    """Run --check of an installation; return what it says, and its exit status."""
    command = [*before, python, str(copy / "identd.py"), "--check", "--port", str(free_port()), *options]
    # Whether byte code is written is a matter of these tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env=environment, **popen,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout, done.returncode


CLOSED = {
    "a folder": ("", 0o700, "{copy} has mode 0700, which lacks o+x"),
    "a package": ("lookup/users", 0o750, "{copy}/lookup/users has mode 0750, which lacks o+rx"),
    "a file": ("identserver/log.py", 0o600, "{copy}/identserver/log.py has mode 0600, which lacks o+r"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "mode", "said"), CLOSED.values(), ids=CLOSED)
def test_closed_to_nobody(copy: Path, name: str, mode: int, said: str) -> None:
    """As root, identd serves as nobody: what nobody can't read is an error, named with what it lacks. Status 1."""
    (copy / name).chmod(mode)
    text, status = checked(copy)
    assert status == 1, text
    (error,) = re.findall(r"^error: identd can't run as nobody: .*$", text, re.M)
    assert f"can't read identd: {said.format(copy=copy)}" in error
    assert "the answer is true" not in text


def test_an_interpreter_in_roots_home(copy: Path) -> None:
    """The interpreter is looked at first, where it is started from."""
    home = copy.parent / "root"
    home.mkdir(mode=0o700)
    (home / "python3").symlink_to(PYTHON)
    text, status = checked(copy, python=str(home / "python3"))
    assert status == 1
    assert "error: identd can't run as nobody: " in text
    assert f"can't read Python: {home} has mode 0700, which lacks o+" in text


def test_closed_to_another_user(copy: Path) -> None:
    """With --user, it is that user who must be able to read it: the group's bits are theirs."""
    with login() as user:
        os.chown(copy, 0, user.pw_gid)
        copy.chmod(0o750)
        assert "can't run as nobody" in checked(copy)[0]
        text, _ = checked(copy, "--user", user.pw_name)
        assert "can't run as" not in text
        copy.chmod(0o700)
        text, status = checked(copy, "--user", user.pw_name)
    assert status == 1
    assert re.search(rf"can't run as {user.pw_name}: .*{copy} has mode 0700, which lacks ", text)


def test_a_clone_in_a_closed_home(copy: Path) -> None:
    """README's first command, as an ordinary user: what only others can't read is a warning, and the status is 0."""
    with login() as user:
        for path in (copy, *copy.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        copy.chmod(0o700)
        who: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
        text, status = checked(copy, **who)
    assert status == 0, text
    assert f"install  warning: identd can't run as another user, such as nobody: {copy} has mode 0700" in text
    assert text.splitlines()[-1] != "the answer is true"


def in_a_closed_home(folder: Path, installed: bool) -> Path:
    """A clone of root's under a home that is closed; ``installed``: in a virtual environment in it, as README does."""
    home = folder / "root"
    home.mkdir(mode=0o700)
    clone = copy_sources(home / "clone")
    if not installed:
        return clone / "identd.py"
    run(PYTHON, "-m", "venv", "--without-pip", "--system-site-packages", str(clone / ".venv"))
    (packages,) = clone.glob(".venv/lib/*/site-packages")
    for name in ("identserver", "lookup", "identd.py"):
        (clone / name).rename(packages / name)
    return packages / "identd.py"


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "as it stands"])
def test_roots_clone_in_a_closed_home(installed: bool) -> None:
    """README's first command, as root: nobody asked that nobody serves from there, so root's own answer counts."""
    with readable_folder() as folder:
        script = in_a_closed_home(folder, installed)
        python = next(iter(folder.glob("root/clone/.venv/bin/python3")), PYTHON)
        text, status = checked(script.parent, python=str(python))
        assert status == 0, text
        assert re.search(r"^reply +\d+,\d+:USERID:UNIX:root$", text, re.M)
        (warning,) = re.findall(r"^install  warning: asked as root: .* as nobody: .*$", text, re.M)
        assert f"{folder}/root has mode 0700, which lacks o+x" in warning
        assert "\nthe answer is true\nbut " in text
        # With --user somebody did.
        text, status = checked(script.parent, "--user", "nobody", python=str(python))
        assert status == 1
        assert "error: identd can't run as nobody: " in text


def test_byte_code(copy: Path) -> None:
    """Where it is neither there nor can be written, each query compiles anew: a warning, until it is made."""
    text, status = checked(copy, **AS_NOBODY)
    assert status == 0
    found = re.search(
        r"^install +warning: nobody compiles identd at each query: .*\n +as root, run `(.*)`$", text, re.M
    )
    assert found, text
    run("sh", "-c", found[1])
    text, status = checked(copy, **AS_NOBODY)
    assert "compiles" not in text
    for folder in copy.rglob("__pycache__"):
        folder.chmod(0o700)
    assert "compiles identd at each query" in checked(copy, **AS_NOBODY)[0]


# Files that nobody reads.


@contextlib.contextmanager
def etc(*lines: str) -> Iterator[tuple[str, ...]]:
    """The words that run a command with an /etc of its own, after some lines of shell in it."""
    with readable_folder() as folder:
        if run("mount", "-t", "tmpfs", "none", str(folder), check=False).returncode:
            skip("no file system can be mounted here")
        try:
            for name in ("upper", "work"):
                (folder / name).mkdir()
            layers = f"lowerdir=/etc,upperdir={folder / 'upper'},workdir={folder / 'work'}"
            script = ["set -e", f"mount -t overlay -o {layers} none /etc", "cd /etc", "rm -f oident*", *lines]
            yield (program("unshare"), "--mount", "sh", "-c", "\n".join([*script, 'exec "$@"']), "sh")
        finally:
            run("umount", str(folder))


def test_roots_clone_that_xinetd_serves_from() -> None:
    """As soon as a service file has another user serve from a closed home, that it can't is an error: status 1."""
    program("xinetd")
    with readable_folder() as folder:
        script = in_a_closed_home(folder, installed=False)
        port = free_port()
        text = (ROOT / "xinetd.d" / "identd").read_text().replace("= 113\n", f"= {port}\n")
        file = folder / "identd"
        file.write_text(text.replace("/opt/identd/bin/python3", PYTHON).replace("/opt/identd/bin/identd", str(script)))
        with etc(f"cp {file} xinetd.d/identd") as own:
            said, status = checked(script.parent, "--port", str(port), before=own, python=PYTHON)
    assert status == 1, said
    (error,) = re.findall(r"^error: .*$", said, re.M)
    assert "xinetd's service identd (/etc/xinetd.d/identd) runs identd as nobody: uid 65534 can't read " in error
    assert f"{folder}/root has mode 0700, which lacks o+x" in error


def test_files_that_nobody_reads(copy: Path) -> None:
    """F14. A name that looks like the system file's is told; so is a masquerade file, unless it is all comments."""
    with etc("echo >oident.conf", "echo '10.0.0.1 x UNIX' >oidentd_masq.conf") as own:
        text, status = checked(copy, before=own)
    assert status == 0
    assert "file     warning: nobody reads /etc/oident.conf: the system file is /etc/oidentd.conf\n" in text
    assert "file     warning: nobody reads /etc/oidentd_masq.conf" in text
    assert text.splitlines()[-1] != "the answer is true"


def test_files_that_do_not_matter(copy: Path) -> None:
    """What the package leaves behind says nothing, and with a system file of the right name another is no mistake."""
    with etc("touch oidentd.conf oident.conf", "echo '# 10.0.0.1 x UNIX' >oidentd_masq.conf") as own:
        text, _ = checked(copy, before=own)
    assert "nobody reads" not in text
