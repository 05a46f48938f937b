"""Several attributions over the same tokens, or over prompts of one length, position by position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError
from tl_scopes.render.colours import Scale, number
from tl_scopes.render.figures import letters, style
from tl_scopes.render.figures.ground import grounded
from tl_scopes.render.figures.tokens import draw_heights, draw_map, lines
from tl_scopes.render.picture import Picture, Row, Site, build, one_of
from tl_scopes.render.tokens import quoted
from tl_scopes.render.wording import DOT, JOINED, differing, distinct, read_at
from tl_scopes.results.attribution import Attribution
from tl_scopes.results.escapes import isolated
from tl_scopes.results.statistics import rank_correlation

MOST = 12
MOST_TEXTS = 3  # at one position
BARS_UP_TO, BAR_LINE, MAP_LINE = 48, 48, 64
NAME = 44  # characters of a name beside a map before it goes on below


@dataclass(frozen=True)
class Line:
    """One attribution of the comparison. `agreement`: its rank correlation with the first."""

    name: str
    picture: Picture
    agreement: float | None

    @property
    def row(self) -> Row:
        return self.picture.rows[0]

    @property
    def correlation(self) -> str:
        if self.agreement is None:
            return ""
        return f"rank correlation with the first {number(round(self.agreement, 2))}"


def compare(
    results: Sequence[Attribution],
    labels: Sequence[str] | None = None,
    *,
    kind: str | None = None,
    scale: str = "linear",
    include_bos: bool = False,
    include_read: bool = True,
    site: Site | None = None,
    dark: bool = False,
) -> Figure:
    """Attributions below each other, each with the units and the scale of its own.

    Args:
        results: two to twelve, of one prompt or of several with as many tokens (a clean and a
            corrupted one, say), which are compared position by position; or of as many groups.
            Where tokens differ both stand below, in the order of the results.
        labels: a name for each; None: what tells them apart. Read position, site and way of
            joining are added where they are not the same for all.
        kind: `"bars"`, or `"map"` (a coloured line for each); None: bars up to 48 tokens.
        site: which site of each, a label or an index; None: the first.
        scale, include_bos, include_read, dark: as in `tl_scopes.render.figure`.

    Written beside each name: Spearman's rank correlation with the first result over the tokens that
    both have in their colours. Returns a figure as `tl_scopes.render.figure` does. Raises
    `RenderError` for prompts of different lengths, one prompt in different parts, too few results or
    too many, or an unknown option.

        >>> compare([semantic, fisher], ["semantic", "Fisher"], scale="log")
    """
    one_of("kind", kind, (None, "bars", "map"))
    attributions = _listed(results)
    if not 2 <= len(attributions) <= MOST:
        raise RenderError(
            f"got {len(attributions)} results; 2 to {MOST} can be compared: pass so many"
        )
    first = attributions[0]
    for i, other in enumerate(attributions):
        _check_alike(first, other, i)
    options = {"scale": scale, "include_bos": include_bos, "include_read": include_read}
    pictures = [build(x, site=0 if site is None else site, **options) for x in attributions]
    settings = [[*_settings(p), tokens] for p, tokens in zip(pictures, _own_tokens(pictures))]
    names = distinct(attributions, labels, settings)
    if labels is not None:
        names = [DOT.join([name, *more]) for name, more in zip(names, differing(settings))]
    rows = [picture.rows[0] for picture in pictures]
    compared = [
        Line(name, picture, agreement(rows[0], picture.rows[0]) if i else None)
        for i, (name, picture) in enumerate(zip(names, pictures))
    ]
    bars = kind == "bars" or (kind is None and len(first.str_tokens) <= BARS_UP_TO)
    return grounded(lambda: (_bars if bars else _map)(compared), dark)


def _listed(results: Any) -> list[Attribution]:
    listed = list(results) if isinstance(results, Iterable) else None
    if listed is None or not all(isinstance(each, Attribution) for each in listed):
        kinds = {type(each).__name__ for each in ([results] if listed is None else listed)}
        raise RenderError(
            f"got {'' if listed is None else 'a list of '}{' and '.join(sorted(kinds))}; only a list of "
            "Attributions can be compared: pass results of tl_scopes.attribute, or "
            ".at(position) of a sequence"
        )
    return listed


def _check_alike(first: Attribution, other: Attribution, i: int) -> None:
    """Whether position t of both is the same place in a text."""
    if other.str_tokens == first.str_tokens:
        return
    n, m = len(first.str_tokens), len(other.str_tokens)
    kinds = [bool(each.spans) for each in (first, other)]
    texts = ["".join(each.str_tokens[each.has_bos :]) for each in (first, other)]
    wrong = ""
    if n != m:
        wrong = f"are of different tokens ({n} and {m})"
    elif kinds[0] != kinds[1] or texts[0] == texts[1]:
        wrong = f"hold one text, or two, in different parts ({n} each)"
    elif first.has_bos != other.has_bos:
        wrong = "begin differently: one with BOS, the other without (see prepend_bos)"
    if wrong:
        raise RenderError(
            f"results 0 and {i} {wrong}; one prompt, or prompts that differ token by token, can be "
            "compared: change no length, or group all in one way into as many parts, as .group() does"
        )


def _own_tokens(pictures: Sequence[Picture]) -> list[str]:
    """Of each, its tokens where they are not the same in all."""
    rows = differing([picture.tokens for picture in pictures])
    return [f"with {quoted(''.join(row))}" if row else "" for row in rows]


def _labels(compared: list[Line]) -> list[str]:
    """What stands at each position; where that differs, all of it in the order of `compared`."""
    labels = []
    for column in zip(*(line.picture.tokens for line in compared)):
        texts = list(dict.fromkeys(column))
        shown = letters.tokens(texts[:MOST_TEXTS])
        parts = [*map(isolated, shown), *["…"] * (len(texts) > MOST_TEXTS)]
        labels.append(" / ".join(parts) if len(parts) > 1 else shown[0])
    return labels


def _settings(picture: Picture) -> list[str]:
    joined = JOINED[picture.how] if picture.how else ""
    return [f"at {picture.site}", read_at(picture.rows[0].read), joined]


def agreement(a: Row, b: Row) -> float | None:
    """Spearman's rank correlation over the tokens that both have in colour; None: it has none."""
    both = a.included & b.included
    correlation = rank_correlation(a.scores[both], b.scores[both])
    return None if both.sum() < 3 or np.isnan(correlation) else correlation


