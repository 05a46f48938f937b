"""Reports of an evaluation: what page, Markdown, terminal and figures say, whatever methods are called."""

from __future__ import annotations

import dataclasses
import html
import io
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from support.browser import DARK, check_quiet, needs_browser, visit
from support.faithfulness_cards import (
    FAILED,
    HOSTILE,
    LONG,
    METHODS,
    NO_CHECKS,
    bare,
    card,
    rows,
)
from support.pictures import Shape, saved
from tl_scopes import render
from tl_scopes.errors import RenderError
from tl_scopes.render.figures.card import kinds
from tl_scopes.render.figures.card_axes import lines
from tl_scopes.render.figures.letters import drawable
from tl_scopes.render.pages.report import _figure
from tl_scopes.render.report.made import report
from tl_scopes.render.report.words import interval, name, plus_minus, probability
from tl_scopes.results.metrics import AOPC


@pytest.fixture(scope="module")
def hostile():
    return card(HOSTILE, prompts=18, failed=FAILED, blind=HOSTILE[:1], reference=HOSTILE[1])


@pytest.fixture(scope="module")
def page(hostile):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a character without a glyph, a layout that does not fit
        return hostile.to_html()


# --- the page -----------------------------------------------------------------------------------


def text_of(part: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", part))


def test_the_page_holds_everything_and_fetches_nothing(page, hostile):
    seen = Shape(page)
    assert not any(name.startswith("on") for name, _ in seen.attributes)
    assert not any(math.isnan(float(x)) for name, x in seen.attributes if name == "data-value")
    assert all(x.startswith(("#tls-", "data:image/svg+xml;base64,")) for x in seen.addresses)
    assert len([x for x in seen.addresses if x.startswith("data:")]) == 7
    assert seen.tags.count("script") == 1 and seen.tags.count("style") == 2
    assert "default-src 'none'" in page
    rest = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    for label in HOSTILE:
        assert html.escape(name(label)).replace("(", "(<wbr>") in rest
    for method in hostile.to_frame()[["mean", "sem"]].head(7).itertuples():
        assert plus_minus(method.mean, method.sem) in rest
    assert "2 of 18 prompts failed and are left out:" in rest
    assert "prompt 17: NumericalError: NaN in the logits &lt;b&gt;&amp;" in rest


def test_the_same_card_gives_the_same_figure(hostile):
    first = _figure(report(hostile), "randomisation")
    assert first == _figure(report(hostile), "randomisation")


def test_pages_are_written_whole(tmp_path):
    made = card(("a", "b"), rows=rows(("a", "b"), 2, {0: "E: x", 1: "E: x"}), **NO_CHECKS)
    text = made.to_html(tmp_path / "card.html")
    assert (tmp_path / "card.html").read_text(encoding="utf-8") == text == render.html(made)
    outputs = made._repr_html_(), made.show().data
    ids = [re.search(r'id="(tls-\w+)"', output).group(1) for output in outputs]
    assert ids[0] != ids[1]


PROBE = """
await wait(500);
const tables = [...document.querySelectorAll(".tls-card:last-of-type article:first-of-type table")];
const column = () => [...tables[0].tBodies[0].rows].map((row) => row.cells[1].textContent);
const names = () => [...tables[0].tBodies[0].rows].map((row) => row.cells[0].textContent);
const head = tables[0].tHead.rows[0].cells[1];
probe.names = names();
head.querySelector("button").click();
probe.down = column();
probe.sorted = head.getAttribute("aria-sort");
head.querySelector("button").click();
probe.up = column();
tables[0].tHead.rows[0].cells[0].querySelector("button").click();
probe.byName = names();
const card = document.querySelector(".tls-card");
const images = [...document.querySelectorAll("figure img")];
probe.images = images.map((e) => e.complete && e.naturalWidth > 200);
probe.filter = getComputedStyle(images[0]).filter;
probe.paper = getComputedStyle(card).backgroundColor;
probe.good = getComputedStyle(card).getPropertyValue("--good");
probe.wide = document.documentElement.scrollWidth > innerWidth;
probe.scripts = document.querySelectorAll(".tls-card script, .tls-card img:not(figure img)").length;
"""
NARROW = "--window-size=1000,900"


def check_probe(probe: dict, methods) -> None:
    check_quiet(probe)
    assert probe["scripts"] == 0 and all(probe["images"]) and not probe["wide"]
    assert probe["names"] == [name(label) for label in methods]
    values = [float(text.split()[0]) for text in probe["down"]]
    assert values == sorted(values, reverse=True) and probe["sorted"] == "descending"
    assert probe["up"] == probe["down"][::-1]
    assert sorted(probe["byName"]) == sorted(probe["names"])
    assert probe["byName"] != probe["byName"][::-1]


@needs_browser
def test_the_page_in_a_browser(page, tmp_path):
    probe = visit(page, tmp_path, NARROW, probe=PROBE)
    check_probe(probe, HOSTILE)
    assert probe["filter"] == "none" and probe["paper"] == "rgb(255, 255, 255)"


@needs_browser
def test_notebook_outputs_follow_the_readers_dark_theme(tmp_path):
    made = rows(METHODS[:3], prompts=4)
    made = made[made["metric"].isin(AOPC)]
    small = card(METHODS[:3], rows=made, **NO_CHECKS)
    first = small._repr_html_()
    outputs = [first, first.replace(re.search(r'id="(tls-\w+)"', first).group(1), "tls-other")]
    page = f"<!doctype html><meta charset=utf-8><body>{''.join(outputs)}"
    probe = visit(page, tmp_path, NARROW, DARK, probe=PROBE)
    check_probe(probe, METHODS[:3])
    assert probe["filter"].startswith("invert(") and probe["paper"] == "rgb(20, 22, 26)"
    assert len(probe["images"]) == 4


# --- Markdown and terminal ----------------------------------------------------------------------


def test_markdown_shows_every_label_and_number_as_they_are(hostile, tmp_path):
    text = hostile.to_markdown(tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == text
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    inline = [child for t in tokens for child in t.children or ()]
    assert not [t for t in tokens if t.type == "html_block"]
    assert {t.type for t in inline} <= {"text", "text_special", "strong_open", "strong_close"}
    cells = ["".join(c.content for c in t.children) for t in tokens if t.type == "inline"]
    for label in HOSTILE:
        assert name(label).strip() in cells
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert len([t for t in tokens if t.type == "table_open"]) == len(tables) == 15
    assert "> **2 of 18 prompts failed and are left out:**" in text
    assert "\\$x\\_1\\$" in text or "\\$x_1\\$" in text


def test_every_metric_that_is_held_is_explained():
    clear = card(METHODS[:2], prompts=2, stability=None, spectra=None)
    text = clear.to_markdown()
    part = text[text.index("## What is measured") : text.index("## Settings")]
    assert part.count("is better") == 12 and "lower is better ↓ | nats × share" in part
    assert "log-probability" in part
    mean = dataclasses.replace(clear, settings={**clear.settings, "area": "mean"}).to_markdown()
    assert "nats × share" not in mean


@pytest.mark.parametrize(
    ("quality", "mark"), [([1.2, 0.5, 0.5], "★"), ([1.0, 1.0, 0.2], "≈")], ids=["alone", "tied"]
)
def test_the_best_is_marked_if_it_is_and_else_the_ties(quality, mark):
    made = card(METHODS[:3], rows=rows(METHODS[:3], 30, quality=quality), **NO_CHECKS)
    text = made.to_markdown()
    table = next(block for block in text.split("\n\n") if block.startswith("| method | AOPC"))
    first, second, third = (line.split(" | ") for line in table.splitlines()[2:])
    column = 1  # AOPC comprehensiveness, zero
    assert first[column].rstrip("*").endswith(mark)
    assert second[column].endswith("≈") == (mark == "≈") and third[column][-1].isdigit()
    assert first[column].startswith("**") == (mark == "★")
    assert "tests between all methods in all columns" in text


def test_few_prompts_are_said_to_be_few():
    text = card(METHODS[:3], prompts=4).to_markdown()
    assert "With 4 prompts no difference can be significant among so many tests." in text
    assert "★ " not in text.replace("★: ", "")


@pytest.mark.parametrize("width", [60, 200])
def test_the_terminal_shows_the_main_table(hostile, width):
    out = io.StringIO()
    render.terminal(hostile, console=Console(file=out, width=width))
    text = out.getvalue()
    assert "\x1b" not in text and all(len(line) <= width for line in text.splitlines())
    assert "2 of 18 prompts failed" in text and "<script>" in text.replace("\n", "")
    assert text.count("AOPC comprehensiveness ↑") == 2 and "fail" in text
    first = hostile.to_frame().iloc[0]
    assert plus_minus(first["mean"], first["sem"]) in text


def test_cards_without_results_say_so():
    made = bare(rows(("a", "b"), 2, {0: "E: x", 1: "E: x"}), "ab")
    out = io.StringIO()
    render.terminal(made, console=Console(file=out, width=80))
    for text in (made.to_html(), made.to_markdown(), out.getvalue()):
        assert "2 of 2 prompts failed and are left out" in text and "prompts 0, 1: E: x" in text
    with pytest.raises(RenderError, match="nothing at all was measured"):
        made.plot()


def test_one_method_and_one_prompt():
    made = card(("only",), prompts=1, **NO_CHECKS)
    assert "comparisons" not in kinds(made) and made.comparisons().empty
    saved(made.plot())
    assert "±" not in text_of(made.to_html()).split("By share")[0].split("only")[-1]


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (1.2345, 0.0456, "1.23 ± 0.05"),
        (12.3, 0.004, "12.300 ± 0.004"),
        (0.00012, 0.31, "0.000 ± 0.310"),
        (-0.0001, 0.31, "0.000 ± 0.310"),
        (123.4, 5.6, "123 ± 6"),
        (48211.0, 12.0, "48211 ± 12"),
        (2e-5, 1e-6, "2e-5 ± 1e-6"),
        (0.5, 0.0, "0.500 ± 0.000"),
        (0.5, math.nan, "0.5"),
        (math.nan, math.nan, "–"),
        (0.0, 0.0, "0 ± 0"),
    ],
)
def test_means_with_their_errors(mean, error, shown):
    assert plus_minus(mean, error) == shown


