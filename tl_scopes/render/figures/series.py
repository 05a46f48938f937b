"""A series of numbers in a prompt: the series above, the influence of each number below it."""

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tl_scopes.errors import RenderError, ScopesError
from tl_scopes.render.colours import Scale, number, percent
from tl_scopes.render.figures import style
from tl_scopes.render.figures.ground import grounded
from tl_scopes.render.figures.tokens import draw_heights
from tl_scopes.render.picture import Picture, Row, Site, build
from tl_scopes.render.wording import DOT
from tl_scopes.results.attribution import Attribution, site_index
from tl_scopes.results.characters import BYTE, Spans, wholes
from tl_scopes.results.joining import checked_how, joined
from tl_scopes.results.spans import checked_spans

_NUMBER = re.compile(r"(?<!\d)-?\d+")


@dataclass(frozen=True)
class Series:
    """What is drawn around the scores. `values`: [time]."""

    values: np.ndarray
    marks: tuple[int, ...]
    forecast: tuple[np.ndarray, np.ndarray] | None
    actual: float | None
    skipped: str


def series(
    result: Attribution,
    values: Iterable[Any],
    *,
    spans: Iterable[Any] | None = None,
    how: str | None = None,
    site: Site | None = None,
    scale: str = "linear",
    marks: Iterable[Any] = (),
    forecast: Mapping[int, float] | Iterable[Any] | None = None,
    actual: Any = None,
    dark: bool = False,
) -> Figure:
    """A series above and the influence of each of its numbers below, over one axis of time.

    Args:
        result: an `Attribution` of a prompt that holds the series as integers with anything else
            but digits between them, such as "12,34,56,". "-" is a sign unless a digit is before it.
        values: the series, oldest first, at least two.
        spans: the half-open token range of each number; None: found in the tokens' texts. Tokens
            outside, such as commas, are skipped.
        how: how the tokens of a number are joined, as in `tl_scopes.results.grouping.group`.
        site: a label or an index; None: the first.
        scale: `"linear"` or `"log"`, of colours and of the lower axis.
        marks: times (indices into `values`) to mark in both panels: near neighbours, say.
        forecast: probabilities of the next number, `forecast[v]` for v (a mapping, or an array from
            0 on), drawn beside the series on the axis of its values.
        actual: the number that really came next.
        dark: as in `tl_scopes.render.figure`.

    Influence is in `result.units`. Returns a figure as `tl_scopes.render.figure` does. Raises
    `RenderError` for values that the prompt does not hold, for spans, marks or a forecast that do
    not fit them, and what `render.figure` refuses.

        >>> series(attribution, [12, 34, 56], marks=[1], forecast={77: 0.6, 78: 0.2}, actual=78)
    """
    if not isinstance(result, Attribution):
        raise RenderError(
            f"got a {type(result).__name__}; a series is drawn of one Attribution: pass what "
            "tl_scopes.attribute returned, or .at(position) of a sequence"
        )
    picture = build(result, site=0 if site is None else site, scale=scale)
    history = _numbers("values", values)
    if len(history) < 2:
        raise RenderError(f"got {len(history)} values; a series has at least two: pass all of them")
    ranges = _found(result, history) if spans is None else _given(result, spans, len(history))
    how = checked_how(result.scope, result.units, how)
    s = site_index(result.sites, 0 if site is None else site)
    error = None if result.standard_error is None else result.standard_error[s]
    scores, errors = joined(result.scores[s], error, ranges, how)
    seen = np.array([start <= result.position for start, _ in ranges])
    numbers = scores.double().numpy()
    fitted = Scale.fit(numbers[seen], scale)
    row = replace(
        picture.rows[0],
        scores=numbers,
        error=None if errors is None else errors.double().numpy(),
        included=seen,
        scale=fitted,
        colours=np.where(seen, fitted(numbers), 0.0),
    )
    picture = replace(picture, rows=(row,))
    drawn = Series(
        values=history,
        marks=_marked(marks, len(history)),
        forecast=None if forecast is None else _distribution(forecast),
        actual=None if actual is None else float(_numbers("actual", [actual])[0]),
        skipped=_skipped(result, ranges, s),
    )
    return grounded(lambda: _draw(picture, drawn), dark)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError, OverflowError):
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise RenderError(f"{name}={values!r} is no row of finite numbers: pass one")
    return numbers


