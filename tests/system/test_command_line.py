"""Does every option mean what oidentd has it mean, over a connection and on a pipe, and is a bad one refused?"""

from __future__ import annotations

import os
import pty
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.machine import skip
from helpers.pairs import PATIENCE, Pair, connect, named
from helpers.single_shot import COMMAND, answered_by_both, by_hand, handler

from identserver import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A connection that does not exist: both ends would be the same.
NOBODY = b"1,1\r\n"


@pytest.fixture
def asked(pair: Pair) -> Iterator[bytes]:
    """A query that names us."""
    yield pair.query + b"\r\n"


def test_no_option(pair: Pair, asked: bytes) -> None:
    """Without options: UNIX, the login name, and the errors by their names."""
    assert answered_by_both(asked) == named(pair)
    assert answered_by_both(NOBODY) == b"1,1:ERROR:NO-USER\r\n"
    assert answered_by_both(b"0,1\r\n") == b"0,1:ERROR:INVALID-PORT\r\n"


@pytest.mark.parametrize("option", ["-e", "--error", "--err"])
def test_error(pair: Pair, asked: bytes, option: str) -> None:
    """-e: every error is UNKNOWN-ERROR, a name is still a name."""
    assert answered_by_both(NOBODY, option) == b"1,1:ERROR:UNKNOWN-ERROR\r\n"
    assert answered_by_both(b"a,b\r\n", option) == b"a,b:ERROR:UNKNOWN-ERROR\r\n"
    assert answered_by_both(asked, option) == named(pair)


@pytest.mark.parametrize(
    ("options", "opsys"),
    [
        (["-o"], "OTHER"),
        (["--other"], "OTHER"),
        (["--oth"], "OTHER"),
        (["-oWIN32"], "WIN32"),
        (["--other=WIN32"], "WIN32"),
        (["--oth=WIN32"], "WIN32"),
        (["-o", "WIN32"], "OTHER"),
        (["--other", "WIN32"], "OTHER"),
        (["-eo"], "OTHER"),
        (["-eoWIN32"], "WIN32"),
        (["-oOS", "-oWIN32"], "WIN32"),
        (["-o", "-c", "UTF-8"], "OTHER,UTF-8"),
        (["-oX", "--charset=UTF-8"], "X,UTF-8"),
        (["-c", "US-ASCII"], "UNIX,US-ASCII"),
        (["-cUS-ASCII"], "UNIX,US-ASCII"),
        (["-ecUS-ASCII"], "UNIX,US-ASCII"),
        (["-o" + "X" * 64], "X" * 64),
    ],
)
def test_operating_system_and_charset(pair: Pair, asked: bytes, options: list[str], opsys: str) -> None:
    """-o, whose value only counts when attached, and -c; both in replies with a name only."""
    assert answered_by_both(asked, *options) == named(pair, opsys)
    assert by_hand(NOBODY, *options).stdout.startswith(b"1,1:ERROR:")


@pytest.mark.parametrize("options", [("-r", "guest"), ("-rguest",), ("--reply", "guest"), ("--reply=guest",)])
def test_reply(pair: Pair, asked: bytes, options: tuple[str, ...]) -> None:
    """-r: a name for connections without an owner; not for invalid ports, and not in place of a name."""
    assert answered_by_both(NOBODY, *options) == b"1,1:USERID:UNIX:guest\r\n"
    assert answered_by_both(asked, *options) == named(pair)
    assert answered_by_both(b"0,1\r\n", *options) == b"0,1:ERROR:INVALID-PORT\r\n"


@pytest.mark.parametrize("options", [("-R", "guest"), ("-Rguest",), ("--reply-all=guest",), ("--reply-", "guest")])
def test_reply_all(pair: Pair, asked: bytes, options: tuple[str, ...]) -> None:
    """-R: one name for every query, though not for invalid ports."""
    assert answered_by_both(NOBODY, *options) == b"1,1:USERID:UNIX:guest\r\n"
    assert answered_by_both(asked, *options) == named(pair, name="guest")
    assert answered_by_both(b"0,1\r\n", *options) == b"0,1:ERROR:INVALID-PORT\r\n"
    assert by_hand(b"hello\r\n", *options).stdout == b""


