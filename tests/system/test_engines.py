"""Whom does identd name of a connection that a container of the real Docker, or of the real Podman, has?

(Items 2 and 3 of issue 12.)  One dockerd serves for all: it maps the containers' users to sub-ids, unless one is
started with ``--userns=host``.  Their state stands in the judged host's own mount namespace.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.askers import FORMS
from helpers.hosts import inside, until
from helpers.installed import readable_folder
from helpers.judged import Judged
from helpers.machine import program, skip
from helpers.pairs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: Of the sub-ids in /etc/subuid: the first, and how many.
SUB_IDS = 700_000, 65536

#: The uid in an image, which often is somebody else's on the host.
IMAGES_UID = 1000

#: The port that a container's server has outside, and inside.
PUBLISHED, SERVED = 8080, 8000

#: Seconds for one command of an engine, on a slow machine.
ENGINE = 120

#: What the engines write outside of the folders that they are given.
MASKED = ("/run", "/etc/docker", "/var/lib/cni", "/var/lib/containers")

#: crun refuses to run where both versions of control groups are mounted; runc needs the devices.  What a user's
#: containers need of /dev is there for every user.
_BEGIN = """
for mask in masked:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", mask], check=True)
for made in ("/run/netns", "/run/lock"):
    os.mkdir(made)
subprocess.run(["mount", "--bind", "/etc/subuid", "/etc/subgid"], check=True)
if pathlib.Path("/dev/net/tun").exists():
    os.mknod("/run/tun", 0o20666, os.makedev(10, 200))
    os.chmod("/run/tun", 0o666)
    subprocess.run(["mount", "--bind", "/run/tun", "/dev/net/tun"], check=True)
groups = pathlib.Path("/sys/fs/cgroup")
if os.path.ismount(groups / "unified"):
    subprocess.run(["umount", "-l", str(groups / "unified")], check=True)
if (groups / "devices").is_dir() and not list((groups / "devices").iterdir()):
    subprocess.run(["mount", "-t", "cgroup", "-o", "devices", "none", str(groups / "devices")], check=True)
None
"""

_END_DOCKER = """
dockerd.terminate()
dockerd.wait(60)
for group in [*groups.glob("*" + parent), pathlib.Path(str(groups) + parent)]:
    if group.exists():
        group.rmdir()
        group.parent.rmdir()
None
"""

_RUN = """
done = subprocess.run(words, capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL, **how)
done.returncode, done.stdout.strip(), done.stderr
"""


class Engines:
    """The judged host, with the programs of both engines and an image."""

    def __init__(self, judged: Judged, folder: Path) -> None:
        self.judged, self.folder = judged, folder
        self.image = folder / "image.tar"
        busybox = Path(program("busybox")).read_bytes()
        if b"/ld-linux" in busybox:
            skip("needs a busybox that is linked statically")
        with tarfile.open(self.image, "w") as tar:
            for name in (".", "bin"):
                entry = tarfile.TarInfo(name)
                entry.mode, entry.type = 0o755, tarfile.DIRTYPE
                tar.addfile(entry)
            for name in ("bin/busybox", "bin/sh", "bin/nc", "bin/sleep"):
                entry = tarfile.TarInfo(name)
                entry.mode, entry.size = 0o755, len(busybox)
                tar.addfile(entry, io.BytesIO(busybox))
        user = judged.user.pw_name
        judged.sub_ids(f"{user}:{SUB_IDS[0]}:{SUB_IDS[1]}")
        judged.host.tell(_BEGIN, masked=MASKED)

    def run(self, *words: str, **how: object) -> str:
        """Run a program on the judged host, and return what it printed."""
        code, printed, said = self.judged.host.tell(_RUN, words=words, limit=ENGINE, how=how)
        assert code == 0, f"{' '.join(words)}: {said}"
        return str(printed)

    @contextlib.contextmanager
    def container(self, *words: str, **how: object) -> Iterator[None]:
        """Have a container run: the words say what, from the engine on, without the image's name and on."""
        engine = words[: words.index("run")]
        now = [] if engine[0].endswith("docker") else ["--time", "0"]
        name = self.run(*words, **how)
        try:
            yield
        finally:
            removal = *engine, "rm", "--force", *now, name
            # Podman's own clean-up may be under way, and something busy.
            until(lambda: self.judged.host.tell(_RUN, words=removal, limit=ENGINE, how=how)[0] == 0)

    @contextlib.contextmanager
    def calling(self, *words: str, **how: object) -> Iterator[tuple[int, int]]:
        """Have a container's process call the far end; yield the ports of the connection that are seen there."""
        with self.judged.gateway.listen(self.judged.gateway.THERE) as far:
            port = far.getsockname()[1]
            call = f"sleep 600 | nc {self.judged.gateway.THERE} {port}"
            with self.container(*words, "identd-test", "/bin/sh", "-c", call, **how):
                connection, (host, outside) = far.accept()
                with connection:
                    assert host == self.judged.gateway.OUTER
                    yield outside, port


