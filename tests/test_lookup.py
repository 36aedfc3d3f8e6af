"""Who owns a TCP connection of this host?  The whole of `lookup`, as another program would call it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers.calls import call
from helpers.hosts import Person, Refused, Town, inside, nameless_uid
from helpers.machine import ROOT
from helpers.pairs import LOOPBACK, connect

import lookup
from lookup import connection
from lookup.kernel import sock_diag

if TYPE_CHECKING:
    from helpers.hosts import Ends

pytest_plugins = ["helpers.people"]


def me() -> tuple[str, str]:
    """Return what the running user is called."""
    try:
        return "UNIX", pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "OTHER", str(os.getuid())


def test_a_login_name(town: Town, alice: Person) -> None:
    """The owner's login name comes back, as UNIX."""
    with call(town, alice) as (ends, _), inside(town.here):
        assert lookup.lookup(*ends) == ("UNIX", pwd.getpwuid(alice.uid).pw_name)


def test_a_uid_without_passwd_entry(town: Town) -> None:
    """An owner without a login name is OTHER and the number."""
    with Person(nameless_uid(), town.here) as stranger, call(town, stranger) as (ends, _), inside(town.here):
        assert lookup.lookup(*ends) == ("OTHER", str(stranger.uid))


def test_the_answer_is_a_plain_pair() -> None:
    """The answer unpacks, compares and hashes as a tuple of two strings, and tells where it comes from."""
    with connect() as pair:
        answer = lookup.lookup(pair.client.getsockname(), pair.client.getpeername())
        system, user = answer
        assert answer == (system, user) == me()
        assert isinstance(answer, tuple)
        assert hash(answer) == hash(me())
        assert answer.owner.uid == os.getuid()
        assert answer.owner.source == "sock_diag"
        assert (answer.owner.server, answer.owner.client) == (pair.client.getsockname(), pair.client.getpeername())


def test_the_ports_alone() -> None:
    """With one host or both unknown the ports decide."""
    with connect() as pair:
        server, client = pair.client.getsockname(), pair.client.getpeername()
        for hosts in (("", ""), (LOOPBACK, ""), ("", LOOPBACK)):
            assert lookup.lookup((hosts[0], server[1]), (hosts[1], client[1])) == me()
        with pytest.raises(lookup.NoUser):
            lookup.lookup(("127.0.0.2", server[1]), ("", client[1]))


def test_no_such_connection() -> None:
    """What is no connection is NO-USER."""
    with connect() as pair, pytest.raises(lookup.NoUser):
        lookup.lookup(pair.client.getsockname(), ("127.0.0.2", pair.client.getpeername()[1]))


@pytest.mark.parametrize("port", [-1, 0, 65536, 10**30])
@pytest.mark.parametrize("host", [LOOPBACK, "", "not an address"])
def test_an_invalid_port(port: int, host: str) -> None:
    """A port outside 1..65535, on either side, is INVALID-PORT, whatever the hosts."""
    for ends in (((host, port), (host, 1)), ((host, 1), (host, port))):
        with pytest.raises(lookup.InvalidPort):
            lookup.lookup(*ends)


def test_the_first_and_the_last_port() -> None:
    """Ports 1 and 65535 are valid: there is just no connection."""
    for ends in (((LOOPBACK, 1), (LOOPBACK, 65535)), ((LOOPBACK, 65535), (LOOPBACK, 1))):
        with pytest.raises(lookup.NoUser):
            lookup.lookup(*ends)


@pytest.mark.parametrize("host", ["localhost", "1.2.3", "1.2.3.4%lo", "fe80::1%no-such-device", "\0"])
def test_a_bad_address(host: str) -> None:
    """Text that is no address is a ValueError, beside an address and beside an unknown one."""
    for beside in (LOOPBACK, ""):
        for ends in (((host, 1), (beside, 1)), ((beside, 1), (host, 1))):
            with pytest.raises(ValueError):
                lookup.lookup(*ends)


# Where sock_diag can't be asked.


def ask_own(person: Person) -> Any:
    """Have a process look a connection of its own up; return the answer and its source."""
    with connect() as pair:
        ends = person.dial(pair.listener.getsockname())
        person.tell("from lookup import lookup")
        answer = person.tell("a = lookup(*ends); (tuple(a), a.owner.source, a.owner.uid)", ends=ends)
        pair.listener.accept()[0].close()
        return answer


@pytest.mark.parametrize("number", ["EAFNOSUPPORT", "EPERM"])
def test_no_netlink(number: str) -> None:
    """In a process that may not open AF_NETLINK psutil answers, and the answer says so."""
    with Person(os.getuid()) as prisoner:
        assert ask_own(prisoner) == (me(), "sock_diag", os.getuid())
        prisoner.tell(f"forbid_netlink(errno.{number})")
        assert ask_own(prisoner) == (me(), "psutil", os.getuid())


