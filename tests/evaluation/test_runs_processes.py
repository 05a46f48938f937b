"""Runs over data sets by several processes: the table of one, with and without a shared disk."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from support import cli_calls, forks
from support.run_cases import EMPTY, METHODS, SETTINGS, TOO_LONG, prompts
from support.run_cases import go as run
from tl_scopes import evaluation
from tl_scopes.cli.main import app
from tl_scopes.errors import RunError
from tl_scopes.evaluation import Run, Settings, measure
from tl_scopes.evaluation.runs import processes, pulse

GIVEN = [*prompts(14), TOO_LONG, EMPTY]
UNITS = 5
MANIFEST, ROWS = "manifest.json", "rows.parquet"


def go(out: Path, **changes) -> Run:
    return run(out, GIVEN, unit=3, **changes)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from forks.one_thread()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    return go(tmp_path_factory.mktemp("whole") / "out")


def parts(out: Path) -> set[str]:
    return {path.name for path in (out / "parts").glob("*.parquet")}


def disks(folder: Path, *names: str) -> list[Path]:
    """A folder for each process, none of which sees another's."""
    found = [folder / name for name in names]
    for path in found:
        path.mkdir()
    return found


def told(capfd) -> str:
    return capfd.readouterr().err


def saying(out: Path) -> Callable[[int], None]:
    def work(rank: int) -> None:
        done = go(out, progress=True)
        assert (done.prompts, done.failed) == (len(GIVEN), 2)
        print(f"\nmeasured {done.measured}", file=sys.stderr)

    return work


def said_to_have_measured(err: str) -> list[int]:
    return [int(line.split()[-1]) for line in err.splitlines() if line.startswith("measured")]


def test_on_one_disk(whole, tmp_path, capfd):
    assert forks.together(saying(tmp_path / "out"), 2) == [0, 0]
    assert (tmp_path / "out" / ROWS).read_bytes() == whole.rows.read_bytes()
    err = told(capfd)
    counts = said_to_have_measured(err)
    assert sum(counts) == len(GIVEN) - 2 and all(counts)
    assert "process 1 of 2" in err and "process 2 of 2" not in err


def test_on_disks_of_their_own(whole, tmp_path, capfd):
    folders = disks(tmp_path, "a", "b", "c")
    assert forks.together(lambda rank: go(Path("out")), 3, *folders) == [0, 0, 0]
    a, b, c = (folder / "out" for folder in folders)
    assert (a / ROWS).read_bytes() == whole.rows.read_bytes()
    assert len(parts(a)) == UNITS and len(parts(b)) == 2 and len(parts(c)) == 1
    assert not (b / ROWS).exists() and (b / MANIFEST).is_file()
    # What they sent is whole: the main process's folder goes on by itself.
    assert go(a).measured == 0
    # And parts that only another process has are found there.
    for path in [*(a / "parts").iterdir(), a / ROWS]:
        path.unlink()
    held = [parquet.read_table(path)["index"].to_pylist() for path in (b / "parts").iterdir()]
    known = sum(len(set(indices)) for indices in held)
    assert forks.together(saying(Path("out")), 2, folders[0], folders[1]) == [0, 0]
    assert (a / ROWS).read_bytes() == whole.rows.read_bytes()
    assert sum(said_to_have_measured(told(capfd))) == len(GIVEN) - 2 - known


def test_any_number_of_processes_can_go_on(whole, tmp_path):
    """Killed at random, each time with another number of processes."""
    draw, out = random.Random(3), tmp_path / "out"
    for count in (2, 1, 3):

        def work(rank: int) -> None:
            go(out, measure=dying)

        left = draw.randint(1, 2)

        def dying(*args):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return measure(*args)

        dying.__module__, dying.__qualname__ = measure.__module__, measure.__qualname__
        if count == 1:
            forks.wait(forks.start(lambda: work(0)))
        else:
            forks.together(work, count)
    go(out)
    assert (out / ROWS).read_bytes() == whole.rows.read_bytes()
    assert not list(out.rglob("*.partial"))


def fails_in(rank: int, how: Callable[[], object]):
    def failing(*args):
        if os.environ["RANK"] == str(rank):
            how()
        return measure(*args)

    return failing


def raising(error: BaseException) -> Callable[[], None]:
    def how() -> None:
        raise error

    return how


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


LOST = "process 0 of 2 lost the others (process 1 ended"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (raising(MemoryError("no room")), "process 1 of 2 failed: MemoryError: no room"),
        (raising(KeyboardInterrupt()), LOST),
        (killed, LOST),
    ],
)
def test_one_that_fails_or_dies_ends_the_others(whole, tmp_path, capfd, how, said):
    out = tmp_path / "out"
    codes = forks.together(lambda rank: go(out, measure=fails_in(1, how)), 2, seconds=20)
    assert codes in ([1, 1], [1, -signal.SIGKILL])
    assert said in told(capfd)
    # What the other did meanwhile is kept.
    assert 0 < len(parts(out)) < UNITS and not (out / ROWS).exists()


