"""Whom does identd name of what systemd-nspawn, pasta and slirp4netns connect, the real programs?

(Items 3 and 4 of issue 12.)  The judged host's /run is its own, and /dev/net/tun is there for every user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.askers import FORMS
from helpers.hosts import inside, ip, until
from helpers.installed import readable_folder
from helpers.judged import Judged
from helpers.machine import program, skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: systemd-nspawn's own lowest range is 524288; one that ends a multiple of 65536 can be had as well.
RANGE = 720_896, 65536

#: Of a user inside, whose login name in the image is a user's of the host.
IMAGES_UID = 1000

#: What a container's link has outside, and inside.
LINK = "10.97.0.1", "10.97.0.2"

#: The port that pasta takes for its container, and the one inside.
PUBLISHED, SERVED = 8081, 8000

_BEGIN = """
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", "/run"], check=True)
os.mkdir("/run/netns")
if pathlib.Path("/dev/net/tun").exists():
    os.mknod("/run/tun", 0o20666, os.makedev(10, 200))
    os.chmod("/run/tun", 0o666)
    subprocess.run(["mount", "--bind", "/run/tun", "/dev/net/tun"], check=True)
running = {}
None
"""

_START = """
log = open(path, "w")
running[path] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **how)
log.close()
running[path].pid
"""

_END = """
process = running.pop(path)
process.terminate()
try:
    process.wait(20)
except subprocess.TimeoutExpired:
    process.kill()
process.wait(20)
"""


class Programs:
    """The judged host, and programs that run there."""

    def __init__(self, judged: Judged, folder: Path) -> None:
        self.judged, self.folder = judged, folder
        user, home = judged.user, folder / "users"
        home.mkdir()
        os.chown(home, user.pw_uid, user.pw_gid)
        self.as_user: dict[str, Any] = {
            "user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": str(home),
            "env": {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": os.environ["PATH"]},
        }  # fmt: skip
        judged.host.tell(_BEGIN)

    @contextlib.contextmanager
    def running(self, *words: str, **how: object) -> Iterator[int]:
        """Have a program run; yield its pid, as the judged host counts. What it says is shown when a test fails."""
        log = self.folder / Path(words[0]).name
        pid = self.judged.host.tell(_START, path=str(log), words=words, how=how)
        try:
            yield pid
        except BaseException:
            print(log.read_text(errors="replace"))
            raise
        finally:
            self.judged.host.tell(_END, path=str(log))

    def image(self) -> Path:
        """Return the root directory of an image, made anew."""
        root = self.folder / "root"
        if root.exists():
            shutil.rmtree(root)
        for name in ("bin", "etc", "usr/lib", "usr/bin", "proc", "sys", "dev", "run", "tmp", "var", "root"):
            (root / name).mkdir(parents=True)
        shutil.copy(program("busybox"), root / "bin" / "busybox")
        if b"/ld-linux" in (root / "bin" / "busybox").read_bytes():
            skip("needs a busybox that is linked statically")
        for name in ("sh", "nc", "sleep", "ip", "su"):
            (root / "bin" / name).symlink_to("busybox")
        (root / "usr/lib/os-release").write_text("ID=identd-test\n")
        (root / "etc/passwd").write_text(f"root::0:0::/:/bin/sh\nnobody::{IMAGES_UID}:{IMAGES_UID}::/:/bin/sh\n")
        return root

    @contextlib.contextmanager
    def called_by(
        self, calls: Sequence[str], *words: str, before: str = "", meanwhile: Callable[[], None] = lambda: None,
        **how: object,
    ) -> Iterator[list[tuple[int, int]]]:  # fmt: skip
        """Have a shell inside of a program connect to the far end; yield the ports of each connection.

        :param calls: what the shell does for each, with its address and port in place of FAR. :param words: the
            program, as which the shell comes. :param before: what the shell does before. :param meanwhile: what is
            done here once it runs.
        """
        gateway = self.judged.gateway
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(gateway.listen(gateway.THERE)) for _ in calls]
            lines = [before] if before else []
            for call, listener in zip(calls, listeners):
                lines.append(call.replace("FAR", f"{gateway.THERE} {listener.getsockname()[1]}") + " &")
            stack.enter_context(self.running(*words, "\n".join([*lines, "wait"]), **how))
            meanwhile()
            found = []
            for listener in listeners:
                connection, (host, port) = listener.accept()
                stack.enter_context(connection)
                assert host == gateway.OUTER
                found.append((port, listener.getsockname()[1]))
            yield found


@pytest.fixture(scope="module")
def programs(judged: Judged) -> Iterator[Programs]:
    """The judged host, where programs keep what they write outside of the folders that they are given to themselves."""
    with readable_folder() as folder, contextlib.ExitStack() as stack:
        # With it end its processes and mounts.
        stack.callback(judged.close)
        yield Programs(judged, folder)


def nspawn(programs: Programs, *options: str) -> list[str]:
    """Return the words that run a shell in a container that maps its users."""
    return [
        program("systemd-nspawn"), "--quiet", "--register=no", "--keep-unit", f"--machine=t{os.getpid()}",
        f"--private-users={RANGE[0]}:{RANGE[1]}", "--private-users-ownership=chown", *options,
        f"--directory={programs.image()}", "/bin/sh", "-c",
    ]  # fmt: skip


#: Root's connection, and a user's.
CALLS = "sleep 600 | nc FAR", "su nobody -c 'sleep 600 | nc FAR'"


def test_nspawn_with_a_link(programs: Programs) -> None:
    """Users and a network of its own: who has the range in /etc/subuid, else the number; never the image's name."""
    judged = programs.judged
    gateway = judged.gateway
    device = f"ve-t{os.getpid()}"
    up = f"ip addr add {LINK[1]}/24 dev host0; ip link set host0 up; ip route add default via {LINK[0]}"
    # The host's end of the link is given its address, and then is up.
    before = f"{up}; until case $(ip link show host0) in *LOWER_UP*) ;; *) false ;; esac; do sleep 0.1; done"
    words = nspawn(programs, "--network-veth")
    with contextlib.ExitStack() as stack:
        stack.enter_context(gateway.translating("oifname out masquerade"))

        def link() -> None:
            until(has_link)
            ip("addr", "add", f"{LINK[0]}/24", "dev", device, namespace=gateway.gate)
            ip("link", "set", device, "up", namespace=gateway.gate)

        def has_link() -> bool:
            with inside(gateway.gate):
                return device in (name for _, name in socket.if_nameindex())

        found = stack.enter_context(programs.called_by(CALLS, *words, before=before, meanwhile=link))
        for ports, uid in zip(found, (0, IMAGES_UID)):
            for form in FORMS:
                assert judged.asked(form, ports, "-m") == f"USERID:OTHER:{RANGE[0] + uid}", judged.log
            judged.sub_ids(f"{judged.user.pw_name}:{RANGE[0]}:{RANGE[1]}")
            for form in FORMS:
                assert judged.asked(form, ports, "-m") == f"USERID:UNIX:{judged.user.pw_name}", judged.log
            judged.sub_ids()