def test_other_numbers():
    assert [probability(p) for p in (1e-9, 0.0042, 0.0421, 0.42, 1.0, math.nan)] == [
        "p < 0.001", "p = 0.0042", "p = 0.042", "p = 0.42", "p = 1.00", "p undefined",
    ]  # fmt: skip
    assert interval(0.1, 0.25) == "[0.1, 0.25]" and interval(math.nan, 1.0) == "–"


@pytest.mark.parametrize("label", [*LONG, *HOSTILE, "x" * 300, "a b " * 90, " "])
def test_wrapped_names_fit_and_keep_both_ends(label):
    found = lines(label)
    assert 1 <= len(found) <= 3 and all(len(line) <= 30 for line in found)
    shown = drawable(name(label))
    assert found[0][:5] == shown[:5] and shown.rstrip().endswith(found[-1][-5:].strip())


def test_rows_without_replacement_or_known_metric():
    table = pd.DataFrame({
        "index": range(8), "tokens": 5, "method": ["a", "b"] * 4, "metric": "mine", "replacement": "",
        "fraction": math.nan, "value": np.arange(8.0), "error": "",
    })  # fmt: skip
    table["index"] //= 2
    made = bare(table, "ab")
    assert "| mine | – | – |" in made.to_markdown() and made.leaders().empty
