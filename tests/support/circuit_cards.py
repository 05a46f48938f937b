"""Effects over pairs that are made up, with known answers."""

from __future__ import annotations

import torch

from support.circuit_drawings import random
from support.infos import info
from tl_scopes.results.paired import PairedComponents
from tl_scopes.results.records import Provenance

PROVENANCE = Provenance("tiny", "HookedTransformer", "float32", "cpu", "raw", "float32", {})
HEADS = 5


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
