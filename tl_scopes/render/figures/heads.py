"""Figures of heads and other components: which of them, and for which tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tl_scopes.errors import RenderError, check_whole
from tl_scopes.render.colours import Scale, number
from tl_scopes.render.figures import circuits, style
from tl_scopes.render.figures.grids import Bars, head_grid, token_map
from tl_scopes.render.picture import one_of
from tl_scopes.render.tokens import quoted, words
from tl_scopes.results.circuits import Components
from tl_scopes.results.flows import HeadPaths


def draw_components(
    result: Components,
    *,
    what: str = "total",
    over: str | None = None,
    top: int = 24,
    scale: str = "linear",
    include_bos: bool = False,
) -> Figure:
    """See `tl_scopes.render.circuit`."""
    one_of("what", what, ("total", "direct", "sensitivity"))
    one_of("over", over, (None, "heads", "tokens"))
    one_of("scale", scale, ("linear", "log"))
    one_of("include_bos", include_bos, (False, True))
    values = {"total": result.total, "direct": result.direct, "sensitivity": result.sensitivity}
    circuits.check(result, **{what: values[what]})
    heads = [i for i, kind in enumerate(result.kinds) if kind == "head"]
    if over == "heads" and not heads:
        raise RenderError(
            f"over='heads', but this result has no heads, only {sorted(set(result.kinds))}: make "
            "it with by=\"head\", or draw it with over='tokens'"
        )
    sums = _sums(result, what)
    signed = not result.squared and what != "sensitivity"
    unit = words(result.units) if what == "sensitivity" else circuits.effect_unit(result)
    baseline = f"against {words(result.baseline)}" if what == "total" else ""
    facts = circuits.setting(
        result, "sensitivity" if what == "sensitivity" else f"{what} effects", baseline
    )
    if over == "tokens" or (over is None and not heads):
        return token_map(
            result, circuits.array(values[what]), [words(name) for name in result.labels], sums,
            what="components", top=top, scale=scale, signed=signed, include_bos=include_bos, unit=unit,
            title=f"Where components move {circuits.explained(result)}", setting=facts,
        )  # fmt: skip
    layers = sorted({layer for layer in result.layers if layer >= 0})
    grid = np.full((len(layers), 1 + max(result.indices[i] for i in heads)), np.nan)
    for i in heads:
        grid[layers.index(result.layers[i]), result.indices[i]] = sums[i]
    of = list(zip(result.kinds, result.layers))
    mlps = [[i for i, each in enumerate(of) if each == ("mlp", layer)] for layer in layers]
    bars = Bars("MLP", _sums(result, what, mlps)) if any(mlps) else None
    colours = Scale.fit(grid[np.isfinite(grid)], scale, signed)
    figure = head_grid(grid, layers, bars, colours, unit)
    # Effects of several components add up, sensitivities do not.
    kinds = (
        []
        if what == "sensitivity"
        else [k for k in dict.fromkeys(result.kinds) if k not in ("head", "mlp")]
    )
    groups = [[i for i, each in enumerate(result.kinds) if each == kind] for kind in kinds]
    rest = [
        f"{'biases' if kind == 'bias' else words(kind)} {number(float(value))}"
        for kind, value in zip(kinds, _sums(result, what, groups) if groups else ())
    ]
    rooted = what == "sensitivity" and not result.squared
    notes = [
        "root of the sum of squares over all tokens" if rooted else "summed over all tokens",
        f"not drawn: {', '.join(rest)}" if rest else "",
        "colours by the heads alone" if bars else "",
    ]
    style.caption(figure, f"Heads that move {circuits.explained(result)}", facts, notes)
    return figure


def _sums(
    result: Components, what: str, groups: Sequence[Sequence[int]] | None = None
) -> np.ndarray:
    """Numbers over all tokens at once, of every component, or of `groups` of them."""
    if what == "sensitivity":
        # Of several vectors they are weighted squares already.
        squares = result.sensitivity.double()
        parts = (squares if result.squared else squares.square()).sum(-1)
    else:
        vectors = result.total_vectors if what == "total" else result.direct_vectors
        circuits.check(result, **{f"{what}_vectors": vectors, "weights": result.weights})
        parts = vectors.double().sum(-1)
    if groups is not None:
        parts = torch.stack([parts[..., list(group)].sum(-1) for group in groups], -1)
    if what == "sensitivity":
        return circuits.array(parts if result.squared else parts.sqrt())
    # Effects by vector add up before they are squared.
    return circuits.array(result.weights.double() @ (parts.square() if result.squared else parts))


def draw_head_paths(
    result: HeadPaths,
    *,
    values: str = "norms",
    part: str = "all",
    over: str = "heads",
    source: int | None = None,
    top: int = 24,
    scale: str = "linear",
    include_bos: bool = False,
) -> Figure:
    """See `tl_scopes.render.circuit`."""
    one_of("values", values, ("norms", "signed"))
    one_of("part", part, ("all", "value", "pattern"))
    one_of("over", over, ("heads", "tokens"))
    one_of("scale", scale, ("linear", "log"))
    one_of("include_bos", include_bos, (False, True))
    name = values if part == "all" else f"{part}_{values}"
    parts: Tensor | None = getattr(result, name)
    if parts is None:
        raise RenderError(
            f"part={part!r}, but this result does not tell value and pattern paths apart: ask "
            "head_paths for the split, or draw it with part='all'"
        )
    outside = result.outside_norms if values == "norms" else result.outside_signed
    circuits.check(result, **{name: parts, f"outside_{values}": outside})
    each = circuits.array(parts)[..., : result.position + 1]
    unit = words(result.units)
    kind = {"norms": "norms", "signed": "signed: projected on each token's whole gradient"}[values]
    path = {"all": "", "value": "by values", "pattern": "by attention patterns"}[part]
    reach = "what heads write at the read position" if result.read_only else ""
    facts = circuits.setting(result, kind, path, reach, f"from {words(result.site)}")
    if over == "tokens":
        if source is not None:
            raise RenderError(
                f"source={source!r} chooses one token, over='tokens' draws all: pass one of the two"
            )
        n_heads = each.shape[1]
        flat = each.reshape(-1, each.shape[-1])
        return token_map(
            result, flat, [f"L{i // n_heads}H{i % n_heads}" for i in range(len(flat))], flat.sum(-1),
            what="heads", top=top, scale=scale, signed=values == "signed", include_bos=include_bos,
            unit=unit, setting=facts,
            title=f"From which token, through which head, to {circuits.explained(result)}",
        )  # fmt: skip
    if source is None:
        grid, rest = each.sum(-1), circuits.array(outside)[:, : result.position + 1].sum(-1)
        place = f"summed over all {result.position + 1} source tokens"
        whose = "influence"
    else:
        t, most = source, result.position
        check_whole("source", t, 0, most, hint=", the read position", error=RenderError)
        grid, rest = each[..., t], circuits.array(outside)[:, t]
        place = f"from {t} {quoted(result.str_tokens[t])} alone"
        whose = f"the influence of {t} {quoted(result.str_tokens[t], 24)}"
    colours = Scale.fit(grid, scale, values == "signed")
    bars = Bars("outside heads", rest) if part == "all" else None
    figure = head_grid(grid, range(len(grid)), bars, colours, unit)
    title = f"Heads that carry {whose} to {circuits.explained(result)}"
    style.caption(figure, title, facts, [place, "colours by the heads alone" if bars else ""])
    return figure
