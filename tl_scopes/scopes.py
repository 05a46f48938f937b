"""Scopes: what is explained. Each yields its row vectors at one read position."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.errors import NumericalError, ScopeParameterError, TargetError
from tl_scopes.explain import Explained, Read, Scope, Target, plain_target
from tl_scopes.fisher import FisherGeometry, smallest_rank
from tl_scopes.result import FisherInfo
from tl_scopes.unembedding import working_dtype


@dataclass(frozen=True)
class SemanticScope(Scope):
    """Influence on one target logit: `v = W_U[:, target]`, score `||v^T J_t||_2`.

    `target`: a string that is one token, a token id, `NEXT_TOKEN` (the token that follows in the
    prompt), or None for the model's top prediction. Units: logit per unit of residual.
    arXiv 2601.16407, Semantic Scope.
    """

    target: Target = None
    name = "semantic"
    units = "logit per unit of residual"

    def parameters(self) -> dict[str, Any]:
        return {"target": plain_target(self.target)}

    @property
    def explains_centred_logit(self) -> bool:
        return True

    def explain(self, read: Read) -> Explained:
        token = read.resolve(self.target)
        return Explained.single(read.head.column(token.id), token)


@dataclass(frozen=True)
class LogitDifferenceScope(Scope):
    """Influence on the difference of two logits: `v = W_U[:, a] - W_U[:, b]`.

    `a`, `b`: targets as in `SemanticScope`. Units: logit per unit of residual. The result's target
    is `a`; `b` stands in its scope's parameters.
    """

    a: Target
    b: Target
    name = "logit_difference"
    units = "logit per unit of residual"

    def parameters(self) -> dict[str, Any]:
        return {"a": plain_target(self.a), "b": plain_target(self.b)}

    def explain(self, read: Read) -> Explained:
        a, b = read.resolve(self.a), read.resolve(self.b)
        if a.id == b.id:
            raise TargetError(
                f"both targets are token {a.id} ({a.text!r}), whose difference is zero everywhere: "
                "give two different tokens"
            )
        return Explained.single(read.head.column(a.id) - read.head.column(b.id), a)


@dataclass(frozen=True)
class TemperatureScope(Scope):
    """Influence on confidence: `v = y / ||y||`, so that the score is `||grad_t ||y|| ||_2`.

    `||y||` is the effective inverse temperature of the prediction. Units: norm of y per unit of
    residual. Needs raw weights. arXiv 2601.16407, Temperature Scope.
    """

    name = "temperature"
    units = "norm of y per unit of residual"

    def parameters(self) -> dict[str, Any]:
        return {}

    @property
    def needs_raw_weights(self) -> str | None:
        return (
            "with the final norm's gain folded away ||y|| is constant, so only noise would remain"
        )

    def explain(self, read: Read) -> Explained:
        y = read.value.to(working_dtype(read.value.dtype))
        norm = torch.linalg.vector_norm(y)
        if norm == 0:
            raise NumericalError(
                "the final state y is zero here, so y / ||y|| does not exist: check the final norm's "
                "gain and the hooks before it"
            )
        return Explained.single(y / norm)


@dataclass(frozen=True)
class FisherScope(Scope):
    """Influence on the whole predicted distribution: `tr(J_t^T F J_t)`, or a part of it.

    `rank`: an int k keeps the top k eigenpairs of F, `"full"` all of them, a float in (0, 1] the
    fewest that hold that share of tr F. `samples=n`: n random vectors instead, an unbiased
    estimate of the full score with a standard error; with both, the top k exactly and the samples
    projected off their span (Hutch++). Neither: rank 1, as published.
    `tail`: with a share or "full", how much of tr F the unlikeliest tokens may hold and be left out
    (0: nothing); that can only lower scores. An int rank always takes the whole vocabulary.
    `seed` and `distribution` ("rademacher" or "normal") belong to the samples. Units: nats per unit^2
    (twice the second-order KL). An int or share as rank, alone, needs raw weights.
    arXiv 2601.16407, Fisher Scope; Hutch++: Meyer, Musco, Musco, Woodruff, arXiv 2010.09649.
    """

    rank: int | float | Literal["full"] | None = None
    samples: int | None = None
    seed: int = 0
    distribution: Literal["rademacher", "normal"] = "rademacher"
    tail: float = 1e-6
    name = "fisher"
    units = "nats per unit^2 of residual"

    def __post_init__(self) -> None:
        if self.rank is None and self.samples is None:
            object.__setattr__(self, "rank", 1)
        for name in ("rank", "samples", "seed"):
            value = getattr(self, name)
            if hasattr(value, "__index__") and not isinstance(value, bool):
                object.__setattr__(self, name, operator.index(value))
        rank_is_number = isinstance(self.rank, (int, float)) and not isinstance(self.rank, bool)
        full = isinstance(self.rank, str) and self.rank == "full"
        if not (self.rank is None or full or rank_is_number):
            raise ScopeParameterError(
                f'rank is {self.rank!r}; allowed: an int from 1 to d_model, a share in (0, 1], "full"'
            )
        if isinstance(self.rank, int) and self.rank < 1:
            raise ScopeParameterError(f"rank is {self.rank}; allowed: 1 to d_model")
        if isinstance(self.rank, float) and not 0 < self.rank <= 1:
            raise ScopeParameterError(
                f"rank is the float {self.rank}; a share of tr F lies in (0, 1]; "
                "give an int for a number of eigenpairs"
            )
        if self.samples is not None and (
            isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1
        ):
            raise ScopeParameterError(
                f"samples is {self.samples!r}; allowed: a whole number from 1, or None for none"
            )
        if self.rank == "full" and self.samples is not None:
            raise ScopeParameterError(
                'rank="full" is exact and leaves nothing to sample: drop samples, or give a rank'
            )
        if self.distribution not in ("rademacher", "normal"):
            raise ScopeParameterError(
                f'distribution is {self.distribution!r}; allowed: "rademacher", "normal"'
            )
        if not isinstance(self.tail, (int, float)) or not 0 <= self.tail < 1:
            raise ScopeParameterError(f"tail is {self.tail!r}; allowed: a share from 0 to below 1")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 63:
            raise ScopeParameterError(f"seed is {self.seed!r}; allowed: an int from 0 to 2**63 - 1")

    def parameters(self) -> dict[str, Any]:
        sampled = {"samples": self.samples, "seed": self.seed, "distribution": self.distribution}
        return {"rank": self.rank, **(sampled if self.samples else {}), "tail": self.tail}

    @property
    def needs_raw_weights(self) -> str | None:
        if self.samples is not None or self.rank == "full":
            return None
        return (
            "with the final norm's gain folded away F is another quadratic form, whose leading "
            'eigenvectors differ (rank="full" and samples=n stay right)'
        )

    def validate(self, d_model: int) -> None:
        if isinstance(self.rank, int) and self.rank > d_model:
            raise ScopeParameterError(
                f"rank {self.rank} is over d_model: F of this model has rank {d_model} at most; "
                f'give 1 to {d_model}, or "full"'
            )

    def explain(self, read: Read) -> Explained:
        assert read.raw is not None
        geometry = FisherGeometry.at(read.head, read.raw)
        values = read.raw.new_zeros(0)
        vectors = read.raw.new_zeros(0, read.head.d_model)
        if self.rank is not None:
            if isinstance(self.rank, int):
                values, vectors = geometry.leading(self.rank)
            elif isinstance(self.rank, float):
                values, vectors = geometry.eigenpairs(min(self.tail, (1 - self.rank) / 10))
                kept = smallest_rank(values, geometry.trace, self.rank)
                values, vectors = values[:kept], vectors[:kept]
            else:
                values, vectors = geometry.eigenpairs(self.tail)
        held = float(values.double().sum())
        info = FisherInfo(
            eigenvalues=tuple(values.double().tolist()),
            trace=geometry.trace,
            share=min(1.0, held / geometry.trace) if geometry.trace else 1.0,
            samples=self.samples or 0,
        )
        weights = values.double().cpu()
        if self.samples is not None:
            generator = torch.Generator().manual_seed(self.seed)
            g = geometry.sample(self.samples, generator, self.distribution)
            g = g - (g @ vectors.T) @ vectors
            vectors = torch.cat([vectors, g])
            even = weights.new_full((self.samples,), 1 / self.samples)
            weights = torch.cat([weights, even])
        return Explained(vectors, weights, True, self.samples or 0, fisher=info)


@dataclass(frozen=True)
class FunctionScope(Scope):
    """Influence on any scalar of the logits: `v` is the gradient of `fn` at `y`.

    `fn` takes the logits of one position, Float[Tensor, "d_vocab"] after the model's output
    transform, in float32 at least, and returns a differentiable scalar: entropy, a margin, a
    log-probability, KL to a reference. `label` names it in results. Units: fn per unit of residual.
    """

    fn: Callable[[Float[Tensor, "d_vocab"]], Tensor]
    label: str | None = None
    name = "function"
    units = "fn per unit of residual"

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ScopeParameterError(
                f"fn is {self.fn!r}; give a function from the logits [d_vocab] to a scalar tensor"
            )

    def parameters(self) -> dict[str, Any]:
        return {"fn": self.label or getattr(self.fn, "__name__", type(self.fn).__name__)}

    @property
    def explains_centred_logit(self) -> bool:
        return True

    def explain(self, read: Read) -> Explained:
        assert read.raw is not None
        with torch.enable_grad():
            raw = read.raw.detach().requires_grad_()
            # A clone: fn may edit in place, to ban a token, say.
            value = self.fn(read.head.logits(raw.clone()))
            if not isinstance(value, Tensor) or value.numel() != 1:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ScopeParameterError(
                    f"fn returned {got}; it must return a tensor with one number"
                )
            if not value.requires_grad:
                raise ScopeParameterError(
                    "fn's value does not depend differentiably on the logits: use torch operations "
                    "on the tensor it is given, without .detach(), .item() or argmax"
                )
            (slope,) = torch.autograd.grad(value.sum(), raw, allow_unused=True)
        if slope is None or not torch.isfinite(slope).all():
            what = "none" if slope is None else "one that is not finite"
            raise ScopeParameterError(
                f"fn has {what} as its gradient with respect to the logits of this prompt; "
                "check it at these logits (0 * log 0 in an entropy, say)"
            )
        return Explained.single(read.head.pull(slope[:, None])[0])


@dataclass(frozen=True, eq=False)
class DirectionScope(Scope):
    """Influence on `<v, h>`, a given direction read at any site: probe, steering vector, SAE row.

    `v`: Float[Tensor, "d"] of the width of the activation at `site` (with heads, [head_index,
    d_head]). `site`: a layer, hook name or `"resid(l)"`; None reads the final state `y`.
    `position`: the read position; None takes the call's. Score `||v^T dh/dr_t||_2`. Units: unit of
    `<v, h>` per unit of residual. The model is run no further than `site`, so results at other
    sites than the final state carry no prediction.
    """

    v: Float[Tensor, "*d"]
    site: str | int | None = None
    position: int | None = None
    label: str | None = field(default=None, kw_only=True)
    name = "direction"
    units = "unit of <v, h> per unit of residual"

    def __post_init__(self) -> None:
        try:
            v = torch.as_tensor(self.v).detach()
        except (TypeError, ValueError, RuntimeError):
            v = None
        if v is None or v.dtype.is_complex:
            got = (
                f"a {type(self.v).__name__}" if v is None else f"{v.dtype} of shape {list(v.shape)}"
            )
            raise ScopeParameterError(
                f"the direction is {got}; give a real vector (tensor, array or list) of the site's "
                "width"
            )
        if not v.dtype.is_floating_point:
            v = v.float()
        if v.ndim == 0 or not torch.isfinite(v).all():
            raise ScopeParameterError(
                f"the direction has shape {tuple(v.shape)} and "
                f"{int((~torch.isfinite(v)).sum())} entries that are not finite; "
                "give a finite vector of the site's width"
            )
        object.__setattr__(self, "v", v)
        object.__setattr__(self, "read_site", self.site)

    def parameters(self) -> dict[str, Any]:
        shape = list(self.v.shape)
        norm = float(self.v.norm())
        return {"label": self.label, "site": self.site, "shape": shape, "norm": norm}

    def explain(self, read: Read) -> Explained:
        if self.v.shape != read.value.shape:
            where = "the final state" if self.site is None else f"site {self.site!r}"
            raise ScopeParameterError(
                f"the direction has shape {tuple(self.v.shape)}, the activation at {where} has "
                f"{tuple(read.value.shape)} per position: give a vector of that shape"
            )
        v = self.v.to(read.value.device, working_dtype(read.value.dtype))
        if not torch.isfinite(torch.linalg.vector_norm(v)):
            raise ScopeParameterError(
                f"the direction's norm {float(self.v.double().norm()):.3g} is too large for the "
                f"model's {v.dtype}: scale it down, the score is linear in it"
            )
        return Explained.single(v)
