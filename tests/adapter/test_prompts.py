"""Prompts and targets as they come: cut characters, whole books; and a sentinel that travels."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import typer

import tl_scopes as ts
from support import real_models, zoo
from support.cli_calls import DIFFERENCE, call, scores
from support.cli_calls import refused as refused_call
from support.marks import MODELS, each_class
from support.refusals import refused
from tl_scopes import baselines, circuits, evaluation
from tl_scopes.adapter.prompts import encode
from tl_scopes.adapter.view import view_of
from tl_scopes.cli.main import app
from tl_scopes.cli.options import _NAMES, _VALUED, in_options
from tl_scopes.errors import (
    PromptError,
    PromptTooLongError,
    ScopeParameterError,
    TargetError,
)

pytestmark = pytest.mark.wrong_types
S, T = ts.SemanticScope(), zoo.TEXT
HALF = "caf\ud83d is"


def asks(model, prompt) -> list[Callable[[], object]]:
    """A call of each kind, with this prompt."""
    return [
        lambda: ts.attribute(model, prompt, S),
        lambda: ts.attribute_sequence(model, prompt, S),
        lambda: baselines.InputXGradient().attribute(model, prompt),
        lambda: circuits.components(model, prompt, S),
        lambda: circuits.components(model, T, S, corrupted=prompt),
    ]


# --- NEXT_TOKEN ---


def _is_next(scope: ts.SemanticScope) -> tuple[bool, ts.SemanticScope]:
    """In another process."""
    return scope.target is ts.NEXT_TOKEN, scope


def journeys() -> dict[str, object]:
    scope = ts.SemanticScope(ts.NEXT_TOKEN)
    found = {
        "copy": copy.copy(scope),
        "deepcopy": copy.deepcopy([scope])[0],
        "replace": dataclasses.replace(scope),
        "fields": ts.SemanticScope(**copy.deepcopy(dataclasses.asdict(scope))),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found[f"pickle {protocol}"] = pickle.loads(pickle.dumps(scope, protocol))
    return found


@pytest.mark.parametrize("way", journeys())
def test_next_token_survives(way):
    scope = journeys()[way]
    assert scope.target is ts.NEXT_TOKEN
    model = zoo.shared(MODELS[0])
    wanted = ts.attribute_sequence(model, T, ts.SemanticScope(ts.NEXT_TOKEN))
    found = ts.attribute_sequence(model, T, scope)
    assert found.positions == wanted.positions and torch.equal(found.scores, wanted.scores)
    one = ts.attribute(model, T, scope, position=-2)
    assert one.target == wanted.targets[-1] and one.scope.parameters == {"target": "NEXT_TOKEN"}


def test_next_token_survives_another_process():
    scope = ts.SemanticScope(ts.NEXT_TOKEN)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        there, back = pool.submit(_is_next, scope).result(timeout=120)
    assert there and back.target is ts.NEXT_TOKEN


def test_next_token_has_one_name():
    assert repr(ts.NEXT_TOKEN) == str(ts.NEXT_TOKEN) == f"{ts.NEXT_TOKEN}" == "NEXT_TOKEN"
    for method in (
        baselines.InputXGradient(ts.NEXT_TOKEN),
        ts.LogitDifferenceScope(5, ts.NEXT_TOKEN),
    ):
        again = pickle.loads(pickle.dumps(method))
        assert again == method and hash(again) == hash(method)


# --- halves of characters ---


@each_class
@pytest.mark.parametrize("text", [HALF, "\udce9", "The\udc00 cat", "a\ud83d\ude00"], ids=ascii)
def test_halves_of_surrogate_pairs(name, text):
    model = zoo.shared(name)
    at = next(i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff")
    words = (f"at character {at}", "surrogate", "surrogatepass")
    for ask in asks(model, text):
        refused(ask, PromptError, "the prompt holds", *words)
    refused(lambda: ts.attribute_batch(model, [T, text], S), PromptError, r"prompts\[1\]", *words)
    for ask in (
        lambda: ts.attribute(model, T, ts.SemanticScope(text)),
        lambda: ts.attribute(model, T, ts.LogitDifferenceScope(5, text)),
        lambda: baselines.InputXGradient(text).attribute(model, T),
    ):
        refused(ask, TargetError, "the target holds", *words)
    mended = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert ts.attribute(model, mended, S).position > 0  # the message's own remedy


def test_halves_of_surrogate_pairs_in_names():
    for make in (
        lambda: ts.FunctionScope(torch.sum, label=HALF),
        lambda: ts.DirectionScope(torch.ones(4), label=HALF),
        lambda: evaluation.measure(zoo.shared(MODELS[0]), [T], {HALF: S}),
    ):
        refused(make, ScopeParameterError, "label holds", "character 3", "surrogate")


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_halves_of_surrogate_pairs_in_data(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    rows = [json.dumps(text) for text in (HALF, T)]  # as \ud83d, in ASCII
    path.write_text("\n".join(rows) if kind == "jsonl" else f"[{', '.join(rows)}]")
    data = evaluation.read(path)
    model = zoo.shared(MODELS[0], torch.float32)
    done = evaluation.run(model, data, [S], out=tmp_path / "run", progress=False)
    assert (done.prompts, done.failed) == (2, 1)
    (error,) = done.to_frame().query("index == 0")["error"]
    assert error.startswith("PromptError: ") and "character 3" in error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["caf\udce9"], ["the prompt is not UTF-8"]),
        ([T, "--target", "caf\udce9"], ["the target holds", "character 3"]),
        ([T, *DIFFERENCE, "--versus", "caf\udce9"], ["the target holds"]),
        ([T, "--sites", "caf\udce9"], ["no site", "caf\\udce9"]),
        ([T, "--scope", "fisher", "--rank", "\udce9"], ["--rank"]),
        ([T, "--model", "caf\udce9"], ["caf\\udce9"]),
        ([T, "--html", "/no/caf\udce9"], ["does not exist"]),
    ],
    ids=ascii,
)
def test_arguments_that_are_not_utf8(folder, args, words):
    """As Python decodes such bytes of a command."""
    model = [] if "--model" in args else ["--model", folder]
    error = refused_call(call("attribute", *args, *model))
    assert all(word in error for word in words), error


def test_bytes_of_a_command_that_are_not_utf8(folder):
    args = [sys.executable, "-m", "tl_scopes.cli", "attribute", T, "--model", folder, "--target"]
    found = subprocess.run([*args, b"caf\xe9"], capture_output=True, timeout=120)
    assert (found.returncode, found.stdout) == (2, b""), found.stderr
    assert found.stderr.startswith(b"tl-scopes: error: the target holds '\\udce9' at character 3")
    assert found.stderr.count(b"\n") == 1


def test_file_names_that_are_not_utf8(folder, tmp_path):
    files = {option: tmp_path / f"caf\udce9{end}" for option, end in
             (("--html", ".html"), ("--plot", ".svg"), ("--save", ".st"))}  # fmt: skip
    args = [str(part) for pair in files.items() for part in pair]
    assert call("attribute", T, "--model", folder, *args).exit_code == 0
    assert all(path.is_file() for path in files.values())
    strange = tmp_path / "modell\udce9"
    os.symlink(folder, strange)
    error = refused_call(call("attribute", T, "--model", str(strange)))
    assert "could not be loaded" in error


# --- entries that are no prompts ---


@each_class
@pytest.mark.parametrize("entry", [None, 7, b"text", {1, 2}], ids=repr)
def test_an_entry_that_is_no_prompt_is_named(name, entry):
    model = zoo.shared(name)
    kind = type(entry).__name__
    for prompts in ([T, entry], [[0, 5], entry]):
        words = (r"prompts\[1\]: the prompt is a " + kind, "allowed: text")
        refused(lambda p=prompts: ts.attribute_batch(model, p, S), PromptError, *words)
        refused(lambda p=prompts: evaluation.randomisation(model, p, [S]), PromptError, *words)
    refused(
        lambda: circuits.components(model, T, S, reference=[T, entry]),
        *(PromptError, r"reference prompts\[1\]", kind),
    )


# --- long texts ---


@each_class
def test_a_long_text_is_refused_before_it_is_tokenised(name, monkeypatch):
    model = zoo.build(name)
    taken = []
    real = type(model.tokenizer).__call__

    def counted(self, text, *args, **kwargs):
        taken.append(len(text))
        return real(self, text, *args, **kwargs)

    monkeypatch.setattr(type(model.tokenizer), "__call__", counted)
    text = "The cat sat on " * 1_000_000
    words = ("15000000 characters", f"context is {zoo.N_CTX}", "shorten")
    for ask in asks(model, text):
        refused(ask, PromptTooLongError, *words)
    rows = evaluation.measure(model, [T, text], [S])
    assert rows[-1]["error"].startswith("PromptTooLongError: ")
    for target in ("x" * 1_000_000, " Paris" * 1_000):
        ask = lambda t=target: ts.attribute(model, T, ts.SemanticScope(t))  # noqa: E731
        refused(ask, TargetError, f"{len(target)} characters", "one token")
    assert max(taken) <= 100_000
    # Ids, too, before they are looked at one by one.
    refused(lambda: ts.attribute(model, range(10**9), S), PromptTooLongError, "1000000000 tokens")


@each_class
def test_a_long_text_of_few_tokens_is_taken(name):
    """One token may stand for any length: here a word that is too long for the vocabulary's rules."""
    model = zoo.shared(name)
    found = ts.attribute(model, "The cat " + "x" * 5_000, S)
    assert found.str_tokens == ("<bos>", "The", " cat", "<unk>")
    fits = " cat" * (zoo.N_CTX - 1)
    assert len(ts.attribute(model, fits, S).tokens) == zoo.N_CTX
    refused(lambda: ts.attribute(model, fits + " cat", S), PromptTooLongError, "33 tokens")


