"""Pages and notebook outputs where no script runs: an untrusted notebook, a mail. Where style sheets are
dropped as well, tokens still have their colours and can be read."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from support import chosen
from support import circuit_drawings as circuits
from support.browser import same_colour, text
from support.faithfulness_cards import card
from support.pictures import attribution
from support.served_app import Visitor, boxes, needs_playwright, overlap
from tl_scopes import render
from tl_scopes.render.colours import contrast
from tl_scopes.render.picture import build
from tl_scopes.render.tokens import visible

pytestmark = needs_playwright
TOKENS = text(40).str_tokens


@pytest.fixture
def without(opened):
    """A page where no script runs, and unless `styled` no style sheet counts."""

    def open_(page: str, styled: bool = True, dark: bool = False) -> Visitor:
        if not styled:
            page = re.sub(r"<style\b.*?</style>", "", page, flags=re.S)
        return opened(page, dark=dark, scripts=False)

    return open_


MADE = {
    "one site": lambda: (text(40), {}),
    "many sites": lambda: (text(40, 6), {}),
    "logarithmic": lambda: (text(40, 6), {"scale": "log", "normalise": "all"}),
    "groups": lambda: (text(40, 3).group([(1, 4), (7, 9)]), {}),
}


@pytest.mark.parametrize(
    ("name", "kind", "styled"), chosen.pairs(MADE, ["page", "notebook"], [True, False])
)
def test_every_token_is_there_with_its_colour(without, name, kind, styled):
    result, options = MADE[name]()
    if kind == "page":
        html = render.html(result, **options)
    else:
        html = "<!doctype html><meta charset=utf-8>" + render.notebook(result, **options).data
    visitor = without(html, styled)
    found, picture = boxes(visitor), build(result, **options)
    row = picture.rows[picture.first]
    assert [chip["text"] for chip in found] == [visible(token) for token in picture.tokens]
    for chip, value in zip(found, row.colours):
        assert chip["shown"] and chip["width"] > 4 and 12 < chip["height"] < 60
        assert same_colour(chip["colour"], value)
        inks = [tuple(map(int, re.findall(r"\d+", chip[k])[:3])) for k in ("colour", "ink")]
        assert contrast(*inks) > 4.5
    assert len({chip["size"] for chip in found}) == 1
    for i, a in enumerate(found):
        assert not any(overlap(a, b) for b in found[i + 1 : i + 40]), a["text"]
    assert re.match(r"[\d.e-]+ \S.*, (position|group) 1, ", found[1]["title"])
    body = visitor.page.locator("body").inner_text()
    assert "Point at" not in body and "click" not in body
    assert (f"{picture.each} {picture.rows[picture.first].label}" in body) == (
        len(picture.rows) > 1
    )
    assert picture.units in body and "Predicted next" in body
    if styled:
        assert [chip["note"].strip('"') for chip in found].count("read") == 1
        visitor.shoot(f"no-scripts-{name.replace(' ', '-')}-{kind}")


def test_dark_pages_can_be_read_too(without):
    visitor = without(render.html(text(40, 6)), dark=True)
    assert len(boxes(visitor)) == 40
    visitor.shoot("no-scripts-dark")


@pytest.mark.parametrize("styled", [True, False], ids=["styled", "bare"])
@pytest.mark.parametrize("make", [circuits.flow, circuits.head_paths])
def test_circuits(without, make, styled):
    visitor = without(render.attention(make(tokens=circuits.TEXT)), styled)
    body = visitor.page.locator("body").inner_text()
    assert "Point at" not in body and "·France" in body
    image = visitor.page.locator("img").first.bounding_box()
    assert image["width"] > 100 and image["height"] > 40
    found = boxes(visitor)
    assert len(found) == (0 if make is circuits.flow else len(circuits.TEXT))
    assert all(chip["width"] > 4 and chip["height"] > 12 for chip in found)
    visitor.shoot(f"no-scripts-{make.__name__}{'' if styled else '-bare'}")


def test_a_card(without):
    made = card()
    visitor = without(made.to_html())
    body = visitor.page.locator("body").inner_text()
    assert all(method in body for method in made.methods)
    images = visitor.page.locator("figure img").all()
    heights = [image.bounding_box()["height"] for image in images]
    assert heights and min(heights) > 100
    assert np.all([row.is_visible() for row in visitor.page.locator("table tr").all()[:5]])
    visitor.shoot("no-scripts-card")


def test_scripts_bring_the_hint_back(opened):
    flows = (circuits.flow(), circuits.head_paths())
    for page in (render.html(text(9, 3)), *map(render.attention, flows)):
        visitor = opened(page)
        visitor.page.get_by_text("Point at a").first.wait_for(timeout=20_000)


def marked(visitor: Visitor, x: float, y: float, width: float, height: float) -> int:
    """Pixels of a part of the window in the colour of the marks, which are orange."""
    clip = {"x": x, "y": y, "width": width, "height": height}
    image = Image.open(io.BytesIO(visitor.page.screenshot(clip=clip)))
    r, g, b = np.asarray(image.convert("RGB"), dtype=int).transpose(2, 0, 1)
    return int(((r > g + 60) & (g > b + 20)).sum())


LINES = ["A first line", "a second line", "so long a line that it goes over several lines, " * 6]


@pytest.mark.parametrize(
    ("read", "dark", "scripts"), chosen.pairs([1, 2, 3], [False, True], [True, False])
)
def test_what_ends_a_line_has_its_mark_below_itself(opened, scripts, dark, read):
    tokens = ("<bos>", *(f"{line}\n" for line in LINES), "third")
    visitor = opened(render.html(attribution(tokens, position=read)), dark=dark, scripts=scripts)
    visitor.page.wait_for_selector(".colored-tokens > span")
    found = boxes(visitor)
    assert (found[3]["height"] > 60) and found[4]["x"] < found[3]["x"] + 5  # wrapped; broken after
    for t in (read, read + 1):
        box = found[t]
        # Below the ring around the token that is read.
        below = marked(visitor, box["x"], box["y"] + box["height"] + 3.5, 40, 7)
        assert (below > 15) == (t == read), (t, below)
    visitor.shoot(f"read-ends-a-line-{read}")