def _bars(compared: list[Line]) -> Figure:
    names, k = _labels(compared), len(compared)
    spans = lines(len(names), BAR_LINE)
    per = len(spans[0])
    width = max(0.21 * per + 1.6, 7.0)
    headings = [_heading(line, width) for line in compared]
    more = sum(len(heading) - 1 for heading in headings)
    below = 1.0 + letters.room(names)
    figure = style.sheet(width, (1.15 * k + below) * len(spans) + 0.13 * more + 0.9)
    axes = figure.subplots(k * len(spans), 1, squeeze=False)[:, 0]
    for i, span in enumerate(spans):
        block = axes[i * k : (i + 1) * k]
        for ax, line, heading in zip(block, compared, headings):
            draw_heights(ax, line.row, span, few=True)
            ax.set_xlim(span[0] - 0.7, span[0] + per - 0.3)
            ax.set_xticks([])
            if i == 0:
                # A number stands above a bar that is cut off.
                beyond = np.abs(line.row.scores[span]) > line.row.scale.limit
                title = ax.set_title("", loc="left", pad=12 if beyond.any() else 3)
                style.write(title, "\n".join(heading), size=8, color=style.SOFT)
        _label_tokens(block[-1], compared, span, names)
    _say(figure, compared)
    return figure


def _heading(line: Line, width: float) -> list[str]:
    parts = [*line.name.split(DOT), line.picture.units, line.correlation]
    return letters.wrapped([part for part in parts if part], int(width * 15), DOT)


def _map(compared: list[Line]) -> Figure:
    tokens, k = _labels(compared), len(compared)
    spans = lines(len(tokens), MAP_LINE)
    per = len(spans[0])
    names = ["\n".join(letters.broken(line.name, NAME)) for line in compared]
    longest = max(letters.cells(part) for name in names for part in name.split("\n"))
    tall = max(0.24, 0.13 * max(1 + name.count("\n") for name in names) + 0.06)
    below = 1.25 + letters.room(tokens)
    width = max(0.2 * per + 0.07 * longest + 1.7, 7.0)
    figure = style.sheet(width, (tall * k + below) * len(spans) + 1.5)
    rows = [line.row for line in compared]
    log, signed = compared[0].picture.log, any(row.scale.signed for row in rows)
    scale = Scale(1.0, int(log), signed)
    shown = np.array([row.included for row in rows])
    axes = draw_map(figure, rows, shown, spans, scale.low)
    for ax, span in zip(axes, spans):
        for edge in np.arange(0.5, k - 1):
            ax.axhline(edge, color="#ffffff", linewidth=2)
        _label_tokens(ax, compared, span, tokens)
        style.label(ax.yaxis, names, 8)
    height = (tall * k + 1.0) * len(spans)
    style.colour_bar(figure, axes, scale, "", height, "of each one's own largest")
    told = [f"{line.name}: largest {number(line.row.scale.limit)} {line.picture.units}"
            f"{', ' * bool(line.correlation)}{line.correlation}" for line in compared]  # fmt: skip
    _say(figure, compared, told)
    return figure


def _label_tokens(ax: Axes, compared: list[Line], span: np.ndarray, names: list[str]) -> None:
    row, same = compared[0].row, len({line.row.position for line in compared}) == 1
    texts, read = [names[t] for t in span], row.position if same else None
    style.label_tokens(ax.xaxis, texts, span, read, row.included | (not same))
    ax.tick_params(axis="x", length=0)
    for text, t in zip(ax.get_xticklabels(), span):
        if len({line.picture.tokens[t] for line in compared}) > 1:
            text.set(fontweight="bold")


def _say(figure: Figure, compared: list[Line], told: Sequence[str] = ()) -> None:
    """What holds for all of `compared`; what does not is among their names."""
    first = compared[0].picture
    *places, how = (set(column) for column in zip(*(_settings(line.picture) for line in compared)))
    pictures = [
        line.picture if len(how) == 1 else replace(line.picture, how="") for line in compared
    ]
    size = " and ".join(dict.fromkeys(picture.size for picture in pictures))
    subtitle = DOT.join([*(fact for same in places if len(same) == 1 for fact in same), size])
    left = first.left_out()
    hatched = f"hatched: {' and '.join(left)}, not in the colours" if left else ""
    prompts = len({line.picture.tokens for line in compared})
    several = "tokens that differ are bold, in the order of the attributions" if prompts > 1 else ""
    title = (
        f"{len(compared)} attributions of {'one prompt' if prompts == 1 else f'{prompts} prompts'}"
    )
    style.caption(figure, title, subtitle, [*told, *_signs(compared), several, hatched])


def _signs(compared: list[Line]) -> list[str]:
    """What the two colours mean, where there are two: it may not be the same in all of `compared`."""
    names_of: dict[str, list[str]] = {}
    for line in compared:
        if line.picture.signs:
            names_of.setdefault(line.picture.signs, []).append(line.name)
    return [
        text if len(names) == len(compared) else f"{', '.join(names)}: {text}"
        for text, names in names_of.items()
    ]
