"""Does one process alone hold capabilities, and is nobody named wrongly when it has too few, hangs, or has ended?

(Issue 12, Privileges.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from helpers.askers import FORMS
from helpers.hosts import until
from helpers.installed import readable_folder
from helpers.judged import FAR, REDIRECTED, Judged
from helpers.machine import NOBODY, ROOT, only_if_others_can_read_it, program
from helpers.pairs import PATIENCE, Pair, me
from helpers.single_shot import COMMAND, driver, handler
from helpers.warm import log_of, status, warming

from identserver.capabilities import NEEDED, mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytest_plugins = ["helpers.gateways", "helpers.judged"]
pytestmark = pytest.mark.usefixtures("needs_root")

OUTSIDE = 50124

SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def ambient(*names: str) -> list[str]:
    """Return the words that start a program as a unit with AmbientCapabilities= does."""
    listed = ",".join(f"+{name[4:].lower()}" for name in names)
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [program("setpriv"), *ids, f"--inh-caps={listed}", f"--ambient-caps={listed}"]


def sets(pid: int) -> list[int]:
    """Return a process' capabilities: inheritable, permitted, effective, ambient."""
    fields = status(pid)
    return [int(fields[name], 16) for name in SETS]


def seekers(pid: int) -> list[int]:
    """Return the processes that identd has started which hold some of the capabilities, and have given up the rest.

    One more is root, where owners' files may have to be read for a single shot.
    """
    found = [(child.pid, sets(child.pid)[2], status(child.pid)) for child in psutil.Process(pid).children()]
    return [one for one, has, fields in found if has and not has & ~mask() and fields["NoNewPrivs"] == "1"]


def the_seeker(pid: int) -> int:
    """Wait until there is one, and identd itself has given up root or what was ambient."""
    until(lambda: not any(sets(pid)) and len(seekers(pid)) == 1)
    (found,) = seekers(pid)
    return found


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, even if nobody has waited for it."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@contextlib.contextmanager
def running(form: str, before: Sequence[str]) -> Iterator[int]:
    """Start identd with -m; yield its pid."""
    only_if_others_can_read_it()
    if form == "single":
        with handler("-m", "-C", os.devnull, command=[*before, *COMMAND]) as served:
            yield served.process.pid
    else:
        with warming("-m", "-C", os.devnull, command=[*before, *COMMAND]) as warm:
            yield warm.process.pid


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("starts", ["root", "ambient"])
@pytest.mark.parametrize("names", [tuple(NEEDED), ("CAP_NET_ADMIN",)], ids=["four", "one"])
def test_one_process_has_precisely_these(form: str, starts: str, names: tuple[str, ...]) -> None:
    """Its ids are those of who serves; who serves has none, in no thread; neither gets any by starting a program."""
    without = ",".join(f"-{name[4:].lower()}" for name in NEEDED if name not in names)
    as_root = [program("setpriv"), f"--bounding-set={without}"] if without else []
    with running(form, as_root if starts == "root" else ambient(*names)) as pid:
        seeker = the_seeker(pid)
        kept = mask(*names)
        assert sets(seeker) == [0, kept, kept, 0]
        for one in (seeker, *map(int, os.listdir(f"/proc/{pid}/task"))):
            fields = status(one)
            assert fields["Uid"].split() == fields["Gid"].split() == [str(NOBODY)] * 4
            assert (fields["Groups"], fields["NoNewPrivs"]) == ("", "1")
            assert one == seeker or sets(one) == [0] * 4
        if starts == "root":
            assert int(status(seeker)["CapBnd"], 16) == 0
        # Nothing but the way to who asks, and a pipe of its own: no connection, no listening socket, no log.
        links = [os.readlink(f"/proc/{seeker}/fd/{fd}") for fd in os.listdir(f"/proc/{seeker}/fd")]
        assert sorted(link.partition(":")[0] for link in links) == ["/dev/null"] * 3 + ["pipe"] * 2 + ["socket"]
    until(lambda: has_ended(seeker))


