"""Why is there nobody for what was asked, as far as whoever runs --explain may see?"""

from __future__ import annotations

import lookup
from lookup.connection import IdentError, NoUser
from lookup.kernel import causes
from lookup.kernel.sock_diag import SockDiagUnavailable

from .printing import FINE, WARNING, Row

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lookup.connection import Address


def seen_as_root(server: Address, client: Address) -> causes.Evidence | None:
    """Return what root sees and others do not, before root is given up.

    :return: None: there is an owner, or that can't be found out. :raises ValueError: an address is none.
    """
    try:
        lookup.find(server, client)
    except NoUser:
        return causes.gather(server, client)
    except IdentError:
        pass
    return None


def steps(server: Address, client: Address, evidence: causes.Evidence | None) -> Iterator[Row]:
    """Yield a step for each cause. :param evidence: what root saw (`seen_as_root`)."""
    try:
        found = causes.find(server, client, evidence)
    except (SockDiagUnavailable, ImportError) as error:
        yield Row("cause", f"can't be found out: sock_diag can't be asked: {error}", WARNING)
    except IdentError as error:
        yield Row("cause", f"can't be found out: {error.detail}", WARNING)
    else:
        yield from (Row("cause", cause, WARNING) for cause in found.found)
        yield from (Row("cause", f"can't be excluded: {cause}", FINE) for cause in found.possible)
