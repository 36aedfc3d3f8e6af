"""Is pyroute2's codec had without the rest of it, and is pyroute2 whole for everybody else?"""

from __future__ import annotations

import subprocess
import sys

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
