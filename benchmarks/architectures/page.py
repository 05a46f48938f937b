"""The page of the docs that says which model, which function, since which transformer-lens, how exactly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "architectures.md"
# The page's columns, and those of the check that they stand for.
GROUPS = {
    "`attribute`": ("semantic", "temperature", "fisher full", "fisher 4"),
    '`components` by `"layer"`': ("components layer",),
    'by `"mlp"`': ("components mlp",),
    'by `"head"`': ("components head",),
    "`head_paths`": ("head_paths",),
    "`flow`": ("flow",),
    "`frozen`": ("frozen norms", "frozen both"),
}
_NAMES = {"semantic": "Semantic", "temperature": "Temperature", "fisher": "Fisher"}
_OPENING = """# Which models

This table has every architecture for decoding text that transformer-lens's bridge knows. Each model is tiny
and random ({layers}). Its results are compared with plain autograd on a Hugging Face copy that
transformer-lens never touched, at the embedding and at every block.

- A number is the largest difference in float32, as a share of the largest score at the same site. In
  bfloat16 it is {bfloat16:.0%} in the median.
- `no`: the package refuses it, for one of the [reasons below](#why-not).
- `not booted`: transformer-lens itself cannot load it.
- `3.9:` and `4.3:` are versions of transformer-lens, where they differ.

The table says that the package reads the code of an architecture rightly. It does not say so of a
checkpoint: `tl-scopes check` tests yours.

| column | is compared with, on the copy |
|---|---|
| `attribute` | SemanticScope, TemperatureScope, and FisherScope with rank 4 and "full", at every site |
| `components` by layer | gradient times what each block adds |
| by MLP | the sum that direct effects must add up to |
| by head | gradient times output, at the input of the output projection |
| `head_paths` | the vector-Jacobian product by way of each head's output |
| `flow` | the vector-Jacobian product by way of each position of layer 2 |
| `frozen` | `flow` with "norms" and "both", with scales and patterns taken out of the copy's graph |

`make architectures` writes this page, from `benchmarks/results/architectures-*.json`. Versions: {versions}.
"""


def load() -> dict[str, dict[str, Any]]:
    """The results by generation, oldest first."""
    paths = sorted(RESULTS.glob("architectures-*.json"))
    tables = {path.stem.partition("-")[2]: path for path in paths}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in tables.items()}


def packed(table: dict[str, Any]) -> str:
    """As JSON, a line for every row and dtype: what changed shows."""
    rows = []
    for name, row in table["rows"].items():
        cells = [f"  {json.dumps(dtype)}: {json.dumps(each)}" for dtype, each in row.items()]
        rows.append(f" {json.dumps(name)}: {{\n" + ",\n".join(cells) + "\n }")
    rest = {key: value for key, value in table.items() if key != "rows"}
    return json.dumps(rest, indent=1)[:-2] + ',\n "rows": {\n' + ",\n".join(rows) + "\n }\n}\n"


def text(tables: dict[str, dict[str, Any]]) -> str:
    rows = sorted({name for table in tables.values() for name in table["rows"]}, key=str.lower)
    lines = [
        f"| {short(name)} | "
        + " | ".join(_cell(tables, name, group) for group in GROUPS.values())
        + " |"
        for name in rows
    ]
    heading = "| model | " + " | ".join(GROUPS) + " |"
    versions = "; ".join(
        f"transformer-lens {t['versions']['transformer-lens']} with transformers "
        f"{t['versions']['transformers']} and torch {t['versions']['torch']}"
        for t in tables.values()
    )
    errors = sorted(
        cell["error"]
        for table in tables.values()
        for row in table["rows"].values()
        for cell in row.get("bfloat16", {}).values()
        if "error" in cell
    )
    opening = _OPENING.format(
        layers="three layers of width 16",
        bfloat16=errors[len(errors) // 2] if errors else 0,
        versions=versions,
    )
    table = "\n".join([heading, "|---" * (len(GROUPS) + 1) + "|", *lines])
    return f"{opening}\n{table}\n\n## Why not\n\n{_reasons(tables)}\n\n## Not checked\n\n{_others(tables)}\n"


def short(name: str) -> str:
    kind, _, variant = name.partition(", ")
    kind = re.sub("(ForCausalLM|LMHeadModel)$", "", kind)
    return f"{kind}, {variant}" if variant else kind


def _cell(tables: dict[str, dict[str, Any]], name: str, columns: tuple[str, ...]) -> str:
    """What holds on every generation, or, where they differ, what holds on which."""
    said = {
        generation: _one(table["rows"][name], columns) if name in table["rows"] else ("absent", 0.0)
        for generation, table in tables.items()
    }
    every = {words for words, _ in said.values()}
    if len(every) == 1:
        return _with(every.pop(), max(error for _, error in said.values()))
    return "; ".join(
        f"{generation}: {_with(words, error)}" for generation, (words, error) in said.items()
    )


def _with(words: str, error: float) -> str:
    return words.replace("{}", f"{error:.0e}".replace("e-0", "e-"))


def _one(row: dict[str, Any], columns: tuple[str, ...]) -> tuple[str, float]:
    """In words, {} standing for the error, and the largest error in float32."""
    cells = {dtype: {c: each.get("all") or each[c] for c in columns} for dtype, each in row.items()}
    for each in cells.values():
        for cell in each.values():
            if "unbooted" in cell:
                return "not booted", 0.0
            if not cell.keys() <= {"error", "refused"}:
                return f"**{next(iter(cell))}**", 0.0
    fine = {dtype: [c for c in columns if "error" in each[c]] for dtype, each in cells.items()}
    missing = [c for c in columns if c not in fine["float32"]]
    worst = max((cells["float32"][c]["error"] for c in fine["float32"]), default=0.0)
    if not fine["float32"]:
        return "no", 0.0
    words = "{}"
    if missing:
        words += " without " + ", ".join(_NAMES.get(c, c.removeprefix("frozen ")) for c in missing)
    less = [c for c in fine["float32"] if c not in fine["bfloat16"]]
    if less:
        names = [_NAMES.get(c, c.removeprefix("frozen ")) for c in less]
        every = less == fine["float32"]
        words += ", not in bfloat16" if every else f", in bfloat16 not {', '.join(names)}"
    return words, worst


def _reasons(tables: dict[str, dict[str, Any]]) -> str:
    """What is refused, by the words of the refusal, numbers aside."""
    found: dict[str, dict[str, None]] = {}
    for table in tables.values():
        for name, row in table["rows"].items():
            for cells in row.values():
                for cell in cells.values():
                    said = cell.get("refused") or cell.get("unbooted")
                    if said:
                        words = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "N", said.replace("|", "/"))
                        found.setdefault(_shortened(words), {})[short(name)] = None
    return "\n".join(
        f"- `{words.replace('`', chr(39))}`: {'; '.join(names)}."
        for words, names in sorted(found.items())
    )


def _shortened(words: str) -> str:
    """The generations cut a refusal at different lengths: to be told once, it is cut shorter."""
    return words if len(words) <= 115 else f"{words[:115].rpartition(' ')[0]} ..."


def _others(tables: dict[str, dict[str, Any]]) -> str:
    by_reason: dict[str, dict[str, None]] = {}
    for table in tables.values():
        for name, reason in table["others"].items():
            by_reason.setdefault(reason, {})[name] = None
    return "\n".join(f"- {reason}: {', '.join(names)}." for reason, names in by_reason.items())


def write() -> None:
    PAGE.write_text(text(load()), encoding="utf-8")
