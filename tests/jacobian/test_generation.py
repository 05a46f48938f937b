"""Answers that a model writes: the same as by its plain forward passes, drawn as asked, ended as asked."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch

import tl_scopes as ts
from support import real_models, zoo
from support.calls import IDS, S
from support.marks import each_class, each_of, needs_bridge
from support.refusals import refused
from support.traces import untouched
from tl_scopes.errors import (
    NumericalError,
    PaddingError,
    PromptTooLongError,
    ScopeParameterError,
    UnsupportedModelError,
)
from tl_scopes.jacobian.original import untouched as unwrapped
from tl_scopes.jacobian.sampling import Sampler

PROMPT = zoo.LONG_TEXT  # longer than the sliding window
NEW = 10
EACH = ts.SemanticScope(ts.NEXT_TOKEN)


def logits_of(model, ids: list[int]) -> torch.Tensor:
    """At every position, by the model's own plain forward pass."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].double()


def by_hand(model, prompt: str = PROMPT, n: int = NEW) -> tuple[int, list[int]]:
    """The prompt's length, and its ids with the likeliest token put after them `n` times."""
    ids = model.to_tokens(prompt)[0].tolist()
    start = len(ids)
    for _ in range(n):
        ids.append(int(logits_of(model, ids)[-1].argmax()))
    return start, ids


def cut(ids: list[int], start: int, ends: set[int]) -> list[int]:
    """Up to the first of `ends` after the prompt, which is kept."""
    return ids[: next((i + 1 for i in range(start, len(ids)) if ids[i] in ends), len(ids))]


# ------------------------------------------------------------------------------------------------ what is written
@each_of("gpt2", "llama", "gemma3", "mixtral", "bloom", "alibi", "native", "attn-only-no-norm")
def test_an_answer_is_that_of_plain_forward_passes(name):
    model = zoo.shared(name)
    start, ids = by_hand(model)
    ids = cut(ids, start, {model.tokenizer.eos_token_id})
    heard: list[int] = []
    found = ts.attribute_generation(
        model,
        PROMPT,
        max_new_tokens=NEW,
        on_token=lambda token: heard.append(token.id),
        sites="all",
    )
    assert found.tokens.tolist() == ids and heard == ids[start:]
    assert found.answer_start == start and found.positions == tuple(range(start - 1, len(ids) - 1))
    assert [target.id for target in found.targets if target] == ids[start:]
    assert [shown[0].id for shown in found.predictions] == ids[start:]
    log_probs = logits_of(model, ids).log_softmax(-1)[range(start - 1, len(ids) - 1), ids[start:]]
    torch.testing.assert_close(torch.tensor(found.log_probs).double(), log_probs, rtol=0, atol=1e-5)
    same = ts.attribute_sequence(model, ids, EACH, positions=found.positions, sites="all")
    assert torch.equal(found.scores, same.scores) and found.scores.any()
    inside = ts.DirectionScope(torch.ones(16), site=2)
    elsewhere = ts.attribute_generation(
        model, PROMPT, inside, max_new_tokens=NEW, sites=["embed", 1]
    )
    assert elsewhere.tokens.tolist() == ids
    torch.testing.assert_close(elsewhere.log_probs, found.log_probs, rtol=0, atol=1e-5)


@each_of("gpt2", "llama", "gemma3")
def test_each_token_is_run_once(name, monkeypatch):
    model = zoo.build(name)
    ts.attribute(model, PROMPT, S)  # what is asked of a model once
    widths, forward = [], type(model).forward

    def counting(self, tokens, *args, **kwargs):
        widths.append(tokens.shape[1])
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", counting)
    n = len(ts.attribute_generation(model, PROMPT, max_new_tokens=6))
    assert n == 6 and widths[:n] == [len(model.to_tokens(PROMPT)[0]), *[1] * 5]


@pytest.mark.real
@needs_bridge
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_bundled_models_write_what_hugging_face_writes(name):
    model = real_models.shared(name)
    ids = model.to_tokens("Three primary colours are")
    with torch.no_grad():
        hugging_face: Any = unwrapped(model.original_model)
        wanted = hugging_face.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )
    found = ts.attribute_generation(model, ids, max_new_tokens=12)
    assert found.tokens.tolist() == wanted[0].tolist()


