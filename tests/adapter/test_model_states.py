"""States of a model that a user brings about: wrapped, compiled, offloaded, trained. Each is named, with what to do."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.marks import MODELS, each_class, needs_bridge
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import TrainingModeError, UnsupportedModelError

T = zoo.TEXT
SCOPE = ts.SemanticScope(5)


class Own(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.language = torch.nn.ModuleDict({"model": model})


def compiled(model):
    return torch.compile(model, backend="eager")


WRAPPED = {
    "compile": (compiled, "._orig_mod"),
    "parallel": (torch.nn.DataParallel, ".module"),
    "both": (lambda m: torch.nn.DataParallel(compiled(m)), ".module._orig_mod"),
    "own": (Own, ".language.model"),
}


@pytest.mark.wrong_types
@each_class
@pytest.mark.parametrize("kind", WRAPPED)
def test_what_holds_a_model_says_where(name, kind):
    wrap, path = WRAPPED[kind]
    outer = wrap(zoo.build(name))
    kinds = {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}
    with pytest.raises(UnsupportedModelError) as caught:
        ts.attribute(outer, T, SCOPE)
    assert str(caught.value).endswith(f"It holds a {kinds[name.split('/')[0]]}: pass its {path}")


@pytest.mark.parametrize(
    ("name", "part", "run"),
    chosen.pairs(MODELS, ["model", "block", "block in its place"], [False, True]),
)
def test_a_compiled_model_is_named(name, part, run):
    model = zoo.build(name)
    if part == "model":
        model.compile(backend="eager")
    elif part == "block":
        model.blocks[1].compile(backend="eager")
    else:
        model.blocks[1] = compiled(model.blocks[1])
    if run and part != "model":
        with torch.no_grad():
            model(model.to_tokens(T))
    with pytest.raises(UnsupportedModelError, match="was compiled") as caught:
        ts.attribute(model, T, SCOPE, sites="all")
    assert ("_orig_mod" in str(caught.value)) == (part == "block in its place")
    for module in model.modules():
        module._compiled_call_impl = None
    if part != "block in its place":
        expected = ts.attribute(zoo.shared(name), T, SCOPE, sites="all").scores
        torch.testing.assert_close(ts.attribute(model, T, SCOPE, sites="all").scores, expected)


@needs_bridge
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_gradient_checkpointing_in_training_mode(reentrant):
    model = zoo.build("bridge/llama")
    expected = ts.attribute(model, T, SCOPE).scores
    model.original_model.gradient_checkpointing_enable(dict(use_reentrant=reentrant))
    torch.testing.assert_close(ts.attribute(model, T, SCOPE).scores, expected)
    model.original_model.train()
    with pytest.raises(TrainingModeError, match=r"checkpointing.*eval\(\).*disable"):
        ts.attribute(model, T, SCOPE)
    model.original_model.gradient_checkpointing_disable()
    torch.testing.assert_close(ts.attribute(model, T, SCOPE).scores, expected)


@needs_bridge
def test_other_things_that_differ_in_training_mode_are_named():
    model = zoo.build("bridge/llama")
    model.train()
    for name in ("router_jitter_noise", "layerdrop", "drop_path_rate", "hidden_dropout"):
        setattr(model.original_model.config, name, 0.1)
        with pytest.raises(TrainingModeError, match=rf"config.{name} = 0.1.*eval"):
            ts.attribute(model, T, SCOPE)
        setattr(model.original_model.config, name, 0.0)
    model.blocks[1].add_module("norm", torch.nn.BatchNorm1d(4))
    model.blocks[1].norm.train()
    with pytest.raises(TrainingModeError, match=r"blocks.1.norm \(BatchNorm1d\).*eval"):
        ts.attribute(model, T, SCOPE)


@each_class
def test_offloaded_weights_are_named(name):
    accelerate = pytest.importorskip("accelerate")
    model = zoo.build(name)
    part = model.blocks[1].mlp if name.startswith("hooked") else model.original_model.lm_head
    accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
    with pytest.raises(UnsupportedModelError, match=r"offloaded.*device_map"):
        ts.attribute(model, T, SCOPE)


@needs_bridge
def test_a_device_map_that_offloads_nothing_is_welcome():
    accelerate = pytest.importorskip("accelerate")
    source = zoo.hf_model("llama")
    places = ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")
    accelerate.dispatch_model(source, dict.fromkeys(places, "cpu"), force_hooks=True)
    found = ts.attribute(zoo.boot(source), T, SCOPE).scores
    torch.testing.assert_close(found, ts.attribute(zoo.shared("bridge/llama"), T, SCOPE).scores)


# ------------------------------------------------------------------------------------------- batched backward passes
FISHER = ts.FisherScope(rank=3)


@pytest.fixture
def batched(monkeypatch):
    """For each backward pass of several directions from now on: whether they shared it."""
    passes, grad = [], torch.autograd.grad

    def noting(*args, **kwargs):
        passes.append(bool(kwargs.get("is_grads_batched")))
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", noting)
    return passes


def shares(model, batched) -> bool:
    """Whether a call's directions share one backward pass."""
    ts.attribute(model, T, FISHER)
    batched.clear()
    ts.attribute(model, T, FISHER)
    return batched == [True]


def counts_norm(g, hook):
    float((g[0] if isinstance(g, tuple) else g).norm())


@each_class
def test_a_hook_that_cannot_be_batched_costs_it_only_while_it_is_there(name, batched):
    model = zoo.build(name)
    expected = ts.attribute(zoo.shared(name), T, FISHER).scores
    with model.hooks(bwd_hooks=[("blocks.1.hook_resid_pre", counts_norm)]):
        torch.testing.assert_close(ts.attribute(model, T, FISHER).scores, expected)
        batched.clear()
        ts.attribute(model, T, FISHER)
        assert batched == [False] * 3, "it is known not to work under this hook"
    assert shares(model, batched)


@each_class
@pytest.mark.filterwarnings("ignore")
def test_anomaly_mode_costs_it_only_while_it_is_on(name, batched):
    model = zoo.build(name)
    with torch.autograd.set_detect_anomaly(True):
        ts.attribute(model, T, FISHER)
    assert shares(model, batched)


@each_class
def test_a_lack_of_memory_is_not_remembered(name, monkeypatch, batched):
    model = zoo.build(name)
    grad = torch.autograd.grad

    def full(*args, **kwargs):
        if kwargs.get("is_grads_batched"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return grad(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", full)
        ts.attribute(model, T, FISHER)
    assert view_of(model).loops_backward is None
    assert shares(model, batched)
