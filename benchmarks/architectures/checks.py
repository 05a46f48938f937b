"""The cells of one architecture: what tl_scopes gives, beside plain autograd on the copy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import tl_scopes as ts
from benchmarks.architectures.models import Model, booted, hf_model
from benchmarks.architectures.reference import IDS, POSITION, Run, heads_of
from benchmarks.architectures.tables import UNBOOTED
from tl_scopes import circuits
from tl_scopes.errors import ScopesError, ScopesWarning

TARGET, RANK, THROUGH = 11, 4, 2
LONGEST = 120  # of a message that is kept
# Share of the largest number of a site that may differ. Two right answers differ by their rounding:
# what the copy's own answer moves in a finer dtype is allowed too, so many times.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.03}
SLACK = {torch.float32: 10, torch.bfloat16: 3}
LOOSEST = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # beyond it nothing is said to be equal
FINER = {torch.float32: torch.float64, torch.bfloat16: torch.float32}
Wanted = list[Tensor]


class Truth:
    """The copy's answers; each is worked out once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.runs: dict[tuple[str, ...], Run] = {}

    def run(self, *held: str) -> Run:
        if held not in self.runs:
            self.runs[held] = Run(self.model, 64, held)
        return self.runs[held]

    def sites(self) -> list[Any]:
        return ["embed", *range(len(self.run().blocks) + 1)]

    def semantic(self) -> Wanted:
        run = self.run()
        rows = run.pull("y", run.read(run.W_U[TARGET][None]), self.sites())
        return [g[0].norm(dim=-1) for g in rows]

    def temperature(self) -> Wanted:
        run = self.run()
        y = run.value("y")[None, POSITION]
        return [g[0].norm(dim=-1) for g in run.pull("y", run.read(y / y.norm()), self.sites())]

    def fisher(self) -> Wanted:
        """Of the model's own logits: sum of p |row - mean row|^2, which is all of F."""
        run = self.run()
        logits = run.value("logits")[POSITION]
        p = logits.softmax(-1)
        rows = run.pull(
            "logits", run.read(torch.eye(len(p), dtype=p.dtype), "logits"), [*self.sites(), "y"]
        )
        rows = [g - torch.einsum("v,vpd->pd", p, g) for g in rows]
        return [torch.einsum("v,vpd->p", p, g.square()) for g in rows[:-1]]

    def leading(self) -> Wanted:
        """Of F's leading pairs, found in the final state's own basis."""
        run = self.run()
        p = run.value("logits")[POSITION].softmax(-1)
        (rows,) = run.pull("logits", run.read(torch.eye(len(p), dtype=p.dtype), "logits"), ["y"])
        rows = rows[:, POSITION] - p @ rows[:, POSITION]
        values, vectors = torch.linalg.eigh(rows.T.double() @ (p[:, None] * rows).double())
        found = run.pull("y", run.read(vectors.T[-RANK:].to(p)), self.sites())
        return [torch.einsum("v,vpd->p", values[-RANK:].to(p), g[:RANK].square()) for g in found]

    def _semantic(self, *held: str) -> tuple[Run, Tensor]:
        run = self.run(*held)
        return run, run.read(run.W_U[TARGET].expand(64, -1))

    def layers(self) -> Wanted:
        run, v = self._semantic()
        sites = self.sites()[1:]
        g = [x[0] for x in run.pull("y", v, sites)]
        streams = [run.value(site) for site in sites]
        writes = [streams[0], *(b - a for a, b in pairwise(streams))]
        total = torch.stack([(a * w).sum(-1) for a, w in zip(g, writes)])
        return [total, torch.stack([(g[-1] * w).sum(-1) for w in writes])]

    def writes(self) -> Wanted:
        """Direct effects of the embedding and of what each block adds."""
        return [self.layers()[1]]

    def zs(self) -> list[tuple[str, int]]:
        run = self.run()
        found = [("z", i) for i, each in enumerate(run.projections) if each is not None]
        return [site for site in found if site in run.at]

    def heads(self) -> Wanted:
        """Of every head: gradient times output, from what the output projection takes in."""
        run, v = self._semantic()
        sites = self.zs()
        found = [g[0] * run.value(s) for s, g in zip(sites, run.pull("y", v, sites))]
        return [self._split(each).sum(-1).T for each in found]

    def _split(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (heads_of(self.model, z.shape[-1]), -1))

    def head_paths(self) -> Wanted:
        run, v = self._semantic()
        out = []
        for site in self.zs():
            (g,) = run.pull("y", v, [site])
            g = self._split(g)
            alone = torch.zeros_like(g)
            for head in range(g.shape[2]):
                alone[head, :, head] = g[head, :, head]
            (found,) = run.pull(site, alone.flatten(2).to(run.at[site].dtype), ["embed"])
            out.append(found[: g.shape[2]].norm(dim=-1))
        return out

    def flow(self, *held: str) -> Wanted:
        run, v = self._semantic(*held)
        at_layer, whole = run.pull("y", v, [THROUGH, "embed"])
        alone = torch.zeros_like(at_layer)
        for q in range(len(IDS)):
            alone[q, q] = at_layer[q, q]
        (parts,) = run.pull(THROUGH, alone.to(run.at[THROUGH].dtype), ["embed"])
        return [parts[: len(IDS)].norm(dim=-1), whole[0].norm(dim=-1)]


