"""Do the command lines that start oidentd start identd, and as what they mean?"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers.hosts import until
from helpers.installed import free_port
from helpers.machine import AS_NOBODY, NOBODY, only_if_others_can_read_it, program, skip
from helpers.pairs import PATIENCE, Pair, connect, me
from helpers.residents import system_file
from helpers.single_shot import COMMAND, by_hand, ending, handler

from identserver import options as command_line

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where Debian's package has its units.
UNITS = Path("/lib/systemd/system")


def exec_start(unit: str) -> str:
    """Return the shell command of one of Debian's units for oidentd, identd in its place."""
    path = UNITS / unit
    if not path.exists():
        skip("needs the package oidentd, for its units")
    text = path.read_text().replace("\\\n", "")
    found = re.search(r'^ExecStart=/bin/sh -c "(.*)"$', text, re.MULTILINE)
    assert found is not None
    assert found[1].count("/usr/sbin/oidentd") == 1
    return found[1].replace("/usr/sbin/oidentd", " ".join(COMMAND)).replace('\\"', '"')


def of_default(options: str) -> dict[str, str]:
    """Return the environment that the unit makes of /etc/default/oidentd."""
    # No route to a gateway of this host's is asked for: what ip(8) prints is no matter of identd's.
    names = {"OIDENT_USER": "nobody", "OIDENT_GROUP": "nogroup", "OIDENT_BEHIND_PROXY": "no"}
    return {**os.environ, **names, "OIDENT_OPTIONS": options}


def listener_of(port: int) -> psutil.Process | None:
    """Return the process that listens on a port: not the one that it has just forked, which closes what it inherits."""
    for found in psutil.net_connections("tcp"):
        if found.laddr and found.laddr.port == port and found.status == psutil.CONN_LISTEN and found.pid:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                process = psutil.Process(found.pid)
                parent = process.parent()
                return parent if parent is not None and parent.cmdline() == process.cmdline() else process
    return None


@contextlib.contextmanager
def gone_to_the_background(port: int) -> Iterator[psutil.Process]:
    """The daemon that listens on a port of ours; it is ended afterwards, as systemd would."""
    daemon = listener_of(port)
    assert daemon is not None, "nobody listens, although the command has ended well"
    try:
        yield daemon
    finally:
        daemon.send_signal(signal.SIGTERM)
        until(lambda: not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE)
        assert listener_of(port) is None


def started(*options: str, **popen: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that is to go to the background, with standard input as a boot script has it."""
    popen.setdefault("stderr", subprocess.PIPE)
    return subprocess.run(
        [*COMMAND, *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False, **popen,
    )  # fmt: skip


def ask(port: int, query: bytes) -> bytes:
    """Ask a daemon on loopback."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(query + b"\r\n")
        return b"".join(iter(lambda: client.recv(4096), b""))


@pytest.fixture
def quietly() -> Iterator[tuple[str, ...]]:
    """Options of a daemon on a port of its own, under a system file that allows nothing."""
    with system_file("") as path:
        yield ("-a", "127.0.0.1", "-p", str(free_port()), "-C", str(path))


def port_of(options: tuple[str, ...]) -> int:
    """Return the port in them."""
    return int(options[options.index("-p") + 1])


def test_the_unit_for_a_daemon(needs_root: None, pair: Pair, tmp_path: Path) -> None:
    """Debian's oidentd.service, Type=forking: the command ends with 0, the daemon answers as nobody, logs to fd 2."""
    only_if_others_can_read_it()
    command = exec_start("oidentd.service")
    port = free_port()
    with system_file("") as path, open(tmp_path / "log", "wb") as log:
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=of_default(f"-mf -l 10 -a 127.0.0.1 -p {port} -C {path} -P 192.0.2.1"),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=PATIENCE, check=False,
        )  # fmt: skip
        text = (tmp_path / "log").read_text()
        assert done.returncode == 0, text
        with gone_to_the_background(port) as daemon:
            assert ask(port, pair.query) == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
            assert (tuple(daemon.uids()), tuple(daemon.gids())) == ((NOBODY,) * 3, (NOBODY,) * 3)
            assert os.getsid(daemon.pid) == daemon.pid
            assert daemon.cwd() == "/"
            assert [os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in (0, 1)] == ["/dev/null"] * 2
            assert os.readlink(f"/proc/{daemon.pid}/fd/2") == str(tmp_path / "log")
    text = (tmp_path / "log").read_text()
    assert "--forward counts (identd 1.0.0 ignored it): a machine behind this one is asked on port 113" in text
    assert "--proxy counts (identd 1.0.0 ignored it): who asks from 192.0.2.1 is told" in text
    assert "was told" in text


