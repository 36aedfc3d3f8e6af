"""Does the project keep to the layout that CONTRIBUTING.md tells: sizes, direction of imports, what one query loads?"""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from helpers.installed import readable_folder
from helpers.machine import AS_NOBODY, ROOT, only_if_others_can_read_it
from helpers.pairs import Pair, named
from helpers.single_shot import handler

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Lines of a module without blank ones, comments and docstrings; of a module, and of a function, with everything.
MOST_CODE, MOST_LINES, MOST_OF_A_FUNCTION = 300, 450, 60

#: Lines of code of identd.py, and of a module of tests or of a measurement.
MOST_OF_THE_SCRIPT, MOST_OF_A_TEST = 80, 500

#: The rooms from top to bottom. A room may import what stands below it, and nothing beside or above it.
LAYERS = (
    ("identd",),
    ("identserver.start",),
    ("identserver.by_hand", "identserver.warm", "identserver.admin"),
    ("identserver.as_root",),
    ("identserver.answer",),
    ("identserver.ahead",),
    ("identserver.elsewhere",),
    ("identserver.seeker",),
    ("identserver.reader",),
    ("identserver.passing",),
    ("identserver.protocol",),
    ("identserver.privileges",),
    ("identserver.capabilities",),
    ("identserver.log",),
    ("identserver.closed",),
    ("identserver.journal",),
    ("identserver.command_line",),
    ("identserver.options",),
    ("identserver",),
    ("lookup",),
    ("lookup.machines",),
    ("lookup.owner", "lookup.behind", "lookup.gateways"),
    ("lookup.config",),
    ("lookup.kernel", "lookup.users"),
    ("lookup.user_namespace",),
    ("lookup.connection",),
)

#: Imports that go up, each inside a function that few starts reach: options.read() parses by argparse for a person.
UPWARDS = {("identserver.options", "identserver.command_line")}

