"""Every public function that asks something of a model, as one call with small defaults.

tests/package says of each what all have in common; a function that is missing here fails `test_calls`.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import tl_scopes as ts
from support import zoo
from support.traces import PLAIN
from tl_scopes import baselines, circuits, evaluation
from tl_scopes.adapter.prompts import encode
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines import IntegratedGradients, LeaveOneOut, SemanticPath, SmoothGrad
from tl_scopes.rules import GIM

T = zoo.TEXT
IDS: list[int] = zoo.tokenizer()(T)["input_ids"]  # with BOS, which not every model prepends
ONES = torch.ones(16)
S, FISHER = ts.SemanticScope(5), ts.FisherScope(rank=2, samples=2)
INSIDE = ts.DirectionScope(ONES, site=2)
METHODS = [
    baselines.GradientNorm(), baselines.InputXGradient(), SmoothGrad(draws=2), LeaveOneOut(),
    baselines.AttentionRollout(), baselines.Random(), IntegratedGradients(steps=2), SemanticPath(steps=2),
]  # fmt: skip
SCOPES = {
    "semantic": ts.SemanticScope(" Paris"), "temperature": ts.TemperatureScope(), "fisher": FISHER,
    "full": ts.FisherScope(rank="full"), "function": ts.FunctionScope(lambda z: z.logsumexp(0)),
    "direction": INSIDE,
}  # fmt: skip
ANSWER = ts.ContinuationScope([7, 8])
ANSWERING = {
    "attribute": ts.attribute, "components": circuits.components, "head_paths": circuits.head_paths,
}  # fmt: skip
# They say what is wrong with a prompt in what they return, and go on with the next one.
TELLING = ("check", "faithfulness_card", "measure", "run")


@functools.cache
def attribution() -> ts.Attribution:
    """What `verify` is asked about: on any model of this tokenizer."""
    return ts.attribute(zoo.shared(PLAIN[0]), T, S)


@dataclass(frozen=True)
class Call:
    """`call(model)` asks `function`, which gets `given`; `call(model, prompt=..., ...)` something else."""

    function: Callable[..., Any]
    given: Mapping[str, Any]

    @property
    def takes(self) -> Collection[str]:
        return inspect.signature(self.function).parameters

    def __call__(self, model: Any, **more: Any) -> Any:
        return self.function(model, **self.arguments(**more))

    def arguments(self, **more: Any) -> dict[str, Any]:
        """All but the model."""
        asked = {"prompt": T, "scope": S} | dict(self.given) | more
        prompt, scope = asked.pop("prompt"), asked.pop("scope")
        usual = {
            "prompt": prompt,
            "clean_prompt": prompt,
            "prompts": [prompt],
            "scope": scope,
            "methods": [scope],
        }
        if "attribution" in self.takes and "attribution" not in asked:
            asked["attribution"] = attribution()
        return {k: v for k, v in usual.items() if k in self.takes} | asked


def of(function: Callable[..., Any], **given: Any) -> Call:
    return Call(function, given)


def run(model: Any, prompts: Any, methods: Any) -> evaluation.Run:
    """In a folder of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        settings = evaluation.Settings(fractions=(0.2, 0.5))
        made = evaluation.run(model, prompts, methods, settings, out=Path(folder) / "out")
        return made.to_frame()


def metric(model: Any, prompt: Any, scope: ts.Scope) -> torch.Tensor:
    """A metric made and used, of the clean prompt."""
    with torch.no_grad():
        return circuits.scope_metric(model, prompt, scope)(model(torch.tensor([prompt])))


def paired(model: Any, prompt: Any, scope: ts.Scope, **options: Any) -> Any:
    """Components over two pairs of one length, by role."""
    pairs = circuits.Pairs([prompt, prompt[::-1]], [prompt[::-1], prompt], scope, {"last": -1})
    return circuits.components(model, pairs, **options)


def by_role(
    function: Callable[..., Any], model: Any, prompt: Any, scope: ts.Scope, **options: Any
) -> Any:
    """Influence over a single pair, by role."""
    return function(model, circuits.Pairs([prompt], [prompt], scope, {"last": -1}), **options)


def answer_verified(model: Any, prompt: Any) -> Any:
    """What is said of a whole answer, and real ablations."""
    found = ts.attribute(model, prompt, ANSWER)
    return circuits.verify(model, prompt, found, top=2, random=1, steps=[1])