def test_nothing_of_that_without_masquerade() -> None:
    """Without -m there is no such process."""
    with warming("-C", os.devnull) as warm:
        assert seekers(warm.process.pid) == []


@pytest.mark.parametrize("missing", NEEDED)
def test_without_each_in_turn(judged: Judged, missing: str) -> None:
    """Nobody is named for a container's connection. Without CAP_NET_ADMIN the answers are those without -m."""
    by = f"{program('setpriv')} --bounding-set=-{missing[4:].lower()}"
    with judged.masqueraded(judged.user.pw_uid, OUTSIDE, image=False):
        for form in FORMS:
            reply = judged.asked(form, (OUTSIDE, FAR), "-m", by=by)
            assert reply == ("ERROR:NO-USER" if missing == "CAP_NET_ADMIN" else "ERROR:UNKNOWN-ERROR"), judged.log
            assert f"--masquerade: without {missing} " in judged.log
            assert judged.log.count("--masquerade:") == 1


@pytest.mark.parametrize("form", FORMS)
def test_one_alone_is_enough_for_this_hosts_own(judged: Judged, form: str) -> None:
    """CAP_NET_ADMIN: who holds what was redirected to a proxy here."""
    by = " ".join(ambient("CAP_NET_ADMIN"))
    with judged.redirected(judged.gateway.OUTER, judged.gateway.THERE) as port:
        reply = judged.asked(form, (REDIRECTED, port), "-m", by=by)
        assert reply == f"USERID:UNIX:{judged.user.pw_name}", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_one_alone_is_enough_for_machines_behind(judged: Judged, form: str) -> None:
    """CAP_NET_ADMIN: which machine has a connection, whose name a file tells."""
    gateway = judged.gateway
    by = " ".join(ambient("CAP_NET_ADMIN"))
    with readable_folder() as folder, judged.masqueraded(NOBODY, OUTSIDE, image=False):
        file = folder / "masq"
        file.write_text(f"{gateway.HERE} boxed UNIX\n")
        reply = judged.asked(form, (OUTSIDE, FAR), "-m", "--masquerade-file", str(file), by=by)
        assert reply == "USERID:UNIX:boxed", judged.log


def runs_well(code: str) -> None:
    """Run a program that says nothing where all is well."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stderr, done.returncode) == ("", 0)


UNKNOWN = b":ERROR:UNKNOWN-ERROR\r\n"


def test_it_was_killed(pair: Pair, tmp_path: Path) -> None:
    """Nobody is named without it, the log says so once, and the warm process ends: its superserver has the port."""
    keeps_on = "from identserver.warm import server; server.SETTLED_SECONDS = "
    query = pair.query + b"\r\n"
    for seconds in ("1e9", "0"):
        command = driver(tmp_path, keeps_on + seconds)
        with warming("-mS", "-C", os.devnull, command=command, stderr=subprocess.PIPE) as warm:
            assert warm.ask(query) == pair.query + b":USERID:UNIX:%b\r\n" % me().encode()
            os.kill(the_seeker(warm.process.pid), signal.SIGKILL)
            if seconds == "0":
                assert warm.process.wait(PATIENCE) == 0
                continue
            assert warm.ask(query) == pair.query + UNKNOWN
            assert warm.ask(query) == pair.query + UNKNOWN
            assert log_of(warm).count("has ended: until") == 1


def test_it_hangs(pair: Pair, tmp_path: Path) -> None:
    """Nobody is named, in time; and when it goes on, so does all the rest."""
    query = pair.query + b"\r\n"
    command = driver(tmp_path, "from identserver import seeker; seeker.SECONDS = 0.5")
    with warming("-mS", "-C", os.devnull, command=command) as warm:
        seeker = the_seeker(warm.process.pid)
        os.kill(seeker, signal.SIGSTOP)
        try:
            assert warm.ask(query) == pair.query + UNKNOWN
        finally:
            os.kill(seeker, signal.SIGCONT)
        until(lambda: warm.ask(query).startswith(pair.query + b":USERID:"))


#: Sends what is no request, as a server might that somebody else has taken over, then asks.
MALFORMED = """
import os, socket, sys, tempfile
from identserver import seeker
from identserver.capabilities import mask
from lookup.kernel.wire import REQUEST_SIZE, Request
one = seeker.Seeker(mask(), (65534, 65534))
good = Request(("127.0.0.1", 1), ("127.0.0.1", 2))
assert one.ask(good).kind == 0
file = tempfile.TemporaryFile()
reader, writer = os.pipe()
for data in (b"x", bytes(REQUEST_SIZE), b"\\xff" * REQUEST_SIZE, bytes(60000), good.pack() + b"x", b"/etc/shadow"):
    one._socket.send(data)
    for fds in ([writer], [file.fileno()], [writer] * 200):
        socket.send_fds(one._socket, [data], fds)
