"""Options that several commands take, and what they mean: the model, how it reads text, where results go."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from tl_scopes.adapter.refusals import ALL_TOGETHER, MEND
from tl_scopes.errors import ModelUnavailableError
from tl_scopes.results.files import target

MODEL = (
    "A bundled model (tl-scopes models), a Hugging Face folder on this disk, or a name that "
    "transformer-lens knows."
)
_PICTURES = (".png", ".pdf", ".svg")
_model = functools.partial(typer.Option, rich_help_panel="Model")
output = functools.partial(typer.Option, rich_help_panel="Output")

ModelName = Annotated[str, _model(help=MODEL, metavar="NAME")]
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
Html = Annotated[Path | None, output(help="Write a self-contained page.", metavar="FILE")]
Json = Annotated[bool, output("--json", help="Print one JSON object and nothing else.")]


def bad(option: str, message: str) -> typer.BadParameter:
    """A mistake in the value of one option, to raise."""
    return typer.BadParameter(message, param_hint=f"'{option}'")


def device(name: str | None) -> str | None:
    """The device, after a tensor was put there. Raises BadParameter for one that cannot be used."""
    from tl_scopes.models.loading import usable_device

    try:
        return name and usable_device(name)
    except ModelUnavailableError as error:
        raise bad("--device", str(error).rstrip(".")) from None


def outputs(**paths: Path | None) -> dict[str, Path]:
    """The files asked for, by option. Raises BadParameter for one that could not be written: better
    now than after the model has run."""
    found: dict[str, Path] = {}
    for kind, path in paths.items():
        if path is None:
            continue
        option = f"--{kind}"
        if kind == "plot" and path.suffix.lower() not in _PICTURES:
            raise bad(option, f"{str(path)!r} must end in {', '.join(_PICTURES)}")
        try:
            file = target(path)
        except FileNotFoundError:
            folder = str(path.resolve().parent)
            raise bad(option, f"the folder {folder!r} does not exist; make it first") from None
        except OSError as error:
            raise bad(option, str(error)) from None
        folder = file.parent
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            reason = error.strerror or error
            raise bad(option, f"the folder {str(folder)!r} cannot be written ({reason})") from None
        if file in (target(other) for other in found.values()):
            raise bad(option, f"{str(path)!r} is given twice; give two names")
        found[kind] = path
    return found


# How messages name arguments in Python. A plain word, as in "rank is 0", says as much here.
_FLAGS = {"prepend_bos=True": "--prepend-bos", "prepend_bos=False": "--no-bos"}
_NAMES = {
    "prepend_bos": "--prepend-bos",
    "leave_one_out": "--leave-one-out",
    "max_new_tokens": "--generate",
    "NEXT_TOKEN": "id:next",
}
_VALUED = (
    *(
        "position",
        "rank",
        "samples",
        "seed",
        "draws",
        "target",
        "sites",
        "backend",
        "dtype",
        "device",
    ),
    *("area", "fractions", "replacements", "leave_one_out", "split", "config", "column", "skip"),
)
_WAYS = {
    ALL_TOGETHER: "give them to --continuation, which has one score for all; with --next each can be read "
    "after the prompt",
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


def items(option: str, text: str) -> list[str]:
    """`"a, b"` as a list. Raises BadParameter for an empty entry, or one given twice."""
    entries = [item.strip() for item in text.split(",")]
    if not all(entries):
        raise bad(option, f"{text!r} has an empty entry; put one comma between two")
    twice = next((item for item in entries if entries.count(item) > 1), None)
    if twice is not None:
        raise bad(option, f"{twice!r} is given twice; give it once")
    return entries


def numbers(option: str, text: str) -> list[float]:
    """`"0.1, 0.2"` as numbers. Raises BadParameter."""
    try:
        return [float(item) for item in items(option, text)]
    except ValueError:
        raise bad(option, f"{text!r} is not allowed; give numbers such as 0.05,0.1,0.2") from None
