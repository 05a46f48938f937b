"""Circuits of a model with a user's hooks on it are those of the model as it then is: against plain hooks."""

from __future__ import annotations

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.hook_edits import (
    EDITS,
    IDS,
    S,
    Z,
    ablated,
    close,
    each_class,
    effects,
    embed_hook,
    zeroing,
)
from tl_scopes.circuits import components, flow, flow_path, head_paths, verify
from tl_scopes.errors import NonAdditiveError

FISHER = ts.FisherScope(rank=3)


# -------------------------------------------------------------------------------------------- edits stay in force
@each_class
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_model_has_its_own_components(name, edit):
    model = zoo.build(name)
    plain = components(model, IDS, S, "layer").total
    with model.hooks([EDITS[edit]]):
        z, g = effects(model, Z)
        stream, at_stream = effects(model, "blocks.2.hook_resid_pre")
        found = components(model, IDS, S, "layer")
        paths = head_paths(model, IDS, S)
        scores = ts.attribute(model, IDS, S).scores[0]
        if edit in ("ablated head", "ablated MLP", "scaled stream"):  # the last is the embedding's
            close(components(model, IDS, S).heads()[1], (g * z).sum(-1).T)
        else:  # what the hook writes is nobody's
            with pytest.raises(NonAdditiveError, match="hook of yours"):
                components(model, IDS, S)
    close(found.sensitivity[2], at_stream.norm(dim=-1))
    close(paths.scores, scores)
    close(paths.signed.sum(1) + paths.outside_signed, scores.expand(3, -1))
    assert stream.shape == (7, 16)
    assert not torch.allclose(found.total, plain, rtol=1e-3)
    close(components(model, IDS, S, "layer").total, plain)


@each_class
@pytest.mark.parametrize("at", [-1, 3, slice(-2, None)], ids=["last", "fourth", "last two"])
def test_hooks_that_count_positions_see_the_whole_prompt(name, at):
    model = zoo.build(name)

    with model.hooks([(Z, zeroing(slice(None), at))]):
        found = components(model, IDS, S, position=4, baseline="mean")
        for layer in (0, 2):
            hook = f"blocks.{layer}.attn.hook_z"
            z, g = effects(model, hook, position=4)
            close(found.heads()[layer], (g * (z - z[1:5].mean(0))).sum(-1).T)
        scores = ts.attribute(model, IDS, S, position=4).scores[0]
        for each in (flow(model, IDS, S, 2, position=4), head_paths(model, IDS, S, position=4)):
            close(each.scores, scores)
        path = flow_path(model, IDS, S, [1, 2], position=4)
        close(path.nodes.sum(1), scores.sum().expand(3), 1e-4)
        told = verify(model, IDS, ts.attribute(model, IDS, S, position=4), steps=[1.0])
        for label, measured in zip(told.labels, told.measured):
            t = int(label.split(":")[0])
            close(measured, ablated(model, t, position=4) - ablated(model, None, position=4), 1e-4)
    assert len(told.labels) == 5


@each_class
@pytest.mark.parametrize("scope", [S, FISHER], ids=lambda s: s.name)
def test_hooks_made_for_one_row_see_one_row(name, scope):
    """Rows are this package's doing: a hook that edits `a[0]`, or puts a cached run in place, means the prompt."""
    model = zoo.build(name)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([IDS[::-1]]))
    patch = cache["blocks.1.hook_mlp_out"]

    def first(a, hook):
        assert len(a) == 1
        a = a.clone()
        a[0, 3] = patch[0, 3]
        return a

    def every(a, hook):
        a = a.clone()
        a[:, 3] = patch[0, 3]
        return a

    found = []
    for hook in (first, every):
        with model.hooks([("blocks.1.hook_mlp_out", hook)]):
            attribution = ts.attribute(model, IDS, scope)
            told = [
                verify(model, IDS, attribution, by, top=3, steps=[1.0]) for by in ("token", "head")
            ]
            path = flow_path(model, IDS, scope, [1, 2, 3])
            found.append([*(each.step_measured for each in told), path.edges])
            close(path.nodes.sum(1), path.nodes[:1].sum().expand(4), 1e-4)
    for one, other in zip(*found):
        close(one, other, 1e-5)


@each_class
@pytest.mark.parametrize("at", ["hook_resid_pre", "ln1.hook_in", "attn.hook_z", "hook_mlp_out"])
def test_hooks_may_edit_in_place(name, at):
    hook = f"blocks.1.{at}"
    model = zoo.build(name)
    if hook not in model.hook_dict:
        pytest.skip("this class has no such hook")

    def clear(a, hook):
        a[:, 2] = 0
        return a

    with model.hooks([(hook, clear)]):
        _, g = effects(model, embed_hook(model))
        found = flow(model, IDS, S, 1)
        close(found.scores, g.norm(dim=-1))
        close(found.signed.sum(0), found.scores)
        close(head_paths(model, IDS, S).scores, found.scores)
        path = flow_path(model, IDS, S, [1, 2])
        close(path.nodes[0], found.scores)
        close(path.nodes.sum(1), found.scores.sum().expand(3), 1e-4)
        z, g = effects(model, "blocks.0.attn.hook_z")
        if at not in ("hook_resid_pre", "ln1.hook_in"):
            close(components(model, IDS, S).heads()[0], (g * z).sum(-1).T)


@each_class
def test_a_small_write_beside_a_massive_first_token_is_missed_by_none(name):
    """First tokens of real models are a thousand times the others; they must not hide what does not add up."""
    model = zoo.build(name)

    def massive(a, hook):
        a = a.clone()
        a[:, 0] *= 1e5
        return a

    def write(a, hook):
        a = a.clone()
        a[:, 4] += 0.5
        return a

    with model.hooks([(embed_hook(model), massive)]):
        found = components(model, IDS, S)
        assert found.labels[0] == "embed"
        for hook in ("blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"):
            with (
                model.hooks([(hook, write)]),
                pytest.raises(NonAdditiveError, match="at a position"),
            ):
                components(model, IDS, S)
        # Heads of a layer, likewise.
        with (
            model.hooks([("blocks.0.hook_attn_out", massive), ("blocks.0.hook_attn_out", write)]),
            pytest.raises(NonAdditiveError, match="heads do not add up"),
        ):
            components(model, IDS, S)
