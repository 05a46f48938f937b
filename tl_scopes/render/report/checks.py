"""Sections of a report beside the measurements: sanity checks, spectra, what the words mean, settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tl_scopes.render.colours import number, percent
from tl_scopes.render.report.parts import Entry, Section, by_method, plain, records, table
from tl_scopes.render.report.words import ARROWS, MISSING, interval, name, plus_minus, unit
from tl_scopes.render.tokens import words
from tl_scopes.render.wording import counted
from tl_scopes.results.card import THRESHOLD, FaithfulnessCard
from tl_scopes.results.circuit_card import CircuitCard
from tl_scopes.results.metrics import METRICS, metric
from tl_scopes.results.statistics import summary

if TYPE_CHECKING:
    import pandas as pd


def randomised(card: FaithfulnessCard) -> Section | None:
    if card.randomisation is None:
        return None
    depths = sorted(d for d in card.randomisation["depth"].unique().tolist() if d)
    early = [d for d in dict.fromkeys((depths[0], depths[len(depths) // 2])) if d != depths[-1]]
    columns = [
        "method", "verdict", ("similarity", "all randomised"), "95% interval",
        *(("similarity", counted(d, "block")) for d in early), "prompts",
    ]  # fmt: skip
    rows = []
    for row in records(card.verdicts()):
        values = card.randomisation[card.randomisation["method"] == row.method]
        at = [float(values.loc[values["depth"] == d, "similarity"].mean()) for d in early]
        rows.append([
            Entry(name(row.method)), Entry(row.verdict, mark=row.verdict), plain(row.similarity),
            Entry(interval(row.low, row.high), row.high), *map(plain, at), Entry(str(row.n), float(row.n)),
        ])  # fmt: skip
    sentences = (
        "Similarity of the scores to the intact model's when its last blocks hold random weights, mean over "
        "prompts (Spearman's rank correlation).",
        f"A method passes where, with {depths[-1]} blocks randomised, even the upper end of the interval is below "
        f"{THRESHOLD:g}, and fails where even the lower end is not. A map that ignores the model stays at 1 and fails.",
    )
    title = "Parameter randomisation"
    return Section("randomisation", title, sentences, ("randomisation",), (table(columns, rows),))


def stable(card: FaithfulnessCard) -> Section | None:
    if card.stability is None:
        return None
    columns, rows = by_method(card)
    for scale, noisy in card.stability.groupby("scale"):
        noise = f"noise {scale:g}"
        columns += [("rank correlation ↑", noise), ("largest change ↓", noise)]
        for label, row in zip(card.methods, rows):
            per_prompt = noisy[noisy["method"] == label].groupby("index")
            for s in (summary(per_prompt["spearman"].mean().to_numpy()),
                      summary(per_prompt["change"].max().to_numpy())):  # fmt: skip
                row.append(Entry(plus_minus(s.mean, s.sem), s.mean) if s.n else Entry(MISSING))
    sentences = (
        "How far scores move when noise is added to the embeddings: Spearman's rank correlation with the scores "
        "without noise (mean over draws), and the largest change over draws of any score as a share of the largest "
        "score. Mean ± standard error over prompts; noise is a share of each embedding's norm.",
    )
    return Section("stability", "Stability", sentences, ("stability",), (table(columns, rows),))


def spread(card: FaithfulnessCard) -> Section | None:
    spectra = card.spectra
    if spectra is None or spectra.empty:
        return None
    last = int(spectra["k"].max())
    held, needed = [], []
    for k in [k for k in (1, 4, 16, 64, 256) if k < last] + [last]:
        at = spectra[spectra["k"] <= k].groupby("index")["share"].max()
        each = [Entry(percent(x), x) for x in (at.mean(), at.min(), at.max())]
        held.append([Entry(str(k), float(k)), *each])
    for share in (0.5, 0.9, 0.99):
        ks = ranks(spectra, share)
        least = map(_rank, (ks.median(), ks.min(), ks.max()))
        needed.append([Entry(percent(share), share), *least])
    n = spectra["index"].nunique()
    sentences = (
        f"Eigenvalues of F, the Fisher information of the next-token distribution, over {n} prompts: the share of "
        "tr F that the first k hold, and the fewest that hold a share.",
    )
    tables = (
        table(["k", ("share of tr F", "mean"), "least", "most"], held),
        table(["share of tr F", ("k", "median"), "least", "most"], needed),
    )
    return Section("spectra", "Fisher spectra", sentences, ("spectrum",), tables)


def ranks(spectra: pd.DataFrame, share: float) -> pd.Series:
    """The fewest eigenvalues that hold `share` of each prompt's trace; infinite where all do not."""
    least = spectra.loc[spectra["share"] >= share].groupby("index")["k"].min()
    return least.reindex(spectra["index"].unique()).astype(float).fillna(math.inf)


def meanings(card: FaithfulnessCard) -> Section | None:
    held = list(dict.fromkeys(card.rows["metric"]))
    rows = []
    for each in [m for m in dict.fromkeys([*METRICS, *held]) if m in held and m != "error"]:
        m = metric(each)
        better = f"{m.better} is better {ARROWS[m.better]}".strip() if m.better else MISSING
        unit_name = unit(card, each) or MISSING
        rows.append([*map(Entry, (words(m.label), better, unit_name, m.meaning))])
    if not rows:
        return None
    columns = ["metric", "better", "unit", "meaning"]
    return Section("metrics", "What is measured", (), (), (table(columns, rows),))


def settings(card: FaithfulnessCard | CircuitCard) -> Section:
    run = card.provenance
    facts = {
        **card.settings,
        "model": f"{run.model} ({run.model_class}, {run.dtype} on {run.device}, weights {run.processing})",
        "precision": run.precision,
        "hooks of your own": ", ".join(run.hooks),
        "versions": ", ".join(f"{k} {v}" for k, v in run.versions.items()),
    }
    rows = [[Entry(words(str(k))), Entry(words(str(v)))] for k, v in facts.items() if v != ""]
    return Section("settings", "Settings", (), (), (table(["setting", "value"], rows),))


def _rank(k: float) -> Entry:
    return Entry(number(k), k) if math.isfinite(k) else Entry("more", math.inf)