def _found(result: Attribution, values: np.ndarray) -> Spans:
    """The tokens of each number, by the tokens' own texts."""
    first = int(result.has_bos)
    text, runs, starts = wholes(result.str_tokens[first:])
    # Bytes of a character that is not whole are no numbers, though spelled with digits.
    matches = list(_NUMBER.finditer(BYTE.sub(lambda byte: " " * len(byte[0]), text)))
    read = [int(match.group()) for match in matches]
    differ = [i for i, (a, b) in enumerate(zip(read, values)) if a != b]
    if differ or len(read) != len(values):
        i = differ[0] if differ else min(len(read), len(values))
        there = read[i] if i < len(read) else "nothing"
        asked = f"{values[i]:g}" if i < len(values) else "nothing"
        raise RenderError(
            f"the prompt holds {len(read)} numbers, values {len(values)}; number {i} is {there} in "
            f"the prompt and {asked} in values: pass the series as it was written, or spans="
        )
    inside = [
        [runs[bisect_right(starts, x) - 1] for x in (match.start(), match.end() - 1)]
        for match in matches
    ]
    ranges = [(first + start, first + end) for (start, _), (_, end) in inside]
    if any(start < end for (_, end), (start, _) in pairwise(ranges)):
        raise RenderError("one token holds parts of two numbers: no number has tokens of its own")
    return tuple(ranges)


def _given(result: Attribution, spans: Iterable[Any], n: int) -> Spans:
    text = isinstance(spans, str) or not isinstance(spans, Iterable)
    ranges: Any = spans if text else list(spans)
    try:
        checked_spans(ranges, len(result.str_tokens))
    except ScopesError as error:
        raise RenderError(str(error)) from error
    tokens = tuple((operator.index(a), operator.index(b)) for a, b in ranges)
    if len(tokens) != n or list(tokens) != sorted(tokens):
        raise RenderError(
            f"got {len(tokens)} spans for {n} values; each needs one, in their order: pass as many"
        )
    return tokens


def _marked(marks: Any, n: int) -> tuple[int, ...]:
    times = _numbers("marks", marks)
    if not all(t == int(t) and 0 <= t < n for t in times):
        raise RenderError(f"marks={marks!r} are times; allowed: indices of values, 0 to {n - 1}")
    return tuple(int(t) for t in times)


