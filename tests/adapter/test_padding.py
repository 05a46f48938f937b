"""Padding in token ids: taken away by a mask, refused without one where it would be read as text."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

import tl_scopes as ts
from support import real_models, zoo
from support.marks import MODELS, each_class
from support.refusals import refused
from tl_scopes import baselines, circuits, evaluation
from tl_scopes.errors import DoubleBosError, PaddingError, PromptError, ScopesError, TargetError
from tl_scopes.models import installed

pytestmark = pytest.mark.wrong_types
S = ts.SemanticScope()
PAD, SHORT, LONG = 2, "The capital of France is", "The cat sat on the mat and the dog is in"
BOTH = ["smollm2-135m-instruct", "gemma-3-270m"]


def tokenised(model, side: str, **options):
    """What the tokenizer returns for a short and a long prompt, padded."""
    tokenizer = copy.copy(model.tokenizer)
    tokenizer.padding_side = side
    return tokenizer([SHORT, LONG], padding=True, **options)


def rows_of(batch) -> list[dict]:
    """The same, a dict for each prompt."""
    return [dict(zip(batch, row)) for row in zip(*batch.values())]


def equal(a: ts.Attribution, b: ts.Attribution) -> bool:
    return (a.str_tokens, a.position, a.target, a.has_bos) == (
        *(b.str_tokens, b.position, b.target, b.has_bos),
    ) and torch.allclose(a.scores, b.scores, rtol=1e-5, atol=1e-6)


def measured(model, prompts) -> list[float]:
    return [row["value"] for row in evaluation.measure(model, prompts, [S])]


def attribute_refused(model, prompt, error: type[ScopesError], *words: str, **options) -> str:
    return refused(lambda: ts.attribute(model, prompt, S, **options), error, *words)


# --- with a mask ---


@each_class
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", [None, "pt", "np"])
def test_a_masked_row_is_the_text_alone(name, side, form):
    model = zoo.shared(name)
    batch = tokenised(model, side, return_tensors=form)
    wanted = ts.attribute_batch(model, [SHORT, LONG], S)
    assert len({a.scores.shape for a in wanted}) == 2
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert PAD in list(ids[0])
    for a, row, own in zip(wanted, ids, mask):
        assert equal(ts.attribute(model, row, S, attention_mask=own), a)
        assert equal(ts.attribute(model, {"input_ids": row, "attention_mask": own}, S), a)
    rows = dict(position=-2, sites="all")
    assert ts.attribute(model, ids[0], S, attention_mask=mask[0], **rows).position == 4
    for found in (
        ts.attribute_batch(model, batch, S),
        ts.attribute_batch(model, ids, S, attention_mask=mask),
        ts.attribute_batch(model, list(ids), S, attention_mask=list(mask)),
        ts.attribute_batch(model, rows_of(batch), S),
    ):
        assert all(map(equal, found, wanted))
    assert PAD not in ts.attribute_batch(model, batch, S)[0].tokens


@each_class
def test_what_a_tokenizer_returns_is_a_prompt_everywhere(name):
    model = zoo.shared(name)
    text = ts.attribute(model, LONG, S)
    for form in (None, "pt", "np"):
        one = model.tokenizer(LONG, return_tensors=form)
        assert equal(ts.attribute(model, one, S), text)
        assert equal(ts.attribute_batch(model, one, S)[0], text)
    batch = tokenised(model, "left")
    row = rows_of(batch)[0]
    method = baselines.InputXGradient()
    assert equal(method.attribute(model, row), method.attribute(model, SHORT))
    pairs = (batch, [SHORT, LONG])
    for found, wanted in (
        [ts.attribute_sequence(model, p, ts.TemperatureScope()).scores for p in (row, SHORT)],
        [circuits.components(model, p, S).total for p in (row, SHORT)],
        [circuits.components(model, SHORT, S, reference=p).total for p in pairs],
    ):
        torch.testing.assert_close(found, wanted)
    circuits.verify(model, row, ts.attribute(model, SHORT, S))  # the same tokens
    masked, whole = (evaluation.randomisation(model, p, [S], depths=[1]) for p in pairs)
    assert masked.equals(whole)
    assert measured(model, batch) == pytest.approx(measured(model, [SHORT, LONG]), nan_ok=True)


@each_class
def test_every_read_of_a_masked_row(name):
    model = zoo.shared(name)
    batch = tokenised(model, "right")
    mask = batch["attention_mask"][0]
    for scope in (S, ts.SemanticScope(ts.NEXT_TOKEN)):
        found = ts.attribute_sequence(model, batch["input_ids"][0], scope, attention_mask=mask)
        wanted = ts.attribute_sequence(model, SHORT, scope)
        assert found.positions == wanted.positions
        torch.testing.assert_close(found.scores, wanted.scores)


@each_class
def test_ones_keep_pad_tokens(name):
    model = zoo.shared(name)
    ids = [0, 5, 6, PAD]
    found = ts.attribute(model, ids, S, attention_mask=[1] * 4)
    assert found.tokens.tolist() == ids and found.position == 3
    first = ts.attribute(model, [PAD, 5], S, attention_mask=torch.ones(1, 2, dtype=torch.bool))
    assert first.tokens.tolist() == [PAD, 5]
    stable = ts.attribute(
        zoo.shared(name, torch.float32), ids, S, attention_mask=[1] * 4, stability=True
    )
    assert stable.stability is not None
    # A text that says so means its pad tokens.
    assert ts.attribute(model, "The cat<pad>", S).tokens[-1] == PAD


MASKS = {
    "hole": ([1, 0, 1, 1], ["hole", "positions 0 and 3"]),
    "short": ([1, 1], [r"\(2,\)", "4 tokens"]),
    "matrix": ([[1] * 4] * 2, [r"\(2, 4\)", "4 tokens"]),
    "zero": ([0] * 4, ["0 everywhere", "give 1"]),
    "two": ([1, 1, 2, 1], ["holds 2", "allowed"]),
    "minus infinity": ([0.0, 0.0, -np.inf, 0.0], ["holds -inf", "allowed"]),
    "half": (torch.tensor([1, 1, 0.5, 1]), ["holds 0.5", "allowed"]),
    "NaN": (np.array([1, 1, np.nan, 1]), ["holds nan", "allowed"]),
    "text": ("1111", ["str", "allowed"]),
    "texts": (["1"] * 4, ["list", "allowed"]),
    "missing": ([1, 1, None, 1], ["list", "allowed"]),
}  # fmt: skip


@each_class
@pytest.mark.parametrize("case", MASKS)
def test_masks_that_do_not_fit(name, case):
    mask, words = MASKS[case]
    model, ids = zoo.shared(name), [0, 5, 6, 7]
    attribute_refused(model, ids, PaddingError, *words, attention_mask=mask)
    row = {"input_ids": ids, "attention_mask": mask}
    refused(lambda: ts.attribute_sequence(model, row, S), PaddingError, *words)
    refused(lambda: baselines.InputXGradient().attribute(model, row), PaddingError, *words)


@each_class
def test_masks_in_the_wrong_place(name):
    model, row = zoo.shared(name), {"input_ids": [0, 5], "attention_mask": [1, 1]}
    attribute_refused(model, SHORT, PromptError, "text", attention_mask=[1] * 6)
    attribute_refused(model, row, PaddingError, "twice", attention_mask=[1, 1])
    attribute_refused(model, row, PromptError, "prepend_bos", prepend_bos=True)
    attribute_refused(model, {"ids": [5]}, PromptError, "'ids'", "'input_ids'")
    many = tokenised(model, "left", return_tensors="pt")
    attribute_refused(model, many, PromptError, "attribute_batch", "attention_mask")
    short = lambda: ts.attribute_batch(model, [[0, 5]] * 3, S, attention_mask=[[1, 1]] * 2)  # noqa: E731
    refused(short, PaddingError, "2 rows", "3 prompts", "one row a prompt")
    # One mask among several prompts.
    found = ts.attribute_batch(model, [[0, 5, PAD], [0, 5]], S, attention_mask=[[1, 1, 0], None])
    assert equal(*found)


# --- without a mask ---


@each_class
@pytest.mark.parametrize("ids", [[PAD, PAD, 0, 5], [PAD, 5], [0, PAD, 5], [PAD], [0, PAD]], ids=str)
def test_pads_before_the_text(name, ids):
    for prompt in (ids, torch.tensor(ids), {"input_ids": ids}):
        words = ("begins with [12] pad token", "'<pad>'", "id 2", "attention_mask")
        attribute_refused(zoo.shared(name), prompt, PaddingError, *words, position=-1)


@each_class
def test_reads_at_pads(name):
    model, ids = zoo.shared(name), [0, 5, 6, 7, PAD, PAD]
    for position in (-1, -2, 4, 5):
        words = (f"position {position % 6} is a pad token", "id 2", "attention_mask", "read at 3")
        attribute_refused(model, ids, PaddingError, *words, position=position)
        scope = ts.DirectionScope(torch.ones(model.cfg.d_model), site="embed", position=position)
        refused(lambda s=scope: ts.attribute(model, ids, s), PaddingError, *words)
    for place, ask in (
        ("position 4", lambda: ts.attribute_sequence(model, ids, S)),
        (r"prompts\[0\]: position 5", lambda: ts.attribute_batch(model, [ids, ids], S)),
        ("position 5", lambda: baselines.InputXGradient().attribute(model, ids)),
        ("position 5", lambda: circuits.components(model, ids, S)),
        ("position 5", lambda: circuits.components(model, [0, *range(5, 10)], S, corrupted=ids)),
        ("position 5", lambda: circuits.components(model, [0, 5], S, reference=[ids])),
    ):
        refused(ask, PaddingError, place)
    # Before them nothing is wrong: they change no score.
    found = ts.attribute(model, ids, S, position=3)
    assert torch.equal(found.scores[:, :4], ts.attribute(model, ids[:4], S).scores)
    assert not found.scores[:, 4:].any() and found.tokens.tolist() == ids
    # What follows there is no token of the text.
    following = ts.SemanticScope(ts.NEXT_TOKEN)
    assert ts.attribute(model, ids, following, position=2).target.id == 7
    refused(
        lambda: ts.attribute(model, ids, following, position=3),
        TargetError,
        *("pad tokens follow", "attention_mask"),
    )


@each_class
@pytest.mark.parametrize("role", ["eos_token", "unk_token"])
def test_a_pad_that_is_another_token_too_is_named(name, role):
    model = zoo.build(name)
    model.tokenizer.pad_token = getattr(model.tokenizer, role)
    pad = model.tokenizer.pad_token_id
    word = f"also its {role[:3].upper()} token, which may be meant"
    for ids in ([pad, 0, 5], [0, 5, pad]):
        attribute_refused(model, ids, PaddingError, word, "attention_mask")
        assert ts.attribute(model, ids, S, attention_mask=[1] * 3).tokens.tolist() == ids
    assert ts.attribute(model, [0, pad, 5], S, attention_mask=[1] * 3).tokens[1] == pad
    assert (
        ts.attribute(model, [0, 5, pad, 6], S).tokens[2] == pad
    )  # inside a text it is a separator


@each_class
def test_a_bos_that_is_the_pad_token_too(name):
    """GPT-2's: one of them begins a text."""
    model = zoo.build(name)
    model.tokenizer.pad_token = model.tokenizer.eos_token = model.tokenizer.bos_token
    assert ts.attribute(model, [0], S).tokens.tolist() == [0]
    assert ts.attribute(model, [0, 5, 6], S).has_bos
    padded = [0, 0, 0, 5, 6]
    words = ("two BOS", "also the pad token", "attention_mask")
    attribute_refused(model, padded, DoubleBosError, *words)
    masked = ts.attribute(model, padded, S, attention_mask=[0, 0, 1, 1, 1])
    assert equal(masked, ts.attribute(model, [0, 5, 6], S))
    attribute_refused(model, [0, 5, 0], PaddingError, "also its BOS and EOS token")


