"""Numbers for every edge of a small model, made up: what circuits are chosen from."""

from __future__ import annotations

import random

N_LAYERS, N_HEADS, N_KV = 3, 4, 2


def edges(seed: int = 0, parallel: bool = False) -> dict[str, float]:
    """A number for every edge of a model whose heads share keys and values two by two."""
    draw = random.Random(seed)
    writers, found = ["embed"], {}

    def into(readers: list[str], sources: list[str]) -> None:
        for source in sources:
            for reader in readers:
                found[f"{source} -> {reader}"] = draw.gauss(0, 1)

    for layer in range(N_LAYERS):
        queries = [f"L{layer}H{h}.q" for h in range(N_HEADS)]
        before = list(writers)
        into([*queries, *(f"L{layer}H{h}.{x}" for h in range(N_KV) for x in "kv")], before)
        writers += [f"L{layer}H{h}" for h in range(N_HEADS)]
        into([f"{layer}_mlp_in"], before if parallel else writers)
        writers.append(f"{layer}_mlp_out")
    into(["read"], writers)
    return found
