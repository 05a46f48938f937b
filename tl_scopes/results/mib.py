"""Circuits in the JSON of the Mechanistic Interpretability Benchmark's circuit track (EAP-IG's graphs)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tl_scopes.errors import ResultFileError, ScopeParameterError
from tl_scopes.results.files import write_text
from tl_scopes.results.nodes import EMBED, READ, place_of
from tl_scopes.results.storage import parsed

_EDGE = re.compile(r"(\S+)->([^\s<]+)(?:<([qkv])>)?")
# What their format does not hold and their reader passes by.
_OWN = "tl_scopes"
# `circuit` is a `Circuit` throughout, whose module this one may not import: its methods call it.


def write(circuit: Any, path: str | Path | None, d_model: int | None) -> str:
    """See `Circuit.to_mib`."""
    width = d_model or circuit.d_model
    if not width:
        raise ScopeParameterError(
            "to_mib needs d_model, which scores do not tell: pass d_model=model.cfg.d_model"
        )
    n_layers, n_heads = circuit.n_layers, circuit.n_heads
    names = ["input"]
    for layer in range(n_layers):
        names += [*(f"a{layer}.h{head}" for head in range(n_heads)), f"m{layer}"]
    kept = {_name(label): value for label, value in zip(circuit.labels, circuit.effects.sum(1))}
    nodes: dict[str, dict[str, Any]] = {name: {"in_graph": name in kept} for name in names}
    nodes["logits"] = {"in_graph": True}
    if circuit.of == "nodes":
        for name in names[1:]:  # the input has no score, so that it always stays
            nodes[name]["score"] = float(kept.get(name, 0.0))
    edges = _kept_edges(circuit) if circuit.of == "edges" else _all_between(circuit)
    own = {"candidates": circuit.candidates, "chosen": circuit.chosen, "units": circuit.units}
    config = {
        "n_layers": n_layers,
        "n_heads": n_heads,
        "parallel_attn_mlp": circuit.parallel,
        "d_model": width,
        "n_key_value_heads": circuit.n_key_value_heads,
    }
    told = {name: {"score": score, "in_graph": True} for name, score in edges}
    text = json.dumps({"cfg": config, "nodes": nodes, "edges": told, _OWN: own})
    if path is not None:
        write_text(path, text)
    return text


def _name(label: str) -> str:
    """Theirs of a node or a reader."""
    place = place_of(label)
    kind = place.kind if place else ""
    if place is None or kind in ("neuron", "attn", "layer", "bias"):
        raise ScopeParameterError(
            f"the benchmark's format has no name for {label!r}, only for heads and MLPs: score nodes or "
            'edges with by="head"'
        )
    whole = {EMBED: "input", READ: "logits", "mlp": f"m{place.layer}"}
    return whole.get(kind, f"a{place.layer}.h{place.index}")


def _kept_edges(circuit: Any) -> Iterator[tuple[str, float]]:
    each = zip(circuit.writers.tolist(), circuit.readers, circuit.edge_effects.sum(1).tolist())
    for writer, reader, score in each:
        start, place = _name(circuit.labels[writer]), place_of(reader)
        if place is None or place.kind != "head":
            yield f"{start}->{_name(reader)}", score
            continue
        owners = circuit.owners.get(reader) or (reader.partition(".")[0],)
        for owner in owners:
            yield f"{start}->{_name(owner)}<{place.port}>", score / len(owners)


def _all_between(circuit: Any) -> Iterator[tuple[str, float]]:
    """Every edge between nodes of a circuit, which one of nodes keeps."""
    places = {_name(label): place_of(label) for label in circuit.labels}
    for start, a in places.items():
        assert a is not None
        yield f"{start}->logits", 0.0
        for end, b in places.items():
            assert b is not None
            same = a.layer == b.layer and (a.kind, b.kind) == ("head", "mlp")
            if b.kind != EMBED and (a.layer < b.layer or (same and not circuit.parallel)):
                ports = ("<q>", "<k>", "<v>") if b.kind == "head" else ("",)
                yield from ((f"{start}->{end}{port}", 0.0) for port in ports)


def read(path: str | Path) -> dict[str, Any]:
    """The fields of the circuit that a file holds. Raises `ResultFileError`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    content = parsed(path.read_bytes(), f"{path} is not JSON of a circuit")
    try:
        return _fields(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ResultFileError(
            f"{path} is not a circuit of the benchmark's circuit track ({error!r}): give a file that "
            "to_mib, or Graph.to_json of EAP-IG, wrote"
        ) from error


def _fields(content: dict[str, Any]) -> dict[str, Any]:
    config, nodes, own = content["cfg"], content["nodes"], content.get(_OWN, {})
    n_heads = int(config["n_heads"])
    n_kv = int(config.get("n_key_value_heads") or n_heads)
    scores = {_label(n): told.get("score") for n, told in nodes.items() if n != "logits"}
    scored = {label: s for label, s in scores.items() if s is not None and math.isfinite(s)}
    of = "nodes" if scored else "edges"
    labels = [_label(n) for n, told in nodes.items() if n != "logits" and told["in_graph"]]
    labels = [EMBED, *(label for label in labels if label != EMBED)]
    number = {label: i for i, label in enumerate(labels)}
    kept: dict[tuple[int, str], float] = {}
    owners: dict[str, tuple[str, ...]] = {}
    for name, told in content["edges"].items() if of == "edges" else ():
        if told["in_graph"]:
            found = _EDGE.fullmatch(name)
            if found is None:
                raise ValueError(f"an edge is called {name!r}")
            reader, read_by = _reader(found[2], found[3], n_heads // n_kv)
            owners[reader] = read_by
            key = number[_label(found[1])], reader
            kept[key] = kept.get(key, 0.0) + float(told["score"])
    effects = torch.tensor(
        [[scored.get(label, 0.0)] for label in labels], dtype=torch.float32, device="cpu"
    )
    edge_effects = torch.tensor(list(kept.values()), dtype=torch.float32, device="cpu").reshape(
        -1, 1
    )
    writers = torch.tensor([writer for writer, _ in kept], dtype=torch.int64, device="cpu")
    if of == "edges":
        effects.index_add_(0, writers, edge_effects)
    count = len(labels) - 1 if of == "nodes" else len(kept)
    return {
        "of": of,
        "labels": tuple(labels),
        "effects": effects,
        "writers": writers,
        "readers": tuple(reader for _, reader in kept),
        "edge_effects": edge_effects,
        "owners": owners,
        "roles": ("all",),
        "candidates": int(
            own.get("candidates", len(content["edges"] if of == "edges" else scored))
        ),
        "chosen": int(own.get("chosen", count)),
        "n_layers": int(config["n_layers"]),
        "n_heads": n_heads,
        "n_key_value_heads": n_kv,
        "d_model": int(config.get("d_model", 0)),
        "parallel": bool(config.get("parallel_attn_mlp", False)),
        "scope": None,
        "units": str(own.get("units", "")),
        "squared": False,
        "provenance": None,
    }


def _label(name: str) -> str:
    """Ours of a node."""
    if name == "input":
        return EMBED
    if found := re.fullmatch(r"a(\d+)\.h(\d+)", name):
        return f"L{found[1]}H{found[2]}"
    if found := re.fullmatch(r"m(\d+)", name):
        return f"{found[1]}_mlp_out"
    raise ValueError(f"a node is called {name!r}")


def _reader(name: str, port: str | None, group: int) -> tuple[str, tuple[str, ...]]:
    """Ours of what an edge leads to, and the nodes that read by it. `group`: query heads of a key-value
    head."""
    if name == "logits":
        return READ, ()
    label = _label(name)
    place = place_of(label)
    assert place is not None
    if place.kind == "mlp":
        return f"{place.layer}_mlp_in", (label,)
    if port is None:
        raise ValueError(f"an edge leads to {name}, but not to its q, k or v")
    if port == "q":
        return f"{label}.q", (label,)
    shared = place.index // group
    heads = range(shared * group, (shared + 1) * group)
    return f"L{place.layer}H{shared}.{port}", tuple(f"L{place.layer}H{head}" for head in heads)