@each_class
def test_rows_of_ids_are_prompts(name):
    model = zoo.shared(name)
    found = ts.attribute_batch(model, torch.tensor([[0, 5, 6], [0, 7, 8]]), S)
    assert [a.tokens.tolist() for a in found] == [[0, 5, 6], [0, 7, 8]]
    ids = model.to_tokens([SHORT, LONG])
    attribute_refused(model, ids, PromptError, "texts", "attention_mask", "attribute_batch")
    batch = lambda: ts.attribute_batch(model, ids, S)  # noqa: E731
    refused(batch, PaddingError, r"prompts\[0\]", "is a pad token")


# --- bundled models, as they pad ---


# Both tokenizers, and the other class with the one whose pad token is its EOS token too.
FIRST, *SECOND = installed.model_classes()
PADDING = [*((name, FIRST) for name in BOTH), *(("smollm2-135m-instruct", b) for b in SECOND)]


@pytest.mark.real
@pytest.mark.parametrize(("name", "backend"), PADDING)
def test_padded_ids_of_bundled_models(name, backend):
    model = real_models.shared(name, backend)
    texts = [SHORT, "The Eiffel Tower is located in the city of"]
    wanted = ts.attribute(model, texts[0], S)
    if name == "gemma-3-270m":
        assert wanted.target.text == " the"
    for side in ("left", "right"):
        ids = model.to_tokens(texts, padding_side=side)
        message = attribute_refused(model, ids[0], PaddingError, "attention_mask")
        assert ("also its EOS token" in message) == (name != "gemma-3-270m")
        text = range(6) if side == "right" else range(ids.shape[1] - 6, ids.shape[1])
        mask = [int(t in text) for t in range(ids.shape[1])]
        found = ts.attribute(model, ids[0], S, attention_mask=mask)
        assert found.target == wanted.target and found.str_tokens == wanted.str_tokens
        torch.testing.assert_close(found.scores, wanted.scores)