@each_class
def test_without_a_context_any_length_is_tokenised(name):
    model = zoo.build(name)
    model.cfg.n_ctx = None
    assert len(encode(view_of(model), " cat" * 1_000, None)) == 1_001


@pytest.mark.real("gemma-3-270m")
def test_a_book_on_one_line_is_refused_at_once():
    model = real_models.shared("gemma-3-270m")
    text = "It was the best of times, it was the worst of times. " * 1_000_000  # 53 MB
    ts.attribute(model, T, S)
    before = time.process_time()
    refused(lambda: ts.attribute(model, text, S), PromptTooLongError, "53000000 characters")
    assert time.process_time() - before < 10  # whole it takes minutes


# --- the command line ---


def test_the_next_token_of_the_prompt(folder):
    model = zoo.build("bridge/llama" if "bridge/llama" in MODELS else MODELS[0], torch.float32)
    wanted = ts.attribute(model, T, ts.SemanticScope(ts.NEXT_TOKEN), position=-2)
    found = scores(T, "--model", folder, "--target", "id:next", "--position", "-2")
    assert found["target"] == {"id": wanted.target.id, "text": " is"}
    assert scores(T, "--model", folder, "--next") == found
    earlier = scores(T, "--model", folder, "--next", "--position", "2")
    assert (earlier["target"]["text"], earlier["position"]) == (" of", 2)
    assert found["scope"]["parameters"] == {"target": "NEXT_TOKEN"}
    assert torch.allclose(torch.tensor(found["scores"]), wanted.scores, rtol=1e-3, atol=1e-5)
    both = [*DIFFERENCE, "--target", " Rome", "--versus", "id:next", "--position", "2"]
    assert scores(T, "--model", folder, *both)["scope"]["parameters"]["b"] == " of"
    # At the prompt's end there is none: told before a model is loaded, or by the model.
    for option in (["--target"], [*DIFFERENCE, "--target", " Rome", "--versus"]):
        error = refused_call(call("attribute", T, "--model", "./nowhere", *option, "id:next"))
        assert option[-1] in error and "--position -2" in error
    at_end = ("--target", "id:next", "--position", "5")
    error = refused_call(call("attribute", T, "--model", folder, *at_end))
    assert "id:next asks for" in error and "NEXT_TOKEN" not in error


