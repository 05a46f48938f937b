"""The command `tl-scopes attribute`: the scores of one prompt's tokens."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tl_scopes.adapter.sites import from_text
from tl_scopes.baselines import named
from tl_scopes.cli import options
from tl_scopes.cli.inputs import prompt_of, rules_of, scope_of
from tl_scopes.cli.options import bad
from tl_scopes.cli.terminal import quiet, write
from tl_scopes.models import DEFAULT_MODEL
from tl_scopes.models.quiet import say

EXAMPLES = """Examples:

    tl-scopes attribute "The capital of France is"

    tl-scopes attribute "The truth is" --scope logit-difference --target " that" --versus " not"

    tl-scopes attribute "The capital of France is Paris" --next      # why " Paris"?

    tl-scopes attribute "The capital of France is" --continuation " Paris, of course"

    tl-scopes attribute "Once upon a time" --generate 20 --temperature 0.8 --seed 1 --html answer.html

    tl-scopes attribute --chat messages.json --model smollm2-135m-instruct --generate 40

    tl-scopes attribute "The truth is" --scope fisher --rank 4 --html scope.html

    tl-scopes attribute "The truth is" --scope temperature --sites all --plot layers.pdf

    tl-scopes attribute "The truth is" --rules gim

    tl-scopes attribute - --sites embed,6,12 --json < prompt.txt > scores.json

    tl-scopes attribute --model ./my-model --dtype bfloat16 -- "-40 degrees is"
