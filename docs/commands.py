"""The command line reference: what `tl-scopes COMMAND --help` says, as tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from tl_scopes.cli.main import app

_MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this for every page."""
    return markdown.replace(_MARK, "\n".join(_commands())) if _MARK in markdown else markdown


def _commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        yield f"## tl-scopes {name}\n"
        yield f"{_prose(command.help or '')}\n"
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = "".join(f" {_metavar(p)}" for p in arguments)
        yield f"```sh\ntl-scopes {name} [OPTIONS]{usage}\n```\n"
        panels: dict[str, list[str]] = {}
        for p in command.params:
            panel = getattr(p, "rich_help_panel", None)
            panel = panel or ("Arguments" if p in arguments else "Options")
            panels.setdefault(panel, []).append(_row(p))
        for panel, rows in panels.items():
            yield f"| {panel} | | if left out |\n|---|---|---|"
            yield "\n".join(rows) + "\n"
        yield _examples(command.epilog or "")


def _metavar(p: Any) -> str:
    return p.metavar or p.name.upper()


def _row(p: Any) -> str:
    if p.param_type_name == "argument":
        name = f"`{_metavar(p)}`"
    else:
        names = ", ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts))
        name = names if p.is_flag else f"{names} `{_metavar(p)}`"
    default = "" if p.default is None or p.required else f"`{p.default}`"
    if isinstance(p.default, bool):  # a flag; of a pair, the one that holds
        held = p.opts if p.default else p.secondary_opts
        default = f"`{held[0]}`" if p.secondary_opts else ""
    return f"| {name} | {_prose(p.help or '')} | {'needed' if p.required else default} |"


def _prose(text: str) -> str:
    """One paragraph a blank line, with what a page would take for markup set as it is."""
    paragraphs = [" ".join(part.split()) for part in text.replace("\f", "").split("\n\n")]
    kept = [re.sub(r"([|*<>\[\]])", r"\\\1", part) for part in paragraphs if part]
    return "\n\n".join(kept)


def _examples(epilog: str) -> str:
    lines = [
        line.strip() for line in epilog.splitlines() if line.strip().startswith(("tl-", "acc"))
    ]
    return "Examples:\n\n```sh\n" + "\n".join(lines) + "\n```\n" if lines else ""
