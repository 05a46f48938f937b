"""`make gpu`: the check of `tl_scopes.check` on every device at hand, in every dtype, and how else models lie."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import tl_scopes as ts
from tl_scopes import models
from tl_scopes.models.installed import model_classes

NAMES = ("gemma-3-270m", "smollm2-135m-instruct")
DTYPES = ("float32", "bfloat16", "float16")


def devices() -> list[str]:
    """Every CUDA device, mps, and the CPU."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def run(names: tuple[str, ...], dtypes: tuple[str, ...], where: list[str], out: Path) -> bool:
    """Check all, write check-<kind of device>.json and .md to `out`. Whether nothing failed."""
    started = time.perf_counter()
    rows = [
        {"what": what, **_checked(make, name, dtype, device)}
        for what, name, dtype, device, make in tqdm(
            list(_cases(names, dtypes, where)), unit="check"
        )
    ]
    kind = where[0].partition(":")[0]
    told = {
        "devices": where,
        "names": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "left out": _left_out(),
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"check-{kind}.json"
    path.write_text(json.dumps({"machine": told, "checks": rows}, indent=1), encoding="utf-8")
    path.with_suffix(".md").write_text(_markdown(told, rows), encoding="utf-8")
    print(f"Written to {path} and {path.with_suffix('.md')}")
    return all(row["passed"] for row in rows)


Make = Callable[[], Any]


def _cases(
    names: tuple[str, ...], dtypes: tuple[str, ...], where: list[str]
) -> Iterator[tuple[str, str, str, str, Make]]:
    for name in names:
        for device in where:
            for dtype in dtypes:
                yield (
                    "plain", name, dtype, device,
                    lambda n=name, d=dtype, w=device: models.load(n, dtype=d, device=w),
                )  # fmt: skip
        if "bridge" not in model_classes():
            continue
        if torch.cuda.device_count() > 1:
            yield "n_devices=2", name, "bfloat16", "cuda:0", lambda n=name: _boot(n, n_devices=2)
            yield (
                "device_map",
                name,
                "bfloat16",
                "cuda:0",
                lambda n=name: _boot(n, device_map="auto"),
            )
        if torch.cuda.is_available() and find_spec("bitsandbytes"):
            for bits in (8, 4):
                yield (
                    f"{bits} bits",
                    name,
                    "bfloat16",
                    "cuda:0",
                    lambda n=name, b=bits: _quantised(n, b),
                )


def _boot(name: str, **options: Any) -> Any:
    folder = models.ensure(name, progress=False)
    return model_classes()["bridge"].boot_transformers(str(folder), dtype=torch.bfloat16, **options)


def _quantised(name: str, bits: int) -> Any:
    """Weights in so many bits, the head spared."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = models.ensure(name, progress=False)
    asked: Any = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head"],
    )
    hf_model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=asked, device_map={"": 0}, attn_implementation="eager"
    )
    return model_classes()["bridge"].boot_transformers(
        str(folder), hf_model=hf_model, tokenizer=AutoTokenizer.from_pretrained(folder)
    )


def _checked(make: Make, name: str, dtype: str, device: str) -> dict[str, Any]:
    """What the check says; of a model that cannot be loaded, why."""
    row = {"model": name, "dtype": dtype, "device": device}
    try:
        plain = make.__defaults__ is not None and len(make.__defaults__) == 3
        original = models.load_original(name, dtype=dtype, device=device) if plain else None
        found = ts.check(make(), original=original, progress=False)
        return {**row, **json.loads(found.to_json())}
    except Exception as error:
        return {**row, "passed": False, "error": f"{type(error).__name__}: {error}"}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _left_out() -> list[str]:
    """What this machine lacks, so that it was not looked at."""
    lacks = {
        "CUDA": not torch.cuda.is_available(),
        "mps": not torch.backends.mps.is_available(),
        "two devices (n_devices, device_map)": torch.cuda.device_count() < 2,
        "8 and 4 bits (bitsandbytes on CUDA)": not (
            torch.cuda.is_available() and find_spec("bitsandbytes")
        ),
    }
    return [name for name, missing in lacks.items() if missing]


def _markdown(told: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    on = ", ".join([*told["names"], *told["devices"]])
    lines = [f"# tl_scopes.check on {on}", "", f"{told['date']}, torch {told['torch']}."]
    if told["left out"]:
        lines += ["", f"**Not looked at, for want of it here: {'; '.join(told['left out'])}.**"]
    lines += [
        "",
        "| model | how | dtype | device | verdict | not passed | gradient off, at most | Fisher 4, s | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        findings = row.get("findings", [])
        others = [f"{f['name']} ({f['state']})" for f in findings if f["state"] != "passed"]
        off = [f["value"] for f in findings if "gradient" in f["name"] and f["value"] is not None]
        costs = row.get("costs") or [{}]
        cells = [
            row["model"], row["what"], row["dtype"], row["device"],
            "passed" if row["passed"] else row.get("error", "failed"),
            ", ".join(others), f"{max(off):.2%}" if off else "",
            _number(costs[-1].get("seconds")), _number(costs[-1].get("mib")),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