def test_reply_all_looks_nothing_up(asked: bytes) -> None:
    """With -R no owner is found out: the log knows of none."""
    with handler("-R", "guest", "-S", "-d") as served:
        assert served.ask(asked).endswith(b":USERID:UNIX:guest\r\n")
        log = served.log()
    assert "guest" in log and "uid" not in log and "sock_diag" not in log


def test_replies_with_the_other_options() -> None:
    """-o, -c and -e hold for made-up names, too; a name wins over -e."""
    assert answered_by_both(NOBODY, "-oOS", "-cX", "-e", "-r", "guest") == b"1,1:USERID:OS,X:guest\r\n"
    assert answered_by_both(NOBODY, "-oOS", "-cX", "-e", "-R", "guest") == b"1,1:USERID:OS,X:guest\r\n"


@pytest.mark.parametrize("name", ["a b", " a:b ", "älice", "\x01", "x" * 512])
def test_a_reply_may_be_any_clean_line(name: str) -> None:
    """What can be sent back as one line is sent as it was given."""
    assert answered_by_both(NOBODY, "-r", name) == b"1,1:USERID:UNIX:" + os.fsencode(name) + b"\r\n"


def test_a_reply_in_another_encoding() -> None:
    """Octets that are no UTF-8 arrive as they stood in the command line, and long replies are cut to 512 octets."""
    assert by_hand(NOBODY, "-R", os.fsdecode(b"caf\xe9")).stdout == b"1,1:USERID:UNIX:caf\xe9\r\n"
    assert by_hand(NOBODY, "-R", "x" * 600).stdout == b"1,1:USERID:UNIX:" + b"x" * 512 + b"\r\n"


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "5"), ("-t5",), ("-t", "0.5"), ("-t", "0"), ("--timeout", "5"), ("--timeout=5",), ("--time", "5"),
        ("-I",), ("--stdio",), ("--std",), ("-q",), ("--quiet",), ("-IS",), ("-Se",), ("-qI",), ("-It5",),
        ("-SIet", "5"),
        ("operand",), ("--", "-e"), ("-I", "one", "two"), ("--multi-query",), ("--multi",),
    ],
)  # fmt: skip
def test_options_that_change_no_name(pair: Pair, asked: bytes, options: tuple[str, ...]) -> None:
    """Letters bundle, values attach, long names shorten while they are unique, and operands are ignored."""
    with handler(*options) as served:
        served.client.sendall(asked)
        served.client.shutdown(socket.SHUT_WR)
        assert served.read() == named(pair)
        assert served.status() == 0
    said = by_hand(asked, *options)
    assert (said.stdout, said.status) == (named(pair), 0)


def test_bundled_letters_all_count() -> None:
    """-Se is -S and -e."""
    with handler("-Se") as served:
        assert served.ask(NOBODY) == b"1,1:ERROR:UNKNOWN-ERROR\r\n"
        assert "UNKNOWN-ERROR" in served.log()


def test_the_last_of_a_repeated_option_counts() -> None:
    """-r one -r two is -r two."""
    assert by_hand(NOBODY, "-r", "one", "-r", "two").stdout == b"1,1:USERID:UNIX:two\r\n"


def test_addresses() -> None:
    """--server-address and --client-address tell connections with the same ports apart, and IPv6 from IPv4."""
    with connect("::1") as pair:
        query = pair.query + b"\n"
        assert by_hand(query).stdout == named(pair)
        assert by_hand(query, "--server-address", "::1", "--client-address", "::1").stdout == named(pair)
        assert by_hand(query, "--server-address=0:0:0:0:0:0:0:1").stdout == named(pair)
        nobody = pair.query + b":ERROR:NO-USER\r\n"
        assert by_hand(query, "--server-address", "127.0.0.1").stdout == nobody
        assert by_hand(query, "--client-address", "::2").stdout == nobody
        assert by_hand(query, "--server-address", "::1", "--client-address", "::2").stdout == nobody