@pytest.fixture(scope="module")
def engines(judged: Judged) -> Iterator[Engines]:
    """The judged host with an image, where the engines keep their files to themselves."""
    with readable_folder() as folder, contextlib.ExitStack() as stack:
        # Version 2 of control groups has no such hierarchy.
        devices = [] if Path("/sys/fs/cgroup/cgroup.controllers").exists() else ["/sys/fs/cgroup/devices"]
        for place in (*MASKED, *devices):
            if not os.path.isdir(place):
                os.mkdir(place)
                stack.callback(os.rmdir, place)
        # With it end its processes and mounts, which stand in the folder.
        stack.callback(judged.close)
        yield Engines(judged, folder)


@pytest.fixture(scope="module")
def docker(engines: Engines) -> Iterator[list[str]]:
    """The first words of docker's commands, while a dockerd that maps users runs on the judged host."""
    folder, user = engines.folder, engines.judged.user.pw_name
    for name in ("docker", "containerd", "runc", "iptables"):
        program(name)
    # As Docker's own is, in a folder whose groups are ours.
    parent = f"/identd-{os.getpid()}/docker"
    daemon = [program("dockerd"), "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    daemon += ["--pidfile", f"{folder}/pid", "-H", f"unix://{folder}/socket", "--storage-driver", "vfs"]
    daemon += [f"--userns-remap={user}:{user}", "--cgroup-parent", parent, "--exec-opt", "native.cgroupdriver=cgroupfs"]
    start = "dockerd = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log); log.close()"
    engines.judged.host.tell(f"log = open(path, 'w'); {start}", words=daemon, path=f"{folder}/log")
    words = [program("docker"), "-H", f"unix://{folder}/socket"]
    try:
        until(lambda: (folder / "socket").exists())
        engines.run(*words, "import", str(engines.image), "identd-test")
        yield words
    except BaseException:
        print((folder / "log").read_text())
        raise
    finally:
        engines.judged.host.tell(_END_DOCKER, parent=parent)


@pytest.mark.parametrize("form", FORMS)
def test_docker(engines: Engines, docker: list[str], form: str) -> None:
    """A user of an image is a number, never the user of the host who has the same uid; the log names the container."""
    words = ["run", "--detach", "--userns=host", "--user"]
    for uid in (IMAGES_UID, engines.judged.user.pw_uid):
        with engines.calling(*docker, *words, str(uid)) as ports:
            assert engines.judged.asked(form, ports, "-m") == f"USERID:OTHER:{uid}", engines.judged.log
            # One at a time runs.
            name = f"in container {engines.run(*docker, 'ps', '--quiet', '--no-trunc')[:12]} (docker)"
            assert name in engines.judged.log
            assert name in engines.judged.explained(ports, "-m")


def test_docker_maps_users(engines: Engines, docker: list[str]) -> None:
    """With --userns-remap the owner of the sub-ids is named, whoever it is inside."""
    for uid in ("0", str(IMAGES_UID)):
        with engines.calling(*docker, "run", "--detach", "--user", uid) as ports:
            named = f"USERID:UNIX:{engines.judged.user.pw_name}"
            assert engines.judged.asked("single", ports, "-m") == named, engines.judged.log


def test_docker_publishes(engines: Engines, docker: list[str]) -> None:
    """The client of a published port asks who serves it."""
    gateway = engines.judged.gateway
    words = ["run", "--detach", "--userns=host", "--user", str(IMAGES_UID), "--publish", f"{PUBLISHED}:{SERVED}"]
    serve = f"while :; do nc -l -p {SERVED} -e /bin/sh -c 'echo; exec sleep 600'; done"
    with engines.container(*docker, *words, "identd-test", "/bin/sh", "-c", serve):
        called: list[socket.socket] = []

        def calls() -> bool:
            with inside(gateway.there), contextlib.suppress(ConnectionError):
                called.append(socket.create_connection((gateway.OUTER, PUBLISHED), PATIENCE))
            return bool(called)

        until(calls)
        with called[0]:
            # The server has it: what is not accepted yet has no holder.
            assert called[0].recv(1) == b"\n"
            ports = PUBLISHED, called[0].getsockname()[1]
            said = engines.judged.asked("single", ports, "-m")
            assert said == f"USERID:OTHER:{IMAGES_UID}", engines.judged.log


def podman(folder: Path) -> list[str]:
    """Return the first words of podman's commands."""
    for name in ("crun", "conmon"):
        program(name)
    return [program("podman"), "--root", f"{folder}/root", "--runroot", f"{folder}/runroot", "--storage-driver", "vfs",
            "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", program("crun")]  # fmt: skip


RUN = ["run", "--detach", "--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


#: On the judged host: the container's processes are in a control group as Podman has systemd make one.
_SCOPE = """
systemd = pathlib.Path("/sys/fs/cgroup/systemd")
scope = (systemd if systemd.is_dir() else systemd.parent) / parent / f"libpod-{number}.scope"
scope.mkdir(parents=True)
inside = os.stat(f"/proc/{pid}/ns/pid").st_ino
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if os.path.exists(process / "ns/pid") and os.stat(process / "ns/pid").st_ino == inside:
        (scope / "cgroup.procs").write_text(process.name)
None
"""

#: When these have ended.
_NO_SCOPE = """
for group in (scope, scope.parent) if "scope" in globals() else ():
    group.rmdir()
None
"""


def test_podman_maps_users(engines: Engines) -> None:
    """With a map of sub-ids their owner is named, whoever it is inside; the log names the container.

    For its name, its processes are put where systemd would have them: none is there that Podman could ask.
    """
    folder = engines.folder / "podman"
    folder.mkdir()
    words = podman(folder)
    engines.run(*words, "import", str(engines.image), "identd-test")
    first, count = SUB_IDS
    maps = ["--uidmap", f"0:{first}:{count}", "--gidmap", f"0:{first}:{count}"]
    host, parent = engines.judged.host, f"identd-{os.getpid()}-podman"
    with contextlib.ExitStack() as stack:
        stack.callback(host.tell, _NO_SCOPE)
        ports = stack.enter_context(engines.calling(*words, *RUN, *maps, "--user", str(IMAGES_UID)))
        number = engines.run(*words, "ps", "--quiet", "--no-trunc")
        pid = engines.run(*words, "inspect", "--format", "{{.State.Pid}}", number)
        host.tell(_SCOPE, parent=parent, number=number, pid=pid)
        named = f"USERID:UNIX:{engines.judged.user.pw_name}"
        assert engines.judged.asked("single", ports, "-m") == named, engines.judged.log
        name = f"in container {number[:12]} (libpod)"
        assert name in engines.judged.log
        assert name in engines.judged.explained(ports, "-m")


def test_podman_without_root(engines: Engines) -> None:
    """A user's own containers: what leaves the host is a socket of theirs."""
    for name in ("newuidmap", "slirp4netns"):
        program(name)
    if not Path("/dev/net/tun").exists():
        skip("needs /dev/net/tun")
    user = engines.judged.user
    folder = engines.folder / "rootless"
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)
    home = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PATH": os.environ["PATH"], "USER": user.pw_name}
    how = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "env": home, "cwd": str(folder)}
    words = podman(folder)
    engines.run(*words, "import", str(engines.image), "identd-test", **how)
    with engines.calling(*words, *RUN, "--network", "slirp4netns", **how) as ports:
        named = f"USERID:UNIX:{user.pw_name}"
        for options in ([], ["-m"]):
            assert engines.judged.asked("single", ports, *options) == named, engines.judged.log
