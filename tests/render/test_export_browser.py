"""Exported pages as a reader meets them: a file, a real pointer, no network. `test_render_browser` holds
what stands in them; here is how they look and behave, from 5 tokens to 200."""

from __future__ import annotations

import dataclasses
import re
import zlib

import pytest
import torch

from support.browser import TOKENS, result, text
from support.served_app import Visitor, boxes, needs_playwright, overlap
from tl_scopes import render
from tl_scopes.render.colours import contrast
from tl_scopes.render.tokens import visible
from tl_scopes.results.attribution import Attribution

pytestmark = needs_playwright


@pytest.fixture
def shown(opened):
    """A result's page, opened, with its tokens drawn."""

    def show(made: Attribution, size=(1200, 900), dark: bool = False, **options) -> Visitor:
        visitor = opened(made.to_html(**options), size, dark)
        visitor.page.locator(".colored-tokens > span").first.wait_for()
        return visitor

    return show


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("n", "sites"), [(5, 1), (200, 1), (200, 19)])
def test_tokens_stand_side_by_side_and_differ(shown, n, sites, dark):
    visitor = shown(text(n, sites), dark=dark)
    found = boxes(visitor)
    assert [b["text"] for b in found] == [visible(t) for t in text(n).str_tokens]
    assert all(b["width"] > 4 and 15 < b["height"] < 60 for b in found)
    assert all(b["x"] >= 0 and b["x"] + b["width"] <= 1200 for b in found)
    for i, a in enumerate(found):
        assert not any(overlap(a, b) for b in found[i + 1 : i + 40]), a["text"]
    assert len({b["colour"] for b in found}) >= min(n, 50) - 2
    visitor.shoot(f"export-{n}-tokens-{sites}-sites-{'dark' if dark else 'light'}")


def painted(visitor: Visitor) -> list[list[list[float]]]:
    """Ground and ink of every token as they reach the eye, the style sheet's filter included."""
    return visitor.page.locator(".colored-tokens > span > span").evaluate_all(
        """all => all.map(e => {
          const css = getComputedStyle(e), canvas = new OffscreenCanvas(1, 1).getContext("2d");
          canvas.filter = css.filter;
          return [css.backgroundColor, css.color].map(colour => {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
          });
        })"""
    )


@pytest.mark.parametrize(("dark", "least"), [(False, 4.5), (True, 3.0)], ids=["light", "dark"])
def test_text_on_colours_can_be_read(shown, dark, least):
    """As WCAG 2.2 asks for text; on dark pages, whose colours are turned over, as for large text."""
    made = text(65, sites=2)
    ramp = torch.linspace(-1, 1, 65)
    visitor = shown(dataclasses.replace(made, scores=torch.stack([ramp, -ramp.abs()])), dark=dark)
    for _ in range(2):
        found = [tuple(map(tuple, pair)) for pair in painted(visitor)]
        assert len({ground for ground, _ in found}) > 30
        assert min(contrast(*pair) for pair in found) > least
        visitor.page.get_by_text("resid(1)", exact=True).first.click()
        visitor.page.wait_for_function(
            "() => document.querySelector('.tls-rows .tls-on').textContent === 'resid(1)'"
        )


def test_pointing_shows_the_score_inside_the_window(shown):
    made = text(200)
    visitor = shown(made)
    chips = visitor.page.locator(".colored-tokens > span > span")
    tip = visitor.page.locator(".tls-tip")
    assert not tip.is_visible()
    for t in (0, 3, 17, 120, 199):  # corners and edges among them
        chips.nth(t).scroll_into_view_if_needed()
        chips.nth(t).hover()
        tip.wait_for()
        shown = tip.inner_text()
        assert f"position {t}" in shown and made.units in shown
        (number,) = re.findall(r"^([\d.e-]+)$", shown, re.M)
        assert float(number) == pytest.approx(float(made.scores[0, t]), rel=0.01)
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1200
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900
    visitor.shoot("export-pointing", whole=False)
    visitor.page.mouse.move(1190, 5)
    tip.wait_for(state="hidden")


def test_a_site_is_chosen_by_click(shown):
    made = text(20, sites=4)
    visitor = shown(made)
    before = [b["colour"] for b in boxes(visitor)]
    visitor.page.get_by_text("resid(2)", exact=True).first.click()
    visitor.page.wait_for_function(
        "old => getComputedStyle(document.querySelectorAll('.colored-tokens > span > span')[5])"
        ".backgroundColor !== old",
        arg=before[5],
    )
    alone = shown(made, site=2)
    assert [b["colour"] for b in boxes(visitor)] == [b["colour"] for b in boxes(alone)]


def test_hostile_tokens_do_nothing_however_they_are_touched(shown):
    visitor = shown(result(sites=2), scale="log")
    chips = visitor.page.locator(".colored-tokens > span > span")
    assert chips.all_text_contents() == [visible(token) for token in TOKENS]
    for t in range(len(TOKENS)):
        chips.nth(t).hover()
        chips.nth(t).click()
    title = "What moves the next-token distribution"
    assert title in visitor.page.title() and "pwned" not in visitor.page.title()
    assert visitor.page.locator("img[src*=tracker], s, b:has-text('pwned')").count() == 0
    visitor.shoot("export-hostile")


def test_a_narrow_window_does_not_scroll_sideways(shown):
    visitor = shown(text(60, sites=6), size=(400, 800))
    assert not visitor.page.evaluate("document.documentElement.scrollWidth > innerWidth")
    visitor.shoot("export-narrow")


def test_a_printed_page_keeps_its_colours(shown):
    """Without a tick at "background graphics", which nobody finds."""
    visitor = shown(text(30))
    colours = {b["colour"] for b in boxes(visitor)}
    streams = re.findall(rb"stream\r?\n(.*?)endstream", visitor.page.pdf(), re.S)
    drawn = b"".join(map(inflated, streams))
    fills = set(re.findall(rb"([\d. ]+) rg", drawn))
    assert len(fills) > len(colours)


def inflated(stream: bytes) -> bytes:
    """A part of a PDF, if it is compressed."""
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_the_page_is_one_file(tmp_path):
    page = render.html(text(5), tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"] and len(page) < 2_000_000
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page
    # What a notebook shows of a cell that ends so.
    assert repr(text(5).to_html()) == f"Page({len(page)} characters of HTML)"
