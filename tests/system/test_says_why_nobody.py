"""Does identd say why a connection is nobody's, so that each cause has its text?  (F7 of issue 10.)"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from functools import partial
from typing import IO, TYPE_CHECKING

import pytest
from helpers.askers import FORMS, asking
from helpers.gateways import Gateway
from helpers.hosts import Person, inside, until
from helpers.machine import NOBODY, program
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, by_hand, ending, start

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways"]

#: The ports that the far end sees of a connection that the gateway translates, and what the host behind it has.
SEEN, REAL, FAR = 50123, 40000, 6667

MASQUERADE = f"oifname out tcp dport {FAR} masquerade to :{SEEN}"

#: The beginning of what is said of each cause, by what made it.
TEXTS = {
    "NAT by this host": r"NAT by this host: it is the connection from {here}:40000 to {there}:6667, .* {here}$",
    "NAT before this host": r"no connection from here to {there}:6667 has the port 50123, but one has 40000: a gatew",
    "another asker": r"the asker, 10\.91\.0\.9, is not the far end .*: its far end is 10\.91\.0\.2 ",
    "our gateway": r"the asker, 10\.92\.0\.1, is this host's own gateway, so a proxy .*: its far end is 10\.91\.0\.2 ",
    "turned around": r"the ports are in the wrong order: 40000,6667 is a connection, ",
    "closed": r"it was closed at this end: only TIME_WAIT is left",
    "not accepted": r"nobody has accepted it yet: it waits for a program that listens on port ",
    "another namespace": r"it is in another network namespace, /run/netns/\S+: 10\.92\.0\.2:40000 10\.91\.0\.2:7000 ",
    "nothing": r"no such socket: ",
}


@pytest.fixture
def far(gateway: Gateway) -> Iterator[None]:
    """Somebody listens outside."""
    with contextlib.ExitStack() as stack, inside(gateway.there):
        for port in (FAR, 7000):
            stack.enter_context(socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True))
        yield


@contextlib.contextmanager
def calling(gateway: Gateway, far: str = "", port: int = FAR) -> Iterator[Person]:
    """The host behind the gateway has a connection to outside, from the port REAL."""
    far = far or gateway.THERE
    with Person(NOBODY, gateway.here) as person:
        person.dial((far, port), source=(gateway.HERE_6 if ":" in far else gateway.HERE, REAL))
        yield person
        # With a reset, so that the port is free for the next one.
        person.tell("import struct")
        person.tell("kept and kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))")


def causes(namespace: str, ports: str, server: str, client: str, *before: str) -> tuple[list[str], str]:
    """Return what --explain says of the causes, and its reply without the ports.

    :param before: words before the command.
    """
    words = [program("ip"), "netns", "exec", namespace, *before, *COMMAND, "--explain", ports]
    done = subprocess.run(
        [*words, "--server-address", server, "--client-address", client, "-C", "/nonexistent"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    return [line[9:] for line in lines if line.startswith("cause ")], lines[-1].partition(":")[2]


def only(what: str, said: list[str], gateway: Gateway) -> bool:
    """Return whether just one cause is said, the one that it is."""
    (line,) = said
    found = [
        name for name, text in TEXTS.items() if re.match(text.format(here=gateway.HERE, there=gateway.THERE), line)
    ]
    assert found == [what], line
    return True


AS_NOBODY = (f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups").split()
UNSEEN_NAT = "can't be excluded: NAT by this host (conntrack answers only who has CAP_NET_ADMIN)"


@pytest.mark.usefixtures("far")
def test_nat(gateway: Gateway) -> None:
    """The gateway's root is told the host behind, and the host behind which port it really has, each in its words."""
    with gateway.translating(MASQUERADE), calling(gateway):
        said, reply = causes(gateway.gate, f"{SEEN},{FAR}", gateway.OUTER, gateway.THERE)
        assert only("NAT by this host", said, gateway) and reply == "ERROR:NO-USER"
        # Who may not ask conntrack is told that NAT is not excluded, and what it takes.
        said, reply = causes(gateway.gate, f"{SEEN},{FAR}", gateway.OUTER, gateway.THERE, *AS_NOBODY)
        assert only("nothing", said[:1], gateway) and reply == "ERROR:NO-USER"
        assert said[1] == UNSEEN_NAT
        assert re.match(r"can't be excluded: another network namespace \(2 of the 2 joined .* CAP_SYS_ADMIN", said[2])
        said, reply = causes(gateway.here, f"{SEEN},{FAR}", gateway.HERE, gateway.THERE)
        assert only("NAT before this host", said, gateway) and reply == "ERROR:NO-USER"


@pytest.mark.usefixtures("far")
def test_nat_of_ipv6(gateway: Gateway) -> None:
    """It is the same with IPv6."""
    with gateway.translating(MASQUERADE), calling(gateway, gateway.THERE_6):
        said, _ = causes(gateway.gate, f"{SEEN},{FAR}", gateway.OUTER_6, gateway.THERE_6)
        ends = f"[{gateway.HERE_6}]:{REAL} to [{gateway.THERE_6}]:{FAR}"
        assert said == [f"NAT by this host: it is the connection from {ends}, of the host behind, {gateway.HERE_6}"]
        said, _ = causes(gateway.here, f"{SEEN},{FAR}", gateway.HERE_6, gateway.THERE_6)
        assert len(said) == 1 and f"[{gateway.THERE_6}]:{FAR} has the port {SEEN}, but one has {REAL}" in said[0]


