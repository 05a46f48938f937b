"""The shape of the package: imports go one way, files stay small, and nothing heavy is imported unasked."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# The file, not the module: importing it here would be too early for nothing, and its place is all that is needed.
PACKAGE = Path(__file__).resolve().parent.parent / "tl_scopes"
LONGEST = 330

# Each module may import those of lower rows only. A name stands for a module or a whole subpackage.
ROWS = [
    ["errors", "escapes", "_muted", "_forks", "internals"],
    [
        "failures",
        "fields",
        "files",
        "sites",
        "unembedding",
        "hooks",
        "middle",
        "pinning",
        "head",
        "heads",
        "denominators",
        "characters",
    ],
    [
        "storage",
        "_quiet",
        "_weights",
        "_gemma",
        "_foreign",
        "_bundles",
        "refusals",
        "padding",
        "eigen",
    ],
    ["records"],
    ["result", "fisher", "_gguf", "_folder", "bundled", "_table", "metrics", "_frames"],
    ["circuit_result", "flow_result", "grouping", "spans"],
    ["explain"],
    ["scopes", "custom", "stats"],
    ["guards", "models", "cells"],
    ["faithfulness"],
    ["adapter"],
    ["substitution"],
    ["encoding", "vocabulary", "frozen", "narrow", "recompute", "vjp", "stability"],
    ["prompts", "passes"],
    ["capture", "culprits", "original"],
    ["causality"],
    ["slope"],
    ["engine"],
    ["attribution", "prompted"],
    ["ablation", "method"],
    ["circuits", "baselines", "evaluation", "render"],
    ["checking"],
    ["app", "cli", "cli_app", "_cli", "_options", "cli_evaluate", "_evaluate", "cli_check"],
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
SIBLINGS = {"circuits", "baselines", "evaluation", "render"}
# Pictures are made of results alone.
ONLY = {
    "render": {
        *("errors", "escapes", "files", "storage", "result", "circuit_result", "flow_result"),
        *(
            "records",
            "grouping",
            "stats",
            "metrics",
            "cells",
            "faithfulness",
            "characters",
            "spans",
        ),
    },
    "errors": set(),
    "escapes": set(),
    "sites": {"errors"},
    "files": {"errors"},
    "storage": {"errors", "files"},
    "unembedding": {"errors"},
    "result": {"errors", "escapes", "fields", "files", "records", "storage"},
    "_quiet": {"errors", "escapes", "_muted", "_forks"},
}
HEAVY = [
    *("matplotlib", "circuitsvis", "rich", "pandas", "typer", "plotly", "IPython", "captum"),
    *("pyarrow", "datasets", "accelerate", "scipy", "streamlit"),
]


def modules() -> dict[str, Path]:
    """Dotted name below the package: its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, everywhere: bool = False) -> set[str]:
    """Names below `tl_scopes` that a file imports: when it is itself imported, or (`everywhere`) at any time."""
    wanted = set()

    def take(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                wanted.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name} imports relatively: write tl_scopes. ..."
                wanted.update(f"{child.module}.{alias.name}" for alias in child.names)
            elif (
                isinstance(child, ast.If)
                and "TYPE_CHECKING" in ast.unparse(child.test)
                and not everywhere
            ):
                for other in child.orelse:
                    take(other)
            elif everywhere or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                take(child)

    take(ast.parse(path.read_text(encoding="utf-8")))
    known = modules()
    inside = {name.removeprefix("tl_scopes.") for name in wanted if name.startswith("tl_scopes.")}
    while deeper := {name for name in inside if name not in known}:
        inside = inside - deeper | {name.rpartition(".")[0] for name in deeper}
    return inside - {""}


def top(name: str) -> str:
    return name.split(".")[0]


MODULES = modules()


def test_every_module_has_its_row():
    unknown = {top(name) for name in MODULES if name} - RANK.keys()
    assert not unknown, f"give {unknown} a row in this file: which modules may they import?"


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_go_one_way(name):
    for other in imported(MODULES[name]):
        if top(other) == top(name):
            continue  # inside a subpackage; cycles are looked for below
        lower = RANK[top(other)] < RANK[top(name)]
        assert lower or (
            RANK[top(other)] == RANK[top(name)] and not {top(name), top(other)} <= SIBLINGS
        ), f"{name} imports {other}"
        assert top(other) in ONLY.get(top(name), {top(other)}), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) in SIBLINGS])
def test_side_modules_never_import_each_other(name):
    others = {top(other) for other in imported(MODULES[name], everywhere=True)} - {top(name)}
    assert not others & SIBLINGS


def test_there_are_no_cycles():
    graph = {name: imported(path) - {name} for name, path in MODULES.items() if name}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name, needs in graph.items() if name not in done and needs <= done}
        assert ready, f"a cycle among {sorted(graph.keys() - done)}"
        done |= ready


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_are(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))


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
