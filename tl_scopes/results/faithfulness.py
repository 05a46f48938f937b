"""How much of what is explained circuits of growing size keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.errors import ScopeParameterError, check_choice, check_number, check_seed
from tl_scopes.results.base import Result
from tl_scopes.results.fields import Axis
from tl_scopes.results.records import Provenance, ScopeInfo
from tl_scopes.results.statistics import RESAMPLES

if TYPE_CHECKING:
    import pandas as pd

What = Literal["f", "cpr", "cmd"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Faithfulness(Result):
    """What circuits of several sizes keep of a scope's scalar: see `tl_scopes.circuits.faithfulness`.

    One entry a size: `sizes` (how many of the `candidates` nodes or edges were asked for), `shares` (of
    all), `kept` (how many of them are in the circuit, after those that lead nowhere were dropped).

    `metrics[pair, size]`: the scalar in a run with the circuit alone, in the scalar's own unit; `clean`
    and `corrupted` of each pair: with everything, and with nothing. `random`: the same of random
    circuits of the same sizes, one curve a row; `exact`: of nodes ordered by patching each alone (None
    unless asked for).
    """

    of: Literal["nodes", "edges"]
    ablation: str
    candidates: int
    sizes: Annotated[tuple[int, ...], Axis("size")]
    shares: Annotated[tuple[float, ...], Axis("size")]
    kept: Annotated[tuple[int, ...], Axis("size")]
    metrics: Float[Tensor, "pair size"]
    clean: Float[Tensor, "pair"]
    corrupted: Float[Tensor, "pair"]
    random: Float[Tensor, "random pair size"]
    exact: Float[Tensor, "pair size"] | None
    scope: ScopeInfo
    units: str
    squared: bool
    provenance: Provenance

    @property
    def f(self) -> Float[Tensor, "size"]:
        """Faithfulness by size: `(m(circuit) - m(nothing)) / (m(all) - m(nothing))`, a ratio of means
        over pairs; 0 is the corrupted prompt, 1 the clean one.

        Examples:
            >>> dict(zip(faithfulness.sizes, faithfulness.f.tolist()))
        """
        return self._f(self.metrics)

    @property
    def random_f(self) -> Float[Tensor, "random size"]:
        """`f` of the random circuits, one curve a row."""
        return self._f(self.random)

    @property
    def exact_f(self) -> Float[Tensor, "size"]:
        """`f` of the circuits by exact patching. Raises `ScopeParameterError` where there are none."""
        return self._f(self._exact())

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: the area under `f` over the share of what is kept, by the trapezoid
        rule, from the smallest to the largest share.

        Raises `ScopeParameterError` for a single size, which has no area.
        Source: MIB, arXiv 2504.13151.
        """
        return float(self._area("cpr", self.f))

    @property
    def cmd(self) -> float:
        """Circuit-model distance: the area under `|1 - f|`, likewise; 0 is best."""
        return float(self._area("cmd", self.f))

    @property
    def random_cpr(self) -> Float[Tensor, "random"]:
        """`cpr` of each random curve."""
        return self._area("cpr", self.random_f)

    @property
    def random_cmd(self) -> Float[Tensor, "random"]:
        """`cmd` of each random curve."""
        return self._area("cmd", self.random_f)

    @property
    def exact_cpr(self) -> float:
        """`cpr` of the circuits by exact patching."""
        return float(self._area("cpr", self.exact_f))

    @property
    def exact_cmd(self) -> float:
        """`cmd` of the circuits by exact patching."""
        return float(self._area("cmd", self.exact_f))

    def interval(
        self, what: What = "f", confidence: float = 0.95, seed: int = 0
    ) -> Float[Tensor, "bound *size"]:
        """Percentile bootstrap interval over pairs, its lower and its upper bound: of `f` at each size,
        or of `"cpr"` or `"cmd"`. Pairs are resampled whole: numerator and denominator from the same ones.
        NaN of one pair.

        Raises `ScopeParameterError` unless `confidence` is between 0 and 1.

            >>> low, high = faithfulness.interval("cpr")
        """
        return self._interval(self.metrics, what, confidence, seed)

    def exact_interval(
        self, what: What = "f", confidence: float = 0.95, seed: int = 0
    ) -> Float[Tensor, "bound *size"]:
        """`interval` of the circuits by exact patching."""
        return self._interval(self._exact(), what, confidence, seed)

    def _interval(self, metrics: Tensor, what: str, confidence: float, seed: int) -> Tensor:
        check_choice("what", what, ("f", "cpr", "cmd"))
        check_number("confidence", confidence, lambda x: 0 < x < 1, "a number between 0 and 1")
        check_seed(seed)
        n = len(metrics)
        if n < 2:
            return torch.full(
                (2, *([len(self.sizes)] if what == "f" else [])), torch.nan, device="cpu"
            )
        drawn = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
        weights = np.zeros((RESAMPLES, n))
        np.add.at(weights, (np.arange(RESAMPLES)[:, None], drawn), 1 / n)
        table = torch.cat([self.clean[:, None], self.corrupted[:, None], metrics], 1).double()
        means = torch.from_numpy(weights) @ table
        whole, nothing = means[:, :1], means[:, 1:2]
        f = (means[:, 2:] - nothing) / (whole - nothing)
        # A resample whose two ends are the same has no f.
        f = f[f.isfinite().all(1)]
        values = f if what == "f" else self._area(what, f)
        ends = torch.tensor(
            [(1 - confidence) / 2, (1 + confidence) / 2], dtype=values.dtype, device="cpu"
        )
        return torch.quantile(values, ends, dim=0)

    def _f(self, metrics: Tensor) -> Tensor:
        nothing, whole = self.corrupted.double().mean(), self.clean.double().mean()
        return (metrics.double().mean(-2) - nothing) / (whole - nothing)

    def _area(self, what: str, f: Float[Tensor, "*curve size"]) -> Float[Tensor, "*curve"]:
        if len(self.shares) < 2:
            raise ScopeParameterError(
                f"{what} is an area over sizes, and this result has one: use f"
            )
        height = f.double() if what == "cpr" else (1 - f.double()).abs()
        return torch.trapezoid(
            height, torch.tensor(self.shares, dtype=torch.float64, device="cpu"), dim=-1
        )

    def _exact(self) -> Tensor:
        if self.exact is None:
            raise ScopeParameterError("no nodes were patched one by one: ask for it by exact=True")
        return self.exact

    def curves(self) -> dict[str, Float[Tensor, "size"]]:
        """`f` of every curve, by name: "scores", "exact", "random 0", ..."""
        named = {"scores": self.f} | ({} if self.exact is None else {"exact": self.exact_f})
        return named | {f"random {i}": f for i, f in enumerate(self.random_f)}

    def to_frame(self) -> pd.DataFrame:
        """pandas table: one row a curve and size; intervals (95%, over pairs) where pairs are several.

        Examples:
            >>> faithfulness.to_frame().query("curve == 'scores'")[["share", "f", "low", "high"]]
        """
        import pandas as pd

        own = {"scores": self.metrics, "exact": self.exact}
        rows = []
        for curve, f in self.curves().items():
            metrics = own.get(curve)
            bounds = torch.full((2, len(self.sizes)), torch.nan, device="cpu")
            if metrics is not None:
                bounds = self._interval(metrics, "f", 0.95, 0)
            columns = zip(self.sizes, self.shares, f.tolist(), *bounds.tolist())
            for size, share, value, low, high in columns:
                rows.append((curve, size, share, value, low, high))
        return pd.DataFrame(rows, columns=["curve", "size", "share", "f", "low", "high"])

    def __repr__(self) -> str:
        told = ", ".join(f"{n}: {f:.2f}" for n, f in zip(self.sizes, self.f.tolist()))
        area = f"CPR {self.cpr:.3f}, CMD {self.cmd:.3f}; " if len(self.sizes) > 1 else ""
        return (
            f"Faithfulness({len(self.clean)} pairs, {self.ablation}; {area}f by {self.of} {told})"
        )
