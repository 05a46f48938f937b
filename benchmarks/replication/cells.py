"""What is measured of one model on one data set, in resumable runs, and how it is looked up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.replication import methods
from tl_scopes.evaluation import DataSet, Run, Settings, fisher_spectrum, randomisation, run
from tl_scopes.evaluation.ablations import Row
from tl_scopes.evaluation.methods import AnyMethod

if TYPE_CHECKING:
    import pandas as pd

Values = Mapping[Any, "pd.Series"]

# The text's last token is its target.
READ = -2
DEPTHS = (0.25, 0.5, 1.0)
AOPC = "aopc_comprehensiveness"
# The spectrum needs the likely tokens only; shares count all of them.
TAIL = 1e-3
_SPECTRA = 100


@dataclass(frozen=True)
class Sizes:
    """How many passages: of all, and of what costs more or is shown of fewer."""

    n: int
    agreement: int
    ranks: int
    randomised: int

    @classmethod
    def of(cls, n: int, agreement: int | None, ranks: int | None, randomised: int | None) -> Sizes:
        """What is not given is a share of n."""
        asked = ((agreement, 0.3), (ranks, 0.1), (randomised, 0.3))
        return cls(n, *(min(n, max(2, round(s * n)) if own is None else own) for own, s in asked))


@dataclass(frozen=True, eq=False)
class Cell:
    """One model on one data set.

    `rows`: of the main table, replaced by zero and by PAD; leave-one-out agreement of the first
    `sizes.agreement` passages. `ranks`: Fisher scopes of higher rank, and IG from PAD, on the first
    `sizes.ranks`. `spectra`: index, k, share. `randomised`: index, method, depth, similarity, overlap,
    on passages that are predicted right. `runs`: of what all this was made; `seconds`: how long a
    passage of it took, where this call measured all of them.
    """

    model: str
    data: str
    sizes: Sizes
    rows: pd.DataFrame
    ranks: pd.DataFrame
    spectra: pd.DataFrame
    randomised: pd.DataFrame
    runs: Mapping[str, Run]
    seconds: Mapping[str, float]

    @cached_property
    def _by_method(self) -> Values:
        return _by_method(self.rows)

    @property
    def name(self) -> str:
        return f"{self.model}, {self.data}"

    @property
    def n(self) -> int:
        """How many passages were measured without an error."""
        return len(self.of("", "correct", ""))

    @property
    def failed(self) -> list[str]:
        """The errors of passages that could not be measured."""
        frames = (self.rows, self.ranks, self.spectra, self.randomised)
        return [e for f in frames if "error" in f for e in f.loc[f["error"] != "", "error"]]

    @property
    def correct(self) -> list[int]:
        """Passages whose target is the model's prediction."""
        found = self.of("", "correct", "")
        return list(found.loc[found > 0].index)

    @property
    def accuracy(self) -> float:
        return len(self.correct) / self.n if self.n else math.nan

    def of(self, method: str, metric: str = AOPC, replacement: str = "zero") -> pd.Series:
        """Values by passage."""
        return _found(self._by_method, method, metric, replacement)

    def aopc(self, method: str, replacement: str = "zero", right: bool = False) -> pd.Series:
        """By passage; `right`: of those alone that are predicted right."""
        own = self.of(method, AOPC, replacement)
        return own.loc[own.index.isin(self.correct)] if right else own

    def after(self, method: str, depth: float, metric: str = "similarity") -> pd.Series:
        """Spearman ("similarity") or Jaccard ("overlap") with the intact model's scores, by passage."""
        own = self.randomised
        mine = (own["method"] == method) & (own["depth"] == depth)
        return own.loc[mine].set_index("index")[metric]

    def ranked(self, method: str) -> pd.Series:
        """AOPC (zero) by passage, for those that ranks are compared on, of any method."""
        if method in set(self.ranks["method"]):
            return _found(_by_method(self.ranks), method, AOPC, "zero")
        held = self.ranks.loc[self.ranks["metric"] == AOPC, "index"].unique()
        own = self.of(method)
        return own.loc[own.index.isin(held)]


def _by_method(rows: pd.DataFrame) -> Values:
    keys = ["method", "metric", "replacement"]
    return {key: own.set_index("index")["value"] for key, own in rows.groupby(keys)}


def _found(values: Values, *key: str) -> pd.Series:
    import pandas as pd

    own = values.get(key)
    return pd.Series(dtype=float, index=pd.Index([], dtype=int)) if own is None else own


