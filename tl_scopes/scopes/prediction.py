"""The scopes of the prediction: a logit, a difference, confidence, the whole distribution."""

from __future__ import annotations

import operator
import types
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.errors import (
    NumericalError,
    ScopeParameterError,
    TargetError,
    check_choice,
    check_number,
    check_seed,
    check_whole,
)
from tl_scopes.results.escapes import literal
from tl_scopes.results.records import FisherInfo
from tl_scopes.rules import Ruled
from tl_scopes.scopes.base import Explained, Read, Scope, Target, plain_target
from tl_scopes.scopes.fisher import FisherGeometry, smallest_rank

_DEFAULT_TAIL = 1e-4
_SMALL_VOCABULARY = 8192


@dataclass(frozen=True)
class SemanticScope(Ruled, Scope):
    """Influence on one target logit: `v = W_U[:, target]`, score `||v^T J_t||_2`.

    `target`: a string that is one token, a token id, `NEXT_TOKEN` (the token that follows in the
    prompt), or None for the model's top prediction. In every vocabulary `" in"` begins a word and
    `"in"` goes on in one (SentencePiece's are `▁in` and `in`; `"▁in"` may be written too). Units:
    logit per unit of residual. arXiv 2601.16407, Semantic Scope.

        >>> attribute(model, "The capital of France is", SemanticScope(" Paris"))
    """

    target: Target = None
    name = "semantic"
    asks = "what moves one token's logit?"
    explains = "the logit of the next token{target}"
    is_of_logits = True
    units = "logit per unit of residual"

    def parameters(self) -> dict[str, Any]:
        return {"target": plain_target(self.target)}

    @property
    def explains_centred_logit(self) -> bool:
        return True

    def explain(self, read: Read) -> Explained:
        token = read.resolve(self.target)
        return Explained.single(read.head.column(token.id), token)

    def scalar(self, read: Read, explained: Explained, at: Read) -> Tensor:
        """The target's logit, before the model's output transform."""
        assert read.raw is not None and explained.target is not None
        return read.raw[explained.target.id]


