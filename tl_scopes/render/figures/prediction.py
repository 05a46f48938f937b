"""The predicted next tokens as bars."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from tl_scopes.errors import RenderError, check_whole
from tl_scopes.render.colours import percent
from tl_scopes.render.figures import letters, style
from tl_scopes.render.figures.ground import grounded
from tl_scopes.render.picture import Result
from tl_scopes.render.tokens import quoted, words
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.escapes import isolated, literal
from tl_scopes.results.records import Candidate


def prediction(
    result: Result, *, position: int | None = None, top: int = 10, dark: bool = False
) -> Figure:
    """Bars of the most likely next tokens, and the number that all others hold together.

    Args:
        result: an `Attribution`, or a `SequenceAttribution`.
        position: which read position of a `SequenceAttribution`; None: its last. An `Attribution`
            has one, and takes none.
        top: how many tokens at most. A result holds ten.
        dark: as in `tl_scopes.render.figure`.

    Lengths are probabilities (no unit). The token that the scope explains is marked with ◆. Returns
    a figure as `tl_scopes.render.figure` does. Raises `RenderError` for a result without a
    prediction (of a direction read before the final state), or with one that is no distribution;
    `PositionError` for a position that was not read.

        >>> prediction(attribution, top=5)
    """
    check_whole("top", top, 1, error=RenderError)
    one = _chosen(result, position)
    shown = one.prediction[:top]
    if not shown:
        raise RenderError(
            "this result holds no prediction: its scope stopped the model before the final state; "
            "draw that of a scope of the prediction, such as SemanticScope()"
        )
    held = sum(c.probability for c in one.prediction)
    bad = [c for c in shown if not 0 <= c.probability <= 1]  # NaN is neither
    if bad or held > 1 + 1e-3:
        first = bad[0] if bad else shown[0]
        raise RenderError(
            f"the predicted probabilities sum to {held:.4g} ({literal(first.text)}: {first.probability}); "
            "they must lie in [0, 1] and sum to 1 at most: attribute again, in float32 or wider"
        )
    return grounded(lambda: _draw(one, shown), dark)


def _chosen(result: Result, position: int | None) -> Attribution:
    if isinstance(result, SequenceAttribution) and len(result):
        return result.at(result.positions[-1] if position is None else position)
    if isinstance(result, Attribution) and position in (None, result.position):
        return result
    if isinstance(result, Attribution):
        raise RenderError(
            f"position={position!r} chooses a read position of a SequenceAttribution; this "
            f"Attribution was read at {result.position}: leave it out"
        )
    raise RenderError(
        f"got a {type(result).__name__} without a prediction; only an Attribution or a "
        "SequenceAttribution has one: pass what tl_scopes.attribute returned"
    )


def _draw(one: Attribution, shown: tuple[Candidate, ...]) -> Figure:
    rest = max(1 - math.fsum(c.probability for c in shown), 0.0)
    texts = [letters.token(c.text, 24, 36) for c in shown]
    figure = style.sheet(6.6 + letters.room(texts, 24), 0.27 * (len(shown) + 1) + 1.0)
    ax = figure.subplots()
    values = np.array([*(c.probability for c in shown), rest])
    target = None if one.target is None else one.target.id
    met = [c.id == target for c in shown]
    # Blue as everywhere; READ for what is explained, as in the other drawings of a prompt.
    shades = [style.READ if here else style.css(0.75) for here in met]
    # What all others hold has no bar: it would often be the longest, and is no candidate.
    ax.barh(range(len(shown)), values[:-1], height=0.7, color=shades)
    for i, (value, end) in enumerate(zip(values, [*values[:-1], 0.0])):
        share = percent(float(value))
        style.note(ax, share, (end, i), (4, 0), size=8, color=style.SOFT, va="center")
    ax.set_xlim(0, (float(values[:-1].max()) or 1.0) * 1.14)
    names = [f"{'◆ ' if here else ''}{isolated(text)}" for text, here in zip(texts, met)]
    style.label(ax.yaxis, [*names, "all others"], 9)
    for text, here in zip(ax.get_yticklabels(), [*met, False]):
        style.mark(text, here, True)
    ax.get_yticklabels()[-1].set_color(style.SOFT)
    ax.set_ylim(len(shown) + 0.6, -0.6)
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.spines["left"].set(color=style.FAINT)
    p, text = one.read_token
    where = f"after {p} {quoted(text)}"
    notes = []
    if one.target is not None:
        below = "" if any(met) else ", not among these"
        notes.append(f"◆ explained: {quoted(one.target.text)}{below}")
    style.caption(figure, "Predicted next token", f"{where} · {words(one.provenance.model)}", notes)
    return figure
