"""Effects over pairs that are made up, with known answers, and a card of them."""

from __future__ import annotations

import torch

from support.circuit_drawings import random
from support.infos import info
from tl_scopes.circuits.stability import bootstrap
from tl_scopes.results.circuit_card import CircuitCard
from tl_scopes.results.edges import Edges
from tl_scopes.results.faithfulness import Faithfulness
from tl_scopes.results.paired import PairedComponents
from tl_scopes.results.records import Provenance

PROVENANCE = Provenance("tiny", "HookedTransformer", "float32", "cpu", "raw", "float32", {})
LAYERS, HEADS = 4, 5


def sampled(base, pairs=30, noise=0.0, seed=0):
    """Effects [pair, row, role]: those of `base`, and in each pair some noise."""
    base = torch.as_tensor(base, dtype=torch.float64)
    return (base + noise * torch.randn(pairs, len(base), generator=random(seed)).double())[
        ..., None
    ]


def falling(rows, seed=0):
    """A few large effects of either sign, most of them small."""
    signs = torch.randn(rows, generator=random(seed)).sign()
    order = torch.randperm(rows, generator=random(seed + 1))
    return 5 * signs * 0.75 ** order.double()


def _about(effects, scope="semantic", **changes):
    pairs = len(effects)
    clean = 2 + torch.randn(pairs, generator=random(5)).double()
    return {
        "effects": effects, "roles": tuple(f"role {i}" for i in range(effects.shape[-1])), "clean": clean,
        "corrupted": clean - 3, "scope": info(scope), "units": "logits", "squared": False, "frozen": (),
        "provenance": PROVENANCE, **changes,
    }  # fmt: skip


def nodes(effects, **changes):
    """`PairedComponents` of heads and MLPs, as many rows as `effects` has."""
    labels, kinds, layers, indices = ["embed"], ["embed"], [-1], [-1]
    i = 0
    while len(labels) < effects.shape[1]:
        labels += [f"L{i}H{h}" for h in range(HEADS)] + [f"{i}_mlp_out"]
        kinds += ["head"] * HEADS + ["mlp"]
        layers += [i] * (HEADS + 1)
        indices += [*range(HEADS), -1]
        i += 1
    cut = slice(effects.shape[1])
    return PairedComponents(
        labels=tuple(labels[cut]), kinds=tuple(kinds[cut]), layers=tuple(layers[cut]), indices=tuple(indices[cut]),
        **_about(effects, **changes),
    )  # fmt: skip


def edges(effects, **changes):
    """`Edges` from every node to every reader of a later block, of which the first are taken."""
    writers = [f"L{i}H{h}" for i in range(LAYERS) for h in range(HEADS)]
    readers = [f"L{i}H{h}.{x}" for i in range(LAYERS) for h in range(HEADS) for x in "qkv"] + [
        "read"
    ]
    ends = [
        (a, b)
        for a in range(len(writers))
        for b in range(len(readers))
        if a // HEADS < b // (3 * HEADS)
    ]
    ends = ends[: effects.shape[1]]
    assert len(ends) == effects.shape[1]
    return Edges(
        writers=tuple(writers), readers=tuple(readers), source=torch.tensor([a for a, _ in ends]),
        reader=torch.tensor([b for _, b in ends]), by="head", steps=1,
        owners={reader: (reader.split(".")[0],) for reader in readers if reader != "read"},
        **_about(effects, **changes),
    )  # fmt: skip


def curve(of, candidates, pairs=30, seed=0, good=1.0):
    """A curve that rises the faster, the larger `good` is; random ones rise late."""
    shares = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0], dtype=torch.float64)
    sizes = [int(s * candidates) for s in shares.tolist()]
    clean = 2 + torch.randn(pairs, generator=random(5)).double()
    f = shares ** (0.3 / good)
    noise = 0.3 * torch.randn(pairs, len(sizes), generator=random(seed)).double() * (1 - shares)
    late = 0.1 * torch.randn(10, pairs, 7, generator=random(8)).double()
    drawn = shares**2 + late * (1 - shares)
    return Faithfulness(
        of=of, ablation="corrupted", candidates=candidates, sizes=tuple(sizes), shares=tuple(shares.tolist()),
        kept=tuple(sizes), metrics=clean[:, None] - 3 + 3 * f + noise, clean=clean, corrupted=clean - 3,
        random=clean[:, None] - 3 + 3 * drawn, exact=None, scope=info("semantic"), units="logits", squared=False,
        provenance=PROVENANCE,
    )  # fmt: skip


def card(
    names=("semantic", "fisher"),
    paraphrases=("another wording",),
    pairs=30,
    k=6,
    apart=True,
    **changes,
):
    """A whole card: nodes that last, edges of which the first are the same, the rest noise."""
    n_nodes, n_edges = 25, 200
    found = {
        "nodes": [],
        "edges": [],
        "node_curves": [],
        "edge_curves": [],
        "node_stability": [],
        "edge_stability": [],
    }
    told = ["pairs", *paraphrases]
    told_nodes = []
    for i, name in enumerate(names):
        own = [
            nodes(sampled(falling(n_nodes, 3), pairs, 0.4, 7 * i + j), scope=name)
            for j in range(len(told))
        ]
        between = [
            edges(sampled(falling(n_edges, 4), pairs, 6.0, 7 * i + j), scope=name)
            for j in range(len(told))
        ]
        found["nodes"].append(own[0])
        found["edges"].append(between[0])
        found["node_curves"].append(curve("nodes", n_nodes, pairs, good=1 + i))
        found["edge_curves"].append(curve("edges", n_edges, pairs, good=0.5 + i))
        found["node_stability"].append(bootstrap(own, k=k, resamples=200, names=told))
        found["edge_stability"].append(bootstrap(between, k=k, resamples=200, names=told))
        told_nodes = told_nodes or own[1:]
    fields = {
        "names": tuple(names), "paraphrases": tuple(paraphrases), "paraphrased": tuple(told_nodes),
        "judged_apart": apart, "settings": {"by": "head", "k": k}, "provenance": PROVENANCE,
        **{name: tuple(own) for name, own in found.items()},
    }  # fmt: skip
    return CircuitCard(**fields | changes)
