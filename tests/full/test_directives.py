"""Which settings of systemd's spoil answers, and does --check see each that does?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from helpers.containers import ASK
from helpers.installed import PYTHON
from helpers.releases import USERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.containers import Container

pytest_plugins = ["helpers.releases"]


class Case(NamedTuple):
    """Settings, and whom they take a true answer from, where systemd obeys them.

    Nobody (""); everybody; some; or others than those who are asked about: users that another service knows.
    """

    settings: str
    spoiled: str = ""
    #: Whether they are the socket's.
    of_socket: bool = False


#: What somebody may come to add to the units, or to take from them.
CASES = {
    "as shipped": Case(""),
    "homes read-only": Case("ProtectHome=read-only"),
    "kernel tunables": Case("ProtectKernelTunables=yes"),
    "a static user": Case("DynamicUser=no\nUser=nobody"),
    "network drop-in": Case("RestrictAddressFamilies=AF_INET AF_INET6\nIPAddressDeny="),
    "addresses": Case("IPAddressDeny=any"),
    "the socket's addresses": Case("IPAddressDeny=any", "everybody", of_socket=True),
    "this host's askers": Case("IPAddressDeny=any\nIPAddressAllow=localhost", of_socket=True),
    "PrivateUsers": Case("PrivateUsers=yes", "everybody"),
    "PrivateUsers=identity": Case("PrivateUsers=identity", "some"),
    # systemd up to 257 ignores it.
    "PrivateUsers=full": Case("PrivateUsers=full", "some"),
    "PrivateNetwork": Case("PrivateNetwork=yes", "everybody"),
    "no AF_NETLINK": Case("RestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX", "everybody"),
    "no AF_UNIX": Case("RestrictAddressFamilies=\nRestrictAddressFamilies=AF_NETLINK", "others"),
    "PrivatePIDs": Case("PrivatePIDs=yes", "some"),
    "RootDirectory": Case("RootDirectory=/", "some"),
    "homes hidden": Case("ProtectHome=yes\nBindReadOnlyPaths=", "some"),
    "homes empty": Case("BindReadOnlyPaths=", "some"),
    "an empty root": Case(
        "TemporaryFileSystem=/:ro\nBindReadOnlyPaths=/usr /etc /home /run -/lib -/lib64 -/bin -/sbin", "some"
    ),
    "inaccessible homes": Case("InaccessiblePaths=/srv", "some"),
}


@pytest.fixture(scope="module")
def hidden(debian: Container) -> Iterator[Container]:
    """Everybody may hide, and those below /home and elsewhere do."""
    debian.run("cat > /etc/oidentd.conf", given="default { default { allow hide } }")
    for user in ("t-anna", "t-srv"):
        debian.run(f"cat > ~{user}/.oidentd.conf; chown {user} ~{user}/.oidentd.conf", given="global { hide }")
    yield debian
    debian.run("rm -f /etc/oidentd.conf")


RIGHT = {
    "t-anna": ":ERROR:HIDDEN-USER", "t-srv": ":ERROR:HIDDEN-USER", "t-lib": ":USERID:UNIX:t-lib",
    "t-ldap": ":USERID:UNIX:t-ldap",
}  # fmt: skip


@pytest.mark.parametrize("form", ["identd", "identd-wait"])
@pytest.mark.parametrize("case", CASES)
def test_the_answer_and_check_agree(hidden: Container, case: str, form: str) -> None:
    """What is shipped answers right; what spoils an answer makes it unknown, and --check says so."""
    settings, spoiled, of_socket = CASES[case]
    service = "identd@" if form == "identd" else form
    unit, section = (f"{form}.socket", "Socket") if of_socket else (f"{service}.service", "Service")
    folder = f"/etc/systemd/system/{unit}.d"
    hidden.run(f"mkdir -p {folder}; cat > {folder}/zz.conf", given=f"[{section}]\n{settings}\n")
    hidden.run(f"systemctl daemon-reload; systemctl start {form}.socket")
    try:
        replies = {user: asked(hidden, user) for user in RIGHT}
        status = hidden.run(f"identd --check --unit {service}.service >/run/said; echo $?")
        said = hidden.run("cat /run/said")
    finally:
        hidden.run(f"systemctl stop {form}.socket {service.rstrip('@')}.service; rm -r {folder}", check=False)
        hidden.run("systemctl daemon-reload; systemctl reset-failed", check=False)
    wrong = {user for user, reply in replies.items() if reply != RIGHT[user]}
    print(case, form, sorted(wrong), status, said)
    if not spoiled:
        assert (wrong, status) == (set(), "0"), said
    elif spoiled == "everybody":
        assert wrong == set(RIGHT), replies
    # An older systemd ignores what it does not know: then there is nothing to be said.
    assert status == "1" if spoiled == "others" else (status == "0") == (not wrong), said
    # A user who hides is never named, and nobody is given another's name.
    assert all(reply in (RIGHT[user], UNKNOWN, "", ":ERROR:NO-USER") for user, reply in replies.items()), replies


UNKNOWN = ":ERROR:UNKNOWN-ERROR"


def asked(container: Container, user: str) -> str:
    """Return what identd says about a user's connection; ``""``: nobody answers in time."""
    command = f"timeout 15 setpriv --reuid={user} --clear-groups {PYTHON} - 127.0.0.1 2>/dev/null"
    return container.run(command, check=False, given=ASK)


def test_users_are_those_of_the_package() -> None:
    """Each user asked about exists in the booted systems."""
    assert set(RIGHT) < set(USERS)
