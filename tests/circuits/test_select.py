"""Circuits chosen of scores: which are strongest, and which of them connect, by graphs of another library."""

from __future__ import annotations

import json

import networkx
import pytest
import torch

from support.edge_scores import edges
from tl_scopes.circuits import Circuit, select
from tl_scopes.errors import DisconnectedError, NumericalError, ScopeParameterError


def owners(reader: str) -> list[str]:
    """Said once more, by hand."""
    if reader == "read":
        return []
    if reader.endswith("_mlp_in"):
        return [reader.replace("_in", "_out")]
    layer, head = reader[1:-2].split("H")
    own = [int(head)] if reader.endswith(".q") else [2 * int(head), 2 * int(head) + 1]
    return [f"L{layer}H{h}" for h in own]


def on_a_path(labels: list[str]) -> set[str]:
    """The edges on a path from embed to read: every path is walked, edge by edge."""
    graph = networkx.DiGraph()
    for label in labels:
        writer, reader = label.split(" -> ")
        graph.add_edge(writer, reader)
        for owner in owners(reader):
            graph.add_edge(reader, owner)
    if not {"embed", "read"} <= set(graph):
        return set()
    from_embed = networkx.descendants(graph, "embed") | {"embed"}
    to_read = networkx.ancestors(graph, "read") | {"read"}
    ends = [label.split(" -> ") for label in labels]
    return {f"{a} -> {b}" for a, b in ends if a in from_embed and b in to_read}


def strongest(scores: dict[str, float], n: int) -> list[str]:
    return sorted(scores, key=lambda label: -abs(scores[label]))[:n]


