"""How are netlink messages encoded, and how is pyroute2 imported without its slow parts?

By pyroute2's codec, for sock_diag's messages.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from typing import Any

_classes: tuple[Any, Any] | None = None


def messages() -> tuple[Any, Any]:
    """Return the message classes inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).

    They are declared here on pyroute2's nlmsg rather than taken from pyroute2.netlink.diag, which
    imports asyncio, ssl and multiprocessing: 45 ms that every connection would pay.
    """
    global _classes
    if _classes is None:
        nlmsg = _import_nlmsg()
        socket_id = (
            ("idiag_sport", ">H"),
            ("idiag_dport", ">H"),
            ("idiag_src", "16s"),
            ("idiag_dst", "16s"),
            ("idiag_if", "I"),
            ("idiag_cookie", "Q"),
        )
        request_fields = (
            ("sdiag_family", "B"),
            ("sdiag_protocol", "B"),
            ("idiag_ext", "B"),
            ("__pad", "B"),
            ("idiag_states", "I"),
            *socket_id,
        )
        message_fields = (
            ("idiag_family", "B"),
            ("idiag_state", "B"),
            ("idiag_timer", "B"),
            ("idiag_retrans", "B"),
            *socket_id,
            ("idiag_expires", "I"),
            ("idiag_rqueue", "I"),
            ("idiag_wqueue", "I"),
            ("idiag_uid", "I"),
            ("idiag_inode", "I"),
        )
        _classes = (
            type("inet_diag_req_v2", (nlmsg,), {"fields": request_fields}),
            type("inet_diag_msg", (nlmsg,), {"fields": message_fields}),
        )
    return _classes


def _import_nlmsg() -> Any:
    """Import pyroute2's message codec without the package's ``__init__``, and without logging.

    That ``__init__`` imports every protocol that pyroute2 speaks: 80 ms. While the submodule is
    imported, an empty module with the package's path stands in ``sys.modules``, and one that puts logging off until
    something is logged (2 ms). Afterwards all of it is taken out again, so that a later ``import pyroute2``
    anywhere in the process finds it whole.
    """
    if "pyroute2" not in sys.modules:
        put_off = _LoggingLater("logging")
        try:
            specs = (finder.find_spec("pyroute2", None) for finder in sys.meta_path)
            placeholder: Any = type(sys)("pyroute2")
            placeholder.__path__ = next(filter(None, specs)).submodule_search_locations
            sys.modules["pyroute2"] = placeholder
            sys.modules.setdefault("logging", put_off)
            from pyroute2.netlink import nlmsg

            return nlmsg
        except Exception:
            pass  # a release that is built otherwise, or an importer of another kind: try the ordinary import
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "pyroute2"]:
                del sys.modules[name]
            if sys.modules.get("logging") is put_off:
                del sys.modules["logging"]
    from pyroute2.netlink import nlmsg

    return nlmsg


class _LoggingLater(type(sys)):  # type: ignore[misc]
    """Stands for the module logging while another one is imported; its loggers import it when they are used."""

    def getLogger(self, name: str | None = None) -> Any:
        return _LoggerLater(name)

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get("logging") is self:
            del sys.modules["logging"]
        import logging

        return getattr(logging, name)


class _LoggerLater:
    """Stands for a logger until something is logged."""

    def __init__(self, name: str | None) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        import logging

        return getattr(logging.getLogger(self._name), name)