"""
# What the help of --scope describes; the other names are listed after them.
_DESCRIBED = ("semantic", "logit-difference", "continuation", "temperature", "fisher", "entropy")
_explained = functools.partial(typer.Option, rich_help_panel="What is explained")
_answer = functools.partial(typer.Option, rich_help_panel="Conversations and answers")


def attribute(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text. A single - reads it from stdin, less one line break at its end; put -- "
            "before a text that starts with a dash.",
            metavar="PROMPT",
        ),
    ] = None,
    model: options.ModelName = DEFAULT_MODEL,
    backend: options.Backend = "auto",
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    prepend_bos: options.PrependBos = None,
    scope: Annotated[
        str | None,
        _explained(
            help="semantic (one logit), logit-difference (one against another), continuation (a whole "
            "text that follows), temperature (confidence), fisher (the whole distribution), entropy, or "
            f"any of {', '.join(n for n in named.names() if n not in _DESCRIBED)}. semantic if left out, "
            "continuation with --continuation.",
            metavar="SCOPE",
        ),
    ] = None,
    continuation: Annotated[
        str | None,
        _explained(
            help="Explain the log-probability of all of this text, which follows the prompt (mind a "
            "leading space).",
            metavar="TEXT",
        ),
    ] = None,
    target: Annotated[
        str | None,
        _explained(
            help="The token of semantic and logit-difference: text that is one token (mind a "
            "leading space), id:1234, or id:next, which follows --position in the prompt. The top "
            "prediction if left out.",
            metavar="TOKEN",
        ),
    ] = None,
    follows: Annotated[
        bool,
        _explained(
            "--next",
            help="Explain the token that follows --position in the prompt: its last one if "
            "--position is left out.",
        ),
    ] = False,
    versus: Annotated[
        str | None,
        _explained(
            help="The token that logit-difference takes away; with --continuation, another text.",
            metavar="TOKEN",
        ),
    ] = None,
    rank: Annotated[
        str | None,
        _explained(
            help="What fisher keeps exactly: a number of eigenpairs, a share such as 0.9, or full. "
            "1 if left out, but nothing with --samples.",
            metavar="RANK",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        _explained(help="Random directions by which fisher estimates the rest.", metavar="N"),
    ] = None,
    seed: Annotated[
        int | None,
        _explained(help="For --samples and --temperature; 0 if left out.", metavar="N"),
    ] = None,
    rules: Annotated[
        str | None,
        _explained(
            help="Gradient rules in place of plain gradients: gim, or some of softmax:T (its temperature on "
            "the way back), attention and mlp (products split), norms and patterns (held constant); commas "
            "between several.",
            metavar="RULES",
        ),
    ] = None,
    sites: Annotated[
        str,
        _explained(
            help="Where influence is measured: embed, all (embed and every layer), layers, hook "
            "names; commas between several.",
            metavar="SITES",
        ),
    ] = "embed",
    position: Annotated[
        int | None,
        _explained(
            help="The token whose next-token prediction is explained; -1, the last one, if left out.",
            metavar="N",
        ),
    ] = None,
    chat: Annotated[
        str | None,
        _answer(
            help="Instead of PROMPT a conversation: a JSON list of messages with role and content, from a "
            "file, or - from stdin. The tokenizer's chat template writes it.",
            metavar="FILE",
        ),
    ] = None,
    generate: Annotated[
        int | None,
        _answer(
            min=1,
            help="Let the model write up to N tokens, and explain all of them: --html has each by itself.",
            metavar="N",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        _answer(min=0, help="Draw tokens; the likeliest each time if left out.", metavar="T"),
    ] = None,
    html: options.Html = None,
    plot: Annotated[
        Path | None, options.output(help="Write a .png, .pdf or .svg.", metavar="FILE")
    ] = None,
    save: Annotated[
        Path | None, options.output(help="Write all of it, for Attribution.load.", metavar="FILE")
    ] = None,
    scale: Annotated[
        Literal["linear", "log"], options.output(help="linear or log colours.", metavar="SCALE")
    ] = "linear",
    as_json: options.Json = False,
) -> None:
    """Show how strongly each token of a prompt moves the model's prediction.

    Prints the prompt in colour, the strongest tokens and the predicted next ones.
    """
    if follows and target is not None:
        raise bad("--next", "it names the target, as --target does: drop one of the two")
    given = {
        "continuation": continuation,
        "target": target,
        "versus": versus,
        "rank": rank,
        "samples": samples,
        "seed": seed,
    }
    if generate is not None:
        several = {"--position": position, "--target": target, "--next": follows or None}
        for option, value in (several | {"--continuation": continuation}).items():
            if value is not None:
                raise bad("--generate", f"it explains each token that is written: drop {option}")
        if seed is not None and samples is None:
            if not temperature:
                raise bad("--seed", "it is for what is drawn: add --temperature T, or drop --seed")
            given["seed"] = None  # it draws tokens
    elif temperature is not None:
        raise bad("--temperature", "tokens are drawn by --generate N: add it or drop --temperature")
    name = scope or ("semantic" if continuation is None else "continuation")
    writes = generate is not None
    method = scope_of(name, given, position, follows=follows, writes=writes)
    method = method if rules is None else rules_of(rules).on(method)
    places, outputs = from_text(sites), options.outputs(save=save, html=html, plot=plot)
    said = prompt_of(prompt, chat)
    with quiet():
        with contextlib.redirect_stdout(sys.stderr):
            from tqdm import tqdm

            import tl_scopes as ts
            from tl_scopes.models import load

            where = options.device(device)
            if sys.stderr.isatty():
                say(f"loading {model} ...")
            loaded = load(
                model, backend, dtype=dtype, device=where, trust_remote_code=trust_remote_code
            )
            reading = {"sites": places, "prepend_bos": prepend_bos}
            if generate is not None:
                drawing = {"temperature": temperature or 0.0, "seed": seed or 0}
                # A line of its own, on a terminal alone.
                with tqdm(total=generate, unit="token", disable=None, leave=False) as bar:
                    result = ts.attribute_generation(
                        loaded,
                        said,
                        method,
                        max_new_tokens=generate,
                        on_token=lambda token: bar.update(),
                        **drawing,
                        **reading,
                    )
                shown = result.over_reads()
            else:
                reading["position"] = (-2 if follows else -1) if position is None else position
                explain = functools.partial(ts.attribute, loaded, said, method)
                if not isinstance(method, ts.Scope):
                    explain = functools.partial(method.attribute, loaded, said)
                result = shown = explain(**reading)
        # Files first: who closes the pipe early has them all the same.
        write(result, outputs, scale=scale)
        if as_json:
            typer.echo(result.to_json())
        else:
            shown.print(scale=scale)