def faithful(model: Any, prompt: Any, scope: ts.Scope) -> circuits.Faithfulness:
    """Of circuits of heads and MLPs, over the prompt and itself backwards."""
    ids = encode(view_of(model), prompt, None)
    pairs = circuits.Pairs([prompt], [[*ids[:1], *ids[:0:-1]]], scope)
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    scores = {f"L{i}H{h}": float(h - i) for i in layers for h in heads}
    scores |= {f"{i}_mlp_out": 1.5 for i in layers}
    return circuits.faithfulness(model, pairs, scores, [2, 0.5], random=1)


def carded(model: Any, prompt: Any, scope: ts.Scope) -> pd.DataFrame:
    """A circuit card over two orders of the prompt, each against itself backwards."""
    ids = encode(view_of(model), prompt, None)
    clean = [ids, [*ids[:1], *ids[2:], *ids[1:2]]]
    pairs = circuits.Pairs(clean, [[*one[:1], *one[:0:-1]] for one in clean], scope)
    return circuits.circuit_card(
        model, pairs, k=2, sizes=[0.5, 1.0], random=1, progress=False
    ).to_frame()


def paired_edges(
    model: Any, prompt: Any, scope: ts.Scope, corrupted: Any = None, **options: Any
) -> Any:
    """Edges of a single pair; without another prompt, of one with itself."""
    other = prompt if corrupted is None else corrupted
    return circuits.edges(model, circuits.Pairs([prompt], [other], scope), **options)


