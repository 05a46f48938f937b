"""The watch on figures sees what a reader would stumble over, and nothing else."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

TOKENS = [f"token {i}" for i in range(12)]


def ticked(rotation: float) -> Figure:
    figure = Figure(figsize=(4, 3))
    figure.subplots().set_xticks([i / 12 for i in range(12)], TOKENS, rotation=rotation)
    return figure


def test_labels_that_run_into_each_other(amiss):
    found = amiss(ticked(0))
    assert ["token 3", "token 4"] in found["overlapping"] and not found["cut"]


@pytest.mark.parametrize("rotation", [45, 90])
def test_slanted_labels_have_room(amiss, rotation):
    """Their upright boxes overlap; they do not."""
    found = amiss(ticked(rotation), bbox_inches="tight")
    assert found["texts"] > 12 and not found["overlapping"] and not found["cut"]


def test_text_that_is_cut_off(amiss):
    figure = Figure(figsize=(4, 3))
    figure.text(0.95, 0.5, "beyond the edge")
    assert amiss(figure)["cut"] == ["beyond the edge"]
    assert amiss(figure, bbox_inches="tight")["cut"] == []


def test_one_text_on_another(amiss):
    figure = Figure(figsize=(4, 3))
    for text, x in (("one", 0.5), ("two", 0.52), ("far", 0.8)):
        figure.text(x, 0.5, text)
    assert amiss(figure)["overlapping"] == [["one", "two"]]
