"""REPLICATION.md: everything in it is computed from the runs."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.replication import claims_ablation, claims_checks, tables
from benchmarks.replication.cells import Cell
from benchmarks.replication.methods import FISHER, RANKS
from benchmarks.replication.paired import LEAST, Claim
from tl_scopes.results.files import write_text
from tl_scopes.results.statistics import LEVEL

NAME = "REPLICATION.md"


def claims_of(cells: Sequence[Cell]) -> list[Claim]:
    """Every claim, in the order of the report."""
    return [make(cells) for make in (*claims_ablation.CLAIMS, *claims_checks.CLAIMS)]


def write(cells: Sequence[Cell], folder: Path, command: str, minutes: float) -> Path:
    """The report with its figures and `evidence.csv` in `folder`."""
    from benchmarks.replication import figures

    folder.mkdir(parents=True, exist_ok=True)
    claims = claims_of(cells)
    drawn = figures.draw(cells, folder / "figures")
    links = {name: path.relative_to(folder).as_posix() for name, path in drawn.items()}
    write_text(folder / "evidence.csv", evidence(claims))
    path = folder / NAME
    write_text(path, text(cells, claims, links, command, minutes))
    return path


def text(
    cells: Sequence[Cell],
    claims: Sequence[Claim],
    figures: Mapping[str, str],
    command: str,
    minutes: float,
) -> str:
    verdicts = [claim.verdict for claim in claims]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts)))
    parts = [
        "# The published evaluation of Jacobian Scopes on small models",
        f"Made by `{command}`, text and all: change the code, not this file. It repeats the evaluation of "
        "arXiv 2601.16407 (1B to 4B models, 1,000 passages a cell) with this package.",
        f"Of {len(claims)} claims: {counts}. {_counted(cells)}",
        *_limits(cells),
        "## Claims",
        tables.claim_rows(claims),
        _rules(claims),
        "## Ablation",
        "AOPC: the area under the fall of the predicted token's log-probability when the 5, 10 and 20% of tokens "
        "with the highest scores are replaced (nats × share of tokens; higher is better; the paper prints it "
        "negative). Mean ± standard error over passages; bold: the highest mean. Right: the range over the "
        "paper's cells, of larger models.",
        f"![AOPC by method]({figures['aopc']})",
        "**Embeddings replaced by zero (the paper's main table)**",
        tables.ablation(cells, "zero"),
        "**The same, on passages whose last token the model predicts**",
        tables.ablation(cells, "zero", right=True),
        "**Embeddings replaced by that of the PAD token**",
        tables.ablation(cells, "pad"),
        "## Significance",
        "Mean of the paired differences in AOPC, its 95% bootstrap interval, and p of the Wilcoxon signed-rank test "
        "after Holm's correction over all cells of a column (of each kind of row apart). Bold: p < 0.05. In the "
        "rows of the best, who is best was told by the same passages that are tested, as in the paper: their "
        "differences lean upwards.",
        tables.significance(cells),
        "## Leave-one-out",
        "How far a method ranks tokens as their removal one at a time does (embedding zeroed, KL(intact || "
        "without)). BOS and what follows the read position are left out. The path-integrated Semantic Scope (10 "
        "steps) and Fisher k=4 are what the authors compare here in place of IG and Fisher k=1.",
    ]
    for cell in cells:
        count = len(cell.of(FISHER, claims_checks.LOO_RHO))
        parts += [f"**{cell.name}, {count} passages**", tables.agreement(cell)]
    parts += [
        "## Random weights",
        "Spearman / Jaccard of the top 10% with the intact model's scores when the last quarter, half or all of the "
        "blocks hold fresh weights (embedding, final norm and unembedding stay), on passages that are predicted "
        "right; the target stays. Random scores do not look at the model, so nothing changes for them.",
        f"![Random weights]({figures['randomisation']})",
        tables.randomisation(cells),
        "## Rank",
        f"![Share of tr F against k]({figures['share']})",
        f"![AOPC against k]({figures['rank']})",
        _shares(cells),
        "## How it was made",
        *made(cells, minutes),
    ]
    return "\n\n".join(parts) + "\n"


def evidence(claims: Sequence[Claim]) -> str:
    """Every number that a verdict rests on, as CSV."""
    return as_csv(
        [{"claim": i, **asdict(e)} for i, claim in enumerate(claims, 1) for e in claim.evidence]
    )


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """With the keys of the first row as its head."""
    made = io.StringIO()
    writer = csv.DictWriter(made, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def _counted(cells: Sequence[Cell]) -> str:
    names = "; ".join(f"{c.name} ({c.n} passages)" for c in cells)
    asked = cells[0].sizes
    return (
        f"Cells: {names}. Of these, leave-one-out is done on the first {asked.agreement}, higher ranks on the "
        f"first {asked.ranks}, random weights on {asked.randomised} that are predicted right (or all of them)."
    )


def _limits(cells: Sequence[Cell]) -> list[str]:
    seen = [f"{x:.0%}" for x in sorted(c.accuracy for c in cells)]
    right = " to ".join(dict.fromkeys((seen[0], seen[-1])))
    return [
        f"- The models are small, and dequantised from 4 bits: they predict {right} of the "
        "last tokens right, the paper's 59 to 78%. (Passages that come with the project are written so that small "
        "models get most of them right.)\n"
        "- As in the authors' scripts, Semantic, Input x Gradient and IG explain the passage's own last token, while "
        "AOPC measures the token that the model predicts. Where these differ, these methods explain another "
        "token than is measured; Temperature and Fisher have no target. Passages predicted right are shown apart.\n"
        "- Random scores are drawn for each prompt alone: their rows differ from the published ones, their means "
        "can be compared.\n"
        "- What is not decided is not refuted: the interval includes zero, or p is not below 0.05 after correction. "
        "Few passages decide little.\n"
        "- AOPC rewards methods that favour late tokens, which matter much whatever they say, here as in the "
        "paper. [CONTROL.md](CONTROL.md) judges the claims without that.\n"
        "- Not tested here: claims about Qwen and Llama, and on cost."
    ]


def _rules(claims: Sequence[Claim]) -> str:
    def those(chosen: Callable[[Claim], bool]) -> str:
        return ", ".join(str(i) for i, claim in enumerate(claims, 1) if chosen(claim))

    sizes = those(lambda c: all(math.isnan(e.p) for e in c.evidence))
    mixed, one = (those(lambda c, need=need: c.need == need) for need in ("most", "some"))
    return (
        "Rules, applied by the code. A difference is for a claim where its mean is on the claim's side and p < "
        f"{LEVEL:g} (Wilcoxon signed-rank over passages, Holm's correction over all comparisons of the claim), "
        f"against it where it is on the other side and p < {LEVEL:g}, else open. Claims {sizes} are about the size "
        "of a number: its whole 95% bootstrap interval lies within the bounds (for), outside (against), or "
        f"neither (open, as with fewer than {LEAST} passages). A claim does not hold if anything is against it; "
        "it holds if everything is for it, or, where the paper's own evidence is mixed (claims "
        f"{mixed}), more than half. Claim {one} holds if one comparison is for it, and does not if all are "
        "against it. Every comparison is in `evidence.csv`."
    )


def _shares(cells: Sequence[Cell]) -> str:
    rows = []
    for cell in cells:
        own = cell.spectra
        held = [own.loc[own["k"] == k, "share"] for k in RANKS]
        shown = [f"{x.mean():.0%} ({x.min():.0%} to {x.max():.0%})" for x in held]
        rows.append([cell.name, *shown, str(own["index"].nunique())])
    heads = ["share of tr F held (mean, least to most)", *(f"k={k}" for k in RANKS), "passages"]
    return tables.table(heads, rows)


def made(cells: Sequence[Cell], minutes: float | None) -> list[str]:
    """Models, data, versions and times; `minutes`: of the whole call."""
    rows, failed = [], []
    for cell in cells:
        manifest = next(iter(cell.runs.values())).manifest
        model, noted = manifest["model"], manifest["noted"]
        first = manifest["data"]["sha256"]
        source = os.path.basename(noted["source"]) if os.path.exists(noted["source"]) else noted["source"]  # fmt: skip
        rows.append(
            [
                cell.name,
                f"{model['class']}, {model['dtype']} on {model['device']}, {model['processing']} weights",
                f"`{model['sha256'][:12]}`",
                f"{source} (`{first[:12]}`)",
            ]
        )
        failed += [f"- {cell.name}: {error}" for error in dict.fromkeys(cell.failed)]
    manifest = next(iter(cells[0].runs.values())).manifest
    versions = {**manifest["versions"], **manifest["noted"]["versions"]}
    said = [
        tables.table(["cell", "model", "SHA-256 of the weights", "data (SHA-256)"], rows).replace(
            "---:", "---"
        ),
        f"{manifest['noted']['machine']}; threads: {manifest['threads']}; Python {manifest['noted']['python']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
    ]
    took = tables.costs(cells)
    if took is not None and minutes is not None:
        said.append(f"This call took {minutes:.1f} minutes, models loaded and figures drawn.")
    if took is not None:
        said.append(took)
    if failed:
        said.append("Passages that failed and are left out:\n\n" + "\n".join(failed))
    return said
