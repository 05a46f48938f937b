"""Would other pairs have put the same nodes or edges first? Lists of the largest, drawn again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from tl_scopes.errors import NumericalError, ScopeParameterError, check_seed, check_whole
from tl_scopes.results.nodes import ARROW
from tl_scopes.results.paired import PairedResult
from tl_scopes.results.records import Agreement
from tl_scopes.results.stability import CircuitStability, How
from tl_scopes.results.statistics import RESAMPLES

# Means that are drawn and ranked at a time: 16 MB of them.
_AT_ONCE = 1 << 21


def bootstrap(
    scores: Union[PairedResult, Sequence[PairedResult]],
    *,
    k: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> CircuitStability:
    """How alike the k largest nodes or edges are when other pairs are asked.

    Rows are ranked by the magnitude of their mean effect, over all roles. Pairs are drawn with
    replacement (resamples), and split at random into halves that share none. Resamples say how far the mean of
    these pairs is from that of all pairs there could be; but they share pairs, so that even lists of
    noise look somewhat alike. Those of halves do not, and the verdict is theirs. Rows that have an effect
    in no pair are left out.

    Several results are each compared with themselves, and with each other: of paraphrases (two
    templates), kinds of corruption, scopes, or disjoint sets of pairs. They need not have the same pairs,
    nor as many: each is resampled by itself.

    Args:
        scores: what `components` or `edges` made of pairs, or several of these with the same rows.
        k: how many of the largest are compared; at most half of the rows that have an effect.
        resamples: how many; half as many times the pairs are split.
        seed: of the draws.
        names: of several results, for what is said of them. Default: "1", "2", ...

    Returns:
        `CircuitStability`: `.verdict()`, `.members()`, `.comparisons()`, `.to_frame()`, `.plot()`.

    Raises:
        ScopeParameterError: for fewer than two pairs, results with other rows (another model, or `by`) or
            units, a k that these rows do not have, or names that do not tell results apart.
        NumericalError: for effects that are not finite.

    Examples:
        >>> stability = circuits.bootstrap(components)
        >>> stability.verdict().text
        >>> circuits.bootstrap([one, other], names=["template 0", "template 1"]).verdicts()
    """
    results = [scores] if isinstance(scores, PairedResult) else _several(scores)
    told = _names(names, len(results))
    effects = _effects(results, told)
    # Of ties at zero an order says nothing; a model whose queries are held constant has thousands.
    live = np.flatnonzero(np.any([x.any(0) for x in effects], axis=0))
    effects = [x[:, live] for x in effects]
    half = len(live) // 2
    check_whole("k", k, 1, half, hint=f" (half of the {len(live)} rows that have an effect)")
    check_whole("resamples", resamples, 2)
    check_seed(seed)
    whole = [_Lists(x.mean(0, keepdims=True), k) for x in effects]
    draws = _Draws(whole, resamples)
    generator = np.random.default_rng(seed)
    weights = [_weights(len(x), resamples, generator) for x in effects]
    step = max(2, _AT_ONCE // len(live) // 2 * 2)
    for start in range(0, resamples, step):
        part = slice(start, start + step)
        draws.take([_Drawn.of(x, k, own, part) for x, own in zip(effects, weights)])
    first, labels = results[0], results[0].row_labels()
    return CircuitStability(
        names=told,
        labels=tuple(labels[i] for i in live),
        pairs=tuple(len(r.effects) for r in results),
        resamples=resamples,
        of="edges" if ARROW in labels[0] else "nodes",
        units=first.units,
        scopes=tuple(r.scope for r in results),
        provenance=first.provenance,
        **draws.fields(),
    )


@dataclass(eq=False)
class _Lists:
    """Mean effects of all rows, several times, and which k rows are the largest."""

    means: np.ndarray  # [list, row]
    k: int

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(-np.abs(self.means), axis=-1)

    @cached_property
    def top(self) -> np.ndarray:
        """The k largest of each list in order, [list, k]."""
        return self._order[:, : self.k].copy()

    @cached_property
    def ranks(self) -> np.ndarray:
        """By magnitude, so that the product of two lists is Spearman's correlation. Equal magnitudes do
        not occur, but by accident: rows that never have an effect take no part."""
        n = self.means.shape[1]
        places = np.arange(n) - (n - 1) / 2
        ranks = np.empty_like(self.means)
        np.put_along_axis(ranks, self._order, places[None] / np.linalg.norm(places), axis=1)
        return ranks

    def __getitem__(self, part: slice) -> _Lists:
        own = _Lists(self.means[part], self.k)
        own.ranks, own.top = self.ranks[part], self.top[part]
        return own


@dataclass
class _Drawn:
    """Lists of resamples, and of both halves of splits, half as many."""

    resamples: _Lists
    halves: tuple[_Lists, _Lists]

    @classmethod
    def of(cls, effects: np.ndarray, k: int, weights: Sequence[np.ndarray], part: slice) -> _Drawn:
        """`part`: of the resamples, an even number or up to the end."""
        resamples, *halves = weights
        splits = slice(part.start // 2, part.stop // 2)
        one, other = (_Lists(own[splits] @ effects, k) for own in halves)
        return cls(_Lists(resamples[part] @ effects, k), (one, other))


def _weights(pairs: int, resamples: int, generator: Any) -> list[np.ndarray]:
    """What each pair counts in each resample, and in each half of each split: [draw, pair]."""
    half = pairs // 2
    drawn = [generator.multinomial(pairs, [1 / pairs] * pairs, resamples) / pairs]
    orders = generator.permuted(np.tile(np.arange(pairs), (resamples // 2, 1)), axis=1)
    for part in (orders[:, :half], orders[:, half : 2 * half]):
        drawn.append(np.zeros(orders.shape))
        np.put_along_axis(drawn[-1], part, 1 / half, axis=1)
    return drawn


class _Draws:
    """What all draws have in common, as it is collected."""

    def __init__(self, whole: list[_Lists], resamples: int) -> None:
        self.whole, self.resamples = whole, resamples
        self.k, self.rows = whole[0].k, whole[0].means.shape[1]
        pairs = [*((i, i) for i in range(len(whole))), *combinations(range(len(whole)), 2)]
        self.keys: list[tuple[int, int, How]] = [
            (a, b, how)
            for a, b in pairs
            for how in (("sample", "resamples", "halves") if a == b else ("halves", "whole"))
        ]
        self.likeness: dict[tuple[int, int, How], list[tuple[np.ndarray, np.ndarray]]] = {
            key: [] for key in self.keys
        }
        self.stays = np.zeros((len(whole), self.k))
        self.means: list[list[np.ndarray]] = [[] for _ in whole]

    def take(self, drawn: list[_Drawn]) -> None:
        for r, own in enumerate(drawn):
            top = self.whole[r].top[0]
            among = np.isin(np.arange(self.rows), top)
            counts = np.bincount(own.resamples.top[among[own.resamples.top]], minlength=self.rows)
            self.stays[r] += counts[top] / self.resamples
            self.means[r].append(own.resamples.means[:, top])
        for a, b, how in self.keys:
            one, other = self._sides(drawn[a], drawn[b], self.whole[a], a == b, how)
            self.likeness[a, b, how].append(_likeness(one, other))

    @staticmethod
    def _sides(a: _Drawn, b: _Drawn, whole: _Lists, alone: bool, how: How) -> tuple[_Lists, _Lists]:
        if how == "sample":
            return whole, a.resamples
        if how == "whole":
            return a.resamples, b.resamples
        if how == "halves":
            return a.halves[0], b.halves[1 if alone else 0]
        pairs = len(a.resamples.means) // 2 * 2
        return a.resamples[0:pairs:2], a.resamples[1:pairs:2]

    def fields(self) -> dict[str, Any]:
        each = {"jaccard": [], "jaccard_low": [], "jaccard_high": [], "shared": []}
        ranks: list[Agreement] = []
        for a, b, how in self.keys:
            shared, alike = (np.concatenate(own) for own in zip(*self.likeness[a, b, how]))
            j = _jaccard(shared)
            ends = [*np.percentile(j, [2.5, 97.5], axis=0)]
            low, high = np.percentile(alike, [2.5, 97.5])
            if how == "whole":  # resampling makes lists less alike than they are
                shared, alike = _likeness(self.whole[a], self.whole[b])
                j = _jaccard(shared)
            for name, values in zip(each, (j.mean(0), *ends, shared.mean(0))):
                each[name].append(values)
            ranks.append(Agreement(float(alike.mean()), float(low), float(high)))
        top = np.stack([own.top[0] for own in self.whole])
        bounds = [np.percentile(np.concatenate(own), [2.5, 97.5], axis=0) for own in self.means]
        return {
            **{name: _tensor(values) for name, values in each.items()},
            "ranks": tuple(ranks),
            "first": tuple(a for a, _, _ in self.keys),
            "second": tuple(b for _, b, _ in self.keys),
            "how": tuple(how for _, _, how in self.keys),
            "chance": _tensor([_chance(self.rows, j + 1) for j in range(self.k)]),
            "top": torch.from_numpy(top),
            "effects": _tensor([own.means[0, own.top[0]] for own in self.whole]),
            "low": _tensor([low for low, _ in bounds]),
            "high": _tensor([high for _, high in bounds]),
            "stays": torch.from_numpy(self.stays),
        }


def _likeness(a: _Lists, b: _Lists) -> tuple[np.ndarray, np.ndarray]:
    """How many of the 1, 2, ... k largest both have, [list, k], and how alike all rows are ranked,
    [list]. Side a may be one list for all of b."""
    n, k = len(b.means), a.k
    # The place of each row in the lists of b; beyond them, k.
    places = np.full(b.means.shape, k, dtype=np.int32)
    np.put_along_axis(places, b.top, np.arange(k, dtype=np.int32)[None], axis=1)
    own = np.take_along_axis(places, np.broadcast_to(a.top, (n, k)), axis=1)
    # A row is in both lists of j where the later of its places is below j.
    later = np.maximum(own, np.arange(k)) + np.arange(n)[:, None] * (k + 1)
    found = np.bincount(later.ravel(), minlength=n * (k + 1)).reshape(n, k + 1)
    return found[:, :k].cumsum(1), np.einsum(
        "lr,lr->l", np.broadcast_to(a.ranks, b.ranks.shape), b.ranks
    )


def _jaccard(shared: np.ndarray) -> np.ndarray:
    """Of lists of 1, 2, ... k that share so many."""
    both = 2 * np.arange(1, shared.shape[1] + 1)
    return shared / (both - shared)


def _chance(rows: int, j: int) -> float:
    """The mean Jaccard of two lists of j of the rows that are drawn at random."""
    from scipy import stats

    shared = np.arange(j + 1)
    likely = stats.hypergeom.pmf(shared, rows, j, j)
    return float((likely * shared / (2 * j - shared)).sum())


def _tensor(values: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _several(scores: Any) -> list[PairedResult]:
    wrong, given = None, scores
    if not isinstance(scores, Sequence) or isinstance(scores, str) or not scores:
        wrong = scores
    elif other := [each for each in scores if not isinstance(each, PairedResult)]:
        wrong = other[0]
    if wrong is not None:
        raise ScopeParameterError(
            f"scores is a {type(wrong).__name__}; allowed: what components or edges made of pairs, or a "
            "list of these"
        )
    return [*given]


def _names(names: Any, count: int) -> tuple[str, ...]:
    given = [str(i + 1) for i in range(count)] if names is None else names
    told = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if (
        len(told) != count
        or len({*told}) < count
        or not all(n and isinstance(n, str) for n in told)
    ):
        raise ScopeParameterError(
            f"names is {names!r}; allowed: {count} different texts, one for each result"
        )
    return told


def _effects(results: Sequence[PairedResult], names: Sequence[str]) -> list[np.ndarray]:
    """[pair, row] of each, all roles together. Raises where they cannot be compared."""
    first = results[0]
    labels = first.row_labels()
    found = []
    for name, own in zip(names, results):
        if len(own.effects) < 2:
            raise ScopeParameterError(
                f"result {name!r} is of {len(own.effects)} pair: what other pairs would say is only to be "
                "told from two or more"
            )
        if (theirs := own.row_labels()) != labels:
            other = {*theirs} ^ {*labels}
            what = f"{min(other)!r} is in one alone" if other else "in another order"
            raise ScopeParameterError(
                f"results {names[0]!r} and {name!r} have other rows ({what}): give results of one model, "
                "made with the same by"
            )
        effects = own.effects.detach().double().sum(-1).cpu().numpy()
        if not np.isfinite(effects).all():
            i, row = np.argwhere(~np.isfinite(effects))[0]
            raise NumericalError(
                f"the effect of {labels[row]} in pair {i} of result {name!r} is {effects[i, row]}: "
                "make it again, in float32 or wider"
            )
        found.append(effects)
    return found
