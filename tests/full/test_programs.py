"""Do programs that ask ident servers get what they need from the package: PostgreSQL, nmap, IRC and mail servers?"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest
from helpers.hosts import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.containers import Container

pytest_plugins = ["helpers.releases"]


@pytest.fixture(params=["identd", "identd-wait"])
def served(request: pytest.FixtureRequest, debian: Container) -> Iterator[Container]:
    """The booted systems, with each of the two forms serving the port."""
    debian.run(f"systemctl start {request.param}.socket")
    yield debian
    debian.run("systemctl stop identd-wait.socket identd-wait.service; systemctl start identd.socket")


@pytest.fixture(scope="module")
def postgresql(debian: Container) -> Container:
    """A database whose user alice may only be t-anna, as an ident server says."""
    settings = debian.run("ls -d /etc/postgresql/*/main")
    rules = "local all postgres peer\nhost all all 127.0.0.1/32 ident map=m\n"
    debian.run(f"cat > {settings}/pg_hba.conf", given=rules)
    debian.run(f"cat > {settings}/pg_ident.conf", given="m t-anna alice\n")
    version = settings.split("/")[3]
    debian.run(f"pg_ctlcluster {version} main start")
    debian.run("setpriv --reuid=postgres --regid=postgres --init-groups createuser alice")
    return debian


@pytest.mark.usefixtures("postgresql")
def test_postgresql(served: Container) -> None:
    """t-anna comes in as alice, by the map; another user does not, and not as themselves either."""
    psql = "timeout 60 psql -h 127.0.0.1 -d postgres -tAc 'select current_user' -U"
    assert served.run(f"setpriv --reuid=t-anna --clear-groups {psql} alice") == "alice"
    for user, role in (("t-srv", "alice"), ("t-anna", "t-anna"), ("root", "alice")):
        said = served.run(f"setpriv --reuid={user} --clear-groups {psql} {role} 2>&1", check=False)
        assert "Ident authentication failed" in said


@pytest.mark.usefixtures("postgresql")
def test_nmap(served: Container) -> None:
    """nmap's auth-owners says whose server listens."""
    said = served.run("timeout 120 nmap -n -sT -p 113,5432 --script auth-owners 127.0.0.1")
    assert "_auth-owners: postgres" in said


NGIRCD = """
[Global]
Name = irc.test.example
Info = test
AdminEMail = root@irc.test.example
Listen = 127.0.0.1
Ports = 6667
[Options]
DNS = yes
Ident = yes
PAM = no
[Limits]
MaxConnectionsIP = 0
"""

JOIN = """
import socket
with socket.create_connection(("127.0.0.1", 6667), 60) as client:
    client.sendall(b"NICK nick\\r\\nUSER claimed 0 * :name\\r\\n")
    lines = client.makefile("rb")
    for line in lines:
        if line.startswith(b"PING"):
            client.sendall(line.replace(b"PING", b"PONG"))
        if line.split()[1] == b"001":
            client.sendall(b"JOIN #test\\r\\n")
        if line.split()[1] == b"JOIN":
            print(line.split()[0].decode())
            break
"""


@pytest.fixture(scope="module")
def ngircd(debian: Container) -> Container:
    """An IRC server that asks who its clients are."""
    debian.run("systemctl stop ngircd", check=False)
    # ngircd takes no name with a hyphen from an ident server.
    debian.run("useradd ircanna; useradd --uid 1234568 ircldap")
    debian.run("cat > /run/ngircd.conf", given=NGIRCD)
    debian.run("ngircd --config /run/ngircd.conf")
    until(lambda: debian.run("ss -Hltn sport = :6667") != "")
    return debian


@pytest.mark.usefixtures("ngircd")
@pytest.mark.parametrize("user", ["ircanna", "ircldap"])
def test_irc(served: Container, user: str) -> None:
    """A user is known by their login name, not by the name that their client claims."""
    command = f"timeout 120 setpriv --reuid={user} --clear-groups /usr/bin/python3 -"
    assert served.run(command, given=JOIN).startswith(f":nick!{user}@")


