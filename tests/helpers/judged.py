"""What is a host in the tests whose containers and NAT are all that it sees?  A plugin, see `judged`.

The gateway of `helpers.gateways`, in a mount and a PID namespace of its own: its process 1 can be looked at, and
neither the names nor the processes of the far end's network namespace are to be seen.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from helpers.gateways import Gateway
from helpers.hosts import Person, inside, login
from helpers.installed import readable_folder
from helpers.machine import only_if_others_can_read_it, only_with_namespaces, program
from helpers.pairs import PATIENCE, everything
from helpers.single_shot import COMMAND, ending, start
from helpers.warm import until_it_serves

if TYPE_CHECKING:
    import pwd
    from collections.abc import Iterator, Sequence

#: Of the connections that are asked about: behind, at the far end, and where the judged host masquerades them, outside.
REAL, FAR, OUTSIDE = 40000, 6667, 50123

#: The rule that does so, with the port; and one that leads what the far end calls to a proxy of the judged host's.
MASQUERADING = "meta l4proto tcp oifname out masquerade to :{}"
REDIRECTED, _REDIRECTING = 3128, "iifname out tcp dport 3128 redirect to :13128"

#: In the judged host's reach: its people and containers, by name, and what `helpers.hosts` has.
_BEGIN = """
import json, pathlib
from helpers import hosts, judged
people = {}
folder = pathlib.Path(folder)
(folder / "all").mkdir()
subprocess.run(["mount", "--rbind", "/run/netns", str(folder / "all")], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
subprocess.run(["mount", "--bind", str(folder / "subuid"), "/etc/subuid"], check=True)
None
"""

#: Gives one who may another root directory.
_MOVE = """
if root:
    os.chroot(root)
    os.chdir("/")
"""

#: Has one who was root become another user, perhaps of a container.
_BECOME = f"""{_MOVE}
os.setgroups([])
os.setgid(NOBODY)
os.setuid(uid)
checked(libc.prctl(4, 1, 0, 0, 0))
"""


#: Has one who was root become a user in a user namespace of their own, with another root directory.
_BECOME_ROOTLESS = f"""
checked(libc.setresuid(uid, uid, uid))
checked(libc.prctl(4, 1, 0, 0, 0))
leave_user_namespace(0, uid, 1)
{_MOVE}
"""


#: By whose it is: how a pid namespace is made for a command.
_PIDS = {
    "root": "unshare --pid --fork --kill-child",
    "user": "setpriv --reuid {0} --clear-groups unshare --user --map-root-user --pid --fork --kill-child",
    "inner": "unshare --user --map-root-user --pid --fork --kill-child",
}


class Net(NamedTuple):
    """The addresses of one family."""

    behind: str
    inner: str
    outer: str
    there: str


class Judged:
    """The judged host, with the network namespaces of a `Gateway`; ``user``, who has a login name."""

    def __init__(self, gateway: Gateway, user: pwd.struct_passwd, folder: Path) -> None:
        self.gateway, self.user, self._folder = gateway, user, folder
        (folder / "subuid").write_text("")
        (folder / "root").mkdir()
        words = [program("unshare"), "--mount", "--propagation", "slave", "--pid", "--fork", "--mount-proc"]
        self.host = Person(0, gateway.gate, [*words, "--kill-child"])
        self.host.tell(_BEGIN, folder=str(folder))

    def close(self) -> None:
        self.host.close()

    def sub_ids(self, *lines: str) -> None:
        """Have /etc/subuid hold some lines."""
        (self._folder / "subuid").write_text("".join(f"{line}\n" for line in lines))

    @contextlib.contextmanager
    def living(
        self, name: str, namespace: str, uid: int, *, image: bool = True, mapped: bool = False, binds: bool = False,
        pids: Sequence[str] = (),
    ) -> Iterator[None]:  # fmt: skip
        """Have a process live in a network namespace.

        :param image: whether it has a root directory of its own. :param mapped: whether it has a user namespace of
            its own, which maps root to it. :param binds: whether it may bind low ports. :param pids: the pid
            namespaces that it lives in, by whose they are, outermost first ("user" and "inner" come with a user
            namespace).
        """
        if binds:
            self.host.tell(
                "with inside(place): pathlib.Path('/proc/sys/net/ipv4/ip_unprivileged_port_start').write_text('0')",
                place=self.path(namespace),
            )
        words = [word for whose in pids for word in _PIDS[whose].format(uid).split()]
        # Who has a user namespace of their own can't enter the network namespace from there.
        enter = [program("nsenter"), f"--net=/run/netns/{self.path(namespace)}"] if pids else []
        self.host.tell(
            f"people[{name!r}] = Person(0, namespace, within)",
            namespace="" if pids else self.path(namespace), within=[*enter, *words],
        )  # fmt: skip
        become = _BECOME_ROOTLESS if mapped else _MOVE if "user" in pids else _BECOME
        values = {"uid": uid, "root": str(self._folder / "root") if image else ""}
        try:
            self.within(name, become, **values)
            yield
        finally:
            self.host.tell(f"people.pop({name!r}).close()")

    def path(self, namespace: str) -> str:
        """Return what a network namespace is called on the judged host."""
        return f"../..{self._folder}/all/{namespace}" if namespace else ""

    def within(self, name: str, source: str, **values: object) -> Any:
        """Tell one of the people something (see `Person.tell`)."""
        return self.host.tell(f"people[{name!r}].tell(said, **given)", said=source, given=values)

    def dials(self, name: str, there: str, source: str = "", port: int = REAL, far: int = FAR) -> None:
        """Have one of the people connect to the far end; what they close ends with a reset."""
        where = {"source": (source, port)} if source else {}
        self.within(name, "dial(address, **how)", address=(there, far), how=where)
        # A reset, so that the port is free for the next test.
        reset = "kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))"
        self.within(name, reset)

    @contextlib.contextmanager
    def masqueraded(
        self, uid: int, outside: int = OUTSIDE, there: str = "", source: str = "", **living: Any
    ) -> Iterator[None]:
        """Somebody behind, called behind, has a connection, which this host masquerades.

        :param outside: its port there. :param there: the far end's address; :param source: the one behind; ``""``:
            those of IPv4.
        """
        rule, gateway = MASQUERADING.format(outside), self.gateway
        with gateway.translating(rule), self.living("behind", gateway.here, uid, **living):
            self.dials("behind", there or gateway.THERE, source or gateway.HERE)
            yield

    @contextlib.contextmanager
    def redirected(self, host: str, caller: str) -> Iterator[int]:
        """A user's process here, called proxy, has accepted what went to `REDIRECTED`; yield the far end's port."""
        with (
            self.gateway.translating(_REDIRECTING, hook="prerouting"),
            self.living("proxy", "", self.user.pw_uid, image=False),
        ):
            self.within("proxy", "listener = socket.create_server((host, 13128), family=family_of(host))", host=host)
            with self.called(host, REDIRECTED, caller) as port:
                self.within("proxy", "kept.append(listener.accept()[0])")
                yield port

    def asked(
        self, form: str, ports: tuple[int, int], *options: str, target: str = "", led_to: int = 0, by: str = "",
        transparent: bool = False, asker: str = "",
    ) -> str:  # fmt: skip
        """Return the reply to a query, without the ports, of an identd that root starts on the judged host.

        :param target: the address that is asked. :param led_to: the port here that a rule leads the query's to.
        :param by: words to put before the command. :param transparent: whether a rule may leave the query the address
            that it is for. :param asker: the address of who asks, behind; ``""``: the far end does.
        """
        target = target or self.gateway.OUTER
        there, called = self.path(self.gateway.here if asker else self.gateway.there), (target, 113)
        asker = asker or (self.gateway.THERE_6 if ":" in target else self.gateway.THERE)
        listens = self.gateway.OUTER_6 if ":" in target else self.gateway.OUTER
        question = there, form, ports, options, (listens, led_to), called, asker, by, transparent
        reply, self.log = self.host.tell("judged.ask(*question)", question=question)
        return str(reply)

    def explained(self, ports: tuple[int, int], *options: str) -> str:
        """Return what --explain says about a connection with the far end, for root on the judged host."""
        ends = ["--server-address", self.gateway.OUTER, "--client-address", self.gateway.THERE]
        words = [*COMMAND, *options, *ends, f"--explain={ports[0]},{ports[1]}"]
        done = "subprocess.run(words, capture_output=True, text=True, timeout=60).stdout"
        return str(self.host.tell(done, words=words))

    @contextlib.contextmanager
    def called(self, host: str, port: int, caller: str) -> Iterator[int]:
        """Have the far end call a port of the judged host's; yield the far end's port."""
        with inside(self.gateway.there):
            connection = socket.create_connection((host, port), PATIENCE, (caller, 0))
        with connection:
            # A reset, so that nothing is left of it for the next test.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            yield connection.getsockname()[1]

    @contextlib.contextmanager
    def allowing(self, text: str) -> Iterator[list[str]]:
        """Yield the options of a system file that holds a text."""
        path = self._folder / "oidentd.conf"
        path.write_text(text)
        yield ["-C", str(path)]


def ask(
    there: str, form: str, ports: tuple[int, int], options: list[str], listens: tuple[str, int],
    target: tuple[str, int], asker: str, by: str, transparent: bool,
) -> tuple[str, str]:  # fmt: skip
    """On the judged host: ask an identd of its own from outside; return the reply, and its log."""
    family = socket.AF_INET6 if ":" in asker else socket.AF_INET
    command = [*by.split(), *COMMAND, "-S", *options]
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(listens, family=family))
        listener.settimeout(PATIENCE)
        if transparent:
            be_transparent(listener)
        if form == "warm":
            process = stack.enter_context(ending(start(command, listener)))
            until_it_serves(process)
        with inside(there):
            called = target if listens[1] else listener.getsockname()[:2]
            caller = socket.create_connection(called, PATIENCE, (asker, 0))
            stack.enter_context(caller)
        if form == "single":
            with listener.accept()[0] as accepted:
                process = stack.enter_context(ending(start(command, accepted)))
        caller.sendall(f"{ports[0]},{ports[1]}\r\n".encode())
        reply = everything(caller).decode().rstrip("\r\n").partition(":")[2]
        if form == "warm":
            process.terminate()
        assert process.stderr is not None
        return reply, process.stderr.read().decode()


def be_transparent(one: socket.socket) -> None:
    """Let a socket have addresses of others; that takes CAP_NET_ADMIN (ip(7), linux/in6.h)."""
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
    else:
        one.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT


@pytest.fixture(scope="module")
def judged(gateway: Gateway) -> Iterator[Judged]:
    """The gateway as a judged host; the far end listens."""
    only_with_namespaces()
    only_if_others_can_read_it()
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(login())
        with inside(gateway.there):
            for host in (gateway.THERE, gateway.THERE_6):
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                stack.enter_context(socket.create_server((host, FAR), family=family))
        hosts = Judged(gateway, user, stack.enter_context(readable_folder()))
        yield stack.enter_context(contextlib.closing(hosts))


@pytest.fixture(params=("IPv4", "IPv6"))
def net(judged: Judged, request: pytest.FixtureRequest) -> Net:
    """The addresses of IPv4, then of IPv6."""
    gateway = judged.gateway
    if request.param == "IPv4":
        return Net(gateway.HERE, gateway.INNER, gateway.OUTER, gateway.THERE)
    return Net(gateway.HERE_6, gateway.INNER_6, gateway.OUTER_6, gateway.THERE_6)
