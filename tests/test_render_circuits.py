"""Pictures of circuits: what they hold, hostile tokens, options and errors. No model."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
import test_render_browser as browser
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch

from tl_scopes import render
from tl_scopes.circuit_result import Agreement, Components, Verification
from tl_scopes.errors import RenderError
from tl_scopes.flow_result import Flow, FlowPath, HeadPaths
from tl_scopes.render.bands import _Plan
from tl_scopes.render.scale import colour
from tl_scopes.render.tokens import visible
from tl_scopes.result import Candidate, Provenance, ScopeInfo, Token

TEXT = (
    "<bos>", "The", " capital", " of", " France", " is", " the", " city", " of", " light", ",",
    " which", " every", " one", " knows", " as",
)  # fmt: skip
HOSTILE = (
    "<bos>", "<script>document.title='pwned'</script>", "$x^2", "\n\n", "日本語", "\\frac{", "\ud83d",
    "\u202eevil", "", "</script><b>", "<img src=http://tracker.test/x.png onerror=alert(1)>", "[red]",
    "\x1b[31m", "👍", "שלום", " x" * 40,
)  # fmt: skip


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def common(tokens=TEXT, squared=False, **changes):
    """The fields that every circuit result has."""
    tokens = tuple(tokens)
    return {
        "tokens": torch.arange(len(tokens)),
        "str_tokens": tokens,
        "has_bos": True,
        "position": len(tokens) - 1,
        "scope": ScopeInfo("fisher", {"rank": 3}) if squared else ScopeInfo("semantic", {"target": " Paris"}),
        "target": None if squared else Token(7, " Paris"),
        "units": "nats per unit^2 of residual" if squared else "logit per unit of residual",
        "squared": squared,
        "frozen": (),
        "prediction": (Candidate(7, " Paris", 0.6), Candidate(8, "\n", 0.25), Candidate(9, "<b>", 1e-5)),
        "provenance": Provenance("tiny", "HookedTransformer", "float32", "cpu", "raw", "float32", {}),
        **changes,
    }  # fmt: skip


def heavy(*shape, seed=0, signed=True):
    """Numbers as circuits have them: a few large, most small."""
    x = torch.randn(*shape, generator=random(seed))
    return (x**3 if signed else x.abs() ** 3) * 0.1


def components(
    layers=3, heads=4, tokens=TEXT, by="head", squared=False, neurons=0, seed=0, **changes
):
    """What `circuits.components` returns, with random numbers."""
    n_vec = 3 if squared else 1
    labels, kinds, layer, index = ["embed"], ["embed"], [-1], [-1]
    for i in range(layers):
        if by == "head":
            labels += [f"L{i}H{h}" for h in range(heads)] + [f"{i}_b_O"]
            kinds += ["head"] * heads + ["bias"]
            layer += [i] * (heads + 1)
            index += [*range(heads), -1]
        else:
            labels, kinds = [*labels, f"{i}_attn_out"], [*kinds, "attn"]
            layer, index = [*layer, i], [*index, -1]
        if neurons:
            labels += [f"L{i}N{j}" for j in range(neurons)]
            kinds += ["neuron"] * neurons
            layer += [i] * neurons
            index += range(neurons)
        else:
            labels, kinds = [*labels, f"{i}_mlp_out"], [*kinds, "mlp"]
            layer, index = [*layer, i], [*index, -1]
    n = len(tokens)
    total, direct = (heavy(n_vec, len(labels), n, seed=seed + s) for s in (1, 2))
    weights = torch.tensor([1.0, 0.3, 0.1][:n_vec])
    both = common(tokens, squared, **changes)
    for x in (total, direct):
        x[..., both["position"] + 1 :] = 0
        x[..., 0] *= 4

    def combined(x):
        return torch.einsum("v,vcp->cp", weights, x**2 if squared else x)

    return Components(
        **both, labels=tuple(labels), kinds=tuple(kinds), layers=tuple(layer), indices=tuple(index),
        baseline="zero", total=combined(total), direct=combined(direct),
        sensitivity=total.abs().sum(0) + 0.01, total_vectors=total, direct_vectors=direct,
        weights=weights, whole=torch.ones(n_vec),
    )  # fmt: skip


def head_paths(layers=3, heads=4, tokens=TEXT, split=False, squared=False, seed=0, **changes):
    both = common(tokens, squared, **changes)
    shape = (layers, heads, len(tokens))
    norms, outside = (
        heavy(*shape, seed=seed, signed=False),
        heavy(layers, len(tokens), seed=9, signed=False) + 1,
    )
    norms[..., 0] *= 5
    for x in (norms, outside):
        x[..., both["position"] + 1 :] = 0
    sign = torch.rand(*shape, generator=random(3)) * 2 - 0.7
    parts = {}
    if split:
        parts = {"value_norms": norms * 0.7, "value_signed": norms * sign * 0.5,
                 "pattern_norms": norms * 0.5, "pattern_signed": norms * sign * 0.3}  # fmt: skip
    return HeadPaths(
        **both, site="embed", read_only=False, norms=norms, signed=norms * sign, outside_norms=outside,
        outside_signed=outside * 0.9, scores=outside.sum(0), **parts,
    )  # fmt: skip


def flow(tokens=TEXT, squared=False, seed=0, **changes):
    both = common(tokens, squared, **changes)
    n, p = len(tokens), both["position"]
    norms = heavy(n, n, seed=seed, signed=False) + torch.eye(n) * 0.4
    norms[p] += torch.rand(n, generator=random(5)) * 0.5
    norms = norms.tril()
    norms[p + 1 :] = 0
    norms[:, 0] *= 4
    signed = norms * (torch.rand(n, n, generator=random(4)) * 1.4 - 0.4)
    return Flow(
        **both,
        site="embed",
        layer="resid(9)",
        norms=norms,
        signed=signed,
        scores=signed.sum(0).abs(),
    )


def flow_path(steps=4, tokens=TEXT, squared=False, negative=0.1, seed=0, **changes):
    """Conserved: what enters a node leaves it, and all ends at the read position."""
    both = common(tokens, squared, **changes)
    n, p = len(tokens), both["position"]
    g = random(seed)
    nodes = [torch.rand(n, generator=g) ** 3]
    nodes[0][0] = 3
    nodes[0][p + 1 :] = 0
    edges = []
    for i in range(steps):
        kernel = torch.rand(n, n, generator=g) ** 12 + 2.0 * torch.eye(n) * (steps - i)
        kernel[p] += 0.6 * (i + 1)
        kernel = kernel.tril()
        kernel[p + 1 :] = 0
        against = torch.rand(n, n, generator=g) < negative
        kernel *= torch.where(against & ~torch.eye(n, dtype=torch.bool), -0.5, 1.0)
        if i == steps - 1:
            kernel = torch.zeros(n, n)
            kernel[p] = 1
        edges.append(kernel / kernel.sum(0, keepdim=True).abs().clamp_min(0.1) * nodes[-1])
        nodes.append(edges[-1].sum(1))
    sites = ("embed", *(f"resid({3 * i + 3})" for i in range(steps)))
    nodes[0] = edges[0].sum(0)
    return FlowPath(**both, sites=sites, edges=torch.stack(edges), nodes=torch.stack(nodes))


def verification(rows=40, steps=True, by="head", squared=False, seed=0, tokens=TEXT, **changes):
    predicted = heavy(rows, seed=seed)
    measured = predicted * 0.8 + 0.02 * torch.randn(rows, generator=random(2)) - predicted**2 * 0.3
    order = predicted.abs().argsort(descending=True).tolist()
    top = set(order[: rows // 2])
    at = tuple(10 ** (-3 + 3 * i / 6) for i in range(7)) if steps else ()
    labels = [
        f"L{i // 8}H{i % 8}" if by == "head" else f"{i} {tokens[i % len(tokens)]}"
        for i in range(rows)
    ]
    return Verification(
        **common(tokens, squared, **changes), by=by, intervention="zero", labels=tuple(labels),
        chosen=tuple("top" if i in top else "random" for i in range(rows)), scores=predicted.abs(),
        predicted=predicted, measured=measured, rank_agreement=Agreement(0.91, 0.84, 0.95),
        prediction_agreement=Agreement(0.88, 0.8, 0.93), k=5, top_overlap=0.8, slope=0.77, steps=at,
        step_measured=torch.stack([predicted * s for s in at]) if steps else torch.zeros(0, rows),
        step_errors=tuple(0.35 * s**0.9 for s in at),
    )  # fmt: skip


MAKERS = [components, head_paths, flow, flow_path, verification]


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def drawn(figure):
    """The colour values of the map, NaN where there is no colour."""
    return np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)


def bars(ax):
    return [text.get_text() for text in ax.texts]


def words(figure):
    """Title, subtitle and notes in one line: they are wrapped."""
    said = [figure.get_suptitle(), figure.get_supxlabel()]
    return " ".join(" ".join(said).split())


def saved(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=30)
    return figure


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
    assert [float(x) for x in bars(figure.axes[1])] == pytest.approx(
        result.summed()[rows].tolist(), rel=0.01
    )
    said = words(figure)
    for part in ("Heads that move the logit of the next token “·Paris”", "total effects", "against zero",
                 "semantic(target=' Paris')", "read at 15 “·as”", "16 tokens", "biases", "embed"):  # fmt: skip
        assert part in said, part
    assert figure.axes[-1].get_ylabel() == "logit"


def test_squared_effects_have_one_side_and_add_up_by_vector():
    result = components(3, 4, squared=True)
    figure = saved(render.circuit(result, what="direct"))
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    grid = result.head_grid("direct").numpy()
    assert drawn(figure) == pytest.approx(grid / grid.max(), abs=1e-6)
    rows = [i for i, kind in enumerate(result.kinds) if kind == "bias"]
    together = result.direct_vectors[:, rows].sum((1, 2)).square() @ result.weights
    found = re.search(r"biases ([\d.e-]+)", words(figure)).group(1)
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
    assert "the 7 of 109 components with the largest sums" in words(figure)
    assert "BOS “<bos>” not coloured" in words(figure)
    whole = render.circuit(result, over="tokens", top=7, include_bos=True)
    assert np.isfinite(drawn(whole)).all() and "BOS" not in words(whole)
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
    assert "from 3 “·of” alone" in words(one)


def test_head_paths_by_token_name_the_top_heads():
    result = head_paths(18, 4)
    figure = saved(render.circuit(result, over="tokens", top=5))
    assert set(labels(figure.axes[0].yaxis)) == {label for label, _ in result.top(5)}
    assert "the 5 of 72 heads" in words(figure)


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
    assert "BOS “<bos>” not coloured" in words(figure)
    signed = saved(render.circuit(result, values="signed", include_bos=True)).axes[1].images[0]
    assert signed.get_clim() == (-1, 1)
    values = result.signed.numpy()
    assert np.asarray(signed.get_array())[-1] == pytest.approx(
        values[-1] / np.abs(values).max(), abs=1e-6
    )


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
    assert f"bands under 0.2% of their step, {100 * missing:.1f}% of all flow, not drawn" in words(
        figure
    )
    colours = {tuple(band.get_facecolor()[:3]) for band in made}
    assert colours == {(0, 0, 1), (1, 0, 0)} and "red takes away" in words(figure)
    texts = bars(figure.axes[0])
    assert texts[:5] == list(result.sites)
    assert "100.0%  read" in texts and "·France" in texts
    everything = render.circuit(result, min_share=0.0)
    assert len(bands(everything)) == int((sizes > 0).sum()) and "not drawn" not in words(everything)


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
    assert "grey, not to scale" in words(pale) and "grey" not in words(plain)


def test_tokens_after_the_read_position_are_not_drawn():
    for make in (components, head_paths, flow):
        for options in ({"over": "tokens"}, {}):
            if make is flow and options:
                continue
            figure = saved(render.circuit(make(position=9), **options))
            assert "16 tokens, the 6 after the read position not drawn" in words(figure)
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
    said = words(figure)
    for part in ("0.91 (95%: 0.84 to 0.95)", "0.88 (95%: 0.80 to 0.93)", "top-5 overlap 80.0%",
                 "zero ablation of 40 heads"):  # fmt: skip
        assert part in said, part


def test_verification_of_tokens_without_steps():
    never = Agreement(float("nan"), float("nan"), float("nan"))
    result = verification(by="token", rows=12, steps=False, tokens=HOSTILE)
    result = dataclasses.replace(result, rank_agreement=never)
    for scale in ("linear", "log"):
        figure = saved(render.circuit(result, scale=scale))
        assert len(figure.axes) == 1 and "measured sizes undefined" in words(figure)


def test_exact_steps_need_no_logarithm():
    result = dataclasses.replace(verification(), step_errors=(0.0,) * 7)
    assert bars(saved(render.circuit(result)).axes[1]) == ["no error at any step"]


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
        (components(), {"what": "effect"}, "what='effect' is unknown; it is 'total' or 'direct'"),
        (components(), {"over": "layers"}, "over='layers' is unknown"),
        (components(), {"top": 0, "over": "tokens"}, "top=0 shows nothing"),
        (
            components(),
            {"values": "norms"},
            "values='norms' is no option for a Components; it takes what",
        ),
        (head_paths(), {"source": 99}, "source=99 is not a token that can matter"),
        (head_paths(position=4), {"source": 5}, "from 0 to the read position, 4"),
        (head_paths(), {"source": 1, "over": "tokens"}, "pass one of the two"),
        (head_paths(), {"part": "keys"}, "part='keys' is unknown"),
        (flow(), {"values": "signs"}, "values='signs' is unknown"),
        (flow(), {"include_bos": 1}, "include_bos=1 is unknown"),
        (flow_path(), {"min_share": 1.0}, "min_share=1.0 is not a share"),
        (flow_path(), {"min_share": None}, "min_share=None is not a share"),
        (flow_path(), {"scale": "log"}, "scale='log' is no option for a FlowPath"),
        (verification(), {"scale": "sqrt"}, "scale='sqrt' is unknown"),
        (verification(), {"top": "all"}, "top='all' shows nothing"),
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


def test_page_of_head_paths_has_a_series_for_each_top_head():
    result = head_paths(18, 4)
    page = render.attention(result)
    names = re.search(r'"labels":\["(.*?)"\]', page).group(1).split('","')
    assert set(names) == {label for label, _ in result.top(24)}
    assert "Point at a head to see it" in page and "one scale for every head" in page


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
