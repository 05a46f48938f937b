"""The shape of the package: imports go one way, files stay small, and nothing heavy is imported unasked."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from support.package_files import MODULES, PACKAGE

LONGEST = 330

# The rooms of the house, from the ground up. A room may import itself and those before it: never one that
# comes after it, nor one beside it on the same line, at any time, late imports inside of functions included.
ROOMS = [
    ["errors"],
    ["rules"],
    ["results"],
    ["adapter", "render"],
    ["models", "scopes"],
    ["jacobian"],
    ["attribution"],
    ["generation"],
    ["baselines"],
    ["evaluation"],
    ["circuits"],
    ["checking"],
    ["app"],
    ["cli"],
]
RANK = {room: rank for rank, row in enumerate(ROOMS) for room in row}
# The folders of `circuits`, from the ground up; its other files, one a public call, stand above them all.
FLOORS = ["passes", "pairs", "wiring", "judging"]
# The one door upward: a result asks for pictures of itself when it is drawn.
DOOR = ("results.base", "render")
MOST_ENTRIES = 18
HEAVY = [
    *("matplotlib", "circuitsvis", "rich", "pandas", "typer", "plotly", "IPython", "captum"),
    *("pyarrow", "datasets", "accelerate", "scipy", "streamlit"),
]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path, everywhere: bool = True) -> set[str]:
    """Names below `tl_scopes` that a file imports: at any time, or only when it is itself imported.

    `import_module` of a text counts as well, and so do names for type checkers alone.
    """
    wanted = set()

    def take(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                wanted.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name} imports relatively: write tl_scopes. ..."
                wanted.update(f"{child.module}.{alias.name}" for alias in child.names)
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith("import_module"):
                if everywhere and isinstance(child.args[0], ast.Constant):
                    wanted.add(child.args[0].value)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse + (child.body if everywhere else []):
                    take(ast.Module([other], []))
            elif everywhere or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                take(child)

    take(parsed(path))
    known = MODULES
    inside = {name.removeprefix("tl_scopes.") for name in wanted if name.startswith("tl_scopes.")}
    while deeper := {name for name in inside if name not in known}:
        inside = inside - deeper | {name.rpartition(".")[0] for name in deeper}
    return inside - {""}


def top(name: str) -> str:
    return name.split(".")[0]


def test_the_top_of_the_package_is_its_rooms():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(entries) <= MOST_ENTRIES
    others = {name.removesuffix(".py") for name in entries} - RANK.keys()
    assert others == {"__init__", "py.typed"}, f"give {others} a room: which others may it import?"


def test_imports_go_one_way():
    upward = {
        f"{name} imports {other}"
        for name in MODULES
        for other in (imported(MODULES[name]) if name else ())
        # Inside a room circles are looked for below.
        if (name, other) != DOOR and top(other) != top(name) and RANK[top(other)] >= RANK[top(name)]
    }
    assert not upward


def test_rooms_do_not_come_in_by_the_front_door():
    """`tl_scopes` itself has names of every room. The explorer and the command line use it as users do."""
    for name, path in MODULES.items():
        if top(name) in ("", "app", "cli"):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "tl_scopes":
                assert {alias.name for alias in node.names} <= {*RANK, "__version__"}, name
            elif isinstance(node, ast.Import):
                assert "tl_scopes" not in {alias.name for alias in node.names}, name


def test_there_are_no_circles():
    graph = {name: imported(path) - {name} for name, path in MODULES.items() if name}
    graph[DOOR[0]].discard(DOOR[1])
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name, needs in graph.items() if name not in done and needs <= done}
        assert ready, f"a circle among {sorted(graph.keys() - done)}"
        done |= ready


def test_folders_of_circuits_import_those_below_them():
    for rank, folder in enumerate(FLOORS):
        own = {name for name in MODULES if name.startswith(f"circuits.{folder}.")}
        assert own, folder
        needed = {
            other for name in own for other in imported(MODULES[name]) if top(other) == "circuits"
        }
        allowed = tuple(f"circuits.{below}." for below in FLOORS[: rank + 1])
        assert not {other for other in needed if not other.startswith(allowed)}, folder


def test_files_are_short():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: n for name, n in lines.items() if n > LONGEST}


def test_modules_say_what_they_are():
    assert not [name for name, path in MODULES.items() if not ast.get_docstring(parsed(path))]


@pytest.mark.parametrize(
    "statement",
    [
        "import tl_scopes",
        "import tl_scopes; tl_scopes.attribute, tl_scopes.FisherScope(), tl_scopes.Attribution",
    ],
)
def test_importing_the_package_loads_nothing_that_draws(statement):
    code = f"import sys; {statement}; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
