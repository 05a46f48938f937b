"""Heads named on repeated sequences against real ablation: how far first order can be trusted there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from scipy import stats
from tqdm import tqdm

import tl_scopes as ts
from benchmarks import prompts
from tl_scopes import circuits, models

TOP = 8


@dataclass(frozen=True)
class Grids:
    """[prompt, layer * head]: what was predicted of ablating each head, and what it really did."""

    predicted: np.ndarray
    scores: np.ndarray
    measured: np.ndarray
    labels: list[str]


def measure(name: str, n: int, intervention: Literal["mean", "zero"]) -> Grids:
    """Ablate every head on `n` repeated sequences, and ask `components` and `head_paths` before."""
    model: Any = models.load(name, progress=False)
    rows: dict[str, list[np.ndarray]] = {"predicted": [], "scores": [], "measured": []}
    every = model.cfg.n_layers * model.cfg.n_heads
    labels: list[str] = []
    for prompt, target in tqdm(prompts.repeated(n), desc=name, unit="prompt"):
        scope = ts.SemanticScope(target)
        paths = circuits.head_paths(model, prompt, scope)
        done = circuits.verify(
            model,
            prompt,
            paths,
            "head",
            intervention,
            top=every,
            random=0,
            steps=(1.0,),
        )
        labels = sorted(done.labels)
        order = [done.labels.index(label) for label in labels]
        for key, values in rows.items():
            values.append(getattr(done, key).numpy()[order])
    return Grids(**{k: np.stack(v) for k, v in rows.items()}, labels=labels)


def run(name: str, n: int, out: Path) -> dict[str, Any]:
    """Both interventions; agreement of the mean over prompts, with an interval from resampled prompts."""
    found: dict[str, Any] = {"model": name, "prompts": n, "words": 12}
    kinds: list[Literal["mean", "zero"]] = ["mean", "zero"]
    for intervention in kinds:
        grids = measure(name, n, intervention)
        mean = grids.measured.mean(0)
        order = np.argsort(-np.abs(mean))[:TOP]
        found[intervention] = {
            "signed: predicted and measured change": _agreement(grids.predicted, grids.measured),
            "sizes: predicted and measured change": _agreement(
                grids.predicted, grids.measured, size=True
            ),
            "sizes: head paths and measured change": _agreement(
                grids.scores, grids.measured, size=True
            ),
            "each prompt, signed, median": float(
                np.median([_spearman(p, m) for p, m in zip(grids.predicted, grids.measured)])
            ),
            "largest measured": [
                [grids.labels[i], float(mean[i]), float(grids.predicted.mean(0)[i])] for i in order
            ],
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _agreement(a: np.ndarray, b: np.ndarray, size: bool = False) -> list[float]:
    """Spearman's of the means over prompts, and its 95% interval by resampling whole prompts."""

    def statistic(rows: np.ndarray) -> float:
        left, right = a[rows].mean(0), b[rows].mean(0)
        return _spearman(*(np.abs(x) if size else x for x in (left, right)))

    generator = np.random.default_rng(0)
    n = len(a)
    drawn = [statistic(generator.integers(0, n, n)) for _ in range(1000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return [statistic(np.arange(n)), float(low), float(high)]


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(cast(Any, stats.spearmanr(a, b)).statistic)
