"""Pictures and pages of any circuit: hostile tokens and numbers, options, offline pages, a browser."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from support import browser
from support.circuit_drawings import (
    HOSTILE,
    MAKERS,
    TEXT,
    components,
    flow,
    flow_path,
    head_paths,
    labels,
    saved,
    verification,
)
from tl_scopes import render
from tl_scopes.errors import RenderError
from tl_scopes.render.colours import colour
from tl_scopes.render.tokens import visible

# --- any result -----------------------------------------------------------------------------


OPTIONS = {
    "components": [{}, {"over": "tokens"}, {"what": "sensitivity", "scale": "log"}],
    "head_paths": [{}, {"over": "tokens", "values": "signed"}, {"scale": "log"}],
    "flow": [{}, {"values": "signed"}, {"values": "norms", "scale": "log", "include_bos": True}],
    "flow_path": [{}, {"include_bos": True, "min_share": 0.2}],
    "verification": [{}, {"scale": "log"}],
}
CASES = [(make, options) for make in MAKERS for options in OPTIONS[make.__name__]]


def scaled(result, factor):
    """The same result with its numbers multiplied (0, or close to the limits of float32)."""
    changed = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if (
            isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and field.name != "weights"
        ):
            changed[field.name] = value / (value.abs().max() or 1) * factor
    return dataclasses.replace(result, **changed)


@pytest.mark.parametrize(("make", "options"), CASES)
def test_any_tokens_and_numbers_can_be_drawn(make, options):
    for made in (
        make(tokens=HOSTILE),
        make(tokens=("<bos>",)),
        make(tokens=("a", "b"), has_bos=False, squared=True),
        *(scaled(make(), factor) for factor in (0.0, 1e-38, -1e-44, 3e36)),
    ):
        saved(render.circuit(made, **options))


def test_tokens_are_literal_text():
    figure = saved(render.circuit(flow(HOSTILE)))
    names = labels(figure.axes[1].xaxis)
    assert names[2] == "$x^2" and names[5] == "\\frac{" and names[6] == "\\ud83d"
    assert not any(text.get_parse_math() for text in figure.axes[1].get_xticklabels())


@pytest.mark.parametrize(
    ("size", "tokens"), [((2, 4), 4), ((18, 4), 16), ((30, 9), 64), ((32, 32), 64)]
)
def test_every_label_has_its_room(size, tokens):
    """Neighbouring labels of an axis do not overlap, whatever the model's size."""
    text = [f" word{i % 7}" for i in range(tokens)]
    for made, options in (
        (components(*size, tokens=text), {}),
        (head_paths(*size, tokens=text), {"over": "tokens"}),
        (flow(tokens=text), {}),
    ):
        figure = render.circuit(made, **options)
        figure.canvas.draw()
        for ax in figure.axes[:2]:
            for axis, side in ((ax.xaxis, "x"), (ax.yaxis, "y")):
                boxes = [t.get_window_extent() for t in axis.get_ticklabels() if t.get_text()]
                spans = sorted((getattr(b, side + "0"), getattr(b, side + "1")) for b in boxes)
                assert all(a[1] <= b[0] + 1.5 for a, b in pairwise(spans))


def test_figures_belong_to_no_pyplot_state():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = components().plot(over="tokens")
    assert pyplot.get_fignums() == before
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("result", "options", "message"),
    [
        (components(), {"what": "effect"}, "what is 'effect'; allowed: 'total', 'direct'"),
        (components(), {"over": "layers"}, "over is 'layers'; allowed"),
        (components(), {"top": 0, "over": "tokens"}, "top is 0; allowed: a whole number from 1"),
        (
            components(),
            {"values": "norms"},
            "values='norms' is no option for a Components; it takes what",
        ),
        (
            head_paths(),
            {"source": 99},
            "source is 99; allowed: a whole number from 0 to 15, the read position",
        ),
        (head_paths(position=4), {"source": 5}, "from 0 to 4, the read position"),
        (head_paths(), {"source": 1, "over": "tokens"}, "pass one of the two"),
        (head_paths(), {"part": "keys"}, "part is 'keys'; allowed"),
        (flow(), {"values": "signs"}, "values is 'signs'; allowed"),
        (flow(), {"include_bos": 1}, "include_bos is 1; allowed"),
        (flow_path(), {"min_share": 1.0}, "min_share is 1.0; allowed: a share"),
        (flow_path(), {"min_share": None}, "min_share is None; allowed: a share"),
        (flow_path(), {"scale": "log"}, "scale='log' is no option for a FlowPath"),
        (verification(), {"scale": "sqrt"}, "scale is 'sqrt'; allowed"),
        (verification(), {"top": "all"}, "top is 'all'; allowed: a whole number from 1"),
        ({}, {}, "got a dict; only a result of tl_scopes.circuits"),
    ],
)
def test_wrong_options_are_refused(result, options, message):
    with pytest.raises(RenderError, match=re.escape(message)):
        render.circuit(result, **options)


