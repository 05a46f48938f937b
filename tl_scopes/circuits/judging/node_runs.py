"""Real runs of circuits of nodes: the clean prompt, with what is not in the circuit taken from another run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_scopes.adapter.prompts import bos_id
from tl_scopes.adapter.sites import Site, resid_site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import Edit, ModelView
from tl_scopes.circuits.pairs.batch import PairBatch
from tl_scopes.circuits.passes.stream import check_sum, last_stream
from tl_scopes.errors import UnsupportedModelError
from tl_scopes.jacobian.forward import not_reached

Ablation = Literal["corrupted", "mean", "zero"]
By = Literal["head", "mlp", "neuron", "layer"]
# What is replaced where `by` names the nodes: hooks of a block, and the letter of those that are split.
_HOOKS = {
    "head": (("attn.hook_z", "H"), ("hook_mlp_out", "_mlp_out")),
    "mlp": (("hook_attn_out", "_attn_out"), ("hook_mlp_out", "_mlp_out")),
    "neuron": (("hook_attn_out", "_attn_out"), ("mlp.hook_post", "N")),
    "layer": (("hook_attn_out", "_block"), ("hook_mlp_out", "_block")),
}


@dataclass(frozen=True)
class Slot:
    """Where nodes are replaced: a site, and the nodes that it holds, one a column of its third axis or
    a single one that is all of it."""

    site: Site
    nodes: tuple[str, ...]
    split: bool


@dataclass(eq=False)
class NodeRuns:
    """Runs of a batch in which nodes are taken from elsewhere, inside `batch.locked()`.

    `by`: which nodes there are, as in `components`. `ablation`: what a node that is not kept writes: what
    it writes on the corrupted prompt of the pair, its mean in `means`, or zero. A head is replaced
    at its z, a neuron at its activation, an MLP or attention where it is written into the stream; so
    biases and the norms of what is written (Gemma) act as in the run itself.

    Raises `UnsupportedModelError` or `SiteError` for a model without such nodes.
    """

    batch: PairBatch
    by: By
    ablation: Ablation = "corrupted"
    means: Mapping[str, Tensor] | None = None
    slots: list[Slot] = field(init=False)
    others: dict[str, Tensor] = field(init=False)
    corrupted: Float[Tensor, "pair"] = field(init=False)
    """The metric on the corrupted prompts."""
    clean: Float[Tensor, "pair"] = field(init=False)
    """The metric on the clean prompts."""

    def __post_init__(self) -> None:
        seen, values = _seen(self.batch, self.by)
        self.corrupted = self.batch.scalars(values, range(len(self.batch)))
        self.clean = self.batch.clean_scalars
        self.slots = list(_slots(self.batch.view, self.by, seen))
        self.others = seen
        if self.ablation == "mean":
            assert self.means is not None
            self.others = {label: self.means[label].to(x) for label, x in seen.items()}
        elif self.ablation == "zero":
            self.others = {label: x.new_zeros(()) for label, x in seen.items()}

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes of the model before what is read, in the order of the forward pass."""
        return _named(self.slots)

    @torch.no_grad()
    def metrics(self, kept: Bool[Tensor, "circuit node"]) -> Float[Tensor, "pair circuit"]:
        """The scope's scalar of each pair with only the nodes of a circuit kept.

        A circuit without any node is the corrupted prompt, one of all is the clean prompt; the
        embedding belongs to every other.
        """
        pairs, circuits = len(self.batch), len(kept)
        out = torch.empty(pairs, circuits, dtype=torch.float64, device="cpu")
        out[:, ~kept.any(1)] = self.corrupted[:, None]
        out[:, kept.all(1)] = self.clean[:, None]
        between = (kept.any(1) & ~kept.all(1)).nonzero()[:, 0]
        rows = [(i, c) for c in between.tolist() for i in range(pairs)]
        size = self.batch.rows_at_once()
        for start in range(0, len(rows), size):
            pair, circuit = (list(own) for own in zip(*rows[start : start + size]))
            edits = _edits(
                self.slots, kept[circuit], lambda label, own=pair: self._there(label, own)
            )
            values = self.batch.read(self.batch.clean[pair], edits)
            out[pair, circuit] = self.batch.scalars(values, pair)
        return out

    def _there(self, label: str, pair: list[int]) -> Tensor:
        """What is written in place of nodes at a site, in rows of these pairs."""
        other = self.others[label]
        return other[pair] if self.ablation == "corrupted" else other


def _named(slots: Sequence[Slot]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node for slot in slots for node in slot.nodes))


def _edits(
    slots: Sequence[Slot], kept: Bool[Tensor, "row node"], there: Callable[[str], Tensor]
) -> dict[Site, Edit]:
    """What puts activations `there` of a site in place of the nodes that a row does not keep."""
    number = {node: i for i, node in enumerate(_named(slots))}
    edits = {}
    for slot in slots:
        mask = kept[:, [number[node] for node in slot.nodes]]
        if not mask.all():
            edits[slot.site] = _edit(slot, mask, there)
    return edits


