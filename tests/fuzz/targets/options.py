"""Do the two readers of a command line agree, and does it fail in no other way than by a clear sentence?

Each line is an argument.
"""

from __future__ import annotations

import contextlib
import io
import os

from identserver import command_line, options
from identserver.options import Options, UsageError


def check(data: bytes) -> None:
    """Read the arguments as the program does, and by argparse alone."""
    argv = [os.fsdecode(argument) for argument in data.replace(b"\0", b"").split(b"\n")]
    words = options.as_getopt_reads(argv)
    if any(value == "--" for _, value in words):
        return  # argparse makes an empty list of it
    in_full = [
        option if isinstance(option, str) else f"--{option.name}" + ("" if value is None else f"={value}")
        for option, value in words
    ]
    by_argparse = _outcome(lambda: command_line.read(in_full, Options()))
    found = _outcome(lambda: options.read(argv))
    assert found == by_argparse, (found, by_argparse)
    assert isinstance(options.left_over(argv), list)


def _outcome(read: object) -> object:
    """Return what a reader sets, or says."""
    assert callable(read)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = vars(read())
    except UsageError as error:
        # What goes to a terminal or the log is one line.
        return str(error)
    except SystemExit as printed:
        assert not printed.code
        return "printed"
    return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in found.items()}
