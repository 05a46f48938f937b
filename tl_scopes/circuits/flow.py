"""Influence by way of the positions of a layer, and along several layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt, resolve_position
from tl_scopes.adapter.sites import Site
from tl_scopes.circuits.pairs.pairs import Pairs, refuse_beside
from tl_scopes.circuits.pairs.paths import Roles, paired_paths
from tl_scopes.circuits.passes.jvp import push_forward
from tl_scopes.circuits.passes.parts import Whole
from tl_scopes.circuits.passes.stream import tolerance
from tl_scopes.circuits.passes.trace import CircuitRun, Trace, ask, asked, traced
from tl_scopes.errors import SiteError, UnsupportedModelError
from tl_scopes.jacobian.answers import check_chunk
from tl_scopes.jacobian.backward import pull
from tl_scopes.results.flows import Flow, FlowPath
from tl_scopes.results.paired import PairedPaths
from tl_scopes.rules import Frozen, Rules
from tl_scopes.scopes.base import Scope


@overload
def flow(
    model: Any,
    prompt: Pairs,
    scope: None = None,
    layer: int | str = ...,
    *,
    site: int | str = "embed",
    frozen: Frozen = None,
    rules: Rules | None = None,
    chunk_size: int | None = None,
    progress: bool | None = None,
) -> PairedPaths: ...
@overload
def flow(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    layer: int | str,
    *,
    site: int | str = "embed",
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
    rules: Rules | None = None,
    chunk_size: int | None = None,
    progress: bool | None = None,
) -> Flow: ...
def flow(
    model: Any,
    prompt: Prompt | Pairs,
    scope: Scope | None = None,
    layer: int | str | None = None,
    *,
    site: int | str = "embed",
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
    rules: Rules | None = None,
    chunk_size: int | None = None,
    progress: bool | None = None,
) -> Flow | PairedPaths:
    """How the influence of each source token splits over the positions of an intermediate layer.

    One forward pass, one backward pass to the layer, and one from there to the source a position
    (batched) for every vector of the scope.

    Args:
        model, prompt, scope, position, prepend_bos, chunk_size: as in `tl_scopes.attribute`. Or `Pairs` in
            the place of the prompt, whose clean prompts are explained one by one, with scopes of their
            own: `flow(model, pairs, layer=6)`.
        layer: the layer whose positions influence passes through, resid(layer), 0 to n_layers.
        site: where the source tokens are; it must come before the layer.
        frozen: what gradients hold constant: attention `"patterns"`, `"norms"`, `"both"`.
        rules: gradient rules (`tl_scopes.rules`); None: those of the scope. What is `frozen` is held beside them.
        progress: over pairs, a bar on stderr. Default: where stderr is a terminal.

    Returns:
        `Flow`: `norms`, `share`, `signed` as Float[Tensor, "through source"] and `scores`, in the
        scope's units. As vectors the parts sum exactly to the whole gradient, so that `signed` sums
        over through-positions to `scores`.

        Of pairs `PairedPaths`: `signed`, summed over the through-positions of each role (the rows), and
        the source positions of each role. Norms of sums are no sums of norms, so these are not there.

    Raises:
        SiteError: for a layer that does not lie between the source and what is read.
        ScopesError: as `attribute`.

    Source: the chain rule, `v^T J_t = sum_q v^T dy/dr_q dr_q/dr_t`, for J of arXiv 2601.16407.

        >>> flow(model, "The capital of France is", SemanticScope(" Paris"), layer=6).share
    """
    check_chunk(chunk_size)
    if isinstance(prompt, Pairs):
        refuse_beside(
            scope=scope,
            position=None if position == -1 else position,
            prepend_bos=prepend_bos,
        )
    if layer is None:
        raise SiteError(
            "layer is None; allowed: a layer, or its name: give the one whose positions influence passes through"
        )

    def single(prompt_run: CircuitRun) -> Flow:
        return _single(prompt_run, site, layer, chunk_size)

    if isinstance(prompt, Pairs):

        def rows(found: Flow, roles: Roles) -> tuple[tuple[str, ...], Float[Tensor, "row source"]]:
            return prompt.roles, roles @ found.signed[: roles.shape[1]].double()

        return paired_paths(model, prompt, asked(frozen, rules), progress, "flow", single, rows)
    return single(ask(model, prompt, scope, position, prepend_bos, asked(frozen, rules)))


def _single(
    prompt_run: CircuitRun, site: int | str, layer: int | str, chunk_size: int | None
) -> Flow:
    source, through = _streams(prompt_run, [prompt_run.view.site(s) for s in (site, layer)])
    with traced(prompt_run, source, [through]) as trace:
        whole_gradient, at_layer = trace.gradients([source.label, through.label])
        whole = Whole(trace, source.label, whole_gradient)
        n = at_layer.shape[1]
        norms, signed = (whole.scores.new_zeros(n, n) for _ in range(2))
        output = trace.kept[through.label]
        for vector, q, cotangents in whole.alone(at_layer, chunk_size):
            parts = whole.pull([output], [cotangents])
            norms.index_add_(0, q, whole.size(parts, vector))
            signed.index_add_(0, q, whole.signed(parts, vector))
        return Flow(
            **trace.common(),
            site=source.label,
            layer=through.label,
            norms=trace.whole(norms, 2),
            signed=trace.whole(signed, 2),
            scores=trace.whole(whole.scores),
        )


def flow_path(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    layers: Sequence[int | str],
    *,
    site: int | str = "embed",
    source: int | None = None,
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
    rules: Rules | None = None,
    chunk_size: int | None = None,
) -> FlowPath:
    """Influence followed from the source tokens through the positions of several layers.

    Each token's influence is the derivative of the scope's scalar when the token moves along its own
    gradient. That motion is pushed forward to every layer, the scalar's gradient pulled back to it
    position by position; what a pair of positions in neighbouring layers passes on is the product.
    Exactly conserved: what enters a position leaves it.

    Args:
        layers: two or more layers in ascending order, resid(layer) each.
        source: follow the influence of this one token (a position); None: of all of them.
        others: as in `flow`.

    Returns:
        `FlowPath`: `edges` Float[Tensor, "step through source"], `nodes` Float[Tensor, "site pos"], in
        the scope's units.

    Raises:
        SiteError: for layers that are not in order, or beyond what is read.
        ScopesError: as `attribute`.

    Source: the chain rule, as for `flow`.

        >>> flow_path(model, "The capital of France is", SemanticScope(" Paris"), layers=[4, 8]).edges
    """
    check_chunk(chunk_size)
    prompt_run = ask(model, prompt, scope, position, prepend_bos, asked(frozen, rules))
    sites = _streams(prompt_run, [prompt_run.view.site(site), *prompt_run.view.sites(layers)])
    only = None if source is None else resolve_position(source, prompt_run.ids)
    with traced(prompt_run, sites[0], sites[1:]) as trace:
        labels = [s.label for s in sites]
        gradients = trace.gradients(labels)
        whole = Whole(trace, labels[0], gradients[0])
        direction = whole.direction
        if only is not None:
            direction = (
                direction
                * (torch.arange(direction.shape[1], device=direction.device) == only)[:, None]
            )
        tangents = push_forward(prompt_run, sites, direction * whole.unit)
        steps = [
            _step(trace, whole, before, after, gradients[i + 1], tangents[i], chunk_size)
            for i, (before, after) in enumerate(pairwise(labels))
        ]
        edges = torch.stack(steps)
        nodes = torch.cat([edges[:1].sum(1), edges.sum(2)])
        missed = (nodes.sum(1) - nodes[0].sum()).abs().max()
        if missed > tolerance(prompt_run.view.dtype) * edges.abs().sum((1, 2)).max():
            raise UnsupportedModelError(
                "forward-mode and backward derivatives of this model differ, so that influence is "
                "not conserved along the path: use flow, layer by layer"
            )
        return FlowPath(
            **trace.common(),
            sites=tuple(labels),
            edges=trace.whole(edges, 2),
            nodes=trace.whole(nodes),
        )


def _step(
    trace: Trace,
    whole: Whole,
    before: str,
    after: str,
    gradient: Float[Tensor, "vector pos d_model"],
    tangent: Float[Tensor, "vector pos d_model"],
    chunk_size: int | None,
) -> Float[Tensor, "through source"]:
    """What flows between the positions of two neighbouring sites of a path."""
    root, output = trace.kept[before], trace.kept[after]
    out = whole.scores.new_zeros(gradient.shape[1], gradient.shape[1])
    for vector, q, cotangents in whole.alone(gradient, chunk_size):
        (parts,) = pull(trace.view, [output], [root], [cotangents[:, None]])
        assert parts is not None
        products = (parts[:, 0].to(tangent) * tangent[vector]).sum(-1)
        out.index_add_(0, q, whole.scale[vector] * products)
    return out


def _streams(prompt_run: CircuitRun, sites: list[Site]) -> list[Site]:
    """`sites`, if they are the residual stream's, in ascending order. Raises `SiteError`."""
    for site in sites:
        if site.is_named:
            raise SiteError(
                f"{site.label!r} is a hook; influence flows between the positions of the residual "
                f'stream: give "embed", or a layer from 0 to {prompt_run.view.n_layers}'
            )
    order = [-1 if site.layer is None else site.layer for site in sites]
    if any(a >= b for a, b in pairwise(order)) or len(sites) < 2:
        raise SiteError(
            f"the sites {[site.label for site in sites]} are not in ascending order (the source "
            'comes first, "embed" unless you give site=): order the layers, each once'
        )
    return sites
