"""Names and numbers of a faithfulness card as a reader sees them, the same in tables and figures."""

from __future__ import annotations

import math
from typing import Any

from tl_scopes.render.colours import number, percent
from tl_scopes.render.tokens import visible, words
from tl_scopes.render.wording import DOT, counted
from tl_scopes.results.card import FaithfulnessCard
from tl_scopes.results.card_tables import Cell
from tl_scopes.results.escapes import message
from tl_scopes.results.metrics import metric

ARROWS = {"higher": "↑", "lower": "↓", "": ""}
MISSING = "–"
# Behind a value: the best of its column, and what a test does not tell from it.
SIGNS = {"best": " ★", "tied": " ≈"}
# What is compared of the stability of circuits.
HOW = {
    "sample": "all pairs and a resample",
    "resamples": "two resamples",
    "halves": "halves that share no pair",
    "whole": "all pairs of both",
}


def name(label: str) -> str:
    """A method's label on one line."""
    return words(label) if label.strip() else visible(label)


def head(cell: Cell) -> tuple[str, str]:
    """Of a column: the metric with the direction that is better, and what tokens were replaced by."""
    measure = metric(cell[0])
    shown = f"{words(measure.label)} {ARROWS[measure.better]}".strip()
    share = "" if math.isnan(cell[2]) else f"{100 * cell[2]:g}%"
    return shown, ", ".join(part for part in (words(cell[1]), share) if part)


def one_line(cell: Cell) -> str:
    """`head` in a sentence or above a figure."""
    return ", ".join(filter(None, head(cell)))


def unit(card: FaithfulnessCard, metric_name: str) -> str:
    """Of a metric's values, or ""."""
    plain = metric(metric_name).unit
    summed = (
        metric_name.startswith("aopc_") and card.settings.get("area", "trapezoid") == "trapezoid"
    )
    return f"{plain} × share" if summed else plain


def plus_minus(mean: float, error: float) -> str:
    """`0.123 ± 0.012`: three digits of the larger, and enough to see the error; the mean alone without one."""
    if not math.isfinite(mean):
        return MISSING
    if not math.isfinite(error):
        return number(mean)
    most = max(abs(mean), error)
    if not most or not 1e-3 <= most < 1e5:
        return f"{number(mean)} ± {number(error)}"
    digits = max(2 - math.floor(math.log10(most)), 0)
    if error:
        digits = min(max(digits, -math.floor(math.log10(error))), digits + 3)
    # No minus sign before a mean that rounds to zero.
    return f"{round(mean, digits) + 0.0:.{digits}f} ± {error:.{digits}f}"


def interval(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    return f"[{number(low)}, {number(high)}]"


def probability(p: float) -> str:
    if math.isnan(p):
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def title(card: FaithfulnessCard) -> str:
    n = len(card.methods)
    return f"Faithfulness of {counted(n, 'method')} on {name(card.provenance.model)}"


def subtitle(card: FaithfulnessCard) -> str:
    tokens = card.rows.groupby("index")["tokens"].first()
    tokens = tokens[tokens > 0]
    parts = [counted(card.prompts, "prompt")]
    if len(tokens):
        few, many = tokens.min(), tokens.max()
        parts.append(f"{few} to {many} tokens" if few < many else f"{many} tokens")
    means: Any = card.rows.dropna(subset="value").groupby("metric")["value"].mean()
    if "log_prob" in means:
        value = number(float(means["log_prob"]))
        what = "continuation" if card.settings.get("target") == "continuation" else "token"
        parts.append(f"mean log-probability of the measured {what} {value} nats")
    if "correct" in means:
        parts.append(f"predicted right {percent(float(means['correct']))}")
    return DOT.join(parts)


def warnings(card: FaithfulnessCard) -> list[str]:
    """What a reader must know first: which prompts are not in the numbers, and why."""
    wrong = card.failures()
    if wrong.empty:
        return []
    n = wrong["index"].nunique()
    lines = [f"{n} of {card.prompts} prompts failed and {'is' if n == 1 else 'are'} left out:"]
    for error, rows in wrong.groupby("error", sort=False):
        which = rows["index"].unique().tolist()
        more = f" and {len(which) - 12} more" if len(which) > 12 else ""
        shown = f"{', '.join(map(str, which[:12]))}{more}"
        lines.append(f"prompt{'s' * (len(which) != 1)} {shown}: {message(str(error))}")
    return lines