PROGRAM = [ROOT / "identd.py", *sorted((ROOT / "identserver").rglob("*.py")), *sorted((ROOT / "lookup").rglob("*.py"))]
TESTS = [*sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

#: What the protocol class may not import: it does no input or output. (asyncio: only for a handler's awaitable.)
INPUT_AND_OUTPUT = {
    "io", "os", "pathlib", "select", "selectors", "signal", "socket", "socketserver", "ssl", "subprocess", "syslog",
    "threading", "_thread", "multiprocessing", "concurrent",
}  # fmt: skip

#: Modules of ours for one query about a connection, packages whose `__init__` is empty left out: each costs 0.1 ms.
MOST_MODULES = 12

#: What one query does not use.
UNUSED = {
    "_weakrefset", "argparse", "asyncio", "collections", "contextlib", "copyreg", "enum", "functools", "importlib",
    "inspect", "linecache", "logging", "multiprocessing", "operator", "psutil", "pyroute2", "re", "reprlib", "select",
    "selectors", "signal", "socket", "ssl", "subprocess", "textwrap", "threading", "tokenize", "traceback", "types",
    "typing", "warnings", "weakref",
    "identserver.admin", "identserver.ahead", "identserver.by_hand", "identserver.capabilities", "identserver.closed",
    "identserver.command_line", "identserver.elsewhere", "identserver.journal", "identserver.options",
    "identserver.seeker", "identserver.warm",
    "lookup.behind", "lookup.config", "lookup.gateways", "lookup.machines",
    "lookup.kernel.causes", "lookup.kernel.conntrack", "lookup.kernel.dumps",
    "lookup.kernel.namespaces", "lookup.kernel.processes", "lookup.kernel.search", "lookup.kernel.wire",
    "lookup.users.database",
}  # fmt: skip


def name_of(path: Path) -> str:
    """Return what a module of the project is called in an import."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PROGRAM}


def parsed(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def lines_of_code(path: Path) -> int:
    """Count the lines that are neither blank nor a comment's nor a docstring's."""
    documented: set[int] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTION)) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            documented |= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    lines = enumerate(path.read_text().splitlines(), 1)
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") and n not in documented for n, line in lines)


def test_lines_are_counted_as_agreed(tmp_path: Path) -> None:
    """Blank lines, comments and docstrings are no code; strings that are none are."""
    path = tmp_path / "module.py"
    text = '"""Why?\n\nSo.\n"""\n\n# a comment\nTEXT = """\nno comment\n"""  # one\n\n\n'
    path.write_text(text + 'def f():\n    "Doc."\n    return 1\n')
    assert lines_of_code(path) == 5


# Sizes.


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_size_of_a_module(path: Path) -> None:
    """A module that reaches the limit probably does two jobs: split it."""
    assert lines_of_code(path) <= MOST_CODE
    assert len(path.read_text().splitlines()) <= (MOST_OF_THE_SCRIPT if path.name == "identd.py" else MOST_LINES)


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_size_of_a_module_of_tests(path: Path) -> None:
    """So it is with tests and measurements."""
    assert lines_of_code(path) <= MOST_OF_A_TEST


@pytest.mark.parametrize("path", [*PROGRAM, *TESTS], ids=name_of)
def test_size_of_a_function(path: Path) -> None:
    """A function fits on a screen."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, FUNCTION):
            assert (node.end_lineno or 0) - node.lineno < MOST_OF_A_FUNCTION, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_first_line_asks_a_question(path: Path) -> None:
    """Each module's first line is the question that it answers. A module that needs two is two."""
    docstring = ast.get_docstring(parsed(path))
    assert docstring is not None
    assert docstring.splitlines()[0].endswith("?")


# Direction of imports.


class Import(NamedTuple):
    """An import: of which module, of which name in it, and whether inside a function."""

    module: str
    name: str
    inside: bool
    line: int


def imports(path: Path) -> Iterator[Import]:
    """Yield what a module imports, also where only types need it."""
    module = name_of(path)
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node, inside in _import_nodes(parsed(path), False):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", inside, node.lineno) for alias in node.names)
            continue
        base = package[: len(package) + 1 - node.level] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            whole = f"{source}.{alias.name}"
            yield Import(*((whole, "") if whole in MODULES else (source, alias.name)), inside, node.lineno)


def _import_nodes(node: ast.AST, inside: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, inside
        yield from _import_nodes(child, inside or isinstance(child, FUNCTION))


def ours(path: Path) -> Iterator[Import]:
    """Yield what a module imports of this project."""
    return (one for one in imports(path) if one.module.partition(".")[0] in ("identd", "identserver", "lookup"))


def room_of(module: str) -> tuple[str, int]:
    """Return the room that a module belongs to, and how deep it lies."""
    for depth, rooms in enumerate(LAYERS):
        for room in rooms:
            if module == room or (module.startswith(f"{room}.") and "." in room):
                return room, depth
    raise AssertionError(f"{module} has no place in LAYERS: give it one")


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_imports_run_downwards(path: Path) -> None:
    """Calls go down, results come up: no room knows what stands above or beside it."""
    room, depth = room_of(name_of(path))
    for one in ours(path):
        other, deeper = room_of(one.module)
        allowed = other == room or deeper > depth or (one.inside and (room, other) in UPWARDS)
        assert allowed, f"{path.relative_to(ROOT)}:{one.line} imports {one.module}"


def test_the_package_lookup_imports_one_room() -> None:
    """Every lower module runs it first, so that it imports the rest when it is called."""
    at_once = {one.module for one in ours(ROOT / "lookup" / "__init__.py") if not one.inside}
    only_types = {"lookup.owner"}
    assert at_once - only_types == {"lookup.connection"}
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import lookup; print(*sys.modules)"
    loaded = set(_output(code).split())
    assert {name for name in loaded if name.partition(".")[0] == "lookup"} == {"lookup", "lookup.connection"}


@pytest.mark.parametrize("path", PROGRAM, ids=name_of)
def test_no_room_uses_anothers_insides(path: Path) -> None:
    """What begins with an underscore is used by its own module alone."""
    modules = {one.module.rpartition(".")[2]: one for one in ours(path) if not one.name}
    for one in ours(path):
        assert not one.name.startswith("_") or one.name.startswith("__"), f"{path.name}:{one.line}: {one.name}"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not private, f"{path.name}:{node.lineno}: {node.attr}"


def test_the_protocol_does_no_input_or_output() -> None:
    """Whoever drives it gives it octets and takes them: it imports nothing that could do more."""
    path = ROOT / "identserver" / "protocol.py"
    assert not {one.module.partition(".")[0] for one in imports(path)} & INPUT_AND_OUTPUT
    assert [one for one in imports(path) if one.module == "asyncio" and not one.inside] == []


@pytest.mark.parametrize("path", [path for path in PROGRAM if "lookup" in path.parts], ids=name_of)
def test_lookup_prints_and_logs_nothing(path: Path) -> None:
    """It returns or raises, and takes what it needs as arguments; telling people is identserver's job."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Name):
            assert node.id != "print", f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Attribute):
            assert (node.attr, getattr(node.value, "id", "")) not in {
                (name, "sys") for name in ("argv", "stdin", "stdout", "stderr")
            }, f"{path.name}:{node.lineno}"
    assert not {"logging", "syslog", "warnings"} & {one.module for one in imports(path)}


# What one query loads.


def _output(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


#: Runs identd on a host without a system file; each of its processes writes at its end which modules it has loaded.
LIST_MODULES = """
import sys
sys.path.insert(0, {root!r})
import os
before = set(sys.modules)
leave = os._exit
def list_modules():
    with open({path!r}, "a") as file:
        print(*set(sys.modules) - before, file=file)
def list_and_leave(status):
    list_modules()
    leave(status)
os._exit = list_and_leave
import identd, identserver
identserver.CONFIG = {path!r} + ".none"
status = identd.main([])
list_modules()
sys.exit(status)
"""


def as_inetd_does() -> dict[str, Any]:
    """Return what makes subprocess start identd as superservers do: without root's rights."""
    only_if_others_can_read_it()
    return AS_NOBODY if os.geteuid() == 0 else {}


@pytest.fixture
def loaded(pair: Pair) -> set[str]:
    """Which modules are loaded when one query about a connection has been answered, beside what Python itself loads."""
    return modules_of_a_query(pair, None)


def modules_of_a_query(pair: Pair, system_file: str | None) -> set[str]:
    """Return which modules a query loads. :param system_file: what is in there; None: there is none."""
    with readable_folder() as folder:
        path = folder / "modules"
        path.touch()
        path.chmod(0o666)
        if system_file is not None:
            folder.joinpath("modules.none").write_text(system_file)
        code = LIST_MODULES.format(root=str(ROOT), path=str(path))
        with handler(command=[sys.executable, "-c", code], **as_inetd_does()) as served:
            assert served.ask(pair.query + b"\r\n") == named(pair)
            assert served.status() == 0
        return set(path.read_text().split())


def test_one_query_loads_nothing_that_it_does_not_use(loaded: set[str]) -> None:
    """Every connection may be a new process: start-up is the hot path."""
    assert "identserver.answer" in loaded
    assert not {name for name in loaded for unused in UNUSED if name == unused or name.startswith(f"{unused}.")}


def test_a_configuration_imports_nothing_slow(pair: Pair) -> None:
    """A system file with rules of every kind, and the owner's file, are read without re, socket and what they need."""
    rules = "".join(
        f'user {70000 + number} {{ to 192.0.2.0/24 fport 6000:7000 {{ force reply "x" }} }}\n' for number in range(20)
    )
    allowed = "default { default { allow hide } from host.invalid lport 70 { allow spoof } }\n"
    loaded = modules_of_a_query(pair, rules + allowed)
    assert {"lookup.config.policy", "lookup.config.user_file", "lookup.users.database"} <= loaded
    slow = {name for name in UNUSED if "." not in name} - {"select"}
    assert not {name for name in loaded if name.partition(".")[0] in slow}


def test_a_query_imports_nothing_slow() -> None:
    """One query by hand loads none of the expensive modules either."""
    slow = {
        "asyncio", "argparse", "psutil", "ssl", "multiprocessing", "subprocess", "pyroute2", "lookup.config.grammar",
    }  # fmt: skip
    code = (
        "import sys, identd; status = identd.main([]);"
        f"print(sorted({slow!r} & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    popen = {**as_inetd_does(), "cwd": ROOT}
    result = subprocess.run([sys.executable, "-c", code], input=b"1,2\n", capture_output=True, timeout=60, **popen)
    assert result.stdout == b"1,2:ERROR:NO-USER\r\n"
    assert result.stderr.splitlines()[-1] == b"[]"


def test_how_many_modules_one_query_loads(loaded: set[str]) -> None:
    """Twenty modules of ours cost 0.7 ms more than a dozen."""
    empty = {name for name, path in MODULES.items() if not lines_of_code(path)}
    mine = {name for name in loaded if name.partition(".")[0] in ("identd", "identserver", "lookup")}
    ours = sorted(mine - empty)
    print(f"{len(ours)} modules of ours: {', '.join(ours)}")
    assert len(ours) <= MOST_MODULES, ours


def test_the_installed_command_imports_nothing_more() -> None:
    """It is a script of ours: what pip 23 writes for an entry point imports re, as long as half of a query takes."""
    path = ROOT / "identserver" / "bin" / "identd"
    assert {one.module for one in imports(path)} == {"sys", "identd", "os", "syslog"}
    after_the_first_failure = path.read_text().index("except Exception")
    assert path.read_text().index("import os") > after_the_first_failure
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["options"]["scripts"] == str(path.relative_to(ROOT))
    assert "options.entry_points" not in settings
