"""Which version of the server is this, and what holds unless the command line changes it?

The server is all that stands around `lookup`: arguments, descriptors, signals, the log.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Sequence

__version__ = "2.0.0"

#: What the administrator allows, where --config names no other file. oidentd's, because identd takes its place.
CONFIG = "/etc/oidentd.conf"

#: What is replied about machines behind this one, where --masquerade-file names no other file; oidentd's, too.
MASQUERADE = "/etc/oidentd_masq.conf"

#: Seconds for one whole query (RFC 1413 section 3 advises 60 to 180).
QUERY_SECONDS = 60.0


class UsageError(Exception):
    """The command line can't be obeyed; the text says why."""


class Options:
    """What the command line may change, and what holds without one."""

    timeout = QUERY_SECONDS
    error = False
    other: str | None = None
    charset: str | None = None
    reply: str | None = None
    reply_all: str | None = None
    quiet = False
    debug = False
    nosyslog = False
    multi_query = False
    server_address = ""
    client_address = ""
    check = False
    foreground = False
    stdio = False
    address: Sequence[str] = ()
    port = 113  # IDENT_PORT, unimported: `closed` has to be found where nobody may read `lookup`
    user: str | None = None
    group: str | None = None
    limit: int | None = None
    idle: float | None = None
    config: str | None = None
    explain: str | None = None
    unit: str | None = None
    json = False
    oidentd = False
    process = False
    format: str | None = None
    numeric = False
    key: str | None = None
    new_key = False
    reveal: str | None = None
    asker = ""
    date = ""
    install_service: str | None = None
    warm = False
    write = False
    masquerade = False
    subuid = False
    container_reply: str | None = None
    forward: int | None = None
    masquerade_first = False
    forward_last: int | None = None
    masquerade_file: str | None = None
    forward_proxy: str | None = None
    proxy: Sequence[str] = ()

    @property
    def system_file(self) -> str:
        """The path of the system file."""
        return CONFIG if self.config is None else self.config

    @property
    def requires_system_file(self) -> bool:
        """Whether the system file must be there: somebody named it."""
        return self.config is not None

    @property
    def form(self) -> str:
        """What is sent in place of the login name, as `lookup.users.formats` has it; ``""``: the login name."""
        return self.format or ("%U" if self.numeric else "")

    @property
    def looks_behind(self) -> bool:
        """Whether owners are looked for behind NAT, in containers, or in ranges of uids."""
        return self.masquerade or self.subuid

    @property
    def listens(self) -> bool:
        """Whether there is an option that only means something to who opens the listening socket."""
        return not vars(self).keys().isdisjoint(("address", "port", "user", "group", "limit"))