def measure_cell(
    name: str, model: Any, data: tuple[str, DataSet], sizes: Sizes, out: Path, progress: bool
) -> Cell:
    """Measure what is missing in the folder `out`, and read all of it. Raises what `run` raises."""
    import pandas as pd

    label, passages = data
    out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Run] = {}
    seconds: dict[str, float] = {}

    def part(
        what: str,
        chosen: DataSet,
        named: Mapping[str, AnyMethod],
        settings: Settings,
        measure: Callable[..., list[Row]] | None = None,
        unit: int = 8,
    ) -> pd.DataFrame:
        if progress:
            print(f"{name}, {label}: {what} ({len(chosen)})", flush=True)
        own = {} if measure is None else {"measure": measure}
        started = time.perf_counter()
        done = run(
            model, chosen, named, settings, out=out / what, unit=unit, progress=progress, **own
        )
        runs[what] = done
        if done.measured == done.prompts:
            seconds[what] = (time.perf_counter() - started) / done.prompts
        return done.to_frame()

    both = Settings(replacements=("zero", "pad"), sufficiency=False, position=READ)
    alone = Settings(
        replacements=("zero", "pad"), sufficiency=False, position=READ, leave_one_out="zero"
    )
    zero = Settings(sufficiency=False, position=READ)
    total = min(sizes.n, len(passages))
    frames = []
    if sizes.agreement:
        head = part_of(passages, 0, sizes.agreement)
        frames.append(part("agreement", head, methods.agreement(), alone))
    if total > sizes.agreement:
        frames.append(part("main", part_of(passages, sizes.agreement, total), methods.main(), both))
    rows = pd.concat(frames, ignore_index=True)
    ranks = part("ranks", part_of(passages, 0, sizes.ranks), methods.ranks(), zero)
    first = part_of(passages, 0, min(total, _SPECTRA))
    fisher = {methods.FISHER: methods.main()[methods.FISHER]}
    spectra = part("spectra", first, fisher, zero, _spectrum)
    right = rows.loc[(rows["metric"] == "correct") & (rows["value"] > 0), "index"].tolist()
    right = right[: sizes.randomised]
    randomised = pd.DataFrame(columns=["index", "method", "depth", "similarity", "overlap"])
    if right:
        texts = DataSet([passages.prompts[i - passages.first] for i in right], passages.source)
        found = part(
            "randomisation", texts, methods.randomised(), zero, _randomised, unit=len(right)
        )
        randomised = _wide(found, right)
    return Cell(
        model=name,
        data=label,
        sizes=sizes,
        rows=rows,
        ranks=ranks,
        spectra=_spectra(spectra),
        randomised=randomised,
        runs=runs,
        seconds=seconds,
    )


def part_of(data: DataSet, start: int, end: int) -> DataSet:
    """Passages `start` to `end` of a data set."""
    return DataSet(data.prompts[start:end], data.source, data.first + start)


def _spectrum(
    model: Any, ids: list[list[int]], named: Mapping[str, AnyMethod], settings: Settings
) -> list[Row]:
    """Rows with `fraction` k and `value` the share of tr F that the first k hold."""
    frame = fisher_spectrum(model, ids, position=settings.position, tail=TAIL)
    columns = zip(frame["index"], frame["k"], frame["share"])
    return [_row(ids, index, next(iter(named)), "share", k, share) for index, k, share in columns]


def _randomised(
    model: Any, ids: list[list[int]], named: Mapping[str, AnyMethod], settings: Settings
) -> list[Row]:
    """Rows with `fraction` the share of blocks that are random."""
    frame = randomisation(
        model, ids, named, depths=DEPTHS, how="initial", seed=settings.seed, position=READ
    )
    share = dict(zip(sorted(set(frame["depth"])), DEPTHS))
    return [
        _row(ids, each["index"], each["method"], metric, share[each["depth"]], each[metric])
        for each in frame.to_dict("records")
        for metric in ("similarity", "overlap")
    ]


def _row(
    ids: Sequence[list[int]], index: int, method: str, metric: str, fraction: float, value: float
) -> Row:
    return {
        "index": int(index),
        "tokens": len(ids[index]),
        "method": method,
        "metric": metric,
        "replacement": "",
        "fraction": float(fraction),
        "value": float(value),
        "error": "",
    }


def _spectra(rows: pd.DataFrame) -> pd.DataFrame:
    named = rows.rename(columns={"fraction": "k", "value": "share"})
    return named.loc[:, ["index", "k", "share", "error"]]


def _wide(rows: pd.DataFrame, indices: Sequence[int]) -> pd.DataFrame:
    """One row a passage, method and depth; indices those of the data set."""
    wide = rows[rows["method"] != ""].pivot_table(
        index=["index", "method", "fraction"], columns="metric", values="value"
    )
    wide = wide.reset_index().rename(columns={"fraction": "depth"})
    return wide.assign(index=[indices[i] for i in wide["index"]])
