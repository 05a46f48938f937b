"""A check of a model: whole ones pass, and what was broken on purpose fails where it is broken."""

from __future__ import annotations

import json

import pytest
import torch

import tl_scopes as ts
from support import zoo, zoo_unfit
from support.cli_calls import call, parsed
from tl_scopes import models
from tl_scopes.checking import Finding, ModelCheck, subject
from tl_scopes.errors import ModelUnavailableError, PromptError
from tl_scopes.jacobian import original

CLASSES = zoo.known("hooked/gemma2", "bridge/gemma2")
WHOLE = zoo.known("hooked/gpt2", "hooked/llama", "bridge/llama", "bridge/gemma2", "bridge/opt")
GRADIENT, WRITTEN = "gradient at {}", ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"]


def looked(model, name: str = "gemma2", **options) -> ModelCheck:
    original = zoo.hf_model(name, model.cfg.dtype)
    return ts.check(model, original=original, costs=False, progress=False, **options)


def names(check: ModelCheck, state: str) -> set[str]:
    return {found.name for found in check.of(state)}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((n, torch.float32) for n in WHOLE), *((n, torch.bfloat16) for n in CLASSES)],
    ids=str,
)
def test_whole_models_pass(name, dtype):
    found = looked(zoo.build(name, dtype), name.partition("/")[2])
    assert found.passed and not found.of("refused"), found.of("failed")
    assert not found.of("skipped")
    assert found["logits"].value <= found["logits"].limit
    gradients = [f for f in found.findings if f.name.startswith("gradient at")]
    assert len(gradients) == 5 and all("float32" in f.measured for f in gradients)
    assert ("gradient in bfloat16" in names(found, "passed")) == (dtype == torch.bfloat16)


def scaled(model):
    model.hook_dict["hook_embed"].add_hook(lambda a, hook: 1.5 * a)


def looks_ahead(model):
    pattern = model.hook_dict["blocks.1.attn.hook_pattern"]
    pattern.add_hook(lambda a, hook: torch.full_like(a, 1 / a.shape[-1]))


def edits_logits(model):
    model.unembed.register_forward_hook(lambda module, args, out: out + torch.arange(out.shape[-1]))


def detached(model):
    model.hook_dict["blocks.1.hook_mlp_out"].add_hook(lambda a, hook: a.detach())


def quantised(model):
    def rounded(a, hook):
        step = a.detach().abs().amax(-1, keepdim=True) / 127
        return (a / step).round() * step

    for block in range(zoo.N_LAYERS):
        model.hook_dict[f"blocks.{block}.hook_mlp_out"].add_hook(rounded)


