"""What the figures of circuits share: their words, labels of tokens, maps in signed colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from tl_scopes.errors import RenderError
from tl_scopes.render import wording
from tl_scopes.render.colours import Scale, colour, hexed, ink, number
from tl_scopes.render.figures import letters
from tl_scopes.render.figures.letters import drawable
from tl_scopes.render.figures.tokens import DOT as DOT
from tl_scopes.render.figures.tokens import READ, SOFT, NotebookFigure, ramp, style, write
from tl_scopes.render.figures.tokens import caption as caption
from tl_scopes.render.tokens import quoted, words
from tl_scopes.results.circuits import CircuitResult

PALE, FAINT, LINE, EMPTY = "#8b9098", "#c9cdd3", "#e9ebee", "#f1f2f4"


def explained(result: CircuitResult) -> str:
    """What the scope explains, as the end of a sentence."""
    return wording.explained(result.scope, result.target)


def setting(result: CircuitResult, *parts: str) -> str:
    """Scope, place and size of what is shown, after `parts`."""
    p, n = result.position, len(result.str_tokens)
    later = n - p - 1
    said = [*parts, wording.method(result.scope)]
    said.append(f"read at {p} {quoted(result.str_tokens[p])}")
    unseen = f", the {later} after the read position not drawn" if later else ""
    said.append(f"{n} token{'s' * (n != 1)}{unseen}")
    if result.frozen:
        said.append(f"{' and '.join(words(x) for x in result.frozen)} held constant")
    return DOT.join(part for part in said if part)


def check(result: CircuitResult, **fields: Tensor | None) -> None:
    """Refuse what no picture can show. `fields`: the numbers that are about to be drawn."""
    kind, n = type(result).__name__, len(result.str_tokens)
    if not n or not 0 <= result.position < n:
        raise RenderError(
            f"this {kind} has {n} tokens and is read at {result.position}: nothing to draw; "
            "load or make it again"
        )
    for name, values in fields.items():
        if values is None:
            continue
        if not values.numel():
            raise RenderError(
                f"this {kind} holds nothing in {name} (shape {list(values.shape)}): "
                "nothing to draw; load or make it again"
            )
        if not values.isfinite().all():
            where = (~values.isfinite()).nonzero()[0].tolist()
            raise RenderError(
                f"{name} of this {kind} holds NaN or infinite numbers (first at {where}); only "
                "finite ones can be drawn: make it again, in float32 or wider"
            )


def array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def count(name: str, value: int) -> int:
    if type(value) is not int or value < 1:
        raise RenderError(f"{name}={value!r} shows nothing: give a whole number from 1")
    return value


def effect_unit(result: CircuitResult) -> str:
    """Of what moves, where `units` are of that per unit of what moves it."""
    units = words(result.units)
    return units.rpartition(" per unit")[0] or units


def coloured(result: CircuitResult, include_bos: bool) -> np.ndarray:
    """Which tokens up to the read position take part in the colours, [pos]."""
    inside = np.ones(result.position + 1, dtype=bool)
    inside[0] = include_bos or not result.has_bos
    # With nothing but BOS before the read position there is nothing else to look at.
    return inside if inside.any() else ~inside


def bos_note(result: CircuitResult, inside: np.ndarray) -> str:
    return "" if inside[0] else f"BOS {quoted(result.str_tokens[0], 24)} not coloured"


@dataclass(frozen=True)
class Shades:
    """A scale, and which side of zero it shows. `signed` numbers get both, whatever they are."""

    scale: Scale
    signed: bool

    @classmethod
    def fit(cls, values: np.ndarray, kind: str, signed: bool) -> Shades:
        """`values`: what must be told apart. `kind`: "linear" or "log"."""
        scale = Scale.fit(np.asarray(values, dtype=float).ravel(), kind)
        signed = signed or scale.signed
        return cls(replace(scale, signed=signed), signed)

    @property
    def low(self) -> float:
        return -1.0 if self.signed else 0.0

    def bar(self, figure: Figure, axes: Sequence[Axes], label: str, tall: float) -> None:
        """A colour bar beside `axes`, with numbers in the results' own unit. `tall`: in inches."""
        colours = ScalarMappable(Normalize(self.low, 1.0), ramp(self.low))
        aspect = max(8.0, tall / 0.13)
        bar = figure.colorbar(colours, ax=list(axes), fraction=0.03, pad=0.02, aspect=aspect)
        ticks = self.scale.labels()
        bar.set_ticks([at for at, _ in ticks], labels=[text for _, text in ticks])
        bar.ax.tick_params(length=2, color=SOFT)
        for text in bar.ax.get_yticklabels():
            style(text, size=8)
        kind = f"{label}, logarithmic" if self.scale.decades else label
        write(bar.ax.yaxis.label, "\n".join(letters.broken(kind, 46)), size=8)
        bar.outline.set_linewidth(0.4)


