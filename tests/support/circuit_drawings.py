"""Results of circuits made up for drawing, of any size and content, and what figures say."""

from __future__ import annotations

import numpy as np
import torch

from support.infos import info
from tl_scopes.results.circuits import Agreement, Components, Verification
from tl_scopes.results.flows import Flow, FlowPath, HeadPaths
from tl_scopes.results.records import Candidate, Provenance, Token

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
        "scope": info("fisher", {"rank": 3}) if squared else info("semantic", {"target": " Paris"}),
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


def drawn(figure):
    """The colour values of the map, NaN where there is no colour."""
    return np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)


def bars(ax):
    return [text.get_text() for text in ax.texts]
