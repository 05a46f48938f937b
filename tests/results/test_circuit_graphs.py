"""Circuits for other tools: networkx graphs, JSON, data frames."""

from __future__ import annotations

import json

import networkx
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.reference import POSITION, TOKENS
from tl_scopes.circuits import components, flow, flow_path, head_paths

NAME = zoo.names("", "rotary")[0]
SCOPE = ts.SemanticScope(7)


@pytest.fixture(scope="module")
def path():
    return flow_path(zoo.shared(NAME), TOKENS, SCOPE, [1, 2, 3], position=POSITION)


@pytest.fixture(scope="module")
def heads():
    return head_paths(zoo.shared(NAME), TOKENS, SCOPE, position=POSITION)


def test_a_path_is_a_graph_whose_nodes_keep_what_they_get(path):
    graph = path.to_networkx()
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.number_of_nodes() == 4 * (POSITION + 1)
    for (site, q), told in graph.nodes(data=True):
        assert told["token"] == path.str_tokens[q]
        into = sum(d["weight"] for *_, d in graph.in_edges((site, q), data=True))
        out = sum(d["weight"] for *_, d in graph.out_edges((site, q), data=True))
        if site != "embed":
            assert into == pytest.approx(told["weight"], abs=1e-5)
        if site != "resid(3)":
            assert out == pytest.approx(told["weight"], abs=1e-5)


def test_small_edges_are_left_out_on_request(path):
    few = path.to_networkx(min_share=0.05)
    weights = [abs(d["weight"]) for *_, d in few.edges(data=True)]
    assert 0 < len(weights) < path.to_networkx().number_of_edges()
    assert min(weights) > 0.05 * abs(path.total)


def test_heads_are_a_graph_from_tokens_to_the_prediction(heads):
    graph = heads.to_networkx(top=3)
    named = [n for n in graph if n[0] == "head"]
    assert [f"L{n[1]}H{n[2]}" for n in named] == [label for label, _ in heads.top(3)]
    for node in named:
        into = [d["norm"] for *_, d in graph.in_edges(node, data=True)]
        assert sum(into) == pytest.approx(float(heads.norms[node[1], node[2]].sum()), rel=1e-5)
        assert list(graph.successors(node)) == [("prediction", POSITION)]


def test_json_makes_the_same_graph_again(path, heads, tmp_path):
    for result, options in ((path, {"min_share": 0.01}), (heads, {"top": 4})):
        text = result.to_json(tmp_path / "circuit.json", **options)
        assert (tmp_path / "circuit.json").read_text(encoding="utf-8") == text
        again = networkx.node_link_graph(json.loads(text), edges="edges")
        graph = result.to_networkx(**options)
        assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
        assert list(again.edges(data=True)) == list(graph.edges(data=True))
    with pytest.raises(FileNotFoundError, match="create it"):
        path.to_json(tmp_path / "missing" / "circuit.json")


def test_frames(heads):
    model = zoo.shared(NAME)
    parts = components(model, TOKENS, SCOPE, position=POSITION)
    frame = parts.to_frame()
    assert len(frame) == parts.total.numel()
    one = frame[(frame.component == "L1H0") & (frame.position == 2)]
    assert float(one.total.iloc[0]) == float(parts.heads()[1, 0, 2])
    through = flow(model, TOKENS, SCOPE, 2, position=POSITION)
    frame = through.to_frame().set_index(["through", "source"])
    assert float(frame.loc[(POSITION, 1)].norm) == float(through.norms[POSITION, 1])
    frame = head_paths(model, TOKENS, SCOPE, position=POSITION, split=True).to_frame()
    assert {"norm", "signed", "value_norm", "pattern_signed"} <= {*frame.columns}
    rows = frame[(frame.layer == 2) & (frame["head"] == 1)]
    assert torch.tensor(rows.norm.tolist()).allclose(heads.norms[2, 1])


def test_repr_says_what_matters(path, heads):
    assert "semantic" in repr(path) and "embed -> resid(1)" in repr(path)
    assert heads.top(1)[0][0] in repr(heads)
