"""Does a query get a true answer on this host, whoever it is about?"""

from __future__ import annotations

import platform

from lookup.connection import IdentError

from .. import __version__
from . import fresh, install, installation, masquerade, needs, obstacles, port, strays
from .files import check_files
from .printing import WARNING, WRONG, begin, finish, line_of_its_own, row, rows, show

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from typing import Any

    from ..options import Options


def check(options: Options) -> int:
    """Say whether queries get true answers here, and what stands in the way; return the exit status.

    :raises UsageError: there is no such user. :raises IdentError, OSError: something can't be done here.
    """
    if options.stdio and options.json:
        from . import sandbox  # what --unit starts within a unit

        return sandbox.look_from_within(options)
    begin(options.json)
    show(f"identd {__version__}, {obstacles.versions()}, {platform.system()} {platform.release()}")
    found: dict[str, Any] = {}
    try:
        found = _check(options)
    except (IdentError, OSError) as error:
        if not options.json:
            raise
        # A program gets its object all the same.
        row("error", getattr(error, "strerror", "") or getattr(error, "detail", "") or str(error))
    status = _verdict()
    finish(identd=__version__, well=status == 0, **found)
    return status


def _check(options: Options) -> dict[str, Any]:
    if options.unit is None:
        return _check_host(options)
    from . import unit

    return unit.check_unit(options, options.unit)


def _check_host(options: Options) -> dict[str, Any]:
    """Look at everything that matters to an identd of whoever runs this; return what was found, for programs."""
    installed = installation.look(options)
    found: dict[str, Any] = {"answer": fresh.check_answer(as_root=installed.is_a_trial)}
    # Where uids mean nothing, or names can't be asked for, nor can these.
    if not obstacles.check_hindrances():
        obstacles.check_peculiarities()
    installation.tell(installed)
    found |= port.check_port(options, options.port, installed)
    masquerade.check_own(options)
    masquerade.check_claims(options.port)
    strays.check_strays(options)
    needs.check_units(options)
    # Last, because with --user it may give up root for good.
    if not check_files(options) and not any(one.severity == WRONG for one in rows()):
        row("error", "in a file")
    return found


def _verdict() -> int:
    """Print how it all ends, and return the exit status."""
    labels = [one.label for one in rows() if one.severity == WRONG and one.label]
    warnings = [one for one in rows() if one.severity == WARNING and one.label]
    if labels:
        if "wrong" in labels or "obstacle" in labels:
            line_of_its_own("no true answer" if "wrong" in labels else "no true answer about everybody", WRONG)
        else:
            line_of_its_own(f"not well: {len(labels)} error{'s' * (len(labels) > 1)}, see above", WRONG)
    else:
        line_of_its_own("the answer is true")
        if warnings:
            what = warnings[0].text if len(warnings) == 1 else f"look at the {len(warnings)} warnings"
            line_of_its_own(f"but {what}", WARNING)
    if labels or warnings:
        line_of_its_own(f"what helps, by symptom: {install.page('trouble.md')}")
    return 1 if labels else 0
