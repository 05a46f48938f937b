"""A user's own hooks are part of the model: honoured exactly, or refused where they would be passed over."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.testing import assert_close

import tl_scopes as ts
from support import chosen, zoo
from support.by_hand import by_hand
from support.calls import VARIANTS, T, values
from support.hook_edits import EDITS, nothing, twice, zeroing
from support.traces import PLAIN, built, each_class, each_use
from tl_scopes import baselines
from tl_scopes.errors import NumericalError, UnsupportedModelError

SCOPE = ts.SemanticScope(5)


def halve_gradient(grad, hook):
    return (grad[0] / 2,) if isinstance(grad, tuple) else grad / 2


@pytest.mark.parametrize(("name", "edit", "used"), chosen.pairs(PLAIN, EDITS, [False, True]))
def test_edits_change_the_scores_as_they_change_the_model(name, edit, used):
    model = zoo.build(name)
    tokens = model.to_tokens(T)
    plain = by_hand(model, tokens, target=5)
    if used:
        ts.attribute(model, tokens, SCOPE)
    with model.hooks([EDITS[edit]]):
        expected = by_hand(model, tokens, target=5)
        found = ts.attribute(model, tokens, SCOPE, sites="all")
    assert_close(found.scores[0], expected, rtol=2e-5, atol=1e-6)
    assert not torch.allclose(expected, plain, rtol=1e-3)
    after = ts.attribute(model, tokens, SCOPE)
    assert_close(after.scores[0], plain, rtol=2e-5, atol=1e-6)


@each_class
@each_use
def test_a_stream_ablated_from_the_start_has_no_influence(name, used):
    """And what the package measures of a model on first use is not what a hook made of it."""
    model = built(name, used)
    expected = ts.attribute(zoo.shared(name), T, SCOPE).scores
    with model.hooks([("blocks.0.hook_resid_pre", nothing)]):
        assert not ts.attribute(model, T, SCOPE).scores.any()
    assert_close(ts.attribute(model, T, SCOPE).scores, expected)


@pytest.mark.parametrize("name", zoo.names("bridge", "embed_scale"))
def test_a_first_call_that_fails_teaches_nothing(name):
    model = zoo.build(name)
    with (
        model.hooks([("blocks.2.hook_resid_pre", lambda a, hook: a * float("nan"))]),
        pytest.raises(NumericalError, match=r"resid\(2\)"),
    ):
        ts.attribute(model, T, SCOPE)
    found = ts.attribute(model, T, SCOPE).scores
    assert_close(found, ts.attribute(zoo.shared(name), T, SCOPE).scores)


@each_class
@each_use
def test_backward_hooks_that_change_gradients_are_refused(name, used):
    """The function, and so its Jacobian, is what it was without them."""
    model = built(name, used)
    for edit in (halve_gradient, lambda g, hook: (torch.zeros_like(g),)):
        with (
            model.hooks(bwd_hooks=[("blocks.1.hook_resid_pre", edit)]),
            pytest.raises(UnsupportedModelError, match=r"slope.*way back.*1.hook_resid_pre"),
        ):
            ts.attribute(model, T, SCOPE, sites="all")
    expected = ts.attribute(zoo.shared(name), T, SCOPE, sites="all").scores
    assert_close(ts.attribute(model, T, SCOPE, sites="all").scores, expected)


LOOKS = {
    "forward": lambda m, look: m.hooks([("blocks.1.hook_resid_pre", look)]),
    "backward": lambda m, look: m.hooks(bwd_hooks=[("blocks.1.hook_resid_pre", look)]),
    "backward of a module": lambda m, look: m.blocks[0].register_full_backward_hook(look),
    "at the logits": lambda m, look: m.unembed.register_forward_hook(look),
}
LOOKED_AT = (
    *("fisher, every site", "fisher, batch", "fisher, sequence", "InputXGradient", "LeaveOneOut", "SemanticPath"),
    *("components", "components, frozen", "flow, in chunks", "flow_path, frozen", "head_paths, split", "verify, heads"),
)  # fmt: skip


@functools.cache
def unseen(name: str, variant: str) -> list[torch.Tensor]:
    return values(VARIANTS[variant](zoo.shared(name), **more(variant)))


def more(variant: str) -> dict[str, object]:
    if variant == "fisher, batch":  # of prompts of several lengths
        return {}
    given = {"position": 3} if "position" in VARIANTS[variant].takes else {}
    return given | ({"baseline": "mean"} if variant == "components" else {})


@pytest.mark.parametrize(("name", "where", "used"), chosen.pairs(PLAIN, LOOKS, [False, True]))
def test_hooks_that_only_look_change_nothing(name, where, used):
    """They make the whole prompt be run, in rows of its own; no number may depend on that."""
    model, seen = built(name, used), []
    with LOOKS[where](model, lambda *_, **__: seen.append(1)):
        for variant in LOOKED_AT[:: 1 if where == "forward" else 4]:
            found = values(VARIANTS[variant](model, **more(variant)))
            for got, wanted in zip(found, unseen(name, variant), strict=True):
                assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert seen


@each_class
def test_a_result_says_which_hooks_were_in_force(name, tmp_path, capsys):
    model = zoo.build(name)
    plain = ts.attribute(model, T, SCOPE)
    assert plain.provenance.hooks == ()
    model.add_hook("blocks.1.hook_resid_pre", twice)
    model.blocks[0].register_forward_hook(lambda *_: None)
    model.add_hook("blocks.2.hook_resid_pre", lambda g, hook: None, dir="bwd")
    found = ts.attribute(model, T, SCOPE)
    names = ("blocks.0", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre")
    assert sorted(found.provenance.hooks) == sorted(names)
    assert baselines.InputXGradient().attribute(model, T).provenance.hooks == found.provenance.hooks
    again = ts.Attribution.load(found.save(tmp_path / "a.safetensors"))
    assert again.provenance == found.provenance
    for result, told in ((plain, False), (again, True)):
        result.print()
        printed = " ".join(capsys.readouterr().out.split())
        for text in (printed, result.to_html()):
            assert ("with your own hooks at" in text) == told
            assert not told or all(name in text for name in names)


@each_class
def test_hooks_added_with_torch_are_honoured(name):
    model = zoo.build(name)
    tokens = model.to_tokens(T)
    with model.blocks[1].mlp.register_forward_hook(lambda module, args, output: output * 0.5):
        expected = by_hand(model, tokens, target=5)
        found = ts.attribute(model, tokens, SCOPE).scores[0]
    assert_close(found, expected, rtol=2e-5, atol=1e-6)
    assert not torch.allclose(ts.attribute(model, tokens, SCOPE).scores[0], expected, rtol=1e-3)


# Ways to edit what comes after the final state was read.
LAST_STEP = {
    "unembed.hook_in": lambda model: model.hooks([("unembed.hook_in", twice)]),
    "unembed.hook_out": lambda model: model.hooks([("unembed.hook_out", twice)]),
    "module unembed": lambda model: model.unembed.register_forward_hook(lambda m, a, out: out * 2),
    "module model": lambda model: model.register_forward_hook(lambda m, a, out: out * 2),
}


@each_class
@each_use
@pytest.mark.parametrize("edit", LAST_STEP)
def test_edited_logits_are_refused_not_ignored(name, edit, used):
    model = built(name, used)
    if edit.startswith("unembed") and edit not in model.hook_dict:
        pytest.skip("this version has no such hook")
    words = r"logits.*hooks that edit the logits.*remove"
    with LAST_STEP[edit](model), pytest.raises(UnsupportedModelError, match=words):
        ts.attribute(model, T, SCOPE)
    expected = ts.attribute(zoo.shared(name), T, SCOPE).scores
    assert torch.equal(ts.attribute(model, T, SCOPE).scores, expected)


@each_class
def test_an_unknown_last_step_is_refused(name, monkeypatch):
    """An output transform that neither the configuration nor the bridge's adapter tells of."""
    model = zoo.build(name)
    unembed = type(model.unembed)
    original = unembed.forward
    monkeypatch.setattr(unembed, "forward", lambda self, *a, **k: original(self, *a, **k).sin() * 3)
    with pytest.raises(UnsupportedModelError, match=r"differ from y W_U \+ b_U.*allowed"):
        ts.attribute(model, T, SCOPE)


