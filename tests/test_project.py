"""Does the project keep its own rules: lint, types, versions, what stands where and is documented?"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from helpers.machine import ROOT, program, run

import identd
from identserver import options
from lookup.config import parser
from lookup.config.grammar import parse_system

if TYPE_CHECKING:
    from lookup.config.words import Notice

#: The top level that design fixes, and what may stand beside it.
TOP_LEVEL = {
    "identd.py", "identserver", "lookup", "xinetd.d", "systemd", "man", "debian", "docs", "tests", "bench", ".ci",
    "setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE",
    ".gitignore",
}  # fmt: skip


def tracked() -> list[str]:
    """Return the files of the checkout, or of the folder where git is missing."""
    try:
        return run("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        # A source distribution has these as well.
        made = {"PKG-INFO", "identd.egg-info", "build"}
        return [path.name for path in ROOT.glob("[!.]*") if path.name not in made]


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


def test_manual_pages_are_well_formed() -> None:
    """Whoever formats them finds no mistake, and no line over 80 octets."""
    pages = sorted(map(str, (ROOT / "man").glob("*.[1-9]")))
    assert pages
    result = run(program("mandoc"), "-T", "lint", "-W", "style", *pages, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_links_lead_somewhere() -> None:
    """Each link in README and in docs/ is to a file of the repository; no page is longer than 300 lines."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        text = page.read_text()
        assert len(text.splitlines()) <= 300, page
        for target in re.findall(r"\]\((?!https?:)([^)#]*)", text):
            assert not target or (page.parent / target).exists(), f"{page.name}: {target}"
    linked = set(re.findall(r"\((docs/[^)#]+)", pages[0].read_text()))
    assert {str(page.relative_to(ROOT)) for page in pages[1:]} <= linked


def test_what_is_said_is_quoted_as_it_is_said() -> None:
    """Each text in italics in docs/trouble.md, where symptoms are looked up, stands in the program word for word."""
    paths = [*(ROOT / "identserver").rglob("*.py"), *(ROOT / "lookup").rglob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    said = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    page = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / "docs" / "trouble.md").read_text(), flags=re.DOTALL)
    quoted = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", page)
    assert len(quoted) > 5
    assert [text for text in quoted if not any(text in one for one in said)] == []


def test_the_values_for_xinetd_have_reasons() -> None:
    """Each limit of xinetd.d/identd stands in docs/serving.md, with a reason beside it."""
    page = (ROOT / "docs" / "serving.md").read_text()
    for path in (ROOT / "xinetd.d").iterdir():
        limits = re.findall(r"^\t(instances|per_source|cps|rlimit_as)\t+= (.*)$", path.read_text(), re.MULTILINE)
        assert {name for name, _ in limits} == {"instances", "per_source", "cps", "rlimit_as"}
        for name, value in limits:
            assert re.search(rf"^\| `{name} = {value}` \| .{{20,}} \|$", page, re.MULTILINE), f"{path.name}: {name}"


def test_the_manual_has_the_whole_language() -> None:
    """Each keyword of the system file and of users' files is explained, and the examples are right."""
    page = (ROOT / "man" / "identd.conf.5").read_text()
    words = {word.decode() for word in parser.KEYWORDS | parser.NEW | parser.DEFAULTS}
    assert {word for word in words if not re.search(rf"\b{word}\b", page)} == set()
    examples = re.findall(r"\.RS\n(.*?)\n\.RE", page.partition(".SH EXAMPLES")[2], re.DOTALL)
    assert examples
    for example in examples:
        notices: list[Notice] = []
        parse_system(example.encode(), "identd.conf", notices=notices)
        assert notices == []


def test_every_test_has_a_docstring() -> None:
    """Each test says in words what it shows."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


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
    for option in (*options.TABLE, *options.PRINTS):
        for name in (f"-{option.letter}", f"--{option.name}") if option.letter else (f"--{option.name}",):
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", readme), name
