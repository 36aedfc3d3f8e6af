"""What may the command line change, and how is it read?

One table holds every option; what holds without any stands in the package, as most single shots are given none. The
reader below reads it as getopt_long(3) would, which oidentd uses, and loads nothing. `command_line` builds argparse's
parser from the same table, for ``--help`` and where this reader gives up.
"""

from __future__ import annotations

from lookup.connection import IDENT_PORT, is_token, pack, port_number

from . import CONFIG, MASQUERADE
from . import Options as Options  # whoever knows options knows them from here
from . import UsageError as UsageError

TYPE_CHECKING = False  # typing takes 2 ms to import, and every connection may be a new process
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Convert = Callable[[str], Any]

#: Whether an option takes an argument; MAYBE: only an attached one.
NONE, ONE, MAYBE = 0, 1, 2

#: What becomes of an option: its value is kept, or added to a list.
KEEP, ADD = "keep", "add"


def seconds(text: str) -> float:
    """Return seconds. :raises Refused: it is no number from 0 to a billion."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise Refused(f"seconds, a number from 0 to 999999999, not '{text}'")
    return value


def number(text: str) -> int:
    """Return a number. :raises Refused: it is none from 1 to 2147483647."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value < 1 << 31:
        raise Refused(f"a number from 1 to 2147483647, not '{text}'")
    return value


def port(text: str) -> int:
    """Return the port that a number or a service's name is. :raises Refused: it is neither."""
    found = port_number(text.encode("utf-8", "surrogateescape"))
    if not found:
        from socket import getservbyname

        try:
            found = getservbyname(text, "tcp")
        except (OSError, ValueError):  # no errno: there is no such service. ValueError: it is no text
            raise Refused(f"a port from 1 to 65535 or a service's name, not '{text}'") from None
    return found


def reply(text: str) -> str:
    """Return a name to send. :raises Refused: a reply can't hold it."""
    if not text or any(character in text for character in "\0\r\n"):
        raise Refused("one line that is not empty, without NUL, CR and LF")
    return text


def token(text: str) -> str:
    """Return an operating system's or a character set's name. :raises Refused: a reply can't hold it."""
    if not is_token(text):
        raise Refused(f"1 to 64 printable ASCII characters but ',' and ':', not '{text}'")
    return text


def address(text: str) -> str:
    """Return an IP address. :raises Refused: it is none."""
    try:
        pack(text)
    except ValueError:
        raise Refused(f"an IPv4 or IPv6 address, not '{text}'") from None
    return text


def header(text: str) -> str:
    """Return the form of a header that says who asks. :raises Refused: it is none."""
    if text not in ("proxy", "proxy2"):
        raise Refused(f"proxy or proxy2, not '{text}'")
    return text