# ---------------------------------------------------------------------------------------------------- hooks, caches
@each_class
def test_what_is_written_under_hooks_is_what_the_hooked_model_says(name):
    model = zoo.build(name)
    start, plain = by_hand(model)
    steering = torch.linspace(-3, 3, 16, dtype=torch.float64)

    def steer(activation, hook):
        assert activation.shape[1] >= start  # the whole text, which a hook may count on
        activation[:, 2:] += steering
        return activation

    model.add_hook("blocks.1.hook_resid_pre", steer)
    found = ts.attribute_generation(model, model.to_tokens(PROMPT), max_new_tokens=NEW)
    _, hooked = by_hand(model)
    assert found.tokens.tolist() == cut(hooked, start, {1}) and hooked != plain
    assert found.provenance.hooks


@each_class
def test_hooks_that_act_on_the_last_token_alone_are_refused(name):
    model = zoo.build(name)

    def nudge(activation, hook):
        activation[:, -1] *= 3
        return activation

    model.add_hook("blocks.1.hook_mlp_out", nudge)
    with pytest.raises(UnsupportedModelError, match=r"token by token|not causal"):
        ts.attribute_generation(model, PROMPT, max_new_tokens=4)


@each_class
def test_a_cache_that_makes_another_model_is_refused(name, monkeypatch):
    model = zoo.build(name)
    mlp = model.blocks[1].mlp
    own = functools.partial(type(mlp).forward, mlp)

    def forward(x, *args, **kwargs):
        return own(x, *args, **kwargs) * (2 if x.shape[1] == 1 else 1)

    monkeypatch.setitem(vars(mlp), "forward", forward)
    asked = functools.partial(ts.attribute_generation, model, PROMPT, max_new_tokens=4)
    refused(asked, UnsupportedModelError, "token by token", "allowed 0.001", "attribute_sequence")
    assert len(ts.attribute_generation(model, PROMPT, max_new_tokens=1)) == 1  # no cache took part


# -------------------------------------------------------------------------------------------------------- sampling
def test_tokens_are_drawn_by_their_probabilities():
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, 0.9], dtype=torch.float64)
    n = 3_000
    for settings, kept in [
        ((0.5, None, None), [0, 1, 2, 3, 4]),
        ((2.0, 3, None), [0, 1, 4]),
        ((1.0, None, 0.7), [0, 1, 4]),  # the first two hold 0.69 of all five
        ((1.0, 4, 0.6), [0, 1]),  # the first holds 0.52 of four
        ((1.0, 2, 0.6), [0]),  # and 0.73 of two
    ]:
        sampler = Sampler(*settings, seed=3)
        counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(n)]), minlength=5)
        weights = torch.zeros(5, dtype=torch.float64)
        weights[kept] = (logits[kept] / settings[0]).exp()
        expected = n * weights / weights.sum()
        assert not counts[weights == 0].any()
        chi = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
        assert chi < {5: 18.5, 3: 13.8, 2: 10.8, 1: 1e-9}[len(kept)]  # one in a thousand


@each_class
def test_a_seed_says_what_is_drawn(name):
    model = zoo.shared(name)
    ask = functools.partial(ts.attribute_generation, model, PROMPT, max_new_tokens=8)
    first, again, other = (ask(temperature=1.5, seed=seed).tokens.tolist() for seed in (4, 4, 5))
    assert first == again != other
    greedy = ask().tokens.tolist()
    assert (
        greedy
        == ask(temperature=1e-300).tokens.tolist()
        == ask(temperature=2, top_k=1).tokens.tolist()
    )


