"""Does every form of the warm process give root up, wholly and before the first client, or say why it can't?

The kernel's own account counts: /proc/PID/status of every thread.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import login
from helpers.installed import free_port, readable_folder
from helpers.machine import NOBODY, only_if_others_can_read_it
from helpers.pairs import PATIENCE, Pair, me
from helpers.single_shot import COMMAND, driver, ending
from helpers.warm import Warm, status, until_it_serves, warming

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("needs_root")

FORMS = ["wait", "foreground"]


@contextlib.contextmanager
def serving(form: str, *options: str, command: Sequence[str] = COMMAND) -> Iterator[Warm]:
    """Start a warm identd as root, in either form."""
    only_if_others_can_read_it()
    if form == "wait":
        with warming(*options, command=command) as warm:
            yield warm
        return
    port = free_port()
    process = subprocess.Popen(
        [*command, "--foreground", "-a", "127.0.0.1", "-p", str(port), *options],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with ending(process):
        until_it_serves(process)
        yield Warm(process, ("127.0.0.1", port))


def assert_is(warm: Warm, uid: int, gid: int) -> None:
    """Check every id and capability of every thread (proc_pid_status(5))."""
    for thread in os.listdir(f"/proc/{warm.process.pid}/task"):
        fields = status(int(thread))
        assert fields["Uid"].split() == [str(uid)] * 4
        assert fields["Gid"].split() == [str(gid)] * 4
        assert fields["Groups"] == ""
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


@pytest.mark.parametrize("form", FORMS)
def test_nobody_without_a_word(form: str, pair: Pair) -> None:
    """Root becomes nobody, of nobody's group and no other, before and after the first query."""
    with serving(form) as warm:
        gid = pwd.getpwuid(NOBODY).pw_gid
        assert_is(warm, NOBODY, gid)
        assert warm.ask(pair.query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        assert_is(warm, NOBODY, gid)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("numbers", [False, True])
def test_a_user_and_a_group(form: str, numbers: bool, pair: Pair) -> None:
    """-u and -g, by name and by number; without -g the group is the user's."""
    other = grp.getgrgid(1)
    with login() as user:
        named = ("-u", str(user.pw_uid)) if numbers else ("--user", user.pw_name)
        with serving(form, *named) as warm:
            assert_is(warm, user.pw_uid, user.pw_gid)
            assert warm.ask(pair.query + b"\r\n").startswith(pair.query + b":USERID:")
        group = ("-g", str(other.gr_gid)) if numbers else ("--group", other.gr_name)
        with serving(form, *named, *group) as warm:
            assert_is(warm, user.pw_uid, other.gr_gid)
            assert warm.ask(pair.query + b"\r\n").startswith(pair.query + b":USERID:")


def test_a_group_alone() -> None:
    """-g without -u: nobody, in that group."""
    with serving("wait", "-g", "1") as warm:
        assert_is(warm, NOBODY, 1)


def test_supplementary_groups_are_dropped(tmp_path: Path) -> None:
    """Groups that root had are not kept."""
    with serving("wait", command=["setpriv", "--groups=1,2,3", *COMMAND]) as warm:
        assert_is(warm, NOBODY, pwd.getpwuid(NOBODY).pw_gid)


def test_the_system_file_may_be_roots_alone(pair: Pair) -> None:
    """It is read before root is given up."""
    with readable_folder() as folder:
        config = folder / "conf"
        config.write_text(f'user "{me()}" {{ default {{ force hide }} }}\n')
        config.chmod(0o600)
        with serving("foreground", "-C", str(config)) as warm:
            assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:HIDDEN-USER\r\n"


def test_root_is_not_given_up_for_a_single_query(pair: Pair) -> None:
    """An ordinary user's warm process stays his: there is nothing to give up."""
    with login() as user, serving(
        "wait", command=["setpriv", f"--reuid={user.pw_uid}", "--regid=1", "--clear-groups", *COMMAND]
    ) as warm:
        assert_is(warm, user.pw_uid, 1)
        assert warm.ask(pair.query + b"\r\n").startswith(pair.query + b":USERID:")


REFUSED = {
    "root by name": (["-u", "root"], "root"),
    "root by number": (["-u", "0"], "root"),
    "no such user": (["-u", "identd-none"], "identd-none"),
    "no such uid": (["-u", "1900000999"], "1900000999"),
    "no uid at all": (["-u", "99999999999999999999"], "9999"),
    "no such group": (["-g", "identd-none"], "identd-none"),
    "no gid at all": (["-g", "4294967295"], "4294967295"),
    "a far too large gid": (["-g", "99999999999999999999"], "99999"),
}


@pytest.mark.parametrize(("options", "word"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("form", FORMS)
def test_who_can_not_be_become(form: str, options: list[str], word: str) -> None:
    """The start fails with one line that says why, exit status 2, and serves nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        foreground = ["-i", "-a", "127.0.0.1", "-p", str(free_port())] if form == "foreground" else []
        said = subprocess.run(
            [*COMMAND, *foreground, *options], stdin=listener.fileno(), capture_output=True, text=True, timeout=PATIENCE
        )
    assert said.returncode == 2, said.stderr
    assert said.stderr.startswith("identd: ")
    assert said.stderr.count("\n") == 1
    assert word in said.stderr


@pytest.mark.parametrize("options", [["-u", "nobody"], ["-g", "1"], ["-u", "root"]])
def test_only_root_can_become_another(options: list[str]) -> None:
    """-u without being root: one line that names the user and the reason, and nobody is served."""
    only_if_others_can_read_it()
    words = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said = subprocess.run(
            [*words, *COMMAND, *options], stdin=listener.fileno(), capture_output=True, text=True, timeout=PATIENCE
        )
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert f"can't become user {options[1] if options[0] == '-u' else 'nobody'}" in said.stderr
    assert "not permitted" in said.stderr


@pytest.mark.parametrize(
    ("call", "failure"),
    [
        *((call, "raise OSError(22, 'Invalid argument')") for call in ("setgroups", "setresgid", "setresuid")),
        *((call, "return None") for call in ("setresgid", "setresuid")),
    ],
)
def test_any_failure_stops_it(call: str, failure: str, tmp_path: Path) -> None:
    """Whether the kernel refuses a step or only seems to grant it: as root nobody is served."""
    command = driver(tmp_path, f"import os\ndef refuse(*_): {failure}\nos.{call} = refuse")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said = subprocess.run(command, stdin=listener.fileno(), capture_output=True, text=True, timeout=PATIENCE)
    assert said.returncode in (1, 2)
    assert said.stderr.count("\n") == 1
