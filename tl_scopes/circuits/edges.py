"""Edges: how much of each part's write acts by way of each other part's input, to first order."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_scopes.adapter.sites import resid_site
from tl_scopes.adapter.view import Edit
from tl_scopes.circuits.pairs.batch import PairBatch
from tl_scopes.circuits.pairs.pairs import Pairs
from tl_scopes.circuits.passes.stream import last_stream
from tl_scopes.circuits.passes.trace import Batch, asked, traced_rows
from tl_scopes.circuits.wiring.anatomy import anatomy_sites, learn
from tl_scopes.circuits.wiring.blocks import By, Kept, Wiring
from tl_scopes.circuits.wiring.effects import Gradients, edge_effects
from tl_scopes.errors import NumericalError, ScopeParameterError, check_choice, check_whole
from tl_scopes.jacobian.forward import overflow_hint
from tl_scopes.results.edges import Edges
from tl_scopes.results.paired import shared
from tl_scopes.rules import Frozen, Rules


def edges(
    model: Any,
    pairs: Pairs,
    steps: int = 1,
    by: By = "head",
    *,
    frozen: Frozen = None,
    rules: Rules | None = None,
    progress: bool | None = None,
) -> Edges:
    """First-order effects of every edge, from each writer into the residual stream to each reader of it.

    For each pair one forward pass of the corrupted prompt, and one forward and one backward pass of the
    clean one for each of `steps`, however many edges there are.

    Args:
        model: as in `tl_scopes.attribute`.
        pairs: clean and corrupted prompts with their scopes, see `Pairs`.
        steps: 1: gradients on the clean prompt (EAP). More: their mean over as many points between what
            enters the first block on the corrupted and on the clean prompt, the clean one included
            (EAP-IG); a scope's own gradient at each, but of several vectors (Fisher) those of the clean
            prompt at all of them. The effects of `embed` then add up to nearly the whole change; where
            gradients turn on the way, only over hundreds of steps. (The source's code takes the
            corrupted end in the place of the clean one.)
        by: `"head"`: every head writes and reads for itself, by its queries, keys and values (keys and
            values of key-value heads, which query heads may share). `"mlp"`: attention as a whole.
            MLPs are wholes in both.
        frozen: what gradients hold constant: attention `"patterns"` (edges into queries and keys are
            zero then), `"norms"` (their scales), `"both"`.
        rules: gradient rules (`tl_scopes.rules`); None: those of the scopes. What is `frozen` is held beside them.
        progress: a bar on stderr. Default: where stderr is a terminal.

    Returns:
        `Edges`. An effect is the gradient at the reader's own input, times (clean - corrupted write) of
        the writer, summed over the positions of a role: positive where the clean write raises the
        scalar. Over the writers of one reader effects add up to the gradient there times
        (clean - corrupted) of the stream that it reads. With a norm behind attention (Gemma) a head's
        write is its share, scaled as in each run. Units: those of the scalar, for Fisher nats.

    Raises:
        NonAdditiveError: where the parts do not add up to the residual stream.
        UnsupportedModelError: where parts do not read a norm of it, or `by` asks for heads that cannot
            be told apart.
        ScopeParameterError: where the scopes of pairs read at different sites.
        ScopesError: as `attribute` and `Pairs.batches`.

    Source: edge attribution patching (Syed et al., arXiv 2310.10348), with integrated gradients (Hanna et
    al., arXiv 2403.17806).

    Examples:
        >>> pairs = Pairs(["The keys on the table"], ["The key on the table"], SemanticScope(" are"))
        >>> edges(model, pairs).top(5)
    """
    check_choice("by", by, ("head", "mlp"))
    check_whole("steps", steps, 1)
    given = pairs.batches(model, asked(frozen, rules))
    from tqdm import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    found: list[_Found] = []
    with tqdm(total=len(pairs) * steps, unit="pass", desc="edges", disable=not shown) as bar:
        for batch in given:
            found += [_found(part, by, steps, bar) for part in _that_fit(batch)]
    return _result(pairs, found, by, steps)


@dataclass(frozen=True, eq=False)
class _Found:
    """What one batch gives."""

    batch: PairBatch
    wiring: Wiring
    effects: Float[Tensor, "pair edge role"]
    clean: Float[Tensor, "pair"]
    corrupted: Float[Tensor, "pair"]


def _that_fit(batch: PairBatch) -> Iterator[PairBatch]:
    """Parts of a batch whose pairs may share a pass with gradients."""
    most = batch.runs[0].rows_at_once(gradients=True)
    for start in range(0, len(batch), most):
        yield batch.part(range(len(batch))[start : start + most])


def _found(batch: PairBatch, by: By, steps: int, bar: Any) -> _Found:
    runs, view = batch.runs, batch.view
    stream, frozen = last_stream(view, runs[0].read_site), runs[0].frozen
    needed, optional = anatomy_sites(view, stream, by)
    # What `embed` writes: behind a norm of the embeddings (Bloom) a straight path before it would be none here.
    root = resid_site(0, view.n_layers)
    roles = torch.stack([*batch.places.values()])
    with traced_rows(runs, root, needed, optional) as first:
        wiring = learn(view, stream, by, first.kept)
        clean = {label: x.detach() for label, x in first.kept.items()}
        corrupted, values = _corrupted(batch, wiring)
        batch.answers = list(first.answers)
        n_reads = len(first.read) // len(runs)
        reads = first.read.detach().unflatten(0, (len(runs), n_reads))
        metrics = [batch.scalars(own, range(len(runs))) for own in (reads, values)]
        total = _effects(first, wiring, clean, clean, corrupted, roles, frozen)
    bar.update(len(runs))
    # The last point is the clean prompt itself.
    for step in range(1, steps):

        def between(x: Tensor, share: float = step / steps) -> Tensor:
            return torch.lerp(corrupted[root.label], clean[root.label], share)

        with traced_rows(runs, root, needed, optional, {root: between}) as traced:
            kept = {label: x.detach() for label, x in traced.kept.items()}
            own = _explained_by(batch, first, traced)
            total += _effects(own, wiring, kept, clean, corrupted, roles, frozen)
        bar.update(len(runs))
    by_vector, weights = total / steps, first.weights[:, :, None, None]
    squared = first.answers[0].explained.squared
    effects = (weights * (by_vector.square() if squared else by_vector)).sum(1)
    if not torch.isfinite(effects).all():
        raise NumericalError(
            "NaN or infinity in the effects of edges, although activations and gradients are finite: they "
            f"overflow; scale the scope's vectors or its function down{overflow_hint(view)}"
        )
    return _Found(batch, wiring, effects, *(m.detach() for m in metrics))


def _corrupted(batch: PairBatch, wiring: Wiring) -> tuple[Kept, Float[Tensor, "pair read *d"]]:
    """What the corrupted prompts show where writers write, and what is read."""
    kept: dict[str, Tensor] = {}

    def note(label: str) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            kept[label] = activation.clone()  # later hooks may edit in place
            return activation

        return edit

    with torch.no_grad():
        values = batch.read(batch.corrupted, {site: note(site.label) for site in wiring.sites})
    return kept, values


def _effects(
    traced: Batch,
    wiring: Wiring,
    run: Kept,
    clean: Kept,
    corrupted: Kept,
    roles: Bool[Tensor, "role pair pos"],
    frozen: tuple[str, ...],
) -> Float[Tensor, "pair vector edge role"]:
    labels = Gradients.labels(wiring, frozen)
    at = dict(zip(labels, traced.gradients(labels)))
    effects = edge_effects(Gradients(wiring, run, at, frozen), clean, corrupted, roles)
    return effects * traced.norms[:, :, None, None]


def _explained_by(batch: PairBatch, first: Batch, traced: Batch) -> Batch:
    """A pass between the two prompts, with the vectors of the clean prompt: those of several, as they
    are; a scalar's own gradient at what is read there."""
    if first.answers[0].explained.squared:
        return replace(traced, vectors=first.vectors, norms=first.norms, remembered={})
    n_reads = len(traced.read) // len(batch)
    with torch.enable_grad():
        values = traced.read.detach().unflatten(0, (len(batch), n_reads)).requires_grad_()
        scalars = batch.scalars(values, range(len(batch)))
    (vectors,) = torch.autograd.grad(scalars.sum(), values)
    norms = torch.linalg.vector_norm(vectors.flatten(1).double(), dim=1).cpu()
    unit = torch.where(norms > 0, norms, 1).to(vectors).view(-1, *[1] * (vectors.ndim - 1))
    return replace(
        traced, vectors=(vectors / unit).flatten(0, 1)[None], norms=norms[:, None], remembered={}
    )


