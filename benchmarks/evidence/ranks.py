"""Mean ranks of the deciding word and their tests, over items of one or all paradigms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.evidence.measured import ALWAYS, ELSEWHERE, METHODS, VARIANTS
from tl_scopes.results.statistics import LEVEL, Summary, comparisons, holm, rank_agreement, summary

CHANCE = 0.5
Row = Mapping[str, Any]
BETTER, WORSE, OPEN = "better", "worse", "open"


@dataclass(frozen=True, eq=False)
class Ranks:
    """One model's rows, of all its paradigms in turn."""

    model: str
    rows: list[Row]
    paradigms: list[str]

    @classmethod
    def of(cls, model: str, cells: Sequence[Mapping[str, Any]]) -> Ranks:
        own = [(row, cell["paradigm"]) for cell in cells for row in cell["rows"]]
        return cls(model, [row for row, _ in own], [paradigm for _, paradigm in own])

    @property
    def names(self) -> list[str]:
        """Methods and controls that were measured, in the order of the tables."""
        return [n for n in (*METHODS, *ALWAYS) if any(n in row["ranks"] for row in self.rows)]

    @property
    def listed(self) -> list[str]:
        return list(dict.fromkeys(self.paradigms))

    def normal(self, name: str, how: str | None = None) -> np.ndarray:
        """Rank of each row from 0 (first) to 1 (last), by the exact joining or another; NaN where it was not
        measured."""
        return self._each(lambda row: _of(row, name, how) / (row["words"] - 1))

    def first(self, name: str) -> np.ndarray:
        """1 where the deciding word is alone in front; of random scores the share of their draws."""
        return self._each(lambda row: _drawn(row, name, "first", float(_of(row, name, None) < 0.5)))

    def reciprocal(self, name: str) -> np.ndarray:
        return self._each(
            lambda row: _drawn(row, name, "reciprocal", 1 / (1 + _of(row, name, None)))
        )

    def layers(self, name: str) -> np.ndarray:
        """[site, row], without the last site, where only the last token has a score; NaN where it was not measured.
        Empty where it never was."""
        n = max((len(row["layers"].get(name, ())) for row in self.rows), default=0)
        blank = [np.nan] * n
        each = [np.array(r["layers"].get(name, blank)) / (r["words"] - 1) for r in self.rows]
        return np.array(each).T[:-1] if n else np.empty((0, len(self.rows)))

    def within(self, paradigm: str) -> np.ndarray:
        return np.array([own == paradigm for own in self.paradigms])

    @property
    def right(self) -> np.ndarray:
        """Whether the model prefers what the pair says: the good word where its evidence stands, or to the bad one."""
        return self.gain > 0

    @property
    def gain(self) -> np.ndarray:
        """The causal effect of exchanging the deciding word; the lead over the bad word where nothing is exchanged."""
        return self._each(lambda row: row["margin"] if row["effect"] is None else row["effect"])

    def chances(self) -> tuple[float, float]:
        """Of first place and reciprocal rank."""
        words = [row["words"] for row in self.rows]
        harmonic = [sum(1 / k for k in range(1, w + 1)) / w for w in words]
        return float(np.mean([1 / w for w in words])), float(np.mean(harmonic))

    def centred(self, values: np.ndarray) -> np.ndarray:
        """Less the mean of the row's paradigm, so that paradigms do not stand for what differs between them."""
        centred = values.copy()
        for paradigm in self.listed:
            own = self.within(paradigm) & np.isfinite(values)
            if own.any():
                centred[own] -= values[own].mean()
        return centred

    def _each(self, of: Callable[[Row], float]) -> np.ndarray:
        found = []
        for row in self.rows:
            try:
                found.append(of(row))
            except KeyError:
                found.append(np.nan)
        return np.array(found, dtype=float)


@dataclass(frozen=True)
class Tested:
    """A mean rank, or a difference of two, with its interval, p after Holm's correction, and what that says."""

    value: Summary
    p: float
    outcome: str


def _of(row: Row, name: str, how: str | None) -> float:
    own = row["ranks"][name]
    return own[how] if how else next(iter(own.values()))


def _drawn(row: Row, name: str, what: str, otherwise: float) -> float:
    return row.get("draws", {}).get(name, {}).get(what, otherwise)


def tested(pairs: Iterable[tuple[np.ndarray, np.ndarray | float]]) -> list[Tested]:
    """Whether the first of each pair of ranks is smaller, by Wilcoxon's signed-rank test over items. One family."""
    listed = [(a, np.broadcast_to(b, a.shape)) for a, b in pairs]
    found = comparisons(listed)
    corrected = holm([each.p for each in found])
    values = [summary(a - b) for a, b in listed]
    return [
        Tested(value, float(p), _outcome(float(p), each.difference, each.ranks))
        for value, p, each in zip(values, corrected, found)
    ]


def _outcome(p: float, difference: float, ranks: float) -> str:
    """Open too where the ranks that are tested lean another way than the mean."""
    if not (p < LEVEL and difference * ranks > 0):
        return OPEN
    return BETTER if difference < 0 else WORSE


