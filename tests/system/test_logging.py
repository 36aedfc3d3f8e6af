"""Is every query logged where it should be, with nothing of the peer's unescaped, and never at the answer's cost?"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from helpers.installed import readable_folder
from helpers.logs import deaf, fields_of, fill, received, syslog
from helpers.machine import skip
from helpers.pairs import PATIENCE, Pair, connect, everything, me, named
from helpers.residents import Resident, system_file
from helpers.single_shot import COMMAND, by_hand, driver, ending, handler, private_dev, start
from helpers.warm import log_of, warming

from lookup.config.user_file import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytest_plugins = ["helpers.people"]


def test_one_line_per_query_to_syslog(pair: Pair, tmp_path: Path) -> None:
    """Facility daemon, severity informational: who asked, the ports, what was answered, the uid."""
    with syslog(tmp_path / "log") as daemon:
        with handler(command=[*private_dev(tmp_path, tmp_path / "log"), *COMMAND]) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            pid = served.process.pid
            assert served.log() == "", "nothing on standard error"
        (line,) = received(daemon)
    assert line.startswith(b"<30>identd[%d]: " % pid)
    for part in (b"127.0.0.1", pair.query, b"USERID:UNIX:" + me().encode(), b"uid %d" % os.geteuid()):
        assert part in line
    assert b"\n" not in line


def test_debug_and_quiet_to_syslog(pair: Pair, tmp_path: Path) -> None:
    """-d adds lines of severity debug, -q leaves errors only."""
    words = private_dev(tmp_path, tmp_path / "log")
    with syslog(tmp_path / "log") as daemon:
        for option, severities in (("-d", {b"<30>", b"<31>"}), ("-q", set())):
            with handler(option, command=[*words, *COMMAND]) as served:
                assert served.ask(pair.query + b"\r\n") == named(pair)
                served.status()
            assert {line[:4] for line in received(daemon)} == severities


def test_a_bug_is_an_error_in_syslog(pair: Pair, tmp_path: Path) -> None:
    """A traceback goes to syslog as severity error, in one line, with -q too."""
    bug = "import pwd\ndef getpwuid(uid): raise RuntimeError('a bug')\npwd.getpwuid = getpwuid"
    with syslog(tmp_path / "log") as daemon:
        words = private_dev(tmp_path, tmp_path / "log")
        with handler("-q", command=[*words, *driver(tmp_path, bug)]) as served:
            assert served.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
            assert served.log() == ""
        (line,) = received(daemon)
    assert line.startswith(b"<27>identd[")
    assert b"Traceback" in line and b"RuntimeError: a bug" in line and b"\n" not in line


@pytest.mark.parametrize("sent", [b"\x1b[2J\x07", b"1,2\0", b"1,2,3\r\r", b"\xff\xfe", "日本".encode(), b"%s%n\x7f"])
def test_what_a_peer_sent_is_escaped(tmp_path: Path, sent: bytes) -> None:
    """Control characters, octets that are no ASCII and line ends reach neither syslog nor a terminal."""
    with syslog(tmp_path / "log") as daemon:
        with handler(command=[*private_dev(tmp_path, tmp_path / "log"), *COMMAND]) as served:
            assert served.ask(sent + b"\n") == b""
            assert served.status() == 0
        (line,) = received(daemon)
    assert b"127.0.0.1" in line
    assert line.decode("ascii").isprintable()
    with handler("-S") as served:
        served.ask(sent + b"\n")
        log = served.log()
    assert log.endswith("\n") and log[:-1].isprintable()


def test_a_long_line_is_cut_in_the_log() -> None:
    """A peer does not decide how long a line of the log is."""
    with handler("-S") as served:
        served.ask(b"\x01" * 1000)
        log = served.log()
    assert "\\x01" in log and len(log) < 1000


def test_a_name_is_escaped_too() -> None:
    """What the configuration makes up may hold control characters: the log shows them escaped."""
    with handler("-S", "-R", "\x1b[31mred") as served:
        assert served.ask(b"1,2\r\n") == b"1,2:USERID:UNIX:\x1b[31mred\r\n"
        assert "x1b[31mred" in (log := served.log()) and "\x1b" not in log


def test_clients_that_ask_nothing_are_logged() -> None:
    """Silence and a half query are worth a line, with the peer's address."""
    for sent, options in ((b"", ("-t", "0.2")), (b"1,", ())):
        with handler("-S", *options) as served:
            served.client.sendall(sent)
            if sent:
                served.client.shutdown(socket.SHUT_WR)
            assert served.read() == b""
            log = served.log()
        assert log.count("\n") == 1 and "127.0.0.1" in log


