"""The methods of the published tables, by the names they have in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tl_scopes as ts
from tl_scopes import baselines
from tl_scopes.adapter.sites import Site
from tl_scopes.baselines.method import Method, Scored
from tl_scopes.evaluation.methods import AnyMethod
from tl_scopes.jacobian.prompt_run import PromptRun

RANDOM, IG, IXG = "Random", "IG", "Input x Gradient"
SEMANTIC, TEMPERATURE, FISHER = "Semantic", "Temperature", "Fisher k=1"
FISHER4, PATH, IG_PAD = "Fisher k=4", "Semantic path", "IG from PAD"
SCOPES = (SEMANTIC, TEMPERATURE, FISHER)
BASELINES = (IG, IXG)
MAIN = (RANDOM, *BASELINES, *SCOPES)
AGREEMENT = (RANDOM, PATH, IG, IXG, SEMANTIC, TEMPERATURE, FISHER, FISHER4)
RANKS = (1, 4, 16, 64)


def main() -> dict[str, AnyMethod]:
    """The six of the main table. The target is the text's own last token, as in the authors' scripts."""
    target = ts.NEXT_TOKEN
    return {
        RANDOM: baselines.Random(),
        IG: baselines.IntegratedGradients(target, steps=5, rule="published"),
        IXG: baselines.InputXGradient(target),
        SEMANTIC: ts.SemanticScope(target),
        TEMPERATURE: ts.TemperatureScope(),
        FISHER: ts.FisherScope(),
    }


def agreement() -> dict[str, AnyMethod]:
    """Those, and the two that the authors compare with leave-one-out in place of IG and Fisher k=1."""
    more: dict[str, AnyMethod] = {
        FISHER4: ts.FisherScope(rank=4),
        PATH: baselines.SemanticPath(ts.NEXT_TOKEN, steps=10),
    }
    return main() | more


def rank(k: int) -> str:
    return f"Fisher k={k}"


def ranks() -> dict[str, AnyMethod]:
    """Fisher scopes of higher rank, and IG from another baseline."""
    scopes: dict[str, AnyMethod] = {rank(k): ts.FisherScope(rank=k) for k in RANKS if k > 1}
    ig = baselines.IntegratedGradients(ts.NEXT_TOKEN, steps=5, rule="published", baseline="pad")
    return scopes | {IG_PAD: ig}


def randomised() -> dict[str, AnyMethod]:
    """The Scopes, as the authors do; input x gradient; and random scores, which any test must fail."""
    chosen = main()
    return {name: chosen[name] for name in (*SCOPES, IXG, RANDOM)}


RULES: dict[str, ts.rules.Rules] = {
    "softmax at temperature 2": ts.rules.Rules(softmax_temperature=2),
    "attention split": ts.rules.Rules(split_products="attention"),
    "MLP split": ts.rules.Rules(split_products="mlp"),
    "norms held": ts.rules.Rules(frozen="norms"),
    "GIM": ts.rules.GIM(),
}
OVER_TOKENS = 'measure="tokens"'


def ruled(scope: str, rule: str) -> str:
    return f"{scope}, {rule}"


def rules() -> dict[str, AnyMethod]:
    """Every Scope plain, by each gradient rule, and over likely tokens."""
    found: dict[str, AnyMethod] = {}
    for name in SCOPES:
        plain = main()[name]
        found[name] = plain
        found |= {ruled(name, rule): own.on(plain) for rule, own in RULES.items()}
        found[ruled(name, OVER_TOKENS)] = OverTokens(plain)
    return found


@dataclass(frozen=True)
class OverTokens(Method):
    """A scope's scores over the tokens that were likely in a place, in the place of norms."""

    scope: Any

    name = "tokens"

    @property
    def units(self) -> str:
        return "of what the scope explains"

    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        found = ts.attribute(
            prompt_run.view.model,
            list(prompt_run.ids),
            self.scope,
            sites=site.label,
            position=prompt_run.position,
            measure="tokens",
        )
        return Scored(found.scores[0])
