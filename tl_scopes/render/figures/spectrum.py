"""Eigenvalues of the Fisher information, and how much of it the first of them hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tl_scopes.errors import RenderError
from tl_scopes.render.colours import percent
from tl_scopes.render.figures import letters, style
from tl_scopes.render.figures.card_axes import look
from tl_scopes.render.figures.ground import grounded
from tl_scopes.render.picture import Result
from tl_scopes.render.wording import distinct, read_at
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.records import FisherInfo

MOST = 24


def spectrum(
    results: Result | Sequence[Result],
    *,
    labels: Sequence[str] | None = None,
    dark: bool = False,
) -> Figure:
    """The eigenvalues of `F` that results hold (left), and their share of `tr F` (right).

    Args:
        results: attributions of a `FisherScope` with a rank, at most 24; a `SequenceAttribution`
            is a line for each of its read positions.
        labels: a name for each line; None: what tells the results apart.
        dark: as in `tl_scopes.render.figure`.

    Eigenvalues are in nats per unit^2 of the final state; both axes are logarithmic where there are
    many. A line ends at the rank that the result has: what the rest holds is known only as the share
    that is missing to 100%. Returns a figure as `tl_scopes.render.figure` does. Raises `RenderError`
    for results without eigenvalues, or with ones that are not finite.

        >>> spectrum([short, long], labels=["short prompt", "long prompt"])
    """
    every = list(results) if isinstance(results, Iterable) else [results]
    lines: list[tuple[Attribution, FisherInfo]] = []
    for result in every:
        lines += [(one, _checked(one.fisher)) for one in _reads(result)]
    if not 1 <= len(lines) <= MOST:
        raise RenderError(
            f"got {len(lines)} results to draw the spectra of; 1 to {MOST} can be told apart: "
            "draw fewer at a time"
        )
    settings = [
        [read_at(one.read_token), one.sites[0] if len(one.sites) == 1 else ""] for one, _ in lines
    ]
    names = distinct([one for one, _ in lines], labels, settings)
    return grounded(lambda: _draw(lines, names), dark)


def _reads(result: Result) -> list[Attribution]:
    if isinstance(result, SequenceAttribution):
        return [result.at(position) for position in result.positions]
    if isinstance(result, Attribution):
        return [result]
    raise RenderError(
        f"got a {type(result).__name__}; only an Attribution or a SequenceAttribution has a "
        "spectrum: pass what tl_scopes.attribute returned"
    )


def _checked(info: FisherInfo | None) -> FisherInfo:
    if info is None or not info.eigenvalues:
        why = "it is not of a FisherScope" if info is None else "its FisherScope has samples alone"
        raise RenderError(
            f"this result holds no eigenvalues: {why}; attribute with FisherScope(rank=k)"
        )
    values = np.array([*info.eigenvalues, info.trace])
    if not np.isfinite(values).all() or not info.trace > 0:
        raise RenderError(
            f"the spectrum has eigenvalues or a trace (here {info.trace}) that no axis can show; "
            "they must be finite, and tr F above zero: attribute again, in float32 or wider"
        )
    return info


def _draw(lines: list[tuple[Attribution, FisherInfo]], names: list[str]) -> Figure:
    many = len(lines) > 1
    # Beside the ends of the lines, the shares of several would stand on each other.
    shares = [np.minimum(np.cumsum(info.eigenvalues) / info.trace, 1.0) for _, info in lines]
    held = [f": {percent(float(share[-1]))} at k = {len(share)}" * many for share in shares]
    shown = ["\n".join(letters.broken(name + end, 38)) for name, end in zip(names, held)]
    longest = max(letters.cells(line) for name in shown for line in name.split("\n"))
    rows = sum(1 + name.count("\n") for name in shown)
    figure = style.sheet(9.0 + many * (0.075 * longest + 0.6), max(3.4, many * (0.16 * rows + 1.0)))
    left, right = figure.subplots(1, 2)
    most = max(len(info.eigenvalues) for _, info in lines)
    for i, ((_, info), name, share) in enumerate(zip(lines, shown, shares)):
        values = np.array(info.eigenvalues)
        k = np.arange(1, len(values) + 1)
        colour, marker, dash = look(i)
        how = {"color": colour, "linestyle": dash, "markersize": 4, "linewidth": 1.4,
               "marker": marker if len(values) <= 32 else None}  # fmt: skip
        # Rounding may leave others, which a logarithmic axis has no place for.
        positive = values > 0
        left.plot(k[positive], values[positive], **how)
        right.plot(k, share, label=name, **how)
        if not many:
            end, side = percent(float(share[-1])), "right" if most > 1 else "center"
            style.note(right, end, (k[-1], share[-1]), (0, 6), size=8, ha=side)
    _set_axes(left, most, "eigenvalue of F\n(nats per unit² of y)")
    left.set_yscale("log")
    _set_axes(right, most, "share of tr F in the first k")
    right.set_ylim(0, 1.08)
    right.set_yticks([0, 0.25, 0.5, 0.75, 1])
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.axhline(1, color=style.PALE, linewidth=0.8)
    if many:
        parts = zip(*right.get_legend_handles_labels())
        style.legend(figure, parts, loc="outside right upper")
    out = max(info.left_out for _, info in lines)
    notes = []
    if out > 1e-9:
        notes.append(
            f"tokens left out of F hold {percent(out)} of tr F at most: by no more is an eigenvalue "
            "too small"
        )
    title = "Spectrum of the Fisher information of the next token"
    style.caption(figure, title, "" if many else names[0], notes)
    return figure


def _set_axes(ax: Axes, most: int, name: str) -> None:
    style.name_axes(ax, "k", name)
    if most > 32:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlim(0.5, most + 0.5)
    ax.grid(color=style.LINE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", labelsize=8, color=style.SOFT)
    ax.spines[["top", "right"]].set_visible(False)