# Where logging fails: the answer still goes out.


def test_no_dev_log(pair: Pair, tmp_path: Path) -> None:
    """Without /dev/log the answer goes out all the same, and standard error stays empty."""
    with handler(command=[*private_dev(tmp_path, tmp_path / "missing"), *COMMAND]) as served:
        assert served.ask(pair.query + b"\r\n") == named(pair)
        assert served.log() == ""
        assert served.status() == 0


@pytest.mark.parametrize("kind", ["closed", "stream", "file"])
def test_a_dev_log_where_nobody_listens(pair: Pair, tmp_path: Path, kind: str) -> None:
    """A socket whose daemon has died, one of another type, or no socket at all."""
    path = tmp_path / "log"
    with contextlib.ExitStack() as stack:
        if kind == "file":
            path.touch()
        else:
            daemon = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM)
            stack.enter_context(daemon).bind(str(path))
            if kind == "closed":
                daemon.close()
        with handler(command=[*private_dev(tmp_path, path), *COMMAND]) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert served.log() == ""
            assert served.status() == 0


def test_a_stuck_syslog_daemon(pair: Pair, tmp_path: Path) -> None:
    """A daemon that reads no more, its queue full, holds up nobody."""
    with syslog(tmp_path / "log") as daemon, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                other.sendto(b"noise", str(tmp_path / "log"))
        with handler(command=[*private_dev(tmp_path, tmp_path / "log"), *COMMAND]) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert served.status() == 0
        assert set(received(daemon)) == {b"noise"}


@pytest.mark.parametrize("options", [("-S",), ("-S", "-d"), ("-Sd", "--multi-query")])
def test_a_full_disk_under_standard_error(pair: Pair, options: tuple[str, ...]) -> None:
    """A log that can't be written costs no answer, over a connection and on a pipe."""
    with open("/dev/full", "wb") as full:
        with handler(*options, stderr=full) as served:
            served.client.sendall(pair.query + b"\r\n")
            served.client.shutdown(socket.SHUT_WR)
            assert served.read() == named(pair)
            assert served.status() == 0
        lines = b"1,1\nhello\n" + pair.query
        said = subprocess.run(
            [*COMMAND, *options], input=lines, stdout=subprocess.PIPE, stderr=full, timeout=PATIENCE
        )
    assert said.stdout == b"1,1:ERROR:NO-USER\r\n" + named(pair)
    assert said.returncode == 0


def test_a_full_disk_and_a_bad_option() -> None:
    """The exit status is the same when the complaint can't be written."""
    with open("/dev/full", "wb") as full:
        said = subprocess.run([*COMMAND, "-Z"], stdout=subprocess.PIPE, stderr=full, timeout=PATIENCE)
    assert (said.returncode, said.stdout) == (2, b"")


@pytest.mark.parametrize("options", [(), ("-S",), ("-S", "-d")])
def test_a_broken_pipe_under_standard_error(pair: Pair, options: tuple[str, ...]) -> None:
    """Nobody reads standard error any more: the answer goes out."""
    read, write = os.pipe()
    os.close(read)
    try:
        with handler(*options, stderr=write) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert served.status() == 0
    finally:
        os.close(write)


CLOSED = ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND]


@pytest.mark.parametrize("options", [(), ("-S",), ("-S", "-d")])
def test_a_closed_standard_error(pair: Pair, options: tuple[str, ...]) -> None:
    """Without descriptor 2 nothing that is meant for it goes anywhere else, least of all to the client."""
    with handler(*options, command=CLOSED) as served:
        assert served.ask(pair.query + b"\r\n") == named(pair)
        assert served.status() == 0
    with handler(*options, command=CLOSED) as served:
        assert served.ask(b"hello\r\n") == b""
        assert served.status() == 0
    said = by_hand(b"1,1\nhello\n" + pair.query, *options, command=CLOSED)
    assert said == (b"1,1:ERROR:NO-USER\r\n" + named(pair), "", 0)


def test_a_bad_option_with_a_closed_standard_error() -> None:
    """The complaint has nowhere to go, and does not go to standard output instead."""
    assert by_hand(b"1,1\n", "-Z", command=CLOSED) == (b"", "", 2)
    with handler("-Z", command=CLOSED) as served:
        assert served.read() == b""
        assert served.status() == 2