#: A bouncer of eight users, who are all one user of the host; its module writes ~/.oidentd.conf before it connects.
BOUNCER = """
Version = 1.8.2
ConnectDelay = 1
ServerThrottle = 1
LoadModule = identfile
<Listener l>
Port = 7000
IPv4 = true
IPv6 = false
SSL = false
Host = 127.0.0.1
</Listener>
""" + "".join(
    f"""
<User user{number}>
Pass = plain#secret
Admin = false
Nick = znick{number}
Ident = zident{number}
<Network n>
Server = 127.0.0.1 6667
</Network>
</User>
"""
    for number in range(8)
)

WHO = """
import os, socket, time
with socket.create_connection(("127.0.0.1", 6667), 60) as client:
    # A name of its own: the server may take its time to see that the one before has gone.
    client.sendall(b"NICK w%d\\r\\nUSER claimed 0 * :name\\r\\n" % os.getpid())
    found = {}
    for line in client.makefile("rb"):
        if line.startswith(b"PING"):
            client.sendall(line.replace(b"PING", b"PONG"))
        words = line.decode().split()
        if words[1] in ("001", "315"):
            if len(found) == 8:
                break
            time.sleep(1 if found else 0)
            client.sendall(b"WHO znick*\\r\\n")
        if words[1] == "352":
            found[words[7]] = words[4]
print(found)
"""


@pytest.mark.usefixtures("ngircd")
def test_a_bouncer(served: Container) -> None:
    """Eight users of ZNC, with its identfile, are each known by the name that they chose."""
    # Where a host has loopback addresses only, its resolver finds none for ZNC.
    served.run("ip addr replace 192.0.2.1/32 dev lo")
    served.run("id zncd >/dev/null 2>&1 || useradd --create-home zncd; chmod 755 ~zncd")
    served.run("cat > /etc/oidentd.conf", given="user zncd { default { allow spoof } }")
    served.run("systemctl try-restart identd-wait.service")
    served.run("rm -rf ~zncd/znc; mkdir -p ~zncd/znc/configs")
    served.run("cat > ~zncd/znc/configs/znc.conf; chown -R zncd ~zncd/znc", given=BOUNCER)
    start = "setpriv --reuid=zncd --regid=zncd --clear-groups env HOME=/home/zncd znc --datadir=/home/zncd/znc"
    try:
        served.run(start)
        found = served.run("timeout 110 /usr/bin/python3 -", given=WHO)
    finally:
        served.run("pkill -u zncd; rm -f /etc/oidentd.conf", check=False)
    assert ast.literal_eval(found) == {f"znick{number}": f"zident{number}" for number in range(8)}


EXIM = """
primary_hostname = mail.test.example
daemon_smtp_ports = 2525
local_interfaces = 127.0.0.1
keep_environment =
spool_directory = /run/exim
log_file_path = /run/exim/%slog
host_lookup =
rfc1413_hosts = *
rfc1413_query_timeout = 30s
smtp_banner = client is $sender_ident
"""

GREETED = """
import socket
with socket.create_connection(("127.0.0.1", 2525), 60) as client:
    print(client.makefile().readline())
"""


def test_a_mail_server(served: Container) -> None:
    """Exim knows who on the host has connected to it."""
    served.run("install -d -o Debian-exim -g Debian-exim /run/exim; cat > /run/exim.conf", given=EXIM)
    if not served.run("ss -Hltn sport = :2525"):
        served.run("exim4 -C /run/exim.conf -bd")
        until(lambda: served.run("ss -Hltn sport = :2525") != "")
    for user in ("t-anna", "t-ldap"):
        command = f"timeout 100 setpriv --reuid={user} --clear-groups /usr/bin/python3 -"
        assert served.run(command, given=GREETED) == f"220 client is {user}"