def test_a_published_port(gateway: Gateway) -> None:
    """A connection from outside, to a port of the gateway that is the host's behind, names that host and its port."""
    with inside(gateway.here):
        listener = socket.create_server((gateway.HERE, 80))
    rule = f"iifname out tcp dport 8080 dnat ip to {gateway.HERE}:80"
    with listener, gateway.translating(rule, hook="prerouting"), inside(gateway.there), socket.create_connection(
        (gateway.OUTER, 8080), PATIENCE
    ) as caller, listener.accept()[0]:
        port = caller.getsockname()[1]
        said, _ = causes(gateway.gate, f"8080,{port}", gateway.OUTER, gateway.THERE)
    ends = f"{gateway.HERE}:80 to {gateway.THERE}:{port}"
    assert said == [f"NAT by this host: it is the connection from {ends}, of the host behind, {gateway.HERE}"]


@pytest.mark.usefixtures("far")
def test_who_asks(gateway: Gateway) -> None:
    """An asker who is not the far end, our own gateway, ports in the wrong order: each has its text."""
    with calling(gateway):
        for what, ports, client in (
            ("another asker", f"{REAL},{FAR}", gateway.THERE_TOO),
            ("our gateway", f"{REAL},{FAR}", gateway.INNER),
            ("turned around", f"{FAR},{REAL}", gateway.THERE),
            ("nothing", "1,1", gateway.THERE),
        ):
            said, reply = causes(gateway.here, ports, gateway.HERE, client)
            assert only(what, said, gateway) and reply == "ERROR:NO-USER"
        said, _ = causes(gateway.here, f"1,{FAR}", gateway.HERE, gateway.INNER)
        assert said[0].startswith("no such socket")
        assert said[1].startswith(f"the asker, {gateway.INNER}, is this host's own gateway")


@pytest.mark.usefixtures("far")
def test_another_network_namespace(gateway: Gateway) -> None:
    """What is only routed through the gateway is found in the namespace that has it, by who may look there."""
    with calling(gateway, port=7000):
        ends = f"{REAL},7000", gateway.HERE, gateway.THERE
        said, reply = causes(gateway.gate, *ends)
        assert only("another namespace", said, gateway) and reply == "ERROR:NO-USER"
        said, _ = causes(gateway.gate, *ends, *AS_NOBODY)
        assert only("nothing", said[:1], gateway) and "another network namespace" in said[-1]


def test_what_is_left_of_it(gateway: Gateway) -> None:
    """A connection that was closed here, and one that nobody has accepted, are no connection that is not there."""
    with inside(gateway.here), socket.create_server((gateway.HERE, 0)) as listener:
        port = listener.getsockname()[1]
        with inside(gateway.there), socket.create_connection((gateway.HERE, port), PATIENCE) as caller:
            asked = f"{port},{caller.getsockname()[1]}"
            said, reply = causes(gateway.here, asked, gateway.HERE, gateway.THERE)
            assert only("not accepted", said, gateway) and reply == "ERROR:NO-USER"
            accepted, _ = listener.accept()
            accepted.close()
            caller.recv(1)
        until(lambda: "TIME_WAIT" in str(causes(gateway.here, asked, gateway.HERE, gateway.THERE)))
        said, reply = causes(gateway.here, asked, gateway.HERE, gateway.THERE)
    assert only("closed", said, gateway) and reply == "ERROR:NO-USER"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("far")
def test_the_log_of_whoever_debugs(gateway: Gateway, form: str) -> None:
    """--debug says the same in the log, after the same reply; without it, nothing is said or looked for."""
    asked = (gateway.HERE, FAR), (gateway.THERE, REAL)
    for options in (("--debug",), ()):
        with calling(gateway), asking(
            gateway, form, "--nosyslog", *options, server=gateway.HERE, client=gateway.THERE
        ) as asker:
            assert asker.ask(asked) == "ERROR:NO-USER"
            line = f"identd: {gateway.THERE} asked about {FAR},{REAL}, which is nobody's: the ports are in the wrong"
            if options and form == "warm":
                # Later than the reply, and not once the process is told to end.
                assert asker.process.stderr is not None
                os.set_blocking(asker.process.stderr.fileno(), False)
                seen: list[bytes] = []
                until(partial(_reads, asker.process.stderr, seen, b"nobody's: "))
                assert line in b"".join(seen).decode()
            else:
                assert (line in asker.log()) == bool(options)


@pytest.mark.usefixtures("far")
def test_the_log_of_who_may_ask_conntrack(gateway: Gateway) -> None:
    """An identd that has CAP_NET_ADMIN, and nothing else of root, names the host behind in the log, as root sees it."""
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    words += ["--inh-caps=+net_admin", "--ambient-caps=+net_admin", *COMMAND, "--debug", "--nosyslog"]
    with gateway.translating(MASQUERADE), calling(gateway), contextlib.ExitStack() as stack:
        with inside(gateway.gate):
            listener = stack.enter_context(socket.create_server((gateway.OUTER, 0)))
        with inside(gateway.there):
            address = listener.getsockname()
            caller = stack.enter_context(socket.create_connection(address, PATIENCE, (gateway.THERE, 0)))
        with inside(gateway.gate), listener.accept()[0] as accepted:
            process = stack.enter_context(ending(start(words, accepted)))
        caller.sendall(f"{SEEN},{FAR}\r\n".encode())
        assert everything(caller) == f"{SEEN},{FAR}:ERROR:NO-USER\r\n".encode()
        assert process.stderr is not None
        assert f"the host behind, {gateway.HERE}" in process.stderr.read().decode()


def _reads(pipe: IO[bytes], seen: list[bytes], text: bytes) -> bool:
    """Read what is there, and return whether a text has come."""
    seen.append(pipe.read() or b"")
    return text in b"".join(seen)


def test_by_hand() -> None:
    """Whoever tests by hand is told it too, with --debug."""
    assert "1,1, which is nobody's: no such socket" in by_hand(b"1,1\n", "--debug", "-S").stderr