@each_class
@pytest.mark.parametrize("at", [-1, 3, slice(-2, None)], ids=["last", "fourth", "last two"])
def test_hooks_that_count_positions_see_the_whole_prompt(name, at):
    """An edit at a position is one of the prompt as given: not of the prefix that would do, nor of a padded row."""
    model, longer = zoo.build(name), f"{T} {T}"
    with model.hooks([("blocks.1.hook_resid_pre", zeroing(slice(None), at))]):
        batch = ts.attribute_batch(model, [T, longer], SCOPE, sites="all", position=[4, -1])
        alone = [
            ts.attribute(model, prompt, SCOPE, sites="all", position=position)
            for prompt, position in ((T, 4), (longer, -1))
        ]
        sequence = ts.attribute_sequence(model, T, SCOPE, sites="all", positions=[4, 5])
    plain = ts.attribute(model, longer, SCOPE, sites="all")
    for together, single in zip(batch, alone):
        assert_close(together.scores, single.scores)
    assert_close(sequence.at(4).scores, alone[0].scores)
    assert not torch.allclose(alone[1].scores, plain.scores)
    # With the last position cut off at resid(1), what is read before it does not change.
    if at == -1:
        before = ts.attribute(model, T, SCOPE, sites="all", position=4)
        assert_close(alone[0].scores, before.scores)


@each_class
def test_hooks_may_edit_in_place(name):
    model = zoo.build(name)

    def in_place(activation, hook):
        activation[:, 2] = 0
        return activation

    def apart(activation, hook):
        return torch.cat([activation[:, :2], 0 * activation[:, 2:3], activation[:, 3:]], 1)

    maps = []
    for hook in (in_place, apart):
        with model.hooks([("blocks.0.hook_resid_pre", hook)]):
            maps.append(ts.attribute(model, T, SCOPE, sites=["embed", 1]).scores)
    assert_close(*maps)
