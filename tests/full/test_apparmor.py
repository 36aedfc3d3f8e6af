"""Does the packaged identd answer truly where a kernel enforces its AppArmor profile, and does it need no more?

Most machines that run these tests have a kernel that can't. So Debian's own kernel is booted, in an emulator, from the
tree that .ci/full has made: all of it in memory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.machine import program, skip

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds for the boot and all that is asked: some 160, where the machine does nothing else.
PATIENCE = 900

_UNIT = """\
[Unit]
After=apparmor.service systemd-user-sessions.service
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /root/prove_apparmor.py
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""

#: The kernel's command line. Its log has each start of a service, too: without the last three, denials get lost there.
_BOOT = (
    "console=ttyS0 apparmor=1 security=apparmor rdinit=/lib/systemd/systemd panic=5 quiet loglevel=3"
    " log_buf_len=4M audit_backlog_limit=8192 sysctl.kernel.printk_ratelimit=0"
)

#: Of the kernel's modules, what is loaded when somebody asks about sockets, and for NAT and network namespaces.
_MODULES = (
    "kernel/net/ipv4", "kernel/net/ipv6", "kernel/net/netlink", "kernel/net/netfilter", "kernel/net/unix",
    "kernel/drivers/net/veth.ko", "kernel/lib/libcrc32c.ko", "kernel/crypto/crc32c_generic.ko",
    "modules.builtin", "modules.order",
)  # fmt: skip

#: What is told of each connection, whatever the units have.
ALWAYS = {"alice": "USERID:UNIX:alice", "bob": "USERID:UNIX:bobby", "nobody": "ERROR:NO-USER"}

#: And with each drop-in for --masquerade, or none: of what the host redirects, and of what comes from another network.
REPLIES = {
    "": dict.fromkeys(("redirected", "namespace", "container", "container of bob's"), "ERROR:NO-USER"),
    "masquerade": {
        "redirected": "USERID:UNIX:alice",
        **dict.fromkeys(("namespace", "container", "container of bob's"), "ERROR:UNKNOWN-ERROR"),
    },
    "containers": {
        "redirected": "USERID:UNIX:alice", "namespace": "USERID:UNIX:alice", "container": "USERID:OTHER:1001",
        "container of bob's": "USERID:UNIX:bobby",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `prove_apparmor` has seen on such a machine."""
    trees = os.environ.get("IDENTD_TREES")
    if trees is None:
        skip("needs the trees of .ci/full")
    emulator, tree, kernel = program("qemu-system-x86_64"), Path(trees, "apparmor-bookworm"), Path(trees, "kernel")
    (image,) = (kernel / "boot").glob("vmlinuz-*")
    version = image.name.partition("-")[2]
    folder = tmp_path_factory.mktemp("apparmor")
    (package,) = Path(trees, "build-bookworm/build-1").glob("identd_*_all.deb")
    for name in _MODULES:
        target = tree / "lib/modules" / version / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source := kernel / "lib/modules" / version / name).is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    shutil.copy(Path(__file__).with_name("prove_apparmor.py"), tree / "root")
    shutil.copy(package, tree / "root/identd.deb")
    (tree / "etc/systemd/system/prove.service").write_text(_UNIT)
    (tree / "etc/fstab").write_text("")
    install = f"depmod {version}; dpkg --purge identd; dpkg -i /root/identd.deb; systemctl enable prove.service"
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    subprocess.run([program("chroot"), str(tree), "sh", "-c", install], check=True, capture_output=True)
    policy.unlink()
    packed = folder / "tree.cpio.gz"
    subprocess.run(
        f"cd {tree} && find . -xdev | cpio -o -H newc --quiet | gzip -1 > {packed}", shell=True, check=True
    )
    words = [
        emulator, "-M", "q35", "-accel", "tcg,thread=multi", "-m", "2500", "-nographic", "-no-reboot", "-nic", "none",
        "-kernel", str(image), "-initrd", str(packed), "-append", _BOOT,
    ]  # fmt: skip
    said = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
    ).stdout.decode("utf-8", "replace")
    assert "PROOF BEGINS" in said, said[-3000:]
    text = said.partition("PROOF BEGINS")[2].partition("PROOF ENDS")[0]
    found = json.loads("".join(text.splitlines()))
    print(found)
    yield found


def test_the_profile_is_enforced(proof: dict[str, Any]) -> None:
    """The kernel has it, all of identd's processes run under it, and what it does not have is denied."""
    assert "identserver (enforce)" in proof["profiles"]
    for form in ("single", "warm"):
        for drop_in in REPLIES:
            confined = proof[f"{form} {drop_in}".strip() + " confined"]
            assert len(confined) >= 1 + bool(drop_in)
            assert set(confined) == {"identserver (enforce)"}
    assert "open /etc/shadow r" in proof["denied afterwards"]


@pytest.mark.parametrize("drop_in", REPLIES)
@pytest.mark.parametrize("form", ["single", "warm"])
def test_true_answers(proof: dict[str, Any], form: str, drop_in: str) -> None:
    """A user, one whose file asks for another name, nobody, who is found with --masquerade: as without a profile."""
    replies = ALWAYS | REPLIES[drop_in]
    assert proof[f"{form} {drop_in}".strip()] == {whose: [reply, reply] for whose, reply in replies.items()}


def test_nothing_is_denied(proof: dict[str, Any]) -> None:
    """The profile has all that the service does, with each drop-in for --masquerade and without."""
    assert proof["denied"] == []