BROKEN = {
    "embedding scale": (scaled, {"embedding scale", "logits"}),
    "causal": (looks_ahead, {"causal", "logits"}),
    "last step": (edits_logits, {"last step", "logits"}),
    "detached": (detached, {*map(GRADIENT.format, ["embed", "resid(1)", WRITTEN[0]])}),
    "quantised": (quantised, {"logits", *map(GRADIENT.format, ["embed", "resid(1)", *WRITTEN])}),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("name", CLASSES)
def test_what_is_broken_fails_where_it_is_broken(name, what):
    model = zoo.build(name, torch.float32)
    break_it, expected = BROKEN[what]
    break_it(model)
    found = looked(model)
    assert not found.passed
    assert names(found, "failed") == expected
    for each in found.of("failed"):
        assert each.remedy or "Remove" in each.measured or "remove" in each.measured, each


@pytest.mark.skipif(zoo.TransformerBridge is None, reason="transformer-lens < 3")
def test_quantised_activations_are_told_by_their_class():
    found = ts.check(zoo_unfit.int8_bridge(activations=True), costs=False, progress=False)
    assert "Int8Linear" in found["gradient at embed"].measured
    assert ts.check(zoo_unfit.int8_bridge(), costs=False, progress=False).passed


def test_a_finding_that_follows_from_another_says_so():
    model = zoo.build(CLASSES[0], torch.float32)
    edits_logits(model)
    found = looked(model)
    assert found["batch equals single"].state == "skipped"
    assert "'last step'" in found["batch equals single"].measured


def test_processed_weights_fail_with_the_way_out():
    _, make = next(iter(zoo_unfit.processed().values()))
    found = ts.check(make(), costs=False, progress=False)
    assert names(found, "failed") == {"weights raw"}
    assert "from_pretrained_no_processing" in found["weights raw"].measured


def test_what_is_no_model_of_ours_is_one_finding():
    found = ts.check(torch.nn.Linear(2, 2))
    assert [f.name for f in found.findings] == ["model"] and not found.passed
    assert "allowed: a HookedTransformer" in found["model"].measured
    training = zoo.build(CLASSES[0], torch.float32).train()
    training.cfg.attn_dropout = 0.1
    ts.check(training, costs=False, progress=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_error_of_the_models_own_is_a_finding(dtype):
    """Float32 is a remedy in half precision only."""
    model = zoo.build(CLASSES[0], dtype)

    def raises(a, hook):
        raise ZeroDivisionError("a hook's own")

    model.hook_dict["blocks.2.hook_resid_pre"].add_hook(raises)
    found = ts.check(model, costs=False, progress=False)
    assert "ZeroDivisionError: a hook's own" in found["last step"].measured
    assert ("float32" in found["last step"].remedy) == (dtype == torch.bfloat16)
    assert found["embedding scale"].state == "failed" and found["weights raw"].state == "passed"
    with pytest.raises(PromptError):
        ts.check(model, [zoo.D_VOCAB])


def test_costs_and_length():
    model = zoo.build(CLASSES[0], torch.float32)
    found = ts.check(model, progress=False)
    assert found.costs[0].scope == "semantic" and len(found.costs) == 5
    assert all(c.seconds > 0 and c.tokens == zoo.N_CTX for c in found.costs)
    assert found.fits == zoo.N_CTX and "about 32 tokens fits" in found.room


def test_what_is_shown():
    model = zoo.build(CLASSES[0], torch.float32)
    model.cfg.model_name = "<i>\x1b[31m"
    detached(model)
    found = ts.check(model, progress=False)
    page = found.to_html()
    assert "<i>" not in page and "\x1b" not in page and "✗ failed" in page
    assert "http" not in page.replace("http-equiv", "")
    assert json.loads(found.to_json())["passed"] is False
    infinite = ModelCheck((Finding("x", "failed", "", value=float("nan")),))
    assert json.loads(infinite.to_json())["findings"][0]["value"] is None
    assert found._repr_html_().count("✗ failed") == page.count("✗ failed")
    assert "failed" in repr(found)


# ------------------------------------------------------------------------------------------- command line
def test_the_command(folder, tmp_path):
    page = tmp_path / "check.html"
    result = call("check", folder, "--no-costs", "--html", str(page))
    assert result.exit_code == 0, result.output
    assert "tiny-llama" in result.stdout and "✓ passed" in result.stdout
    assert "\x1b" not in result.stdout and "tiny-llama" in page.read_text(encoding="utf-8")
    found = parsed(call("check", folder, "--json", "--dtype", "bfloat16").stdout)
    assert found["passed"] and found["provenance"]["dtype"] == "bfloat16"
    logits = next(f for f in found["findings"] if f["name"] == "logits")
    assert logits["state"] == "passed" and logits["value"] <= logits["limit"]
    assert call("check", "no-such-model").exit_code == 2


def test_the_command_ends_with_1_for_a_broken_model(folder, monkeypatch):
    load = models.load

    def broken(*args, **kwargs):
        model = load(*args, **kwargs)
        detached(model)
        return model

    monkeypatch.setattr(models, "load", broken)
    result = call("check", folder, "--no-costs")
    assert result.exit_code == 1 and result.stderr == ""
    assert "✗ failed" in result.stdout and "blocks.1.hook_mlp_out" in result.stdout


@pytest.mark.skipif(zoo.TransformerBridge is None, reason="transformer-lens < 3")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_command_shows_a_bridge_that_is_refused(folder, monkeypatch, dtype):
    attention = type(models.load(folder, "bridge").blocks[0].attn)
    forward = attention.forward

    def other(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        first, *rest = out if isinstance(out, tuple) else (out,)
        first = first.flip(-1)
        return (first, *rest) if isinstance(out, tuple) else first

    monkeypatch.setattr(attention, "forward", other)
    with pytest.raises(ModelUnavailableError, match="off by"):
        models.load(folder, "bridge", dtype=dtype)
    asked = ("check", folder, "--backend", "bridge", "--dtype", dtype)
    result = call(*asked, "--json")
    assert result.exit_code == 1, result.output
    found = {each["name"]: each for each in parsed(result.stdout)["findings"]}
    assert found["logits"]["state"] == "failed" and "off by" in found["logits"]["measured"]
    assert "version of transformer-lens" in found["logits"]["measured"]
    assert found["weights raw"]["state"] == "passed"
    # The same where nothing is at hand to compare with.
    monkeypatch.setattr(original, "apart", lambda view, tokens: None)
    monkeypatch.setattr(subject, "room_for_weights", lambda model, dtype=None: False)
    result = call(*asked, "--no-costs")
    assert result.exit_code == 1 and "it is refused" in result.stdout, result.output


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_bundled_models_pass(name):
    small = name == "smollm2-135m-instruct"  # costs of one of the two: they take most of the time
    result = call("check", name, "--json", *([] if small else ["--no-costs"]))
    assert result.exit_code == 0, result.output
    found = parsed(result.stdout)
    assert {f["state"] for f in found["findings"]} == {"passed"}
    if small:
        assert len(found["costs"]) == 5 and found["fits"] > 1000
