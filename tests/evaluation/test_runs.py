"""Runs over data sets: the table, what fails in it, and going on."""

from __future__ import annotations

import itertools
import math
import os

import pandas
import pytest
import torch

from support import run_cases
from support.run_cases import EMPTY, METHODS, MISSING, NO_UTF8, SETTINGS, TOO_LONG, go, prompts
from tl_scopes.errors import PromptError, RunError, ScopeParameterError
from tl_scopes.evaluation import DataSet, Run, measure
from tl_scopes.evaluation.runs.units import UNIT_TOKENS, units

GIVEN = [*prompts(9), TOO_LONG, "The", EMPTY, *prompts(2), MISSING, [0, 4, 5, 6], NO_UTF8]
WRONG = {9: "PromptTooLongError", 11: "EmptyPromptError", 14: "PromptError", 16: "PromptError"}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    return go(tmp_path_factory.mktemp("runs") / "whole", GIVEN)


def test_the_table_is_what_each_prompt_gives(done):
    frame = done.to_frame()
    assert (done.prompts, done.failed, done.measured) == (len(GIVEN), 4, len(GIVEN) - 4)
    assert frame["index"].is_monotonic_increasing and set(frame["index"]) == set(range(len(GIVEN)))
    alone = []
    for i, prompt in enumerate(GIVEN):
        if i not in WRONG:
            own = measure(run_cases.model(), [prompt], METHODS, SETTINGS)
            alone += [{**row, "index": i} for row in own]
    right = frame[frame["error"] == ""]
    assert len(right) == len(alone)
    for got, expected in zip(right.to_dict("records"), alone):
        for key, value in expected.items():
            if isinstance(value, float):
                assert got[key] == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True)
            else:
                assert got[key] == value
    assert GIVEN[0] == GIVEN[12]  # given twice, measured twice


def test_a_prompt_that_fails_has_one_row_with_its_error(done):
    frame = done.to_frame()
    wrong = frame[frame["error"] != ""]
    assert dict(zip(wrong["index"], wrong["error"].str.split(":").str[0])) == WRONG
    assert set(wrong["metric"]) == {"error"} and set(wrong["method"]) == {""}
    assert wrong["value"].isna().all()


def test_what_is_in_the_folder(done):
    assert sorted(os.listdir(done.out)) == [".lock", "manifest.json", "parts", "rows.parquet"]
    made = done.manifest
    assert made["versions"]["tl_scopes"] and made["versions"]["torch"] == torch.__version__
    assert made["order"] == list(made["methods"]) == ["semantic", "temperature", "fisher"]
    assert made["settings"] == SETTINGS.to_dict()
    assert made["data"]["prompts"] == len(GIVEN)
    assert {"sha256", "dtype", "name", "class", "device"} <= set(made["model"])


def test_the_card_has_the_same_rows(done):
    card = done.card()
    assert card.prompts == len(GIVEN) and len(card.failures()) == 4
    assert card.methods == ("semantic", "temperature", "fisher")
    assert card.provenance.dtype == "float32"


def test_a_second_run_is_the_same_bit_for_bit(done, tmp_path):
    again = go(tmp_path / "again", GIVEN)
    assert again.rows.read_bytes() == done.rows.read_bytes()


def test_going_on_measures_what_is_missing_and_nothing_else(done, tmp_path):
    seen: list[list[int]] = []

    def counting(model, ids, methods, settings):
        seen.extend(ids)
        return measure(model, ids, methods, settings)

    out = tmp_path / "out"
    first = go(out, GIVEN, measure=counting)
    assert first.rows.read_bytes() == done.rows.read_bytes()
    assert len(seen) == first.measured
    seen.clear()
    parts = sorted((out / "parts").iterdir())
    for path in (parts[0], parts[2], out / "rows.parquet"):
        path.unlink()
    (out / "parts" / "0000000.parquet123.partial").write_text("half")
    (out / "rows.parquet9.partial").write_text("half")
    again = go(out, GIVEN, measure=counting)
    assert again.rows.read_bytes() == done.rows.read_bytes()
    assert len(seen) == again.measured < first.measured
    assert not list(out.rglob("*.partial"))
    seen.clear()
    assert go(out, GIVEN, measure=counting).measured == 0 and not seen


def test_slices_make_up_the_whole(done, tmp_path):
    """As the tasks of an array job would: the rows of each are those of its place in the source."""
    slices = [DataSet(GIVEN[at : at + 6], "some file", at) for at in range(0, len(GIVEN), 6)]
    runs = [go(tmp_path / str(own.first), own) for own in slices]
    parts = pandas.concat([run.to_frame() for run in runs], ignore_index=True)
    whole = done.to_frame()
    pandas.testing.assert_frame_equal(parts, whole, rtol=1e-4, atol=1e-5)
    assert runs[1].manifest["noted"]["source"] == "some file"