def _distribution(forecast: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and their probabilities, those of none left out."""
    held = forecast if isinstance(forecast, Mapping) else None
    keys = _numbers("the forecast's values", [] if held is None else list(held))
    p = _numbers("forecast", forecast if held is None else list(held.values()))
    keys = np.arange(len(p), dtype=float) if held is None else keys
    if (p < 0).any() or not 0 < p.sum() <= 1 + 1e-3:
        raise RenderError(
            f"the forecast sums to {p.sum():.4g} (least: {p.min() if len(p) else 0:.4g}); "
            "probabilities lie in [0, 1] and sum to 1 at most: pass forecast[v] for each value v"
        )
    return keys[p > 0], p[p > 0]


def _skipped(result: Attribution, spans: Spans, site: int) -> str:
    held = {t for start, end in spans for t in range(start, end)}
    rest = [t for t in range(result.position + 1) if t not in held]
    if not rest:
        return ""
    top = max(rest, key=lambda t: abs(float(result.scores[site, t])))
    return (
        f"{len(rest)} tokens that are no numbers are not drawn (the largest, at {top}: "
        f"{number(float(result.scores[site, top]))})"
    )


def _draw(picture: Picture, drawn: Series) -> Figure:
    n = len(drawn.values)
    beside = drawn.forecast is not None
    figure = style.sheet(float(np.clip(0.075 * n + 2.5, 7.0, 18.0)) + 1.6 * beside, 4.6)
    grid = figure.subplots(
        2, 1 + beside, squeeze=False, sharex="col", height_ratios=[1.25, 1],
        width_ratios=[figure.get_figwidth() - 1.9, 1.3] if beside else None,
    )  # fmt: skip
    top, bottom = grid[0, 0], grid[1, 0]
    for ax in (top, bottom):
        ax.tick_params(labelsize=8, color=style.SOFT)
        ax.spines[["top", "right"]].set_visible(False)
        for t in drawn.marks:
            ax.axvspan(t - 0.5, t + 0.5, color=style.READ, alpha=0.14, linewidth=0, zorder=0)
    _draw_values(top, drawn)
    _draw_scores(bottom, picture.rows[0])
    style.name_axes(top, y="value", size=8)
    style.name_axes(bottom, "time", picture.units.replace(" per unit", "\nper unit"), size=8)
    bottom.set_xlim(-0.8, n - 0.2 + (drawn.actual is not None))
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    if drawn.forecast is not None:
        grid[1, 1].remove()
        _draw_forecast(grid[0, 1], top, drawn)
    parts = [*zip(*top.get_legend_handles_labels()), *zip(*bottom.get_legend_handles_labels())]
    if len(parts) > 1:
        style.legend(top, parts, style.SOFT, loc="lower left", bbox_to_anchor=(0, 1), ncols=4,
                     borderaxespad=0.1)  # fmt: skip
    subtitle = DOT.join([picture.subtitle, f"{n} numbers"])
    style.caption(figure, picture.title, subtitle, [drawn.skipped, picture.signs])
    return figure


def _draw_values(ax: Axes, drawn: Series) -> None:
    n = len(drawn.values)
    shown = drawn.values if drawn.actual is None else np.append(drawn.values, drawn.actual)
    if drawn.forecast is not None:
        values, p = drawn.forecast
        shown = np.append(shown, values[p > 0.02 * p.max()])  # no axis for what hardly has a chance
    room = 0.06 * (np.ptp(shown) or 1.0)
    ax.set_ylim(shown.min() - room, shown.max() + room)
    size = float(np.clip(260 / n, 1.5, 5))
    ax.plot(
        range(n),
        drawn.values,
        "-o",
        color=style.INK,
        linewidth=0.9,
        markersize=size,
        label="series",
    )
    if drawn.marks:
        at = list(drawn.marks)
        ax.plot(at, drawn.values[at], "o", color=style.READ, markersize=size + 2, label="marked")
    if drawn.actual is not None:
        ax.plot([n], [drawn.actual], "D", markerfacecolor="none", markeredgecolor=style.INK,
                markersize=6, label="what came next")  # fmt: skip
    ax.grid(axis="y", color=style.LINE, linewidth=0.6)
    ax.set_axisbelow(True)


def _draw_scores(ax: Axes, row: Row) -> None:
    draw_heights(ax, row, np.flatnonzero(row.included))
    unseen = np.flatnonzero(~row.included)
    if len(unseen):
        edges = (unseen[0] - 0.5, unseen[-1] + 0.5)
        ax.axvspan(*edges, label="after the read position", **style.HATCHED)


def _draw_forecast(ax: Axes, top: Axes, drawn: Series) -> None:
    assert drawn.forecast is not None
    values, p = drawn.forecast
    ax.set_ylim(top.get_ylim())
    gap = float(np.diff(np.sort(values)).min()) if len(values) > 1 else 1.0
    ax.barh(values, p, height=min(gap, 1.0), color=style.css(0.75), linewidth=0)
    if drawn.actual is not None:
        ax.axhline(drawn.actual, color=style.INK, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_yticks([])
    ax.tick_params(labelsize=8, length=0)
    ax.set_xlim(0, float(p.max()) * 1.08)
    ax.set_xticks([0, float(p.max())], ["0", percent(float(p.max()))])
    ax.tick_params(labelbottom=True)
    ax.spines[["top", "right"]].set_visible(False)
    held = float(p.sum())
    share = "" if held > 1 - 1e-3 else f"\n(these hold {percent(held)})"
    text = ax.set_title("")
    style.write(text, f"next number{share}", size=8, color=style.SOFT)
