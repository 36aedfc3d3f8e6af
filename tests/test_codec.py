"""Is pyroute2's codec had without the rest of it, and is pyroute2 whole for everybody else?"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.machine import ROOT


def fresh(code: str, *arguments: str) -> str:
    """Run Python source in a new process that can import this project; return what it prints."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


FIND_OWN = """
import os, socket
def find_own():
    from lookup.kernel import sock_diag
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            assert sock_diag.find(client.getsockname(), client.getpeername()).uid == os.getuid()
find_own()
"""


def test_what_a_lookup_does_not_import() -> None:
    """One lookup in a new process imports none of what makes `import pyroute2` slow, nor psutil."""
    loaded = set(fresh(FIND_OWN + "print(*sys.modules)").split())
    assert "lookup.kernel.sock_diag" in loaded
    assert not loaded & {"asyncio", "ssl", "multiprocessing", "psutil"}
    assert not [name for name in loaded if name.split(".")[0] == "pyroute2"]


#: Of the standard library, what the codec imports and one query never uses.
STANDING_IN = (
    "collections", "functools", "logging", "re", "socket", "threading", "traceback", "types", "typing", "weakref",
)  # fmt: skip


def test_what_the_codec_does_not_import() -> None:
    """Nor does it import the modules of the standard library of which one query uses nothing."""
    code = "before = set(sys.modules); from lookup.kernel import codec; codec.messages();"
    loaded = set(fresh(code + "print(*set(sys.modules) - before)").split())
    assert not loaded & {*STANDING_IN, "contextlib", "enum", "linecache", "operator", "tokenize", "warnings"}


def test_nobody_else_sees_what_stands_in() -> None:
    """What stands in for a module is in no table of the interpreter: the next import finds the real one."""
    code = f"""
from lookup.kernel import codec
codec.messages()
for name in {STANDING_IN}:
    assert not isinstance(sys.modules.get(name), codec.Later), name
    assert __import__(name).__spec__.name == name and sys.modules[name] is __import__(name)
import typing, socket, threading
assert typing.cast(int, 1) == 1 and socket.AddressFamily(2) is socket.AF_INET
assert threading.current_thread() is threading.main_thread()
"""
    fresh(code)


def copied(folder: Path, first: str) -> str:
    """Copy pyroute2's codec without the rest of the package, with some code before it; return code that imports it."""
    spec = importlib.util.find_spec("pyroute2")
    assert spec is not None and spec.submodule_search_locations is not None
    source, target = Path(spec.submodule_search_locations[0]), folder / "pyroute2"
    target.mkdir()
    (target / "__init__.py").touch()
    for name in ("common.py", "config/__init__.py", "netlink/exceptions.py", "netlink/__init__.py"):
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
    netlink = target / "netlink" / "__init__.py"
    netlink.write_text(f"{first}\n{netlink.read_text()}")
    return f"sys.path.insert(0, {str(folder)!r})\n"


@pytest.mark.parametrize("use", [
    "import collections; assert collections.Counter('aab')['a'] == 2",
    "from collections import namedtuple; assert namedtuple('P', 'x y')(1, 2).y == 2",
    "import collections.abc; assert issubclass(dict, collections.abc.Mapping)",
    "from functools import lru_cache; assert lru_cache(maxsize=None)(int)('3') == 3",
    "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\nassert P(1).x == 1",
    "from typing import Any, Callable, Dict, Optional, Union, cast\nassert cast(Any, 1) == 1\n"
    "def f(a: Dict[str, Any], b: Optional[Callable[..., Any]] = None) -> Union[int, None]: pass\n"
    "assert isinstance(f, Callable) and not isinstance(1, Callable) and issubclass(dict, Dict) and Callable | None",
    "from typing import Generic, TypeVar\nT = TypeVar('T')\nclass Box(Generic[T]): pass\nassert Box[int]",
    "from typing import Dict\nclass Table(Dict[str, int]): pass\nassert Table(a=1)['a'] == 1",
    "import threading; assert threading.Event().is_set() is False and threading.RLock().acquire()",
    "import threading\nclass Own(threading.local): pass\nOwn().x = 1",
    "import socket; assert socket.AddressFamily(2) == socket.AF_INET and socket.socket().close() is None",
    "import weakref; assert len(weakref.WeakValueDictionary()) == 0",
    "import types; assert types.SimpleNamespace(a=1).a == 1 and isinstance(types.FunctionType, type)",
    "import re; assert re.compile('a+').match('aa').end() == 2 and re.sub('a', 'b', 'a') == 'b'",
    "import logging; logging.getLogger('x').debug('y'); assert logging.DEBUG == 10",
    "import traceback; assert traceback.format_stack()",
    "import dataclasses\n@dataclasses.dataclass\nclass D:\n    x: 'int'\nassert D(1).x == 1",
    "import enum, contextlib, warnings, json; assert json.dumps(1) == '1'",
    "import sys; assert sys.modules[__name__].__name__ == 'pyroute2.netlink'",
    "from . import exceptions; from ..common import hexdump; from .exceptions import NetlinkError",
    "import pyroute2.common; from pyroute2 import common; assert pyroute2.common is common",
    "try:\n    import pyroute2.there_is_none\nexcept ImportError:\n    pass",
])  # fmt: skip
def test_a_release_that_uses_what_nobody_foresaw(tmp_path: Path, use: str) -> None:
    """Whatever the codec uses when it is imported is the real thing: such a release may take longer, and answers."""
    code = copied(tmp_path, use) + FIND_OWN
    code += "from lookup.kernel import codec; print(codec.messages()[0].__mro__[1].encode.__code__.co_filename)"
    assert fresh(code) == f"{tmp_path}/pyroute2/netlink/__init__.py\n"


