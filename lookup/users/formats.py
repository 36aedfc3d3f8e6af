"""What is sent in place of a login name, where the administrator wants it in another form?

The letters are those of pidentd's -F.
"""

from __future__ import annotations

import os

from ..connection import IdentError
from . import names

#: What may follow a percent sign.
LETTERS = "uUgGh%"


def parts(form: str) -> list[str]:
    """Return a form's pieces: a letter with its percent sign, or text. :raises ValueError: what is wrong with it."""
    found, rest = [], form
    while rest:
        text, percent, rest = rest.partition("%")
        if text:
            found.append(text)
        if percent:
            if rest[:1] not in LETTERS or not rest:
                raise ValueError(f"text with %u, %U, %g, %G, %h and %%, not %{rest[:1]}")
            found.append(f"%{rest[0]}")
            rest = rest[1:]
    return found


def expand(form: str, login: str, uid: int) -> str:
    """Return what a form makes of a user. May block as the name service does.

    :param login: their login name, or ``""``.
    :raises IdentError: they have no group, or no name for it; or that can't be found out.
    """
    found = []
    for part in parts(form):
        if part == "%u":
            found.append(login or str(uid))
        elif part == "%U":
            found.append(str(uid))
        elif part == "%G":
            found.append(str(names.gid(uid)))
        elif part == "%g":
            found.append(_group(names.gid(uid), uid))
        elif part == "%h":
            found.append(os.uname().nodename)
        else:
            found.append("%" if part == "%%" else part)
    return "".join(found)


def _group(gid: int, uid: int) -> str:
    import grp  # few forms have a group

    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, MemoryError):
        # No such group, or the name service could not say: the library does not tell these apart.
        raise IdentError(f"the name of group {gid} is not found", uid) from None
