"""The command `tl-scopes models`: which bundled models are ready here."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from tl_scopes.cli.terminal import print_table
from tl_scopes.models import DEFAULT_MODEL, BundleState, available
from tl_scopes.results.escapes import message


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """List the bundled models, which need no network, and whether they are ready here."""
    states = available()
    if not as_json:
        return print_states(states)
    rows = [
        dataclasses.asdict(state)
        | {"path": str(state.path), "ready": state.ready, "default": state.name == DEFAULT_MODEL}
        for state in states
    ]
    typer.echo(json.dumps(rows))


def print_states(states: list[BundleState]) -> None:
    """Print the bundled models as a table, then how to name a model and how to install a missing one."""
    from rich.table import Column

    rows = []
    for state in states:
        ready = "ready" if state.cached else "ready (converts once)"
        size = f"{state.size / 1e9:.1f} GB"
        shown = ready if state.ready else "not installed"
        rows.append((state.name, shown, size, state.licence, state.description))
    columns = [Column(name, no_wrap=True) for name in ("MODEL", "STATE", "SIZE", "LICENCE")]
    print_table([*columns, Column("WHAT")], rows)
    typer.echo(
        f"\nDefault: {DEFAULT_MODEL}. --model also takes a Hugging Face folder, or a name that "
        "transformer-lens knows."
    )
    for state in states:
        if not state.ready:
            typer.echo(message(f"For {state.name}: {state.pip_command}"))
