"""Does --check list what is wrong with the system file and with a user's?"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from helpers.machine import AS_NOBODY, NOBODY, only_if_others_can_read_it
from helpers.pairs import PATIENCE, Pair
from helpers.residents import Resident, access_list, set_access_list, system_file
from helpers.single_shot import COMMAND, by_hand

import identserver
from identserver import options
from identserver.admin import files
from lookup.config import user_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["helpers.people"]


def checked(*options: str, **popen: Any) -> tuple[list[str], str, int]:
    """Run --check, which never ends in a traceback; return its lines, standard error and exit status."""
    done = subprocess.run(
        [*COMMAND, "--check", *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False, **popen,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout.splitlines(), done.stderr, done.returncode


@pytest.fixture
def config() -> Iterator[Path]:
    """A system file without a fault."""
    with system_file("default { default { allow hide } }") as path:
        yield path


def test_a_file_without_fault(config: Path) -> None:
    """The file is named, nothing is wrong, the answer is true: status 0."""
    lines, stderr, status = checked("-C", str(config))
    assert (stderr, status) == ("", 0)
    assert f"system   {config}" in lines
    assert "the answer is true" in lines
    assert not any(line.startswith(("error", "warning")) for line in lines)


NOTICES = {
    "a cancelled force": ("default { default { force hide\nallow spoof } }", "2:1", "cancels the force"),
    "a force after others": ("default { default { allow hide\nforce hide } }", "2:1", "makes the lines above it"),
    "no end of a comment": ("default { default { allow hide } }\n/* and", "2:1", "this comment has no end"),
    "a second default": (
        "default { default { allow hide } }\ndefault { default { allow hide } }", "2:1", "a second default block",
    ),
    "a default too late": (
        "user root { default { allow hide } }\ndefault { default { allow spoof } }", "2:1", "inherit nothing",
    ),
    "no spoof": ("user root { default { allow spoof_all } }", "1:23", "no effect without the capability spoof"),
    "a forced spoof": ("default { default { force spoof } }", "1:21", "the login name is forced"),
    "an overridden range": ("default {\nfport 1 { allow hide }\ndefault { allow hide } }", "2:1", "never applies"),
    "a reply too odd": ('default { default { force reply "a\\r" } }', "1:33", "never sent"),
    "an unknown user": (
        'user root { default { allow hide } }\nuser "identd-none" { default { allow hide } }', "2:6", "identd-none",
    ),
    "an unknown host": ("default { default { allow hide }\nto host.invalid { force hide } }", "2:4", "host.invalid"),
    "a quote that is none": ('default {\ndefault { force reply \u201cx\u201d } }', "2:23", 'only " quotes'),
    "a backslash": ('default { default { force reply "CORP\\alice" } }', "1:38", "\\a is a control character"),
    "a comma": ('default { default { force reply "a" , "b" } }', "1:37", "one more reply"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "place", "expected"), NOTICES.values(), ids=NOTICES.keys())
def test_a_warning(config: Path, text: str, place: str, expected: str) -> None:
    """What is surely not meant is named with line and column, and is no error."""
    config.write_text(text)
    lines, stderr, status = checked("-C", str(config))
    assert (stderr, status) == ("", 0)
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert expected in warning
    assert warning.startswith(f"warning: {config}:{place}: ")


ERRORS = {
    "an unknown word": ("default {\n default { alow hide } }", "2:12: allow, deny or force expected, not alow"),
    "the end too soon": ("default { default { allow hide }", "1:33: "),
    "an empty block": ("default { }", "1:11: "),
    "a user twice": ("user 0 { default { allow hide } }\nuser root { default { allow hide } }", "2:6: one block for"),
    "an open string": ('default { default { force reply "x } }', "1:33: a closing quote expected"),
    "a host that is none": ("default { to 1.2.3.4/33 { allow hide } }", "1:14: a number of bits"),
    "a port that is none": ("default { fport 0 { allow hide } }", "1:17: a port from 1 to 65535"),
}


@pytest.mark.parametrize(("text", "expected"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error(config: Path, text: str, expected: str) -> None:
    """F12. What can't be obeyed is named with place and what was expected: status 1, and no word that all is well."""
    config.write_text(text)
    lines, stderr, status = checked("-C", str(config))
    assert (stderr, status) == ("", 1)
    assert any(line.startswith(f"error: {config}:{expected}") for line in lines), lines
    assert "the answer is true" not in lines
    assert lines[-2] == "not well: 1 error, see above"


def test_a_file_that_is_missing(config: Path) -> None:
    """A file that was named must be there."""
    config.unlink()
    lines, _, status = checked("-C", str(config))
    assert status == 1
    assert f"error: {config}: no such file" in lines


def test_a_directory(tmp_path: Path) -> None:
    """A directory in the file's place is an error with the system's reason."""
    lines, _, status = checked("-C", str(tmp_path))
    assert status == 1
    assert f"error: {tmp_path}: Is a directory" in lines