CALLS: dict[str, Call] = {
    "attribute": of(ts.attribute),
    "attribute_batch": of(ts.attribute_batch),
    "attribute_generation": of(ts.attribute_generation, max_new_tokens=2),
    "attribute_sequence": of(ts.attribute_sequence),
    "check": of(ts.check, costs=False, progress=False),
    "circuit_tracer_targets": of(circuits.circuit_tracer_targets),
    "components": of(circuits.components),
    "circuit_card": of(carded),
    "edges": of(paired_edges),
    "flow": of(circuits.flow, layer=1),
    "flow_path": of(circuits.flow_path, layers=[1, 2]),
    "head_paths": of(circuits.head_paths),
    "scope_metric": of(circuits.scope_metric),
    "substitutions": of(ts.substitutions),
    "verify": of(circuits.verify),
    "faithfulness": of(faithful),
    "faithfulness_card": of(
        evaluation.faithfulness_card, randomised=False, stability=False, spectra=False, progress=False
    ),
    "fisher_spectrum": of(evaluation.fisher_spectrum),
    "input_stability": of(evaluation.input_stability, draws=1),
    "measure": of(evaluation.measure),
    "randomisation": of(evaluation.randomisation, depths=[1]),
    "run": of(run),
    **{type(method).__name__: of(method.attribute) for method in METHODS},
}  # fmt: skip
ATTRIBUTING = ("attribute", "attribute_batch", "attribute_generation", "attribute_sequence")
CIRCUITS = ("components", "flow", "flow_path", "head_paths", "scope_metric", "verify")
EXPLAINING = tuple(type(method).__name__ for method in METHODS)
# The same functions on ways of their own through the package. `check` wires hooks that it says it leaves.
VARIANTS: dict[str, Call] = {
    **{name: call for name, call in CALLS.items() if name not in ("check", "scope_metric", "verify")},
    **{f"{label}, every site": of(ts.attribute, scope=scope, sites="all") for label, scope in SCOPES.items()},
    **{
        f"{label}, batch": of(
            ts.attribute_batch, scope=scope, prompts=[T, zoo.LONG_TEXT], sites=["embed", "blocks.1.attn.hook_z"]
        )
        for label, scope in SCOPES.items()
    },
    **{
        f"{label}, sequence": of(ts.attribute_sequence, scope=scope, positions=[1, 3])
        for label, scope in SCOPES.items()
    },
    "substitutions, verified": of(ts.substitutions, scope=FISHER, among="all", k=1, verified=True),
    "substitutions, answer": of(ts.substitutions, scope=ANSWER, among=[5, 6], verified=True),
    "over tokens": of(ts.attribute, scope=FISHER, measure="tokens"),
    "over tokens, batch": of(ts.attribute_batch, prompts=[T, zoo.LONG_TEXT], measure="tokens"),
    "stability": of(ts.attribute, stability=True),
    "blocks again": of(ts.attribute, scope=FISHER, sites="all", checkpoint_blocks=True),
    "attribute, ruled": of(ts.attribute, rules=GIM()),
    "edges, ruled": of(paired_edges, prompt=IDS, corrupted=[IDS[0], *IDS[:0:-1]], rules=GIM()),
    "components, frozen": of(circuits.components, prompt=IDS, frozen="both", corrupted=IDS[::-1]),
    "edges, frozen": of(
        paired_edges, prompt=IDS, scope=FISHER, corrupted=[IDS[0], *IDS[:0:-1]], steps=2, frozen="both"
    ),
    "neurons": of(circuits.components, scope=FISHER, by="neuron", reference=[IDS, [7, 8]]),
    "layers": of(circuits.components, scope=INSIDE, by="layer"),
    "components, pairs": of(paired, prompt=IDS),
    "neurons, pairs": of(paired, prompt=IDS, scope=FISHER, by="neuron", frozen="norms"),
    "flow, pairs": of(functools.partial(by_role, circuits.flow), prompt=IDS, layer=1),
    "head_paths, pairs": of(functools.partial(by_role, circuits.head_paths), prompt=IDS, scope=FISHER, frozen="both"),
    "flow, in chunks": of(circuits.flow, scope=FISHER, layer=1, chunk_size=5),
    "flow_path, frozen": of(circuits.flow_path, scope=FISHER, layers=[1, 3], frozen="both"),
    "head_paths, split": of(circuits.head_paths, scope=FISHER, split=True, frozen="norms"),
    "metric": of(metric, prompt=IDS, scope=ts.TemperatureScope()),
    "verify, tokens": of(circuits.verify, prompt=IDS, intervention="pad", steps=[0.1, 1]),
    "verify, likely tokens": of(circuits.verify, prompt=IDS, intervention="likely", draws=2, steps=[0.1, 1]),
    "verify, heads": of(
        circuits.verify, prompt=IDS, by="head", intervention="corrupt", corrupted=IDS[::-1], top=2, random=1, steps=[1]
    ),
    "mean": of(LeaveOneOut(replacement="mean").attribute),
    "hide": of(LeaveOneOut(replacement="hide").attribute),
    "likely": of(LeaveOneOut(replacement="likely", draws=2).attribute),
    "one out, sites": of(LeaveOneOut().attribute, sites=["embed", 1, "blocks.1.attn.hook_z"]),
    **{f"answer, {name}": of(function, scope=ANSWER) for name, function in ANSWERING.items()},
    "answers, batch": of(ts.attribute_batch, scope=ANSWER, prompts=[T, zoo.LONG_TEXT], sites=["embed", 2]),
    "answer, verify": of(answer_verified, prompt=IDS),
    "answers, measure": of(
        evaluation.measure, prompts=[T], continuations=[[7, 8]],
        methods=[ts.ContinuationScope(), LeaveOneOut(ts.ContinuationScope())],
    ),
    "answers, stability": of(
        evaluation.input_stability, prompts=[T], continuations=[[7, 8]], methods=[ts.ContinuationScope()], draws=1
    ),
    "answer, product": of(baselines.InputXGradient(ANSWER).attribute),
    "answer, out": of(LeaveOneOut(ANSWER).attribute),
    "published": of(IntegratedGradients(steps=2, rule="published", baseline="pad").attribute),
}  # fmt: skip


def calls(*takes: str, but: Collection[str] = ()) -> list[str]:
    """Names of the calls that take all of these arguments."""
    return [n for n, call in CALLS.items() if set(takes) <= set(call.takes) and n not in but]


def ask(name: str, call: str, **given: Any) -> Callable[[], Any]:
    """A call of a shared model, to be made later."""
    return functools.partial(CALLS[call], zoo.shared(name), **given)


def each_call(*takes: str, but: Collection[str] = ()) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", calls(*takes, but=but))


def values(result: Any) -> list[torch.Tensor]:
    """The numbers of any result."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, circuits.TracerTarget):
        return [result.vec, torch.tensor(result.prob, dtype=torch.float64, device="cpu")]
    if isinstance(result, ts.Substitutions):
        return [v.float() for v in values(result.to_frame()[["position", "other_id", "effect"]])]
    if isinstance(result, list):
        return [value for one in result for value in values(one)]
    if isinstance(result, pd.DataFrame):
        return [torch.from_numpy(result.select_dtypes("number").to_numpy(float))]
    if isinstance(result, dict):
        numbers = [v for v in result.values() if isinstance(v, (int, float))]
        return [torch.tensor(numbers, dtype=torch.float64, device="cpu")]
    return [v for v in vars(result).values() if isinstance(v, torch.Tensor)]