class Ours:
    """The same from tl_scopes, in the same order and shapes."""

    def __init__(self, model: Any, truth: Truth) -> None:
        self.model, self.truth, self.scope = model, truth, ts.SemanticScope(TARGET)

    def _scores(self, scope: Any) -> Wanted:
        found = ts.attribute(self.model, list(IDS), scope, sites="all", position=POSITION)
        return list(found.scores)

    def semantic(self) -> Wanted:
        return self._scores(self.scope)

    def temperature(self) -> Wanted:
        return self._scores(ts.TemperatureScope())

    def fisher(self) -> Wanted:
        return self._scores(ts.FisherScope(rank="full"))

    def leading(self) -> Wanted:
        return self._scores(ts.FisherScope(rank=RANK))

    def _components(self, by: Any) -> Any:
        return circuits.components(self.model, list(IDS), self.scope, by, position=POSITION)

    def layers(self) -> Wanted:
        found = self._components("layer")
        return [found.total, found.direct]

    def writes(self) -> Wanted:
        found = self._components("mlp")
        out = torch.zeros(self.model.cfg.n_layers + 1, len(IDS))
        return [out.index_add(0, torch.tensor(found.layers) + 1, found.direct)]

    def heads(self) -> Wanted:
        found = self._components("head")
        chosen = [i for i, kind in enumerate(found.kinds) if kind == "head"]
        layers = sorted({found.layers[i] for i in chosen})
        return [
            torch.stack([found.total[i] for i in chosen if found.layers[i] == n]) for n in layers
        ]

    def head_paths(self) -> Wanted:
        found = circuits.head_paths(self.model, list(IDS), self.scope, position=POSITION)
        return [found.norms[layer] for _, layer in self.truth.zs()]

    def flow(self, *held: str) -> Wanted:
        found = circuits.flow(
            self.model, list(IDS), self.scope, THROUGH, position=POSITION, frozen=held or None
        )
        return [found.norms, found.scores]


Ask = Callable[[Any], Wanted]
COLUMNS: dict[str, Ask] = {
    "semantic": lambda of: of.semantic(),
    "temperature": lambda of: of.temperature(),
    "fisher full": lambda of: of.fisher(),
    f"fisher {RANK}": lambda of: of.leading(),
    "components layer": lambda of: of.layers(),
    "components mlp": lambda of: of.writes(),
    "components head": lambda of: of.heads(),
    "head_paths": lambda of: of.head_paths(),
    "flow": lambda of: of.flow(),
    "frozen norms": lambda of: of.flow("norms"),
    "frozen both": lambda of: of.flow("norms", "patterns"),
}


def cells(model: Model, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """A cell of every column: {"error": 2e-6}, {"refused": ...}, or, which is a failure,
    {"wrong": 0.13} or {"crash": ...}. {"unbooted": ...} where transformer-lens gives no model."""
    source = hf_model(model, dtype)
    truth, finer = Truth(copy.deepcopy(source)), hf_model(model, FINER[dtype])
    for to, theirs in zip(finer.parameters(), source.parameters()):
        to.data = theirs.data.to(FINER[dtype])
    exact = Truth(finer)
    try:
        ours = Ours(booted(source, dtype), truth)
    except Exception as error:
        key = "unbooted" if model in UNBOOTED else "crash"
        return {"all": {key: said(error)}}
    return {column: _cell(ask, ours, truth, exact, dtype) for column, ask in COLUMNS.items()}


def _cell(ask: Ask, ours: Ours, truth: Truth, exact: Truth, dtype: torch.dtype) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            got = ask(ours)
        except ScopesError as error:
            return {"refused": said(error)}
        except Exception as error:
            return {"crash": said(error)}
    try:
        wanted = ask(truth)
        error = distance(got, wanted)
        bound = CLOSE[dtype]
        if bound < error:
            blur = SLACK[dtype] * distance(wanted, ask(exact))
            bound = min(max(bound, blur), LOOSEST[dtype])
    except Exception as broken:
        return {"crash": "the reference: " + said(broken)}
    warned = [w.message for w in heard if issubclass(w.category, ScopesWarning)]
    if error <= bound:
        return {"error": float(f"{error:.2g}")}
    return {"refused": said(warned[0])} if warned else {"wrong": float(f"{error:.2g}")}


def distance(got: Wanted, wanted: Wanted) -> float:
    """The largest difference, as a share of the largest number of its site."""
    shapes = [[list(each.shape) for each in side] for side in (got, wanted)]
    if shapes[0] != shapes[1]:
        return float("inf")
    errors = [
        float((g.double() - w.double()).abs().max() / w.double().abs().max().clamp_min(1e-9))
        for g, w in zip(got, wanted)
    ]
    return max((e if e == e else float("inf") for e in errors), default=0.0)


def said(error: Any) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words if len(words) < LONGEST else words[:LONGEST] + ' ...'}"