def test_a_file_that_may_not_be_read(needs_root: None) -> None:
    """A file that identd may not read is an error, whoever else may."""
    only_if_others_can_read_it()
    with system_file("") as path:
        path.chmod(0o600)
        lines, _, status = checked("-C", str(path), **AS_NOBODY)
    assert status == 1
    assert f"error: {path}: Permission denied" in lines


def test_no_default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default file may be missing: nobody may do anything, and that is no error."""
    monkeypatch.setattr(identserver, "CONFIG", str(tmp_path / "none"))
    assert files.check_files(options.read(["--check"]))
    assert f"no {tmp_path}/none: nobody may do anything" in capsys.readouterr().out


def test_a_users_file(carol: Resident, config: Path) -> None:
    """The file that counts is named, and what is odd in it; the answer is still checked, as whoever runs the check."""
    carol.write('fport 1 { hide }\nglobal { reply "a" , "b" }')
    lines, stderr, status = checked("-C", str(config), "--user", carol.name)
    assert (stderr, status) == ("", 0)
    assert f"user     {carol.file}" in lines
    assert [line.partition(": ")[2].split(": ")[0] for line in lines if line.startswith("warning")] == [
        f"{carol.file}:1:1", f"{carol.file}:2:20",
    ]  # fmt: skip
    assert "the answer is true" in lines


def test_a_users_file_with_an_error(carol: Resident, config: Path) -> None:
    """Line, column, what was expected: status 1."""
    carol.write("global {\n hidde }")
    lines, stderr, status = checked("-C", str(config), "--user", carol.name)
    assert (stderr, status) == ("", 1)
    assert [line for line in lines if f"{carol.file}:2:2: hide, random" in line and line.startswith("error: ")]


def test_a_user_without_a_file(carol: Resident, config: Path) -> None:
    """It says where it looked, and that is no error."""
    carol.file.unlink(missing_ok=True)
    lines, stderr, status = checked("-C", str(config), "--user", carol.name)
    assert (stderr, status) == ("", 0)
    assert f"file     {carol.file}: No such file or directory" in lines
    assert "user     no file that counts" in lines


def test_a_users_file_that_nobody_may_read(carol: Resident, config: Path) -> None:
    """As root, the file is read as its owner would; that identd as nobody can't is worth a warning."""
    carol.write("global { hide }").chmod(0o600)
    lines, stderr, status = checked("-C", str(config), "--user", carol.name)
    assert (stderr, status) == ("", 0)
    assert f"user     {carol.file}" in lines
    assert any(line.startswith("warning: ") and f"chmod o+r {carol.file}" in line for line in lines)


#: What nobody may do with her file and with her home, as lists for setxattr(2), and whether nobody can read the file.
ACCESS = {
    "a list refuses": ((0o644, {NOBODY: 0}, 4, 4), (0o755, {}, 5, 5), False),
    "a list allows": ((0o644, {}, 4, 4), (0o750, {NOBODY: 1}, 1, 0), True),
    "the mask refuses": ((0o644, {}, 4, 4), (0o750, {NOBODY: 1}, 4, 0), False),
    "no mask, no list": ((0o644, {NOBODY: 0}, 0, 4), (0o755, {}, 5, 5), True),
}


@pytest.mark.parametrize(("of_file", "of_home", "readable"), ACCESS.values(), ids=ACCESS.keys())
def test_access_control_lists(carol: Resident, config: Path, of_file: Any, of_home: Any, readable: bool) -> None:
    """F8. To her and to root, a warning comes exactly where nobody really can't read her file."""
    carol.write("global { hide }")
    try:
        for path, (mode, users, mask, others) in ((carol.file, of_file), (carol.home, of_home)):
            path.chmod(mode)
            if users:
                set_access_list(path, access_list(mode >> 6, users, mode >> 3 & 7, {}, mask, others))
        read = subprocess.run(["cat", str(carol.file)], capture_output=True, check=False, **AS_NOBODY).returncode == 0
        assert read == readable
        for who in ({}, carol.who):
            lines, stderr, status = checked("-C", str(config), "--user", carol.name, **who)
            assert (stderr, status) == ("", 0)
            assert f"user     {carol.file}" in lines
            warnings = [line for line in lines if line.startswith("warning: ")]
            assert len(warnings) == (not readable), warnings
            assert all(f"{carol.file}: an identd of" in one and "setfacl -m u:nobody:" in one for one in warnings)
    finally:
        for path in (carol.file, carol.home):
            with contextlib.suppress(OSError):
                os.removexattr(path, "system.posix_acl_access")
        carol.home.chmod(0o755)


