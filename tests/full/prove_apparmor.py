"""Run as root of a machine that enforces AppArmor's profiles: ask the packaged identd about two users, in both forms.

As it is installed, and with each drop-in for --masquerade: behind the host's own NAT, and in containers.
Prints one object, as JSON, between two lines of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import termios
import time
import traceback
from pathlib import Path
from typing import Any

FORMS = {"single": "identd.socket", "warm": "identd-wait.socket"}

#: Of those for --masquerade, which one the units have; first none.
DROP_INS = ("", "masquerade", "containers")

#: Where the far end of each connection listens, and what the host redirects there.
LISTENS, REDIRECTED = 6667, 1130

#: A network namespace whose connections come from an address of the host's, and what a container has for its root.
NETWORK = f"""
ip netns add box
ip link add to-box type veth peer name inside netns box
ip addr add 10.77.0.1/24 dev to-box
ip link set to-box up
ip -n box addr add 10.77.0.2/24 dev inside
ip -n box link set inside up
nft -f - <<'END'
table ip nat {{
    chain out {{ type nat hook output priority -100; tcp dport {REDIRECTED} redirect to :{LISTENS}; }}
    chain in {{ type nat hook input priority 100; ip saddr 10.77.0.2 snat to 10.77.0.1; }}
}}
END
mkdir /srv/box
mount -t tmpfs none /srv/box
chmod 755 /srv/box
mkdir /srv/box/usr
mount --bind /usr /srv/box/usr
for name in bin lib lib64; do ln -s usr/$name /srv/box/$name; done
"""

#: Run inside: connects to the host, and keeps the connection.
FROM_INSIDE = f'import socket; kept = socket.create_connection(("10.77.0.1", {LISTENS})); input()'

#: Seconds for a service to begin, in an emulator.
PATIENCE = 120


def told(command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def connected(user: str, listener: socket.socket, port: int) -> list[socket.socket]:
    """Return both ends of a user's connection on loopback, to a listener's port or one that is redirected there."""
    os.seteuid(pwd.getpwnam(user).pw_uid)
    client = socket.socket()
    client.connect(("127.0.0.1", port))
    os.seteuid(0)
    return [listener.accept()[0], client]


def inside(user: str, listener: socket.socket, *, before: str = "", after: str = "") -> list[Any]:
    """Return our end of a user's connection from the network namespace, and the process that holds the other one.

    :param before: a command that puts the process into a container, before it is the user's; :param after: after that.
    """
    uid = pwd.getpwnam(user).pw_uid
    words = f"ip netns exec box {before} setpriv --reuid={uid} --regid={uid} --clear-groups {after} python3 -c".split()
    process = subprocess.Popen([*words, FROM_INSIDE], stdin=subprocess.PIPE)
    return [listener.accept()[0], process]


def asked(ends: list[Any] | None) -> str:
    """Return the reply of port 113 about a connection, without the ports; None: one that is not there."""
    (host, port), query = ("127.0.0.1", 5), "5,9"
    if ends is not None:
        host, port = ends[0].getpeername()
        query = f"{port},{LISTENS}"
    with socket.create_connection((host, 113), PATIENCE) as asker:
        asker.sendall(query.encode("ascii") + b"\r\n")
        return asker.makefile(encoding="ascii").read().strip().partition(":")[2]


def confined() -> list[str]:
    """Return under which profile each process of identd's runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"/usr/sbin/identd" in (process / "cmdline").read_bytes():
                found.append((process / "attr/current").read_text().strip())
    return found


def denied() -> list[str]:
    """Return what the kernel has denied identd: each operation, and the file, capability or family it was about."""
    found = set()
    for line in told("dmesg").splitlines():
        fields = dict(re.findall(r'(\w+)="?([^"\s]*)', line))
        if fields.get("apparmor") in ("DENIED", "AUDIT") and fields.get("profile") == "identserver":
            about = (fields.get(key) for key in ("name", "capname", "family", "peer", "requested_mask"))
            found.add(" ".join(filter(None, (fields["operation"], *about))))
    return sorted(found)


def connections() -> dict[str, list[Any] | None]:
    """Make users and what they have, and return the connections that are asked about."""
    for user in ("alice", "bob"):
        subprocess.run(["useradd", "-m", "-s", "/bin/sh", user], check=True)
    Path("/etc/oidentd.conf").write_text("default { default { allow hide allow spoof } }\n")
    home = Path("/home/bob")
    home.chmod(0o755)
    (home / ".oidentd.conf").write_text('global { reply "bobby" }\n')
    os.chown(home / ".oidentd.conf", pwd.getpwnam("bob").pw_uid, -1)
    subprocess.run(["sh", "-ec", NETWORK], check=True)
    listener = socket.create_server(("", LISTENS))
    listener.settimeout(PATIENCE)
    return {
        "alice": connected("alice", listener, LISTENS), "bob": connected("bob", listener, LISTENS), "nobody": None,
        "redirected": connected("alice", listener, REDIRECTED), "namespace": inside("alice", listener),
        "container": inside("bob", listener, before="chroot /srv/box"),
        "container of bob's": inside("bob", listener, after="unshare --map-root-user chroot /srv/box"),
    }  # fmt: skip


def serve(unit: str) -> None:
    """Have one form serve, as its unit is now."""
    for other in FORMS.values():
        told(f"systemctl stop {other}")
    # Where a socket was closed a moment ago, systemd may find its port taken.
    until = time.monotonic() + PATIENCE
    while told(f"systemctl reset-failed; systemctl start {unit}; systemctl is-active {unit}").strip() != "active":
        assert time.monotonic() < until, told(f"systemctl status --no-pager {unit}")
        time.sleep(1)


def main() -> None:
    """Do it."""
    about = connections()
    seen: dict[str, Any] = {"profiles": told("cat /sys/kernel/security/apparmor/profiles").splitlines()}
    for drop_in in DROP_INS:
        for service in ("identd@", "identd-wait") if drop_in else ():
            source, target = "/usr/share/identd/systemd", f"/etc/systemd/system/{service}.service.d"
            told(f"install -Dm644 {source}/identd-{drop_in}.conf {target}/masquerade.conf; systemctl daemon-reload")
        for form, unit in FORMS.items():
            serve(unit)
            name = f"{form} {drop_in}".strip()
            seen[name] = {whose: [asked(ends), asked(ends)] for whose, ends in about.items()}
            with socket.create_connection(("127.0.0.1", 113), PATIENCE):
                until = time.monotonic() + PATIENCE
                # With --masquerade also the process that keeps the capabilities.
                while len(profiles := confined()) < 1 + bool(drop_in) and time.monotonic() < until:
                    time.sleep(0.5)
                seen[f"{name} confined"] = profiles
    seen["denied"] = denied()
    # Which says, where a reply is not what it should be, why.
    seen["log"] = list(dict.fromkeys(told("journalctl -t identd --no-pager -o cat").splitlines()))
    # That it is enforced: what the profile does not have is denied.
    told("aa-exec -p identserver -- /usr/bin/python3 -c 'open(\"/etc/shadow\")'")
    seen["denied afterwards"] = denied()
    print("PROOF BEGINS", json.dumps(seen), "PROOF ENDS", sep="\n", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        termios.tcdrain(sys.stdout.fileno())
        time.sleep(1)
        subprocess.run(["systemctl", "poweroff", "--force", "--force"], check=False)
