"""Every hook name of a block, and those around the blocks: scores are what a nudge of the activation says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import tl_scopes as ts
from support import nudges, zoo
from support.reference import TOKENS
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import SiteError
from tl_scopes.jacobian.forward import read_under

TARGET = 5
# Names of what one reader alone is given; the documentation has the same list.
BRANCHES = re.compile(
    r"blocks\.\d+\.(\w+\.)+hook_in"  # of a module in a block, not of the block itself
    r"|.*\.hook_(attn_in|mlp_in|[qkv]_input)"
    r"|.*\.hook_(cos|sin)"  # tables of positions that all blocks share
)
# A TransformerBridge computes these for its hooks alone, and its norm uses them once they are edited.
BY_PRODUCTS = re.compile(r".*\.hook_(scale|normalized)")
STREAMS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


def names_of(model: Any) -> list[str]:
    """One middle block's, and those outside the blocks."""
    found = [n for n, point in model.hook_dict.items() if hasattr(point, "fwd_hooks")]
    return [n for n in found if n.startswith("blocks.1.") or not n.startswith("blocks.")]


def scores(model: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Rows [component..., pos] of every name that is not refused."""
    left = list(names)
    while left:
        try:
            found = ts.attribute(model, TOKENS, ts.SemanticScope(TARGET), sites=left)
        except SiteError as error:
            refused = [n for n in left if repr(n) in str(error)]
            assert refused, error
            left = [n for n in left if n not in refused]
            continue
        return {
            n: torch.stack(
                [found.scores[i] for i, s in enumerate(found.sites) if s.split("[")[0] == n]
            ).double()
            for n in left
        }
    return {}


def gradients(model: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Of the target's logit at every name, in one pass."""
    view, kept = view_of(model), {}

    def keep(name: str, activation: torch.Tensor) -> torch.Tensor:
        kept[name] = activation.clone()
        if not activation.requires_grad:
            kept[name].requires_grad_()
        return kept[name].clone()

    edits = {view.site(n): lambda a, n=n: keep(n, a) for n in names}
    with view.locked():
        y = read_under(view, torch.tensor([TOKENS]), edits)
        logit = y[0, -1] @ view.unembedding().column(TARGET).to(y)
        found = torch.autograd.grad(logit, list(kept.values()))
    return dict(zip(kept, found))


def hold_against_nudges(model: Any) -> dict[str, torch.Tensor]:
    """Returns the scores, by name."""
    tokens = torch.tensor([TOKENS])
    with zoo.exact_float64(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bridge's norms, of edits of what they show
        values, ranks = nudges.shown(model, tokens, names_of(model))
        found = scores(model, values)
        got = gradients(model, list(found))
        predicted, along, random = {}, {}, torch.Generator().manual_seed(0)
        for n, g in got.items():
            along[n] = torch.randn(g.shape, generator=random, dtype=torch.float64)
            predicted[n] = float((g.double() * along[n]).sum())
        vector = model.W_U[:, TARGET].detach()
        values = {n: values[n] for n in got}
        nudged = nudges.at_source(model, tokens, values, ranks, along, vector)
        beside = [n for n in got if n not in nudged or not agrees(nudged[n], predicted[n])]
        hooked = nudges.at_hook(model, tokens, {n: along[n] for n in beside}, vector)
    bridge = view_of(model).is_bridge
    for n in beside:
        assert BRANCHES.fullmatch(n) or (bridge and BY_PRODUCTS.fullmatch(n)), (
            f"{n}: predicted {predicted[n]}, by a nudge {nudged.get(n)}"
        )
        assert agrees(hooked[n], predicted[n]), n
    for n, g in got.items():
        lengths = g[0].double().norm(dim=-1)
        rows = lengths[None] if lengths.ndim == 1 else lengths.flatten(1).T
        torch.testing.assert_close(found[n], rows, rtol=1e-5, atol=1e-6)
    return found


def agrees(nudged: float, predicted: float) -> bool:
    return abs(nudged - predicted) <= 1e-6 * max(1.0, abs(predicted))


@pytest.mark.parametrize("name", zoo.names())
def test_every_hook_name_says_what_a_nudge_says(name):
    found = hold_against_nudges(zoo.shared(name))
    at = {
        n.rsplit(".", 1)[1] for n in found if n.count(".") == 2 and n.startswith("blocks.1.hook_")
    }
    wanted = set(STREAMS)
    wanted -= {"hook_resid_mid"} if {"parallel", "attn_only"} & zoo.traits(name) else set()
    wanted -= {"hook_mlp_out"} if "attn_only" in zoo.traits(name) else set()
    if name == "bridge/granite" and zoo.HookedTransformer is not None:
        wanted -= {"hook_attn_out", "hook_mlp_out"}  # 3.x only shows them: refused by name
    assert wanted <= at


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.endswith(("/gpt2", "/llama", "/ln"))])
def test_hooks_that_a_setting_calls_up_say_it_too(name):
    model = zoo.build(name)
    for setting in ("attn_result", "split_qkv_input", "hook_mlp_in"):
        getattr(model, f"set_use_{setting}")(True)
    found = hold_against_nudges(model)
    for hook in ("hook_q_input", "hook_mlp_in", "attn.hook_result"):
        assert f"blocks.1.{hook}" in found


@pytest.mark.parametrize("name", zoo.pairs())
def test_classes_agree_at_every_name_that_both_score(name):
    pair = [zoo.shared(f"{kind}/{name}") for kind in ("hooked", "bridge")]
    common = [n for n in names_of(pair[0]) if n in pair[1].hook_dict]
    with zoo.exact_float64(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fired = [nudges.shown(model, torch.tensor([TOKENS]), common)[0] for model in pair]
        left, right = (
            scores(m, [n for n in common if n in fired[0] and n in fired[1]]) for m in pair
        )
    both = left.keys() & right.keys()
    assert {f"blocks.1.{n}" for n in STREAMS if f"blocks.1.{n}" in common} <= both
    for n in both:
        torch.testing.assert_close(left[n], right[n], rtol=0, atol=1e-6 * float(left[n].max()))