# As inetd has it: standard error is the client's connection.


@contextlib.contextmanager
def under_inetd(
    *options: str, command: Sequence[str] = COMMAND
) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """Start identd with the connection on descriptors 0, 1 and 2."""
    with connect() as (client, accepted, _):
        process = start([*command, *options], accepted, stderr=accepted)
        accepted.close()
        with ending(process):
            yield client, process


@pytest.mark.parametrize("options", [(), ("-S",), ("-Sd",), ("-d",)])
def test_nothing_but_the_reply_reaches_the_client(pair: Pair, options: tuple[str, ...]) -> None:
    """Whatever the log options say, the client's connection is no place for a log."""
    with under_inetd(*options) as (client, process):
        client.sendall(pair.query + b"\r\n")
        assert everything(client) == named(pair)
        assert process.wait(PATIENCE) == 0
    with under_inetd(*options) as (client, process):
        client.sendall(b"hello\r\n")
        assert everything(client) == b""
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("option", ["-Z", "--timeout=soon", "--re=x", "--other=:"])
def test_a_bad_option_is_not_told_to_the_client(option: str, tmp_path: Path) -> None:
    """The administrator reads of it in syslog; the client sees a clean close."""
    with syslog(tmp_path / "log") as daemon:
        words = private_dev(tmp_path, tmp_path / "log")
        with under_inetd(option, command=[*words, *COMMAND]) as (client, process):
            assert everything(client) == b""
            assert process.wait(PATIENCE) == 2
        (line,) = received(daemon)
    assert line.startswith(b"<27>identd[")
    assert option.split("=")[0].encode() in line