def test_what_it_uses_later() -> None:
    """So is what it uses after that, while it reads an answer; and what stands in has nothing that is not the same."""
    code = """
from lookup.kernel import codec
known = codec.messages()[0].__mro__[1].encode.__globals__
import logging, socket, threading, traceback, types, weakref
for module in logging, socket, threading, traceback, types, weakref:
    standing_in = known.get(module.__name__, module)
    assert isinstance(standing_in, codec.Later) or standing_in is module
    for name, value in vars(standing_in).items():
        if not (name in ("_real", "RLock", "getLogger") or isinstance(value, codec.Later)):
            assert value is getattr(module, name) or value == getattr(module, name), name
assert known["threading"].Event is threading.Event
assert known["weakref"].WeakSet is weakref.WeakSet
assert known["logging"].DEBUG == 10
print(known["traceback"].format_exc(), end="")
"""
    assert fresh(code) == "NoneType: None\n"


WHOLE = """
import pyroute2, pyroute2.netlink
assert pyroute2.netlink.nlmsg and pyroute2.__file__ and pyroute2.__spec__
with pyroute2.IPRoute() as route:
    assert any(link.get_attr("IFLA_IFNAME") == "lo" for link in route.get_links())
with pyroute2.DiagSocket() as diag:
    diag.bind()
    diag.get_sock_stats(family=socket.AF_INET)
"""


def test_pyroute2_is_whole_afterwards() -> None:
    """Whoever imports pyroute2 in the same process after a lookup finds all of it, and it works."""
    assert fresh(FIND_OWN + WHOLE + FIND_OWN + "print('whole')") == "whole\n"


def test_pyroute2_imported_before() -> None:
    """Whoever imported pyroute2 before keeps their modules, and a lookup works."""
    code = "import socket" + WHOLE + "before = dict(sys.modules)" + FIND_OWN
    code += "for name in before:\n    if name.startswith('pyroute2'): assert sys.modules[name] is before[name], name\n"
    assert fresh(code + WHOLE + "print('whole')") == "whole\n"


@pytest.mark.parametrize("finder", [
    "object()",  # from the time before find_spec, which the import system passes over
    "type('Once', (), {'find_spec': lambda self, name, path, target: None})()",  # cannot be asked as we do
    "type('Vague', (), {'find_spec': lambda self, name, path, target=None: "
    "type(sys.__spec__)(name, None) if sys._getframe(1).f_globals['__name__'] == 'lookup.kernel.codec' else None})()",
])  # fmt: skip
def test_importers_that_the_shortcut_does_not_know(finder: str) -> None:
    """Where the shortcut fails the ordinary import serves, and pyroute2 is whole."""
    if finder == "object()" and sys.version_info < (3, 12):
        finder = "type('Old', (), {'find_module': lambda self, name, path=None: None})()"
    assert fresh(f"sys.meta_path.insert(0, {finder})" + FIND_OWN + WHOLE + "print('whole')") == "whole\n"


def test_the_shortcut_leaves_no_half_package_when_it_fails() -> None:
    """A pyroute2 whose codec can't be imported is an ImportError, each time, and leaves nothing behind."""
    code = """
import importlib.abc
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "pyroute2.netlink":
            raise ImportError("broken for the test")
sys.meta_path.insert(0, Broken())
from lookup.kernel import sock_diag
for _ in range(2):
    try:
        sock_diag.SockDiag()
    except ImportError as error:
        print(error, "pyroute2" in sys.modules)
"""
    assert fresh(code) == "broken for the test False\n" * 2


def test_no_pyroute2() -> None:
    """Without pyroute2 the lookup is an ImportError, which says that another source must be asked."""
    code = """
sys.modules["pyroute2"] = None
from lookup.kernel import sock_diag
try:
    sock_diag.find(("127.0.0.1", 1), ("127.0.0.1", 1))
except ImportError as error:
    print(error.name)
"""
    assert fresh(code).startswith("pyroute2")


def test_logging_is_put_off_but_whole() -> None:
    """The codec does not import logging; what it logs later arrives, and everybody else finds the real module."""
    code = (
        "import sys; from lookup.kernel import codec; nlmsg = codec.messages()[0];"
        "assert 'logging' not in sys.modules, 'imported'; import logging;"
        "assert logging.__spec__ is not None and logging.Handler;"
        "logging.basicConfig(format='%(name)s %(message)s');"
        "sys.modules.get('logging') is logging or sys.exit('replaced');"
        "log = nlmsg.__mro__[1].encode.__globals__['log']; log.error('said later')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr.split(" ", 1)[1:]) == (0, ["said later\n"]), result.stderr
