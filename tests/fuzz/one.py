"""How is one target run, in this process, which ends with it?

``python3 -m tests.fuzz.one FILE [OPTION OF LIBFUZZER ...]``. Instrumented is what the target imports of ours, and the
codec of pyroute2.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TESTS = Path(__file__).resolve().parent.parent


def load(path: Path) -> Callable[[bytes], None]:
    """Return the function ``check`` of a target."""
    for folder in (_TESTS, _TESTS.parent):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(f"fuzz_target_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check: Callable[[bytes], None] = module.check
    return check


def _import_all(package: str) -> None:
    """Import what is otherwise imported at the first need, by when it is too late to count what runs in it."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)


def main() -> None:
    """Run the target until an option says that it is enough, or it finds something."""
    import atheris

    with atheris.instrument_imports(include=["identserver", "lookup", "pyroute2.netlink"]):
        check = load(Path(sys.argv[1]))
        _import_all("lookup")
    # As octets by itself, atheris takes a function that returns something for one that has a new kind of result.
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: check(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
