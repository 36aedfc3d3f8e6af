"""Is it true what is replied about machines behind this one, and by a machine behind a gateway?

(Items 6 and 7 of issue 12.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.hosts import Person, inside, ip, until
from helpers.judged import FAR, MASQUERADING, OUTSIDE, REAL, Judged
from helpers.machine import program
from helpers.machines import Machine, machine, replying
from helpers.pairs import PATIENCE, everything
from helpers.residents import system_file
from helpers.single_shot import COMMAND, ending

from identserver.warm.workers import THREADS_PER_OWNER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.machines import Says

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: What is replied where nobody is named.
NO_USER, UNKNOWN = "ERROR:NO-USER", "ERROR:UNKNOWN-ERROR"


@pytest.fixture(scope="module")
def behind(judged: Judged) -> Iterator[Machine]:
    """A machine behind the judged host, with connections of both families, which are masqueraded.

    That it is a network namespace of the same kernel's is not to be seen: with a rule for routes, the device does not
    count, and the judged host sees no namespace but its own.
    """
    gateway = judged.gateway
    rule = MASQUERADING.format(OUTSIDE)
    for family in ("-4", "-6"):
        ip(family, "rule", "add", "priority", "100", "lookup", "main", namespace=gateway.gate)
    with gateway.translating(rule), Person(judged.user.pw_uid, gateway.here) as person:
        for there, source in ((gateway.THERE, gateway.HERE), (gateway.THERE_6, gateway.HERE_6)):
            person.dial((there, FAR), source=(source, REAL))
        with machine(gateway.here, gateway.HERE, gateway.HERE_6) as server:
            yield server


@pytest.fixture(autouse=True)
def _as_new(behind: Machine) -> None:
    behind.says = replying(b"USERID:UNIX:bouncer")
    behind.queries.clear()


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize("form", FORMS)
def test_forwarded(judged: Judged, behind: Machine, form: str, family: str) -> None:
    """With -f the machine is asked with the ports that it knows, and the user that it names is sent as ours."""
    target = judged.gateway.OUTER_6 if family == "IPv6" else judged.gateway.OUTER
    behind.says = replying(b" USERID : WIN32 ,UTF-8: bouncer so on")
    options = ("-f", "-c", "ASCII", "-oMINE") if form == "warm" else ("-f",)
    system = "MINE,ASCII" if form == "warm" else "UNIX"
    assert judged.asked(form, (OUTSIDE, FAR), *options, target=target) == f"USERID:{system}:bouncer"
    assert behind.queries == [b"%d,%d\r\n" % (REAL, FAR)]
    assert "(named by " in judged.log


@pytest.fixture
def file() -> Iterator[Path]:
    """What --masquerade-file names: a file for everybody, in a folder for everybody."""
    path = Path("/run") / f"identd-masq-{os.getpid()}"
    path.write_text("")
    path.chmod(0o644)
    yield path
    path.unlink()


LIES: dict[str, Says] = {
    "other ports": lambda query: b"1,2:USERID:UNIX:bob\r\n",
    "an octet beyond ASCII": replying(b"USERID:UNIX:b\xf6b"),
    "a control character": replying(b"USERID:UNIX:bob\x1b[2J"),
    "a line without an end": lambda query: query[:-2] + b":USERID:UNIX:bob",
    "a line without end": lambda query: query[:-2] + b":USERID:UNIX:bob" + b" " * 100_000,
    "an error": replying(b"ERROR:HIDDEN-USER"),
    "nothing": lambda query: b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_what_names_nobody(judged: Judged, behind: Machine, file: Path, lie: str) -> None:
    """A machine that lies or refuses names nobody, not even an error of its own is passed on; then its entry counts."""
    behind.says = LIES[lie]
    assert judged.asked("single", (OUTSIDE, FAR), "-f", "--masquerade-file", str(file)) == NO_USER
    assert len(behind.queries) == 1
    if lie == "other ports":
        assert judged.asked("single", (OUTSIDE, FAR), "-f", "-r", "guest") == "USERID:UNIX:guest"
        file.write_text(f"{judged.gateway.HERE}/32 joe AMIGA")
        options = ("-oMINE", "-cASCII", "-f", "--masquerade-file", str(file))
        assert judged.asked("single", (OUTSIDE, FAR), *options) == "USERID:AMIGA:joe"
        assert f"{file}:1)" in judged.log


@pytest.mark.parametrize("form", FORMS)
def test_the_order(judged: Judged, behind: Machine, file: Path, form: str) -> None:
    """With -m the file alone counts; with -M it comes first; a wrong entry names nobody; without one, -M asks."""
    of_file = ("--masquerade-file", str(file))
    file.write_text(f"{judged.gateway.HERE} joe OTHER")
    for option in ("-m", "-M"):
        assert judged.asked(form, (OUTSIDE, FAR), option, *of_file) == "USERID:OTHER:joe"
    assert behind.queries == []
    assert judged.asked(form, (OUTSIDE, FAR), "-f", *of_file) == "USERID:UNIX:bouncer"
    file.write_text(f"{judged.gateway.HERE} joe\n0.0.0.0/0 rest UNIX")
    assert judged.asked(form, (OUTSIDE, FAR), "-m", *of_file) == UNKNOWN
    assert f"{file}:1:" in judged.log
    file.write_text("192.0.2.0/24 rest UNIX")
    assert judged.asked(form, (OUTSIDE, FAR), "-m", *of_file) == NO_USER
    assert judged.asked(form, (OUTSIDE, FAR), "-M", *of_file) == "USERID:UNIX:bouncer"


def test_explained(judged: Judged, behind: Machine, file: Path) -> None:
    """--explain tells whom conntrack means, who named the user, and what the reply is; or what the machine did."""
    gateway = judged.gateway
    told = judged.explained((OUTSIDE, FAR), "-f", "--masquerade-file", str(file))
    assert f"is {gateway.HERE}:{REAL}" in told
    assert f"machine  named by {gateway.HERE} port 113, asked about {REAL},{FAR}\n" in told
    assert f"reply    {OUTSIDE},{FAR}:USERID:UNIX:bouncer\n" in told
    behind.says = replying(b"ERROR:NO-USER")
    told = judged.explained((OUTSIDE, FAR), "-f", "--masquerade-file", str(file))
    assert f"the server at {gateway.HERE} port 113 replied ERROR: NO-USER; {file} has no entry for" in told


def test_a_file_that_is_not_there(judged: Judged, behind: Machine) -> None:
    """A file that was named has to be there: without it, nobody is named, and the log says so."""
    assert judged.asked("single", (OUTSIDE, FAR), "-m", "--masquerade-file", "/nowhere") == UNKNOWN
    assert "/nowhere: no such file" in judged.log


def test_a_header(judged: Judged, behind: Machine) -> None:
    """--forward-proxy tells the machine who asks, and at which address of ours."""
    assert judged.asked("single", (OUTSIDE, FAR), "-f", "--forward-proxy") == "USERID:UNIX:bouncer"
    assert judged.asked("warm", (OUTSIDE, FAR), "-f", "--forward-proxy=proxy2") == "USERID:UNIX:bouncer"
    text, binary = behind.queries
    gateway = judged.gateway
    assert text.startswith(f"PROXY TCP4 {gateway.THERE} {gateway.OUTER} ".encode())
    assert binary.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([10, 91, 0, 2, 10, 91, 0, 1]))
    assert text.endswith(b"\r\n%d,%d\r\n" % (REAL, FAR)) and binary.endswith(b"%d,%d\r\n" % (REAL, FAR))


def test_another_port(judged: Judged, behind: Machine) -> None:
    """-fPORT asks there. Where nobody listens, nobody is named, and the log says why."""
    assert judged.asked("single", (OUTSIDE, FAR), "-f1113", "-d") == NO_USER
    assert f"the server at {judged.gateway.HERE} port 1113 refused the connection" in judged.log
    with machine(judged.gateway.here, judged.gateway.HERE, port=1113):
        assert judged.asked("single", (OUTSIDE, FAR), "-f1113") == "USERID:UNIX:bouncer"
    assert behind.queries == []


#: Runs on the judged host: a warm identd, and who asks it from outside.
STORM = """
listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
process = subprocess.Popen(words, stdin=listener.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
def called(host):
    with inside(there):
        client = socket.create_connection((host, listener.getsockname()[1]), 30)
    client.sendall(query)
    return client
waiting = [called(silent) for _ in range(count)]
"""


def test_a_silent_machine_stops_nobody_else(judged: Judged, behind: Machine) -> None:
    """While as many queries about one machine wait as like to, another machine is asked, and answers at once."""
    gateway = judged.gateway
    words = [*COMMAND, "-S", "-f1117"]
    query = f"{OUTSIDE},{FAR}\r\n".encode()
    with machine(gateway.here, gateway.HERE, port=1117) as silent, machine(gateway.here, gateway.HERE_6, port=1117):
        silent.says = lambda query: None
        values = {"words": words, "there": judged.path(gateway.there), "silent": gateway.OUTER, "query": query}
        judged.host.tell(STORM, count=40, **values)
        try:
            # One owner's jobs get so many threads, and no more.
            until(lambda: len(silent.queries) == THREADS_PER_OWNER)
            asked = "called(host).recv(1000), len(select.select(waiting, [], [], 0)[0])"
            reply, answered = judged.host.tell(f"import select; {asked}", host=gateway.OUTER_6)
            assert (reply, answered) == (query[:-2] + b":USERID:UNIX:bouncer\r\n", 0)
        finally:
            judged.host.tell("process.kill(); process.wait(); [one.close() for one in (listener, *waiting)]; None")
        assert len(silent.queries) == THREADS_PER_OWNER


# With the real oidentd.


@contextlib.contextmanager
def serving(namespace: str, host: str, port: int, *words: str) -> Iterator[None]:
    """Have an ident server listen in a network namespace, where nobody asks the DNS: oidentd does, before it reads."""
    folder = Path("/etc/netns", namespace)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    command = [program("ip"), "netns", "exec", namespace, *words, "-S", "-i", "-a", host, "-p", str(port)]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, folder)
        path = stack.enter_context(system_file(""))
        process = subprocess.Popen([*command, "-C", str(path)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        stack.enter_context(ending(process))
        with inside(namespace):
            until(lambda: process.poll() is not None or _listens(host, port))
        yield


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # ENOTEMPTY: it is others', too
        folder.parent.rmdir()


def _listens(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.connect_ex((host, port)) == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_real_oidentd_behind(judged: Judged, behind: Machine, form: str) -> None:
    """A gateway's identd asks an oidentd behind it, which lets the gateway ask by ports, and sends what it says."""
    gateway = judged.gateway
    with serving(gateway.here, gateway.HERE, 1114, program("oidentd"), "-P", gateway.INNER, "-u", "root", "-g", "root"):
        assert judged.asked(form, (OUTSIDE, FAR), "-df1114") == f"USERID:UNIX:{judged.user.pw_name}", judged.log


def test_a_real_oidentd_as_the_gateway(judged: Judged, behind: Machine) -> None:
    """A gateway's oidentd asks an identd behind it, which trusts it, and sends what that one says."""
    gateway = judged.gateway
    oidentd = (program("oidentd"), "-mf1115", "-u", "root", "-g", "root")
    with (
        serving(gateway.here, gateway.HERE, 1115, *COMMAND, "-P", gateway.INNER),
        serving(gateway.gate, gateway.OUTER, 1116, *oidentd),
        inside(gateway.there),
        socket.create_connection((gateway.OUTER, 1116), PATIENCE) as asker,
    ):
        asker.sendall(b"%d,%d\r\n" % (OUTSIDE, FAR))
        reply = everything(asker).decode()
    assert reply == f"{OUTSIDE},{FAR}:USERID:UNIX:{judged.user.pw_name}\r\n"
