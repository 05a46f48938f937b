"""Pages in a real browser without a network: what is on the screen, and what the page asks for."""

from __future__ import annotations

import re

import pytest

from support.browser import DARK, check_tokens, needs_browser, result, same_colour, visit
from tl_scopes import render
from tl_scopes.render.picture import build

pytestmark = needs_browser


def test_one_site(tmp_path):
    made = result()
    probe = visit(render.html(made), tmp_path)
    check_tokens(probe)
    seen = probe["outputs"][0]["first"]
    values = build(made).rows[0].colours
    assert all(same_colour(css, v) for css, v in zip(seen["colours"], values))
    assert seen["breaks"] == 1  # two newlines in one token break the line once
    assert seen["notes"][-2:] == ["read", "target"]
    assert seen["ticks"] == ["0", "4.71e-9", "9.42e-9"]
    assert seen["tip"].split("\n") == ["·The", "position 6, id 6", "3.59e-9", "nats per unit^2"]


def test_several_sites(tmp_path):
    made = result(sites=3)
    probe = visit(render.html(made, scale="log", normalise="all"), tmp_path)
    check_tokens(probe)
    first, second = probe["outputs"][0]["first"], probe["outputs"][0]["second"]
    assert first["pills"] == [f"<i>site {s}" for s in range(3)]
    rows = build(made, scale="log", normalise="all").rows
    for seen, row in ((first, rows[0]), (second, rows[1])):
        assert all(same_colour(css, v) for css, v in zip(seen["colours"], row.colours))
    assert "at <i>site 0" in first["tip"] and "3.59e-9" in first["tip"]


def test_notebook_outputs_share_a_page(tmp_path):
    made = [render.notebook(result(sites)) for sites in (1, 2, 3)]
    page = "<!doctype html><meta charset=utf-8><body>" + "".join(output.data for output in made)
    probe = visit(page, tmp_path)
    check_tokens(probe)
    assert [len(output["first"]["pills"]) for output in probe["outputs"]] == [0, 2, 3]
    assert all(output["first"]["tip"].startswith("·The") for output in probe["outputs"])


@pytest.mark.parametrize(
    ("body", "options", "dark"),
    [
        ("", (), False),
        ("", (DARK,), True),
        (' data-jp-theme-light="true"', (DARK,), False),  # a notebook's theme wins
        (' data-jp-theme-light="false"', (), True),
        (' class="vscode-dark"', (), True),
    ],
)
def test_dark_where_the_reader_is_dark(tmp_path, body, options, dark):
    page = render.html(result()).replace("<body>", f"<body{body}>")
    seen = visit(page, tmp_path, *options)["outputs"][0]["first"]
    paper, ink = (sum(int(x) for x in re.findall(r"\d+", seen[k])[:3]) for k in ("paper", "ink"))
    assert (paper < 100 and ink > 600) if dark else (paper > 700 and ink < 100)
    assert seen["filter"].startswith("invert(") == dark
