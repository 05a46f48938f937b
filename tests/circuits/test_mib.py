"""Circuits in the benchmark's JSON, read by the rules of EAP-IG's `Graph.from_json`, written out here by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from support.edge_scores import N_HEADS, N_KV, N_LAYERS, edges
from tl_scopes.circuits import Circuit, select
from tl_scopes.errors import ResultFileError, ScopeParameterError

GROUP = N_HEADS // N_KV


class TheirGraph:
    """What their reader makes of a file: nodes and edges of its configuration alone, all out of the circuit and
    without a score until the file names them; a name that the configuration does not give is a KeyError."""

    def __init__(self, text: str) -> None:
        content = json.loads(text)
        assert {"cfg", "nodes", "edges"} <= content.keys()
        config = content["cfg"]
        torch.zeros(config["d_model"])  # it makes rows as wide as that
        self.node_scores, self.in_graph, self.edges, stream = {}, {}, {}, ["input"]
        for layer in range(config["n_layers"]):
            heads = [f"a{layer}.h{h}" for h in range(config["n_heads"])]
            ports = [f"{head}<{x}>" for head in heads for x in "qkv"]
            mlp = f"m{layer}"
            self._add(stream, ports)
            if config["parallel_attn_mlp"]:
                self._add(stream, [mlp])
                stream += heads
            else:
                stream += heads
                self._add(stream, [mlp])
            stream.append(mlp)
        self._add(stream, ["logits"])
        self.nodes = set(stream)
        for name, told in content["nodes"].items():
            if name == "logits":
                continue
            if name not in self.nodes:
                raise KeyError(name)
            self.in_graph[name] = told["in_graph"]
            self.node_scores[name] = told.get("score", math.nan)
        for name, told in content["edges"].items():
            if name not in self.edges:
                raise KeyError(name)
            self.edges[name] = (told["score"], told["in_graph"])

    def _add(self, sources: list[str], ends: list[str]) -> None:
        self.edges |= {f"{source}->{end}": (0.0, False) for source in sources for end in ends}


def theirs(label: str) -> str:
    if label in ("embed", "read"):
        return {"embed": "input", "read": "logits"}[label]
    if "_mlp" in label:
        return f"m{label.split('_')[0]}"
    return "a" + label[1:].replace("H", ".h")


@pytest.mark.parametrize("parallel", [False, True])
def test_edges_become_theirs(parallel, tmp_path):
    scores = edges(4, parallel)
    circuit = select(scores, share=0.6)
    graph = TheirGraph(circuit.to_mib(tmp_path / "circuit.json", d_model=16))
    wanted = {}
    for label in circuit.edges:
        writer, reader = label.split(" -> ")
        if "." not in reader:
            wanted[f"{theirs(writer)}->{theirs(reader)}"] = scores[label]
            continue
        head, port = reader.split(".")
        layer, index = (int(x) for x in head[1:].split("H"))
        group = [index] if port == "q" else range(GROUP * index, GROUP * (index + 1))
        for h in group:
            wanted[f"{theirs(writer)}->a{layer}.h{h}<{port}>"] = scores[label] / len(group)
    kept = {name: score for name, (score, inside) in graph.edges.items() if inside}
    assert kept.keys() == wanted.keys()
    assert all(kept[name] == pytest.approx(wanted[name], rel=1e-6) for name in kept)
    assert {n for n, inside in graph.in_graph.items() if inside} == {*map(theirs, circuit.nodes)}
    again = Circuit.from_mib(tmp_path / "circuit.json")
    assert set(again.edges) == set(circuit.edges) and set(again.nodes) == set(circuit.nodes)
    assert again.owners == circuit.owners and again.parallel is parallel
    assert (again.candidates, again.chosen, again.d_model) == (len(scores), circuit.chosen, 16)
    back = dict(zip(again.edges, again.edge_effects[:, 0].tolist()))
    assert all(value == pytest.approx(scores[label], rel=1e-6) for label, value in back.items())
    assert json.loads(again.to_mib()).keys() == json.loads(circuit.to_mib(d_model=16)).keys()


def test_nodes_become_theirs(tmp_path):
    scores = {f"L{i}H{h}": 0.1 * (i - h) for i in range(N_LAYERS) for h in range(N_HEADS)}
    scores |= {f"{i}_mlp_out": 1.0 + i for i in range(N_LAYERS)}
    circuit = select(scores, 6)
    graph = TheirGraph(circuit.to_mib(tmp_path / "nodes.json", d_model=16))
    inside = {name for name, kept in graph.in_graph.items() if kept}
    assert inside == {*map(theirs, circuit.nodes)}
    assert math.isnan(graph.node_scores["input"])  # without one it stays whatever they choose
    for label in circuit.nodes[1:]:
        assert graph.node_scores[theirs(label)] == pytest.approx(scores[label], rel=1e-6)
    # A circuit of nodes keeps every edge between them, and only these.
    ends = inside | {"logits"}
    wanted = {e for e in graph.edges if set(e.partition("<")[0].split("->")) <= ends}
    assert {name for name, (_, kept) in graph.edges.items() if kept} == wanted
    again = Circuit.from_mib(tmp_path / "nodes.json")
    assert again.of == "nodes" and set(again.nodes) == set(circuit.nodes)
    assert again.candidates == len(scores)


def test_a_file_of_theirs_is_read(tmp_path):
    """As their `to_json` writes one: every edge, most of them out of the circuit."""
    nodes = {"input": True, "a0.h0": True, "a0.h1": False, "m0": True}
    told = {
        "input->a0.h0<q>": (0.5, True), "input->a0.h0<k>": (0.1, False), "input->m0": (-2.0, True),
        "a0.h0->m0": (0.3, True), "m0->logits": (1.5, True), "a0.h0->logits": (0.0, False),
    }  # fmt: skip
    content = {
        "cfg": {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8},
        "nodes": {name: {"in_graph": kept} for name, kept in nodes.items()},
        "edges": {name: {"score": s, "in_graph": kept} for name, (s, kept) in told.items()},
    }
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(content))
    circuit = Circuit.from_mib(path)
    assert set(circuit.edges) == {
        "embed -> L0H0.q", "embed -> 0_mlp_in", "L0H0 -> 0_mlp_in", "0_mlp_out -> read",
    }  # fmt: skip
    assert circuit.nodes == ("embed", "L0H0", "0_mlp_out") and circuit.candidates == 6
    torch.testing.assert_close(circuit.effects[:, 0], torch.tensor([-1.5, 0.3, 1.5]))


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    circuit = select({"L0H0": 1.0, "L0N3": 2.0}, 2)
    with pytest.raises(ScopeParameterError, match="no name for 'L0N3'"):
        circuit.to_mib(d_model=8)
    with pytest.raises(ScopeParameterError, match="d_model"):
        select({"L0H0": 1.0}, 1).to_mib()
    for text in ("[1]", "{}", '{"cfg": {}, "nodes": {}, "edges": {}}', "no json"):
        path = tmp_path / "wrong.json"
        path.write_text(text)
        with pytest.raises(ResultFileError):
            Circuit.from_mib(path)
    with pytest.raises(FileNotFoundError):
        Circuit.from_mib(tmp_path / "nothing.json")
