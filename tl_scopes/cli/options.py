"""Options that several commands take: which model, and how it reads text."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from tl_scopes.adapter.refusals import EACH_IN_TURN, MEND

_model = functools.partial(typer.Option, rich_help_panel="Model")

ModelName = Annotated[
    str,
    _model(
        help="A bundled model (tl-scopes models), a Hugging Face folder on this disk, or a "
        "name that transformer-lens knows.",
        metavar="NAME",
    ),
]
Backend = Annotated[
    Literal["auto", "hooked", "bridge"],
    _model(help="hooked (HookedTransformer), bridge or auto.", metavar="CLASS"),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"],
    _model(help="float32, bfloat16, float16 or float64.", metavar="DTYPE"),
]
Device = Annotated[
    str | None,
    _model(help="cpu, cuda, cuda:1, mps; cuda where there is one, else cpu.", metavar="DEVICE"),
]
TrustRemoteCode = Annotated[
    bool,
    _model(
        "--trust-remote-code",
        help="Run Python files that come with the model; a model that needs them is refused without.",
    ),
]
PrependBos = Annotated[
    bool | None,
    _model("--prepend-bos/--no-bos", help="Overrides the model's own way with text."),
]

# How messages name arguments in Python. A plain word, as in "rank is 0", says as much here.
_FLAGS = {"prepend_bos=True": "--prepend-bos", "prepend_bos=False": "--no-bos"}
_NAMES = {
    "prepend_bos": "--prepend-bos",
    "leave_one_out": "--leave-one-out",
    "NEXT_TOKEN": "id:next",
}
_VALUED = (
    *("position", "rank", "samples", "seed", "target", "sites", "backend", "dtype", "device"),
    *("area", "fractions", "replacements", "leave_one_out", "split", "config", "column", "skip"),
)
_WAYS = {
    EACH_IN_TURN: "write them after the prompt and use --target id:next --position -2, which explains "
    "the last of them; -3 explains the one before",
    MEND: "convert it to UTF-8",
}
# What Python quotes, a user's word as a rule. An apostrophe inside or after a word opens nothing.
_QUOTED = r"(?<!\w)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_IN_PYTHON = re.compile(
    rf"(?P<way>{'|'.join(map(re.escape, _WAYS))})"
    rf"|\b(?P<flag>{'|'.join(_FLAGS)})\b"
    rf"|\b(?P<valued>{'|'.join(_VALUED)})=(?P<value>\"[^\"]*\"|'[^']*'|-?\w+(\.\w+)*)"
    rf"|\b(?P<name>{'|'.join(_NAMES)})\b"
)


def in_options(message: str, typed: Sequence[str] = ()) -> str:
    """A message of the package, which speaks of Python's arguments, with this command line's options.

    What it quotes stays as it is, and so does what was `typed`: a path is not always quoted.
    """
    parts = {part for word in typed for part in re.split(r"[/\\]|^--[\w-]+=", word)}
    kept = sorted(filter(_IN_PYTHON.search, parts), key=len, reverse=True)
    left_alone = "|".join([_QUOTED, *map(re.escape, kept)])

    def option(found: re.Match[str]) -> str:
        if found["alone"]:
            return found["alone"]
        if found["way"]:
            return _WAYS[found["way"]]
        if found["valued"]:
            value = found["value"]
            value = value[1:-1] if value[0] in "'\"" else value
            return f"--{found['valued'].replace('_', '-')} {value}"
        return _FLAGS[found["flag"]] if found["flag"] else _NAMES[found["name"]]

    return re.sub(f"(?P<alone>{left_alone})|{_IN_PYTHON.pattern}", option, message)
