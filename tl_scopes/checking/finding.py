"""What a check of a model found: plain values, without tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from tl_scopes import render
from tl_scopes.render.colours import number
from tl_scopes.results.base import Result
from tl_scopes.results.records import KINDS, Provenance
from tl_scopes.results.storage import plain

if TYPE_CHECKING:
    import pandas as pd

State = Literal["passed", "failed", "refused", "skipped"]
STATES: tuple[State, ...] = ("passed", "failed", "refused", "skipped")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `state`: `"passed"`; `"failed"`: results would be wrong, or there are none, on this model;
    `"refused"`: a function of the package is not offered on this model, others are; `"skipped"`: it
    could not be told here. `measured` and `allowed` are words, `value` and `limit` the numbers in
    them where there are some. `remedy`: what to do, where something is to do.
    """

    name: str
    state: State
    measured: str
    allowed: str = ""
    remedy: str = ""
    value: float | None = None
    limit: float | None = None


def held(value: float, limit: float, measured: str, remedy: str) -> Finding:
    """Passed where `value` is within `limit`; NaN is not."""
    fits = value <= limit
    return Finding(
        "",
        "passed" if fits else "failed",
        measured,
        number(limit),
        "" if fits else remedy,
        value,
        limit,
    )


def skipped(why: str, remedy: str) -> Finding:
    return Finding("", "skipped", why, remedy=remedy)


@dataclass(frozen=True)
class Cost:
    """What one call of `attribute` takes: `tokens` in the prompt, `seconds`, `passes` (seconds over those
    of a bare forward pass), and `mib` at its peak over what there was before (None: it cannot be told on
    this device). Of a scope that is refused `seconds` is None, and `refused` says why."""

    scope: str
    tokens: int
    seconds: float | None
    passes: float | None
    mib: float | None
    refused: str = ""


@dataclass(frozen=True, repr=False)
class ModelCheck(Result):
    """What `tl_scopes.check` found.

    `findings`: in the order looked at. `costs`: one entry a scope. `fits`: about how many tokens a
    prompt may have, an estimate: None where it cannot be told. `provenance`: of which model (None: it is
    none that the package takes). `machine`: what it ran on. `seconds`: how long it took.
    """

    findings: tuple[Finding, ...]
    costs: tuple[Cost, ...] = ()
    fits: int | None = None
    free_mib: float | None = None
    provenance: Provenance | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing failed. What was refused or skipped is not wrong, but is not there either."""
        return not self.of("failed")

    def of(self, state: State) -> tuple[Finding, ...]:
        """The findings in one state."""
        return tuple(each for each in self.findings if each.state == state)

    def failing(self, name: str, why: str) -> ModelCheck:
        """The same with the finding of that name failed, unless it is: by what was found elsewhere."""
        if self[name].state == "failed":
            return self
        findings = (Finding(name, "failed", why) if f.name == name else f for f in self.findings)
        return replace(self, findings=tuple(findings))

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name. Raises KeyError."""
        return {each.name: each for each in self.findings}[name]

    @property
    def subject(self) -> str:
        """The model, its class, dtype and device, in words."""
        model = self.provenance
        if model is None:
            return "not a model that scopes take"
        return f"{model.model}, {model.model_class}, {model.dtype} on {model.device}"

    @property
    def verdict(self) -> str:
        """How many passed, failed, were refused and skipped."""
        counts = [(len(self.of(state)), state) for state in STATES]
        words = ", ".join(f"{n} {state}" for n, state in counts if n or state == "passed")
        return f"{words}, in {self.seconds:.0f} s"

    @property
    def room(self) -> str:
        """How long a prompt fits, in words; "" where it cannot be told."""
        if self.fits is None or self.free_mib is None:
            return ""
        return (
            f"A prompt of about {self.fits:,} tokens fits (an estimate, for one direction, from "
            f"{self.free_mib / 1024:,.1f} GiB that are free and the model's context)"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; `passed` and `subject` too."""
        return {"passed": self.passed, "subject": self.subject, **dataclasses.asdict(self)}

    def to_frame(self) -> pd.DataFrame:
        """pandas table: one row a finding."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(each) for each in self.findings])

    def to_json(self) -> str:
        """`to_dict` on one line. A number that JSON lacks is null."""
        return json.dumps(_finite(plain(self.to_dict())), allow_nan=False)

    def __repr__(self) -> str:
        return f"ModelCheck({self.subject}: {self.verdict})"


render.PAGES[ModelCheck] = "tl_scopes.checking.page:view"
render.TERMINALS[ModelCheck] = "tl_scopes.checking.table:show"
KINDS.update({kind.__name__: kind for kind in (Finding, Cost)})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return None if value.keys() == {"__float__"} else {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