BUGS = {
    "in the lookup": "import pwd\ndef getpwuid(uid): raise RuntimeError\npwd.getpwuid = getpwuid",
    "in the process": """
from identserver.answer import AnsweringServer
def lineReceived(self, line): raise RuntimeError
AnsweringServer.lineReceived = lineReceived""",
    "in the log": "from identserver.log import Log\ndef write(*_): raise RuntimeError\nLog.write = write",
    "an interrupt": """
from identserver.answer import AnsweringServer
def lineReceived(self, line): raise KeyboardInterrupt
AnsweringServer.lineReceived = lineReceived""",
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
@pytest.mark.parametrize("options", [(), ("-Sd",)])
def test_a_crash_is_not_told_to_the_client(pair: Pair, tmp_path: Path, bug: str, options: tuple[str, ...]) -> None:
    """No traceback on the socket, wherever the bug is."""
    with under_inetd(*options, command=driver(tmp_path, bug)) as (client, process):
        client.sendall(pair.query + b"\r\n")
        told = everything(client)
        process.wait(PATIENCE)
    assert told in (b"", named(pair), pair.query + b":ERROR:UNKNOWN-ERROR\r\n")


# Under systemd, and on a terminal.


@pytest.mark.parametrize("there", [True, False])
def test_the_journal(pair: Pair, tmp_path: Path, there: bool) -> None:
    """Where standard error is the journal's stream, lines go there with their severity, without -S.

    A query's line is an entry with fields in place of that, if the journal takes such.
    """
    read, write = os.pipe()
    with open(read, "rb") as journal:
        status = os.fstat(write)
        stream = f"{status.st_dev}:{status.st_ino}"
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(readable_folder())
            command = driver(tmp_path, f"from identserver import journal; journal.PATH = '{folder}/journal'")
            daemon = stack.enter_context(syslog(folder / "journal")) if there else None
            env = {**os.environ, "JOURNAL_STREAM": stream}
            served = stack.enter_context(handler("-d", stderr=write, command=command, env=env))
            os.close(write)
            assert served.ask(pair.query + b"\r\n") == named(pair)
            if daemon is not None:
                fields = fields_of(daemon.recv(65536))
                assert {*fields} > {"MESSAGE", "IDENT_ASKER", "IDENT_OWNER", "IDENT_UID"}
                assert fields["IDENT_REPLY"] == [named(pair).rstrip()]
                assert fields["PRIORITY"] == [b"6"]
            assert served.status() == 0
        lines = journal.read().splitlines()
    assert {line[:3] for line in lines} == ({b"<7>"} if there else {b"<6>", b"<7>"})
    assert sum(b"USERID" in line for line in lines) == (not there)


def test_a_journal_that_is_not_ours(pair: Pair) -> None:
    """JOURNAL_STREAM is inherited by processes whose standard error leads elsewhere: those lines stay away from it."""
    for stream in ("1:1", "", "nonsense"):
        with handler(env={**os.environ, "JOURNAL_STREAM": stream}) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert served.log() == ""


def test_a_terminal(pair: Pair) -> None:
    """Someone at a terminal sees the log there, without -S."""
    try:
        ours, theirs = pty.openpty()
    except OSError:
        skip("needs a pseudo-terminal")
    try:
        said = subprocess.run(
            COMMAND, input=pair.query + b"\n", stdout=subprocess.PIPE, stderr=theirs, timeout=PATIENCE
        )
        assert said.stdout == named(pair)
        seen = os.read(ours, 65536)
    finally:
        os.close(theirs)
        os.close(ours)
    assert pair.query in seen and b"uid %d" % os.geteuid() in seen


def test_nosyslog_sends_no_datagram(pair: Pair, tmp_path: Path) -> None:
    """-S logs to standard error instead of syslog, not in addition."""
    with syslog(tmp_path / "log") as daemon:
        with handler("-S", command=[*private_dev(tmp_path, tmp_path / "log"), *COMMAND]) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert pair.query.decode() in served.log()
        assert received(daemon) == []


# What the configuration has to do with it.


def logged(form: str, ports: str, system: str, *options: str) -> tuple[str, list[str]]:
    """Return the reply to a query, without the ports, and what was logged about it, by one of the drivers."""
    query = ports.encode() + b"\r\n"
    with system_file(system) as path:
        if form == "single":
            with handler("-S", "-C", str(path), *options) as served:
                reply = served.ask(query)
                log = served.log()
        else:
            with warming("-S", "-C", str(path), *options, stderr=subprocess.PIPE) as warm:
                reply = warm.ask(query)
                log = log_of(warm)
        lines = [line.replace(str(path), "SYSTEM") for line in log.splitlines()]
    return reply.decode("latin-1").strip()[len(ports) + 1 :], [line for line in lines if " serving " not in line]


FORMS = pytest.mark.parametrize("form", ["single", "warm"])


@FORMS
@pytest.mark.parametrize(
    ("system", "wish", "told", "rule"),
    [
        ('default {\n default { force reply "x" } }', "", "USERID:UNIX:x", "SYSTEM:2"),
        ("default { default { force hide } }", "", "ERROR:HIDDEN-USER", "SYSTEM:1"),
        ("default { default { force random } }", "", "USERID:UNIX:[0-9A-Za-z]{11}", "SYSTEM:1"),
        ("default { default { force random_numeric } }", "", "USERID:UNIX:user[0-9]+", "SYSTEM:1"),
        ("default { default { allow spoof } }", '\nglobal { reply "x" }', "USERID:UNIX:x", "SYSTEM:1, FILE:2"),
        ("default { default { allow random } }", "global { random }", "USERID:UNIX:[^:]{11}", "SYSTEM:1, FILE:1"),
        ("default { default { allow hide } }", "global { hide }", "ERROR:HIDDEN-USER", "SYSTEM:1, FILE:1"),
        ("default { default { deny hide } }", "global { hide }", "USERID:UNIX:NAME", "SYSTEM:1, FILE:1"),
        ("default { default { deny hide } }", "", "USERID:UNIX:NAME", "SYSTEM:1"),
        ("", "", "USERID:UNIX:NAME", "no rule"),
    ],
)  # fmt: skip
def test_owner_answer_and_rule(
    form: str, carol: Resident, ports: str, system: str, wish: str, told: str, rule: str
) -> None:
    """P5. One line names the real owner, what was told in their place, and the blocks that decided, file and line.

    The owner's uid comes first: the reply may be of the owner's choice, and look like the rest of such a line.
    """
    carol.write(wish)
    reply, lines = logged(form, ports, system)
    told, rule = told.replace("NAME", carol.name), rule.replace("FILE", str(carol.file))
    assert re.fullmatch(told, reply)
    (line,) = lines
    source = "sock_diag, " if "USERID" in reply else ""
    who = f"{carol.name}, uid {carol.uid}"
    by = rule if rule == "no rule" else f"rule {rule}"
    assert line == f"identd: uid {carol.uid}: 127.0.0.1 was told {ports}:{reply} ({who}, {source}{by})"


@FORMS
@pytest.mark.parametrize("options", [(), ("-q",)], ids=["", "quiet"])
@pytest.mark.parametrize("what", ["broken", "another's", "huge", "a FIFO"])
def test_a_users_file_that_cannot_be_used(
    form: str, carol: Resident, ports: str, what: str, options: tuple[str, ...]
) -> None:
    """One line says whose file it is, which and why, with its place where it is read, however quiet the log is."""
    path = carol.write("global {\n hidde }" if what == "broken" else "global { hide }")
    reason = ":2:2: hide, random, random_numeric, numeric, pseudonym, reply or forward expected, not hidde"
    if what == "another's":
        os.chown(path, 0, 0)
        reason = f": belongs to uid 0, not to the owner of the connection ({carol.uid})"
    elif what == "huge":
        carol.write("#" * (MAX_SIZE + 1))
        reason = f": larger than {MAX_SIZE} octets"
    elif what == "a FIFO":
        path.unlink()
        os.mkfifo(path)
        reason = ": not a regular file"
    try:
        reply, lines = logged(form, ports, "default { default { allow hide } }", *options)
    finally:
        path.unlink()
    assert reply == f"USERID:UNIX:{carol.name}"
    assert [line for line in lines if "was told" not in line] == [f"identd: {path}{reason}"]
    assert len(lines) == (1 if options else 2)


@FORMS
def test_whoever_poses_as_another(form: str, carol: Resident, ports: str) -> None:
    """A wish for another user's name, which is refused, is worth a line with both names."""
    carol.write('global { reply "root" }')
    reply, lines = logged(form, ports, "default { default { allow spoof } }")
    assert reply == f"USERID:UNIX:{carol.name}"
    assert f"identd: {carol.name}, uid {carol.uid} tried to pass for 'root'" in lines
    carol.write('global { reply "nobody-at-all" }')
    assert "tried" not in str(logged(form, ports, "default { default { deny spoof } }"))


def test_a_broken_system_file_is_never_kept_quiet(pair: Pair, tmp_path: Path) -> None:
    """Every query is unanswered then, so the line with its place is there with -q too."""
    (tmp_path / "conf").write_text("default { defalt { allow hide } }")
    with handler("-Sq", "-C", str(tmp_path / "conf")) as served:
        assert served.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
        (line,) = served.log().splitlines()
    assert line.startswith(f"identd: uid {os.geteuid()}: ")
    assert ":ERROR:UNKNOWN-ERROR (" in line and f"{tmp_path}/conf:1:11: " in line


# A syslog daemon that can't keep up.


@pytest.mark.parametrize("form", ["single", "warm"])
def test_a_full_queue_loses_nothing(form: str, pair: Pair, tmp_path: Path) -> None:
    """What finds the daemon's queue full is sent when there is room again."""
    count = 1 if form == "single" else 200
    with syslog(tmp_path / "log") as daemon, contextlib.ExitStack() as stack:
        command = [*private_dev(tmp_path, tmp_path / "log"), *COMMAND]
        filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.sendto(b"filler", str(tmp_path / "log"))
        if form == "single":
            served = stack.enter_context(handler(command=command))
            assert served.ask(pair.query + b"\r\n") == named(pair)
        else:
            warm = stack.enter_context(warming(command=command))
            for _ in range(count):
                assert warm.ask(pair.query + b"\r\n") == named(pair)
        lines: list[bytes] = []
        while sum(b"was told" in line for line in lines) < count:
            lines.append(daemon.recv(65536))
    assert not any(b"were lost" in line for line in lines)


# A log that nobody reads.


@pytest.mark.parametrize("kind", ["journal", "pipe"])
def test_a_log_that_nobody_reads(pair: Pair, kind: str) -> None:
    """A journal that hangs, or a pipe that is full, costs no answer, in neither form."""
    with deaf(kind) as (fd, variables):
        environment = {**os.environ, **variables}
        with warming("-d", "-S", stderr=fd, env=environment) as warm:
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            fill(fd)
            for _ in range(20):
                assert warm.ask(pair.query + b"\r\n") == named(pair)
            assert warm.end() == 0
        with handler("-d", "-S", stderr=fd, env=environment) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert served.status() == 0


def test_a_long_message_reaches_whoever_reads(tmp_path: Path, pair: Pair) -> None:
    """What is longer than a pipe takes at once arrives whole."""
    bug = "import pwd\ndef getpwuid(uid): raise RuntimeError('x' * 20000 + 'END')\npwd.getpwuid = getpwuid"
    with warming("-S", stderr=subprocess.PIPE, command=driver(tmp_path, bug)) as warm:
        assert warm.ask(pair.query + b"\r\n") == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
        assert "x" * 20000 + "END" in log_of(warm)
