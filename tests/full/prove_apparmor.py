"""Run as root of a machine that enforces AppArmor's profiles: ask the packaged identd about two users, in both forms.

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

FORMS = {"single": "identd.socket", "warm": "identd-wait.socket"}

#: Seconds for a service to begin, in an emulator.
PATIENCE = 120


def told(command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def connected(user: str) -> tuple[list[socket.socket], str]:
    """Return a user's connection on loopback, and the query about it."""
    listener = socket.create_server(("127.0.0.1", 0))
    os.seteuid(pwd.getpwnam(user).pw_uid)
    client = socket.socket()
    client.connect(listener.getsockname())
    os.seteuid(0)
    return [listener, client, listener.accept()[0]], f"{client.getsockname()[1]},{listener.getsockname()[1]}"


def asked(query: str) -> str:
    """Return the reply of port 113 without the ports."""
    with socket.create_connection(("127.0.0.1", 113), PATIENCE) as asker:
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


def main() -> None:
    """Do it."""
    for user in ("alice", "bob"):
        subprocess.run(["useradd", "-m", "-s", "/bin/sh", user], check=True)
    Path("/etc/oidentd.conf").write_text("default { default { allow hide allow spoof } }\n")
    home = Path("/home/bob")
    home.chmod(0o755)
    (home / ".oidentd.conf").write_text('global { reply "bobby" }\n')
    os.chown(home / ".oidentd.conf", pwd.getpwnam("bob").pw_uid, -1)
    kept, queries = [], {"nobody": "5,9"}
    for user in ("alice", "bob"):
        ends, queries[user] = connected(user)
        kept += ends
    seen: dict[str, object] = {"profiles": told("cat /sys/kernel/security/apparmor/profiles").splitlines()}
    for form, unit in FORMS.items():
        for other in FORMS.values():
            told(f"systemctl stop {other}")
        # Where a socket was closed a moment ago, systemd may find its port taken.
        until = time.monotonic() + PATIENCE
        while told(f"systemctl reset-failed; systemctl start {unit}; systemctl is-active {unit}").strip() != "active":
            assert time.monotonic() < until, told(f"systemctl status --no-pager {unit}")
            time.sleep(1)
        seen[form] = {user: [asked(query), asked(query)] for user, query in queries.items()}
        with socket.create_connection(("127.0.0.1", 113), PATIENCE):
            until = time.monotonic() + PATIENCE
            while not (profiles := confined()) and time.monotonic() < until:
                time.sleep(0.5)
            seen[f"{form} confined"] = profiles
    seen["denied"] = denied()
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