def test_messages_name_options(folder, tmp_path):
    """Not Python's arguments, which nobody can give here."""

    def message(*args: str) -> str:
        return refused_call(call("attribute", *args, "--model", folder))

    two = message("<bos> The")
    assert "--no-bos" in two and "prepend_bos" not in two
    exact = message(T, "--scope", "fisher", "--rank", "full", "--samples", "2")
    assert "--rank full is exact" in exact and "rank=" not in exact
    (tmp_path / "a.txt").write_text(T)
    one = ["--data", str(tmp_path / "a.txt"), "--out", str(tmp_path / "run"), "--model", folder]
    area = refused_call(call("evaluate", *one, "--fractions", "0.1"))
    assert "--area mean" in area and "area=" not in area
    (tmp_path / "a.json").write_text('["<bos>The"]')
    one[1] = str(tmp_path / "a.json")
    assert "--no-bos" in refused_call(call("evaluate", *one))


def test_messages_name_options_that_are_there():
    commands = typer.main.get_command(app).commands.values()
    options = {opt for c in commands for p in c.params for opt in (*p.opts, *p.secondary_opts)}
    for name in _VALUED:
        assert in_options(f"use {name}='x', or") == f"use --{name.replace('_', '-')} x, or"
        assert in_options(f"{name}=x").split()[0] in options
    for name in {*_NAMES} - {"NEXT_TOKEN"}:
        assert in_options(name) in options
    assert {in_options("prepend_bos=False"), in_options("prepend_bos=True")} <= options
    assert in_options("position=-2, rank=0.9.") == "--position -2, --rank 0.9."
    assert in_options("composition=3 and position is 3") == "composition=3 and position is 3"


