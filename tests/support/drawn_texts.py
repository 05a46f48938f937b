"""Where text stands in the matplotlib figures that a process draws: what overlaps, what is cut off.

Taken from the renderer, so that only what is really drawn counts, with its angle; text with path
effects is not seen.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import RendererAgg

SLACK = 1.0  # pixels that two texts may share


@dataclass(frozen=True)
class Drawn:
    """A line of text. `corners`: [4, 2], in pixels from the upper left, in order around it.

    `size`: width and height of the whole figure.
    """

    text: str
    corners: np.ndarray
    size: tuple[float, float]

    @functools.cached_property
    def _box(self) -> tuple[float, ...]:
        return (*self.corners.min(0).tolist(), *self.corners.max(0).tolist())

    def overlaps(self, other: Drawn) -> bool:
        """Two rectangles are apart if, and only if, a side of one of them has both apart."""
        (left, top, right, bottom), (x0, y0, x1, y1) = self._box, other._box
        if right <= x0 or x1 <= left or bottom <= y0 or y1 <= top:
            return False  # most of them: upright boxes around both are apart already
        for corners in (self.corners, other.corners):
            for side in np.diff(corners[:3], axis=0):
                along = side / max(np.linalg.norm(side), 1e-9)
                a, b = self.corners @ along, other.corners @ along
                if min(a.max(), b.max()) - max(a.min(), b.min()) <= SLACK:
                    return False
        return True

    def is_cut(self) -> bool:
        """Whether part of it is outside the figure."""
        beyond = self.corners > np.array(self.size) + SLACK
        return bool((self.corners < -SLACK).any() or beyond.any())


@contextmanager
def watching(path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """`watch` for a while. Gives a function that tells what was seen so far."""
    kept = RendererAgg.draw_text, FigureCanvasBase.print_figure
    watch(path)
    try:
        yield lambda: seen(path)
    finally:
        RendererAgg.draw_text, FigureCanvasBase.print_figure = kept


def seen(path: Path) -> list[dict[str, Any]]:
    """A row for each figure: how many `texts`, which are `overlapping`, which are `cut`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def watch(path: str | Path) -> None:
    """From now on, append a row to `path` for each figure that is drawn, with what is amiss."""
    drawn: list[Drawn] = []
    draw_text, print_figure = RendererAgg.draw_text, FigureCanvasBase.print_figure

    def note(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        turn = np.deg2rad(angle)
        right = np.array([np.cos(turn), -np.sin(turn)])
        up = np.array([-np.sin(turn), -np.cos(turn)])
        spots = [(0, -descent), (width, -descent), (width, height - descent), (0, height - descent)]
        corners = np.array([np.array([x, y]) + a * right + b * up for a, b in spots])
        if s.strip():
            drawn.append(Drawn(s, corners, (self.width, self.height)))
        return draw_text(self, gc, x, y, s, prop, angle, ismath, mtext)

    def report(self, *args, **kwargs):
        drawn.clear()
        made = print_figure(self, *args, **kwargs)
        row = {
            "texts": len(drawn),
            "overlapping": [(a.text, b.text) for a, b in combinations(drawn, 2) if a.overlaps(b)],
            "cut": [line.text for line in drawn if line.is_cut()],
        }
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return made

    RendererAgg.draw_text, FigureCanvasBase.print_figure = note, report
