"""The project's own rules: lint, types, layout, versions, what is imported when."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run

import identd

#: The top level that design fixes, and what may stand beside it.
TOP_LEVEL = {
    "setup.cfg", "setup.py", "identd.py", "lookup", "xinetd.d", "tests", "README.md",
    "systemd", "man", "bench", ".ci", "CHANGELOG.md", "LICENSE", "pyproject.toml", ".gitignore",
}  # fmt: skip

#: What a query about a connection may not import: each costs more than the lookup.
SLOW = {"asyncio", "argparse", "psutil", "ssl", "multiprocessing", "subprocess", "pyroute2", "lookup.grammar"}


def tracked() -> list[str]:
    """Return the files of the checkout, or of the folder where git is missing."""
    try:
        return run("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return [str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*")]


def test_ruff_finds_nothing() -> None:
    """The linter is content."""
    result = run(sys.executable, "-m", "ruff", "check", "--no-cache", str(ROOT), check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_finds_nothing() -> None:
    """The types are right, strictly."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "setup.cfg"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def test_changelog_and_version_agree() -> None:
    """The newest release in the changelog is the version of the code."""
    newest = re.search(r"^## \[([0-9][^]]*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == identd.__version__


def test_top_level_is_what_was_agreed() -> None:
    """Nothing stands at the top level that has no place there."""
    assert {path.partition("/")[0] for path in tracked()} <= TOP_LEVEL


def test_every_test_has_a_docstring() -> None:
    """Each test says in words what it shows."""
    for path in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


SOURCES = [*sorted((ROOT / "lookup").glob("*.py")), ROOT / "identd.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_first_line_asks_a_question(path: Path) -> None:
    """Each file's first line says which one question it answers."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    first = docstring.splitlines()[0]
    assert "?" in first or path.name == "identd.py"


def test_imports_run_downwards() -> None:
    """Nothing in lookup knows identd, and errors knows nothing at all."""
    for path in (ROOT / "lookup").glob("*.py"):
        modules = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add("." * node.level + (node.module or ""))
        assert not {"identd", "sys.argv"} & modules, path.name
        if path.name != "__init__.py":
            assert not {"lookup", ".."} & modules, path.name
            # What a room takes from the package itself is another room, not what puts the rooms together.
            taken = {alias.name for node in ast.walk(ast.parse(path.read_text()))
                     if isinstance(node, ast.ImportFrom) and (node.level, node.module) == (1, None)
                     for alias in node.names}  # fmt: skip
            assert taken <= {room.stem for room in path.parent.glob("*.py")}, path.name
        if path.name == "errors.py":
            assert modules == {"__future__"}


def test_lookup_prints_and_logs_nothing() -> None:
    """The rooms below return or raise; telling people is identd's job."""
    for path in (ROOT / "lookup").glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        # codec keeps pyroute2 from importing logging, and so has to name it.
        loud = {"print", "syslog"} if path.name == "codec.py" else {"print", "logging", "syslog"}
        assert not loud & names, path.name


def test_a_query_imports_nothing_slow() -> None:
    """Start-up is the hot path: one query by hand loads none of the expensive modules."""
    code = (
        "import sys, identd; status = identd.main([]);"
        f"print(sorted({SLOW!r} & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], input=b"1,2\n", capture_output=True, cwd=ROOT, timeout=60
    )
    assert result.stdout == b"1,2:ERROR:NO-USER\r\n"
    assert result.stderr.splitlines()[-1] == b"[]"


def test_ci_runs_the_command_of_the_readme() -> None:
    """Both of README's commands stand there word for word, and CI takes the second from there."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/identd --check" in lines
    tests = [line for line in lines if re.fullmatch(r"python3 -m venv .* '\.\[test\]' .*", line)]
    assert tests == ["python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest"]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_readme_names_every_option() -> None:
    """An administrator finds each option of the command line in the README."""
    readme = (ROOT / "README.md").read_text()
    for action in identd._parser()._actions:
        for name in action.option_strings:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", readme), name
