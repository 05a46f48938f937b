"""Effects of components over many pairs: one pass on the corrupted prompts, one there and back on the
clean ones, a batch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.sites import embed_site
from tl_scopes.circuits.pairs.batch import PairBatch, of_pair
from tl_scopes.circuits.pairs.pairs import Pairs
from tl_scopes.circuits.passes.stream import last_stream
from tl_scopes.circuits.passes.trace import Batch, Held, traced_rows
from tl_scopes.circuits.passes.writes import Writes, sites_of_writes
from tl_scopes.errors import NumericalError, ScopeParameterError, ScopesError
from tl_scopes.jacobian.forward import overflow_hint
from tl_scopes.results.paired import PairedComponents, shared


def paired_components(
    model: Any, pairs: Pairs, by: str, rules: Held, progress: bool | None = None
) -> PairedComponents:
    """See `components`."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    batches = pairs.batches(model, rules)
    found: dict[int, _Effects] = {}
    with tqdm(total=len(pairs), unit="pair", desc="components", disable=not shown) as bar:
        for batch in batches:
            most = batch.runs[0].rows_at_once(gradients=True)
            for start in range(0, len(batch), most):
                part = batch.part(range(len(batch))[start : start + most])
                found |= _told(part, by)
                bar.update(len(part))
    each = [found[i] for i in range(len(pairs))]
    return PairedComponents(
        **alike([own.about for own in each]),
        effects=torch.stack([own.values for own in each]).float(),
        clean=torch.stack([own.clean for own in each]).float(),
        corrupted=torch.stack([own.corrupted for own in each]).float(),
        roles=pairs.roles,
    )


def alike(abouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a result that all pairs share, from those of each pair.

    Raises `ScopeParameterError` where a pair has others, but for the scope's record.
    """
    first = abouts[0]
    for i, own in enumerate(abouts):
        if any(own[name] != first[name] for name in ("units", "squared", "labels")):
            raise ScopeParameterError(
                f"pair {i}: its scope {own['scope']} gives other units or other components than that "
                f"of pair 0, {first['scope']}: effects of one kind have a mean, so call once for each kind"
            )
    return {**first, "scope": shared([own["scope"] for own in abouts])}


@dataclass(frozen=True, eq=False)
class _Effects:
    """Of one pair. `about`: the fields of a result that all pairs share, but for the scope's record."""

    values: Float[Tensor, "row role"]
    clean: Float[Tensor, ""]
    corrupted: Float[Tensor, ""]
    about: dict[str, Any]


def _told(batch: PairBatch, by: str) -> dict[int, _Effects]:
    """By the pairs' numbers. An error names the pair that it is about."""
    if len(batch) == 1:
        with of_pair(batch.numbers[0]):
            return _effects(batch, by)
    try:
        return _effects(batch, by)
    except ScopesError:
        for row in range(len(batch)):
            _told(batch.part([row]), by)
        raise


def _effects(batch: PairBatch, by: str) -> dict[int, _Effects]:
    view, first = batch.view, batch.runs[0]
    stream = last_stream(view, first.read_site)
    sites, optional = sites_of_writes(view, stream, by)
    with traced_rows(batch.runs, embed_site(), sites, optional) as traced:
        batch.answers = [*traced.answers]  # found already
        base, other = batch.seen(batch.corrupted, [*sites, *optional])
        with torch.no_grad():
            own = traced.read.detach().unflatten(0, other.shape[:2])
            rows = range(len(batch))
            clean, corrupted = (batch.scalars(values, rows) for values in (own, other))
        there = {label: x.flatten(0, 1) for label, x in base.items()}
        roles = torch.stack([*batch.places.values()]).to(view.device)
        writes = Writes(traced, stream, there, roles=roles)
        writes.fill(by)
        values = _combined(traced, writes)
    return {
        batch.numbers[i]: _Effects(values[i], clean[i], corrupted[i], _about(traced, writes, i))
        for i in rows
    }


def _combined(traced: Batch, writes: Writes) -> Float[Tensor, "pair row role"]:
    """Over the vectors of each pair's scope."""
    each = torch.cat(writes.total, dim=1) * traced.norms.T[:, None, :, None]
    squared = traced.answers[0].explained.squared
    out = torch.einsum("iv,vcir->icr", traced.weights, each.square() if squared else each)
    if not torch.isfinite(out).all():
        raise NumericalError(
            "NaN or infinity in the effects, although activations and gradients are finite: scale the "
            f"scope's vectors or its function down{overflow_hint(traced.view)}"
        )
    return out


def _about(traced: Batch, writes: Writes, row: int) -> dict[str, Any]:
    answer = traced.answers[row]
    return {
        "labels": tuple(writes.labels),
        "kinds": tuple(writes.kinds),
        "layers": tuple(writes.layers),
        "indices": tuple(writes.indices),
        "scope": answer.scope.info(answer.explained),
        "units": answer.scope.units,
        "squared": answer.explained.squared,
        "frozen": traced.runs[row].frozen,
        "provenance": replace(traced.view.provenance(), rules=traced.runs[row].rules),
    }
