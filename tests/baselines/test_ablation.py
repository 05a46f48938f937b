"""Tokens replaced, against plain hooks; how many passes that takes, and what it does to predictions."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import edited, zoo
from support.altered import ALTERED, NAMES, close, logits_of, states
from support.reference import HEADS, POSITION, TOKENS
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.baselines import ablation
from tl_scopes.baselines.ablation import INTACT, Alteration, final_states
from tl_scopes.errors import NumericalError, ScopeParameterError, SiteError
from tl_scopes.jacobian.prompt_run import PromptRun

PAD, BOS = zoo.tokenizer().pad_token_id, zoo.tokenizer().bos_token_id


def replaced(positions: tuple[int, ...], new: torch.Tensor):
    def edit(a: torch.Tensor) -> torch.Tensor:
        a = a.clone()
        a[:, list(positions)] = new.to(a) if new.ndim < a.ndim - 1 else new.to(a)[None]
        return a

    return edit


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_replaced_as_plain_hooks_replace_them(name):
    vectors = edited.vocabulary(name)
    new = {
        "zero": torch.zeros(16),
        "pad": vectors[PAD],
        "bos": vectors[BOS],
        "mean": vectors.mean(0),
    }
    cases = [(p, kind) for kind in new for p in (ALTERED if kind == "zero" else [(2,), (0, 4)])]
    found = states(name, [Alteration(*case) for case in cases])
    with torch.no_grad():
        expected = [edited.logits(name, {"embed": replaced(p, new[kind])}) for p, kind in cases]
    close(name, found, torch.cat(expected))
    differs = [not torch.allclose(found[0], own) for own in found]
    assert differs == [bool(positions) for positions, _ in cases]


@pytest.mark.parametrize(
    "site", ["resid(1)", "resid(3)", "blocks.1.hook_mlp_out", HEADS, f"{HEADS}[1]"]
)
@pytest.mark.parametrize("name", [n for n in ("hooked/bloom", "bridge/llama") if n in zoo.names()])
def test_other_sites_and_single_heads_are_replaced(name, site):
    label = int(site[6]) if site.startswith("resid") else site.split("[")[0]
    component = (1,) if site.endswith("[1]") else ()
    own = edited.activation(name, label)
    mean = own[1 : POSITION + 1].mean(0)  # BOS left out
    for kind, new in (("zero", torch.zeros_like(mean)), ("mean", mean)):

        def edit(a, positions, new=new):
            a = a.clone()
            for t in positions:
                a[(slice(None), t, *component)] = new[component]
            return a

        found = states(name, [Alteration(p, kind) for p in ALTERED], site=site, component=component)
        with torch.no_grad():
            expected = [
                edited.logits(name, {label: functools.partial(edit, positions=p)}) for p in ALTERED
            ]
        close(name, found, torch.cat(expected))
        assert not torch.allclose(found[0], found[3])


# ------------------------------------------------------------------------------------------------------ passes
@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of what models are run on."""
    shapes = []
    forward = ModelView.forward

    def counted(self, tokens, *rest):
        shapes.append(tuple(tokens.shape))
        return forward(self, tokens, *rest)

    monkeypatch.setattr(ModelView, "forward", counted)
    return shapes


CLASSES = [n for n in ("hooked/llama", "bridge/llama") if n in zoo.names()]
each_class = pytest.mark.parametrize("name", CLASSES)


@each_class
def test_batches_equal_single_rows_and_equal_alterations_run_once(name, passes, monkeypatch):
    alterations = [Alteration(p, kind) for kind in ("pad", "mean", "hide") for p in ALTERED[1:4]]
    single = torch.cat([states(name, [a]) for a in alterations])
    together = states(name, alterations)
    torch.testing.assert_close(together, single, rtol=0, atol=1e-12)
    monkeypatch.setattr("tl_scopes.jacobian.prompt_run.BATCH_TOKENS", 3 * (POSITION + 1))
    passes.clear()
    torch.testing.assert_close(states(name, alterations), single, rtol=0, atol=1e-12)
    assert max(rows for rows, _ in passes) == 3

    monkeypatch.setattr("tl_scopes.jacobian.prompt_run.BATCH_TOKENS", 2048)
    prompt_run = PromptRun.ask(zoo.shared(name), TOKENS, POSITION)
    a, b, hidden = Alteration((1,)), Alteration((2, 3)), Alteration((2, 3), "hide")
    with prompt_run.locked():
        passes.clear()
        found = final_states(prompt_run, [a, INTACT, b, a, hidden, a, INTACT, hidden])
    assert passes == [
        (3, POSITION + 1),
        (1, POSITION + 1),
    ]  # those hidden apart; none after the read position
    assert torch.equal(found[0], found[3]) and torch.equal(found[1], found[6])
    assert torch.equal(found[4], found[7]) and not torch.equal(found[2], found[4])


