"""How is the system file read from the disk, and who has the names in it by now?"""

from __future__ import annotations

from ..connection import ConfigError

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from .blocks import System
    from .words import Notice


def load(path: str, required: bool, notices: list[Notice] | None = None) -> System | None:
    """Return what the system file allows, or None where there is none: then nobody may do anything.

    :param required: whether the file must be there.
    :param notices: takes what its author surely did not mean, and which users and hosts there are not, even if there is
        an error too. Without it, host names are looked up when they are needed.
    :raises ConfigError: it can't be read, or does not parse. May block as the name service does.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        # ENOENT: it is not there.
        if not required:
            return None
        raise ConfigError(path, 0, 0, "no such file") from None
    except OSError as error:
        # EACCES, EISDIR, EIO ...: who may do what is not known.
        raise ConfigError(path, 0, 0, error.strerror or str(error)) from None
    if _says_nothing(data):
        from .blocks import System

        return System(path)
    from .grammar import parse_system  # 2 ms, and only where there is something to parse

    return parse_system(data, path, notices=notices)


def _says_nothing(data: bytes) -> bool:
    """Return whether a file has nothing but blank lines, and lines that are comments (`words.TOKEN`).

    ``True`` is always right: what else says nothing is left to the grammar.
    """
    return all(line.strip(b" \t\r")[:1] in (b"", b"#") for line in data.split(b"\n"))


def look_up_again(system: System) -> System:
    """Return the same rules, for the users who have the names in them by now. May block as the name service does."""
    from ..users import database

    return system.assigned_again(database.uids([section.name for section in system.sections]))
