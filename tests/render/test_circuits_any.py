"""Pictures and pages of any circuit: hostile tokens and numbers, options, offline pages, a browser."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from support import browser, chosen
from support.circuit_drawings import (
    HOSTILE,
    MAKERS,
    TEXT,
    components,
    flow,
    flow_path,
    head_paths,
    verification,
)
from support.pictures import labels, saved, stand_apart
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
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        if floats and field.name != "weights":
            changed[field.name] = value / (value.abs().max() or 1) * factor
    return dataclasses.replace(result, **changed)


@pytest.mark.parametrize(("make", "options"), CASES)
def test_any_tokens_can_be_drawn(make, options):
    for made in (
        make(tokens=HOSTILE),
        make(tokens=("<bos>",)),
        make(tokens=("a", "b"), has_bos=False, squared=True),
    ):
        saved(render.circuit(made, **options))


@pytest.mark.parametrize(
    ("case", "factor"), chosen.each(CASES, [0.0, 1e-38, -1e-44, 3e36], times=2)
)
def test_any_numbers_can_be_drawn(case, factor):
    make, options = case
    saved(render.circuit(scaled(make(), factor), **options))


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
        stand_apart(figure, figure.axes[:2], slack=1.5)


def test_figures_belong_to_no_pyplot_state():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = components().plot(over="tokens")
    assert pyplot.get_fignums() == before
    assert figure._repr_png_().startswith(b"\x89PNG")


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


# --- pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [flow(HOSTILE), head_paths(18, 4, HOSTILE)])
def test_pages_hold_tokens_as_text_and_refer_to_nothing_outside(result, tmp_path):
    path = tmp_path / "page.html"
    page = result.to_html(path)
    assert path.read_text(encoding="utf-8") == page
    assert page.count('"use strict";var CircuitsVis=') == 1 and page.count("</script>") == 1
    assert "default-src 'none'" in page and "sourceMappingURL" not in page and "unpkg" not in page
    own = page[: page.index('"use strict"')] + page[page.rindex("CircuitsVis.render") :]
    assert "http" not in re.sub('http-equiv="Content-Security-Policy"|src=http', "", own)
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


@pytest.mark.parametrize("make", [flow, head_paths])
def test_pages_show_what_is_predicted_whatever_row_they_begin_with(make):
    page = render.attention(make())
    before, _, _ = page.partition("Predicted next")
    assert before.count("<aside>") == 1 and 'class="tls-side" hidden' not in before


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


PROBE = """
await wait(1200);
const pixels = (canvas) => {
  const n = TOKENS, context = canvas.getContext("2d");
  const at = (i, size) => Math.floor(((i + 0.5) / n) * size);
  return [...Array(n).keys()].map((q) => [...Array(n).keys()].map((t) =>
    [...context.getImageData(at(t, canvas.width), at(q, canvas.height), 1, 1).data]));
};
probe.outputs = [...document.querySelectorAll(".tls")].map((root) => {
  const mount = root.querySelector(".tls-flow");
  const charts = [...mount.querySelectorAll("canvas")];
  const seen = { charts: charts.map(pixels), sizes: charts.map((c) => c.getBoundingClientRect().width) };
  seen.names = [...mount.querySelectorAll("h4")].map((e) => e.textContent);
  seen.tags = [...new Set([...mount.querySelectorAll("*")].map((e) => e.tagName))].sort();
  seen.wide = document.documentElement.scrollWidth > innerWidth;
  seen.legend = [...root.querySelectorAll(".tls-ticks span")].map((e) => e.textContent);
  return seen;
});""".replace("TOKENS", str(len(HOSTILE)))


@browser.needs_browser
def test_flows_in_a_browser(tmp_path):
    result = flow(HOSTILE)
    page = render.attention(result) + result._repr_html_()
    page = page.replace("</body>\n</html>\n", "") + "</body>"
    probe = browser.visit(page, tmp_path, probe=PROBE)
    browser.check_quiet(probe)
    assert len(probe["outputs"]) == 2
    for seen in probe["outputs"]:
        assert seen["names"] == ["share", "signed", "norm"] and not seen["wide"]
        assert set(seen["tags"]) <= {"DIV", "CANVAS", "H2", "H3", "H4"}
        assert seen["sizes"][-1] > 500 and min(seen["sizes"]) > 90
        assert seen["legend"] == ["-1", "-0.5", "0", "0.5", "1"]
        shares = np.array(seen["charts"][0])[..., :3]
        wanted = np.array([[colour(float(x)) for x in row] for row in result.share])
        assert np.abs(shares - wanted).max() <= 3


@browser.needs_browser
def test_head_paths_in_a_browser(tmp_path):
    result = head_paths(18, 4, browser.TOKENS)
    probe = browser.visit(render.attention(result), tmp_path)
    browser.check_tokens(probe)
    first, second = probe["outputs"][0]["first"], probe["outputs"][0]["second"]
    assert set(first["pills"]) == {label for label, _ in result.top(24)}
    sizes = {name: float(result.norms[grid(name)][1:].sum()) for name, _ in result.top(24)}
    strongest = max(sizes, key=sizes.get)
    assert first["tip"].split("\n")[-1] == f"at {strongest}"
    rows = [result.norms[grid(name)] for name in (strongest, first["pills"][1])]
    limit = max(float(result.norms[grid(name)][1:].max()) for name in first["pills"])
    for seen, row in ((first, rows[0]), (second, rows[1])):
        shades = [x / limit for x in row.tolist()]
        assert all(map(browser.same_colour, seen["colours"][1:], shades[1:]))


def grid(label):
    return tuple(int(n) for n in label[1:].split("H"))
