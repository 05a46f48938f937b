"""Faithfulness cards with made-up measurements: of any size and content, with known answers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.records import Provenance

METHODS = (
    "semantic",
    "fisher(rank=4)",
    "temperature",
    "input_x_gradient",
    "integrated_gradients",
    "random",
)
LONG = (
    "semantic", "temperature", "fisher(rank=1)", "fisher(rank=64)", "fisher(rank='full')",
    "fisher(rank=4, samples=16, seed=3)", "gradient_norm", "input_x_gradient",
    "integrated_gradients(baseline='mean', steps=50, weighting='published', target='gold')",
    "integrated_gradients(baseline='mean', steps=50, weighting='standard', target='gold')",
    "leave_one_out(measure='kl', replacement='pad')", "random(seed=1)",
)  # fmt: skip
HOSTILE = (
    "<script>document.title='pwned'</script>", "$x_1$ and \\frac{1}{", "👍 | pipe | `code` *b* _u_", "a\nb\tc\x1b[31m",
    "</style><img src=http://tracker.test/x.png onerror=document.title='pwned'>", "שלום \u202eevil", "日本語",
)  # fmt: skip
COLUMNS = ["index", "tokens", "method", "metric", "replacement", "fraction", "value", "error"]
FRACTIONS = (0.05, 0.1, 0.2)
PROVENANCE = Provenance(
    "gemma-3-270m", "TransformerBridge", "float32", "cpu", "raw", "float32", {"torch": "2.13"}
)
SETTINGS = {
    "fractions": list(FRACTIONS), "replacements": ["zero", "pad"], "target": "predicted", "area": "trapezoid",
    "leave_one_out": "zero", "top": 0.1, "position": -1, "prepend_bos": None, "seed": 0,
}  # fmt: skip


def rows(
    methods=METHODS, prompts=30, failed=(), replacements=("zero", "pad"), seed=0, quality=None
):
    """What `evaluation.rows.measure` gives: falls in nats that grow with the share of tokens replaced.

    Methods are better the earlier they stand, or by `quality`; the first two are hard to tell apart.
    """
    random = np.random.default_rng(seed)
    if quality is None:
        quality = np.linspace(1.0, 0.1, len(methods))
        quality[1 % len(methods)] = quality[0] * 0.98
    difficulty = random.gamma(4.0, 0.5, prompts)
    found = []
    for index in range(prompts):
        tokens = int(random.integers(40, 140))
        if index in failed:
            found.append((index, tokens, "", "error", "", np.nan, np.nan, failed[index]))
            continue
        own = [
            ("", "log_prob", "", np.nan, -random.gamma(2.0, 1.0)),
            ("", "correct", "", np.nan, index % 3 > 0),
        ]
        for method, good in zip(methods, quality):
            for kind in replacements:
                noise = random.normal(0, 0.6, (2, len(FRACTIONS)))
                grow = np.array(FRACTIONS) ** 0.5 * 3
                falls = {
                    "comprehensiveness": difficulty[index] * good * grow + noise[0],
                    "sufficiency": difficulty[index] * (1.3 - good) * (2.2 - grow) + noise[1],
                }
                for name, curve in falls.items():
                    for fraction, value in zip(FRACTIONS, curve):
                        own.append((method, name, kind, fraction, value))
                        own.append((method, f"{name}_kl", kind, fraction, abs(value) * 0.8))
                        own.append((method, f"{name}_flip", kind, fraction, value > 1.5))
                    area = ((curve[1:] + curve[:-1]) / 2 * np.diff(FRACTIONS)).sum()
                    own.append((method, f"aopc_{name}", kind, np.nan, area))
            rho = np.tanh(random.normal(1.2 * good - 0.12, 0.25))
            missing = (index, method) == (3, methods[-1])
            agreement = {
                "spearman": np.nan if missing else rho,
                "kendall": rho * 0.7,
                "jaccard": np.clip(0.5 * good + random.normal(0, 0.1), 0, 1),
                "top_rank": min(random.poisson(20 * max(1 - 0.9 * good, 0.0)) / tokens, 0.99),
            }
            own += [(method, f"loo_{k}", "zero", np.nan, v) for k, v in agreement.items()]
        found += [(index, tokens, *row[:4], float(row[4]), "") for row in own]
    return pd.DataFrame(found, columns=COLUMNS)


def randomisation(methods=METHODS, prompts=10, blocks=18, blind=(), seed=1):
    """Similarity that falls as blocks lose their weights; 1 for the methods in `blind`."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(prompts):
        for i, method in enumerate(methods):
            for depth in range(blocks + 1):
                label = "none" if not depth else f"blocks {blocks - 1} to {blocks - depth}"
                value = np.exp(-depth / (2 + 2 * i)) + random.normal(0, 0.08) * (depth > 0)
                value = 1.0 if method in blind else float(np.clip(value, -1, 1))
                found.append((index, method, depth, label, value))
    return pd.DataFrame(found, columns=["index", "method", "depth", "blocks", "similarity"])


