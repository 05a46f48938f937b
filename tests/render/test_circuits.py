"""Pictures of circuits, kind by kind: grids, maps, matrices, bands, predicted against measured."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch

from support.circuit_drawings import (
    HOSTILE,
    TEXT,
    bars,
    components,
    drawn,
    flow,
    flow_path,
    head_paths,
    verification,
)
from support.pictures import labels, said, saved
from tl_scopes import render
from tl_scopes.errors import RenderError
from tl_scopes.render.figures.flow_path import _Plan
from tl_scopes.render.tokens import visible
from tl_scopes.results.circuits import Agreement

# --- heads and other components -------------------------------------------------------------


def test_head_grid_shows_summed_effects_and_mlps_beside_them():
    result = components(18, 4)
    figure = saved(render.circuit(result))
    grid = result.head_grid().numpy()
    limit = np.abs(grid).max()
    assert drawn(figure) == pytest.approx(grid / limit, abs=1e-6)
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    assert labels(figure.axes[0].yaxis) == [str(i) for i in range(18)]
    assert labels(figure.axes[0].xaxis) == ["0", "1", "2", "3"]
    rows = [i for i, kind in enumerate(result.kinds) if kind == "mlp"]
    assert len(bars(figure.axes[1])) == 18 and figure.axes[1].get_xlabel() == "MLP"
    shown = [float(x) for x in bars(figure.axes[1])]
    assert shown == pytest.approx(result.summed()[rows].tolist(), rel=0.01)
    words = said(figure)
    for part in ("Heads that move the logit of the next token “·Paris”", "total effects", "against zero",
                 "semantic(target=' Paris')", "read at 15 “·as”", "16 tokens", "biases", "embed"):  # fmt: skip
        assert part in words, part
    assert figure.axes[-1].get_ylabel() == "logit"


def test_squared_effects_have_one_side_and_add_up_by_vector():
    result = components(3, 4, squared=True)
    figure = saved(render.circuit(result, what="direct"))
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    grid = result.head_grid("direct").numpy()
    assert drawn(figure) == pytest.approx(grid / grid.max(), abs=1e-6)
    rows = [i for i, kind in enumerate(result.kinds) if kind == "bias"]
    together = result.direct_vectors[:, rows].sum((1, 2)).square() @ result.weights
    found = re.search(r"biases ([\d.e-]+)", said(figure)).group(1)
    assert float(found) == pytest.approx(float(together), rel=0.01)
    assert figure.axes[-1].get_ylabel() == "nats"


def test_sensitivity_is_the_root_of_the_sum_of_squares():
    result = components(3, 4)
    grid = result.heads("sensitivity").square().sum(-1).sqrt().numpy()
    figure = saved(render.circuit(result, what="sensitivity"))
    assert drawn(figure) == pytest.approx(grid / grid.max(), abs=1e-6)
    assert figure.axes[-1].get_ylabel() == "logit per unit of residual"
    squared = components(3, 4, squared=True)
    grid = squared.heads("sensitivity").sum(-1).numpy()
    figure = render.circuit(squared, what="sensitivity")
    assert drawn(figure) == pytest.approx(grid / grid.max(), abs=1e-6)


def test_component_map_has_the_top_in_the_order_of_the_forward_pass():
    result = components(18, 4)
    figure = saved(render.circuit(result, over="tokens", top=7))
    names = labels(figure.axes[0].yaxis)
    assert set(names) == {label for label, _ in result.top(7)}
    assert names == sorted(names, key=result.labels.index)
    rows = [result.labels.index(name) for name in names]
    values = result.total[rows].numpy()
    limit = np.abs(values[:, 1:]).max()
    assert np.isnan(drawn(figure)[:, 0]).all()
    assert drawn(figure)[:, 1:] == pytest.approx(values[:, 1:] / limit, abs=1e-6)
    assert "the 7 of 109 components with the largest sums" in said(figure)
    assert "BOS “<bos>” not coloured" in said(figure)
    whole = render.circuit(result, over="tokens", top=7, include_bos=True)
    assert np.isfinite(drawn(whole)).all() and "BOS" not in said(whole)
    assert labels(figure.axes[0].xaxis)[1:3] == ["The", "·capital"]
    read = figure.axes[0].get_xticklabels()[-1]
    assert read.get_color() == "#c2410c" and read.get_fontweight() == "bold"


@pytest.mark.parametrize("made", [components(by="mlp"), components(2, by="mlp", neurons=300)])
def test_without_heads_there_is_a_map(made):
    figure = saved(render.circuit(made))
    assert len(labels(figure.axes[0].yaxis)) == min(24, len(made.labels))
    with pytest.raises(RenderError, match="has no heads, only"):
        render.circuit(made, over="heads")


def test_logarithmic_colours_span_decades():
    figure = saved(render.circuit(components(3, 4, squared=True), scale="log"))
    assert "logarithmic" in figure.axes[-1].get_ylabel()
    assert len(labels(figure.axes[-1].yaxis)) >= 3


def test_head_paths_show_norms_and_what_passes_outside():
    result = head_paths(18, 4)
    figure = saved(render.circuit(result))
    grid = result.norms.sum(-1).numpy()
    assert drawn(figure) == pytest.approx(grid / grid.max(), abs=1e-6)
    outside = result.outside_norms.sum(-1).tolist()
    assert [float(x) for x in bars(figure.axes[1])] == pytest.approx(outside, rel=0.01)
    assert figure.axes[1].get_xlabel() == "outside heads"
    one = saved(render.circuit(result, source=3, values="signed"))
    grid = result.signed[..., 3].numpy()
    assert drawn(one) == pytest.approx(grid / np.abs(grid).max(), abs=1e-6)
    assert "from 3 “·of” alone" in said(one)


def test_head_paths_by_token_name_the_top_heads():
    result = head_paths(18, 4)
    figure = saved(render.circuit(result, over="tokens", top=5))
    assert set(labels(figure.axes[0].yaxis)) == {label for label, _ in result.top(5)}
    assert "the 5 of 72 heads" in said(figure)


def test_value_and_pattern_paths_apart():
    result = head_paths(3, 4, split=True)
    for part, values in (("value", result.value_norms), ("pattern", result.pattern_norms)):
        figure = saved(render.circuit(result, part=part))
        grid = values.sum(-1).numpy()
        assert drawn(figure) == pytest.approx(grid / grid.max(), abs=1e-6)
        assert len(figure.axes) == 2  # what passes outside is not split
    with pytest.raises(RenderError, match="does not tell value and pattern paths apart"):
        render.circuit(head_paths(), part="value")


# --- flows ----------------------------------------------------------------------------------


def test_flow_is_a_matrix_with_scores_above():
    result = flow()
    figure = saved(render.circuit(result))
    top, ax = figure.axes[:2]
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    share = result.share.numpy()
    reachable = np.tril(np.ones_like(share, dtype=bool))
    reachable[:, 0] = False
    assert np.isfinite(shown).tolist() == reachable.tolist()
    assert shown[reachable] == pytest.approx(share[reachable] / share[reachable].max(), abs=1e-6)
    assert labels(ax.xaxis) == labels(ax.yaxis) == [visible(token) for token in TEXT]
    assert ax.get_xlabel() == "source token at embed"
    assert ax.get_ylabel() == "through position at resid(9)"
    heights = [patch.get_height() for patch in top.patches]
    scores = result.scores.numpy()
    assert heights[1:] == pytest.approx(scores[1:] / scores[1:].max(), abs=1e-6)
    assert "BOS “<bos>” not coloured" in said(figure)
    signed = saved(render.circuit(result, values="signed", include_bos=True)).axes[1].images[0]
    assert signed.get_clim() == (-1, 1)
    values = result.signed.numpy()
    shown = np.asarray(signed.get_array())[-1]
    assert shown == pytest.approx(values[-1] / np.abs(values).max(), abs=1e-6)


def bands(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]


def width(band):
    points = band.get_path().vertices
    return points[7, 1] - points[0, 1]


def test_flow_path_draws_bands_as_wide_as_what_flows():
    result = flow_path(has_bos=False, negative=0.3)
    figure = saved(render.circuit(result, min_share=0.002))
    sizes = result.edges.abs()
    drawn = sizes >= 0.002 * sizes.sum((1, 2), keepdim=True)
    made = bands(figure)
    assert len(made) == int(drawn.sum())
    kept = sizes[drawn].sort().values.numpy()
    widths = np.sort([width(band) for band in made])
    assert widths[-5:] / widths[-1] == pytest.approx(kept[-5:] / kept[-1], rel=1e-4)
    missing = float(1 - sizes[drawn].sum() / sizes.sum())
    missed = f"bands under 0.2% of their step, {100 * missing:.1f}% of all flow, not drawn"
    assert missed in said(figure)
    colours = {tuple(band.get_facecolor()[:3]) for band in made}
    assert colours == {(0, 0, 1), (1, 0, 0)} and "red takes away" in said(figure)
    texts = bars(figure.axes[0])
    assert texts[:5] == list(result.sites)
    assert "100.0%  read" in texts and "·France" in texts
    everything = render.circuit(result, min_share=0.0)
    assert len(bands(everything)) == int((sizes > 0).sum()) and "not drawn" not in said(everything)


def test_bos_is_grey_and_sets_no_scale():
    result = flow_path()
    result = dataclasses.replace(result, edges=result.edges.clone())
    result.edges[:, :, 0] *= 100
    plain = saved(render.circuit(result, include_bos=True, min_share=0))
    pale = saved(render.circuit(result, min_share=0))
    edges, inside = result.edges.double().numpy(), np.arange(16) > 0
    plans = [_Plan.make(edges, seen, 0.0) for seen in (inside | True, inside)]
    widest = [max(band.width for band in plan.bands if band.source > 0) for plan in plans]
    assert widest[1] > 5 * widest[0]
    heights = [plan.through[:, 0].max() / plan.through[:, 1:].max() for plan in plans]
    assert heights[0] > 2 and heights[1] < 1.01
    grey = [b for b in bands(pale) if to_rgb(b.get_facecolor())[2] not in (0.0, 1.0)]
    assert len(grey) == int((result.edges[:, :, 0] != 0).sum())
    assert "grey, not to scale" in said(pale) and "grey" not in said(plain)


def test_tokens_after_the_read_position_are_not_drawn():
    for make in (components, head_paths, flow):
        for options in ({"over": "tokens"}, {}):
            if make is flow and options:
                continue
            figure = saved(render.circuit(make(position=9), **options))
            assert "16 tokens, the 6 after the read position not drawn" in said(figure)
    assert len(labels(render.circuit(flow(position=9)).axes[1].xaxis)) == 10
    assert "·which" not in bars(render.circuit(flow_path(position=9)).axes[0])


# --- verification ---------------------------------------------------------------------------


def test_verification_shows_agreement_and_where_first_order_ends():
    result = verification()
    figure = saved(render.circuit(result, top=3))
    left, right = figure.axes
    points = np.concatenate([np.asarray(c.get_offsets()) for c in left.collections])
    limit = float(torch.stack([result.predicted, result.measured]).abs().max())
    order = np.lexsort(points.T)
    expected = np.column_stack([result.predicted, result.measured]) / limit
    assert points[order] == pytest.approx(expected[np.lexsort(expected.T)], abs=1e-6)
    assert [t.get_text() for t in left.get_legend().get_texts()] == [
        "equal", "slope 0.77", "random (20)", "top (20)",
    ]  # fmt: skip
    largest = torch.maximum(result.predicted.abs(), result.measured.abs()).argsort(descending=True)
    assert bars(left) == [result.labels[i] for i in largest[:3]]
    curve = right.lines[-1].get_xydata()
    assert curve == pytest.approx(np.column_stack([result.steps, result.step_errors]))
    words = said(figure)
    for part in ("0.91 (95%: 0.84 to 0.95)", "0.88 (95%: 0.80 to 0.93)", "top-5 overlap 80.0%",
                 "zero ablation of 40 heads"):  # fmt: skip
        assert part in words, part


def test_verification_of_tokens_without_steps():
    never = Agreement(float("nan"), float("nan"), float("nan"))
    result = verification(by="token", rows=12, steps=False, tokens=HOSTILE)
    result = dataclasses.replace(result, rank_agreement=never)
    for scale in ("linear", "log"):
        figure = saved(render.circuit(result, scale=scale))
        assert len(figure.axes) == 1 and "measured sizes undefined" in said(figure)


def test_exact_steps_need_no_logarithm():
    result = dataclasses.replace(verification(), step_errors=(0.0,) * 7)
    assert bars(saved(render.circuit(result)).axes[1]) == ["no error at any step"]