def test_the_unit_for_a_connection(needs_root: None, pair: Pair) -> None:
    """Debian's oidentd@.service: one connection on descriptor 0, one reply, as the user that it names."""
    only_if_others_can_read_it()
    command = ["/bin/sh", "-c", exec_start("oidentd@.service")]
    environment = of_default("-mf -l 10 -P 192.0.2.1 -C /dev/null")
    with handler(command=command, env=environment) as served:
        assert served.ask(pair.query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        log = served.log()
        assert served.status() == 0
    assert "no meaning" not in log, "each query would say so"


def test_the_daemon_stays(quietly: tuple[str, ...], pair: Pair) -> None:
    """It answers again and again, without -S it holds none of the caller's descriptors, and its limits hold."""
    only_if_others_can_read_it()
    port = port_of(quietly)
    done = started(*quietly, "-l", "7")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    with gone_to_the_background(port) as daemon:
        assert os.readlink(f"/proc/{daemon.pid}/fd/2") == "/dev/null"
        for _ in range(3):
            assert ask(port, pair.query).startswith(pair.query + b":USERID:UNIX:")
        assert daemon.pid != os.getpid()
        assert daemon.is_running()


def test_the_daemon_never_idles_out(quietly: tuple[str, ...]) -> None:
    """Unless --idle says so, which then ends it."""
    only_if_others_can_read_it()
    port = port_of(quietly)
    assert started(*quietly, "--idle", "0.05").returncode == 0
    until(lambda: listener_of(port) is None)


def test_the_daemon_rereads_a_relative_file(pair: Pair) -> None:
    """A -C that is relative to where it was started still counts after it has gone to /."""
    only_if_others_can_read_it()
    with system_file('default { default { force reply "one" } }') as path:
        port = free_port()
        assert started("-p", str(port), "-a", "127.0.0.1", "-C", path.name, cwd=path.parent).returncode == 0
        with gone_to_the_background(port) as daemon:
            assert ask(port, pair.query).endswith(b":one\r\n")
            path.write_text('default { default { force reply "two" } }')
            daemon.send_signal(signal.SIGHUP)
            until(lambda: ask(port, pair.query).endswith(b":two\r\n"))


def test_a_port_that_is_taken(quietly: tuple[str, ...]) -> None:
    """Whoever started it gets the error: one line, status 1, and no daemon."""
    with connect() as taken:
        port = taken.listener.getsockname()[1]
        done = started(*quietly, "-p", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1 port {port}: Address already in use" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", [None, "default { default { alow } }"], ids=["missing", "broken"])
def test_a_file_that_is_broken(quietly: tuple[str, ...], tmp_path: Path, pair: Pair, text: str | None) -> None:
    """A system file that is missing or broken keeps nobody from starting: nobody is named, and the log says why."""
    path = tmp_path / "conf"
    reason = f"{path}: no such file"
    if text is not None:
        path.write_text(text)
        reason = f"{path}:1:21: "
    with open(tmp_path / "log", "wb") as log:
        done = started(*quietly, "-S", "-C", str(path), stderr=log)
    assert done.returncode == 0
    with gone_to_the_background(port_of(quietly)):
        assert ask(port_of(quietly), pair.query) == pair.query + b":ERROR:UNKNOWN-ERROR\r\n"
    said = (tmp_path / "log").read_text().splitlines()
    assert any(line.startswith(f"identd: {reason}") and "nobody is named until" in line for line in said), said


def test_a_user_that_is_none(needs_root: None, quietly: tuple[str, ...]) -> None:
    """A -u or -g that is nobody's: status 2."""
    for option in ("-u", "-g"):
        done = started(*quietly, option, "identd-none")
        assert done.returncode == 2 and "identd-none" in done.stderr


def test_a_user_without_root(needs_root: None, quietly: tuple[str, ...]) -> None:
    """Who may not become -u gets status 1, as from oidentd."""
    only_if_others_can_read_it()
    done = started(*quietly, "-u", "nobody", **AS_NOBODY)
    assert done.returncode == 1 and "Operation not permitted" in done.stderr


def test_no_listener_option(pair: Pair) -> None:
    """Without an option about listening, it reads queries from what is no socket; and with -I in any case."""
    query = pair.query + b"\n"
    named = b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
    assert by_hand(query, "-q").stdout == named
    for options in (("-I", "-p", "1"), ("-iI",), ("-IS", "-l", "10"), ("--stdio", "--address", "127.0.0.1")):
        assert by_hand(query, *options).stdout == named


@pytest.mark.parametrize("options", [("-I",), ("-IS", "-mf", "-l", "10"), ("-iI",)])
def test_stdio_with_a_listening_socket(pair: Pair, options: tuple[str, ...]) -> None:
    """-I on a listening socket serves it, as inetd's wait has it."""
    only_if_others_can_read_it()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [*COMMAND, *options, "-C", "/dev/null"], stdin=listener.fileno(), stderr=subprocess.PIPE
        )
    with ending(process):
        assert ask(port, pair.query).startswith(pair.query + b":USERID:")
        assert ask(port, pair.query).startswith(pair.query + b":USERID:")
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "options",
    [
        ("-f",), ("-f1245",), ("-mf",), ("-mf1245",), ("-M",), ("-P", "192.0.2.1"), ("-P192.0.2.1",),
        ("--masquerade-first",), ("--masquerade-f",), ("--forward",), ("--forward=1245",),
        ("--forwa",), ("--proxy", "192.0.2.1"), ("--prox=192.0.2.1",), ("-fident",), ("-f", "1245"),
        ("-mMf", "-P", "a", "-P", "b"),
    ],
)  # fmt: skip
def test_options_for_gateways(pair: Pair, options: tuple[str, ...]) -> None:
    """They are taken as oidentd takes them, and change no reply about a connection of this host, and no line."""
    if "-fident" in options:
        try:
            socket.getservbyname("ident", "tcp")
        except OSError:
            skip("needs /etc/services")
    with handler("-Sq", *options) as served:
        assert served.ask(pair.query + b"\r\n") == b"%b:USERID:UNIX:%b\r\n" % (pair.query, me().encode())
        assert served.log() == ""
        assert served.status() == 0
    operand = "identd: '1245' has no meaning here and is ignored\n" if "1245" in options else ""
    assert by_hand(pair.query + b"\n", "-q", *options).stderr == operand


