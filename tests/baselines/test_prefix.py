"""Ablated passes that share an intact prefix, against whole passes; where they do not share it, and what runs."""

from __future__ import annotations

import functools

import pytest
import torch

from support import zoo
from support.altered import NAMES
from support.marks import each_class, each_of
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.baselines import ablation
from tl_scopes.baselines.ablation import INTACT, Alteration, final_states
from tl_scopes.jacobian import prefix
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.scopes.continuation import ContinuationScope

IDS = zoo.tokenizer()(zoo.LONG_TEXT).input_ids  # longer than the sliding window
LAST = len(IDS) - 1
SETS = [(LAST,), (5,), (7, 9), (1, 8), (9, LAST), (6, 7, 8), (LAST - 1,), (4, LAST)]
ALTERED = [INTACT, *(Alteration(p, by) for p in SETS for by in ("zero", "mean"))]


@pytest.fixture
def tokens_run(monkeypatch) -> list[int]:
    """How many each forward pass of the model runs."""
    found: list[int] = []
    forward = ModelView.forward

    def counting(self, tokens, **past):
        found.append(tokens.numel())
        return forward(self, tokens, **past)

    monkeypatch.setattr(ModelView, "forward", counting)
    return found


def both(prompt_run: PromptRun, monkeypatch, tokens_run, alterations=ALTERED, **where):
    """States by whole passes and by shared prefixes, and the tokens that each took."""
    found = []
    monkeypatch.setattr(prefix, "PASS_ON_CPU", 0)
    with zoo.exact_float64(), prompt_run.locked(gradients=False):
        for whole in (True, False):
            with monkeypatch.context() as patch:
                if whole:
                    patch.setattr(ablation, "states_after_prefix", lambda *asked: None)
                prompt_run.remembered.clear()
                prompt_run.look()
                tokens_run.clear()
                found.append((final_states(prompt_run, alterations, **where), sum(tokens_run)))
    (whole, most), (shared, least) = found
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-9)
    return least, most


@pytest.mark.parametrize("name", NAMES)
def test_they_are_whole_passes_to_rounding(name, monkeypatch, tokens_run):
    least, most = both(PromptRun.ask(zoo.shared(name), IDS), monkeypatch, tokens_run)
    if name.endswith("native"):  # it has no cache
        assert least >= most
    else:
        assert least < 0.75 * most


@each_class
def test_rows_run_one_by_one_give_the_same(name, monkeypatch, tokens_run):
    """The intact prompt, by which a cache is judged, is alone in its pass too."""
    monkeypatch.setattr("tl_scopes.jacobian.prompt_run.BATCH_TOKENS", len(IDS))
    least, most = both(PromptRun.ask(zoo.shared(name), IDS), monkeypatch, tokens_run)
    assert least < 0.75 * most


@each_of("gpt2", "gemma3")
def test_reads_of_a_continuation_and_deeper_sites(name, monkeypatch, tokens_run):
    """Reads before the first replaced token are the intact prompt's."""
    view = view_of(zoo.shared(name))
    span = PromptRun.explaining(view, IDS[:9], ContinuationScope(IDS[9:]), -1, False)
    alterations = [Alteration((t,)) for t in range(LAST)]
    least, most = both(span, monkeypatch, tokens_run, alterations)
    assert least < 0.75 * most
    for label in ("resid(1)", "blocks.1.attn.hook_z"):
        one = PromptRun.ask(zoo.shared(name), IDS)
        more = {"component": (1,)} if "hook_z" in label else {}
        least, most = both(
            one, monkeypatch, tokens_run, ALTERED[1::2], site=view.site(label), **more
        )
        assert least < 0.8 * most


@each_class
@pytest.mark.parametrize("long", [True, False], ids=["long", "short"])
def test_a_cache_that_makes_another_model_is_not_used(name, long, monkeypatch, tokens_run):
    """A block that doubles what passes of more, or of fewer, tokens write than half the prompt's."""
    model = zoo.build(name)
    mlp = model.blocks[1].mlp
    own = functools.partial(type(mlp).forward, mlp)

    def forward(x, *args, **kwargs):
        n = x.shape[1]
        strange = 8 < n < len(IDS) if long else n < 3
        return own(x, *args, **kwargs) * (2 if strange else 1)

    monkeypatch.setitem(vars(mlp), "forward", forward)
    least, most = both(PromptRun.ask(model, IDS), monkeypatch, tokens_run)
    assert least > most  # what was tried, and then whole passes


@each_class
def test_a_cache_that_fails_is_not_used(name, monkeypatch, tokens_run):
    def fail(self, rows):
        raise prefix.UnsupportedModelError("no copies")

    monkeypatch.setattr(prefix.KeyValues, "copies", fail)
    least, most = both(PromptRun.ask(zoo.shared(name), IDS), monkeypatch, tokens_run)
    assert least >= most


@each_class
def test_equal_sets_run_once_for_all_that_ask(name, tokens_run):
    prompt_run = PromptRun.ask(zoo.shared(name), IDS)
    with prompt_run.locked(gradients=False):
        final_states(prompt_run, ALTERED)
        tokens_run.clear()
        final_states(prompt_run, ALTERED[3:5])
        assert not tokens_run
        final_states(prompt_run, [*ALTERED, Alteration((2,))])
        assert tokens_run == [len(IDS)]