@pytest.mark.parametrize(
    "words",
    [
        ["--target", "NEXT_TOKEN and on"],
        ["--target", "rank=4 is"],
        ["--target", "it's prepend_bos=False"],
        ["--target", "say 'rank=4' or \"seed=3\""],
        ["--model", "./device=cpu"],
        ["--model", "./prepend_bos"],
        ["--model", "/nowhere/rank=4/a b"],
        ["--save", "nowhere/rank=4/a"],
    ],
)
def test_what_a_user_typed_stays_as_it_is(folder, words):
    said = refused_call(call("attribute", T, "--model", folder, *words))
    typed = repr(words[1]) if "target" in words[0] else words[1].removeprefix("./")
    assert typed.removesuffix("/a") in said


def test_unquoted_paths_that_were_typed_stay(tmp_path):
    for path in ("rank=4", "./device=cpu", "NEXT_TOKEN", str(tmp_path / "seed=3" / "x")):
        for typed in ([path], [f"--out={path}"]):
            rank = "rank=4" if path == "rank=4" else "--rank 4"
            said = "another run is at work in {}, use {} or 'rank=4' (model's {}.)"
            wanted = said.format(path, "--position -2", rank)
            assert in_options(said.format(path, "position=-2", "rank=4"), typed) == wanted


def test_advice_on_the_command_line_is_for_the_command_line(folder):
    said = refused_call(call("attribute", T, "--model", folder, "--target", " of is"))
    assert "2 tokens" in said and "--next" in said
    assert "attribute_sequence" not in said and "Scope" not in said and "answer" not in said
    said = refused_call(call("attribute", T, "--model", folder, "--target", "caf\ud83d"))
    assert "surrogate" in said and "convert it to UTF-8" in said and ".encode" not in said
