"""`tl-scopes evaluate`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import tl_scopes as ts
from support import forks, zoo
from support.cli_calls import call, parsed, printed, refused
from support.terminals import COMMAND, Terminal, environment
from tl_scopes import baselines, evaluation, models
from tl_scopes.baselines import named
from tl_scopes.cli.evaluate import DEFAULT

TEXTS = [zoo.TEXT, zoo.LONG_TEXT, "The cat", "The dog is in Rome", zoo.TEXT, "The" + " cat" * 99]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from forks.one_thread()


@pytest.fixture
def data(tmp_path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return str(path)


def evaluate(folder: str, data: str, out: Path, *args: str, by=call):
    return by("evaluate", "--model", folder, "--data", data, "--out", str(out), *args)


evaluated = functools.partial(evaluate, by=printed)


def test_the_table_is_the_packages(folder, data, tmp_path):
    out = tmp_path / "out"
    args = ["--methods", "semantic,fisher:4,random", "--seed", "3"]
    shown = evaluated(folder, data, out, *args)
    expected = evaluation.run(
        models.load(folder),
        evaluation.read(data),
        {"semantic": ts.SemanticScope(), "fisher:4": ts.FisherScope(4), "random": baselines.Random(3)},
        evaluation.Settings(seed=3),
        out=tmp_path / "package",
    )  # fmt: skip
    assert (out / "rows.parquet").read_bytes() == expected.rows.read_bytes()
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["semantic", "fisher:4", "random"]
    assert "AOPC comprehensiveness ↑" in lines[0] and "AOPC sufficiency ↓" in lines[0]
    frame = expected.to_frame()
    own = frame[(frame["method"] == "semantic") & (frame["metric"] == "aopc_comprehensiveness")]
    assert f"{own['value'].mean():.4f} ± {own['value'].sem():.4f}" in lines[1]
    assert lines[-1] == (
        f"6 prompts, 1 of them failed; mean ± standard error over prompts. Rows: {out / 'rows.parquet'}"
    )
    assert evaluated(folder, data, out, *args) == shown


def test_json_and_gold_targets(folder, data, tmp_path):
    args = ["--target", "gold", "--position", "-2", "--n", "3", "--skip", "1", "--json"]
    more = ["--leave-one-out", "zero", "--no-sufficiency", "--replacements", "zero,pad"]
    more += ["--matched", "1"]
    got = parsed(evaluated(folder, data, tmp_path / "out", *args, *more))
    assert (got["prompts"], got["failed"]) == (3, 0)
    rows = {(row["method"], row["metric"], row["replacement"]) for row in got["summary"]}
    assert {
        ("fisher", "loo_spearman", "zero"),
        ("random", "aopc_comprehensiveness_gain", "pad"),
    } <= rows
    assert not any("sufficiency" in metric for _, metric, _ in rows)
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert made["methods"]["semantic"]["target"] == "NEXT_TOKEN"
    assert made["methods"]["integrated-gradients"]["target"] == "NEXT_TOKEN"
    assert made["settings"]["target"] == "gold" and made["data"]["first"] == 1
    assert made["order"] == DEFAULT.split(",")


def test_every_method(folder, data, tmp_path):
    # These two ask for more than a prompt.
    names = [n for n in named.names() if n not in ("logit-difference", "continuation")]
    names += ["fisher:full", "fisher:0.9", "integrated_gradients:3", "Random:7"]
    names += ["semantic-path:2", "smoothgrad:2", "leave-one-out:hide"]
    shown = evaluated(folder, data, tmp_path / "out", "--methods", ",".join(names), "--n", "1")
    listed = [line.split()[0] for line in shown.splitlines()[1:-2]]
    assert listed == [name.lower().replace("_", "-") for name in names]
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())["methods"]
    assert made["ig-published"]["rule"] == "published" and made["ig-published"]["steps"] == 5
    assert made["integrated-gradients:3"]["steps"] == 3 and made["random:7"]["seed"] == 7


def test_a_report(folder, data, tmp_path):
    path = tmp_path / "report.html"
    result = evaluate(folder, data, tmp_path / "out", "--html", str(path))
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stderr == f"tl-scopes: wrote {path}\n"
    assert path.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--methods", "sematic"], "no method is called 'sematic'; close: semantic"),
        (["--methods", "continuation"], "name the continuations of the prompts"),
        (["--methods", "xyzzy"], "no method is called 'xyzzy'. All: semantic, logit-difference"),
        (["--methods", "semantic:3"], "semantic takes nothing after a colon; drop '3'"),
        (["--methods", "fisher:"], "ends in a colon; give a value for rank"),
        (["--methods", "fisher:x"], "rank is 'x'; allowed: an int"),
        (["--methods", "logit-difference"], "logit-difference needs versus"),
        (["--methods", "fisher:0"], "rank is 0; allowed"),
        (["--methods", "smoothgrad:x"], "draws is 'x'; allowed: a whole number"),
        (["--methods", "leave-one-out:x"], "replacement is 'x'; allowed"),
        (["--methods", "semantic,,fisher"], "has an empty entry"),
        (["--methods", "semantic,semantic"], "'semantic' is given twice"),
        (["--target", "gold"], "add --position -2"),
        (["--fractions", "a,b"], "give numbers such as 0.05,0.1,0.2"),
        (["--fractions", "0.5,0.2"], "rising shares between 0 and 1"),
        (["--fractions", "0.5"], "a trapezoid needs two fractions"),
        (["--replacements", "nil"], "'nil'; allowed: 'zero', 'pad'"),
        (["--leave-one-out", "nil"], "--leave-one-out is 'nil'"),
        (["--n", "0"], "n is 0; allowed"),
        (["--column", "body"], "no column 'body'; it has 'text'"),
        (["--split", "test"], "is a file, which has neither"),
        (["--data", "missing.jsonl"], "no file or folder missing.jsonl"),
        (["--data", "nobody/nothing"], "cannot be loaded as the name of a data set"),
        (["--unit", "0"], "unit is 0"),
        (["--matched", "1", "--unit", "1"], "those of the same unit: give --unit 2"),
        (["--spare-last", "-1"], "spare_last is -1; allowed"),
        (["--device", "cuda:99"], "'cuda:99' cannot be used"),
        (["--html", "no/where.html"], "does not exist; make it first"),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(
    data, tmp_path, monkeypatch, args, said
):
    monkeypatch.setattr(models, "load", lambda *a, **k: pytest.fail("the model was loaded"))
    assert said in refused(evaluate("any", data, tmp_path / "out", *args))


def test_bad_folders(folder, data, tmp_path, monkeypatch):
    assert "there is no folder" in refused(evaluate(folder, data, tmp_path / "no" / "out"))
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in refused(evaluate(folder, data, tmp_path / "file"))
    out = tmp_path / "out"
    assert evaluate(folder, data, out).exit_code == 0
    said = refused(evaluate(folder, data, out, "--seed", "1"))
    assert "settings.seed was 0, is 1" in said and "give another folder" in said

    full = Mock(side_effect=OSError(28, "No space left on device", "somewhere"))
    monkeypatch.setattr("tl_scopes.results.files.os.fsync", full)
    assert "No space left on device" in refused(evaluate(folder, data, tmp_path / "full"))


def test_nothing_but_failures(folder, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("The\nParis\n")
    said = refused(evaluate(folder, str(path), tmp_path / "out", "--position", "-9"))
    assert "every prompt failed, the first with PositionError: position -9" in said
    path.write_text("The" + " cat" * 99)
    said = refused(evaluate(folder, str(path), tmp_path / "other"))
    assert "none of the 1 prompts can be encoded; the first: the prompt has 101 tokens" in said


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(folder, data, tmp_path):
    out = tmp_path / "out"
    args = ["evaluate", "--model", folder, "--data", data, "--out", str(out), "--unit", "1"]
    args += ["--methods", "integrated-gradients:1000"]
    terminal = Terminal(args, "stderr", OMP_NUM_THREADS="1")
    # tqdm shows nothing where it does not know the size.
    fcntl.ioctl(terminal.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    assert "loading" in terminal.read(until="2/6 [")
    terminal.interrupt()
    assert f"what is finished stays in {out}; the same command goes on from there" in terminal.text
    assert 0 < len(os.listdir(out / "parts")) < 5 and not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(folder, data, tmp_path):
    args = ["evaluate", "--model", folder, "--data", data, "--unit", "2", "-n", "6", "--out"]
    assert call(*args, str(tmp_path / "one")).exit_code == 0
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0", "-m", *COMMAND[2:]]
    done = subprocess.run(
        [*launch, *args, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="ignore"),
    )
    assert done.returncode == 0, done.stderr
    one, two = (tmp_path / name / "rows.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert (
        done.stdout.count("METHOD") == 1 and done.stdout.count("6 prompts, 1 of them failed") == 1
    )
    assert torch.get_num_threads() == 1
