"""Which of the installed systemd units would not see a home?"""

from __future__ import annotations

import functools
import os

from .listeners import asked

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

#: There where systemd runs (sd_booted(3)).
_SYSTEMD = "/run/systemd/system"

#: The services that are shipped; of a template, an instance.
_UNITS = ("identd@check.service", "identd-wait.service")

_PROPERTIES = (
    "Id", "LoadState", "FragmentPath", "ProtectHome", "PrivateTmp", "TemporaryFileSystem", "InaccessiblePaths",
    "BindPaths", "BindReadOnlyPaths", "RestrictAddressFamilies", "IPAddressDeny",
)  # fmt: skip

#: What ProtectHome= and PrivateTmp= are about (systemd.exec(5)).
_HOMES, _TEMPORARY = ("/home", "/root", "/run/user"), ("/tmp", "/var/tmp")


def hiding(home: str) -> list[tuple[str, str]]:
    """Return the installed units that hide a home, each with the setting that does it.

    Nothing, where there is no systemd, or where it does not tell. What hides this from ourselves is another matter
    (`lookup.config.sandbox`).
    """
    found = [(unit["Id"].replace("@check.", "@."), hidden_by(unit, home)) for unit in _installed()]
    return [(unit, setting) for unit, setting in found if setting]


def without_network() -> list[str]:
    """Return the installed services whose socket is started or enabled, and that may not open a connection.

    Nothing, where there is no systemd, or where it does not tell.
    """
    found = []
    for unit in _installed():
        families = unit.get("RestrictAddressFamilies", "")
        # With ~ the list is of those that are forbidden.
        forbids = families != "" and ("AF_INET" in families.lstrip("~").split()) == families.startswith("~")
        if forbids or unit.get("IPAddressDeny"):
            name = unit["Id"].replace("@check.", "@.")
            socket = name.replace("@.", ".").replace(".service", ".socket")
            state = asked("systemctl", "show", "--no-pager", "-p", "ActiveState,UnitFileState", "--", socket)
            if "=active" in state or "=enabled" in state:
                found.append(name)
    return found


# What is remembered counts while this process explains, from when it was asked; the administrator may change units.
@functools.lru_cache(maxsize=1)
def _installed() -> list[dict[str, str]]:
    """Return the properties of the units that are installed."""
    if not os.path.isdir(_SYSTEMD):
        return []
    said = asked("systemctl", "show", "--no-pager", "-p", ",".join(_PROPERTIES), "--", *_UNITS)
    units = [dict(line.split("=", 1) for line in text.splitlines() if "=" in line) for text in said.split("\n\n")]
    return [unit for unit in units if unit.get("LoadState") == "loaded" and unit.get("FragmentPath")]


def hidden_by(unit: dict[str, str], home: str) -> str:
    """Return the setting of a unit that hides a home, or ``""``.

    :param unit: properties, as ``systemctl show`` has them.
    """
    covers = {place: setting for place, setting in _covers(unit) if _is_below(home, place)}
    if not covers:
        return ""
    deepest = max(covers, key=len)
    for name in ("BindPaths", "BindReadOnlyPaths"):
        for bind in unit.get(name, "").split():
            # source[:destination[:options]]
            source, _, rest = bind.lstrip("-+").partition(":")
            place = rest.partition(":")[0] or source
            if _is_below(home, place) and len(place) >= len(deepest):
                return ""
    return covers[deepest]


def _covers(unit: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the folders that a unit hides, each with the setting that does it."""
    for name in ("TemporaryFileSystem", "InaccessiblePaths"):
        for value in unit.get(name, "").split():
            place = value.lstrip("-+").partition(":")[0]
            yield place, f"{name}={place}"
    if unit.get("ProtectHome") in ("yes", "tmpfs"):
        yield from ((place, f"ProtectHome={unit['ProtectHome']}") for place in _HOMES)
    if unit.get("PrivateTmp") in ("yes", "disconnected"):
        yield from ((place, f"PrivateTmp={unit['PrivateTmp']}") for place in _TEMPORARY)


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
