"""How long is which target run, and what did it find?

``python3 -m tests.fuzz`` runs each target for some seconds, in a process of its own. What is found is written to a
file, here; a folder of such files, named after the target, is tried again by ``--once --corpus`` and the folder above.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import corpus, targets
from .one import load

_ROOT = Path(__file__).resolve().parent.parent.parent

#: Octets of an input: more than a user's file may have, so that what takes too long is found.
_MOST_OCTETS = {"user_file": 1 << 16, "system_file": 1 << 17, "masquerade": 1 << 16, "query": 1 << 12}

#: Seconds for one input, and MiB of memory, past which a target has failed. A loaded machine is slow.
_SECONDS_OF_ONE, _MEMORY = 30, 1024


def main() -> int:
    """Return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"names of targets, or files (default: all: {' '.join(targets())})")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default %(default)s)")
    parser.add_argument("--once", action="store_true", help="try what each target begins with, and nothing more")
    parser.add_argument("--corpus", type=Path, help="a folder that inputs worth keeping are added to, for each target")
    given = parser.parse_args()
    chosen = [targets().get(name) or Path(name) for name in given.targets] or list(targets().values())
    if given.once:
        for target in chosen:
            check = load(target)
            for path in _beginnings(target, given.corpus):
                check(path.read_bytes())
        return 0
    with ThreadPoolExecutor(given.jobs) as pool:
        return max(pool.map(lambda target: run(target, given.seconds, given.corpus), chosen))


def _beginnings(target: Path, more: Path | None) -> list[Path]:
    folders = [corpus(target), *([more / target.stem] if more else [])]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def run(target: Path, seconds: int, kept: Path | None) -> int:
    """Run one target, and print what came of it; return 1 if that is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        into = kept / target.stem if kept else Path(folder)
        into.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "tests.fuzz.one", str(target), f"-max_total_time={seconds}",
            f"-timeout={_SECONDS_OF_ONE}", f"-rss_limit_mb={_MEMORY}",
            f"-artifact_prefix={Path.cwd()}/found-{target.stem}-",
            f"-max_len={_MOST_OCTETS.get(target.stem, 4096)}", str(into),
            *([str(corpus(target))] if corpus(target).is_dir() else []),
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", check=False,
            timeout=seconds + 300,
        )  # fmt: skip
    runs = re.search(r"^Done (\d+) runs in (\d+) second", done.stdout, re.MULTILINE)
    if done.returncode or not runs:
        print(f"{target.stem}: found, or failed (status {done.returncode}):\n{done.stdout[-4000:]}", flush=True)
        return 1
    print(f"{target.stem}: {runs[1]} runs in {runs[2]} s, nothing found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