@pytest.mark.parametrize(
    "options",
    [("-fm",), ("-f0",), ("-f65536",), ("--forward=m",), ("-P", "10.0.0.0/33"), ("-P", ""),
     ("--forward-proxy=3",), ("--mas",), ("-P",), ("-dq",), ("-q", "--debug"), ("-l", "0"),
     ("-p", "0")],
)  # fmt: skip
def test_what_oidentd_refuses(options: tuple[str, ...]) -> None:
    """A port that is none, a prefix of two names, quiet and debug at once: one line, status 2."""
    said = by_hand(b"1,1\n", *options)
    assert (said.stdout, said.status) == (b"", 2)
    assert said.stderr.count("\n") == 1 and len(said.stderr) > 20


#: oidentd's long options, each with a value where it takes one.
LONG = {
    "address": "127.0.0.1", "charset": "x", "config": "x", "debug": "", "error": "", "forward": "", "forward-last": "",
    "foreground": "", "group": "root", "help": "", "limit": "1", "masquerade": "", "masquerade-first": "",
    "nosyslog": "", "other": "", "port": "1", "proxy": "192.0.2.1", "quiet": "", "reply": "x", "reply-all": "x",
    "stdio": "", "timeout": "1", "user": "root", "version": "",
}  # fmt: skip


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "separate"])
def test_every_abbreviation(attached: bool) -> None:
    """Whatever beginning of a long option oidentd takes, identd takes, and for the same one."""
    oidentd = program("oidentd")
    for name, value in LONG.items():
        for end in range(1, len(name) + 1):
            begin = f"--{name[:end]}"
            whole = begin if name[:end] in LONG else f"--{name}"
            argv = [begin] if not value else [f"{begin}={value}"] if attached else [begin, value]
            # Before it says its version, oidentd complains about what it can't take.
            done = subprocess.run([oidentd, *argv, "-v"], capture_output=True, timeout=PATIENCE, check=False)
            if done.returncode == 0:
                if name in ("help", "version"):
                    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                        command_line.read(argv)
                else:
                    found = vars(command_line.read(argv))
                    assert found == vars(command_line.read([whole, value] if value else [whole])), argv