def test_both_files_are_looked_at(carol: Resident, config: Path) -> None:
    """An error in one of the files keeps neither the other's errors nor the warnings back."""
    config.write_text("default { default { force hide allow spoof } }\nuser 0 { default { allow hidde } }")
    carol.write("global { hidde }")
    lines, _, status = checked("-C", str(config), "--user", carol.name)
    assert status == 1
    assert any(line.startswith(f"warning: {config}:1:32: this line cancels the force") for line in lines), lines
    assert any(line.startswith(f"error: {config}:2:26: ") for line in lines)
    assert any(line.startswith(f"error: {carol.file}:1:10: ") for line in lines)


@pytest.mark.parametrize("what", ["another's", "huge", "a directory"])
def test_a_users_file_that_does_not_count(carol: Resident, config: Path, what: str) -> None:
    """What identd logs and passes over is an error here."""
    carol.write("global { hide }")
    if what == "another's":
        os.chown(carol.file, 0, 0)
    elif what == "huge":
        carol.write("#" * (user_file.MAX_SIZE + 1))
    else:
        carol.file.unlink()
        carol.file.mkdir()
    try:
        lines, _, status = checked("-C", str(config), "--user", carol.name)
    finally:
        if what == "a directory":
            carol.file.rmdir()
    assert status == 1
    assert [line for line in lines if line.startswith(f"error: {carol.file}: ")]
    assert "user     no file that counts" in lines


def test_a_user_by_number(carol: Resident, config: Path) -> None:
    """A uid will do, as for every -u."""
    carol.write("global { hide }")
    lines, _, status = checked("-C", str(config), "--user", str(carol.uid))
    assert (f"user     {carol.file}" in lines, status) == (True, 0)


def test_a_system_file_that_nobody_may_read(needs_root: None, config: Path) -> None:
    """Where not every identd can read it, a warning says so, and what to do."""
    config.chmod(0o600)
    lines, _, status = checked("-C", str(config))
    assert status == 0
    assert any(line.startswith("warning: ") and f"chmod o+r {config}" in line for line in lines)


def test_an_unknown_user(config: Path) -> None:
    """Somebody who is not there is a bad option: one line, status 2."""
    _, stderr, status = checked("-C", str(config), "--user", "identd-none")
    assert (stderr, status) == ("identd: no such user: identd-none\n", 2)


def test_a_default_is_explained_and_logged(config: Path, pair: Pair) -> None:
    """What stands in place of the login name is one step of --explain, with its line; the log has the rule."""
    config.write_text('default { default {\ndefault_reply "guest"\nallow spoof } }')
    query = pair.query.decode().strip()
    explained = by_hand(b"", "--explain", query, "-C", str(config)).stdout.decode()
    assert 'why      in place of the login name counts default_reply "guest" (line 2)\n' in explained
    assert explained.strip().endswith(":USERID:UNIX:guest")
    said = by_hand(pair.query + b"\n", "-C", str(config), "-S")
    assert said.stdout.endswith(b":USERID:UNIX:guest\r\n")
    assert f"rule {config}:1" in said.stderr


def test_what_only_identd_understands(carol: Resident, config: Path) -> None:
    """--oidentd lists it for both files, and is no error; where there is none, it says so."""

    def listed(*options: str) -> list[str]:
        lines, stderr, status = checked("-C", str(config), "--oidentd", "--user", carol.name, *options)
        assert (stderr, status) == ("", 0)
        return [line[9:] for line in lines if line.startswith("oidentd  ")]

    carol.write("to 10.0.0.0/8 { hide }")
    assert listed() == [
        f"understands all of {config}", f"{carol.file}:1:4: only identd understands this: a network",
    ]  # fmt: skip
    config.write_text("default { default { allow hide } to .example.org { allow hide } }")
    carol.write("global { hide }")
    assert listed() == [
        f"{config}:1:37: only identd understands this: a network by name", f"understands all of {carol.file}",
    ]  # fmt: skip


# Machines behind this one.


def test_the_file_for_machines_behind(config: Path, tmp_path: Path) -> None:
    """Its errors and warnings have their places, options that count now are explained, and an error is no success."""
    path = tmp_path / "masq"
    path.write_text("10.0.0.0/33 a UNIX\n10.1.0.0/16 b UNIX\n10.1.2.3 c UNIX")
    lines, _, status = checked("-C", str(config), "-mf", "--masquerade-file", str(path), "-P", "192.0.2.1")
    assert any(line.startswith("option   --proxy counts") and "who asks from 192.0.2.1" in line for line in lines)
    assert any(line.startswith(f"error: {path}:1:10: a number of bits from 0 to 32") for line in lines)
    assert any(line.startswith(f"warning: {path}:3:1: this line never counts: line 2") for line in lines)
    assert status == 1
    path.write_text("10.1.0.0/16 b UNIX\n")
    lines, _, status = checked("-C", str(config), "-m", "--masquerade-file", str(path))
    assert f"machines {path} has 1 line about machines behind this one" in lines and status == 0
