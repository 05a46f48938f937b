"""The control of place in the replication: what counts as a lead in content, and what its report says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import tl_scopes as ts
from benchmarks.replication import leads, methods
from benchmarks.replication.cells import AOPC, READ, Cell, Sizes
from benchmarks.replication.control import GAIN, Measured, Shares
from benchmarks.replication.leads import CONTENT, PLACE, REVERSED, UNCLEAR
from support import zoo
from support.traces import PLAIN
from tl_scopes.adapter.view import view_of
from tl_scopes.evaluation import Settings, measure
from tl_scopes.evaluation.ablations import measure_under
from tl_scopes.evaluation.methods import score

TEXTS = [
    "The cat sat on the mat and the dog is in Paris not London",
    "Because John is old Mary is never happy and the dog sat on the cat",
    "The capital of France is Paris and the capital of Germany is Berlin",
    "Mary and John sat on the mat in Rome and the old dog sat on the mat",
]
PAIRED = pytest.mark.skipif(not zoo.names("bridge"), reason="this transformer-lens has no bridge")


# ------------------------------------------------------------------------------------------------- shared passes
def test_settings_that_share_passes_give_what_each_gives_alone():
    model = zoo.shared(PLAIN[0])
    ids = [*(model.to_tokens(text)[0].tolist() for text in TEXTS[:3]), []]
    named = {"semantic": ts.SemanticScope(), "fisher": ts.FisherScope()}
    asked = [
        (list(named), Settings(sufficiency=False, leave_one_out="zero")),
        (["fisher"], Settings((0.2, 0.5), spare_last=3, matched=1, leave_one_out="zero")),
    ]
    with zoo.exact_float64():
        found = measure_under(model, ids, named, asked)
        for (labels, settings), rows in zip(asked, found):
            alone = measure(model, ids, {label: named[label] for label in labels}, settings)
            values, expected = ([row.pop("value") for row in own] for own in (rows, alone))
            assert [str(row) for row in rows] == [str(row) for row in alone]
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


def test_scores_over_tokens_are_those_of_the_measure():
    model, scope = zoo.shared(PLAIN[0]), ts.FisherScope()
    ids = model.to_tokens(TEXTS[0])[0].tolist()
    ((found, plain),) = score(view_of(model), [ids], [methods.OverTokens(scope), scope], READ)
    asked = ts.attribute(model, ids[:-1], scope, measure="tokens").scores[0]
    np.testing.assert_allclose(found[:-1], asked, rtol=1e-5)
    assert found[-1] == 0 and not np.allclose(found, plain)


# ---------------------------------------------------------------------------------------------------------- leads
def made_up(data: str, model: str, seed: int) -> Measured:
    """Fisher leads random scores in content, Semantic in place alone, and IG is behind in content."""
    rng = np.random.default_rng(seed)
    plain = dict(zip(methods.MAIN, (0.2, 0.5, 0.7, 0.7, 0.7, 0.9)))
    content = dict(zip(methods.MAIN, (0.0, -0.3, 0.0, 0.0, 0.0, 0.4)))
    rows = []
    for i in range(20):
        for metric, means in (
            (AOPC, plain),
            (f"content {AOPC}", plain),
            (f"content {GAIN}", content),
        ):
            for name, mean in means.items():
                rows.append((i, name, metric, "zero", mean + rng.normal(0, 0.02), ""))
    columns = ["index", "method", "metric", "replacement", "value", "error"]
    frame = pd.DataFrame(rows, columns=columns)
    cell = Cell(model, data, Sizes(20, 0, 0, 0), frame, frame[:0], frame[:0], frame[:0], {}, {})
    return Measured(cell, frame[:0], {"main": 20})


def test_a_lead_is_in_content_in_place_or_open():
    measured = [made_up(d, m, i) for i, (d, m) in enumerate([("a", "x"), ("a", "y"), ("b", "x")])]
    found = {lead.what: lead for lead in leads.of_methods(measured, likely=False)}
    kinds = {what: lead.kind for what, lead in found.items()}
    assert kinds[f"{methods.FISHER} − {methods.RANDOM}"] == CONTENT
    assert kinds[f"{methods.SEMANTIC} − {methods.RANDOM}"] == PLACE
    assert kinds[f"{methods.IG} − {methods.RANDOM}"] == REVERSED
    assert kinds[f"{methods.TEMPERATURE} − {methods.IXG}"] == UNCLEAR
    lead = found[f"{methods.FISHER} − {methods.SEMANTIC}"]
    # 20 passages of two data sets; a passage that two models read is one number.
    assert lead.plain.n == 40 and lead.plain.value == pytest.approx(0.2, abs=0.02)
    assert lead.content.value == pytest.approx(0.4, abs=0.02)
    assert lead.taken.value == pytest.approx(lead.plain.value - lead.content.value)
    assert all(lead.kind == UNCLEAR for lead in leads.of_methods(measured, likely=True))


def test_shares_follow_from_n_and_pairs_are_kept():
    assert Shares.of(200, None, None, None, None) == Shares(40, 20, 20, 0)
    assert Shares.of(20, None, None, None, None) == Shares(4, 2, 2, 0)
    assert Shares.of(4, 4, 1, 0, 9) == Shares(4, 2, 0, 4)
    assert Shares.of(4, 0, None, None, None).control == 0


# ---------------------------------------------------------------------------------------------- from model to report
@PAIRED
def test_rounds_give_a_report_that_goes_on(tmp_path, monkeypatch):
    from benchmarks.__main__ import app

    own = zoo.ARCHITECTURES["llama"]
    wide = replace(own, fields=own.fields | dict(hidden_size=64, num_hidden_layers=2))
    monkeypatch.setitem(zoo.ARCHITECTURES, "llama", wide)
    model = zoo.boot(zoo.hf_model("llama", torch.float32), torch.float32)
    monkeypatch.setattr("tl_scopes.models.load", lambda *_, **__: model)
    passages = tmp_path / "words.json"
    passages.write_text(json.dumps([*TEXTS, TEXTS[0] + " and", ""]), encoding="utf-8")

    def report_of(n: int) -> tuple[str, str]:
        asked = ["replication", "--control-only", "--n", "6", "--control-n", str(n), "--likely-n"]
        asked += ["2", "--rules-n", "2", "--control-rank-n", "0", "--model", "tiny", "--data"]
        asked += [f"words={passages}", "--threads", "1", "--out", str(tmp_path)]
        answer = CliRunner().invoke(app, asked, catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return (tmp_path / "CONTROL.md").read_text("utf-8"), answer.output

    first, _ = report_of(4)
    more, said = report_of(6)
    assert "main table 4 of 4" in first and "main table 6 of 6" in more
    assert "main 4 to 6" in said and "Passages that failed" in more
    claims = first.split("## Claims")[1].split("## Leads")[0]
    assert "15." not in claims and "Claims 15, 16 are about random weights" in claims
    for block in re.findall(r"(?:^\|.*\n)+", more, flags=re.M):
        assert len({line.count(" | ") for line in block.splitlines()}) == 1, block
    numbers = pd.read_csv(tmp_path / "control.csv")
    assert set(numbers["of"]) >= {"lead", "rule", "claim 1", "claim 11"}
    rules = numbers[(numbers["of"] == "rule") & (numbers["way"] == "published way")]
    assert len(rules) == len(leads.CHANGES) and rules["value"].abs().max() > 0
    assert "content" not in " ".join(numbers["what"].dropna())
