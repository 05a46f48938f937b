"""The card of an evaluation: summaries and tests of known numbers, verdicts, and folders that hold it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from support.faithfulness_cards import (
    COLUMNS,
    FAILED,
    METHODS,
    bare,
    card,
    randomisation,
    rows,
)
from tl_scopes.errors import ScopeParameterError
from tl_scopes.results.statistics import comparisons, holm, summary

NAN = math.nan


def tiny(values: dict[str, list[float]], name="aopc_comprehensiveness", more=(), **fields):
    """A card of one cell: the values of each method, prompt by prompt, and `more` rows."""
    found = [
        (index, 5, method, name, "zero", NAN, value, "")
        for method, own in values.items()
        for index, value in enumerate(own)
    ]
    table = pd.DataFrame([*found, *more], columns=COLUMNS)
    return bare(table, values, **fields)


def ladder(n: int, step: float = 0.0) -> list[float]:
    return [1.0 + 0.1 * i + step * (1 + 0.01 * i) for i in range(n)]


# --- summaries ----------------------------------------------------------------------------------


def test_the_summary_of_known_numbers():
    failed = (3, 0, "", "error", "", NAN, NAN, "PromptError: no")
    made = tiny({"a": [1.0, 2.0, 3.0], "b": [4.0, NAN, 6.0]}, more=[failed])
    found = made.to_frame().set_index("method")
    assert found["mean"].tolist() == [2.0, 5.0] and found["n"].tolist() == [3, 2]
    assert found["failed"].tolist() == [1, 2] and made.prompts == 4
    assert found["sem"].tolist() == pytest.approx([1 / math.sqrt(3), 1.0])
    own = summary([1, 2, 3])
    assert found.loc["a", ["low", "high"]].tolist() == [own.low, own.high]
    assert made.failures().values.tolist() == [[3, "", "PromptError: no"]]
    assert "1 failed" in repr(made) and "2 method" in repr(made)


def test_every_cell_is_summed_up_once_in_order():
    made = card(failed=FAILED)
    found = made.to_frame()
    assert not found.duplicated(["method", "metric", "replacement", "fraction"]).any()
    assert len(found) == len(METHODS) * (2 * (6 * 3 + 2) + 4)
    assert found["metric"].drop_duplicates().tolist()[:3] == [
        "aopc_comprehensiveness", "aopc_sufficiency", "loo_spearman",
    ]  # fmt: skip
    assert found["method"].tolist()[: len(METHODS)] == list(METHODS)
    spearman = found[(found["metric"] == "loo_spearman") & (found["method"] == METHODS[-1])].iloc[0]
    assert (spearman["n"], spearman["failed"]) == (27, 3)  # two failed, one NaN
    assert set(found["n"] + found["failed"]) == {30}
    found.loc[:, "mean"] = 0.0
    assert made.to_frame()["mean"].abs().max() > 0


def test_a_method_that_was_not_measured_is_not_made_up():
    made = tiny({"a": [1.0, 2.0], "b": [2.0, 3.0], "c": []})
    assert made.to_frame()["method"].tolist() == ["a", "b"]
    assert set(made.comparisons()["method"]) == {"a"}


def test_what_is_measured_of_a_prompt_belongs_to_no_method():
    made = tiny({"a": [1.0], "b": [2.0]}, more=[(0, 5, "", "log_prob", "", NAN, -2.5, "")])
    assert set(made.to_frame()["metric"]) == {"aopc_comprehensiveness"}


def test_a_subset_is_a_card_of_those_prompts():
    whole = card(failed=FAILED)
    right = whole.rows.loc[(whole.rows["metric"] == "correct") & (whole.rows["value"] > 0), "index"]
    made = whole.subset(right)
    assert made.prompts == right.nunique() < 28 and made.failures().empty
    assert set(made.spectra["index"]) == set(right) & set(whole.spectra["index"])
    with pytest.raises(ScopeParameterError, match="rows is empty"):
        whole.subset([999])


# --- paired tests -------------------------------------------------------------------------------


def test_every_pair_is_compared_by_prompt_and_corrected_together():
    made = card(METHODS[:3], prompts=12, failed=FAILED)
    found = made.comparisons()
    assert len(found) == 3 * 4
    assert found["p_holm"].tolist() == pytest.approx(holm(found["p"]).tolist())
    row = found.iloc[-1]
    own = made.rows[(made.rows["metric"] == row["metric"]) & (made.rows["replacement"] == "pad")]
    wide = own.sample(frac=1, random_state=0).pivot(index="index", columns="method", values="value")
    (wanted,) = comparisons([(wide[row["method"]].to_numpy(), wide[row["reference"]].to_numpy())])
    assert (row["p"], row["difference"], row["low"], row["high"], row["n"]) == (
        wanted.p, wanted.difference, wanted.low, wanted.high, 11,
    )  # fmt: skip


def test_a_reference_is_compared_with_every_other():
    found = card(METHODS[:4], prompts=12).comparisons("temperature", ["loo_spearman"])
    assert set(found["reference"]) == {"temperature"} and len(found) == 3
    assert found["p_holm"].tolist() == pytest.approx(holm(found["p"]).tolist())


def test_pairs_hold_the_prompts_that_both_have():
    made = tiny({"a": [1.0, NAN, 3.0, 4.0], "b": [0.0, 1.0, NAN, 1.0]})
    row = made.comparisons().iloc[0]
    assert (row["n"], row["difference"]) == (2, 2.0) and "cannot fall below 0.5" in row["note"]


@pytest.mark.parametrize(
    ("name", "better"),
    [("aopc_comprehensiveness", "b"), ("aopc_sufficiency", "a"), ("own", "")],
)
def test_better_goes_the_metrics_way(name, better):
    made = tiny({"a": ladder(12), "b": ladder(12, 1.0)}, name)
    row = made.comparisons(metrics=[name]).iloc[0]
    assert row["p_holm"] < 0.001 and row["better"] == better
    leaders = made.leaders([name])
    assert leaders["method"].tolist() == ([better] if better else [])


def test_better_needs_significance():
    row = tiny({"a": ladder(4), "b": ladder(4, 1.0)}).comparisons().iloc[0]
    assert row["difference"] < 0 and row["p_holm"] > 0.05 and row["better"] == ""


def test_leaders_are_alone_or_tied():
    low, high, noise = ladder(12), ladder(12, 1.0), np.tile([0.01, -0.011], 6)
    alone = tiny({"a": low, "b": high, "c": ladder(12, 0.5)}).leaders()
    assert alone[["method", "tied"]].values.tolist() == [["b", False]]
    tied = tiny({"a": low, "b": high, "c": (np.array(high) + noise).tolist()}).leaders()
    assert set(tied["method"]) == {"b", "c"} and tied["tied"].all()
    # One prompt of c is no evidence against c.
    short = tiny({"a": low, "b": high, "c": [0.1] + [NAN] * 11}).leaders()
    assert short["method"].tolist() == ["b", "c"]


def test_a_random_method_does_not_lead():
    found = card(prompts=40, reference="random").leaders()
    assert "random" not in set(found["method"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.comparisons("nobody"), "got the method 'nobody'; this card holds 'semantic'"),
        (lambda c: c.comparisons(metrics=["rouge"]), "no metric 'rouge'; it holds aopc_comprehensiveness"),
        (lambda c: c.leaders(["rouge"]), "no metric 'rouge'"),
        (lambda c: dataclasses.replace(c, randomisation=None).verdicts(), "holds no randomisation check"),
    ],
)  # fmt: skip
def test_what_the_card_does_not_hold_is_refused(call, message):
    with pytest.raises(ScopeParameterError, match=message):
        call(card(METHODS[:2], prompts=2))


# --- verdicts -----------------------------------------------------------------------------------


def test_a_blind_map_fails_and_one_that_sees_the_model_passes():
    found = card(blind=("random", "temperature")).verdicts().set_index("method")
    assert found.index.tolist() == list(METHODS)
    assert set(found.index[found["verdict"] == "fail"]) == {"random", "temperature"}
    assert found.loc["random", ["similarity", "high", "depth", "n"]].tolist() == [1.0, 1.0, 18, 10]
    assert (found["verdict"] == "pass").sum() == 4


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        ([0.4, 0.45, 0.42], "pass"),
        ([0.1, 0.9, 0.2], "undecided"),  # 0.4 in the mean, but it may be more
        ([0.75, 0.75, 0.75], "fail"),
        ([0.5, 0.5, 0.5], "pass"),
        ([0.6, 0.75, 0.8], "undecided"),
        ([0.2], "undecided"),
        ([0.2, NAN], "undecided"),
        ([-0.9, -0.8, -0.9], "pass"),
    ],
)
def test_the_interval_decides(last, verdict):
    entries = [
        (i, "a", d, str(d), v if d == 4 else 0.99) for i, v in enumerate(last) for d in (1, 4)
    ]
    frame = pd.DataFrame(entries, columns=["index", "method", "depth", "blocks", "similarity"])
    assert tiny({"a": [1.0]}, randomisation=frame).verdicts()["verdict"].tolist() == [verdict]


# --- what makes no card -------------------------------------------------------------------------


def without(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.drop(columns=column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"rows": without(r, "fraction")}, "rows has no column 'fraction'"),
        (lambda r: {"rows": pd.concat([r, r.tail(1)])}, "rows has two rows for"),
        (lambda r: {"rows": r.assign(value="x")}, "column 'value' of rows is not made of float"),
        (lambda r: {"rows": r.assign(index=NAN)}, "column 'index' of rows is not made of int"),
        (lambda r: {"rows": r.assign(tokens=1.5)}, "column 'tokens' of rows is not made of int"),
        (lambda r: {"rows": r.head(0)}, "rows is empty"),
        (lambda r: {"methods": METHODS[:2]}, "got the method 'temperature'; this card holds 'semantic'"),
        (lambda r: {"methods": ()}, "allowed: one label or more"),
        (lambda r: {"methods": ("a", "a")}, "none twice"),
        (lambda r: {"reference": "nobody"}, "got the method 'nobody'"),
        (lambda r: {"randomisation": randomisation(["x"])}, "got the method 'x'"),
    ],
)  # fmt: skip
def test_wrong_tables_are_refused(change, message):
    made = rows(METHODS[:3], prompts=2)
    with pytest.raises(ScopeParameterError, match=message):
        bare(made, **{"methods": METHODS[:3], **change(made)})


def test_tables_are_the_cards_own_whatever_their_types():
    given = rows(METHODS[:2], prompts=2, failed={1: "E: x"})
    odd = given.astype({"index": "int32", "method": "category", "fraction": "float32"})
    odd["error"] = odd["error"].astype(object).where(odd["error"] != "", None)
    odd.index = range(100, 100 + len(odd))
    made, plain = (bare(table, METHODS[:2]) for table in (odd, given))
    got, wanted = (each.rows.drop(columns="fraction") for each in (made, plain))
    pd.testing.assert_frame_equal(got, wanted)
    odd["value"] = 0.0
    assert made.rows["value"].abs().max() > 0


def test_better_needs_the_mean_and_the_ranks_to_agree():
    """b is higher on 90 prompts of 100, a so much higher on 10 that its mean is."""
    rising = [i / 100 for i in range(100)]
    b = [x + 1 + x / 10 for x in rising[:90]] + rising[90:]
    a = rising[:90] + [x + 1000 for x in rising[90:]]
    made = tiny({"a": a, "b": b})
    row = made.comparisons().iloc[0]
    assert row["difference"] > 0 and row["p_holm"] < 1e-6
    assert row["better"] == "" and "differ in sign" in row["note"]
    assert made.leaders()[["method", "tied"]].values.tolist() == [["a", True], ["b", True]]
