"""`python -m benchmarks`: the table of ratios, as text and as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import tl_scopes
from benchmarks import billion as billion_1b
from benchmarks import devices, growth, heads, measure
from benchmarks import passages as twelve
from benchmarks.answers.command import answers
from benchmarks.architectures.command import architectures
from benchmarks.case import Case
from benchmarks.cases import LENGTHS, MAIN, cases, of_passages
from benchmarks.circuits.command import circuits
from benchmarks.confidence import confidence
from benchmarks.evidence.command import evidence
from benchmarks.replication import command
from benchmarks.sampling import sampling
from tl_scopes import models
from tl_scopes.models import bundled, installed

app = typer.Typer(add_completion=False, no_args_is_help=False)
NAMES = ("gemma-3-270m", "smollm2-135m-instruct")
RESULTS = Path(__file__).parent / "results"


@app.command()
def speed(
    quick: Annotated[bool, typer.Option(help="128 tokens, few rounds: under 3 minutes.")] = False,
    threads: Annotated[int, typer.Option(help="torch threads; the bounds are for 2.")] = 2,
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Only these classes.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Only these lengths.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only rows with this in their name.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write JSON.")] = None,
) -> None:
    """Time every scope against a bare forward pass, and the published method against ours."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    lengths = tuple(length or ((MAIN,) if quick else LENGTHS))
    path = out or RESULTS / f"{'quick' if quick else 'speed'}.json"
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    rate = measure.matmul_rate(torch.float32, torch.device("cpu"))
    for name in model or NAMES:
        hf_model = _hf_model(name)
        for kind in backend or installed.model_classes():
            if kind == "hooked" and (quick or name != NAMES[0]):
                continue
            loaded = models.load(name, backend=kind, progress=False)
            theirs = hf_model if kind == "bridge" else None
            every = cases(loaded, name, theirs, quick, lengths)
            listed = [case for case in every if any(part in case.what for part in only or [""])]
            for case in tqdm(listed, desc=f"{name} {kind}", unit="row"):
                rows += [_row(case, name, kind, rate, quick)]
                _write(rows, _machine(threads, rate, started), path)
    _report(rows, threads, rate, started, path)


@app.command()
def memory(
    longest: Annotated[int, typer.Option(help="Longest prompt; 8,192 takes minutes.")] = 4096,
    out: Annotated[Path, typer.Option(help="Folder for memory.json and memory.png.")] = RESULTS,
) -> None:
    """Measure, in a process each, how memory grows with length, sites and directions; plot it."""
    growth.run(longest, out)


@app.command()
def ablation(
    model: Annotated[str, typer.Option(help="A bundled model.")] = NAMES[0],
    count: Annotated[int, typer.Option(help="How many repeated sequences.")] = 20,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 2,
    out: Annotated[Path, typer.Option(help="Where to write JSON.")] = RESULTS / "ablation.json",
) -> None:
    """Compare what circuits say of every head on repeated sequences with ablating it."""
    torch.set_num_threads(threads)
    for key, value in heads.run(model, count, out).items():
        for row in value.items() if isinstance(value, dict) else [(value, "")]:
            print(key, *row)


@app.command()
def gpu(
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Only these dtypes.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only these devices.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for check-DEVICE.json and .md.")] = RESULTS,
) -> None:
    """Check bundled models in each dtype on every device at hand. Ends with 1 if one failed."""
    chosen = tuple(model or devices.NAMES), tuple(dtype or devices.DTYPES)
    if not devices.run(*chosen, device or devices.devices(), out):
        raise typer.Exit(1)


@app.command()
def passages(
    quick: Annotated[bool, typer.Option(help="Three of them, few rounds.")] = False,
    threads: Annotated[int, typer.Option(help="torch threads; the bounds are for 2.")] = 2,
    out: Annotated[Path, typer.Option(help="Where to write JSON.")] = RESULTS / "passages.json",
) -> None:
    """Only the rows of `speed` on twelve passages of different kinds, with each one's entropy."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    rate = measure.matmul_rate(torch.float32, torch.device("cpu"))
    model = models.load(NAMES[0], backend="bridge", progress=False)
    listed = tqdm(list(of_passages(model, quick)), desc=NAMES[0], unit="row")
    rows = [_row(case, NAMES[0], "bridge", rate, quick) for case in listed]
    _report(rows, threads, rate, started, out)


@app.command()
def billion(
    only: Annotated[str, typer.Option(help="Only cases whose name contains this.")] = "",
    out: Annotated[Path, typer.Option(help="Where to write JSON.")] = RESULTS / "billion.json",
) -> None:
    """Measure memory and time of every scope at Llama-3.2-1B's shape, in bfloat16 (7 GB, minutes)."""
    raise typer.Exit(0 if billion_1b.run(out, only) else 1)