def test_a_mapped_address(pair: Pair) -> None:
    """An IPv4-mapped address is its IPv4 address here, too."""
    said = by_hand(pair.query + b"\n", "--server-address", "::ffff:127.0.0.1", "--client-address", "127.0.0.1")
    assert said.stdout == named(pair)


def test_quiet_and_debug(asked: bytes) -> None:
    """-q leaves errors alone in the log, -d adds which source answered and what the kernel said."""
    logs = {}
    for option in ("-q", "-I", "-d"):
        with handler("-S", option) as served:
            served.ask(asked)
            logs[option] = served.log()
    assert logs["-q"] == ""
    assert logs["-I"].count("\n") == 1
    assert logs["-d"].count("\n") > 1
    assert "ESTABLISHED" in logs["-d"] and "sock_diag" in logs["-d"]


@pytest.mark.parametrize("option", ["-h", "--help", "--he", "-eh"])
def test_help(option: str) -> None:
    """-h names every option on standard output, and ends with status 0."""
    said = by_hand(b"", option)
    assert (said.status, said.stderr) == (0, "")
    names = (
        "-t --timeout -e --error -o --other -c --charset -r --reply -R --reply-all -q --quiet -d --debug "
        "-S --nosyslog -I --stdio -h --help -v --version --multi-query --server-address --client-address --check"
    )
    words = said.stdout.decode("ascii").replace(",", " ").replace("[", " ").split()
    assert set(names.split()) <= set(words)


@pytest.mark.parametrize("option", ["-v", "--version", "--vers", "-Sv"])
def test_version(option: str) -> None:
    """-v prints name and version, and ends with status 0."""
    assert by_hand(b"", option) == (f"identd {__version__}\n".encode(), "", 0)


BAD = {
    "an unknown letter": ["-Z"],
    "an unknown letter in a bundle": ["-SZe"],
    "an unknown name": ["--nonsense"],
    "an unknown name with a line feed": ["--non\nsense"],
    "an unknown name with an escape": ["--non\x1b[31msense"],
    "an unknown name that is no UTF-8": ["--non\udce9"],
    "an ambiguous prefix": ["--re", "x"],
    "a value for a flag": ["--error=5"],
    "a timeout without a value": ["-t"],
    "no number": ["-t", "soon"],
    "a negative number": ["-t", "-1"],
    "a negative number, attached": ["--timeout=-1"],
    "no finite number": ["-t", "inf"],
    "not a number": ["-t", "nan"],
    "an empty number": ["--timeout="],
    "two lines of numbers": ["-t", "1\n2"],
    "a huge number": ["-t", "1e300"],
    "a reply without a value": ["-r"],
    "an empty reply": ["-r", ""],
    "LF in a reply": ["-r", "a\nb"],
    "CR in a reply": ["-r", "a\rb"],
    "LF at a reply's end": ["--reply=a\n"],
    "LF in the reply to all": ["-R", "a\nb"],
    "CR at the end of the reply to all": ["--reply-all", "a\r"],
    "an empty reply to all": ["-R", ""],
    "a colon in the system": ["-oA:B"],
    "a comma in the system": ["-oA,B"],
    "a space in the system": ["-oA B"],
    "a line feed in the system": ["-oA\n"],
    "an empty system": ["--other="],
    "a long system": ["-o" + "x" * 65],
    "a system that is not ASCII": ["--other=Ä"],
    "a colon in the charset": ["-c", "A:B"],
    "a comma in the charset": ["-c", "A,B"],
    "CR in the charset": ["-c", "A\r"],
    "an empty charset": ["-c", ""],
    "no address": ["--server-address", "localhost"],
    "no address of the client": ["--client-address", "1.2.3"],
    "an empty address": ["--server-address", ""],
    "an address of five numbers": ["--client-address=1.2.3.4.5"],
    "an address on an interface that is none": ["--server-address", "fe80::1%identd-none"],
    "an address with a line feed": ["--server-address", "1.2.3.4\n"],
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD.keys())
def test_a_bad_option(options: list[str]) -> None:
    """One clear line on standard error, exit status 2, nothing on standard output and no query answered."""
    said = by_hand(NOBODY, *options)
    assert said.status == 2
    assert said.stdout == b""
    assert said.stderr.startswith("identd: ") and said.stderr.endswith("\n")
    assert said.stderr[:-1].isprintable() and len(said.stderr) > 20


