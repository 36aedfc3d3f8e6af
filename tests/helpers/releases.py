"""What is a clean Debian 12 or 13 in the tests, with the package installed? (.ci/full makes the trees.)"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.containers import Container, booted
from helpers.installed import readable_folder
from helpers.machine import program, run, skip

if TYPE_CHECKING:
    from collections.abc import Iterator

#: .ci/full makes it: a folder for each release, with the packages that identd needs, and what else is installed there
#: in its /packages.
TREES = os.environ.get("IDENTD_TREES", "")

RELEASES = ("bookworm", "trixie")


@pytest.fixture(scope="module", params=RELEASES)
def clean(request: pytest.FixtureRequest) -> Iterator[Container]:
    """A booted Debian, to which identd has not come yet."""
    if os.geteuid() != 0:
        skip("needs root")
    for name in ("systemd-nspawn", "nsenter"):
        program(name)
    with readable_folder() as folder:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "none", str(folder))
        try:
            with booted(folder, Path(TREES, request.param)) as container:
                yield container
        finally:
            run("umount", str(folder))


@pytest.fixture(scope="module")
def debian(clean: Container) -> Container:
    """A booted Debian with the package installed, and users whose connections are asked about."""
    install(clean, "identd")
    for user, options in USERS.items():
        clean.run(f"useradd --create-home {options} {user} && chmod 755 $(getent passwd {user} | cut -d: -f6)")
    return clean


#: Users of every kind: homes in /home, elsewhere, below what PrivateTmp= hides; a uid as LDAP's are.
USERS = {
    "t-anna": "", "t-srv": "--home-dir /srv/t-srv", "t-lib": "--home-dir /var/lib/t-lib",
    "t-tmp": "--home-dir /tmp/t-tmp", "t-ldap": "--uid 1234567",
}  # fmt: skip


def install(container: Container, name: str) -> None:
    """Have apt install one of the packages that lie in the tree, without a network."""
    environment = "DEBIAN_FRONTEND=noninteractive"
    container.run(f"{environment} apt-get install -y --no-install-recommends /packages/{name}_*.deb")
