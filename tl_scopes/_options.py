"""Options that several commands take: which model, and how it reads text."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import typer

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