@pytest.mark.parametrize("options", [["-Z"], ["-t", "soon"], ["-r", "a\nb"], ["--server-address", "x"]])
def test_a_bad_option_under_an_inetd(options: list[str]) -> None:
    """The client gets nothing: a clean close, no text, and the line goes to standard error."""
    with handler(*options) as served:
        assert served.read() == b""
        assert served.log().count("\n") == 1
        assert served.status() == 2


@pytest.mark.parametrize(
    ("options", "right"),
    [
        (["-Z"], "there is no option -Z: see identd --help"),
        (["-SZe"], "there is no option -Z: see identd --help"),
        (["--nonsense=x"], "there is no option --nonsense: see identd --help"),
        (["--re", "x"], "--re can mean --reply or --reply-all or --reveal: write more of it"),
        (["-t"], "--timeout (-t) needs an argument: SECONDS"),
        (["--idle"], "--idle needs an argument: SECONDS"),
        (["-t", "soon"], "--timeout (-t) takes seconds, a number from 0 to 999999999, not 'soon'"),
        (["-l", "0"], "--limit (-l) takes a number from 1 to 2147483647, not '0'"),
        (["-p", "identd-none"], "--port (-p) takes a port from 1 to 65535 or a service's name, not 'identd-none'"),
        (["--client-address", "a\n"], "--client-address takes an IPv4 or IPv6 address, not 'a\\n'"),
        (["-oA:B"], "--other (-o) takes 1 to 64 printable ASCII characters but ',' and ':', not 'A:B'"),
        (["-r", ""], "--reply (-r) takes one line that is not empty, without NUL, CR and LF"),
        (["--error=5"], "--error (-e) takes no argument"),
    ],
)
def test_a_bad_option_names_itself(options: list[str], right: str) -> None:
    """The line says which option, and what it takes, in words of ours and not Python's."""
    assert by_hand(b"", *options).stderr == f"identd: {right}\n"


def test_an_operand_of_a_person() -> None:
    """What oidentd does not have takes no operand: it would be dropped in silence."""
    said = by_hand(b"", "--check", "51234,6667")
    assert (said.status, said.stdout) == (2, b"")
    assert "'51234,6667' is left over" in said.stderr


def test_an_operand_that_counts_for_nothing() -> None:
    """oidentd takes operands, so identd does; whoever tests by hand reads of it, once each."""
    said = by_hand(NOBODY, "extra", "-q", "extra", "other")
    assert (said.status, said.stdout) == (0, b"1,1:ERROR:NO-USER\r\n")
    warnings = [f"identd: '{operand}' has no meaning here and is ignored" for operand in ("extra", "other")]
    assert said.stderr.splitlines()[:2] == warnings


def test_a_terminal_is_told_what_is_waited_for() -> None:
    """Who types identd sees what to type."""
    try:
        ours, theirs = pty.openpty()
    except OSError:
        skip("needs a pseudo-terminal")
    os.write(ours, b"1,1\n\x04")
    try:
        said = subprocess.run([*COMMAND, "-q"], stdin=theirs, capture_output=True, timeout=PATIENCE, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert said.stdout == b"1,1:ERROR:NO-USER\r\n"
    assert b"one query a line" in said.stderr.splitlines()[0]
