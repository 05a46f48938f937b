"""Results of `tl_scopes.circuits`: what they share, effects of components, and their verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.errors import ScopeParameterError, check_choice
from tl_scopes.results.base import Result
from tl_scopes.results.escapes import isolated
from tl_scopes.results.fields import Axis, Index
from tl_scopes.results.frames import long_table
from tl_scopes.results.records import Agreement, Candidate, Provenance, ScopeInfo, Token

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CircuitResult(Result):
    """What all of them hold: the prompt as it was fed, and what was explained at `position`.

    `squared`: whether numbers are squared and weighted over several vectors (Fisher), in `units`
    squared-per-unit; else they are signed and linear. `frozen`: what gradients held constant,
    among "patterns" and "norms". `prediction`: the top next tokens (empty where a `DirectionScope`
    reads inside the model).
    """

    # The column of `to_frame` by which a terminal shows the largest rows.
    ranked_by: ClassVar[str]

    tokens: Int[Tensor, "pos"]
    str_tokens: Annotated[tuple[str, ...], Axis("pos"), Axis("through"), Axis("source")]
    has_bos: bool
    position: Annotated[int, Index("pos")]
    scope: ScopeInfo
    target: Token | None
    units: str
    squared: bool
    frozen: tuple[str, ...]
    prediction: tuple[Candidate, ...]
    provenance: Provenance


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Components(CircuitResult):
    """First-order effects of everything that is written into the residual stream.

    One row a component, in the order of the forward pass; `labels` as TransformerLens writes them
    (`embed`, `L5H2`, `5_attn_out`, `5_mlp_out`, `L5N17`, `5_b_O`), `kinds` among "embed", "head",
    "attn", "mlp", "neuron", "bias" and "layer", with `layers` and `indices` (head or neuron; -1
    where there is none). The rows partition what is written, so that the direct effects of each
    vector add up to `whole`.

    `total[c, t]`: gradient where component c writes at position t, times the write (less the
    baseline). `direct[c, t]`: gradient at the last stream before what is read, times the write.
    `sensitivity[c, t]`: norm of the gradient (for a head, with respect to its z). For a scope with
    several vectors these are `sum_i weights[i] x_i^2` of the effects by vector, `total_vectors` and
    `direct_vectors`, whose signs are as arbitrary as those of eigenvectors.
    """

    ranked_by: ClassVar[str] = "total"

    labels: Annotated[tuple[str, ...], Axis("component")]
    kinds: Annotated[tuple[str, ...], Axis("component")]
    layers: Annotated[tuple[int, ...], Axis("component")]
    indices: Annotated[tuple[int, ...], Axis("component")]
    baseline: str
    total: Float[Tensor, "component pos"]
    direct: Float[Tensor, "component pos"]
    sensitivity: Float[Tensor, "component pos"]
    total_vectors: Float[Tensor, "vector component pos"]
    direct_vectors: Float[Tensor, "vector component pos"]
    weights: Float[Tensor, "vector"]
    whole: Float[Tensor, "vector"]

    def summed(self, what: str = "total") -> Float[Tensor, "component"]:
        """Effects of each component over all positions at once (`what`: "total" or "direct").

        Signed effects add up; for several vectors each vector's add up before they are squared.

            >>> dict(zip(components.labels, components.summed().tolist()))
        """
        check_choice("what", what, ("total", "direct"))
        each = getattr(self, f"{what}_vectors").sum(-1)
        return self.weights @ each.square() if self.squared else self.weights @ each

    def heads(self, what: str = "total") -> Float[Tensor, "layer head_index pos"]:
        """The rows of heads as a grid (`what`: "total", "direct" or "sensitivity").

        Examples:
            >>> components.heads()[5, 1]  # head 1 of layer 5, by position
        """
        check_choice("what", what, ("total", "direct", "sensitivity"))
        return self._grid(getattr(self, what))

    def head_grid(self, what: str = "total") -> Float[Tensor, "layer head_index"]:
        """Effects of every head over all positions at once, as a grid (`what`: "total" or "direct").

        Examples:
            >>> components.head_grid().argmax()
        """
        return self._grid(self.summed(what)[:, None])[..., 0]

    def _grid(self, values: Tensor) -> Tensor:
        rows = [i for i, kind in enumerate(self.kinds) if kind == "head"]
        if not rows:
            raise ScopeParameterError('this result has no heads: make it with by="head"')
        n_layers = len({self.layers[i] for i in rows})
        return values[rows].reshape(n_layers, -1, values.shape[-1])

    def top(
        self, k: int = 5, kind: str | None = None, what: str = "total"
    ) -> list[tuple[str, float]]:
        """The `k` components of a kind with the largest effect over all positions, in magnitude.

        Examples:
            >>> components.top(3, kind="head")
        """
        values = self.summed(what)
        rows = [i for i, own in enumerate(self.kinds) if kind in (None, own)]
        if not rows:
            raise ScopeParameterError(
                f"kind is {kind!r}; this result has {sorted(set(self.kinds))}"
            )
        rows.sort(key=lambda i: -abs(float(values[i])))
        return [(self.labels[i], float(values[i])) for i in rows[: max(k, 0)]]

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a component and position.

        Examples:
            >>> components.to_frame().groupby("component")["total"].sum()
        """
        columns = {
            "component": (0, self.labels),
            "kind": (0, self.kinds),
            "layer": (0, self.layers),
            "index": (0, self.indices),
            "position": (1, range(len(self.str_tokens))),
            "token": (1, self.str_tokens),
            "total": self.total,
            "direct": self.direct,
            "sensitivity": self.sensitivity,
        }
        return long_table(self.total.shape, columns)

    def __repr__(self) -> str:
        top = ", ".join(f"{label} {value:.3g}" for label, value in self.top(3))
        return f"Components({isolated(str(self.scope))}, {len(self.labels)} components; top by total: {top})"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Verification(CircuitResult):
    """Predicted changes against real interventions, one row a token or head that was ablated.

    `scores`: what the attribution says of it. `predicted`: the first-order change of the scope's
    scalar, `measured`: the real one (Fisher: the quadratic form of the change of y, in nats).
    `chosen`: "top" or "random". `rank_agreement`: Spearman's of |scores| and |measured|;
    `prediction_agreement`: of predicted and measured. `top_overlap`: share of the `k` rows with the
    largest scores that are among the k of the largest |measured|. `slope`: of measured on predicted
    by least squares through zero (1: calibrated). `step_errors[i]`: median over the rows of
    |measured - predicted| over |predicted| when the intervention is scaled to `steps[i]`.
    """

    ranked_by: ClassVar[str] = "measured"

    by: Literal["token", "head"]
    intervention: str
    labels: Annotated[tuple[str, ...], Axis("row")]
    chosen: Annotated[tuple[str, ...], Axis("row")]
    scores: Float[Tensor, "row"]
    predicted: Float[Tensor, "row"]
    measured: Float[Tensor, "row"]
    rank_agreement: Agreement
    prediction_agreement: Agreement
    k: int
    top_overlap: float
    slope: float
    steps: Annotated[tuple[float, ...], Axis("step")]
    step_measured: Float[Tensor, "step row"]
    step_errors: Annotated[tuple[float, ...], Axis("step")]

    @property
    def step_curve(self) -> list[tuple[float, float]]:
        """`(step, error)`: how far first order is off at each share of the whole intervention."""
        return list(zip(self.steps, self.step_errors))

    def first_order_until(self, error: float = 0.1) -> float:
        """The largest step up to which errors stay below `error`; 0 if none does.

        Examples:
            >>> verification.first_order_until(0.2)
        """
        good = 0.0
        for step, own in sorted(self.step_curve):
            if not own < error:
                break
            good = step
        return good

    def top(self, k: int = 5) -> list[tuple[str, float, float]]:
        """The `k` rows with the largest real changes as `(label, predicted, measured)`.

        Examples:
            >>> verification.top(3)
        """
        order = self.measured.abs().argsort(descending=True, stable=True)[: max(k, 0)].tolist()
        return [(self.labels[i], float(self.predicted[i]), float(self.measured[i])) for i in order]

    def to_frame(self) -> pd.DataFrame:
        """pandas table: one row a token or head.

        Examples:
            >>> verification.to_frame().plot.scatter("predicted", "measured")
        """
        columns = {
            "labels": (0, self.labels),
            "chosen": (0, self.chosen),
            "scores": self.scores,
            "predicted": self.predicted,
            "measured": self.measured,
        }
        return long_table(self.scores.shape, columns)

    def __repr__(self) -> str:
        ranks, signs = self.rank_agreement, self.prediction_agreement
        return (
            f"Verification({len(self.labels)} {self.by}s, {self.intervention}; rank agreement of "
            f"scores {ranks.value:.2f} [{ranks.low:.2f}, {ranks.high:.2f}], of predicted changes "
            f"{signs.value:.2f} [{signs.low:.2f}, {signs.high:.2f}], slope {self.slope:.2f}, "
            f"first order up to a step of {self.first_order_until():g})"
        )
