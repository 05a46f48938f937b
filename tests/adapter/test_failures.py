"""A forward pass that fails by itself is refused by name, with what helps; errors of a hook stay what they are."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers

import tl_scopes as ts
from support import zoo
from support.marks import each_of, needs_bridge
from support.zoo_tables import _LLAMA
from tl_scopes import models
from tl_scopes.adapter import failures
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import ModelUnavailableError, UnsupportedModelError

SCOPE = ts.SemanticScope(5)


@needs_bridge
def test_olmo_in_half_precision_names_float32(tmp_path):
    """Where transformer-lens runs it, it must give what float32 gives."""
    model = zoo.build("bridge/olmo2", torch.bfloat16)
    try:
        found = ts.attribute(model, zoo.TEXT, SCOPE)
    except UnsupportedModelError as error:
        assert "fails in bfloat16 (RuntimeError: expected" in str(error)
        assert "Load it in float32" in str(error) and "transformer-lens" in str(error)
        zoo.hf_model("olmo2", torch.bfloat16).save_pretrained(tmp_path)
        zoo.tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ModelUnavailableError, match=r"expected.*dtype='float32'"):
            models.load(tmp_path, "bridge", dtype="bfloat16")
        models.load(tmp_path, "bridge", dtype="float32")
    else:
        right = ts.attribute(zoo.build("bridge/olmo2", torch.float32), zoo.TEXT, SCOPE)
        assert (found.scores - right.scores).abs().max() < 0.1 * right.scores.max()


@needs_bridge
def test_a_site_at_which_the_model_fails_is_named():
    """OLMo's norm has no gain, which transformer-lens asks for where one hooks what is normalised."""
    fields = {k: v for k, v in _LLAMA.items() if k != "rms_norm_eps"}
    with zoo.building():
        source = transformers.AutoModelForCausalLM.from_config(
            transformers.OlmoConfig(vocab_size=zoo.D_VOCAB, **fields), attn_implementation="eager"
        )
    source.config.architectures = ["OlmoForCausalLM"]
    model = zoo.boot(source.eval(), torch.float32)
    ts.attribute(model, zoo.TEXT, SCOPE)
    site = "blocks.0.ln1.hook_normalized"
    with pytest.raises(
        UnsupportedModelError, match=rf"fails in float32 .*'weight'.*no hook at {site}"
    ):
        ts.attribute(model, zoo.TEXT, SCOPE, sites=[site])


@needs_bridge
def test_a_norm_that_is_shown_another_shape_is_named():
    """OPT's post-norm form flattens positions, which transformer-lens does not undo at that hook."""
    model = zoo.boot(zoo.hf_model("opt-post-norm"))
    site = "blocks.1.ln2.hook_out"
    with pytest.raises(UnsupportedModelError, match=rf"fails in float64 .*no hook at {site}"):
        ts.attribute(model, zoo.TEXT, SCOPE, sites=[site])
    assert ts.attribute(model, zoo.TEXT, SCOPE, sites="all").scores.isfinite().all()


@each_of("llama")
def test_an_error_in_a_hook_is_the_hooks_own(name):
    model = zoo.build(name, torch.float32)

    def broken(activation, hook):
        return activation @ torch.ones(3)

    with (
        model.hooks([("blocks.1.hook_resid_pre", broken)]),
        pytest.raises(RuntimeError) as found,
    ):
        ts.attribute(model, zoo.TEXT, SCOPE)
    assert not isinstance(found.value, UnsupportedModelError)


def test_too_little_memory_is_no_fault_of_the_model():
    model = zoo.shared(zoo.names()[0])
    with pytest.raises(UnsupportedModelError, match=r"the model's own forward pass fails.*shapes"):
        failures.named(view_of(model), functools.partial(torch.nn.Linear(2, 3), torch.ones(4)))
    with pytest.raises(RuntimeError, match="memory") as found:
        failures.named(view_of(model), functools.partial(torch.nn.Linear, 1 << 24, 1 << 24))
    assert not isinstance(found.value, UnsupportedModelError)