def against_chance(models: Sequence[Ranks]) -> dict[tuple[str, str, str], Tested]:
    """By model, method and paradigm ("" for all of them). Two families: paradigms apart, and together."""
    whole = [(own, name, "") for own in models for name in own.names]
    parts = [(own, name, p) for own, name, _ in whole for p in own.listed]
    made = {}
    for family in (whole, parts):
        chosen = [
            own.normal(name)[own.within(p)] if p else own.normal(name) for own, name, p in family
        ]
        keys = [(own.model, name, p) for own, name, p in family]
        made |= dict(zip(keys, tested((values, CHANCE) for values in chosen)))
    return made


def against(models: Sequence[Ranks], control: str) -> dict[tuple[str, str], Tested]:
    """By model and method, over all paradigms: its rank less that of a control on the same items."""
    keys = [(own, name) for own in models for name in own.names if name != control]
    found = tested((own.normal(name), own.normal(control)) for own, name in keys)
    return {(own.model, name): each for (own, name), each in zip(keys, found)}


def of_variants(models: Sequence[Ranks]) -> dict[tuple[str, str], Tested]:
    """By model and variant of a scope: its rank less that of the plain scope on the same items."""
    keys = [(own, n) for own in models for n in VARIANTS if {n, VARIANTS[n]} <= {*own.names}]
    found = tested((own.normal(name), own.normal(VARIANTS[name])) for own, name in keys)
    return {(own.model, name): each for (own, name), each in zip(keys, found)}


def by_right(models: Sequence[Ranks]) -> dict[tuple[str, str], tuple[Summary, Summary, float]]:
    """By model and method: mean rank where the model gets the pair right, where not, and p of Mann-Whitney's test of
    ranks less the means of their paradigms."""
    made, keys = [], []
    for own in models:
        for name in own.names:
            values, centred = own.normal(name), own.centred(own.normal(name))
            sides = [own.right & np.isfinite(values), ~own.right & np.isfinite(values)]
            a, b = (centred[side] for side in sides)
            p = float(stats.mannwhitneyu(a, b).pvalue) if len(a) and len(b) else np.nan
            keys.append((own.model, name))
            made.append((*(summary(values[side]) for side in sides), p))
    corrected = holm([p for *_, p in made])
    return {key: (a, b, float(p)) for key, (a, b, _), p in zip(keys, made, corrected)}


def by_effect(models: Sequence[Ranks]) -> dict[tuple[str, str], tuple[float, float, float, float]]:
    """By model and method: Spearman's correlation of causal effect and rank, both as ranks within their paradigm, its
    interval, and p. Below zero: the word comes sooner where it matters more."""
    made, keys = [], []
    for own in models:
        for name in own.names:
            values, gain = own.normal(name), own.gain
            known = np.isfinite(values) & np.isfinite(gain)
            x, y = (_scaled(own, each, known)[known] for each in (gain, values))
            keys.append((own.model, name))
            if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
                made.append((np.nan,) * 4)
                continue
            found: Any = stats.spearmanr(x, y)
            made.append((*rank_agreement(x.tolist(), y.tolist()), float(found.pvalue)))
    corrected = holm([each[-1] for each in made])
    return {key: (*each[:3], float(p)) for key, each, p in zip(keys, made, corrected)}


def _scaled(own: Ranks, values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Ranks within the paradigm, about 0."""
    scaled = np.full(len(values), np.nan)
    for paradigm in own.listed:
        which = own.within(paradigm) & known
        if which.sum() > 1:
            ranks = stats.rankdata(values[which])
            scaled[which] = (ranks - ranks.mean()) / which.sum()
        else:
            scaled[which] = 0
    return scaled


@dataclass(frozen=True)
class Deeper:
    """Mean ranks at sites, which of them was chosen on every second item, and two leads there on the others: over the
    embedding, and over the same site's scores of another word. Below zero: the deciding word comes sooner."""

    means: np.ndarray
    site: int
    lead: Tested
    beyond: Tested


def at_layers(models: Sequence[Ranks]) -> dict[tuple[str, str], Deeper]:
    """By model and method."""
    made, pairs, keys = [], [], []
    for own in models:
        control = own.layers(ELSEWHERE)
        for name in own.names:
            ranks = own.layers(name)
            if not np.isfinite(ranks[:, ::2]).any():
                continue
            # Before the first block the stream is mostly the embedding still.
            site = 2 + int(np.argmin(np.nanmean(ranks[2:, ::2], 1)))
            there = ranks[site, 1::2]
            keys.append((own.model, name))
            made.append((np.nanmean(ranks, 1), site))
            pairs += [(there, ranks[0, 1::2]), (there, control[site, 1::2])]
    found = tested(pairs)
    each = zip(keys, made, found[::2], found[1::2])
    return {key: Deeper(means, site, lead, beyond) for key, (means, site), lead, beyond in each}
