"""The result of an evaluation of methods over prompts: summaries, tests, verdicts, report, files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_scopes.errors import ResultFileError, ScopeParameterError
from tl_scopes.results.base import Result, render
from tl_scopes.results.card_tables import CELL, Cell, compare, grouped, lead, summarise, tables
from tl_scopes.results.fields import check_fields
from tl_scopes.results.frames import checked, read_frames, write_frames
from tl_scopes.results.metrics import AOPC, MAIN, metric
from tl_scopes.results.records import Provenance
from tl_scopes.results.statistics import summary
from tl_scopes.results.storage import rebuilt

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Rank correlation from which on maps of a model whose weights are gone still look like those of the
# model. Some is left even then: a token's place, and the size of its embedding, matter in random blocks
# too. On the bundled models gradient maps end between -0.3 and 0.55, attention rollout above 0.8.
THRESHOLD = 0.7

COLUMNS: dict[str, dict[str, type]] = {
    "rows": {
        "index": int, "tokens": int, "method": str, "metric": str, "replacement": str,
        "fraction": float, "value": float, "error": str,
    },
    "randomisation": {
        "index": int, "method": str, "depth": int, "blocks": str, "similarity": float,
    },
    "stability": {
        "index": int, "method": str, "draw": int, "scale": float, "spearman": float, "change": float,
    },
    "spectra": {"index": int, "k": int, "eigenvalue": float, "share": float, "trace": float},
}  # fmt: skip
_KEYS = {
    "rows": ("index", "method", *CELL),
    "randomisation": ("index", "method", "depth"),
    "stability": ("index", "method", "draw", "scale"),
    "spectra": ("index", "k"),
}


def verdicts(randomisation: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Whether each method's maps depend on the model's weights, by the randomisation check.

    `randomisation`: index, method, depth, similarity, as `tl_scopes.evaluation.randomisation` gives
    them. Columns: method, depth (the greatest: blocks randomised), similarity (mean over prompts at that
    depth, to the maps of the model as it was), low and high (95% bootstrap interval), n, verdict: "pass"
    where even `high` is below `threshold` (0.7), "fail" where even `low` is not (a map that ignores the model
    stays at 1), else, or of fewer than two prompts, "undecided". Raises `ScopeParameterError`.
    """
    import pandas as pd

    missing = {"method", "depth", "similarity"} - set(getattr(randomisation, "columns", ()))
    if missing:
        raise ScopeParameterError(
            f"the frame has no column {min(missing)!r}: give what randomisation returned"
        )
    if isinstance(threshold, bool) or not -1 <= threshold <= 1:
        raise ScopeParameterError(
            f"threshold is {threshold!r}; allowed: a rank correlation, -1 to 1"
        )
    rows = []
    for name, similarities in randomisation.groupby("method", sort=False):
        depth = int(similarities["depth"].max())
        s = summary(similarities.loc[similarities["depth"] == depth, "similarity"].to_numpy())
        verdict = "undecided"
        if s.n >= 2 and (s.high < threshold or s.low >= threshold):
            verdict = "pass" if s.high < threshold else "fail"
        rows.append((name, depth, s.mean, s.low, s.high, s.n, verdict))
    columns = ["method", "depth", "similarity", "low", "high", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FaithfulnessCard(Result):
    """How faithful attribution methods are on some prompts, with all that it was computed from.

    `rows`: pandas table, one row a measurement: index (of the prompt), tokens, method ("" for what is
    measured of the prompt alone), metric, replacement ("" if none), fraction (NaN if none), value (may
    be NaN), error ("" if none; a prompt that failed has one row, with metric "error"). `methods`:
    labels in the order to show. `randomisation`: index, method, depth (blocks randomised, from the
    output), blocks (label), similarity (to the map of the model as it was). `stability`: index,
    method, draw, scale (of the perturbation), spearman, change. `spectra`: index, k, eigenvalue (nats
    per unit^2), share (of the trace that the first k hold), trace. These three are None where they
    were not asked for. `settings`: plain values. `reference`: label of the method that reports hold
    the others against; None for every pair.

    Raises `ScopeParameterError` where labels are empty or the same, or where a table lacks columns,
    measures a method that `methods` lacks, or measures anything twice.
    """

    rows: pd.DataFrame
    methods: tuple[str, ...]
    settings: Mapping[str, Any]
    provenance: Provenance
    randomisation: pd.DataFrame | None = None
    stability: pd.DataFrame | None = None
    spectra: pd.DataFrame | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "methods", tuple(self.methods))
        if not self.methods or "" in self.methods or len(set(self.methods)) < len(self.methods):
            raise ScopeParameterError(
                f"methods is {self.methods}; allowed: one label or more, none empty, none twice"
            )
        # As a file gives them back, so that a card that was loaded is equal.
        put(self, "settings", json.loads(json.dumps(dict(self.settings))))
        for name, columns in COLUMNS.items():
            frame = getattr(self, name)
            if frame is None:
                continue
            frame = checked(name, frame, columns, _KEYS[name])
            put(self, name, frame)
            for label in frame["method"].unique() if "method" in frame else ():
                if label != "" or name != "rows":
                    self._require(label)
        if self.rows.empty:
            raise ScopeParameterError("rows is empty: nothing was measured; evaluate some prompts")
        if self.reference is not None:
            self._require(self.reference)

    def _require(self, label: str) -> None:
        if label not in self.methods:
            raise ScopeParameterError(
                f"got the method {label!r}; this card holds {', '.join(map(repr, self.methods))}: "
                "give one of these"
            )

    @property
    def prompts(self) -> int:
        """How many prompts were tried, those that failed included."""
        return int(self.rows["index"].nunique())

    def subset(self, prompts: Iterable[int]) -> FaithfulnessCard:
        """The card of these prompts alone (`index` of the rows): those predicted correctly, say.

        Raises `ScopeParameterError` where the card holds none of them.

            >>> card.subset(range(100)).to_frame()
        """
        chosen = set(prompts)
        frames = {name: getattr(self, name) for name in COLUMNS}
        kept = {k: f[f["index"].isin(chosen)] for k, f in frames.items() if f is not None}
        return replace(self, **kept)

    def failures(self) -> pd.DataFrame:
        """Every error, in the prompts' order: index, method ("" where the whole prompt failed), error.

        Examples:
            >>> card.failures()["error"].value_counts()
        """
        wrong = self.rows.loc[self.rows["error"] != "", ["index", "method", "error"]]
        wrong = wrong.drop_duplicates().sort_values("index", kind="stable")
        return wrong.reset_index(drop=True)

    def to_frame(self) -> pd.DataFrame:
        """Long-form summary, one row a method, metric, replacement and fraction.

        Columns: mean, sem (standard error), low and high (95% bootstrap interval of the mean), n
        (prompts with a value), failed (prompts without one: an error, or NaN such as the rank
        correlation of equal scores). Units: those of the metric.

            >>> card.to_frame().query("metric == 'aopc_comprehensiveness'")
        """
        return self._summary.copy()

    def comparisons(
        self, reference: str | None = None, metrics: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Paired tests between methods, one row a pair and cell.

        Args:
            reference: label of a method; every other is compared with it. None: every pair.
            metrics: those to compare on; each with each replacement and fraction is a cell. None:
                AOPC comprehensiveness and sufficiency, where the card holds them.

        Columns: method, reference, metric, replacement, fraction, difference (mean of method minus
        reference over the prompts that both have), low and high (95% bootstrap interval), p
        (Wilcoxon signed-rank, two-sided), p_holm (Holm's correction over all rows of this table), n
        (pairs), better (the label that is better, if p_holm < 0.05, else ""), note. Raises
        `ScopeParameterError` for a label or a metric that the card does not hold.

            >>> card.comparisons(reference="random").query("better != ''")
        """
        if reference is not None:
            self._require(reference)
        return self._compared(reference, self._held(metrics, AOPC)).copy()

    def leaders(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Who leads each cell: metric, replacement, fraction, method, tied.

        Of each cell of `metrics` (None: AOPC and leave-one-out agreement, where the card holds them)
        first the method with the best mean, then those tied with it: whose paired test against it is
        not significant at 0.05 after Holm's correction over every pair in all of these cells.
        `tied`: whether there are any. Metrics without a better direction have no
        leader, nor have cells with one method.

            >>> card.leaders(["loo_spearman"])
        """
        names = self._held(metrics, MAIN)
        return lead(self._summary, self._compared(None, names), names)

    def verdicts(self, threshold: float = THRESHOLD) -> pd.DataFrame:
        """Whether each method's maps depend on the model's weights, by the randomisation check.

        A method passes where its maps of a model with random weights are unlike those of the model:
        mean rank correlation below `threshold`, with its whole 95% interval. Columns and the two other
        verdicts: see `tl_scopes.results.card.verdicts`. Raises `ScopeParameterError` where the card
        holds no randomisation.

            >>> card.verdicts().query("verdict == 'fail'")["method"]
        """
        if self.randomisation is None:
            raise ScopeParameterError(
                "this card holds no randomisation check: evaluate with randomisation first"
            )
        frame = verdicts(self.randomisation, threshold)
        order = {label: i for i, label in enumerate(self.methods)}
        return frame.sort_values("method", key=lambda m: m.map(order), ignore_index=True)

    def plot(self, kind: str = "aopc", **options: Any) -> Figure:
        """Draw a matplotlib figure. Kinds and options: see `tl_scopes.render.figure`.

        Examples:
            >>> card.plot("curves")
        """
        return super().plot(kind=kind, **options)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The report as Markdown, tables alone; written to `path` if given.

        Examples:
            >>> card.to_markdown("report.md")
        """
        return render().markdown(self, path)

    def __repr__(self) -> str:
        n = self.failures()["index"].nunique()
        parts = [f"{len(self.methods)} method(s), {self.prompts} prompt(s)", self.provenance.model]
        parts += [f"{n} failed"] if n else []
        for (name, replacement, _), own in islice(grouped(self.leaders()), 1):
            where = f" ({replacement})" if replacement else ""
            parts.append(f"best {metric(name).label}{where}: {' = '.join(own['method'])}")
        return f"FaithfulnessCard({'; '.join(parts)})"

    def save(self, folder: str | Path) -> Path:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write to a folder of parquet tables and a JSON description, whole or not at all.

        Examples:
            >>> card.save("card")
        """
        frames = {name: getattr(self, name) for name in COLUMNS}
        payload = {
            "methods": list(self.methods),
            "settings": self.settings,
            "provenance": asdict(self.provenance),
            "reference": self.reference,
        }
        frames = {name: frame for name, frame in frames.items() if frame is not None}
        return write_frames(folder, type(self).__name__, frames, payload)

    @classmethod
    def load(cls, folder: str | Path) -> FaithfulnessCard:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read what `save` wrote. Raises `ResultFileError` for any other folder.

        Examples:
            >>> evaluation.FaithfulnessCard.load("card").leaders()
        """
        frames, payload = read_frames(folder, cls.__name__)
        try:
            made = {
                "provenance": Provenance(**rebuilt(payload["provenance"], {})),
                "methods": tuple(payload["methods"]),
            }
            check_fields(made["provenance"])
            return cls(**frames, **{**payload, **made})
        except (TypeError, ValueError, LookupError) as error:
            raise ResultFileError(
                f"{folder} does not describe a whole {cls.__name__} ({error}): save it again"
            ) from error

    def _held(self, asked: Sequence[str] | None, default: Sequence[str]) -> tuple[str, ...]:
        held = set(self.rows["metric"]) - {"error"}
        if asked is None:
            return tuple(name for name in default if name in held)
        unknown = [name for name in asked if name not in held]
        if unknown:
            raise ScopeParameterError(
                f"this card holds no metric {unknown[0]!r}; it holds {', '.join(sorted(held))}"
            )
        return tuple(dict.fromkeys(asked))

    def _compared(self, reference: str | None, names: tuple[str, ...]) -> pd.DataFrame:
        asked = reference, names
        if asked not in self._memory:
            cells = {key: table for key, table in self._cells.items() if key[0] in names}
            self._memory[asked] = compare(cells, self.methods, reference)
        return self._memory[asked]

    @cached_property
    def _memory(self) -> dict[tuple[str | None, tuple[str, ...]], pd.DataFrame]:
        return {}

    @cached_property
    def _cells(self) -> dict[Cell, pd.DataFrame]:
        return tables(self.rows, self.methods)

    @cached_property
    def _summary(self) -> pd.DataFrame:
        return summarise(self._cells, self.prompts)
