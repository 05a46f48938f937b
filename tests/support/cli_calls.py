"""Running the command line in this process, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from typer.testing import CliRunner

from support import zoo
from tl_scopes.cli.main import app

FISHER, DIFFERENCE = ["--scope", "fisher"], ["--scope", "logit-difference"]


def save_tiny(path: Path) -> str:
    """A tiny Llama with its tokenizer, as a Hugging Face folder."""
    zoo.hf_model("llama", torch.float32).save_pretrained(path)
    zoo.tokenizer().save_pretrained(path)
    return str(path)


def call(*args: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(app, list(args), input=stdin, prog_name="tl-scopes")


def refused(result) -> str:
    """The one line on stderr of a run that ended as bad input must."""
    error = result.stderr
    assert result.exit_code == 2, (result.exit_code, result.stdout, error, result.exception)
    assert result.stdout == ""
    assert (
        error.startswith("tl-scopes: error: ") and error.endswith("\n") and error.count("\n") == 1
    )
    return error


def parsed(text: str) -> dict:
    assert text.endswith("\n") and text.count("\n") == 1

    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=no_constant)


def printed(*args: str, stdin: str | bytes | None = None) -> str:
    """What a run printed that went well and had nothing to say on stderr."""
    result = call(*args, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, ""), (result.stderr, result.exception)
    return result.stdout


def scores(*args: str, stdin: str | bytes | None = None) -> dict:
    return parsed(printed("attribute", "--json", *args, stdin=stdin))