def paint(ax: Axes, values: np.ndarray, shades: Shades, shown: np.ndarray) -> np.ndarray:
    """A map of `values` [row, column]; where not `shown`, the hatch behind it. Colour values."""
    made = shades.scale(values)
    ax.imshow(np.ma.array(made, mask=~shown), aspect="auto", interpolation="nearest",
              cmap=ramp(shades.low), vmin=shades.low, vmax=1.0)  # fmt: skip
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set(linewidth=0.5, color=FAINT)
    return made


def hatch(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Mark cells that have a number but no colour."""
    ax.fill_between(x, y[0], y[1], facecolor=EMPTY, hatch="////", edgecolor=FAINT,
                    linewidth=0, zorder=0.5)  # fmt: skip


def numbers(
    ax: Axes, values: np.ndarray, colours: np.ndarray, shown: np.ndarray, size: float
) -> None:
    """Write `values` into the cells that are `shown`, legible on the cells' colour values."""
    for i, j in zip(*np.nonzero(shown)):
        text = ax.text(j, i, "", ha="center", va="center")
        write(text, number(float(values[i, j])), size, hexed(ink(colour(float(colours[i, j])))))


def separate(ax: Axes, rows: int, columns: int) -> None:
    """Thin lines between cells: an eye follows them to the labels."""
    for edge in np.arange(0.5, columns - 1):
        ax.axvline(edge, color=LINE, linewidth=0.6)
    for edge in np.arange(0.5, rows - 1):
        ax.axhline(edge, color=LINE, linewidth=0.6)


def label(axis: Axis, names: Sequence[str], size: float, places: Sequence[float] = ()) -> None:
    """Literal labels at 0, 1, ... or at `places`."""
    axis.set_ticks(places or range(len(names)), [drawable(name) for name in names])
    for text in axis.get_ticklabels():
        style(text, size=size)


def token_labels(result: CircuitResult) -> list[str]:
    """Of the tokens up to the read position."""
    return [letters.token(token) for token in result.str_tokens[: result.position + 1]]


def label_tokens(axis: Axis, result: CircuitResult, inside: np.ndarray, size: float = 8) -> None:
    """The tokens up to the read position, which stands out; those without colour are pale."""
    label(axis, token_labels(result), size)
    for t, text in enumerate(axis.get_ticklabels()):
        mark_token(text, t == result.position, bool(inside[t]))
        text.set_rotation(90 if isinstance(axis, XAxis) else 0)


def mark_token(text: Text, read: bool, inside: bool) -> None:
    if read:
        text.set(color=READ, fontweight="bold")
    elif not inside:
        text.set(color=PALE)


def sheet(width: float, height: float) -> NotebookFigure:
    """A figure of its own, no pyplot state; sizes in inches, kept within 6.6 by 2.6 to 40 by 40."""
    size = (min(max(width, 6.6), 40.0), min(max(height, 2.6), 40.0))
    return NotebookFigure(figsize=size, layout="constrained")