@pytest.mark.parametrize(
    ("argv", "meaning"),
    [
        (("-I", "-m", "-f", "1245", "-u", "nobody", "-o", "UNIX", "-q"),
         {"stdio": True, "user": "nobody", "other": "OTHER", "quiet": True, "masquerade": True,
          "forward": 113}),
        (("-f1245", "-o", "WIN", "-S"), {"other": "OTHER", "nosyslog": True, "forward": 1245, "masquerade": True}),
        (("-M", "-P::1", "--proxy", "192.0.2.0/24"),
         {"masquerade_first": True, "forward": 113, "masquerade": True, "proxy": ["::1", "192.0.2.0/24"]}),
        (("--masquerade-f",), {"masquerade_first": True, "forward": 113, "masquerade": True}),
        (("--forward-last=9",), {"forward_last": 9, "masquerade_first": True, "forward": 9, "masquerade": True}),
        (("-f9", "-M", "--forward-proxy"),
         {"forward": 9, "masquerade_first": True, "masquerade": True, "forward_proxy": "proxy"}),
        (("extra", "-S", "extra", "-e", "extra"), {"nosyslog": True, "error": True}),
        (("-r", "-x", "--reply-all", "--error"), {"reply": "-x", "reply_all": "--error"}),
        (("-eSoWIN32",), {"error": True, "nosyslog": True, "other": "WIN32"}),
        (("-eoS",), {"error": True, "other": "S"}),
        (("-qt5", "-S", "--", "-d"), {"quiet": True, "timeout": 5.0, "nosyslog": True}),
        (("--explain", "1,2", "-q"), {"explain": "1,2", "quiet": True}),
        (("--expl=1,2",), {"explain": "1,2"}),
        (("--explain", "-q"), {"explain": "", "quiet": True}),
        (("--idl", "5"), {"idle": 5.0}),
    ],
)  # fmt: skip
def test_what_a_command_line_means(argv: tuple[str, ...], meaning: dict[str, Any]) -> None:
    """Operands may stand anywhere, and values as getopt(3) finds them."""
    assert vars(command_line.read(argv)) == meaning


def test_the_last_one_counts(pair: Pair) -> None:
    """Of a repeated option the last counts, operands count for nothing; only -a adds up."""
    only_if_others_can_read_it()
    with system_file("") as path:
        port, other = free_port(), free_port()
        options = ("-a", "127.0.0.1", "-a", "127.0.0.2", "-p", str(other), "-p", str(port), "-C", "/nonexistent")
        assert started(*options, "-C", str(path), "extra").returncode == 0
        with gone_to_the_background(port):
            assert listener_of(other) is None
            assert ask(port, pair.query).startswith(pair.query)
            with socket.create_connection(("127.0.0.2", port), PATIENCE) as client:
                client.sendall(b"1,1\r\n")
                assert client.recv(100) == b"1,1:ERROR:NO-USER\r\n"
