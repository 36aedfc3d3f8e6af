"""Which fields of netlink messages are read and written, and how is pyroute2 imported without its slow parts?

By pyroute2's codec, without the rest of what that would import. This room alone knows how it is had so cheaply.

Every query may be a new process. ``import pyroute2`` takes 80 ms, its codec alone 15, and of these the codec is 2: the
rest are modules of the standard library that it imports and one query never uses (typing and traceback above all).
So the codec's modules are executed here with an ``__import__`` of their own, which gives them `Later` in place of such
a module. Nobody else sees that: ``sys.modules`` stays as it is, and ``import pyroute2`` finds all of it whole.
"""

from __future__ import annotations

import builtins
import sys

TYPE_CHECKING = False  # see connection.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

#: The one field of inet_diag_msg.
MEMBERS = "members"

_classes: tuple[Any, Any] | None = None
_module: Any = None


def messages() -> tuple[Any, Any]:
    """Return the message classes inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).

    The latter has one field, `MEMBERS`, a tuple, and is decoded from where its header ends.

    They are declared here on pyroute2's nlmsg rather than taken from pyroute2.netlink.diag, which
    imports asyncio, ssl and multiprocessing: 45 ms that every connection would pay.
    """
    global _classes
    if _classes is None:
        nlmsg = netlink().nlmsg
        request_fields = (
            ("sdiag_family", "B"),
            ("sdiag_protocol", "B"),
            ("idiag_ext", "B"),
            ("__pad", "B"),
            ("idiag_states", "I"),
            ("idiag_sport", ">H"),
            ("idiag_dport", ">H"),
            ("idiag_src", "16s"),
            ("idiag_dst", "16s"),
            ("idiag_if", "I"),
            ("idiag_cookie", "Q"),
        )
        # One field, and no header, which was looked at before: the codec takes 1 us for a field, and several when the
        # processor has just woken up.
        # idiag_family, idiag_state, idiag_timer, idiag_retrans; idiag_sport, idiag_dport (big-endian); idiag_src,
        # idiag_dst; idiag_if, idiag_cookie, idiag_expires, idiag_rqueue, idiag_wqueue, idiag_uid, idiag_inode
        message_fields = ((MEMBERS, "=4B2H16s16sIQ5I"),)
        _classes = (
            type("inet_diag_req_v2", (nlmsg,), {"fields": request_fields}),
            type("inet_diag_msg", (nlmsg,), {"header": None, "fields": message_fields}),
        )
    return _classes


def netlink() -> Any:
    """Import pyroute2's codec, as cheaply as it can be had: a module with the classes ``nlmsg`` and ``nla``."""
    global _module
    if _module is None:
        _module = _import_netlink()
    return _module


def _import_netlink() -> Any:
    if "pyroute2" not in sys.modules:
        codec = _Import()
        try:
            module = codec.module("pyroute2.netlink")
            if module.nlmsg and module.nla:
                return module
        except Exception:
            # An importer of another kind, or a release that is built otherwise (with dataclasses, or generic classes of
            # its own): the ordinary import takes longer, and says what is wrong.
            pass
        finally:
            codec.done = True
    from pyroute2 import netlink

    return netlink


class _Import:
    """Imports modules of pyroute2 that are nobody else's, without the package's ``__init__``.

    It imports every protocol that pyroute2 speaks. ``done``: whatever these modules import from now on is the real one.
    """

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        self._standing_in = _standing_in()
        self._builtins = {**vars(builtins), "__import__": self._import}
        self.done = False

    def module(self, name: str) -> ModuleType:
        """Return a module, or a package, of pyroute2. :raises ImportError: there is none."""
        if name in self._modules:
            return self._modules[name]
        from _frozen_importlib import module_from_spec  # importlib's own, which the interpreter has loaded

        package, _, last = name.rpartition(".")
        parent = self.module(package) if package else None
        path = None if parent is None else parent.__path__
        # As the import system does it, but for its locks and sys.modules.
        spec = next(filter(None, (finder.find_spec(name, path) for finder in sys.meta_path)), None)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"no module {name}", name=name)
        module = self._modules[name] = module_from_spec(spec)
        if parent is not None:
            vars(module)["__builtins__"] = self._builtins  # exec() takes them, where they are there
            spec.loader.exec_module(module)
            setattr(parent, last, module)
        return module

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        """Do what ``__import__`` does, for these modules."""
        if not self.done:
            if level:
                package = globals["__package__"].rsplit(".", level - 1)[0]
                name, level = (f"{package}.{name}" if name else package), 0
            if name.partition(".")[0] == "pyroute2":
                module = self.module(name)
                for wanted in fromlist or ():
                    if not hasattr(module, wanted):
                        self.module(f"{name}.{wanted}")
                return module if fromlist else self.module("pyroute2")
            if name in self._standing_in and name not in sys.modules:
                return self._standing_in[name]
        return builtins.__import__(name, globals, locals, fromlist, level)


class Later:
    """Stands for a module, a class or an object until something of it is used that is not ``known``.

    What a release of pyroute2 uses beyond that is the real thing's: it takes longer, and is never wrong.
    """

    def __init__(self, real: Callable[[], Any], **known: Any) -> None:
        """:param real: returns what this stands for; :param known: its attributes that are had without."""
        self._real = real
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._real()(*arguments, **named)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._real())


class _Hint(Later):
    """Stands for a class that is used in annotations alone."""

    def __getitem__(self, parameters: object) -> _Hint:
        return self

    def __or__(self, other: object) -> _Hint:
        return self

    __ror__ = __or__


def _standing_in() -> dict[str, Later]:
    """Return what stands for each module of the standard library, with what the codec uses of it when it is imported.

    What the codec uses is in pyroute2 0.7.2 to 0.9.7 the same thing that the module itself takes from C.
    """
    import _collections  # type: ignore[import-not-found]
    import _functools  # type: ignore[import-not-found]
    import _socket
    import _thread
    import _weakref

    def module(name: str, **known: Any) -> Later:
        return Later(lambda: __import__(name), **known)

    def made_later(module: str, function: str) -> Callable[..., Later]:
        return lambda *arguments, **named: Later(lambda: getattr(__import__(module), function)(*arguments, **named))

    def hint(module: str, name: str) -> _Hint:
        return _Hint(lambda: getattr(__import__(module), name))

    # A class of its own from Python 3.13 on, and a function before.
    lock = getattr(_thread, "lock", _thread.allocate_lock)
    addresses = {
        name: getattr(_socket, name) for name in ("AF_INET", "AF_INET6", "AF_UNSPEC", "inet_ntop", "inet_pton")
    }
    annotations = {
        name: hint("typing", name) for name in ("Any", "Callable", "Dict", "Literal", "Optional", "Union")
    }
    return {
        "collections": module("collections", OrderedDict=_collections.OrderedDict),
        "functools": module("functools", partial=_functools.partial, reduce=_functools.reduce),
        # Its loggers too import it when something is logged.
        "logging": module("logging", getLogger=made_later("logging", "getLogger")),
        "re": module("re", compile=made_later("re", "compile")),
        "socket": module("socket", AddressFamily=hint("socket", "AddressFamily"), **addresses),
        "threading": module("threading", Lock=lock, RLock=_thread.RLock, local=_thread._local),
        "traceback": module("traceback"),
        "types": module("types", FunctionType=type(module), MethodType=type(Later(int).__call__)),
        "typing": module("typing", TypeVar=made_later("typing", "TypeVar"), **annotations),
        "weakref": module("weakref", proxy=_weakref.proxy),
    }
