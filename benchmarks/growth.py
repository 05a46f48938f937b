"""How memory grows: the peak of a whole process, a fresh one for each point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

MODEL = "gemma-3-270m"
LENGTHS = (512, 1024, 2048, 4096, 8192)
RANKS = (1, 2, 4, 8, 16)


def run(longest: int, out: Path) -> None:
    """Measure every point up to `longest` tokens, and write memory.json and memory.png to `out`."""
    points = [(n, sites, 1, "auto") for n in LENGTHS if n <= longest for sites in ("embed", "all")]
    points += [(n, "all", 1, "never") for n in LENGTHS if n <= min(longest, 2048)]
    points += [(1024, "embed", k, c) for k in RANKS[1:] for c in ("never", "always")]
    points += [(1024, "embed", 1, "always")]
    found = []
    for point in tqdm(points, desc="memory", unit="point"):
        command = [sys.executable, "-m", "benchmarks", "one", *map(str, point)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    out.mkdir(parents=True, exist_ok=True)
    (out / "memory.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    _plot(found).savefig(out / "memory.png", dpi=160)
    print(f"Written to {out / 'memory.json'} and {out / 'memory.png'}")


def one(tokens: int, sites: str, rank: int, checkpoint: str) -> None:
    """Measure this process: load the model, attribute once, print the peak as JSON."""
    import torch

    import tl_scopes as ts
    from benchmarks import prompts
    from tl_scopes.checking import spent

    torch.set_num_threads(2)
    model = ts.models.load(MODEL, backend="bridge", progress=False)
    ids = prompts.tokens(model, tokens)
    scope = ts.TemperatureScope() if rank == 1 else ts.FisherScope(rank=rank)
    flag = {"auto": None, "never": False, "always": True}[checkpoint]
    loaded = spent.resident_mib("VmHWM")
    seconds = spent.seconds(
        lambda: ts.attribute(model, ids, scope, sites=sites, checkpoint_blocks=flag)
    )
    peak = spent.resident_mib("VmHWM")
    print(
        json.dumps(
            dict(
                tokens=tokens,
                sites=sites,
                directions=rank,
                checkpoint=checkpoint,
                peak_gib=peak / 1024,
                loaded_gib=loaded / 1024,
                seconds=seconds,
            )
        )
    )


def _plot(found: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_length, by_rank = figure.subplots(1, 2, sharey=False)

    def line(axes: Any, x: str, label: str, style: str, **chosen: Any) -> None:
        points = [p for p in found if all(p[k] == v for k, v in chosen.items())]
        points = sorted(points, key=lambda p: p[x])
        axes.plot([p[x] for p in points], [p["peak_gib"] for p in points], style, label=label)

    kept = dict(directions=1, checkpoint="never", sites="all")
    line(by_length, "tokens", "all sites, every activation kept", "o:", **kept)
    line(by_length, "tokens", "all sites", "o-", directions=1, checkpoint="auto", sites="all")
    line(by_length, "tokens", "embed only", "x--", directions=1, checkpoint="auto", sites="embed")
    line(by_rank, "directions", "every activation kept", "o:", tokens=1024, checkpoint="never")
    line(by_rank, "directions", "blocks checkpointed", "o-", tokens=1024, checkpoint="always")
    by_length.set(xlabel="tokens", ylabel="peak of the process, GiB", title="one direction")
    by_rank.set(xlabel="directions", title="1,024 tokens")
    for axes in (by_length, by_rank):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return figure
