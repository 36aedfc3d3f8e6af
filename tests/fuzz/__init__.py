"""Which input that comes from strangers, users or the kernel breaks what reads it?

<<<<<<< HEAD
One file in ``targets`` for each kind of input, with a function ``check(data)`` that raises where something is wrong. In
``corpus`` there is a folder of the same name, with octets to begin with. ``python3 -m tests.fuzz --help`` runs them.
=======
One file in ``targets`` for each kind of input, with a function ``check(data)`` that raises where something is wrong,
and in ``corpus`` a folder of the same name, with octets to begin with. ``python3 -m tests.fuzz --help`` runs them.
>>>>>>> 8e3e8cce75b6258c4fc93f352c8aba89a7864d70
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def targets() -> dict[str, Path]:
    """Return the file of each target, by its name."""
    return {path.stem: path for path in sorted((_HERE / "targets").glob("[!_]*.py"))}


def corpus(target: Path) -> Path:
    """Return the folder with what a target begins with."""
    return target.parent.parent / "corpus" / target.stem