def _result(pairs: Pairs, found: Sequence[_Found], by: By, steps: int) -> Edges:
    streams = sorted({own.wiring.stream.site.label for own in found})
    if len(streams) > 1:
        raise ScopeParameterError(
            f"the scopes of these pairs read behind different streams ({', '.join(streams)}), to which "
            "other edges lead: call edges once for each"
        )
    numbers = [number for own in found for number in own.batch.numbers]
    order = torch.tensor(numbers, device="cpu").argsort()
    effects, clean, corrupted = (
        torch.cat([getattr(own, name) for own in found])[order].float()
        for name in ("effects", "clean", "corrupted")
    )
    answers = [answer for own in found for answer in own.batch.answers]
    infos = [answers[i].scope.info(answers[i].explained) for i in order.tolist()]
    wiring, answer = found[0].wiring, answers[0]
    source, reader = wiring.ends
    return Edges(
        effects=effects,
        roles=pairs.roles,
        clean=clean,
        corrupted=corrupted,
        scope=shared(infos),
        units=answer.scope.units,
        squared=answer.explained.squared,
        frozen=found[0].batch.runs[0].frozen,
        provenance=replace(wiring.view.provenance(), rules=found[0].batch.runs[0].rules),
        writers=wiring.writers,
        readers=wiring.readers,
        source=source,
        reader=reader,
        owners=wiring.owners,
        by=by,
        steps=steps,
    )
