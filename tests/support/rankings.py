"""Methods made for tests: scores that are known beforehand, and ablation by plain hooks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tl_scopes.baselines.method import Method, Scored


@dataclass(frozen=True)
class Given(Method):
    """The scores of the first positions; 0 for the others."""

    values: tuple[float, ...] = ()
    name = "given"
    units = "none"

    def scores(self, prompt_run, site) -> Scored:
        out = torch.zeros(len(prompt_run.run), dtype=torch.float64)
        own = torch.tensor(self.values, dtype=torch.float64)[: len(out)]
        out[: len(own)] = own
        return Scored(out)


@dataclass(frozen=True)
class Failing(Method):
    """Raises for prompts of a given length."""

    length: int = 0
    name = "failing"
    units = "none"

    def scores(self, prompt_run, site) -> Scored:
        if len(prompt_run.ids) == self.length:
            raise RuntimeError("no scores for <this> length")
        return Scored(torch.arange(float(len(prompt_run.run))))


@dataclass(frozen=True)
class Embedding(Method):
    """The norm of what it sees at the embedding, where blocks have no part; keeps all of it."""

    seen: list
    name, units = "embedding", "none"

    def parameters(self):
        return {}

    def scores(self, prompt_run, site) -> Scored:
        self.seen.append(prompt_run.activation(site)[0].detach().clone())
        return Scored(self.seen[-1].norm(dim=-1))


@dataclass(frozen=True)
class FailsLater(Embedding):
    """Raises where it is asked for the third time."""

    error: BaseException
    name = "failing"

    def scores(self, prompt_run, site) -> Scored:
        if len(self.seen) == 2:
            raise self.error
        return super().scores(prompt_run, site)


def embedding(model, token: int) -> torch.Tensor:
    """What the hook at the embedding shows of one token."""
    _, cache = model.run_with_cache(torch.tensor([[token]]), names_filter="hook_embed")
    return cache["hook_embed"][0, 0]


def log_probs(model, ids: list[int], position: int, positions=(), by=0.0) -> torch.Tensor:
    """Of the next token at `position`, with embeddings replaced, by a plain hook in a pass of its own."""

    def replace(activation, hook):
        out = activation.clone()
        for t in positions:
            out[:, t] = by
        return out

    with torch.no_grad(), model.hooks([("hook_embed", replace)]):
        return model(torch.tensor([ids]))[0, position].log_softmax(-1)
