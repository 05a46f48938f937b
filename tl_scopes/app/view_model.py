"""What the page shows and offers of an answer: its picture as plain values, and files made when asked for.

All texts of the picture are texts, none is markup.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tl_scopes import render
from tl_scopes.app.request import View
from tl_scopes.render.colours import RGB, colour, hexed, ink, number, percent, turned
from tl_scopes.render.picture import Picture, Row, about, build, source
from tl_scopes.render.tokens import pieces
from tl_scopes.results.attribution import Attribution, site_index

_STRONGEST = 8
# Colours from the lowest to the highest of a scale.
_STEPS = 33
# A map of more would be pixels too small to point at, sent at every click.
_CELLS = 60_000


# The most that matplotlib can draw either way.
_PIXELS = 65_000
# matplotlib's caches of fonts and glyphs are not made for several threads.
_drawing = threading.Lock()


def view_model(result: Attribution, view: View) -> dict[str, Any]:
    """One site of an answer, to be drawn by `page/tokens.js`.

    `tokens`: one entry a token of the prompt, with `pieces` ((text, is_mark) pairs), `score` (a
    number written out), `light` and `dark` (colours of ground and text on such a page), and whether it
    is `later` than the read position. Raises `SiteError` for a site that the answer does not hold.
    """
    row_index = site_index(result.sites, view.site) if view.site else 0
    picture = build(result, sites=[row_index], **view.options())
    row = picture.rows[0]
    return {
        "title": picture.title,
        "subtitle": picture.subtitle,
        "tokens": [_token(picture, row, t) for t in range(len(picture.tokens))],
        "read": result.position,
        "units": picture.units,
        **_ramps(row.scale.signed),
        "ticks": _ticks(row),
        "map": _map(result, view),
        "notes": _notes(picture, row),
        "strongest": [
            {"at": t, "pieces": pieces(picture.tokens[t]), "text": number(float(row.scores[t]))}
            | {"share": abs(float(row.scores[t])) / (row.scale.limit or 1.0)}
            for t in row.strongest(_STRONGEST)
        ],
        "heading": "Predicted next" if result.continuation is None else "Probability of the answer",
        "next": [
            {"pieces": pieces(text), "share": share, "text": percent(share), "target": is_target}
            for text, share, is_target in _likely(result, row)
        ],
        "source": source(picture),
    }


def html(result: Attribution, view: View) -> bytes:
    """The self-contained page of every site, in the view's colours."""
    return render.html(result, **view.options()).encode("utf-8")


def png(result: Attribution, view: View) -> bytes:
    """Bars of one site, a map of several; of a very long prompt in fewer dots an inch."""
    out = io.BytesIO()
    with _drawing:
        figure = render.figure(result, **view.options())
        figure.savefig(out, format="png", dpi=min(150, _PIXELS / max(figure.get_size_inches())))
    return out.getvalue()


def json(result: Attribution, view: View) -> bytes:
    """Every field, as `tl-scopes attribute --json` prints it, whatever the view."""
    return f"{result.to_json()}\n".encode()


# What may be downloaded, by its ending: the type of the file, and what makes it.
FILES: dict[str, tuple[str, Callable[[Attribution, View], bytes]]] = {
    "html": ("text/html", html),
    "png": ("image/png", png),
    "json": ("application/json", json),
}


def _token(picture: Picture, row: Row, t: int) -> dict[str, Any]:
    value = float(row.colours[t])
    error = "" if row.error is None else f" ± {number(float(row.error[t]))}"
    return {
        "pieces": pieces(picture.tokens[t]),
        "breaks": "\n" in picture.tokens[t],
        "id": picture.ids[t],
        "score": f"{number(float(row.scores[t]))}{error}",
        "light": _chip(colour(value)),
        "dark": _chip(turned(colour(value))),
        "later": t > row.position,
        "plain": not bool(row.included[t]) and t <= row.position,
    }


def _likely(result: Attribution, row: Row) -> Iterator[tuple[str, float, bool]]:
    """Tokens with their probabilities, and which is the target: of a given answer, or the likeliest ones."""
    if (answer := result.continuation) is not None:
        for token, log_prob in zip(answer.tokens, answer.log_probs):
            yield token.text, math.exp(log_prob), False
        return
    for c in row.prediction:
        yield c.text, c.probability, row.target is not None and c.id == row.target.id


def _notes(picture: Picture, row: Row) -> list[str]:
    left_out = picture.left_out()
    colours = "Logarithmic colours" if picture.log else "Linear colours"
    scale = f"{colours}, in {picture.units}."
    if left_out:
        scale += f" Not coloured: {', '.join(left_out)}."
    if picture.nothing:
        scale += f" {picture.nothing.capitalize()}."
    if picture.signs:
        scale += f" {picture.signs}."
    return [scale, *about(picture, row)]


def _ramps(signed: bool) -> dict[str, list[str]]:
    """The colours of a scale from its lowest to its highest, for light pages and dark ones."""
    colours = [colour(float(x)) for x in np.linspace(-1.0 if signed else 0.0, 1.0, _STEPS)]
    return {"light": [hexed(c) for c in colours], "dark": [hexed(turned(c)) for c in colours]}


def _map(result: Attribution, view: View) -> dict[str, Any] | None:
    """Every site by every token: steps of the colour bar, each site by its own largest score."""
    if len(result.sites) == 1 or result.scores.numel() > _CELLS:
        return None
    picture = build(result, **view.options())
    low = -1.0 if picture.signed else 0.0
    top = _STEPS - 1
    return {
        **_ramps(picture.signed),
        "sites": list(result.sites),
        "chosen": site_index(result.sites, view.site) if view.site else 0,
        "rows": [
            [round((float(value) - low) / (1 - low) * top) for value in row.colours]
            for row in picture.rows
        ],
    }


def _ticks(row: Row) -> list[dict[str, Any]]:
    """Labels under the bar, with their places from 0 to 1."""
    labels = row.scale.labels() if row.included.any() else []
    low = -1.0 if row.scale.signed else 0.0
    return [{"at": (at - low) / (1 - low), "text": text} for at, text in labels]


def _chip(paper: RGB) -> list[str]:
    """Colours of a token's ground and of its text, whichever of two reads better on it."""
    return [hexed(paper), hexed(ink(paper))]
