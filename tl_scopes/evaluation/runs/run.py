"""Runs over whole data sets: resumable, over any number of processes, the same table each time.

1. Prompts become ids, and units of similar length (`units`).
2. The folder and the other processes must agree on what the run is made with (`manifest`).
3. Each process measures its share of the units that none has, and writes each as it ends (`parts`).
4. The main process gathers the parts and makes the table.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tl_scopes.adapter.padding import rows
from tl_scopes.adapter.view import view_of
from tl_scopes.errors import PromptError, RunError, ScopesWarning, check_whole
from tl_scopes.evaluation.ablations import Row, error_row, measure, refuse_to_record
from tl_scopes.evaluation.data import DataSet
from tl_scopes.evaluation.methods import Methods, check_continuations, check_methods, labelled
from tl_scopes.evaluation.runs import manifest
from tl_scopes.evaluation.runs.folders import held
from tl_scopes.evaluation.runs.parts import ROWS, Parts
from tl_scopes.evaluation.runs.parts import read as read_rows
from tl_scopes.evaluation.runs.processes import Processes, processes
from tl_scopes.evaluation.runs.units import UNIT_TOKENS, Encoded, encoded, units
from tl_scopes.evaluation.settings import OF_CONTINUATIONS, Settings
from tl_scopes.results.records import Provenance
from tl_scopes.results.storage import rebuilt

if TYPE_CHECKING:
    import pandas as pd

    from tl_scopes.results.card import FaithfulnessCard

Measure = Callable[..., list[Row]]


@dataclass(frozen=True)
class Run:
    """A finished run over a data set.

    `out`: its folder, with `rows.parquet` and `manifest.json`. `prompts`: how many there are.
    `failed`: of these, how many have an error in the table. `measured`: how many this process
    measured in this call; the others were there already, or are other processes'.
    """

    out: Path
    prompts: int
    failed: int
    measured: int

    @property
    def rows(self) -> Path:
        """The final table (with several machines: on the main process's)."""
        return self.out / ROWS

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was made with. Raises `RunError` if the file was changed, or cannot be read."""
        return manifest.read(self.out, as_written=True)

    def to_frame(self) -> pd.DataFrame:
        """The final table, one row a measurement, as `evaluation.measure` describes them.

        Raises `RunError` where the file is missing or was changed.
        """
        rows, _ = read_rows(self.rows, "run the same command again, which makes it anew")
        return rows.to_pandas()

    def card(self) -> FaithfulnessCard:
        """The table as a faithfulness card: summaries, paired tests, figures, reports."""
        from tl_scopes.results.card import FaithfulnessCard

        described = self.manifest
        where = Provenance(**rebuilt(described[manifest.NOTED]["provenance"], {}))
        asked = OF_CONTINUATIONS if "continuations" in described["data"] else {}
        return FaithfulnessCard(
            rows=self.to_frame(),
            methods=tuple(described["order"]),
            settings=described["settings"] | asked,
            provenance=where,
        )


def run(
    model: Any,
    prompts: DataSet | Sequence[Any] | torch.Tensor | Mapping[str, Any],
    methods: Methods,
    settings: Settings | None = None,
    *,
    out: str | Path,
    unit: int = 4,
    progress: bool | None = None,
    measure: Measure = measure,
) -> Run:
    """Measure methods on every prompt of a data set, and write one table.

    Prompts are encoded, and split into units: groups of prompts of similar length. The split depends
    on the prompts and `unit` alone. The rows of each unit are written as it ends, to `out/parts`, and all of them in
    the end to `out/rows.parquet`, by prompt, then as measured. Killed at any moment and called
    again with the same arguments, it measures what is missing; the table is the same bit for bit
    on one kind of machine. A prompt that fails has one row, with its error.

    Under `accelerate launch` or torchrun every process calls it, takes its share of the units, and
    sends its rows to the main process's folder if they are not there yet. All must come within ten
    minutes (TL_SCOPES_MEET_SECONDS changes that, in seconds); then they wait for each other as long
    as each shows that it lives.

    Args:
        model: a HookedTransformer or TransformerBridge; or a function without arguments that loads
            one, called after what can be checked without it.
        prompts: from `evaluation.read`, or a list of texts and lists of token ids, or what
            `attribute_batch` takes.
        methods: scopes and baselines, or a dict of them by label.
        settings: what is measured; default: `Settings()`.
        out: the folder; made if its parent is there. Nothing else may use it meanwhile.
        unit: most prompts of a unit; what is in flight when a run is killed is lost.
        progress: a bar on stderr, in the main process. Default: where stderr is a terminal.
        measure: what gives the rows of a unit, of the columns of `evaluation.measure` and its
            arguments: the model, lists of ids, methods by label, settings, and `continuations=` where
            the data set has them.

    Returns:
        `Run`: the folder, and how many prompts there were, failed, and were measured now.

    Raises:
        RunError: the folder is in use, or holds a run made with something else (model, data,
            methods, settings, versions, threads: each difference is named); no prompt can be
            encoded; or another process failed, or, as `LostProcessError`, did not come or is gone.
        ScopesError: for `unit`, or methods that this model cannot have.
        OSError: the folder cannot be written.

    Examples:
        >>> done = evaluation.run(model, evaluation.read("passages.jsonl"), methods, out="run")
        >>> done.card().to_html("report.html")
    """
    check_whole("unit", unit, 1, hint=" (of prompts)")
    if isinstance(prompts, str) or (isinstance(prompts, torch.Tensor) and prompts.ndim != 2):
        raise PromptError(
            f"prompts is a {type(prompts).__name__}; allowed: a DataSet, or a list of texts and lists "
            "of token ids. Put one prompt into a list"
        )
    data = prompts if isinstance(prompts, DataSet) else DataSet(list(rows(prompts)))
    settings, named = settings or Settings(), labelled(methods)
    after = data.continuations
    check_continuations(after, len(data), named.values(), settings.position, settings.target)
    folder = Path(out).expanduser()
    loaded = isinstance(model, torch.nn.Module)
    team = processes(loaded and next(model.parameters()).device.type == "cpu")
    with held(folder, team):
        if not loaded:
            with team.together():
                model = model()
        with team.together():
            check_methods(view_of(model), named.values())
            encoding = encoded(model, data.prompts, settings.prepend_bos)
            if len(encoding.errors) == len(data):
                raise RunError(_unusable(encoding))
            plan = units(encoding.ids, unit)
            noted = {"source": data.source, "started": datetime.now(timezone.utc).isoformat()}
            mine = manifest.describe(
                model,
                named,
                settings.to_dict(),
                manifest.of_data(data.prompts, encoding.ids, data.first, after),
                {"prompts": unit, "tokens": UNIT_TOKENS, "measure": measure},
                noted,
                [ids for ids in encoding.ids if ids],
                None if after is None else next(a for a, ids in zip(after, encoding.ids) if ids),
            )
        parts = Parts(folder, len(plan), manifest.digest(mine))
        _settle(team, mine, parts)
        work = _Work(model, data, encoding, named, settings, measure, parts, plan)
        measured = work.measure_missing(team, progress)
        failed = work.gather(team)
        team.rest()
    return Run(folder, len(data), failed, measured)


def _unusable(encoding: Encoded) -> str:
    if not encoding.errors:
        return "there are no prompts: give at least one"
    count = len(encoding.errors)
    return f"none of the {count} prompts can be encoded; the first: {encoding.errors[0]}"


def _settle(team: Processes, mine: dict[str, Any], parts: Parts) -> None:
    """Agree on what the run is made with: with the folder, and with the other processes."""
    with team.together():
        first, *others = team.gather(mine)
        for index, other in enumerate(others, 1):
            wrong = manifest.differences(first, other)
            if wrong and team.is_main:
                raise RunError(
                    f"process {index} differs from the main process in what decides the numbers: "
                    f"{'; '.join(wrong)}. Give all of them the same"
                )
    for turn in (True, False):
        # The main process first: on one machine the others find what it wrote.
        with team.together():
            if team.is_main is turn:
                changed = manifest.settle(mine, parts.out)
                if turn:
                    parts.clean()
                for text in changed:
                    warnings.warn(
                        f"{text}: rows of both agree to rounding only", ScopesWarning, stacklevel=3
                    )


@dataclass(frozen=True)
class _Work:
    model: Any
    data: DataSet
    encoding: Encoded
    methods: Mapping[str, Any]
    settings: Settings
    measure: Measure
    parts: Parts
    plan: list[list[int]]

    def measure_missing(self, team: Processes, progress: bool | None) -> int:
        """Measure and save this process's share of the units that no process has. How many prompts."""
        from tqdm import tqdm

        done = set().union(*team.gather(self.parts.done()))
        missing = team.share([i for i in range(len(self.plan)) if i not in done])
        share = team.split(missing)
        here = sum(len(self.plan[i]) for i in share)
        before = len(self.data) - sum(len(self.plan[i]) for i in missing)
        hidden = not team.is_main or not (sys.stderr.isatty() if progress is None else progress)
        bar = tqdm(
            total=before + here,
            initial=before,
            unit="passage",
            disable=hidden,
            dynamic_ncols=True,
        )
        with team.together(), bar:
            if team.count > 1:
                bar.set_description(f"process 1 of {team.count}")
            for i in share:
                self.parts.save(i, self._unit(self.plan[i]))
                bar.update(len(self.plan[i]))
        return here

    def _unit(self, members: list[int]) -> list[Row]:
        """The rows of a unit; where measuring raises, of each prompt alone, or its error."""
        ids = [self.encoding.ids[i] or [] for i in members]
        # The ids hold what prepend_bos asked for.
        settings = replace(self.settings, prepend_bos=None)
        after = self.data.continuations
        more = {} if after is None else {"continuations": [after[i] for i in members]}
        try:
            rows = self.measure(self.model, ids, self.methods, settings, **more)
            return [{**row, "index": self.data.first + members[row["index"]]} for row in rows]
        except Exception as error:
            refuse_to_record(error)
            if len(members) == 1:
                return [error_row(self.data.first + members[0], len(ids[0]), error)]
        # Out here nothing holds on to what the failed attempt had in memory.
        return [row for i in members for row in self._unit([i])]

    def gather(self, team: Processes) -> int:
        """Bring every part to the main process's folder, and make the table. How many failed."""
        here = self.parts.done()
        missing = sorted(set(range(self.parts.count)) - team.share(here))
        held = team.gather(here) if missing else []
        with team.together():
            # Told at the end: until then all processes must go on gathering.
            error: OSError | None = None
            for i in missing:
                # By the first process that has it, one part at a time: rows need not fit in memory.
                holder = next((p for p, share in enumerate(held) if i in share), None)
                mine = b""
                if holder == team.index and error is None:
                    try:
                        mine = self.parts.send(i)
                    except OSError as lost:
                        error = lost
                sent = team.gather(mine)
                if team.is_main and holder is not None and sent[holder] and error is None:
                    try:
                        self.parts.receive(i, sent[holder])
                    except OSError as full:
                        error = full
            if error is not None:
                raise error
        counted = 0
        with team.together():
            if team.is_main:
                first = self.data.first
                failed = [error_row(first + i, 0, e) for i, e in self.encoding.errors.items()]
                members = [[first + i for i in unit] for unit in self.plan]
                _, counted = self.parts.assemble(failed, members)
        return team.share(counted)
