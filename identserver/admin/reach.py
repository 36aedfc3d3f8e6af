"""What commonly keeps the ident port from being served, or reached?

Who claims the port is read from files, as systemd, xinetd and inetd read them. A packet filter's rules are not judged.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
from typing import NamedTuple

from lookup.connection import IDENT_PORT

from ..capabilities import NEEDED, mask
from .listeners import asked, properties
from .printing import WARNING, row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .listeners import Listener

#: Where systemd looks for units (systemd.unit(5)), the first that has one counts; and where enabled ones are linked.
UNITS = (
    "/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
    "/lib/systemd/system",
)  # fmt: skip

XINETD, INETD = "/etc/xinetd.conf", "/etc/inetd.conf"

#: Services of other ident servers, which open the port themselves.
_OTHERS = ("oidentd", "ident2", "nullidentd", "pidentd", "slidentd", "fakeidentd", "midentd", "ident", "auth")

#: What systemd takes for a yes (systemd.syntax(7)).
_YES = ("yes", "true", "on", "1")

#: Names of the port in services(5).
_NAMES = {IDENT_PORT: ("auth", "ident", "tap")}

#: What IPAddressDeny=any stands for.
_EVERYBODY = {"0.0.0.0/0", "::/0"}

#: Where superservers are, and what they are called.
PROGRAMS = "/usr/sbin:/sbin:/usr/bin"
SUPERSERVERS = {"xinetd": ("xinetd",), "inetd": ("inetd", "openbsd-inetd", "inetutils-inetd", "rlinetd")}


class Claim(NamedTuple):
    """Something that is set up to serve the port: what, and in which file; how it starts what serves there."""

    what: str
    path: str
    #: ``""``: systemd itself.
    superserver: str = ""
    #: ``""``: root, or nobody whom passwd has to know.
    user: str = ""
    #: Words as a shell has them, the program's path first.
    command: str = ""
    #: The capabilities that it starts with and --masquerade needs, as a set of bits.
    granted: int = 0
    #: What the superserver does not take, each as the rest of a sentence.
    mistakes: tuple[str, ...] = ()


def check_claims(port: int, is_served: bool) -> list[dict[str, str]]:
    """Print who is set up to serve a port, where that is nobody's or more than one's. Return them, for programs.

    :param is_served: whether there is a listener.
    """
    found = claims(port)
    said = ", ".join(f"{claim.what} ({claim.path})" for claim in found)
    if len(found) > 1:
        row("port", f"port {port} goes to one of these only, disable the others: {said}", WARNING)
    if not is_served:
        advice = f"start what is enabled, {said}" if found else "README tells how to serve it"
        row("port", f"nobody listens on port {port} yet: {advice}", WARNING)
    return [{"what": claim.what, "path": claim.path} for claim in found]


def check_addresses(listening: list[Listener], is_reached: bool) -> None:
    """Print which socket units keep askers out by their addresses (systemd.resource-control(5), IPAddressDeny=).

    :param is_reached: whether somebody was reached at one of our own addresses. Then not everybody is kept out: systemd
        ignores these settings, without a word, where BPF is forbidden, as in some containers.
    """
    units = {unit for listener in listening for unit in listener.unit.split() if unit.endswith(".socket")}
    for unit in sorted(units):
        denied, allowed = _addresses(unit)
        if _EVERYBODY & set(denied) and not allowed and not is_reached:
            row("obstacle", f"{unit} keeps every asker out: IPAddressDeny={' '.join(denied)}")
            row("", "take it out, or say in the same unit who may ask: IPAddressAllow=")
        elif denied:
            lists = f"IPAddressDeny={' '.join(denied)}, IPAddressAllow={' '.join(allowed)}"
            row("hint", f"{unit} keeps askers out by their addresses ({lists}): look there, if others get no reply")


def _addresses(unit: str) -> tuple[list[str], list[str]]:
    """Return whom a unit and the slices around it keep out, and whom they let in all the same."""
    denied: list[str] = []
    allowed: list[str] = []
    while unit:
        shown = properties(unit, "IPAddressDeny", "IPAddressAllow", "Slice")
        denied += shown.get("IPAddressDeny", "").split()
        allowed += shown.get("IPAddressAllow", "").split()
        unit = shown.get("Slice", "")
    return denied, allowed


def claims(port: int) -> list[Claim]:
    """Return what is set up to serve a port."""
    return [*_units(port), *_xinetd(port), *_inetd(port)]


def _read(path: str) -> str:
    """Return what a file says; ``""``: it is not there, or closed to us."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def _units(port: int) -> Iterator[Claim]:
    """Yield the enabled socket units that listen on the port, and other ident servers' services."""
    enabled = {
        os.path.basename(path): path
        for folder in UNITS[:2]
        for path in sorted(glob.glob(f"{folder}/*.wants/*.socket") + glob.glob(f"{folder}/*.wants/*.service"))
    }
    for name in enabled:
        path, text = _unit(name)
        stem, _, kind = name.rpartition(".")
        if kind == "service":
            # A pair of a socket and its service is one.
            if port == IDENT_PORT and stem in _OTHERS and path and f"{stem}.socket" not in enabled:
                yield Claim(name, path)
            continue
        streams: list[str] = []
        for value in re.findall(r"^[ \t]*ListenStream[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
            # An empty one takes back those before it.
            streams = [*streams, value] if value else []
        if any(stream.rpartition(":")[2] == str(port) for stream in streams):
            yield Claim(name, path, "", *_started_by(name, text))


def _started_by(name: str, text: str) -> tuple[str, str, int, tuple[str, ...]]:
    """Return the user, the command, the capabilities and the mistakes of the service that a socket unit starts."""
    stem = name.rpartition(".")[0]
    service = _last("Service", text) or (f"{stem}@.service" if _last("Accept", text) in _YES else f"{stem}.service")
    # An instance has its template's file.
    path, settings = _unit(re.sub(r"@.*\.", "@.", service))
    if not path:
        return "", "", 0, (f"starts {service}, which is not installed",)
    commands: list[str] = []
    for value in re.findall(r"^[ \t]*ExecStart[ \t]*=[ \t]*(.*?)[ \t]*$", re.sub(r"\\\n", " ", settings), re.MULTILINE):
        # An empty one takes back those before it.
        commands = [*commands, value] if value else []
    if len(commands) > 1 and _last("Type", settings) != "oneshot":
        return "", "", 0, (f"starts {service}, which has two ExecStart=: an empty one takes back what stood before",)
    dynamic = _last("DynamicUser", settings) in _YES
    user = "" if dynamic else _last("User", settings)
    bounding = _set_of("CapabilityBoundingSet", settings, mask())
    is_root = _last("User", settings) in ("root", "0") or not (dynamic or user)
    granted = bounding if is_root else bounding & _set_of("AmbientCapabilities", settings, 0)
    return user, commands[0] if commands else "", granted, ()


def _set_of(name: str, settings: str, otherwise: int) -> int:
    """Return those of the capabilities that --masquerade needs which a setting of a unit has in the end."""
    found = None
    for value in re.findall(rf"^[ \t]*{name}[ \t]*=[ \t]*(.*?)[ \t]*$", settings, re.MULTILINE):
        if value.startswith("~"):
            found = (mask() if found is None else found) & ~_named(value)
        else:
            # An empty one takes back those before it.
            found = (found or 0) | _named(value) if value else 0
    return otherwise if found is None else found


def _named(text: str) -> int:
    """Return those of the capabilities that --masquerade needs which a text names, with or without ``CAP_``."""
    words = re.findall(r"\w+", text.upper())
    return sum(mask(name) for name in NEEDED if name in words or name[4:] in words)


def _by_superserver(user: str, command: str) -> int:
    """Return what a superserver's user has of these; or, where setpriv(1) starts it for root, what that leaves."""
    if user not in ("root", "0"):
        return 0
    ambient = re.search(r"\bsetpriv\s.*--ambient-caps[ =](\S+)", command)
    return _named(ambient[1]) if ambient else mask()


def _last(name: str, text: str) -> str:
    """Return the value that a setting of a unit has in the end; ``""``: none."""
    *_, last = "", *re.findall(rf"^[ \t]*{name}[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    return str(last)


def _unit(name: str) -> tuple[str, str]:
    """Return where a unit's file is, and what it says with its drop-ins; ``""``: there is none."""
    path = next((path for path in (f"{folder}/{name}" for folder in UNITS) if os.path.exists(path)), "")
    drop_ins: dict[str, str] = {}
    for folder in reversed(UNITS):
        drop_ins |= {os.path.basename(one): one for one in glob.glob(f"{folder}/{name}.d/*.conf")}
    return path, "\n".join([_read(path), *(_read(drop_ins[one]) for one in sorted(drop_ins))])


def _is_here(superserver: str) -> bool:
    return any(shutil.which(name, path=PROGRAMS) for name in SUPERSERVERS[superserver])


def _xinetd(port: int) -> Iterator[Claim]:
    """Yield xinetd's services on the port that are not disabled (xinetd.conf(5))."""
    if not _is_here("xinetd"):
        return
    text = _read(XINETD)
    files = [XINETD]
    for folder in re.findall(r"^\s*includedir\s+(\S+)", text, re.MULTILINE):
        # It passes over names with a dot, and those that end in a tilde.
        files += sorted(path for path in glob.glob(f"{folder}/*") if not re.search(r"[.~]", os.path.basename(path)))
    for path in files:
        text = re.sub(r"^\s*#.*$", "", _read(path), flags=re.MULTILINE)
        for name, body in re.findall(r"^\s*service\s+(\S+)\s*\{(.*?)^\s*\}", text, re.MULTILINE | re.DOTALL):
            settings = dict(re.findall(r"^[ \t]*(\w+)[ \t]*[-+]?=[ \t]*(.*?)[ \t]*$", body, re.MULTILINE))
            wanted = settings.get("port") == str(port) or ("port" not in settings and name in _NAMES.get(port, ()))
            if wanted and settings.get("disable", "no").lower() != "yes":
                command = settings.get("server", "")
                if arguments := settings.get("server_args"):
                    # With NAMEINARGS they begin with the program's own name.
                    own_name = "NAMEINARGS" in settings.get("flags", "").split()
                    command += " " + (arguments.partition(" ")[2] if own_name else arguments)
                what = f"xinetd's service {settings.get('id', name)}"
                user = settings.get("user", "")
                yield Claim(what, path, "xinetd", user, command, _by_superserver(user, command))


def _inetd(port: int) -> Iterator[Claim]:
    """Yield inetd's lines for the port."""
    if not _is_here("inetd"):
        return
    for number, line in enumerate(_read(INETD).splitlines(), 1):
        # line = [address ":"] service kind protocol ...
        fields = line.split()
        if len(fields) > 5 and not line.startswith("#") and fields[2].startswith("tcp"):
            service = fields[0].rpartition(":")[2]
            if service in (str(port), *_NAMES.get(port, ())):
                # user = name ["." group] or name ":" group
                user = re.split("[.:]", fields[4])[0]
                command = " ".join([fields[5], *fields[7:]])
                yield Claim(f"inetd's line {number}", INETD, "inetd", user, command, _by_superserver(user, command))


def check_packet_filter(port: int) -> list[str]:
    """Print where an input chain drops by default, which is no more than a hint. Return these chains, for programs."""
    if os.geteuid() != 0:
        return []
    found = [*_nftables(), *_iptables()]
    for chain in found:
        row("hint", f"{chain} drops by default: look for port {port} there, if others get no reply")
    return found


def _nftables() -> Iterator[str]:
    try:
        listed = json.loads(asked("nft", "-j", "list", "chains") or "{}").get("nftables", [])
    except ValueError:
        return
    for one in listed:
        chain = one.get("chain", {})
        if chain.get("hook") == "input" and chain.get("policy") == "drop":
            yield f"the input chain {chain.get('family')} {chain.get('table')} {chain.get('name')} (nft)"


def _iptables() -> Iterator[str]:
    """Yield what the older tables have. Those that `nft` shows are left out, and no module is loaded by asking."""
    for program, names in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
        if "filter" in _read(f"/proc/net/{names}").split():
            rules = asked(f"{program}-legacy", "-S", "INPUT") or asked(program, "-S", "INPUT")
            if re.search(r"^-P INPUT DROP$", rules, re.MULTILINE):
                yield f"the input chain INPUT ({program})"