def test_one_prompt_that_makes_measuring_fail(tmp_path):
    given = prompts(8)
    bad = 3

    def failing(model, ids, methods, settings):
        if any(len(own) == lengths[bad] for own in ids):
            raise ZeroDivisionError("on\n two lines")
        return measure(model, ids, methods, settings)

    lengths = [len(run_cases.model().to_tokens(text)[0]) for text in given]
    same = [i for i, n in enumerate(lengths) if n == lengths[bad]]
    found = go(tmp_path / "out", given, measure=failing, unit=8)
    frame = found.to_frame()
    wrong = frame[frame["error"] != ""]
    assert list(wrong["index"]) == same and found.failed == len(same)
    assert set(wrong["error"]) == {"ZeroDivisionError: on two lines"}
    assert list(wrong["tokens"]) == [lengths[bad]] * len(same)
    assert len(set(frame["index"])) == 8


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_what_stops_a_run_leaves_a_folder_to_go_on_in(done, tmp_path, kind):
    calls = []

    def stopping(model, ids, methods, settings):
        calls.append(ids)
        if len(calls) == 3:
            raise kind
        return measure(model, ids, methods, settings)

    out = tmp_path / "out"
    with pytest.raises(kind):
        go(out, GIVEN, measure=stopping)
    assert len(list((out / "parts").iterdir())) == 2
    assert not list(out.rglob("*.partial"))
    assert go(out, GIVEN, measure=stopping).rows.read_bytes() == done.rows.read_bytes()


def test_a_full_disk_stops_a_run_that_can_go_on(done, tmp_path, monkeypatch):
    from pyarrow import parquet

    real, calls = parquet.write_table, []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        go(tmp_path / "out", GIVEN)
    assert not list(tmp_path.rglob("*.partial"))
    assert go(tmp_path / "out", GIVEN).rows.read_bytes() == done.rows.read_bytes()


def test_a_damaged_part_is_named(done, tmp_path):
    out = tmp_path / "out"
    go(out, GIVEN)
    part = out / "parts" / "0000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"0000001.parquet is not the whole file .* delete it"):
        go(out, GIVEN)
    part.unlink()
    assert go(out, GIVEN).rows.read_bytes() == done.rows.read_bytes()


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("given", "changes", "error", "said"),
    [
        ([], {}, RunError, "no prompts"),
        (
            [EMPTY, MISSING],
            {},
            RunError,
            "none of the 2 prompts can be encoded; the first: the prompt is an empty",
        ),
        ("The cat", {}, PromptError, "prompts is a str"),
        (["The"], {"unit": 0}, ScopeParameterError, "unit is 0"),
        (["The"], {"unit": True}, ScopeParameterError, "unit is True"),
        (["The"], {"methods": []}, ScopeParameterError, "methods is empty"),
        (["The"], {"methods": METHODS[:1] * 2}, ScopeParameterError, "'semantic'"),
    ],
)
def test_what_cannot_be_run(tmp_path, given, changes, error, said):
    with pytest.raises(error, match=said):
        go(tmp_path / "out", given, **changes)


def test_the_model_is_loaded_late_and_once(tmp_path):
    loads = []

    def load():
        loads.append(1)
        return run_cases.model()

    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file; give a folder"):
        go(tmp_path / "file", ["The"], model=load)
    with pytest.raises(RunError, match=r"no folder .*no to make out in"):
        go(tmp_path / "no" / "out", ["The"], model=load)
    assert not loads
    assert go(tmp_path / "out", ["The cat"], model=load).measured == 1
    assert loads == [1]


def test_a_bar_only_where_it_is_wanted(tmp_path, capfd):
    go(tmp_path / "quiet", GIVEN)
    assert capfd.readouterr() == ("", "")
    go(tmp_path / "told", GIVEN, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and f"{len(GIVEN)}/{len(GIVEN)}" in err and "passage/s" in err


def test_units_are_of_similar_length_and_hold_each_prompt_once():
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 900, (200,), generator=draw).tolist()
    ids = [None if n % 50 == 0 else [1] * n for n in lengths]
    plan = units(ids, 8)
    assert sorted(i for unit in plan for i in unit) == [i for i, own in enumerate(ids) if own]
    assert plan == units(ids, 8)
    spans = []
    for unit in plan:
        widths = [lengths[i] for i in unit]
        assert len(unit) == 1 or (len(unit) <= 8 and max(widths) * len(unit) <= UNIT_TOKENS)
        spans.append((min(widths), max(widths)))
    spans.sort()
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    # Shuffled: the first half takes about half of the work.
    work = [sum(lengths[i] for i in unit) for unit in plan]
    assert math.isclose(sum(work[: len(work) // 2]), sum(work) / 2, rel_tol=0.2)
    assert units([None], 8) == []