def test_no_pyroute2() -> None:
    """Without pyroute2 psutil answers."""
    with Person(os.getuid()) as person:
        person.tell("sys.modules['pyroute2'] = None; sock_diag.codec._classes = sock_diag.codec._module = None")
        assert ask_own(person) == (me(), "psutil", os.getuid())


def test_no_tcp_diag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no handler for the protocol (here one for experiments) psutil answers, by ports as well."""
    encode = sock_diag.SockDiag._encode

    def encode_unhandled(self: sock_diag.SockDiag, *arguments: Any, **named: Any) -> bytearray:
        return encode(self, *arguments, **{**named, "protocol": 253})

    monkeypatch.setattr(sock_diag.SockDiag, "_encode", encode_unhandled)
    with connect() as pair:
        server, client = pair.client.getsockname(), pair.client.getpeername()
        for asked in ((server, client), (("", server[1]), ("", client[1]))):
            answer = lookup.lookup(*asked)
            assert answer == me()
            assert answer.owner.source == "psutil"


def test_neither_source() -> None:
    """Where neither can be asked that is UNKNOWN-ERROR, and the detail says what each lacks."""
    with Person(os.getuid()) as prisoner:
        prisoner.tell("forbid_netlink(); sys.modules['psutil'] = None; import lookup")
        answer = prisoner.tell(
            "try:\n    lookup.lookup(*ends)\n"
            "except lookup.IdentError as error:\n    answer = type(error).__name__, error.detail\n"
            "answer",
            ends=((LOOPBACK, 1), (LOOPBACK, 1)),
        )
    assert answer[0] == "IdentError"
    assert "netlink" in answer[1]
    assert "psutil" in answer[1]


def test_psutil_is_not_asked_to_overrule_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the kernel's is UNKNOWN-ERROR, though psutil would find the connection."""
    monkeypatch.setattr(sock_diag, "_SOCK_DIAG_BY_FAMILY", 99)
    with connect() as pair, pytest.raises(lookup.IdentError) as refused:
        lookup.lookup(pair.client.getsockname(), pair.client.getpeername())
    assert str(refused.value) == "UNKNOWN-ERROR"
    assert "EINVAL" in refused.value.detail


def test_bad_questions_without_netlink() -> None:
    """A bad address is the same ValueError, and a bad port the same refusal, when psutil answers."""
    bad: list[tuple[Ends, str]] = [
        (((LOOPBACK, 0), (LOOPBACK, 1)), "InvalidPort"),
        ((("localhost", 1), (LOOPBACK, 1)), "ValueError"),
        ((("", 1), ("localhost", 1)), "ValueError"),
        (((LOOPBACK, 1), (LOOPBACK, 1)), "NoUser"),
    ]
    with Person(os.getuid()) as prisoner:
        prisoner.tell("forbid_netlink(); from lookup import lookup")
        for ends, kind in bad:
            with pytest.raises(Refused) as refused:
                prisoner.tell("lookup(*ends)", ends=ends)
            assert refused.value.kind == kind


# As a library.


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python source in a new process that can import this project."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_importing_it_is_cheap() -> None:
    """Importing `lookup` imports neither source of answers, nor the name service."""
    done = fresh("before = set(sys.modules)\nimport lookup\nprint(*set(sys.modules) - before)")
    assert done.stderr == ""
    new = set(done.stdout.split())
    assert {"lookup", "lookup.connection"} <= new
    assert not {name.partition(".")[0] for name in new} & {"pyroute2", "psutil", "socket", "typing", "pwd", "logging"}


def test_it_prints_and_logs_nothing_and_reads_no_argv() -> None:
    """A hit, a miss and an error in another program leave its output and its arguments alone."""
    with connect() as pair:
        ends = pair.client.getsockname(), pair.client.getpeername()
        done = fresh(f"""
sys.argv = None
from lookup import lookup
assert lookup(*{ends!r}) == {me()!r}
for bad in (("127.0.0.2", 1), ("nowhere", 1), ("127.0.0.1", 0)):
    try:
        lookup(bad, {ends[1]!r})
    except Exception:
        continue
    raise SystemExit(1)
assert "logging" not in sys.modules or not sys.modules["logging"].root.handlers
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_it_offers() -> None:
    """Every public name exists, and the refusals are those of `lookup.connection`."""
    for name in lookup.__all__:
        assert hasattr(lookup, name)
    for name in ("IdentError", "NoUser", "InvalidPort", "HiddenUser"):
        assert getattr(lookup, name) is getattr(connection, name)