def test_nspawn_in_our_network(programs: Programs) -> None:
    """Users of its own, and the host's network: the number; with --subuid who has the range."""
    judged = programs.judged
    with programs.called_by(CALLS, *nspawn(programs)) as found:
        for ports, uid, form in zip(found, (0, IMAGES_UID), FORMS):
            judged.sub_ids(f"{judged.user.pw_name}:{RANGE[0]}:{RANGE[1]}")
            assert judged.asked(form, ports) == f"USERID:OTHER:{RANGE[0] + uid}", judged.log
            assert judged.asked(form, ports, "--subuid") == f"USERID:UNIX:{judged.user.pw_name}", judged.log
            judged.sub_ids()


def only_with_tun() -> None:
    """Skip the running test unless there is a device for networks of programs."""
    if not Path("/dev/net/tun").exists():
        skip("needs /dev/net/tun")


def is_the_users(judged: Judged, ports: tuple[int, int]) -> None:
    """Ask in both forms, with and without -m: they are named."""
    for form in FORMS:
        for options in ([], ["-m"]):
            named = f"USERID:UNIX:{judged.user.pw_name}"
            assert judged.asked(form, ports, *options) == named, judged.log


def test_pasta(programs: Programs) -> None:
    """What it connects, and what it accepts for a port, is of the user who runs it."""
    only_with_tun()
    judged = programs.judged
    gateway = judged.gateway
    # The far end is the gateway to anywhere, whose address is the host's own for pasta if it is left to it.
    words = [program("pasta"), "--ipv4-only", "--config-net", "--foreground", "--no-map-gw"]
    words += ["--tcp-ports", f"{PUBLISHED}:{SERVED}"]
    call = f"sleep 600 | {program('busybox')} nc"
    serve = f"sleep 600 | {program('busybox')} nc -l -p {SERVED}"
    with contextlib.ExitStack() as stack:
        # It looks for a device that leads anywhere.
        ip("route", "add", "default", "via", gateway.THERE, namespace=gateway.gate)
        stack.callback(ip, "route", "del", "default", namespace=gateway.gate)
        shell = [*words, "--", "/bin/sh", "-c"]
        calling = programs.called_by([f"{call} FAR"], *shell, before=f"{serve} &", **programs.as_user)
        (ports,) = stack.enter_context(calling)
        is_the_users(judged, ports)
        with judged.called(gateway.OUTER, PUBLISHED, gateway.THERE) as port:
            is_the_users(judged, (PUBLISHED, port))


def test_slirp4netns(programs: Programs) -> None:
    """What it connects is of the user who runs it."""
    only_with_tun()
    judged, ready = programs.judged, programs.folder / "users" / "ready"
    gateway = judged.gateway
    shell = f"touch {ready}; until ip route | grep -q default; do sleep 0.1; done; sleep 600 | {program('busybox')} nc"
    with contextlib.ExitStack() as stack:
        far = stack.enter_context(gateway.listen(gateway.THERE))
        port = far.getsockname()[1]
        command = [program("unshare"), "--map-root-user", "--net", "/bin/sh", "-c", f"{shell} {gateway.THERE} {port}"]
        pid = stack.enter_context(programs.running(*command, **programs.as_user))
        until(ready.exists)
        words = [program("slirp4netns"), "--configure", f"{pid}", "tap0"]
        stack.enter_context(programs.running(*words, **programs.as_user))
        connection, (host, outside) = far.accept()
        stack.enter_context(connection)
        assert host == gateway.OUTER
        is_the_users(judged, (outside, port))
