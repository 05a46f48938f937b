"""Random scores: what any method must beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from tl_scopes.adapter.sites import Site
from tl_scopes.baselines.method import Method, Scored
from tl_scopes.errors import check_seed
from tl_scopes.jacobian.prompt_run import PromptRun


@dataclass(frozen=True)
class Random(Method):
    """Uniform scores in [0, 1), drawn for each prompt and site alone: in whatever order prompts come,
    and however often, each gets its own. `seed`: of all of them. No units.

        >>> baselines.Random(seed=1).attribute(model, "The capital of France is").top(3)
    """

    seed: int = 0
    name = "random"
    argument = "seed"
    title = "Random scores"
    joining = "none"
    needs_gradients = False

    @property
    def units(self) -> str:
        return "none"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def precision(self, recorded: str) -> str:
        return ""

    def scores(self, prompt_run: PromptRun, site: Site) -> Scored:
        source = generator(f"{self.seed} {site.label} {prompt_run.ids}")
        shape = prompt_run.activation(site).shape[1:-1]
        return Scored(torch.rand(shape, generator=source, dtype=torch.float64, device="cpu"))


def generator(*key: object) -> torch.Generator:
    """A random source of its own for each key, whatever was drawn before."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