@each_class
def test_under_hooks_of_the_user_s_the_whole_prompt_runs_row_by_row(name, passes):
    """A hook made for one row, that counts positions from the end, means what it means in a plain run."""
    model = zoo.build(name)

    def steer(a, hook):
        assert a.shape[0] == 1
        a = a.clone()
        a[0, -1] += 1
        a[0, 2] *= 2
        return a

    ts.attribute(
        model, TOKENS, ts.SemanticScope(3)
    )  # of a model's first use, some are of other ids
    passes.clear()
    with model.hooks([("blocks.1.hook_resid_pre", steer)]):
        prompt_run = PromptRun.ask(model, TOKENS, POSITION)
        with zoo.exact_float64(), prompt_run.locked():
            found = final_states(prompt_run, [Alteration((1,)), INTACT, Alteration((1,), "hide")])
        assert set(passes) == {(1, len(TOKENS))}
        ablated = ("hook_embed", lambda a, hook: replaced((1,), torch.zeros(16))(a))
        with zoo.exact_float64(), torch.no_grad(), model.hooks([ablated]):
            expected = model(torch.tensor([TOKENS]))[:, POSITION]
    close(name, found[:1], expected)
    assert not torch.allclose(found[0], states(name, [Alteration((1,))])[0])


@each_class
def test_the_mean_embedding_follows_the_weights_and_forgets_hooks(name):
    model = zoo.build(name)

    def mean() -> torch.Tensor:
        prompt_run = PromptRun.ask(model, TOKENS)
        with prompt_run.locked():
            return ablation.replacement(prompt_run, prompt_run.view.site("embed"), "mean").clone()

    with model.hooks([("hook_embed", lambda a, hook: a + 1)]):
        shifted = mean()
    plain = mean()
    torch.testing.assert_close(plain, edited.vocabulary(name).mean(0))
    torch.testing.assert_close(shifted, plain + 1)
    with torch.no_grad():
        next(iter(model.embed.parameters())).mul_(2)
    torch.testing.assert_close(mean(), plain * 2)


# ------------------------------------------------------------------------------------------------------ effects
def test_effects_are_those_of_the_definitions():
    name = CLASSES[0]
    found = states(name, [INTACT, *(Alteration((t,)) for t in range(POSITION + 1))])
    z = logits_of(name, found)
    before, after = z[0].log_softmax(-1), z[1:].log_softmax(-1)
    got = ablation.effects(view_of(zoo.shared(name)).unembedding(), found[0], found[1:], 7)
    torch.testing.assert_close(got.fall, before[7] - after[:, 7])
    torch.testing.assert_close(got.logit, z[0, 7] - z[1:, 7])
    kl = torch.nn.functional.kl_div(
        after, before.expand_as(after), log_target=True, reduction="none"
    ).sum(1)
    torch.testing.assert_close(got.kl, kl)
    assert got.flip.tolist() == (after.argmax(1) != before.argmax()).tolist()
    many = found[1:].repeat(9, 1)  # more than are unembedded at once
    again = ablation.effects(view_of(zoo.shared(name)).unembedding(), found[0], many, 7)
    torch.testing.assert_close(again.kl, got.kl.repeat(9))
    nothing = ablation.effects(view_of(zoo.shared(name)).unembedding(), found[0], found[:1], 7)
    assert not nothing.kl.any() and not nothing.fall.any() and not nothing.flip.any()


@each_class
def test_what_cannot_be_replaced_is_refused(name):
    with pytest.raises(
        ScopeParameterError, match="'blank'; allowed: 'zero', 'pad', 'bos', 'mean', 'hide'"
    ):
        states(name, [Alteration((1,), "blank")])
    for kind in ("pad", "bos"):
        with pytest.raises(ScopeParameterError, match=r"site \"embed\" only, not at 'resid\(1\)'"):
            states(name, [Alteration((1,), kind)], site="resid(1)")
    with pytest.raises(SiteError, match=r"has no site 'resid\(1\)'"):
        states(name, [Alteration((1,), "hide")], site="resid(1)")
    model = zoo.build(name)

    def nan_of_nothing(a, hook):
        return a / (a.abs().sum(-1, keepdim=True) > 0)

    with model.hooks([("blocks.0.hook_resid_pre", nan_of_nothing)]):
        prompt_run = PromptRun.ask(model, TOKENS)
        with prompt_run.locked(), pytest.raises(NumericalError, match=r"positions \[1\] .* 'zero'"):
            final_states(prompt_run, [INTACT, Alteration((1,))])


@pytest.mark.wrong_types
def test_divergences_far_below_float32s_rounding_keep_their_order():
    """A confident prediction over a large vocabulary: float32's own log-softmax loses them all."""

    class Head:
        def raw_logits(self, y):
            return y

        def logits(self, raw):
            return raw

    generator = torch.Generator().manual_seed(0)
    intact = torch.randn(50_000, generator=generator)
    intact[7] += 18
    move = torch.randn(50_000, generator=generator)
    sizes = torch.logspace(-3, -1, 12)
    moved = intact + sizes[:, None] * move
    kl = ablation.effects(Head(), intact, moved, 7).kl
    p, q = (x.double().log_softmax(-1) for x in (intact, moved))
    torch.testing.assert_close(kl, (p.exp() * (p - q)).sum(-1), rtol=1e-6, atol=0)
    assert kl[0] < 1e-8 and (kl.diff() > 0).all()