@pytest.mark.parametrize("seed", range(5))
def test_edges_are_the_strongest_that_connect(seed):
    scores = edges(seed)
    for n in (len(scores) // 3, len(scores) // 2, len(scores)):
        circuit = select(scores, n)
        wanted = on_a_path(strongest(scores, n))
        assert set(circuit.edges) == wanted and len(circuit) == len(wanted)
        assert circuit.chosen == n and circuit.candidates == len(scores)
        for label, effect in zip(circuit.edges, circuit.edge_effects[:, 0].tolist()):
            assert effect == pytest.approx(scores[label], rel=1e-6)
        ends = {label.split(" -> ")[0] for label in wanted}
        assert set(circuit.nodes) == ends and circuit.nodes[0] == "embed"


@pytest.mark.parametrize("seed", range(5))
def test_a_circuit_that_does_not_connect_says_how_many_more_would(seed):
    scores = edges(seed)
    least = next(n for n in range(1, len(scores) + 1) if on_a_path(strongest(scores, n)))
    if least > 1:
        with pytest.raises(DisconnectedError, match=rf"{least - 1} strongest .* n={least}"):
            select(scores, least - 1)
    assert len(select(scores, least))
    without_read = {label: x for label, x in scores.items() if not label.endswith("read")}
    with pytest.raises(DisconnectedError, match="nor would all of them"):
        select(without_read, 5)


def test_a_shared_key_value_head_is_read_by_every_query_head_of_its_group():
    scores = {"embed -> L0H1.k": 1.0, "L0H3 -> read": 1.0, "L0H1 -> read": 0.1}
    scores |= {f"embed -> L0H{h}.q": 0.01 for h in range(4)} | {"embed -> L0H0.k": 0.01}
    circuit = select(scores, 2)
    assert circuit.edges == ("embed -> L0H1.k", "L0H3 -> read")
    assert circuit.owners["L0H1.k"] == ("L0H2", "L0H3")
    assert (circuit.n_heads, circuit.n_key_value_heads) == (4, 2)


def test_nodes_are_the_strongest_beside_the_embedding():
    scores = {
        "embed": 9.0,
        "L1H0": -3.0,
        "L0H1": 2.0,
        "0_mlp_out": 1.0,
        "0_b_O": 8.0,
        "1_mlp_out": 0.5,
    }
    circuit = select(scores, 3)
    assert circuit.nodes == ("embed", "L0H1", "0_mlp_out", "L1H0")
    assert len(circuit) == 3 and circuit.candidates == 4 and circuit.share == 0.75
    assert "L1H0" in circuit and "1_mlp_out" not in circuit
    assert circuit.top(1) == [("L1H0", -3.0)]
    assert select(scores, share=0.5).nodes == ("embed", "L0H1", "L1H0")
    assert len(select(scores, share=1.0)) == 4


def test_a_share_is_rounded_down_and_not_by_a_hair():
    scores = {f"L0H{i}": float(i) for i in range(100)}
    assert len(select(scores, share=0.29)) == 29
    assert len(select(scores, share=0.2999)) == 29


def test_parallel_blocks_are_seen():
    assert not select(edges(), share=1.0).parallel
    assert select(edges(parallel=True), share=1.0).parallel


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("scores", "asked", "error", "said"),
    [
        ({"L0H0": 1.0}, dict(n=0), ScopeParameterError, "n is 0"),
        ({"L0H0": 1.0}, dict(n=2), ScopeParameterError, "to 1"),
        ({"L0H0": 1.0}, dict(n=True), ScopeParameterError, "n is True"),
        ({"L0H0": 1.0}, dict(), ScopeParameterError, "give one"),
        ({"L0H0": 1.0}, dict(n=1, share=0.5), ScopeParameterError, "give one"),
        ({"L0H0": 1.0}, dict(share=1.5), ScopeParameterError, "share is 1.5"),
        ({"L0H0": 1.0}, dict(share=0.2), ScopeParameterError, "is none"),
        ({"L0H0": 1.0}, dict(n=1, role="subject"), ScopeParameterError, "'all'"),
        ({"L0H0": float("nan")}, dict(n=1), NumericalError, "NaN"),
        ({"head 3": 1.0}, dict(n=1), ScopeParameterError, "'head 3' is no label"),
        ({"embed": 1.0}, dict(n=1), ScopeParameterError, "no node to choose"),
        ({"L0H0": "much"}, dict(n=1), ScopeParameterError, "'much'"),
        ({"L0H0": 1.0, "embed -> read": 1.0}, dict(n=1), ScopeParameterError, "nodes and edges"),
        ({}, dict(n=1), ScopeParameterError, "nothing"),
        (3, dict(n=1), ScopeParameterError, "scores is a int"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(scores, asked, error, said):
    with pytest.raises(error, match=said):
        select(scores, **asked)


# ------------------------------------------------------------------------------------------------- what it becomes
@pytest.mark.parametrize("scores", [edges(1), {"L0H1": 2.0, "2_mlp_out": -1.0, "L1N7": 0.5}])
def test_it_is_saved_and_read_again(scores, tmp_path):
    circuit = select(scores, share=1.0)
    again = Circuit.load(circuit.save(tmp_path / "circuit.safetensors"))
    assert (again.nodes, again.edges, again.owners) == (
        circuit.nodes,
        circuit.edges,
        circuit.owners,
    )
    torch.testing.assert_close(again.effects, circuit.effects, rtol=0, atol=0)
    assert len(circuit.to_frame()) == max(
        len(circuit.edges), len(circuit.nodes) * (not circuit.edges)
    )


def test_its_graph_leads_from_the_embedding_to_the_read():
    circuit = select(edges(2), 60)
    graph = circuit.to_networkx()
    assert networkx.is_directed_acyclic_graph(graph)
    assert networkx.has_path(graph, "embed", "read")
    told = {f"{a} -> {b}": d["effect"] for a, b, d in graph.edges(data=True) if "effect" in d}
    assert set(told) == set(circuit.edges)
    read = networkx.node_link_graph(json.loads(circuit.to_json()), edges="edges")
    assert set(read) == set(graph)


def test_it_is_drawn(tmp_path):
    for circuit in (select(edges(3), 60), select({"L0H1": 2.0, "1_mlp_out": -1.0}, 2)):
        figure = circuit.plot()
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert {"embed", "read"} <= set(texts) and len(texts) >= len(circuit.nodes)
        assert str(len(circuit)) in circuit.to_html(tmp_path / "page.html")
    few = select(edges(3), 60).plot(top=5)
    assert len(few.axes[0].patches) < 20
