"""Edges against gradients by hand, and against the code of transformer-lens and of EAP-IG."""

from __future__ import annotations

import json

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.exact import close
from support.golden import GOLDEN
from tl_scopes.circuits import Pairs, edges

TARGET = 7
CLEAN, CORRUPTED = [0, 5, 9, 11, 20, 7], [0, 6, 9, 14, 21, 8]
S = ts.SemanticScope(TARGET)


def found(name: str, scope: ts.Scope = S, **options):
    with zoo.exact_float64():
        return edges(zoo.shared(name), Pairs([CLEAN], [CORRUPTED], scope), **options)


def split_inputs(
    name: str, share: float = 1.0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Edges by HookedTransformer's own split inputs and autograd: nothing of ours. `share`: how far the
    embeddings that gradients are taken at lie from the corrupted to the clean ones.

    Beside them of each reader its gradient times (clean - corrupted) of its whole input.
    """
    model = zoo.build(name)
    model.set_use_split_qkv_input(True)
    model.set_use_attn_result(True)
    with_mlp, last = not model.cfg.attn_only, model.cfg.n_layers - 1
    if with_mlp:
        model.set_use_hook_mlp_in(True)
    _, clean = model.run_with_cache(torch.tensor([CLEAN]))
    _, corrupted = model.run_with_cache(torch.tensor([CORRUPTED]))
    moved = {k: (clean[k] - corrupted[k])[0].detach() for k in clean}
    readers = (
        "hook_q_input",
        "hook_k_input",
        "hook_v_input",
        "hook_mlp_in",
        f"{last}.hook_resid_post",
    )
    kept: dict[str, torch.Tensor] = {}

    def keep(activation, hook):
        activation.retain_grad()
        kept[hook.name] = activation

    def between(activation, hook):
        return torch.lerp(corrupted["hook_embed"], clean["hook_embed"], share).requires_grad_()

    with model.hooks([("hook_embed", between), (lambda n: n.endswith(readers), keep)]):
        model(torch.tensor([CLEAN]))[0, -1, TARGET].backward()
    writes = {"embed": moved["hook_embed"]}
    out: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}

    def into(reader: str, hook: str, head: int | None = None) -> None:
        where = (slice(None),) if head is None else (slice(None), head)
        g = kept[hook].grad[0][where]
        out.update({f"{label} -> {reader}": (g * write).sum() for label, write in writes.items()})
        sums[reader] = (g * moved[hook][where]).sum()

    for i in range(model.cfg.n_layers):
        for x in "qkv":
            hook = f"blocks.{i}.hook_{x}_input"
            for head in range(kept[hook].shape[2]):
                into(f"L{i}H{head}.{x}", hook, head)
        heads = moved[f"blocks.{i}.attn.hook_result"].unbind(1)
        own = {f"L{i}H{h}": write for h, write in enumerate(heads)}
        writes |= {} if model.cfg.parallel_attn_mlp else own
        if with_mlp:
            into(f"{i}_mlp_in", f"blocks.{i}.hook_mlp_in")
        writes |= own
        if with_mlp:
            writes[f"{i}_mlp_out"] = moved[f"blocks.{i}.hook_mlp_out"]
    into("read", f"blocks.{last}.hook_resid_post")
    return out, sums


@pytest.mark.parametrize(
    "name", zoo.known("hooked/ln", "hooked/gqa", "hooked/parallel", "hooked/attn-only", "hooked/bloom", "hooked/qwen3")
)  # fmt: skip
@pytest.mark.parametrize("steps", [1, 3])
def test_they_are_what_hooked_transformers_own_split_inputs_give(name, steps):
    result = found(name, steps=steps)
    each, sums = zip(*(split_inputs(name, (k + 1) / steps) for k in range(steps)))
    for labels, got, by_hand in (
        (result.labels, result.effects, each),
        (result.readers, result.into(), sums),
    ):
        assert set(by_hand[0]) == set(labels)
        wanted = torch.tensor([[one[label] for label in labels] for one in by_hand]).double()
        close(got[0, :, 0], wanted.mean(0), 1e-10)


def slopes(name: str, shares: torch.Tensor, read) -> torch.Tensor:
    """By plain hooks and autograd: how fast `read(logits, resid(2))` changes on the straight way between
    what enters the first block on both prompts."""
    model, streams = zoo.shared(name), []

    def show(a, hook):
        streams.append(a.detach())
        return a

    with model.hooks([("blocks.0.hook_resid_pre", show)]):
        model(torch.tensor([CORRUPTED, CLEAN]))
    start, end = streams[0]
    x = torch.stack([torch.lerp(start, end, float(share)) for share in shares]).requires_grad_()
    seen = []

    def keep(a, hook):
        seen.append(a)
        return a

    edits = [("blocks.0.hook_resid_pre", lambda a, hook: x), ("blocks.2.hook_resid_pre", keep)]
    with model.hooks(edits):
        value = read(model(torch.tensor([CLEAN] * len(x)))[:, -1], seen[0][:, -1])
    (g,) = torch.autograd.grad(value.sum(), x)
    return (g * (end - start)).sum((1, 2))


def _entropy(logits: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Categorical(logits=logits).entropy()


@pytest.mark.parametrize(
    "name",
    zoo.known("hooked/gemma2", "hooked/bloom", "bridge/gemma2", "bridge/bloom", "bridge/gptj"),
)
@pytest.mark.parametrize(
    ("scope", "read"),
    [
        (ts.FunctionScope(lambda z: _entropy(z, z)), _entropy),
        (ts.DirectionScope(torch.ones(16), site=2), lambda z, stream: stream.sum(-1)),
    ],
    ids=["function", "direction"],
)  # fmt: skip
def test_the_embeddings_edges_are_the_mean_slope_of_the_way(name, scope, read):
    """Exact with few steps, where the whole change needs many: on gemma2 slopes are up to 180 times as
    large as the change, and turn."""
    steps = 4
    result = found(name, scope, steps=steps)
    got = result.effects[0, result.source == 0, 0].double().sum()
    with zoo.exact_float64():
        wanted = slopes(name, torch.arange(1, steps + 1) / steps, read).mean()
    close(got[None], wanted[None], 1e-9)


# ------------------------------------------------------------------------------------------ code of others
_KINDS = {"embed": "embed", "logits": "read", "attn_head_out": "L{0}H{1}", "mlp_out": "{0}_mlp_out"}
_KINDS |= {"mlp_in": "{0}_mlp_in", **{f"{x}_input": f"L{{0}}H{{1}}.{x}" for x in "qkv"}}


# Those of the zoo that it accepts.
@pytest.mark.parametrize("name", zoo.known("bridge/gpt2", "bridge/pythia"))
def test_they_are_transformer_lens_own(name):
    tools = pytest.importorskip("transformer_lens.tools.analysis.attribution_patching")
    try:
        config = tools.EdgeAttributionConfig("edge")
    except NotImplementedError:
        pytest.skip("this version scores nodes only")
    prompts = (torch.tensor([ids]) for ids in (CORRUPTED, CLEAN))
    with zoo.exact_float64():
        theirs = tools.attribution_patch(
            zoo.build(name), *prompts, lambda z: z[0, -1, TARGET], config
        )
    wanted: dict[str, float] = {}
    for ends, score in theirs.edge_scores.items():  # one for each position
        label = " -> ".join(_KINDS[end.kind].format(end.layer, end.head) for end in ends)
        wanted[label] = wanted.get(label, 0.0) + score
    result = found(name)
    assert set(wanted) == set(result.labels)
    # Theirs takes the gradient on the corrupted prompt, which is our clean one, and points away from it.
    want = -torch.tensor([wanted[label] for label in result.labels], dtype=torch.float64)
    close(result.effects[0, :, 0], want)


@pytest.mark.parametrize("name", zoo.known("hooked/gqa", "hooked/bloom"))
def test_they_are_those_of_eap_ig(name):
    wanted = json.loads((GOLDEN / "eap_ig.json").read_text())[name]
    clean = [CLEAN, [0, 3, 12, 9], [*CLEAN[:3], *CORRUPTED[3:]]]
    corrupted = [CORRUPTED, [0, 4, 12, 9], [*CORRUPTED[:3], *CLEAN[3:]]]
    scope, steps = ts.LogitDifferenceScope(7, 3), 5
    with zoo.exact_float64():
        ours, integrated, swapped = (
            edges(zoo.shared(name), Pairs(*prompts, scope), steps=n)
            for prompts, n in (
                ((clean, corrupted), 1),
                ((clean, corrupted), steps),
                ((corrupted, clean), 1),
            )
        )
    assert set(wanted) == set(ours.labels)
    want = torch.tensor([wanted[label] for label in ours.labels], dtype=torch.float64)
    once, far = ours.effects.mean(0)[:, 0], swapped.effects.mean(0)[:, 0]
    close(-once, want[:, 0])
    # Its points are the corrupted prompt and those up to the clean one, ours those after the corrupted one.
    close(-integrated.effects.mean(0)[:, 0] + (once + far) / steps, want[:, 1])