def test_classes_draw_the_same_tokens():
    if not zoo.pairs():
        pytest.skip("one class is missing")
    hooked, bridge = (
        ts.attribute_generation(zoo.shared(f"{kind}/gemma3"), PROMPT, max_new_tokens=NEW, temperature=1, seed=1)
        for kind in ("hooked", "bridge")
    )  # fmt: skip
    assert hooked.tokens.tolist() == bridge.tokens.tolist()
    torch.testing.assert_close(hooked.scores, bridge.scores, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ ends
@each_class
def test_an_answer_ends_with_what_ends_it(name):
    model = zoo.build(name)
    start, ids = by_hand(model)
    texts = model.tokenizer.convert_ids_to_tokens(ids[start:])
    third = cut(ids, start, {ids[start + 2]})
    assert len(third) > start

    def written(**more):
        return ts.attribute_generation(model, PROMPT, max_new_tokens=NEW, **more).tokens.tolist()

    assert written(stop=ids[start + 2]) == written(stop=[ids[start + 2], zoo.SPLIT_WORD]) == third
    # A text that begins in one token and ends in the next.
    assert written(stop=texts[0][-1:] + texts[1][:1]) == ids[: start + 2]
    if hasattr(model, "original_model"):
        model.original_model.generation_config.eos_token_id = [ids[start + 2], 1]
        assert written() == third
    # The end of text is the pad token too, as in many chat models: it was written, and is no padding.
    model.tokenizer.eos_token = model.tokenizer.pad_token = texts[0]
    found = ts.attribute_generation(model, PROMPT, max_new_tokens=NEW)
    assert found.tokens.tolist() == ids[: start + 1]  # at once: it alone is the answer
    assert found.targets[0] is not None and found.targets[0].id == ids[start]
    assert found.log_probs[0] is not None and -20 < found.log_probs[0] < 0


@each_class
def test_an_answer_to_messages_is_their_last_one(name):
    model = zoo.build(name)
    template = "{{ messages[0]['content'] }}.{% if add_generation_prompt %} and{% endif %}"
    chat = {"messages": [{"role": "user", "content": "The cat"}], "chat_template": template}
    ask = functools.partial(ts.attribute_generation, model, chat, max_new_tokens=4)
    found = ask()
    plain = ts.attribute_generation(model, "The cat. and", max_new_tokens=4)
    assert found.tokens.tolist() == plain.tokens.tolist() and torch.equal(
        found.scores, plain.scores
    )
    start = found.answer_start
    assert start == plain.answer_start == 5 and plain.chat is None
    assert found.chat is not None and found.chat.roles == ("user", "assistant")
    assert found.chat.messages == (-1, 0, 0, 0, 1, *[1] * 4)
    assert found.chat.is_content == (False, True, True, False, False, *[True] * 4)
    first = int(found.tokens[start])
    stopped = ask(stop=first)
    assert stopped.chat is not None and stopped.chat.is_content[start:] == (True,)
    # An end of text is the template's, as it is in messages that are given.
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(first)
    ended = ask()
    assert ended.chat is not None and ended.chat.is_content[start:] == (False,)


@pytest.mark.wrong_types  # beartype draws from Python's own generator
@each_class
def test_ctrl_c_between_two_tokens_leaves_no_trace(name):
    model = zoo.build(name)
    ts.attribute(model, PROMPT, S)

    def strike(token):
        raise KeyboardInterrupt

    with untouched(model), pytest.raises(KeyboardInterrupt):
        ts.attribute_generation(model, PROMPT, on_token=strike, max_new_tokens=3)


# ------------------------------------------------------------------------------------------------------- bad input
REFUSED = {
    "no tokens": (dict(max_new_tokens=0), ScopeParameterError, "max_new_tokens is 0", "from 1"),
    "overflow": (dict(max_new_tokens=27), PromptTooLongError, "has 6", "is 27", "32", "up to 26", "shorten"),
    "no room": (dict(prompt=[5] * 32, max_new_tokens=1), PromptTooLongError, "has 32", "shorten the prompt"),
    "cold": (dict(temperature=-0.1), ScopeParameterError, "temperature is -0.1", "from 0"),
    "hot": (dict(temperature=math.inf), ScopeParameterError, "temperature is inf", "finite"),
    "nan": (dict(temperature=math.nan), ScopeParameterError, "temperature is nan", "finite"),
    "top_k": (dict(top_k=0), ScopeParameterError, "top_k is 0", "from 1", "None"),
    "top_p": (dict(top_p=1.5), ScopeParameterError, "top_p is 1.5", "to 1", "None"),
    "seed": (dict(seed=-1), ScopeParameterError, "seed is -1"),
    "empty stop": (dict(stop=""), ScopeParameterError, "stop holds ''", "not empty"),
    "stop id": (dict(stop=[3, 10**6]), ScopeParameterError, "1000000", "token id from 0"),
    "stop": (dict(stop=1.5), ScopeParameterError, "1.5", "a text"),
    "padded": (dict(prompt=[*IDS, 2]), PaddingError, "pad token", "attention_mask"),
    "scope": (dict(scope=ts.SemanticScope), ScopeParameterError, "class", "SemanticScope()"),
}  # fmt: skip


@pytest.mark.wrong_types
@each_class
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_anything_is_written(name, case):
    changes, error, *words = REFUSED[case]
    asked = (
        dict(prompt=IDS, max_new_tokens=2, on_token=lambda token: pytest.fail("wrote")) | changes
    )
    refused(functools.partial(ts.attribute_generation, zoo.shared(name), **asked), error, *words)


@each_class
def test_logits_that_are_not_finite_are_refused(name):
    model = zoo.build(name)
    ts.attribute(model, PROMPT, S)
    with torch.no_grad():
        model.W_E[by_hand(model)[1][-NEW]] = torch.nan  # of the first token that it writes
    asked = functools.partial(ts.attribute_generation, model, PROMPT, max_new_tokens=3)
    refused(asked, NumericalError, "NaN", "embed")
