"""Runs over data sets: kill -9 at any moment, start again, and nothing is lost, repeated or different."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from pyarrow import parquet

import tl_scopes as ts
from support import forks, run_cases
from support.run_cases import EMPTY, TOO_LONG, prompts
from tl_scopes.evaluation import Run, Settings, measure
from tl_scopes.evaluation.runs.units import encoded, units
from tl_scopes.results import files

GIVEN = [*prompts(24), TOO_LONG, EMPTY]
SEED, KILLS, UNIT = 5, 20, 2
CHEAP = {
    "methods": [ts.TemperatureScope()],
    "settings": Settings(fractions=(0.3,), area="mean", sufficiency=False),
    "unit": UNIT,
}


def go(out: Path, given=GIVEN, **changes) -> Run:
    return run_cases.go(out, given, **CHEAP | changes)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from forks.one_thread()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return go(tmp_path_factory.mktemp("whole") / "out")


def writing(log: Path):
    """A `measure` that notes which prompts it was given, before it measures them."""

    def noted(model, ids, methods, settings):
        with log.open("ab", buffering=0) as file:
            file.write(json.dumps(ids).encode() + b"\n")
        return measure(model, ids, methods, settings)

    return noted


def noted(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@functools.cache
def known() -> list[list[int] | None]:
    return encoded(run_cases.model(), GIVEN, None).ids


def finished(out: Path) -> set[str]:
    """What the parts that are there are of, as `writing` notes it."""
    found = set()
    for path in (out / "parts").glob("*.parquet"):
        members = parquet.read_table(path)["index"].to_pylist()
        found.add(json.dumps([known()[i] for i in dict.fromkeys(members)]))
    return found


def test_killed_at_twenty_random_moments(whole, tmp_path):
    draw = random.Random(SEED)
    count = len(units(known(), UNIT))
    start = time.monotonic()
    assert forks.wait(forks.start(lambda: go(tmp_path / "timed"))) == 0
    seconds = time.monotonic() - start
    kills = folders = with_some = 0
    while kills < KILLS:
        folders += 1
        out, log = tmp_path / f"out{folders}", tmp_path / f"log{folders}"
        own_kills, code = 0, None
        while code != 0:
            before, done = len(noted(log)), finished(out)
            pid = forks.start(lambda out=out, log=log: go(out, measure=writing(log)))
            # The last folder is left to finish.
            code = forks.kill_after(pid, draw.uniform(0, seconds / 2) if kills < KILLS else 60)
            assert code in (0, -signal.SIGKILL)
            tried = noted(log)[before:]
            assert len(set(tried)) == len(tried) and not set(tried) & done, "measured again"
            killed = code != 0
            kills, own_kills = kills + killed, own_kills + killed
            with_some += 0 < len(finished(out)) < count
        assert len(noted(log)) <= count + own_kills, "more than the units in flight were lost"
        assert (out / "rows.parquet").read_bytes() == whole.rows.read_bytes()
        assert not list(out.rglob("*.partial"))
        assert set(noted(log)) == finished(out)
    before = len(noted(log))
    again = go(out, measure=writing(log))
    assert (again.failed, again.measured, len(noted(log))) == (2, 0, before)
    assert with_some >= 5, "hardly any kill came in the middle: the moments were badly chosen"


@pytest.mark.parametrize("after", [False, True])
def test_killed_before_and_after_every_file_appears(tmp_path, after):
    given = GIVEN[:4]
    expected = go(tmp_path / "whole", given).rows.read_bytes()

    def dying(out: Path, step: int) -> None:
        real, steps = files.appear, []

        def appear(*args):
            steps.append(args)
            last = len(steps) == step
            if after or not last:
                real(*args)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

        files.appear = appear
        go(out, given)

    code, step = -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        step += 1
        out = tmp_path / f"out{step}"
        code = forks.wait(forks.start(lambda out=out, step=step: dying(out, step)))
        there = [out / "manifest.json", out / "parts" / "0000001.parquet", out / "rows.parquet"]
        # The manifest, a part for each of two units, the table.
        assert [path.is_file() for path in there] == [step > n - after for n in (1, 3, 4)]
        assert go(out, given).rows.read_bytes() == expected
        assert not list(out.rglob("*.partial"))
    assert (code, step) == (0, 5)
