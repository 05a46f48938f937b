"""A whole continuation measured: falls of its log-probability by a plain loop over hooks, prompt by prompt."""

from __future__ import annotations

import json

import pytest
import torch

import tl_scopes as ts
from support import reference, zoo
from support.rankings import Given
from tl_scopes import baselines, errors, evaluation
from tl_scopes.evaluation import Settings, measure
from tl_scopes.evaluation.ablations import area

C = ts.ContinuationScope
IDS = zoo.tokenizer()(zoo.LONG_TEXT).input_ids[:9]
PROMPTS, AFTER = [IDS, IDS[:6]], [[9, 5, 30], [12, 7]]
SCORES = tuple(float((7 * t) % 11) for t in range(20))
NAMES = zoo.known("hooked/gemma2", "bridge/gpt2")
SETTINGS = Settings((0.2, 0.5), ("zero",), leave_one_out="zero")
METHODS = {
    "given": Given(SCORES),
    "whole": C(),
    "logits": C(of="logit", reduce="mean"),
    "fixed": C([3, 4]),
    "against": C(versus=[8]),
    "product": baselines.InputXGradient(C()),
    "out": baselines.LeaveOneOut(C(), measure="log_prob"),
    "first": ts.SemanticScope(ts.NEXT_TOKEN),
    "fisher": ts.FisherScope(rank=2),
}


def predictions(name: str, prompt, after, chosen=()) -> torch.Tensor:
    """Log-probabilities at the reads, with the embeddings of `chosen` zero."""
    ref = reference.Reference(name, [*prompt, *after])
    with torch.no_grad():
        x = ref.forward({}, ["embed"])["embed"]
        move = torch.zeros_like(x)
        move[:, list(chosen)] = -x[:, list(chosen)]
        logits = ref.forward({"embed": move})["logits"][0]
    n = len(prompt)
    return logits[n - 1 : n - 1 + len(after)].log_softmax(-1)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_what_a_plain_loop_gives(name):
    model = zoo.shared(name)
    with zoo.exact_float64():
        rows = measure(model, PROMPTS, METHODS, SETTINGS, continuations=AFTER)
        scored = {}
        for i, (prompt, after) in enumerate(zip(PROMPTS, AFTER)):
            filled = {**METHODS, "whole": C(after), "logits": C(after, of="logit", reduce="mean"),
                      "against": C(after, [8])}  # fmt: skip
            for label in ("whole", "logits", "fixed", "against", "fisher"):
                scored[i, label] = ts.attribute(model, prompt, filled[label]).scores[0]
            scored[i, "first"] = ts.attribute(model, prompt, ts.SemanticScope(after[0])).scores[0]
            product = baselines.InputXGradient(C(after)).attribute(model, prompt)
            out = baselines.LeaveOneOut(C(after), measure="log_prob").attribute(model, prompt)
            scored |= {(i, "product"): product.scores[0], (i, "out"): out.scores[0]}
            scored[i, "given"] = torch.tensor(SCORES)
    assert not any(row["error"] for row in rows)
    got = {tuple(r[k] for k in ("index", "method", "metric", "fraction") if r[k] == r[k]): r["value"]
           for r in rows}  # fmt: skip
    for i, (prompt, after) in enumerate(zip(PROMPTS, AFTER)):
        n, reads = len(prompt), range(len(after))
        before = predictions(name, prompt, after)
        assert got[i, "", "log_prob"] == pytest.approx(float(before[reads, after].sum()), abs=1e-7)
        assert got[i, "", "correct"] == (before.argmax(-1).tolist() == after)
        for label in METHODS:
            values = scored[i, label]
            order = sorted(range(1, n), key=lambda t: (-float(values[t]), t))
            for what in ("comprehensiveness", "sufficiency"):
                falls = []
                for fraction in SETTINGS.fractions:
                    k = max(1, int((n - 1) * fraction))
                    chosen = order[:k] if what == "comprehensiveness" else order[k:]
                    later = predictions(name, prompt, after, chosen)
                    falls.append(float((before - later)[reads, after].sum()))
                    kl = float((before.exp() * (before - later)).sum())
                    flip = before.argmax(-1).tolist() != later.argmax(-1).tolist()
                    wanted = {what: falls[-1], f"{what}_kl": kl, f"{what}_flip": float(flip)}
                    own = {metric: got[i, label, metric, fraction] for metric in wanted}
                    assert own == pytest.approx(wanted, abs=1e-6), (label, fraction)
                areas = area(falls, SETTINGS)
                assert got[i, label, f"aopc_{what}"] == pytest.approx(areas, abs=1e-6)
        kl = []
        for t in range(1, n):
            later = predictions(name, prompt, after, [t])
            kl.append(float((before.exp() * (before - later)).sum()))
        best = max(range(1, n), key=lambda t: (SCORES[t], -t))
        assert got[i, "given", "loo_top_rank"] == sum(v > kl[best - 1] for v in kl) / (n - 1)


