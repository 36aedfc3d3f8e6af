"""Where else do the options have a connection looked for, if no socket here has the ends that the query names?

Behind NAT and in containers, on machines behind this one (--forward, oidentd_masq.conf), and, where a gateway asks, by
its ports (--proxy).
"""

from __future__ import annotations

from . import MASQUERADE

TYPE_CHECKING = False  # see options.py
if TYPE_CHECKING:
    from lookup.behind import Ask, Behind, FindLocal, Unseen
    from lookup.connection import Address, Arrival, Owner
    from lookup.machines import Machines, Named

    from .options import Options


class Elsewhere:
    """Looks there, as far as the options say so."""

    def __init__(self, options: Options, ask: Ask | None = None) -> None:
        """:param ask: looks behind NAT and into containers, with --masquerade; None: nobody does."""
        self._options, self._ask = options, ask
        self._machines: Machines | None = None
        self._gateways = None
        if options.masquerade:
            from lookup import behind  # noqa: F401  (now: root may be given up before it is used)
        if options.proxy:
            from lookup.gateways import Gateways

            self._gateways = Gateways(options.proxy)

    def may_trust(self, asker: str) -> bool:
        """Return whether an asker may be a gateway that may ask by ports alone. Never blocks."""
        return self._gateways is not None and self._gateways.may_trust(asker)

    def find(self, server: Address, client: Address, arrival: Arrival | None, find_local: FindLocal) -> Owner:
        """Like `lookup.find`, but find the owner behind NAT and in containers too, or by a gateway's ports. May block.

        :param find_local: finds who owns a socket here. For the others see `lookup.find`.
        """

        def find() -> Owner:
            options = self._options
            if not options.looks_behind:
                return find_local(server, client, arrival)
            from lookup import behind

            reply = options.container_reply or ""
            return behind.find(server, client, arrival, self._ask, find_local, options.subuid, reply)

        return find() if self._gateways is None else self._gateways.find(server, client, find)

    def _meant(self, error: BaseException) -> Behind | Unseen | None:
        """Return an error that is about a connection of a machine behind this one; None: it is not."""
        if not self._options.masquerade:
            return None
        from lookup.behind import Behind, Unseen  # --masquerade alone has them raised

        return error if isinstance(error, (Behind, Unseen)) else None

    def machine(self, error: BaseException) -> str:
        """Return the address of the machine behind this one that an error is about; ``""``: it is about none."""
        meant = self._meant(error)
        return meant.server[0] if meant is not None else ""

    def answer(self, error: BaseException, arrival: Arrival | None) -> Named:
        """Return what is replied about a connection of such a machine. May block: see `Machines.answer`.

        :raises BaseException: the error itself, where it is about none; else see `Machines.answer`.
        """
        meant = self._meant(error)
        if meant is None:
            raise error
        if self._machines is None:
            from lookup.machines import Machines  # 15 ms, and of use only where there are such machines

            options = self._options
            file, proxy = options.masquerade_file, options.forward_proxy or ""
            path = file or MASQUERADE
            self._machines = Machines(options.forward, options.masquerade_first, path, file is not None, proxy)
        return self._machines.answer(meant, arrival)


def what_counts(options: Options) -> list[str]:
    """Return, a sentence each, what options do that identd 1.0.0 has ignored: files for oidentd have them."""
    told = []
    if options.forward is not None:
        order = "where the file has nothing on it" if options.masquerade_first else "and if it names nobody, the file"
        told.append(
            f"--forward counts (identd 1.0.0 ignored it): a machine behind this one is asked on port {options.forward},"
            f" {order} ({options.masquerade_file or MASQUERADE})"
        )
    elif options.masquerade:
        file = options.masquerade_file or MASQUERADE
        told.append(f"--masquerade counts (identd 1.0.0 ignored it): machines behind this one are named by {file}")
    if options.proxy:
        told.append(
            f"--proxy counts (identd 1.0.0 ignored it): who asks from {', '.join(options.proxy)} is told whose"
            " connection has the two ports in the query, whatever its addresses are"
        )
    return told