def _edit(slot: Slot, mask: Bool[Tensor, "row part"], there: Callable[[str], Tensor]) -> Edit:
    def edit(activation: Tensor) -> Tensor:
        # Split: [row, pos, head, d_head], or [row, pos, neuron]; else [row, pos, d_model].
        shape = [len(mask), 1, *([-1] if slot.split else [1])]
        keep = mask.to(activation.device).view(*shape, *[1] * (activation.ndim - 3))
        return torch.where(keep, activation, there(slot.site.label).to(activation))

    return edit


def node_metrics(
    batch: PairBatch,
    kept: Bool[Tensor, "circuit node"],
    by: By = "head",
    ablation: Ablation = "corrupted",
    means: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, "pair circuit"]:
    """`NodeRuns.metrics` of one batch; nodes in the order of `NodeRuns.nodes`."""
    with batch.locked():
        return NodeRuns(batch, by, ablation, means).metrics(kept)


@torch.no_grad()
def _seen(
    batch: PairBatch, by: By, more: Sequence[Site] = (), tokens: Tensor | None = None
) -> tuple[dict[str, Tensor], Float[Tensor, "pair read *d"]]:
    """Activations of the corrupted prompts (or of `tokens`) where nodes are replaced, as far as they are
    reached, and what is read of them."""
    view = batch.view
    hooks = [f"blocks.{i}.{name}" for i in range(view.n_layers) for name, _ in _HOOKS[by]]
    sites = [*(Site(hook, hook) for hook in hooks if hook in view.hooks), *more]
    return batch.seen(batch.corrupted if tokens is None else tokens, sites)


def _slots(view: ModelView, by: By, seen: Mapping[str, Tensor]) -> list[Slot]:
    slots = []
    for layer in range(view.n_layers):
        for name, label in _HOOKS[by]:
            hook = f"blocks.{layer}.{name}"
            if hook not in seen:
                # Some blocks have no MLP, and none is reached after what is read.
                if hook in view.hooks or "mlp" in name:
                    continue
                raise UnsupportedModelError(
                    f"by={by!r} needs the hook {hook!r}, which this model does not have: score nodes "
                    'with by="mlp", which needs none inside attention'
                )
            split = len(label) == 1
            if split and seen[hook].ndim != (4 if label == "H" else 3):
                raise UnsupportedModelError(
                    f"{hook} has shape {list(seen[hook].shape)}, whose parts cannot be told apart: "
                    'score nodes with by="mlp"'
                )
            count = seen[hook].shape[2] if split else 0
            nodes = tuple(f"L{layer}{label}{i}" for i in range(count)) or (f"{layer}{label}",)
            slots.append(Slot(Site(hook, hook), nodes, split))
    if not slots:
        raise not_reached(f"blocks.0.{_HOOKS[by][0][0]}")
    return slots


@torch.no_grad()
def check_patches(batch: PairBatch, by: By) -> tuple[str, ...]:
    """Whether replacing all nodes replaces all that is written, tried on the first pair, inside
    `batch.locked()`. Returns the nodes. Raises `NonAdditiveError`, where a circuit would not be what it
    says."""
    view, first = batch.view, batch.part(range(1))
    first.refuse_nonfinite()  # else it would seem that the parts do not add up
    start, end = resid_site(0, view.n_layers), last_stream(view, batch.runs[0].read_site).site
    ends = [start] if end == start else [start, end]
    other, _ = _seen(first, by, ends)
    slots = list(_slots(view, by, other))
    clean, _ = _seen(first, by, ends, first.clean)
    nodes = _named(slots)
    edits = _edits(
        slots, torch.zeros(1, len(nodes), dtype=torch.bool, device="cpu"), other.__getitem__
    )
    kept: list[Tensor] = []

    def note(activation: Tensor) -> Tensor:
        kept.append(activation.clone())
        return activation

    first.read(first.clean, {**edits, end: note})
    precise = working_dtype(view.dtype)
    whole = kept[-1][0].to(precise)
    first_other, last_other = (other[site.label][0].to(whole) for site in (start, end))
    parts = [clean[start.label][0].to(whole), last_other - first_other]
    check_sum(view, whole, parts, end.label)
    return nodes


@torch.no_grad()
def corrupted_means(batches: Sequence[PairBatch], by: By) -> dict[str, Tensor]:
    """The mean of each site's activation over all corrupted prompts and their positions, BOS left out."""
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        with batch.locked():
            seen, _ = _seen(batch, by)
            starts = batch.corrupted[:, 0] == (bos_id(batch.view) if batch.length > 1 else -1)
            skip = int(bool(starts.all()))
            count += len(batch) * (batch.length - skip)
            for label, x in seen.items():
                x = x[:, skip:].to(torch.float64).sum((0, 1))
                sums[label] = sums[label] + x if label in sums else x
    return {label: x / count for label, x in sums.items()}
