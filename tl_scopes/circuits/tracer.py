"""A scope's vectors as targets of circuit-tracer's attribution graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter import guards
from tl_scopes.adapter.prompts import Prompt
from tl_scopes.adapter.sites import embed_site
from tl_scopes.circuits.passes.trace import ask, traced
from tl_scopes.errors import ProcessedWeightsError, ScopeParameterError
from tl_scopes.jacobian.answers import Answer
from tl_scopes.scopes.base import Scope
from tl_scopes.scopes.prediction import SemanticScope


class TracerTarget(NamedTuple):
    """What circuit-tracer calls a `CustomTarget`, or a tuple in its place: a name, a weight, a vector."""

    token_str: str
    prob: float
    vec: Float[Tensor, "d_model"]


def circuit_tracer_targets(
    model: Any, prompt: Prompt, scope: Scope, *, prepend_bos: bool | None = None
) -> list[TracerTarget]:
    """What a scope explains of a prompt, as targets for circuit-tracer's `attribute`.

    circuit-tracer injects a vector at the final state of the last token and follows it back through
    transcoder features; a scope's `v` is such a vector. A circuit of heads holds none, since each of
    its pairs has its own: so this takes one prompt. A scope of several vectors (Fisher) gives one target
    each, the weightiest first; their graphs are linear, so they tell what moves `<v_i, y>`, and not the
    quadratic form, and the sign of each is arbitrary.

    Returns:
        One `TracerTarget` a vector: `token_str`, `prob` (of a semantic scope the target's probability, of
        several vectors the share of their weights, else 1) and `vec`, Float[Tensor, "d_model"]. For a
        semantic scope `vec` is the column of W_U itself; circuit-tracer's own logit targets have the mean
        column taken off.

    Raises:
        ScopeParameterError: for a direction inside the model, or several reads, which circuit-tracer
            has no place for.
        ProcessedWeightsError: where the final norm is folded into W_U, which circuit-tracer's models
            do not do: the vectors would be of another basis.
        ScopesError: as `tl_scopes.attribute`.

    Source: `AttributionTargets` of circuit-tracer, which takes tuples (text, weight, vector); Ameisen et
    al. 2025, "Circuit Tracing".

    Examples:
        >>> targets = circuit_tracer_targets(model, "The capital of France is", FisherScope(rank=4))
        >>> graph = circuit_tracer.attribute(prompt, replacement_model, attribution_targets=targets)
    """
    prompt_run = ask(model, prompt, scope, -1, prepend_bos)
    if scope.read_site is not None or len(prompt_run.places(prompt_run.position)) > 1:
        what = "inside the model" if scope.read_site is not None else "at several positions"
        raise ScopeParameterError(
            f"the scope reads {what}, but circuit-tracer explains the final state of the last token: give a "
            "scope of one prediction, such as SemanticScope, or a direction with site=None"
        )
    read = prompt_run.position if prompt_run.n_prompt is None else prompt_run.n_prompt - 1
    if prompt_run.position != read or (
        prompt_run.n_prompt is None and read + 1 != len(prompt_run.ids)
    ):
        raise ScopeParameterError(
            f"the scope reads position {prompt_run.position}, but circuit-tracer explains the last token: end "
            "the prompt there"
        )
    found = guards.processing(prompt_run.view.model)
    if found.folded:
        raise ProcessedWeightsError(
            f"the model's weights are {found.description}, and circuit-tracer's are not: load it "
            "with from_pretrained_no_processing, or as a freshly booted bridge"
        )
    with traced(prompt_run, embed_site(), []) as trace:
        return _targets(trace.answer)


def _targets(answer: Answer) -> list[TracerTarget]:
    explained = answer.explained
    vectors = explained.vectors.detach().reshape(len(explained.vectors), -1).float().cpu()
    if not explained.squared:
        name, chance = str(answer.scope.info(explained)), 1.0
        if isinstance(answer.scope, SemanticScope):
            assert explained.target is not None and answer.read.raw is not None
            logits = answer.read.head.logits(answer.read.raw).double()
            name = explained.target.text
            chance = float(logits.softmax(-1)[explained.target.id])
        return [TracerTarget(name, chance, vectors[0])]
    weights = explained.every_weight.double().cpu()
    total = float(weights.sum())
    name, count = answer.scope.name, len(vectors)
    order = torch.sort(weights, descending=True, stable=True).indices.tolist()
    return [
        TracerTarget(f"{name} {i + 1} of {count}", float(weights[row]) / total, vectors[row])
        for i, row in enumerate(order)
        if weights[row] > 0
    ]
