"""Whose pseudonym is this?"""

from __future__ import annotations

from lookup.config import key
from lookup.config.pseudonym import Form
from lookup.connection import IdentError, Unknown, pack
from lookup.users import names

from .printing import show

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..options import Options

#: What a statement may mix in, and what has to be known of a reply to turn it back.
_FORMS = ((), ("per-asker",), ("daily",), ("per-asker", "daily"))


def reveal(options: Options) -> int:
    """Print the users whom a name stands for, a line for each; return the exit status: 1, where there is none.

    :raises IdentError: the key can't be read.
    """
    pseudonyms = key.read(options.key)
    if isinstance(pseudonyms, Unknown):
        raise IdentError(pseudonyms.reason)
    name = (options.reveal or "").encode("utf-8", "replace")
    asker = pack(options.asker.partition("%")[0])[0] if options.asker else b""
    found = False
    for words in _forms(options):
        opened = pseudonyms.opened(name, Form((*words, str(len(name)))), asker, options.date or "")
        if opened is not None:
            show(" ".join((_who(opened[0]), *words)))
            found = True
    return 0 if found else 1


def _forms(options: Options) -> Iterator[tuple[str, ...]]:
    """Yield the forms of pseudonyms for which enough is known."""
    for words in _FORMS:
        if (options.asker or "per-asker" not in words) and (options.date or "daily" not in words):
            yield words


def _who(uid: int) -> str:
    try:
        opsys, login = names.login(uid)
    except IdentError as error:
        return f"? uid {uid}: {error.detail}"
    return f"{login} uid {uid}" if opsys == "UNIX" else f"- uid {uid}, without a login name"