@pytest.mark.parametrize(
    ("make", "field"),
    [(components, "total"), (components, "total_vectors"), (head_paths, "norms"), (head_paths, "outside_norms"),
     (flow, "signed"), (flow, "scores"), (flow_path, "edges"), (verification, "measured")],
)  # fmt: skip
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(make, field, bad):
    result = make()
    values = getattr(result, field).clone()
    values.view(-1)[3] = bad
    with pytest.raises(RenderError, match=f"{field} of this .* holds NaN or infinite numbers"):
        render.circuit(dataclasses.replace(result, **{field: values}))


@pytest.mark.wrong_types
def test_results_without_content_are_refused():
    empty = dataclasses.replace(flow(), str_tokens=(), tokens=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(RenderError, match="nothing to draw"):
        render.circuit(empty)
    with pytest.raises(RenderError, match="holds nothing in norms"):
        render.circuit(dataclasses.replace(head_paths(), norms=torch.zeros(0, 4, 16)))
    with pytest.raises(RenderError, match="only a Flow or HeadPaths"):
        render.attention(components())


# --- pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [flow(HOSTILE), head_paths(18, 4, HOSTILE)])
def test_pages_hold_tokens_as_text_and_refer_to_nothing_outside(result, tmp_path):
    path = tmp_path / "page.html"
    page = result.to_html(path)
    assert path.read_text(encoding="utf-8") == page
    assert page.count('"use strict";var CircuitsVis=') == 1 and page.count("</script>") == 1
    assert "default-src 'none'" in page and "sourceMappingURL" not in page and "unpkg" not in page
    own = page[: page.index('"use strict"')] + page[page.rindex("CircuitsVis.render") :]
    assert "http" not in own.replace('http-equiv="Content-Security-Policy"', "").replace(
        "src=http", ""
    )
    assert not re.search(r"<(img|script) src=http|onerror=alert\(1\)>", own)
    assert "$x^2" in own and "日本語" in own


def test_page_of_a_flow_carries_its_shares():
    result = flow()
    page = render.attention(result)
    call = page[page.rindex("CircuitsVis.render(") :]
    props = json.loads(call[call.index("{") : call.rindex("}") + 1])
    assert props["attentionHeadNames"] == ["share", "signed", "norm"]
    shown = np.array(props["attention"])
    assert shown[0] == pytest.approx(result.share.numpy(), rel=1e-3, abs=1e-9)
    whole = result.scores.abs().numpy()
    assert shown[1] == pytest.approx((result.signed.numpy() / whole), rel=1e-3, abs=1e-9)
    assert shown[2][:, 1:].max() == 1
    assert props["tokens"] == [visible(token) for token in TEXT]
    assert 'alt="Scores: one row a position, one column a token"' in page


def test_page_of_head_paths_has_a_series_for_each_top_head():
    result = head_paths(18, 4)
    page = render.attention(result)
    names = re.search(r'"labels":\["(.*?)"\]', page).group(1).split('","')
    assert set(names) == {label for label, _ in result.top(24)}
    assert "Point at a head to see it" in page and "one scale for every head" in page
    assert 'alt="Scores: one row a head, one column a token"' in page


def test_notebook_outputs_do_not_collide():
    first, second = flow()._repr_html_(), flow().show().data
    ids = [re.search(r'<section class="tls" id="([^"]+)"', x).group(1) for x in (first, second)]
    assert ids[0] != ids[1] and "<html" not in first
    assert f'CircuitsVis.render("{ids[0]}-tokens"' in first


PROBE = """<script type="module">
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
await wait(1200);
const pixels = (canvas) => {
  const n = TOKENS, context = canvas.getContext("2d");
  const at = (i, size) => Math.floor(((i + 0.5) / n) * size);
  return [...Array(n).keys()].map((q) => [...Array(n).keys()].map((t) =>
    [...context.getImageData(at(t, canvas.width), at(q, canvas.height), 1, 1).data]));
};
const probe = { title: document.title, outputs: [] };
for (const root of document.querySelectorAll(".tls")) {
  const mount = root.querySelector(".tls-flow");
  const charts = [...mount.querySelectorAll("canvas")];
  const seen = { charts: charts.map(pixels), sizes: charts.map((c) => c.getBoundingClientRect().width) };
  seen.names = [...mount.querySelectorAll("h4")].map((e) => e.textContent);
  seen.tags = [...new Set([...mount.querySelectorAll("*")].map((e) => e.tagName))].sort();
  seen.wide = document.documentElement.scrollWidth > innerWidth;
  seen.legend = [...root.querySelectorAll(".tls-ticks span")].map((e) => e.textContent);
  probe.outputs.push(seen);
}
probe.seen = window.seen;
const entries = performance.getEntriesByType("resource").map((e) => e.name);
probe.fetched = entries.filter((name) => !name.startsWith("data:"));
const out = document.body.appendChild(document.createElement("pre"));
out.id = "probe";
out.textContent = JSON.stringify(probe);
</script>"""
needs_browser = pytest.mark.skipif(browser.BROWSER is None, reason="needs chromium on the PATH")


@needs_browser
def test_flows_in_a_browser(tmp_path, monkeypatch):
    result = flow(HOSTILE)
    monkeypatch.setattr(browser, "PROBE", PROBE.replace("TOKENS", str(len(HOSTILE))))
    page = render.attention(result) + result._repr_html_()
    probe = browser.visit(page.replace("</body>\n</html>\n", "") + "</body>", tmp_path)
    assert probe["seen"] == [] and probe["fetched"] == [] and probe["title"] != "pwned"
    assert len(probe["outputs"]) == 2
    for seen in probe["outputs"]:
        assert seen["names"] == ["share", "signed", "norm"] and not seen["wide"]
        assert set(seen["tags"]) <= {"DIV", "CANVAS", "H2", "H3", "H4"}
        assert seen["sizes"][-1] > 500 and min(seen["sizes"]) > 90
        assert seen["legend"] == ["-1", "-0.5", "0", "0.5", "1"]
        shares = np.array(seen["charts"][0])[..., :3]
        wanted = np.array([[colour(float(x)) for x in row] for row in result.share])
        assert np.abs(shares - wanted).max() <= 3


@needs_browser
def test_head_paths_in_a_browser(tmp_path):
    result = head_paths(18, 4, browser.TOKENS)
    probe = browser.visit(render.attention(result), tmp_path)
    browser.check_tokens(probe)
    first, second = probe["outputs"][0]["first"], probe["outputs"][0]["second"]
    assert set(first["pills"]) == {label for label, _ in result.top(24)}
    strongest = max(result.top(24), key=lambda head: float(result.norms[grid(head[0])][1:].sum()))[
        0
    ]
    assert first["tip"].split("\n")[-1] == f"at {strongest}"
    rows = [result.norms[grid(name)] for name in (strongest, first["pills"][1])]
    limit = max(float(result.norms[grid(name)][1:].max()) for name in first["pills"])
    for seen, row in ((first, rows[0]), (second, rows[1])):
        assert all(
            browser.same_colour(css, float(x) / limit)
            for css, x in zip(seen["colours"][1:], row[1:])
        )


def grid(label):
    return tuple(int(n) for n in label[1:].split("H"))
