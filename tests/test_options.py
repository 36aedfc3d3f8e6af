"""Do the two readers of the table of options, the fast one and argparse, agree, and do the pages have what it has?"""

from __future__ import annotations

import re

import pytest
from helpers.machine import ROOT
from hypothesis import given
from hypothesis import strategies as st

from identserver import command_line, options
from identserver.options import PRINTS, TABLE, Option, Options, UsageError
from lookup.connection import IDENT_PORT

#: What stands for an argument, right and wrong ones of every kind.
VALUES = ["5", "0", "-1", "1e3", "x", "", "nobody", "127.0.0.1", "::1", "fe80::1%1", "113", "ssh", "99999", "a:b",
          "OS", "a\nb", "1,2", "-q", "=", "--", "é"]  # fmt: skip


def _spellings(option: Option) -> list[str]:
    """Return the ways to write an option: the letter, the name, and every abbreviation, fitting or not."""
    names = [f"--{option.name[:length]}" for length in range(1, len(option.name) + 1)]
    return names + ([f"-{option.letter}"] if option.letter else [])


WORDS = st.one_of(
    st.sampled_from([spelling for option in TABLE for spelling in _spellings(option)]),
    st.sampled_from(VALUES),
    st.builds(
        lambda spelling, value: spelling + ("=" if spelling.startswith("--") else "") + value,
        st.sampled_from([spelling for option in TABLE for spelling in _spellings(option)]),
        st.sampled_from(VALUES),
    ),
    st.builds("-{}".format, st.text("teocrRqdSICiapuglmMfP5", min_size=1, max_size=5)),
)


def by_argparse(argv: list[str]) -> Options:
    """Read a command line by argparse alone, each option in full with its value attached."""
    in_full = [
        option if isinstance(option, str) else f"--{option.name}" + ("" if value is None else f"={value}")
        for option, value in options.as_getopt_reads(argv)
    ]
    return command_line.read(in_full, Options())


def settings(found: Options) -> dict[str, object]:
    """Return what a command line has set."""
    return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in vars(found).items()}


@given(st.lists(WORDS, max_size=6).map(list))
def test_both_readers_agree(argv: list[str]) -> None:
    """What the fast reader takes, argparse takes in the same way; what it can't take, argparse refuses."""
    if any(value == "--" for _, value in options.as_getopt_reads(argv)):
        return  # argparse makes an empty list of an argument that is "--"
    try:
        expected = settings(by_argparse(argv))
    except UsageError as refused:
        with pytest.raises(UsageError, match=re.escape(str(refused))):
            options.read(argv)
        return
    assert settings(options.read(argv)) == expected


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--warm"], "--warm means something only with --install-service"),
        (["--json", "-q"], "--json means something only with --check or --explain"),
        (["--check", "--asker", "192.0.2.1"], "--asker means something only with --reveal"),
    ],
)
def test_an_option_that_needs_another(argv: list[str], said: str) -> None:
    """What would be ignored is an error, which says what it belongs to."""
    with pytest.raises(UsageError, match=said):
        options.read(argv)
    for alone in (["--explain", "--json"], ["--json", "--explain=1,2"], ["--write", "--install-service", "xinetd"]):
        options.read(alone)


@pytest.mark.parametrize("words", [["-p", "\udcff"], ["--port=ssh\udcc3"], ["-f\udcff"], ["--forward-last=\udcff"]])
def test_a_port_that_is_no_text(words: list[str]) -> None:
    """Octets that are no UTF-8 are no port, and that is said as of any other."""
    with pytest.raises(UsageError, match="takes a port from 1 to 65535"):
        options.read(words)


def test_two_hyphens_as_an_argument() -> None:
    """An argument that is "--" is an argument, as getopt_long(3) has it."""
    assert options.read(["--user", "--", "-q"]).user == "--"


@pytest.mark.parametrize(
    ("argv", "ports"),
    [
        (["--explain", "1,2"], "1,2"), (["--explain", "--user", "alice", "1,2"], "1,2"),
        (["--explain", "-ualice", "1,2"], "1,2"), (["1,2", "--explain"], ""),
        (["--explain=1,2", "--user", "alice", "3,4"], "1,2"), (["--explain", "1,2", "3,4"], "1,2"),
    ],
)  # fmt: skip
def test_the_ports_to_explain(argv: list[str], ports: str) -> None:
    """The first operand after an --explain without ports is its ports, whatever stands between."""
    assert options.read(argv).explain == ports


@pytest.mark.parametrize("option", TABLE, ids=lambda option: option.name)
def test_each_option_has_an_attribute(option: Option) -> None:
    """Whatever the table has, `Options` says what holds without it."""
    assert hasattr(Options, option.attribute)


def test_the_port_is_idents() -> None:
    """What holds without options names the port by itself, as the package imports nothing of `lookup`."""
    assert Options.port == IDENT_PORT


def test_no_two_options_share_a_name() -> None:
    """Letters and names are unique."""
    names = [name for option in (*TABLE, *PRINTS) for name in (option.letter, option.name) if name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("page", ["README.md", "man/identd.8"])
def test_the_pages_have_every_option(page: str) -> None:
    """An administrator finds each spelling of each option in the README and in the manual."""
    text = (ROOT / page).read_text().replace("\\-", "-")
    for option in (*TABLE, *PRINTS):
        for name in [f"-{option.letter}"] * bool(option.letter) + [f"--{option.name}"]:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), name


def test_the_pages_have_every_exit_status() -> None:
    """``--help``, README and the manual say the same of each exit status."""
    readme = " ".join((ROOT / "README.md").read_text().replace("`", "").split())
    said = "; ".join(f"{number} {meaning}" for number, meaning in enumerate(command_line.STATUSES))
    assert f"Exit status: {said}." in readme
    assert f"Exit status: {said}." in " ".join(command_line.parser().format_help().split())
    manual = (ROOT / "man" / "identd.8").read_text().partition(".SH EXIT STATUS\n")[2].partition("\n.SH")[0]
    plain = [text.replace("\\-", "-").replace("\n.B ", " ") for text in manual.split(".TP\n.B ")[1:]]
    assert [" ".join(text.split()).lower() for text in plain] == [
        f"{number} {meaning}.".lower() for number, meaning in enumerate(command_line.STATUSES)
    ]


def test_help_is_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    """README's list is what ``--help`` prints."""
    monkeypatch.setenv("COLUMNS", "120")
    printed = command_line.parser().format_help()
    listed = printed[printed.index("  -h, --help") : printed.index("\nExit status")]
    readme = (ROOT / "README.md").read_text()
    assert " ".join(listed.split()) in " ".join(readme.split())