def gateway(text: str) -> str:
    """Return an address, a network or a host name. :raises Refused: it is none."""
    from lookup.config.names import Names

    try:
        Names.network(text.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise Refused(f"an address, a network or a host name, not '{text}' ({error})") from None
    return text


def form(text: str) -> str:
    """Return what is to be sent in place of the login name. :raises Refused: it has letters that mean nothing."""
    from lookup.users.formats import parts

    try:
        parts(text)
    except ValueError as error:
        raise Refused(str(error)) from None
    return reply(text)


def date(text: str) -> str:
    """Return a day as ISO 8601 has it, YYYY-MM-DD. :raises Refused: it is none."""
    from time import strptime

    try:
        strptime(text, "%Y-%m-%d")
    except ValueError:
        text = ""
    if len(text) != len("YYYY-MM-DD"):
        raise Refused("a day in UTC, YYYY-MM-DD")
    return text


#: Options that oidentd 2 had and oidentd 3 has not.
OLDER = 2


class Refused(ValueError):
    """An option's argument can't be taken; the text says what the option takes."""


class Option:
    """One row of the table.

    ``letter``: the short name, or ``""``; ``name``: the long one. ``takes``: `NONE`, `ONE` or `MAYBE` an argument,
    which help calls ``metavar`` (``""``: as the option). ``convert``: makes a value of it. ``missing``: the value
    where a `MAYBE` has none. ``becomes``: `KEEP` or `ADD`. ``ours``: oidentd 3 does not have it (`OLDER`: but
    oidentd 2 has).
    """

    __slots__ = ("becomes", "convert", "help", "letter", "metavar", "missing", "name", "ours", "takes")

    def __init__(
        self, letter: str, name: str, help: str, takes: int = NONE, metavar: str = "", convert: Convert = str, *,
        missing: str = "", becomes: str = KEEP, ours: int = 0,
    ) -> None:  # fmt: skip
        self.letter = letter
        self.name = name
        self.help = help
        self.takes = takes
        self.metavar = metavar
        self.convert = convert
        self.missing = missing
        self.becomes = becomes
        self.ours = ours

    @property
    def attribute(self) -> str:
        """Its name in `Options`."""
        return self.name.replace("-", "_")


#: Letters and meanings are oidentd's wherever oidentd has them.
TABLE = (
    Option("t", "timeout", "for one whole query (default 60; 0: for ever)", ONE, "SECONDS", seconds),
    Option("e", "error", "send UNKNOWN-ERROR in place of every other error"),
    Option("o", "other", "send OTHER, or OS if attached, as the operating system", MAYBE, "OS", token, missing="OTHER"),
    Option("c", "charset", "name a character set in replies", ONE, "", token),
    Option("r", "reply", "the name to send when a lookup finds nobody", ONE, "", reply),
    Option("R", "reply-all", "the name to send for every query; nothing is looked up", ONE, "REPLY", reply),
    Option("q", "quiet", "log errors only"),
    Option("d", "debug", "log what the kernel said, which source answered, and why there is nobody"),
    Option("S", "nosyslog", "log to standard error"),
    Option("I", "stdio", "serve standard input, as without this option"),
    Option("C", "config", f"what users may do (default {CONFIG})", ONE, "FILE"),
    Option("i", "foreground", "open a listening socket of our own, and serve it"),
    Option("a", "address", "of the listening socket (repeatable; default: all)", ONE, "", address, becomes=ADD),
    Option("p", "port", f"listen on this port (default {IDENT_PORT})", ONE, "", port),
    Option("u", "user", "run as this user (default, as root: nobody); --check, --explain: whom it is about", ONE),
    Option("g", "group", "run as this group (default: the user's)", ONE),
    Option("l", "limit", "connections at once (default: what descriptors allow)", ONE, "N", number),
    Option("", "idle", "end after so long without a client (default 600; -i: never)", ONE, "SECONDS", seconds,
           ours=True),
    Option("", "multi-query", "answer several queries on one connection", ours=True),
    Option("", "server-address", "this host's end, for queries by hand", ONE, "ADDRESS", address, ours=True),
    Option("", "client-address", "the far end, for queries by hand", ONE, "ADDRESS", address, ours=True),
    Option("", "check", "show that a real query gets a true answer here, or why not", ours=True),
    Option("", "explain", "say what would be answered for port-on-server and port-on-client, and why; without:"
           " for each connection of yours", MAYBE, "PORT,PORT", ours=True),
    Option("", "unit", "with --check: look from within this systemd unit's sandbox", ONE, "NAME", ours=True),
    Option("", "json", "--check and --explain print one JSON object, for programs", ours=True),
    Option("", "oidentd", "with --check: list what in the files only identd understands", ours=True),
    Option("", "process", "log which process holds the socket, with its command and its unit or container", ours=True),
    Option("F", "format", "what to send in place of the login name: %%u login name, %%U uid, %%g group, %%G gid, %%h"
           " this host's name, %%%% a percent sign", ONE, "", form, ours=True),
    Option("n", "numeric", "send the uid in place of the login name, as -F %%U", ours=True),
    Option("", "key", "of the pseudonyms (default /etc/identd.key, or identd.key of the unit's credentials)", ONE,
           "FILE", ours=True),
    Option("", "new-key", "write a new key where there is none", ours=True),
    Option("", "reveal", "say whom a pseudonym stands for", ONE, "NAME", ours=True),
    Option("", "asker", "with --reveal: who was told a pseudonym per-asker", ONE, "ADDRESS", address, ours=True),
    Option("", "date", "with --reveal: when a daily pseudonym was told, in UTC", ONE, "YYYY-MM-DD", date, ours=True),
    Option("", "install-service", "print the file by which systemd, xinetd, inetd, runit or openrc starts identd", ONE,
           "SERVER", ours=True),
    Option("", "warm", "with --install-service: one process for all queries", ours=True),
    Option("", "write", "with --install-service: write the file, in place of printing it", ours=True),
    Option("m", "masquerade", "find the owner also behind this host's NAT and in containers"),
    Option("", "subuid", "name the user in whose range in /etc/subuid a uid without a login name lies", ours=True),
    Option("", "container-reply", "the name for a user of a container who has none here (default: the uid, as OTHER)",
           ONE, "NAME", reply, ours=True),
    Option("f", "forward", "as -m; a machine behind this one is asked, on this port (default"
           f" {IDENT_PORT})", MAYBE, "PORT", port, missing=str(IDENT_PORT)),
    Option("M", "masquerade-first", "as -f, but only where the file has no entry for that machine"),
    Option("", "forward-last", "as -M, with the port that -f takes", MAYBE, "PORT", port, missing=str(IDENT_PORT),
           ours=OLDER),
    Option("", "masquerade-file", f"what is replied about machines behind this one (default {MASQUERADE})", ONE, "FILE",
           ours=True),
    Option("", "forward-proxy", "tell those machines who asks, by a header: proxy (default) or proxy2", MAYBE, "FORM",
           header, missing="proxy", ours=True),
    Option("P", "proxy", "a gateway that translates addresses, or a network of such: it may ask by ports alone"
           " (repeatable)", ONE, "ADDRESS", gateway, becomes=ADD),
)  # fmt: skip

#: What means nothing by itself, and with which options it means something, as `Option.attribute` names them.
_ONLY_WITH = {
    "unit": ("check",), "oidentd": ("check",), "json": ("check", "explain"), "asker": ("reveal",), "date": ("reveal",),
    "warm": ("install_service",), "write": ("install_service",),
}  # fmt: skip

#: What `command_line` alone does: argparse prints it and ends the process.
PRINTS = (Option("h", "help", "show this help message and exit"), Option("v", "version", "show the version"))


class NotPlain(Exception):
    """This reader can't take the command line: argparse says why, or prints what is asked for."""


def read(argv: Sequence[str]) -> Options:
    """Return the options that a command line sets. :raises UsageError: it can't be obeyed."""
    options = Options()
    words = as_getopt_reads(argv)
    try:
        for option, value in words:
            _apply(options, option, value)
    except NotPlain:
        from . import command_line  # argparse takes 16 ms

        return command_line.read([_in_full(option, value) for option, value in words], Options())
    complete(options)
    return options


def complete(options: Options) -> None:
    """Set what an option implies: oidentd's -M implies -f, and that one -m.

    :raises UsageError: two options exclude each other, or one lacks the other.
    """
    if options.forward_last is not None:
        options.masquerade_first = True
    if options.masquerade_first and options.forward is None:
        options.forward = options.forward_last or IDENT_PORT
    if options.forward is not None:
        options.masquerade = True
    if options.quiet and options.debug:
        raise UsageError("--quiet and --debug contradict each other")
    given = vars(options)
    for name, others in _ONLY_WITH.items():
        if given.get(name) and given.keys().isdisjoint(others):
            needed = " or ".join(f"--{other}" for other in others).replace("_", "-")
            raise UsageError(f"--{name} means something only with {needed}")


def left_over(argv: Sequence[str]) -> list[str]:
    """Return the operands: what is neither an option nor an option's argument."""
    return _as_getopt_reads(argv)[1] if argv else []


def as_getopt_reads(argv: Sequence[str]) -> list[tuple[Option | str, str | None]]:
    """Return arguments as getopt_long(3) understands them: each option with the value that belongs to it.

    Operands are left out. What it can't understand stays as text.
    """
    return _as_getopt_reads(argv)[0]


def _as_getopt_reads(argv: Sequence[str]) -> tuple[list[tuple[Option | str, str | None]], list[str]]:
    found: list[tuple[Option | str, str | None]] = []
    operands: list[str] = []
    left = list(argv)
    while left:
        argument = left.pop(0)
        if argument == "--":
            operands += left
            break
        value: str | None
        if argument.startswith("--"):
            name, attached, value = argument[2:].partition("=")
            option, letters = _by_name(name), ""
        elif argument.startswith("-") and argument != "-":
            option, letters, attached, value = _by_letter(argument[1]), argument[2:], "", ""
        else:
            if not _give_to_explain(found, argument):
                operands.append(argument)
            continue
        if option is None:
            found.append((argument, None))
            continue
        if option.takes == NONE:
            if letters:
                left.insert(0, f"-{letters}")
        elif letters:
            attached, value = "=", letters
        elif not attached and left and _takes_next(option, left[0]):
            attached, value = "=", left.pop(0)
        found.append((option, value if attached else None))
    return found, operands


def _give_to_explain(found: list[tuple[Option | str, str | None]], operand: str) -> bool:
    """Return whether an operand is the ports of an ``--explain`` without any: ``--explain --user alice 51234,6667``."""
    for at, (option, value) in enumerate(found):
        if isinstance(option, Option) and option.name == "explain" and value is None:
            found[at] = option, operand
            return True
    return False


def _takes_next(option: Option, following: str) -> bool:
    """Say whether the next word is an option's argument; ``--explain`` alone may do without, and takes no option."""
    return option.takes == ONE or (option.name == "explain" and not following.startswith("-"))


def _by_letter(letter: str) -> Option | None:
    return next((option for option in (*TABLE, *PRINTS) if option.letter == letter), None)


def _by_name(name: str) -> Option | None:
    """Return the option with a name, or the one that an abbreviation fits: oidentd's where it fits one of ours too."""
    fitting = []
    for option in (*TABLE, *PRINTS):
        if option.name == name:
            return option
        if option.name.startswith(name):
            fitting.append(option)
    theirs = [option for option in fitting if not option.ours]
    theirs = theirs or [option for option in fitting if option.ours == OLDER] or fitting
    return theirs[0] if len(theirs) == 1 else None


def _apply(options: Options, option: Option | str, value: str | None) -> None:
    """Set one option. :raises NotPlain: argparse has to say why it can't be set."""
    if isinstance(option, str) or option in PRINTS or option.takes == (ONE if value is None else NONE):
        raise NotPlain
    try:
        converted: Any = option.convert(option.missing if value is None else value) if option.takes else True
    except ValueError:
        raise NotPlain from None
    if option.becomes == ADD:
        setattr(options, option.attribute, [*getattr(options, option.attribute), converted])
    else:
        setattr(options, option.attribute, converted)


def _in_full(option: Option | str, value: str | None) -> str:
    if isinstance(option, str):
        return option
    return f"--{option.name}" if value is None else f"--{option.name}={value}"
