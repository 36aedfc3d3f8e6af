"""Is a system file read that says nothing, without what parses others?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.machine import ROOT
from hypothesis import given
from hypothesis import strategies as st

from lookup.config.grammar import parse_system
from lookup.config.system_file import _says_nothing, load
from lookup.connection import ConfigError

#: Pieces of files that say nothing, and of others.
PIECES = [
    b"\n", b" ", b"\t", b"\r", b"#", b"# default", b"/*", b"*/", b"\xef\xbb\xbf", b"\0", b"\x0c", b"default { }", b"x",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_what_says_nothing_has_no_words(data: bytes) -> None:
    """What is not parsed, because it says nothing, would be parsed as a file without blocks."""
    if _says_nothing(data):
        system = parse_system(data, "f", uids=lambda names: {})
        assert (system.default, system.sections, system.notices) == (None, [], [])


@pytest.mark.parametrize("data", [b"", b"\n \t\r\n", b"# one\n\n  # two", b"#" * 100, b"\t#\r\n"])
def test_says_nothing(data: bytes) -> None:
    """Blank lines and comments say nothing."""
    assert _says_nothing(data)


@pytest.mark.parametrize("data", [b"x", b"#\nx", b"\x0c", b"\0", b"# a\n}", b"/* */"])
def test_says_something(data: bytes) -> None:
    """Everything else is left to the grammar."""
    assert not _says_nothing(data)


def test_what_is_broken_is_an_error(tmp_path: Path) -> None:
    """A word that stands alone is an error, comments before it or not."""
    path = tmp_path / "oidentd.conf"
    path.write_bytes(b"# comment\n\nx\n")
    with pytest.raises(ConfigError):
        load(str(path), True)


def test_what_says_nothing_needs_no_grammar(tmp_path: Path) -> None:
    """The rooms that parse are not imported where there is nothing to parse."""
    path = tmp_path / "oidentd.conf"
    path.write_text("# nothing\n")
    code = (
        "import sys; from lookup.config import system_file, user_file\n"
        f"assert system_file.load({str(path)!r}, True) is not None\n"
        "assert user_file.fetch(0, '/nonexistent').blocks is None\n"
        "print(sorted({'lookup.config.grammar', 'lookup.config.words', 'lookup.config.names'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