def stability(methods=METHODS, prompts=10, scales=(0.01, 0.03, 0.1, 0.3), draws=3, seed=2):
    random = np.random.default_rng(seed)
    found = [
        (index, method, draw, scale, np.tanh(2.5 - (2 + 0.6 * i) * scale**0.5 * 2 + random.normal(0, 0.1)),
         scale * (1 + i) * random.gamma(4, 0.25))
        for index in range(prompts)
        for i, method in enumerate(methods)
        for scale in scales
        for draw in range(draws)
    ]  # fmt: skip
    return pd.DataFrame(found, columns=["index", "method", "draw", "scale", "spearman", "change"])


def spectra(prompts=10, size=640, seed=3):
    random = np.random.default_rng(seed)
    frames = []
    for index in range(prompts):
        values = np.arange(1, size + 1) ** -random.uniform(0.9, 1.6) * random.gamma(3, 20)
        values *= np.exp(-np.arange(size) / random.uniform(80, 300))
        share = np.cumsum(values) / values.sum()
        frames.append(pd.DataFrame({
            "index": index, "k": np.arange(1, size + 1), "eigenvalue": values, "share": share,
            "trace": values.sum(),
        }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


# Fields of a card on which no check was made.
NO_CHECKS = {"randomisation": None, "stability": None, "spectra": None}


def bare(table: pd.DataFrame, methods, **fields) -> FaithfulnessCard:
    """A card of these rows and of little else."""
    own = {"rows": table, "methods": tuple(methods), "settings": {}, "provenance": PROVENANCE}
    return FaithfulnessCard(**own | fields)


def card(methods=METHODS, prompts=30, failed=None, blind=(), reference=None, **changes):
    """A whole card; `changes` replace its fields."""
    failed = {} if failed is None else failed
    fields = {
        "rows": rows(methods, prompts, failed),
        "methods": methods,
        "settings": SETTINGS,
        "provenance": PROVENANCE,
        "randomisation": randomisation(methods, blind=blind),
        "stability": stability(methods),
        "spectra": spectra(),
        "reference": reference,
    }
    return FaithfulnessCard(**{**fields, **changes})


FAILED = {
    4: "PromptTooLongError: the prompt has 40000 tokens, the model's context is 32768",
    17: "NumericalError: NaN in the logits <b>&",
}


def same(a: FaithfulnessCard, b: FaithfulnessCard) -> None:
    for name in ("rows", "randomisation", "stability", "spectra"):
        if getattr(a, name) is None:
            assert getattr(b, name) is None
        else:
            pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)
    for name in ("methods", "settings", "provenance", "reference"):
        assert getattr(a, name) == getattr(b, name)


def edited(path, change):
    found = json.loads(path.read_text(encoding="utf-8"))
    found.pop("checksum")
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")