# --- data sets ---


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "saved"])
def test_masks_of_data_files(kind, tmp_path):
    import datasets

    batch = tokenised(zoo.shared(MODELS[0]), "left")
    rows = rows_of(batch)
    rows.append({**rows[0], "attention_mask": None})
    where = str(tmp_path / f"a.{kind}")
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(where)
    elif kind == "saved":
        where = str(tmp_path / "saved")
        datasets.Dataset.from_list(rows).save_to_disk(where)
    else:
        text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
        (tmp_path / f"a.{kind}").write_text(text)
    data, model = evaluation.read(where), zoo.shared(MODELS[0])
    *rows, last = evaluation.measure(model, data.prompts, [S])
    assert [r["value"] for r in rows] == pytest.approx(measured(model, [SHORT, LONG]), nan_ok=True)
    assert last["index"] == 2 and last["error"].startswith("PaddingError: ")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("position", [-1, -2, 3])
def test_rows_padded_without_a_mask_are_errors(side, position, tmp_path):
    model = zoo.build(MODELS[0], torch.float32)
    ids = tokenised(model, side)["input_ids"]
    settings = evaluation.Settings(position=position)
    done = evaluation.run(model, ids, [S], settings, out=tmp_path / "run", progress=False)
    assert (done.prompts, done.failed) == (2, 1)
    error = done.to_frame().query("index == 0")["error"].item()
    assert error.startswith("PaddingError: ") and "attention_mask" in error