@pytest.mark.parametrize("culprit", [0, 1])
def test_all_must_be_given_the_same(tmp_path, capfd, culprit):
    def work(rank: int) -> None:
        settings = Settings(fractions=(0.2, 0.5), seed=int(rank == culprit))
        run(tmp_path / "out", GIVEN, settings=settings)

    assert forks.together(work, 2, seconds=20) == [1, 1]
    said = f"process 1 differs from the main process in what decides the numbers: settings.seed was {1 - culprit}"
    assert said in told(capfd)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_folder_that_only_another_process_cannot_use(tmp_path, capfd):
    folders = disks(tmp_path, "a", "b")
    (folders[1] / "out").write_text("a file")
    assert forks.together(lambda rank: go(Path("out")), 2, *folders, seconds=20) == [1, 1]
    assert "process 1 of 2 failed: RunError: out is a file" in told(capfd)


def test_processes_that_cannot_join_are_refused(monkeypatch):
    """As where a launcher starts several on a device that accelerate does not know."""

    class Alone:
        num_processes = 1

        def __init__(self, **_: object) -> None: ...

    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RunError, match=r"there are 4 processes .* not which one this is"):
        processes.processes()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("accelerate.PartialState", Alone)
    with pytest.raises(RunError, match=r"4 processes were launched, but accelerate joined 1"):
        processes.processes()


def test_one_process_needs_no_accelerate(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert run(tmp_path / "out", GIVEN[:2], methods=METHODS[:1], settings=SETTINGS).measured == 2


# --- waiting ---


@pytest.mark.parametrize("rank", [0, 1])
def test_one_whose_others_never_come_says_so_and_ends(tmp_path, capfd, monkeypatch, rank):
    monkeypatch.setattr(processes, "_SAID", 0.2)
    launch = forks.launch(2) | {processes.MEET_SECONDS: "2"}
    pid = forks.start(lambda: go(tmp_path / "out"), RANK=str(rank), LOCAL_RANK=str(rank), **launch)
    assert forks.wait(pid, 30) == 1
    err = told(capfd)
    assert f"process {rank} of 2 waits for the others at MASTER_ADDR=127.0.0.1 MASTER_PORT=" in err
    assert f"LostProcessError: process {rank} of 2 did not meet the others" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seconds", ["soon", "0", "nan", "1e9"])
def test_a_bad_time_to_meet(monkeypatch, seconds):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(processes.MEET_SECONDS, seconds)
    with pytest.raises(RunError, match="allowed: seconds from 1 to 86400"):
        processes.processes()


@pytest.mark.parametrize("culprit", [0, 1])
def test_the_command_names_the_one_that_was_killed(tmp_path, capfd, monkeypatch, culprit):
    kill = fails_in(culprit, killed)
    monkeypatch.setattr(evaluation, "run", functools.partial(evaluation.run, measure=kill))
    folder = cli_calls.save_tiny(tmp_path / "tiny")
    data = tmp_path / "data.txt"
    data.write_text("\n".join(prompts(6)))
    args = ["evaluate", "--model", folder, "--data", str(data), "--unit", "1"]

    def work(rank: int) -> None:
        try:
            app([*args, "--methods", "semantic", "--out", str(tmp_path / "out")])
        except SystemExit as end:
            os._exit(end.code)

    codes = forks.together(work, 2)
    assert codes[culprit] == -signal.SIGKILL and codes[1 - culprit] == 2
    lines = [line for line in told(capfd).splitlines() if line.startswith("tl-scopes: error: ")]
    assert len(lines) == 1
    assert f"process {1 - culprit} of 2 lost the others (process {culprit} ended" in lines[0]


def test_one_that_shows_no_life_is_not_waited_for(tmp_path, capfd, monkeypatch):
    """Stopped, not ended: as on a machine that is gone."""
    monkeypatch.setattr(pulse, "BEAT", 0.1)
    monkeypatch.setattr(pulse, "SILENCE", 2.0)
    stopped = fails_in(1, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    pids = forks.launched(lambda rank: go(tmp_path / "out", measure=stopped), 2)
    try:
        assert forks.wait(pids[0], 30) == 1
    finally:
        os.kill(pids[1], signal.SIGKILL)
        forks.wait(pids[1])
    assert "(process 1 ended, or gave no sign of life for 2 s)" in told(capfd)


def test_one_that_works_is_waited_for(whole, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(pulse, "BEAT", 0.1)
    monkeypatch.setattr(pulse, "SILENCE", 1.0)
    monkeypatch.setattr(pulse, "SAID", 0.5)
    slow = fails_in(1, lambda: time.sleep(1.5))
    slow.__module__, slow.__qualname__ = measure.__module__, measure.__qualname__
    assert forks.together(lambda rank: go(tmp_path / "out", measure=slow), 2) == [0, 0]
    assert (tmp_path / "out" / ROWS).read_bytes() == whole.rows.read_bytes()
    err = told(capfd)
    # Ever more rarely.
    assert 1 <= err.count("tl-scopes: waiting for process 1 of 2, still at work") <= 4


def test_one_that_ends_while_it_shows_life_ends_well():
    # Python stops threads by force at its end, and within the store's C++ that is an abort.
    code = (
        "import time, torch.distributed as distributed\n"
        "from tl_scopes.evaluation.runs import pulse\n"
        "pulse.BEAT = 0\n"
        "store = distributed.TCPStore('127.0.0.1', 0, 1, True)\n"
        "pulse.Pulse(store, 0, 1).start()\n"
        "time.sleep(0.2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
