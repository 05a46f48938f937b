"""Random parameters in blocks: which are replaced, by what, and that the model is itself again afterwards."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch

from support import zoo, zoo_unfit
from support.traces import PLAIN, each_class, strike_every_line_of
from support.weights import changed, places, tensors, values, written
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import Random
from tl_scopes.evaluation import sanity
from tl_scopes.evaluation.sanity import randomisation, randomised

PROCESSED = {f"processed {k}": make for k, (_, make) in zoo_unfit.processed().items()}
each_model = pytest.mark.parametrize("name", [*zoo.kinds(), *PROCESSED])
NORMS = ("gemma", "gemma2", "gemma3", "llama", "qwen3", "gpt2", "cohere", "native-rms")
INNER = (
    *(f"attn.hook_{x}" for x in "qkvz"), "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
    "hook_attn_out", "hook_mlp_out",
)  # fmt: skip


def made(name: str):
    """A model that has run once: some make tables or wire hooks then."""
    model = PROCESSED[name]() if name in PROCESSED else zoo.shared(name)
    with torch.no_grad():
        model(model.to_tokens(zoo.LONG_TEXT))
    return model


@contextlib.contextmanager
def seen(model, hooks):
    """What the hooks show of a forward pass made inside, by name."""
    found: dict[str, torch.Tensor] = {}

    def keep(activation, hook, name):
        found[name] = activation.detach().clone()

    with model.hooks([(name, functools.partial(keep, name=name)) for name in hooks]):
        yield found


@each_model
def test_all_of_a_block_and_nothing_else_is_random_and_comes_back(name):
    model = made(name)
    view = view_of(model)
    before, kept = places(model), values(model)
    flat = {id(t) for t in tensors(model).values() if t.numel() and (t == t.flatten()[0]).all()}
    block = model.blocks[1]
    own = {id(p) for p in block.parameters()}
    if view.is_bridge:
        own |= {id(p) for p in block.original_component.parameters()}
    buffers = {id(b) for b in block.buffers()}
    with randomised(view, [1]):
        found = changed(model, kept)
        assert own - flat <= found
        assert found <= {id(t) for t in tensors(block).values()} - buffers
    assert places(model) == before and not changed(model, kept)
    with pytest.raises(KeyboardInterrupt), randomised(view, range(3), how="initial"):
        raise KeyboardInterrupt
    assert places(model) == before and not changed(model, kept)


@each_model
def test_every_weight_of_a_block_takes_part(name, monkeypatch):
    """Copies of weights that a model keeps elsewhere, and computes with, would stay what they were."""
    model = made(name)
    view = view_of(model)
    tokens = model.to_tokens(zoo.TEXT)
    known = model.hook_dict
    hooks = [f"blocks.1.{x}" for x in INNER if f"blocks.1.{x}" in known]
    stream = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"]
    with torch.no_grad():
        with seen(model, [*hooks, *stream]) as before:
            model(tokens)
        with randomised(view, [1]), seen(model, before) as after:
            model(tokens)
        monkeypatch.setattr(sanity, "_drawn", lambda data, *_: torch.zeros_like(data))
        with randomised(view, range(3)), seen(model, stream) as of_zeros:
            model(tokens)
    assert torch.equal(before.pop(stream[1]), after.pop(stream[1]))
    assert torch.equal(before.pop(stream[0]), after.pop(stream[0]))
    assert len(before) >= 4
    for hook, old in before.items():
        assert not torch.isclose(after[hook], old).all(), hook
    assert torch.equal(of_zeros[stream[0]], of_zeros[stream[2]])


@each_class
def test_draws_depend_on_seed_block_and_name_alone(name):
    model = zoo.shared(name)
    view = view_of(model)
    random = torch.get_rng_state()

    def inside(*blocks, seed=0):
        with randomised(view, blocks, seed):
            return values(model)

    def same(a, b, part=""):
        return all(torch.equal(a[k], b[k]) for k in a if part in k)

    whole = inside(0, 1, 2)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        assert same(whole, inside(2, 1, 0))
    assert same(whole, inside(1), "blocks.1.") and same(inside(1), values(model), "blocks.0.")
    assert not same(whole, inside(1, seed=1), "blocks.1.")
    with randomised(view, [2]) as further:
        further([2, 1, 0])
        assert same(whole, values(model))


@each_class
@torch.no_grad()
def test_what_replaces_a_parameter(name):
    model = zoo.build(name)
    view = view_of(model)
    block = dict(model.blocks[1].named_parameters())
    (gain,) = model.blocks[1].ln1.parameters()
    gain.data.fill_(1.0)  # as in a freshly made model
    own = {k: p.detach().clone() for k, p in block.items()}
    with randomised(view, [1]):
        for key, p in block.items():
            wide = 5 * own[key].std() / p.numel() ** 0.5
            assert float(p.mean()) == pytest.approx(float(own[key].mean()), abs=float(wide))
            if p.numel() > 200:
                assert float(p.std()) == pytest.approx(float(own[key].std()), rel=0.2)
                assert not torch.equal(p, own[key])
        assert (gain == 1).all()
    with randomised(view, [1], how="shuffle"):
        for key, p in block.items():
            assert torch.equal(p.flatten().sort().values, own[key].flatten().sort().values)
            assert p.numel() < 100 or not torch.equal(p, own[key])
    source = model.original_model.config if view.is_bridge else model.cfg
    initial = source.initializer_range
    with randomised(view, [1], how="initial"):
        for key, p in block.items():
            if "ln" in key or "norm" in key:
                assert (p == 1).all()
            elif p.ndim == 1 or ".b_" in key or "._b_" in key:
                assert not p.any()
            else:
                assert float(p.std()) == pytest.approx(initial, rel=0.2)


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.split("/")[1] in NORMS])
def test_initial_norms_have_no_effect(name):
    """Gemma's multiply by 1 + weight on bridges, by the weight otherwise."""
    model = zoo.shared(name)
    x = torch.arange(4.0 * model.cfg.d_model, dtype=torch.float64).sin().reshape(1, 4, -1)
    with torch.no_grad(), randomised(view_of(model), [1], how="initial"):
        y = model.blocks[1].ln1(x)
    if zoo.traits(name).isdisjoint({"rms"}):
        x = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(y, x / x.square().mean(-1, keepdim=True).sqrt(), rtol=1e-3, atol=0)


@each_class
def test_shared_parameters_are_random_once_or_never(name):
    model = zoo.build(name)
    first, second = (dict(model.blocks[i].named_modules()) for i in (0, 1))
    path, key = next(
        (path, key)
        for path, module in second.items()
        for key in ("W_in", "weight")
        if "mlp" in path and key in module._parameters
    )
    shared = second[path]._parameters[key] = first[path]._parameters[key]
    with randomised(view_of(model), [1]) as further:
        once = shared.detach().clone()
        further([0])
        assert torch.equal(shared, once)
    kept = shared.detach().clone()
    assert not torch.equal(once, kept)
    model.embed.register_parameter("tied", shared)
    with randomised(view_of(model), range(3)):
        assert torch.equal(shared, kept)


@pytest.mark.wrong_types
def test_interrupt_at_any_line_leaves_no_trace():
    name = PLAIN[-1]

    def call(model):
        randomisation(model, [zoo.TEXT], [Random()], depths=[1, 2], how="initial")

    def built():
        model = zoo.build(name)
        call(model)
        return model

    strike_every_line_of(sanity, call, built, written, 60)
