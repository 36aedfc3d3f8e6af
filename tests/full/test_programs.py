"""Do programs that ask ident servers get what they need from the package: PostgreSQL, nmap, an IRC server?"""

from __future__ import annotations

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
