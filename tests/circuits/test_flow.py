"""Flow over positions and layers: conserved exactly, and equal to products of reference Jacobians."""

from __future__ import annotations

import functools

import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.exact import close, exactly
from support.reference import POSITION, TOKENS, Reference
from tl_scopes.circuits import flow, flow_path
from tl_scopes.errors import SiteError, UnsupportedModelError

A = 7
SCOPES = {
    "semantic": ts.SemanticScope(A),
    "fisher": ts.FisherScope(rank=2),
    "sampled": ts.FisherScope(samples=3),
}
# One of each class and kind of norm, with learned and rotary positions, windows and parallel blocks.
SOME = zoo.known("hooked/parallel", "hooked/gemma2", "bridge/gpt2", "bridge/gemma3")
BACKWARD_ONLY = {"bridge/bloom"}  # its GELU has no forward-mode derivative
FORWARD = [n for n in zoo.kinds() if n not in BACKWARD_ONLY]
READ = range(POSITION + 1)
# What several vectors add is the same on every architecture.
OTHER_SCOPES = [(name, scope) for name in SOME for scope in SCOPES if scope != "semantic"]


@functools.cache
def to_layer(name: str, layer: int, source) -> torch.Tensor:
    """d(stream at layer, q) / d(stream at source, t), [q, t, d_out, d_in], by plain autograd."""
    n, d = len(TOKENS), 16
    out = torch.zeros(n, n, d, d, dtype=torch.float64)
    for q in READ:
        jacobian = Reference(name, TOKENS, q).jacobian(source, of=layer)
        out[q] = jacobian.transpose(0, 1)
    return out


@functools.cache
def to_read(name: str, layer: int) -> torch.Tensor:
    """The target's gradient at the layer, [pos, d]."""
    J = Reference(name).jacobian(layer)
    return torch.einsum("o,opd->pd", zoo.shared(name).W_U[:, A].detach(), J)


def call(function, name, *args, scope="semantic", **options):
    return exactly(function, name, SCOPES[scope], *args, **options)


@pytest.mark.parametrize(
    ("name", "scope"), [*((name, "semantic") for name in zoo.kinds()), *OTHER_SCOPES]
)
def test_flow_is_conserved(name, scope):
    found = call(flow, name, 2, scope=scope)
    close(found.scores, call(ts.attribute, name, scope=scope).scores[0])
    close(found.signed.sum(0), found.scores)
    assert (found.norms.sum(0) >= found.scores * (1 - 1e-9)).all() or found.squared
    shares = found.share.sum(0)[: POSITION + 1]
    torch.testing.assert_close(shares, torch.ones_like(shares))
    assert not bool(torch.triu(found.norms, 1).any()), "a token flows through earlier positions"


@pytest.mark.parametrize("source", ["embed", 1])
@pytest.mark.parametrize("name", SOME)
def test_parts_are_products_of_jacobians(name, source):
    found = call(flow, name, 2, site=source)
    parts = torch.einsum("qo,qtoi->qti", to_read(name, 2), to_layer(name, 2, source))
    whole = parts.sum(0)
    close(found.norms, parts.norm(dim=-1))
    along = torch.einsum("qti,ti->qt", parts, whole)
    close(found.signed, along / whole.norm(dim=-1).clamp_min(1e-300))


@pytest.mark.parametrize("name", SOME)
def test_at_the_last_layer_all_passes_the_read_position(name):
    found = call(flow, name, 3)
    close(found.norms[POSITION], found.scores)
    assert not found.norms[:POSITION].any()


@pytest.mark.parametrize("chunk_size", [1, 5])
def test_chunks_change_nothing(chunk_size):
    name = SOME[-1]
    for scope in SCOPES:
        one = call(flow, name, 2, scope=scope, chunk_size=chunk_size)
        close(one.norms, call(flow, name, 2, scope=scope).norms)


@pytest.mark.parametrize(
    ("name", "scope"), [*((name, "semantic") for name in FORWARD), *OTHER_SCOPES]
)
def test_a_path_is_conserved_at_every_node(name, scope):
    path = call(flow_path, name, [1, 2, 3], scope=scope)
    close(path.edges[0].sum(0), path.nodes[0])
    for i in range(3):
        close(path.edges[i].sum(1), path.nodes[i + 1])
        if i:
            close(path.edges[i].sum(0), path.nodes[i])
        close(path.nodes[i + 1].sum(), path.nodes[0].sum())
    close(path.nodes[0], call(flow, name, 2, scope=scope).scores)
    close(call(flow_path, name, [2], scope=scope).edges[0], call(flow, name, 2, scope=scope).signed)


@pytest.mark.parametrize("source", [None, 2])
@pytest.mark.parametrize("name", SOME)
def test_edges_are_products_of_jacobians(name, source):
    path = call(flow_path, name, [1, 2], source=source)
    first, second = to_layer(name, 1, "embed"), to_layer(name, 2, 1)
    g = to_read(name, 2)
    whole = torch.einsum("qo,qtoi->ti", g, to_layer(name, 2, "embed"))
    direction = whole / whole.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    if source is not None:
        direction = direction * (torch.arange(len(TOKENS)) == source)[:, None]
    moved = torch.einsum("qtoi,ti->qto", first, direction)
    back = torch.einsum("qo,qtoi->qti", g, second)
    close(path.edges[1], torch.einsum("qti,ti->qt", back, moved.sum(1)))
    close(path.edges[0], torch.einsum("qi,qti->qt", back.sum(0), moved))


@pytest.mark.parametrize(
    ("function", "layer", "options"),
    [(flow, 2, {"site": 2}), (flow_path, [2, 1], {}), (flow_path, [], {}),
     (flow, "blocks.1.attn.hook_z", {}), (flow, 9, {})],
)  # fmt: skip
def test_layers_out_of_order_are_refused(function, layer, options):
    with pytest.raises(SiteError):
        function(zoo.shared(SOME[-1]), TOKENS, SCOPES["semantic"], layer, **options)


def test_a_layer_after_what_is_read_is_refused():
    scope = ts.DirectionScope(torch.ones(16), site=1)
    with pytest.raises(SiteError, match="before"):
        flow(zoo.shared(SOME[-1]), TOKENS, scope, 2)


@pytest.mark.parametrize("name", sorted(BACKWARD_ONLY & {*zoo.names()}))
def test_no_forward_mode_is_refused_by_name(name):
    with pytest.raises(UnsupportedModelError, match="use flow"):
        call(flow_path, name, [1, 2])