one._socket.send(good.pack())
socket.send_fds(one._socket, [good.pack()], [file.fileno()])
assert one.ask(good).kind == 0
assert one.ask(good).kind == 0
os.close(writer)
# Whoever is asked has closed its copies, without a word.
assert os.read(reader, 1) == b""
assert os.fstat(file.fileno()).st_size == 0
one._socket.shutdown(socket.SHUT_WR)
os.wait()
"""


#: Asks twice, and the first time there is no thread to be had.
WITHOUT_A_THREAD = """
import os, socket
from identserver import seeker
from lookup.connection import IdentError
from lookup.kernel.wire import Request
genuine, left = seeker.start_new_thread, [RuntimeError("can't start new thread")]
def start(*arguments):
    if left:
        raise left.pop()
    return genuine(*arguments)
seeker.start_new_thread = start
seeker._at_once = lambda request: (None, request.server[0])
one = seeker.Seeker()
good = Request(("127.0.0.1", 1), ("127.0.0.1", 2))
try:
    one.ask(good)
except IdentError:
    pass
else:
    raise AssertionError
assert one.ask(good).kind == 0
one._socket.shutdown(socket.SHUT_WR)
os.wait()
"""


def test_no_thread_for_one() -> None:
    """A request for which there is no thread is not answered; the next one is."""
    runs_well(WITHOUT_A_THREAD)


#: One address' searches do not end. What conntrack alone decides, and another address, are answered all the same.
TURNS = """
import os, socket, time
from identserver import seeker
from lookup.kernel.wire import NOBODY, STANDS, Found, Request
def at_once(request):
    return (Found(STANDS, request.server, request.client) if request.local else None), request.server[0]
def search(request):
    if request.server[0] == "10.0.0.1":
        time.sleep(60)
    return Found(NOBODY, request.server, request.client)
seeker._at_once, seeker._found = at_once, search
one = seeker.Seeker()
far = "10.0.0.2", 2
stuck = []
while len(stuck) < seeker.MOST_WAITING + 100:
    try:
        stuck.append(one.send(Request(("10.0.0.1", 1), far)))
    except BlockingIOError:
        time.sleep(0.01)
assert one.ask(Request(("10.0.0.1", 1), far, local=True)).kind == STANDS
assert one.ask(Request(("10.0.0.3", 1), far)).kind == NOBODY
for fd in stuck:
    os.close(fd)
assert one.ask(Request(("10.0.0.3", 1), far)).kind == NOBODY
one._socket.shutdown(socket.SHUT_WR)
os.wait()
"""


def test_each_address_has_its_turn() -> None:
    """However many questions there are about one address that takes long, others are answered."""
    runs_well(TURNS)


def test_what_is_no_request() -> None:
    """Whatever is sent, and with whatever descriptors: no answer, nothing is written elsewhere, and it goes on."""
    only_if_others_can_read_it()
    runs_well(MALFORMED)