def test_checks_take_methods_of_whole_answers():
    """As of the model that they alter: noise moves the scores, and a fixed continuation stays."""
    model = zoo.shared(NAMES[0])
    methods = [C([9, 5]), baselines.InputXGradient(C([9, 5], [3]))]
    moved = evaluation.input_stability(model, PROMPTS, methods, draws=1)
    drawn = evaluation.randomisation(model, PROMPTS, methods, depths=[1])
    assert len(moved) == 4 and (moved["change"] > 0).all() and (moved["change"] < 1).all()
    assert set(drawn["method"]) == set(evaluation.labelled(methods))
    card = evaluation.faithfulness_card(
        model, PROMPTS, methods, settings=SETTINGS, randomised=False, stability=1, spectra=False
    )
    assert not card.rows["error"].any()
    # A continuation follows the read position, wherever that is.
    earlier = measure(model, [[*IDS, 3]], {"a": C([9, 5])}, Settings(position=-2))
    whole = measure(model, [IDS], {"a": C([9, 5])}, Settings((0.05, 0.1, 0.18)))
    assert [r["metric"] for r in earlier if r["method"]] == [
        r["metric"] for r in whole if r["method"]
    ]


def test_what_is_refused():
    model = zoo.shared(NAMES[0])
    with pytest.raises(errors.LengthMismatchError, match="2 prompts"):
        measure(model, PROMPTS, [C()], continuations=AFTER[:1])
    with pytest.raises(errors.LengthMismatchError, match="one text"):
        measure(model, PROMPTS, [C()], continuations="ab")
    with pytest.raises(errors.TargetError, match="name the continuations"):
        measure(model, PROMPTS, [baselines.InputXGradient(C())])
    with pytest.raises(errors.TargetError, match="name the continuations"):
        evaluation.input_stability(model, PROMPTS, [C()], draws=1)
    for settings in (Settings(position=-2), Settings(target="gold")):
        with pytest.raises(errors.ScopeParameterError, match="drop these"):
            measure(model, PROMPTS, [C()], settings, continuations=AFTER)
    rows = measure(model, [IDS, IDS, IDS], [C()], SETTINGS, continuations=[[9], "", [3] * 500])
    told = {row["index"]: row["error"].split(":")[0] for row in rows}
    assert told == {0: "", 1: "TargetError", 2: "PromptTooLongError"}


def test_a_run_over_a_file_is_measure(tmp_path):
    """By a column; another continuation is another run, and null is one prompt's error."""
    model, path = zoo.shared(NAMES[0]), tmp_path / "data.jsonl"
    texts, after = ["The cat sat", "The dog", "The cat"], [" on the mat", " sat", None]
    lines = [json.dumps({"text": t, "answer": a}) for t, a in zip(texts, after)]
    path.write_text("\n".join(lines))
    data = evaluation.read(path, continuations="answer")
    methods = [C(), ts.SemanticScope(), baselines.InputXGradient(C())]
    done = evaluation.run(model, data, methods, SETTINGS, out=tmp_path / "run")
    wanted = measure(model, texts, methods, SETTINGS, continuations=after)
    got = done.to_frame()
    assert got["metric"].tolist() == [row["metric"] for row in wanted]
    values = torch.tensor([row["value"] for row in wanted], dtype=torch.float64)
    torch.testing.assert_close(
        torch.from_numpy(got["value"].to_numpy()), values, rtol=1e-4, atol=1e-6, equal_nan=True
    )
    assert done.failed == 1 and "continuation is None" in got["error"].iloc[-1]
    assert done.card().settings["target"] == "continuation"
    other = evaluation.DataSet(data.prompts, data.source, 0, [" on", " sat", None])
    with pytest.raises(errors.RunError, match="continuations"):
        evaluation.run(model, other, methods, SETTINGS, out=tmp_path / "run")
    with pytest.raises(errors.TargetError, match="name the continuations"):
        evaluation.run(model, texts, methods, SETTINGS, out=tmp_path / "other")
    with pytest.raises(errors.DataError, match="'reply'"):
        evaluation.read(path, continuations="reply")
