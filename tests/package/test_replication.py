"""The replication: its loop is the published one, its verdicts follow from numbers, its report from runs."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from typer.testing import CliRunner

from benchmarks.replication import command, figures, methods, report, sources, timing
from benchmarks.replication.cells import AOPC, DEPTHS, READ, Cell, Sizes
from benchmarks.replication.loop import METHODS, PublishedLoop
from benchmarks.replication.paired import Evidence, differences, verdict, within
from support import drawn_texts, zoo
from tl_scopes.errors import DataError
from tl_scopes.evaluation import Settings, measure

OURS = dict(zip(METHODS, methods.MAIN))
PAIRED = pytest.mark.skipif(not zoo.names("bridge"), reason="this transformer-lens has no bridge")
TEXTS = [
    "The cat sat on the mat and the dog is in Paris not London",
    "Because John is old Mary is never happy and the dog sat on the cat",
    "The capital of France is Paris and the capital of Germany is Berlin",
    "Mary and John sat on the mat in Rome and the old dog sat on the mat",
]


# ------------------------------------------------------------------------------------------------------ the loop
@PAIRED
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_published_loop_gives_our_numbers(name):
    model = zoo.boot(zoo.hf_model(name, torch.float32), torch.float32)
    ids = [model.to_tokens(text)[0].tolist() for text in TEXTS[:2]]
    loop = PublishedLoop(
        zoo.hf_model(name, torch.float32), model.tokenizer.pad_token_id, model.tokenizer
    )
    settings = Settings(replacements=("zero", "pad"), sufficiency=False, position=READ)
    rows = pd.DataFrame(measure(model, ids, methods.main(), settings))
    both = loop.both(ids)
    assert both == {"zero": loop.zero(ids), "pad": loop.pad(ids)}
    for kind, theirs in both.items():
        assert theirs.keys() == OURS.keys()
        for method, ours in OURS.items():
            mine = (rows["method"] == ours) & (rows["metric"] == AOPC)
            values = rows.loc[mine & (rows["replacement"] == kind), "value"].to_numpy()
            assert len(values) == 2 and np.isfinite(theirs[method]).all()
            if method != "random":  # each draws its own
                np.testing.assert_allclose(values, [-x for x in theirs[method]], atol=1e-4)
                assert np.abs(values).max() > 1e-2, "nothing happens, so nothing is compared"


@PAIRED
def test_both_sides_of_the_timing_compute_the_same_passages():
    model = zoo.boot(zoo.hf_model("llama", torch.float32), torch.float32)
    ids = [model.to_tokens(text)[0].tolist() for text in TEXTS]
    loop = PublishedLoop(zoo.hf_model("llama", torch.float32), model.tokenizer.pad_token_id)
    *ablations, left_out = timing.contests(model, loop, ids)
    for attribution, theirs in zip(left_out.ours(), left_out.theirs()):
        np.testing.assert_allclose(attribution.scores[0][: len(theirs)], theirs, atol=1e-5)
        assert max(theirs) > 1e-2
    for contest in ablations:
        (rows,) = contest.ours()
        found = {(r["index"], r["method"], r["replacement"]) for r in rows if r["metric"] == AOPC}
        kinds = 1 if contest.what == "zero" else 2
        assert len(found) == len(ids) * len(METHODS) * kinds
        theirs = contest.theirs()
        scripts = theirs if isinstance(theirs, tuple) else [theirs]
        listed = [s if "random" in s else v for s in scripts for v in s.values()]
        assert {len(values) for s in listed for values in s.values()} == {len(ids)}


# ---------------------------------------------------------------------------------------------------- the verdicts
def outcomes(*kinds):
    return [Evidence("cell", "", 0.0, 0.0, 0.0, 5, outcome=kind) for kind in kinds]


@pytest.mark.parametrize(
    "need, kinds, expected",
    [
        ("every", ["for", "for"], "holds"),
        ("every", ["for", "open"], "not decided"),
        ("every", ["for", "against"], "does not hold"),
        ("most", ["for", "for", "open"], "holds"),
        ("most", ["for", "open"], "not decided"),
        ("most", ["for", "for", "for", "against"], "does not hold"),
        ("some", ["open", "against", "for"], "holds"),
        ("some", ["open", "against"], "not decided"),
        ("some", ["against", "against"], "does not hold"),
        ("every", [], "not decided"),
        ("most", [], "not decided"),
        ("some", [], "not decided"),
    ],
)
def test_verdicts(need, kinds, expected):
    assert verdict(outcomes(*kinds), need) == expected


def test_differences_are_paired_by_passage_and_corrected_together():
    rng = np.random.default_rng(0)
    a = pd.Series(rng.normal(1, 0.3, 30), index=range(30))
    b = pd.Series(rng.normal(0, 0.3, 30), index=range(30))
    up, down, same = differences(
        [
            ("c", "a − b", a, b.sample(frac=1, random_state=0)),
            ("c", "b − a", b, a),
            ("c", "0", a, a),
        ]
    )
    assert (up.outcome, down.outcome, same.outcome) == ("for", "against", "open")
    assert up.n == 30 and up.value == pytest.approx((a - b).mean()) == -down.value
    (alone,) = differences([("c", "a − b", a, b)])
    assert up.p == pytest.approx(3 * alone.p), "Holm's factor for three"
    (few,) = differences([("c", "a − b", a[:4], b)])
    assert few.n == 4 and few.outcome == "open", "four pairs cannot decide"
    (either,) = differences([("c", "b − a", b, a)], either=True)
    assert either.outcome == "for"


def test_bounds_are_held_against_the_whole_interval():
    values = pd.Series(np.linspace(0.9, 1.1, 40))
    assert within("c", "", values, 0.5, 1.5).outcome == "for"
    assert within("c", "", values, 1.5, 2.0).outcome == "against"
    assert within("c", "", values, 1.0, 2.0).outcome == "open"
    assert within("c", "", values[:0], 1.0, 2.0).outcome == "open"


# ------------------------------------------------------------------------------------- the report of made-up numbers
LEADS = dict(zip(methods.MAIN, (0.2, 0.5, 0.8, 0.85, 0.9, 1.0)))


def made_up(n, leads, seed=0, name="tiny"):
    """A cell whose methods have these mean AOPCs, with the noise of a passage shared by all of them."""
    rng = np.random.default_rng(seed)
    rows, ranks, spectra, randomised = [], [], [], []

    def add(table, index, method, metric, replacement, value):
        table.append((index, 9, method, metric, replacement, math.nan, value, ""))

    for i in range(n):
        shared = rng.normal(0, 0.3)
        add(rows, i, "", "correct", "", float(i % 3 > 0))
        for method, lead in leads.items():
            for kind, more in (("zero", 1.0), ("pad", 1.3)):
                value = lead * more + shared + rng.normal(0, 0.02)
                add(rows, i, method, AOPC, kind, value)
        for method in methods.AGREEMENT:
            mean = {methods.FISHER4: 0.6, methods.RANDOM: 0.0, methods.PATH: 0.3}.get(method, 0.5)
            add(rows, i, method, "loo_spearman", "zero", mean + rng.normal(0, 0.02))
            for metric in ("loo_kendall", "loo_jaccard"):
                add(rows, i, method, metric, "zero", mean)
            add(rows, i, method, "loo_top_rank", "zero", 0.01 if mean == 0.6 else 0.3)
        for k in methods.RANKS[1:]:
            value = leads[methods.FISHER] + shared + rng.normal(0, 0.005)
            add(ranks, i, methods.rank(k), AOPC, "zero", value)
        add(ranks, i, methods.IG_PAD, AOPC, "zero", leads[methods.IG] / 2 + shared)
        spectra += [(i, float(k), 1 - 0.6 / k, "") for k in range(1, 100)]
        for method in methods.randomised():
            for depth in DEPTHS:
                value = 1.0 if method == methods.RANDOM else 1 - depth * 0.8 + rng.normal(0, 0.02)
                randomised.append((i, method, depth, value, value))
    columns = "index tokens method metric replacement fraction value error".split()
    return Cell(
        model=name,
        data="made up",
        sizes=Sizes(n, n, n, n),
        rows=pd.DataFrame(rows, columns=columns),
        ranks=pd.DataFrame(ranks, columns=columns),
        spectra=pd.DataFrame(spectra, columns=["index", "k", "share", "error"]),
        randomised=pd.DataFrame(
            randomised, columns=["index", "method", "depth", "similarity", "overlap"]
        ),
        runs={},
        seconds={},
    )


def verdicts(cells):
    return [claim.verdict for claim in report.claims_of(cells)]


def test_claims_that_the_numbers_bear_out_hold():
    found = verdicts([made_up(40, LEADS, seed) for seed in (0, 1)])
    assert found.count("does not hold") == 1, "no Scope loses, so that some do does not hold"
    assert found.count("holds") == len(found) - 1


def test_claims_that_the_numbers_contradict_do_not_hold():
    worse = LEADS | {methods.FISHER: 0.1, methods.SEMANTIC: 0.1, methods.TEMPERATURE: 0.1}
    cells = [made_up(40, LEADS), made_up(40, worse, 1, "other")]
    claims = report.claims_of(cells)
    assert [c.verdict for c in claims[:5]] == ["does not hold"] * 5
    assert claims[6].verdict == "holds", "Scopes lose to Input x Gradient"
    assert [c.verdict for c in claims[10:16]] == ["holds"] * 6, "what did not change"


def test_few_passages_decide_nothing_by_tests():
    claims = report.claims_of([made_up(4, LEADS)])
    tested = [c for c in claims if not all(math.isnan(e.p) for e in c.evidence)]
    assert {c.verdict for c in tested} == {"not decided"} and len(tested) == 14


def test_the_report_says_what_was_computed(tmp_path):
    cells = [made_up(30, LEADS), made_up(30, LEADS, 1, "other")]
    claims = report.claims_of(cells)
    links = dict.fromkeys(("aopc", "share", "rank", "randomisation"), "x.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "made", lambda *_: [])
        text = report.text(cells, claims, links, "command", 1.0)
    assert len(re.findall(r"\*\*(holds|does not hold|not decided)\*\*", text)) == len(claims)
    mean = cells[0].aopc(methods.FISHER).mean()
    assert f"**{mean:.3f} ± " in text.split("main table")[1].split("PAD token")[0]
    assert "nan" not in text.lower().replace("finance", "")
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert report.evidence(claims).count("\n") == 1 + sum(len(c.evidence) for c in claims)


def test_figures_can_be_read(tmp_path):
    """Names as long as real ones, side by side."""
    names = ["gemma-3-270m, lambada"] * 2 + ["smollm2-135m-instruct, lambada"] * 2
    cells = [made_up(40, LEADS, seed, name) for seed, name in enumerate(names)]
    with drawn_texts.watching(tmp_path / "seen.jsonl") as seen:
        assert len(figures.draw(cells, tmp_path / "figures")) == 4
    found = seen()
    assert len(found) == 4 and all(f["texts"] > 30 for f in found)
    assert not [f for f in found if f["overlapping"] or f["cut"]]


# ---------------------------------------------------------------------------------------------------- the passages
def test_passages_of_the_hub_are_chosen_as_the_paper_does():
    long = [f"{'word ' * 50}number{i} ." for i in range(30)]
    found = sources.lambada([{"text": t} for t in [*long, "short"]])
    assert sorted(found) == sorted(t.removesuffix(" .") for t in long) and found[0] != found[-1]
    assert found != [t.removesuffix(" .") for t in long], "shuffled"
    assert found == sources.lambada([{"text": t} for t in [*long, "short"]]), "always the same way"
    pair = {"de": " <b>Ja</b> ", "en": "yes " * 20 + '."'}
    records = [{"translation": p} for p in (pair, pair | {"en": "yes."}, pair | {"de": "<x/>"})]
    assert sources.iwslt(records) == ["German: Ja English: " + ("yes " * 20).strip()]


@pytest.mark.parametrize("option", ["lambada", "=x", "lambada=", "a/b=x.json", "../x=x.json"])
def test_data_options_that_name_nothing_are_refused(option):
    with pytest.raises(DataError, match="NAME=SOURCE"):
        sources.named(option, 5)
    answer = CliRunner().invoke(_app(), ["replication", "--data", option])
    assert answer.exit_code == 1 and "NAME=SOURCE" in answer.output


def _app():
    from benchmarks.__main__ import app

    return app


@pytest.mark.real
@pytest.mark.parametrize("name", command.MODELS)
def test_the_project_s_passages_end_in_one_token(name):
    from tl_scopes.models import bundled

    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled.ensure(name, progress=False))
    texts = [json.loads(line)["text"] for line in sources.OWN.read_text("utf-8").splitlines()]
    assert len(texts) == len(set(texts)) == 20
    for text in texts:
        assert 35 <= len(text.split()) <= 60
        last = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][-1:])
        assert last == " " + text.split()[-1]


# ---------------------------------------------------------------------------------------------- from model to report
@PAIRED
def test_runs_give_a_report_and_are_not_repeated(tmp_path, monkeypatch):
    own = zoo.ARCHITECTURES["llama"]
    wide = replace(own, fields=own.fields | dict(hidden_size=64, num_hidden_layers=2))
    monkeypatch.setitem(zoo.ARCHITECTURES, "llama", wide)
    model = zoo.boot(zoo.hf_model("llama", torch.float32), torch.float32)
    monkeypatch.setattr("tl_scopes.models.load", lambda *_, **__: model)
    passages = tmp_path / "words.json"
    passages.write_text(json.dumps([*TEXTS[:3], ""]), encoding="utf-8")
    asked = ["replication", "--n", "4", "--loo-n", "2", "--rank-n", "2", "--model", "tiny"]
    asked += ["--data", f"words={passages}", "--threads", "1", "--out", str(tmp_path / "out")]

    def report_of() -> str:
        answer = CliRunner().invoke(_app(), asked, catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return (tmp_path / "out" / "REPLICATION.md").read_text("utf-8")

    first, again = report_of(), report_of()
    assert "seconds a passage" in first and "seconds a passage" not in again, "measured once"
    assert first.split("## How it was made")[0] == again.split("## How it was made")[0]
    assert "--data words=words.json" in first and str(tmp_path) not in first
    assert "Passages that failed" in first and "tiny, words" in first
    for link in re.findall(r"\]\(([^)]*png)\)", first):
        assert (tmp_path / "out" / link).stat().st_size > 10_000
    rows = (tmp_path / "out" / "evidence.csv").read_text("utf-8").splitlines()
    assert len(rows) > 40 and rows[0].startswith("claim,cell,what,value")