def test_texts_that_end_in_the_pad_token_are_measured(tmp_path):
    """They are encoded once as text, and given again as ids."""
    model = zoo.build(MODELS[0], torch.float32)
    done = evaluation.run(
        model, ["The cat sat<pad>", SHORT], [S], out=tmp_path / "run", progress=False
    )
    assert done.failed == 0


@each_class
def test_no_remedy_for_two_bos_is_one_that_was_used(name):
    model = zoo.build(name)
    model.tokenizer.pad_token = model.tokenizer.bos_token

    def said(prompt, **options) -> str:
        return attribute_refused(model, prompt, DoubleBosError, **options)

    batch = BatchEncoding({"input_ids": [[0, 0, 5]], "attention_mask": [[1, 1, 1]]})
    for meant in (said([0, 0, 5], attention_mask=[1, 1, 1]), said(batch)):
        assert "drop one id" in meant and "mask" not in meant and "prepend_bos" not in meant
    unknown = said([0, 0, 5])
    assert "drop one id" in unknown and "attention_mask" in unknown and "prepend_bos" not in unknown
    text = said("<bos>The", prepend_bos=True)
    assert "prepend_bos=False" in text and "mask" not in text and "drop one id" not in text
    again = said("<bos><bos>The", prepend_bos=False)
    assert "take one out of the text" in again and "prepend_bos" not in again


@each_class
def test_one_prompt_of_ids_where_several_are_asked(name):
    model = zoo.shared(name)
    for flat in ([0, 5, 6], (0, 5, 6), range(3), [torch.tensor(0), torch.tensor(5)]):
        for options in ({}, {"attention_mask": [1] * len(flat)}):
            with pytest.raises(PromptError, match=r"one prompt of token ids.*Put it into a list"):
                ts.attribute_batch(model, flat, S, **options)
    (found,) = ts.attribute_batch(model, [[0, 5, 6]], S)
    assert found.tokens.tolist() == [0, 5, 6]


@each_class
@pytest.mark.parametrize("wrap", [list, tuple, torch.tensor], ids=["list", "tuple", "tensor"])
def test_a_batch_of_one_is_a_prompt(name, wrap):
    model = zoo.shared(name)
    wanted = ts.attribute(model, [0, 5, 6], S)
    for options in ({}, {"attention_mask": [[1, 1, 1]]}):
        assert equal(ts.attribute(model, [wrap([0, 5, 6])], S, **options), wanted)
    with pytest.raises(PromptError, match="attribute_batch"):
        ts.attribute(model, [wrap([0, 5, 6]), wrap([0, 5, 6])], S)