@dataclass(frozen=True)
class LogitDifferenceScope(Ruled, Scope):
    """Influence on the difference of two logits: `v = W_U[:, a] - W_U[:, b]`.

    `a`, `b`: targets as in `SemanticScope`. Units: logit per unit of residual. The result's target
    is `a`; `b` stands in its scope's parameters, with its id where the prompt decided it. Raises
    `TargetError` if both are one token.
    Source: the semantic scope of arXiv 2601.16407, which is linear in `v`.

        >>> attribute(model, "The capital of France is", LogitDifferenceScope(" Paris", " Lyon"))
    """

    a: Target
    b: Target
    name = "logit_difference"
    asks = "what moves it from one token to another?"
    options = types.MappingProxyType({"target": "a", "versus": "b"})
    target_fields = ("a", "b")
    is_of_logits = True
    units = "logit per unit of residual"

    def parameters(self) -> dict[str, Any]:
        return {"a": plain_target(self.a), "b": plain_target(self.b)}

    @property
    def explains(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        other = f"token {self.b}" if isinstance(self.b, int) else "{b}"
        return f"the logit of{{target}} against that of {other}"

    def explain(self, read: Read) -> Explained:
        a, b = read.resolve(self.a), read.resolve(self.b)
        if a.id == b.id:
            raise TargetError(
                f"both targets are token {a.id} ({literal(a.text)}), whose difference is zero everywhere: "
                "give two different tokens"
            )
        difference = Explained.single(read.head.column(a.id) - read.head.column(b.id), a)
        targets = {"a": (self.a, a), "b": (self.b, b)}
        decided = {k: t for k, (target, t) in targets.items() if not isinstance(target, (str, int))}
        ids = {f"{k}_id": t.id for k, t in decided.items()}
        return replace(difference, resolved={k: t.text for k, t in decided.items()} | ids)

    def scalar(self, read: Read, explained: Explained, at: Read) -> Tensor:
        """The difference of the two logits, before the model's output transform."""
        assert read.raw is not None
        a, b = (at.resolve(target).id for target in (self.a, self.b))
        return read.raw[a] - read.raw[b]


@dataclass(frozen=True)
class TemperatureScope(Ruled, Scope):
    """Influence on confidence: `v = y / ||y||`, so that the score is `||grad_t ||y|| ||_2`.

    `||y||` is the effective inverse temperature of the prediction. Units: norm of y per unit of
    residual. Needs raw weights (`ProcessedWeightsError`), and a final norm with a gain: where it has
    none (OLMo 1, NanoChat) or the same for every coordinate, as in a freshly made model, `||y||` is
    constant and scores would be rounding (`UnsupportedModelError`).
    arXiv 2601.16407, Temperature Scope.

        >>> attribute(model, "The capital of France is", TemperatureScope())
    """

    name = "temperature"
    asks = "what makes the model more or less sure?"
    explains = "the confidence of the prediction"
    needs_gain = True
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
        # In double: squared in float32, a large y would be infinite, and the score zero.
        norm = torch.linalg.vector_norm(y.cpu().double()).to(y)
        if norm == 0:
            raise NumericalError(
                "the final state y is zero here, so y / ||y|| does not exist: check the final norm's "
                "gain and the hooks before it"
            )
        return Explained.single(y / norm)

    def scalar(self, read: Read, explained: Explained, at: Read) -> Tensor:
        """`||y||`."""
        return torch.linalg.vector_norm(read.value)


@dataclass(frozen=True)
class FisherScope(Ruled, Scope):
    """Influence on the whole predicted distribution: `tr(J_t^T F J_t)`, or a part of it.

    F is the Fisher information of the next-token distribution at the final state y, and J_t = dy/dr_t.
    Without `rank` and `samples` it is rank 1, as published.

    Args:
        rank: an int k keeps the k leading eigenpairs of F, `"full"` all of them, a float in (0, 1] the
            fewest that hold that share of tr F.
        samples: so many random vectors in place of eigenvectors: an unbiased estimate of the full score,
            with a standard error. With an int as `rank`, the leading eigenpairs are exact, and the
            samples are projected off their span (Hutch++).
        seed: of the samples.
        distribution: of the samples, "rademacher" or "normal".
        tail: how much of tr F the unlikeliest tokens may hold and be left out (0: nothing). Leaving them
            out can only lower scores, by what `fisher.left_out` of the result says. "auto" is 1e-4 where
            `rank` is an int and there are no samples, the model is in float32 or less, and it has more
            than 8,192 tokens; it is 0 elsewhere. With "auto" the search for eigenpairs stops after a few
            passes over W_U; `fisher.residual` says how near it came, which matters where a flat
            prediction makes the leading eigenvalues nearly equal. A number searches to the end.

    Units: nats per unit^2 (twice the second-order KL divergence).

    Raises:
        ScopeParameterError: for a parameter out of its range.
        ProcessedWeightsError: for an int or a share as `rank`, without samples, on processed weights.

    Source: arXiv 2601.16407, Fisher Scope; Hutch++: Meyer, Musco, Musco, Woodruff, arXiv 2010.09649.

        >>> attribute(model, "The capital of France is", FisherScope(rank=0.9)).fisher.eigenvalues
    """

    rank: int | float | Literal["full"] | None = None
    samples: int | None = None
    seed: int = 0
    distribution: Literal["rademacher", "normal"] = "rademacher"
    tail: int | float | Literal["auto"] = "auto"
    name = "fisher"
    argument = "rank"
    asks = "what moves the whole predicted distribution?"
    explains = "the next-token distribution"
    units = "nats per unit^2 of residual"

    def __post_init__(self) -> None:
        if self.rank is None and self.samples is None:
            object.__setattr__(self, "rank", 1)
        for name in ("rank", "samples", "seed"):
            value = getattr(self, name)
            if hasattr(value, "__index__") and not isinstance(value, bool):
                object.__setattr__(self, name, operator.index(value))
        check_number(
            "rank",
            self.rank,
            lambda rank: rank >= 1 if isinstance(rank, int) else 0 < rank <= 1,
            "an int from 1 to d_model (a number of eigenpairs), a float in (0, 1] (a share of tr F)",
            also=("full", None),
        )
        check_whole("samples", self.samples, 1, also=[None])
        if self.rank == "full" and self.samples is not None:
            raise ScopeParameterError(
                'rank="full" is exact and leaves nothing to sample: drop samples, or give a rank'
            )
        check_choice("distribution", self.distribution, ("rademacher", "normal"))
        share = "a share from 0 to below 1"
        check_number("tail", self.tail, lambda tail: 0 <= tail < 1, share, also=["auto"])
        check_seed(self.seed)

    def parameters(self) -> dict[str, Any]:
        values: dict[str, Any] = {"rank": self.rank}
        if self.samples is not None:
            values |= {
                "samples": self.samples,
                "seed": self.seed,
                "distribution": self.distribution,
            }
        if self.tail != "auto" and self.rank is not None:
            values["tail"] = self.tail
        return values

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
        tail, residual = self._tail(read.raw), 0.0
        tokens = geometry.heaviest(tail) if tail else None
        if self.rank is not None:
            if isinstance(self.rank, int):
                tokens = geometry.kept(tail)
                if self.tail == "auto" and tail:
                    values, vectors, residual = geometry.estimate(self.rank, tail)
                else:
                    values, vectors = geometry.leading(self.rank, tail)
            else:
                values, vectors = geometry.eigenpairs(tail)
            if isinstance(self.rank, float):
                kept = smallest_rank(values, geometry.trace, self.rank)
                values, vectors = values[:kept], vectors[:kept]
        held = float(values.cpu().double().sum())
        info = FisherInfo(
            eigenvalues=tuple(values.cpu().double().tolist()),
            trace=geometry.trace,
            share=min(1.0, held / geometry.trace) if geometry.trace else 1.0,
            samples=self.samples or 0,
            left_out=1 - geometry.share_of(tokens),
            residual=residual,
        )
        weights = values.cpu().double()  # of the exact part; samples count alike
        if self.samples is not None:
            generator = torch.Generator().manual_seed(self.seed)
            g = geometry.sample(self.samples, generator, self.distribution)
            g = g - (g @ vectors.T) @ vectors
            vectors = torch.cat([vectors, g])
        return Explained(vectors, weights, True, self.samples or 0, fisher=info)

    def _tail(self, raw: Tensor) -> float:
        if isinstance(self.tail, str):
            small = len(raw) <= _SMALL_VOCABULARY or raw.dtype == torch.float64
            whole = small or not isinstance(self.rank, int) or self.samples is not None
            return 0.0 if whole else _DEFAULT_TAIL
        # A share must stay within reach of the tokens kept.
        return min(self.tail, (1 - self.rank) / 10) if isinstance(self.rank, float) else self.tail
