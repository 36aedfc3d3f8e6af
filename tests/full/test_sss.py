"""Is a user named who is known to sssd alone, as those of a company's directory are, by the locked-down units?

sssd's own provider "proxy" asks a file of other users (libnss-extrausers), so that no directory is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.releases import install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from helpers.containers import Container

pytest_plugins = ["helpers.releases"]

#: By socket unit: the service.
FORMS = {"identd": "identd@.service", "identd-wait": "identd-wait.service"}

_CONFIGURATION = """\
[sssd]
services = nss
domains = company
[domain/company]
id_provider = proxy
proxy_lib_name = extrausers
auth_provider = none
access_provider = permit
chpass_provider = none
"""

#: Known to sssd alone: one at home below /srv who hides, and one who does not; both with numbers as directories have.
_PASSWD = """\
s-anna:x:1234571:1234571::/srv/s-anna:/bin/sh
s-hides:x:1234572:1234572::/srv/s-hides:/bin/sh
"""


@pytest.fixture(scope="module")
def company(clean: Container) -> Iterator[Container]:
    """A booted Debian whose name service asks sssd, too, with the package installed."""
    install(clean, "identd")
    clean.run("DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends /packages/sss/*.deb")
    clean.run("cat > /etc/sssd/sssd.conf; chmod 600 /etc/sssd/sssd.conf", given=_CONFIGURATION)
    clean.run("mkdir -p /var/lib/extrausers; cat > /var/lib/extrausers/passwd", given=_PASSWD)
    clean.run("touch /var/lib/extrausers/group /var/lib/extrausers/shadow")
    clean.run("sed -i 's/^passwd:.*/passwd: files sss systemd/' /etc/nsswitch.conf")
    clean.run("systemctl restart sssd || { cat /var/log/sssd/*; exit 1; }")
    clean.run("for n in 1 2 3 4 5 6 7 8 9; do getent passwd s-anna && break; sleep 1; done")
    assert clean.run("getent -s files passwd s-anna", check=False) == ""
    for user in ("s-anna", "s-hides"):
        clean.run(f"mkdir -p /srv/{user}; chown {user} /srv/{user}; chmod 755 /srv/{user}")
    clean.run("cat > /etc/oidentd.conf", given="default { default { allow hide } }")
    clean.run("cat > ~s-hides/.oidentd.conf; chown s-hides ~s-hides/.oidentd.conf", given="global { hide }")
    yield clean


@pytest.fixture(params=FORMS)
def unit(request: pytest.FixtureRequest, company: Container) -> Iterator[str]:
    """The name of a service whose socket listens, once for each form."""
    for form in FORMS:
        company.run(f"systemctl stop {form}.socket {form}.service", check=False)
    company.run(f"systemctl reset-failed; systemctl start {request.param}.socket")
    yield FORMS[request.param]


def test_a_user_of_a_directory(company: Container, unit: str) -> None:
    """Both forms name who is known to sssd alone, obey that user's file, and --check agrees."""
    assert company.ask("s-anna") == ":USERID:UNIX:s-anna"
    assert company.ask("s-hides") == ":ERROR:HIDDEN-USER"
    assert company.run(f"identd --check --unit {unit} >/dev/null; echo $?") == "0"


def test_sssd_is_down(company: Container, unit: str) -> None:
    """Then whose a uid is can't be found out: neither another name nor a number."""
    company.run("systemctl stop sssd; rm -f /var/lib/sss/mc/*")
    try:
        assert company.ask("1234571") == ":ERROR:UNKNOWN-ERROR"
    finally:
        company.run("systemctl start sssd")
