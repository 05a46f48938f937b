"""The overview of many rows: one small picture, a pixel a score, with its labels in HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from tl_scopes.render.colours import colour, number
from tl_scopes.render.picture import Picture
from tl_scopes.render.tokens import clipped, sentence

# Of a label, in pixels: what a line of the smallest legible letters takes.
LABEL = 10


def heat_map(picture: Picture) -> str:
    """HTML of a rows-by-tokens map. Scores outside the colour scale show the hatch behind."""
    n_row, n_pos = len(picture.rows), len(picture.tokens)
    # The whole map stays in sight as long as it can: cells shrink, and not every one has its label.
    width = min(max(640 // n_pos, 3), 26)
    height = 15 if n_row <= 64 else min(max(640 // n_row, 3), 10)
    labels = _labels([row.label for row in picture.rows], height)
    limits = [number(row.scale.limit) if row.included.any() else "–" for row in picture.rows]
    largest = _labels(limits, height)
    columns = _labels([clipped(t, 12) for t in picture.tokens], width)
    head = "" if picture.common else '<span class="tls-head">largest</span>'
    return (
        f'<div class="tls-heat" style="--w:{width}px;--h:{height}px">'
        f'<div class="tls-rows" style="grid-row:1">{labels}</div>'
        f'<img alt="Scores: one row a {picture.each}, one column a token" src="{_png(picture)}" '
        f'style="width:{n_pos * width}px;height:{n_row * height}px">'
        f'{"" if picture.common else f"""<div class="tls-max">{largest}</div>"""}'
        f'<div class="tls-cols">{columns}</div>{head}</div>'
    )


def _labels(texts: Sequence[str], room: int) -> str:
    """Labels of cells with `room` pixels each; those that would overlap wait to be pointed at."""
    every = -(-LABEL // room)
    kinds = ["" if i % every == 0 else ' class="tls-skip"' for i in range(len(texts))]
    # Spaces part them where style sheets are dropped.
    return " ".join(f"<span{kind}>{sentence(text)}</span>" for kind, text in zip(kinds, texts))


def _png(picture: Picture) -> str:
    """A data address of the map, one pixel a score; transparent where it has no colour."""
    from matplotlib.image import imsave

    ramp = np.array([(*colour(i / 255), 255) for i in range(-255, 256)], dtype=np.uint8)
    levels = np.rint(255 * np.array([row.colours for row in picture.rows])).astype(int)
    pixels = ramp[levels + 255]
    for line, row in zip(pixels, picture.rows):
        line[~row.included & (np.arange(len(line)) <= row.position)] = 0
    file = io.BytesIO()
    imsave(file, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
