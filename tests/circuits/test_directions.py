"""Directions read, and attributions verified, anywhere inside a model: against plain hooks and autograd."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import chosen, zoo
from support.hook_edits import IDS, S, Z, ablated, close, each_class, effects, zeroing
from support.marks import MODELS
from tl_scopes.circuits import components, flow, head_paths, verify
from tl_scopes.errors import SiteError, UnsupportedModelError


def direction(model, site: str, seed: int = 0) -> ts.DirectionScope:
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([IDS]))
    hook = site.split("[")[0]
    shape = cache[hook].shape[2:] if hook == site else cache[hook].shape[3:]
    v = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ts.DirectionScope(v, site=site)


INSIDE = [
    "blocks.1.attn.hook_z[2]", "blocks.1.attn.hook_q", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out",
    "blocks.1.mlp.hook_post", "blocks.1.hook_resid_mid", "blocks.2.hook_resid_post", "ln_final.hook_normalized",
    "blocks.0.hook_resid_pre", "blocks.0.hook_attn_out",
]  # fmt: skip


@pytest.mark.parametrize(("name", "site"), chosen.each(MODELS, INSIDE))
def test_directions_read_inside_the_model(name, site):
    model = zoo.shared(name)
    scope = direction(model, site)
    hook = site.split("[")[0]
    v = scope.v
    if hook != site:  # one head of them
        v = torch.zeros(4, 4, dtype=torch.float64)
        v[2] = scope.v
    for at in (None, 3):
        scope = ts.DirectionScope(scope.v, site=site, position=at)
        read = -1 if at is None else at
        whole = ts.attribute(model, IDS, scope).scores[0]
        for by in ("head", "layer"):
            found = components(model, IDS, scope, by)
            error = (found.direct_vectors.sum((1, 2)) - found.whole).abs().max()
            assert error < 1e-5 * found.direct_vectors.abs().max() + 1e-5
            assert found.position == read % len(IDS)
        z, g = effects(model, "blocks.0.hook_resid_pre", hook, v, read)
        error = (found.total[0].double() - (g * z).sum(-1)).abs().max()
        assert error < 1e-5 * float((g.norm(dim=-1) * z.norm(dim=-1)).max())
        if site == "blocks.0.hook_resid_pre":
            continue
        if "blocks.0" not in site:
            z, g = effects(model, "blocks.0.attn.hook_z", hook, v, read)
            close(components(model, IDS, scope).heads()[0], (g * z).sum(-1).T)
            split = flow(model, IDS, scope, 1)
            close(split.scores, whole)
            close(split.signed.sum(0), whole)
        paths = head_paths(model, IDS, scope, split=True)
        close(paths.scores, whole)
        close(paths.signed.sum(1) + paths.outside_signed, whole.expand(3, -1))


@each_class
@pytest.mark.parametrize("site", ["blocks.1.hook_attn_out", "blocks.0.hook_attn_out", Z, f"{Z}[2]"])
def test_what_an_attention_writes_comes_through_its_own_heads(name, site):
    model = zoo.shared(name)
    block = int(site.split(".")[1])
    found = head_paths(model, IDS, direction(model, site))
    nothing = 1e-5 * float(found.scores.max())
    assert found.outside_norms[block].max() < nothing
    close(found.signed[block].sum(0), found.scores)
    if site.endswith("[2]"):
        assert not found.norms[block, [0, 1, 3]].any()
        close(found.norms[block, 2], found.scores)
    queries = direction(model, "blocks.1.attn.hook_q")  # they come before
    before = head_paths(model, IDS, queries)
    assert not before.norms[1].any()
    close(before.outside_norms[1], before.scores)
    with pytest.raises(SiteError, match="no head"):
        head_paths(model, IDS, direction(model, "blocks.0.attn.hook_q"))


@each_class
def test_norms_are_held_where_one_is_read_inside(name):
    model = zoo.shared(name)
    scope = direction(model, "ln_final.hook_scale")
    for call in (components, functools.partial(flow, layer=1), head_paths):
        with pytest.raises(UnsupportedModelError, match=r"has no path to what is read.*holds it"):
            call(model, IDS, scope, frozen="norms")
    ends = ("ln_final.hook_in", "ln_final.hook_normalized", "ln_final.hook_out", "unembed.hook_in")
    for site in ends:
        if site in model.hook_dict:
            scope = direction(model, site)
            found = components(model, IDS, scope, frozen="norms")
            # With the scale held, what is read is the sum of the direct effects.
            with torch.no_grad():
                _, cache = model.run_with_cache(torch.tensor([IDS]))
            close(found.direct.sum()[None], (cache[site][0, -1] @ scope.v)[None])


@each_class
@pytest.mark.parametrize("site", [f"{Z}[2]", Z, "resid(2)", "blocks.1.hook_mlp_out"])
def test_verification_where_the_attribution_was_made(name, site):
    """One head's row of scores is verified by that head's ablation."""
    model = zoo.shared(name)
    told = verify(model, IDS, ts.attribute(model, IDS, S, sites=site), steps=[1.0])
    hook = "blocks.2.hook_resid_pre" if site == "resid(2)" else site.split("[")[0]
    x, g = effects(model, hook)
    for label, predicted, measured in zip(told.labels, told.predicted, told.measured):
        t = int(label.split(":")[0])
        own = {f"{Z}[2]": (t, 2), Z: (t, 0)}.get(site, (t,))  # heads are sites: the first counts
        wanted = -float((g[own] * x[own]).sum())
        assert float(predicted) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        with model.hooks([(hook, zeroing(slice(None), *own))]):
            changed = ablated(model, None, -1)
        wanted = float(changed - ablated(model, None, -1))
        assert float(measured) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
