"""What figures stand on: light or dark, and the same whatever matplotlib's settings are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.collections import Collection
from matplotlib.colors import ListedColormap, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from tl_scopes.render.colours import turned
from tl_scopes.render.picture import one_of


def grounded(draw: Callable[[], Figure], dark: bool) -> Figure:
    """What `draw` makes, under matplotlib's own defaults; `dark`: in light ink on a dark ground."""
    one_of("dark", dark, (False, True))
    with style.context("default"):
        figure = draw()
        if dark:
            _darken(figure)
    return figure


def _darken(figure: Figure) -> None:
    """Turn every colour over. Light and dark change places, hues stay, so that what stood out from
    white stands out from black and a legend still means what it says."""
    figure.draw_without_rendering()  # tick labels exist from now on
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    for axis in axes:
        _prepare_ticks(axis)
    for artist in figure.findobj(include_self=True):
        if isinstance(artist, Text):
            artist.set_color(_turn(artist.get_color()))
            if (box := artist.get_bbox_patch()) is not None:  # no child that findobj would find
                box.set_facecolor(_turn(box.get_facecolor()))
                box.set_edgecolor(_turn(box.get_edgecolor()))
        elif isinstance(artist, Line2D):
            face, edge = artist.get_markerfacecolor(), artist.get_markeredgecolor()
            # Last: markers follow it, and would be turned twice.
            artist.set_markerfacecolor(_turn(face))
            artist.set_markeredgecolor(_turn(edge))
            artist.set_color(_turn(artist.get_color()))
        elif isinstance(artist, Patch):
            face, edge = artist.get_facecolor(), artist.get_edgecolor()
            artist.set_facecolor(_turn(face))
            artist.set_edgecolor(_turn(edge))
        elif isinstance(artist, ScalarMappable) and artist.get_array() is not None:
            ramp = artist.get_cmap()(np.linspace(0, 1, 256))
            # A colour bar would make itself anew, without its labels.
            with artist.callbacks.blocked():
                artist.set_cmap(ListedColormap(_turn_all(ramp), name="tl_scopes_dark"))
        elif isinstance(artist, Collection):
            face, edge = artist.get_facecolor(), artist.get_edgecolor()
            artist.set_facecolor(_turn_all(face))
            artist.set_edgecolor(_turn_all(edge))


def _prepare_ticks(axis: Axis) -> None:
    """Ticks that a later drawing may add follow those that are there, which keep their colours."""
    labels = axis.get_ticklabels()
    colours = [label.get_color() for label in labels]
    axis.set_tick_params(color=_turn("black"), labelcolor=_turn("black"))
    for line in axis.get_ticklines():
        line.set_color("black")
        line.set_markeredgecolor("black")
    for label, colour in zip(labels, colours):
        label.set_color(colour)


def _turn(colour: Any) -> Any:
    if isinstance(colour, str) and colour in ("none", "auto"):
        return colour
    rgba = to_rgba(colour)
    # An artist's own alpha would make a colour of it.
    return "none" if rgba[3] == 0 else tuple(_turn_all(to_rgba_array([rgba]))[0])


def _turn_all(colours: Any) -> Any:
    rows = to_rgba_array(colours)
    turned_rows = rows.copy()
    for row, (r, g, b, _) in zip(turned_rows, rows):
        row[:3] = np.array(turned((round(255 * r), round(255 * g), round(255 * b)))) / 255
    return turned_rows
