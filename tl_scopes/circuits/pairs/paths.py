"""Influence over pairs, by role: what single calls give of each clean prompt, added up over positions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.circuits.pairs.batch import of_pair
from tl_scopes.circuits.pairs.effects import alike
from tl_scopes.circuits.pairs.pairs import Pairs
from tl_scopes.circuits.passes.trace import CircuitRun, Held
from tl_scopes.results.flows import Flow, HeadPaths
from tl_scopes.results.paired import PairedPaths

_R = TypeVar("_R", Flow, HeadPaths)
# A role's positions, 1 or 0 each.
Roles = Float[Tensor, "role pos"]


def paired_paths(
    model: Any,
    pairs: Pairs,
    rules: Held,
    progress: bool | None,
    name: str,
    single: Callable[[CircuitRun], _R],
    rows: Callable[[_R, Roles], tuple[tuple[str, ...], Float[Tensor, "row source"]]],
) -> PairedPaths:
    """`single` of the clean prompt of each pair, whose `rows` have labels. Corrupted prompts are not run.

    Raises what `single` raises, with the pair's number, and as `Pairs.batches`.
    """
    from tqdm import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    found: dict[int, tuple[dict[str, Any], Tensor, Tensor]] = {}
    batches = pairs.batches(model, rules)
    with tqdm(total=len(pairs), unit="pair", desc=name, disable=not shown) as bar:
        for batch in batches:
            places = torch.stack([*batch.places.values()]).double()
            for row, (number, run) in enumerate(zip(batch.numbers, batch.runs)):
                with of_pair(number):
                    one = single(run)
                roles = places[:, row]
                labels, signed = rows(one, roles)
                about = {
                    "labels": labels,
                    "site": one.site,
                    "layer": one.layer if isinstance(one, Flow) else None,
                    "scope": one.scope,
                    "units": one.units,
                    "squared": one.squared,
                    "frozen": one.frozen,
                    "provenance": one.provenance,
                }
                # What is behind the read position is not run, and has no influence.
                values, scores = (
                    x[..., : batch.length].double() @ roles.T for x in (signed, one.scores)
                )
                found[number] = about, values, scores
                bar.update()
    abouts, values, scores = zip(*(found[i] for i in range(len(pairs))))
    return PairedPaths(
        **alike(abouts),
        effects=torch.stack(values).float(),
        scores=torch.stack(scores).float(),
        roles=pairs.roles,
    )
