"""First-order effects of heads, MLPs and neurons on what a scope explains."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt, Prompts
from tl_scopes.adapter.sites import embed_site
from tl_scopes.circuits.pairs.effects import paired_components
from tl_scopes.circuits.pairs.pairs import Pairs, refuse_beside
from tl_scopes.circuits.passes.references import Baseline
from tl_scopes.circuits.passes.stream import last_stream
from tl_scopes.circuits.passes.trace import Trace, ask, asked, traced
from tl_scopes.circuits.passes.writes import Writes, sites_of_writes
from tl_scopes.errors import check_choice
from tl_scopes.results.circuits import Components
from tl_scopes.results.paired import PairedComponents
from tl_scopes.rules import Frozen, Rules
from tl_scopes.scopes.base import Scope

By = Literal["head", "mlp", "layer", "neuron"]


@overload
def components(
    model: Any,
    prompt: Pairs,
    scope: None = None,
    by: By = "head",
    *,
    frozen: Frozen = None,
    rules: Rules | None = None,
    progress: bool | None = None,
) -> PairedComponents: ...
@overload
def components(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    by: By = "head",
    *,
    baseline: Literal["zero", "mean", "corrupted"] | None = None,
    corrupted: Prompt | None = None,
    reference: Prompts | None = None,
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
    rules: Rules | None = None,
    progress: bool | None = None,
) -> Components: ...
def components(
    model: Any,
    prompt: Prompt | Pairs,
    scope: Scope | None = None,
    by: By = "head",
    *,
    baseline: Literal["zero", "mean", "corrupted"] | None = None,
    corrupted: Prompt | None = None,
    reference: Prompts | None = None,
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
    rules: Rules | None = None,
    progress: bool | None = None,
) -> Components | PairedComponents:
    """First-order effects on a scope's scalar of everything written into the residual stream.

    One forward and one backward pass (batched over the vectors of a Fisher scope), however many
    components there are.

    Args:
        model, prompt, scope, position, prepend_bos: as in `tl_scopes.attribute`. Or `Pairs` in the place
            of the prompt, which have scopes and corrupted prompts of their own: of the rest they take
            `by`, `frozen` and `progress` alone.
        by: `"head"`: every head, attention bias and MLP. `"mlp"`: attention as a whole and MLPs.
            `"neuron"`: attention as a whole and every neuron. `"layer"`: whole blocks. Each has a
            row for the embedding too (positions added to it included), so that direct effects add
            up.
        baseline: what a write is compared with in the total effect: `"zero"` (the default),
            `"mean"` over the tokens of `reference` (None: of the prompt), BOS left out, or
            `"corrupted"`: the same place in the prompt `corrupted`, which must be as long. Biases
            are the same under the last two, so that their total effect is zero.
        frozen: what gradients hold constant: attention `"patterns"`, `"norms"` (their scales),
            `"both"`.
        rules: gradient rules (`tl_scopes.rules`); None: those of the scope. What is `frozen` is held beside them.
        progress: over pairs, a bar on stderr. Default: where stderr is a terminal.

    Returns:
        `Components`. The scalar of a scope is the number that it explains, such as the logit; a write is
        what a component adds to the residual stream. `total`: gradient at the write times (write -
        baseline). `direct`: gradient at the last stream before the read times the write, with the scale
        of a norm between the two (Gemma) held constant. `sensitivity`: norm of the gradient, for a head
        with respect to z, its output before W_O. Units: those of the scalar, for Fisher nats;
        sensitivity in the scope's units.

        Of pairs `PairedComponents`: total effects against the corrupted prompt, pair by pair those of
        `baseline="corrupted"`, summed over the positions of each role. Pairs of one length share one
        forward pass on the corrupted side, and one forward and one backward pass on the clean side.

    Raises:
        NonAdditiveError: where the parts do not add up to the residual stream.
        UnsupportedModelError: where `by` asks for heads or neurons that the model does not have.
        LengthMismatchError: for a corrupted prompt of another length.
        ScopesError: as `attribute`.

    Source: attribution patching (Nanda 2023; Syed et al., arXiv 2310.10348) for total effects, direct
    logit attribution (Elhage et al. 2021) for direct ones, with a scope's vectors (arXiv 2601.16407)
    in the place of a logit.

        >>> effects = components(model, "The capital of France is", SemanticScope(" Paris"))
        >>> effects.top(5)
    """
    check_choice("by", by, ("head", "mlp", "layer", "neuron"))
    if isinstance(prompt, Pairs):
        refuse_beside(
            scope=scope,
            baseline=baseline,
            corrupted=corrupted,
            reference=reference,
            position=None if position == -1 else position,
            prepend_bos=prepend_bos,
        )
        return paired_components(model, prompt, by, asked(frozen, rules), progress)
    prompt_run = ask(model, prompt, scope, position, prepend_bos, asked(frozen, rules))
    stream = last_stream(prompt_run.view, prompt_run.read_site)
    sites, optional = sites_of_writes(prompt_run.view, stream, by)
    start = Baseline.chosen(prompt_run, baseline, corrupted, reference, prepend_bos)
    with traced(prompt_run, embed_site(), sites, optional) as trace:
        reached = [site for site in optional if site.label in trace.kept]
        start.measure([*sites, *reached], trace.kept)
        writes = Writes(trace.batch, stream, start.values, zero=start.kind == "zero")
        writes.fill(by)
        return _result(trace, writes, start.kind)


def _result(trace: Trace, writes: Writes, baseline: str) -> Components:
    norms = trace.norms.double()[:, None, None]
    total, direct = (torch.cat(x, dim=1) * norms for x in (writes.total, writes.direct))
    weights = trace.weights
    sensitivity = torch.einsum("v,vcp->cp", weights, torch.cat(writes.squares, 1) * norms**2)
    stream = writes.write[writes.stream.site.label]
    whole = (writes.at_stream * stream).sum((1, 2)).double().cpu() * trace.norms.double()

    def combined(x: Tensor) -> Tensor:
        return torch.einsum("v,vcp->cp", weights, x.square() if trace.squared else x)

    return Components(
        **trace.common(),
        labels=tuple(writes.labels),
        kinds=tuple(writes.kinds),
        layers=tuple(writes.layers),
        indices=tuple(writes.indices),
        baseline=baseline,
        total=trace.whole(combined(total)),
        direct=trace.whole(combined(direct)),
        sensitivity=trace.whole(sensitivity if trace.squared else sensitivity.sqrt()),
        total_vectors=trace.whole(total),
        direct_vectors=trace.whole(direct),
        weights=weights.float(),
        whole=whole.float(),
    )