@app.command(hidden=True)
def one(tokens: int, sites: str, rank: int, checkpoint: str) -> None:
    """One point of `memory`, in this process."""
    growth.one(tokens, sites, rank, checkpoint)


def _hf_model(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    folder = bundled.ensure(name, progress=False)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).float().eval()
    return model.requires_grad_(False)


def _row(case: Case, name: str, backend: str, rate: float, quick: bool) -> dict[str, Any]:
    rounds = min(case.rounds, 3 if quick else 15)
    budget = 4 if quick else 25 if case.tokens == MAIN else 10
    timing = measure.interleaved(case.a, case.b, rounds, budget, case.warm, case.less)
    floor_s = case.needed / rate if case.needed else None
    return {
        "model": name,
        "class": backend,
        "what": case.what,
        "tokens": case.tokens,
        "over": case.over,
        "ratio": timing.ratio,
        "lowest": timing.spread[0],
        "highest": timing.spread[1],
        "bound": case.bound,
        "met": case.met(timing.ratio),
        "rounds": len(timing.a),
        "a_seconds": statistics.median(timing.a),
        "b_seconds": statistics.median(timing.b),
        "floor_seconds": floor_s,
        "a_peak_mib": timing.a_mib,
        "b_peak_mib": timing.b_mib,
        **case.facts(),
    }


def _report(
    rows: list[dict[str, Any]], threads: int, rate: float, started: float, path: Path
) -> None:
    """Print the rows, and what those of passages come to, and write them to `path`."""
    rows = rows + twelve.summary(rows)
    machine = _machine(threads, rate, started)
    _print(rows, machine)
    _write(rows, machine, path)
    print(f"Written to {path}")


def _write(rows: list[dict[str, Any]], machine: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), encoding="utf-8")


def _machine(threads: int, rate: float, started: float) -> dict[str, Any]:
    packages = ("transformer-lens", "torch", "transformers")
    return {
        "cpu": _cpu(),
        "threads": threads,
        "matmul": f"{2 * rate / 1e9:.0f} GFLOP/s in float32",
        "seed": 0,
        "tl-scopes": tl_scopes.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "date": datetime.now(timezone.utc).date().isoformat(),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# What some rows do not have: fields, and how each is written.
_OPTIONAL = (
    (("entropy",), ".2f"),
    (("a_seconds", "b_seconds"), ".3g"),
    (("floor_seconds",), ".3g"),
    (("a_peak_mib", "b_peak_mib"), ",.0f"),
)


def _cell(row: dict[str, Any], fields: tuple[str, ...], style: str) -> str:
    values = [row.get(field) for field in fields]
    if set(values) == {None}:
        return ""
    return " / ".join("?" if value is None else format(value, style) for value in values)


def _print(rows: list[dict[str, Any]], machine: dict[str, Any]) -> None:
    console = Console()
    for key in dict.fromkeys((r["model"], r["class"]) for r in rows):
        table = Table(title=f"{key[0]}, {key[1]}", title_justify="left")
        for heading in (
            "what",
            "tokens",
            "over",
            "ratio",
            "range",
            "bound",
            "entropy",
            "seconds",
            "floor",
            "MiB",
        ):
            table.add_column(heading, justify="left" if heading in ("what", "over") else "right")
        for r in (r for r in rows if (r["model"], r["class"]) == key):
            colour = {True: "green", False: "red", None: ""}[r["met"]]
            ratio = f"[{colour}]{r['ratio']:.2f}[/]" if colour else f"{r['ratio']:.2f}"
            table.add_row(
                r["what"],
                f"{r['tokens']:,}",
                r["over"],
                ratio,
                f"{r['lowest']:.2f} to {r['highest']:.2f}",
                r["bound"],
                *(_cell(r, *column) for column in _OPTIONAL),
            )
        console.print(table)
    console.print(
        "Medians of ratios, the two taking turns in one run. Seconds: of both. Floor: the needed "
        "multiply-adds at the machine's matmul rate. MiB: what either takes at its peak. Entropy: of the "
        "prediction, in nats; percentiles are over passages."
    )
    console.print(", ".join(f"{k} {v}" for k, v in machine.items()))


app.command()(answers)
app.command()(architectures)
app.command()(circuits)
app.command()(confidence)
app.command()(evidence)
app.command()(sampling)
app.command()(command.replication)
app.command()(command.evaluation)

if __name__ == "__main__":
    app()
