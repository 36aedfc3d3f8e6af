"""How does argparse see the command line?

It prints help, and says what is wrong with an option.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .options import (
    ADD,
    MAYBE,
    NONE,
    ONE,
    PRINTS,
    TABLE,
    Option,
    Options,
    Refused,
    UsageError,
    as_getopt_reads,
    complete,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = (
    "Answer ident queries (RFC 1413): who owns a TCP connection of this host? Standard input"
    " decides how: a connected socket (inetd, xinetd, systemd) brings one query, a listening one is served,"
    " anything else is read as one query a line. But with -a, -p, -u, -g or -l, or as root on /dev/null,"
    " and neither -i nor -I, identd listens and goes to the background."
)

#: What each exit status means; README and the manual have the same words.
STATUSES = (
    "done, a client that was silent or went away included",
    "it could not start, or --check found no true answer or an error in a file, or --reveal found nobody",
    "a bad option",
)

_EPILOG = f"Exit status: {'; '.join(f'{number} {meaning}' for number, meaning in enumerate(STATUSES))}."


def read(argv: Sequence[str], options: Options) -> Options:
    """Set what a command line says. :raises UsageError: it can't be obeyed. :raises SystemExit: help was printed.

    :param argv: options in full, each with its argument attached.
    """
    for option, value in as_getopt_reads(argv):
        if option in PRINTS:
            break  # what stands before it is right
        wrong = _wrong_with(option, value)
        if wrong:
            raise UsageError(wrong)
    parser().parse_args(argv, namespace=options)
    complete(options)
    return options


def _wrong_with(option: Option | str, value: str | None) -> str:
    """Return what is wrong with an option: its name, and what it takes; ``""``: nothing."""
    if isinstance(option, str):
        name = option.partition("=")[0] if option.startswith("--") else option[:2]
        fitting = [f"--{other.name}" for other in (*TABLE, *PRINTS) if name[2:] and f"--{other.name}".startswith(name)]
        if fitting:
            return f"{name} can mean {' or '.join(fitting)}: write more of it"
        return f"there is no option {name}: see identd --help"
    name = f"--{option.name} (-{option.letter})" if option.letter else f"--{option.name}"
    if option.takes == NONE:
        return f"{name} takes no argument" if value is not None else ""
    if option.takes == ONE and value is None:
        return f"{name} needs an argument: {option.metavar or option.name.upper()}"
    try:
        if value is not None:
            option.convert(value)
    except Refused as refused:
        return f"{name} takes {refused}"
    return ""


def parser() -> argparse.ArgumentParser:
    """Return argparse's form of the table of options."""
    made = _Parser(
        prog="identd", description=_DESCRIPTION, epilog=_EPILOG, argument_default=argparse.SUPPRESS
    )
    for option in TABLE:
        names = ([f"-{option.letter}"] if option.letter else []) + [f"--{option.name}"]
        made.add_argument(*names, **_settings(option))
    made.add_argument("-v", "--version", action="version", version=f"identd {__version__}")
    return made


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _Added(argparse.Action):
    """Adds a value to a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


def _settings(option: Option) -> dict[str, Any]:
    """Return what argparse's add_argument takes for one row of the table."""
    settings: dict[str, Any] = {"help": option.help}
    if option.becomes == ADD:
        settings["action"] = _Added
    if option.takes in (ONE, MAYBE):
        settings["type"] = option.convert
        settings["metavar"] = option.metavar or None
    else:
        settings["action"] = "store_true"
    if option.takes == MAYBE:
        settings |= {"nargs": "?", "const": option.convert(option.missing)}
    return settings
