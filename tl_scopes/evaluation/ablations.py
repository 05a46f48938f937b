"""Attributions against ablation, prompt by prompt: rows of a long table.

Formula: comprehensiveness at a fraction f is `log p(token) - log p(token | top f of the tokens replaced)`,
in nats; sufficiency replaces all others. AOPC is the area of either over the fractions.

Steps: scores of all methods (`score`), the tokens that each replaces (`_alterations`), final states
under all replacements in shared passes (`final_states`), what they did to the prediction (`effects`).

Cost: one forward pass for each method, metric, replacement and fraction, and one a token for
leave-one-out; passes that replace the same tokens are shared.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_scopes.adapter.continuations import check_length, encode_continuation
from tl_scopes.adapter.padding import rows as rows_of
from tl_scopes.adapter.prompts import Prompts
from tl_scopes.adapter.view import view_of
from tl_scopes.baselines.ablation import (
    INTACT,
    Alteration,
    Effects,
    by_read,
    effects_of_all,
    final_states,
)
from tl_scopes.evaluation.methods import (
    AnyMethod,
    Methods,
    check_continuations,
    check_methods,
    labelled,
    ranked,
    score_runs,
    top_overlap,
)
from tl_scopes.evaluation.orders import Ordered, elsewhere, ordered
from tl_scopes.evaluation.runs.units import encoded
from tl_scopes.evaluation.settings import Settings
from tl_scopes.jacobian.prompt_run import PromptRun
from tl_scopes.results.files import in_utf8
from tl_scopes.results.metrics import METRICS
from tl_scopes.results.statistics import rank_correlation

Row = dict[str, Any]
COLUMNS = (
    "index", "tokens", "method", "metric", "replacement", "fraction", "value", "error",
)  # fmt: skip


def measure(
    model: Any,
    prompts: Prompts,
    methods: Methods,
    settings: Settings | None = None,
    *,
    continuations: Sequence[Any] | None = None,
) -> list[Row]:
    """How much it hurts to ablate the tokens that each method scores highest, prompt by prompt.

    Returns a list of rows, dicts with the keys `COLUMNS`: index, tokens, method, metric, replacement,
    fraction, value, error. `index` counts the prompts given, and `tokens` is the prompt's length.
    `replacement` and `fraction` are "" and NaN where a metric has none. A prompt that fails gives one
    row with its error.

    The measured token is the top prediction at the read position, or with `Settings(target="gold")` the
    token that follows in the prompt. Metrics of a method:

    - comprehensiveness, sufficiency: by how many nats the log-probability of the measured token falls
      when a fraction of the tokens, or all others, are replaced. Names that end in `_kl` are
      KL(intact || ablated), those in `_flip` whether the top prediction changed. Those that begin with
      `aopc_` are areas over the fractions. Those that end in `_gain` say by how much the area is better
      than those of `Settings(matched=)` other prompts' rankings, whose tokens stand in the same places:
      what content adds to place. A prompt alone has none.
    - loo_spearman, loo_kendall (tau-b), loo_jaccard (of the top tokens) with leave-one-out's KL, over
      the tokens after BOS up to the read position (`spare_last` aside); loo_top_rank: the share of tokens that
      leave-one-out ranks above the method's first one (0: it is leave-one-out's own).

    Of a prompt: log_prob of the measured token, and correct (whether the token that follows is the
    predicted one, where one follows).

    `continuations`: a text, or token ids, that follow each prompt. Then their log-probability is measured,
    all tokens together, in place of the target's, while tokens of the prompt are replaced. KL divergences
    are sums over the reads, a flip is one at any of them, and `correct` is whether every token is the
    predicted one. `ContinuationScope()` and `InputXGradient(ContinuationScope())` explain just that; other
    methods are read at the prompt's end.

    Raises `LengthMismatchError` for another number of continuations, `TargetError` for methods of a
    continuation where there are none, `ScopeParameterError` for what is neither a scope nor a method, and
    errors that concern the model as a whole.

        >>> rows = evaluation.measure(model, ["The capital of France is"], [ts.SemanticScope()])
        >>> pandas.DataFrame(rows).query("metric == 'aopc_comprehensiveness'")

    Source: the published evaluation (arXiv 2601.16407); DeYoung et al., "ERASER", arXiv 1911.03429.
    """
    named = labelled(methods)
    (rows,) = measure_under(
        model, prompts, named, [(list(named), settings or Settings())], continuations
    )
    return rows


def measure_under(
    model: Any,
    prompts: Prompts,
    named: Mapping[str, AnyMethod],
    asked: Sequence[tuple[Collection[str], Settings]],
    continuations: Sequence[Any] | None = None,
) -> list[list[Row]]:
    """`measure` under several settings, each for the methods with some labels: attributions, and ablated passes
    that are the same, are run once. The read position, target and `prepend_bos` are those of the first.
    """
    _, settings = asked[0]
    view = view_of(model)
    check_methods(view, named.values())
    encoding = encoded(model, rows_of(prompts), settings.prepend_bos)
    usable = {i: ids for i, ids in enumerate(encoding.ids) if ids is not None}
    failed = {i: error_row(i, 0, error) for i, error in encoding.errors.items()}
    after: dict[int, list[int]] = {}
    check_continuations(
        continuations, len(encoding.ids), named.values(), settings.position, settings.target
    )
    if continuations is not None:
        for i, ids in [*usable.items()]:
            try:
                after[i] = encode_continuation(view, continuations[i])
                check_length(view, ids, after[i])
            except Exception as error:
                failed[i] = error_row(i, len(usable.pop(i)), error)

    runs: dict[int, PromptRun] = {}

    def scored(indices: Sequence[int]) -> list[list[Tensor]]:
        more = None if continuations is None else [after[i] for i in indices]
        for i in indices:
            runs[i] = PromptRun.ask(model, usable[i], settings.position)
        return score_runs(view, [runs[i] for i in indices], list(named.values()), more)

    try:
        scores = dict(zip(usable, scored(list(usable)))) if usable else {}
    except Exception as error:
        refuse_to_record(error)
        # Which of them it was, one by one will tell.
        scores = {}
    found: dict[int, list[Ordered]] = {}
    for i, ids in usable.items():
        try:
            if i not in scores:
                (scores[i],) = scored([i])
            one, own = runs.pop(i), dict(zip(named, scores[i]))
            found[i] = [
                ordered(one, after.get(i), {name: own[name] for name in names}, each)
                for names, each in asked
            ]
        except Exception as error:
            refuse_to_record(error)
            failed[i] = error_row(i, len(ids), error)
    rows = [{i: [{**row}] for i, row in failed.items()} for _ in asked]
    for i in found:
        for k, (_, each) in enumerate(asked):
            others = elsewhere({j: own[k] for j, own in found.items()}, i, each)
            try:
                own = _of_prompt(found[i][k], others, each)
                rows[k][i] = [{"index": i, "tokens": len(usable[i]), **row} for row in own]
            except Exception as error:
                refuse_to_record(error)
                rows[k][i] = [error_row(i, len(usable[i]), error)]
        for own in found[i]:
            own.prompt_run.remembered.clear()
    return [[row for i in sorted(own) for row in own[i]] for own in rows]


def refuse_to_record(error: Exception) -> None:
    """Raise it anew if it is no prompt's fault, but the machine's: the other prompts would fail too."""
    if isinstance(error, MemoryError) or "CUDA error" in str(error):
        raise error


def error_row(index: int, tokens: int, error: Exception) -> Row:
    """The one row of a prompt that failed."""
    text = in_utf8(" ".join(f"{type(error).__name__}: {error}".split()))
    return {"index": index, "tokens": tokens, **_row("", "error", math.nan), "error": text}


def _row(
    method: str, metric: str, value: float, replacement: str = "", fraction: float = math.nan
) -> Row:
    return {
        "method": method,
        "metric": metric,
        "replacement": replacement,
        "fraction": fraction,
        "value": float(value),
        "error": "",
    }


def _of_prompt(
    asked: Ordered, others: list[dict[str, list[int]]], settings: Settings
) -> Iterator[Row]:
    prompt_run, after, places = asked.prompt_run, asked.after, asked.places
    gold = None if after is not None else prompt_run.next_id
    curves = [dict(_alterations(o, asked.n, settings)) for o in (asked.orders, *others)]
    left_out = _left_out(places, settings)
    with prompt_run.locked(gradients=False):
        replaced = [alteration for own in curves for alteration in own.values()]
        rows = [a.draws(settings.draws) for a in (*replaced, *left_out)]
        states = final_states(prompt_run, [INTACT, *chain(*rows)])
        intact, *altered = by_read(prompt_run, states)
        head = prompt_run.view.unembedding()
        log_prob, predicted = 0.0, []
        tokens = after or ([gold] if settings.target == "gold" and gold is not None else [])
        for i, y in enumerate(intact):
            logits = head.logits(head.raw_logits(y[None]))[0].double()
            predicted.append(int(logits.argmax()))
            token = tokens[i] if tokens else predicted[i]
            log_prob += float(logits.log_softmax(-1)[token])
        effect = effects_of_all(head, intact, torch.stack(altered), tokens or predicted)
        effect = effect.means([len(row) for row in rows])
    yield _row("", "log_prob", log_prob)
    follows = after or ([] if gold is None else [gold])
    if follows:
        yield _row("", "correct", float(follows == predicted))
    yield from _areas(curves, effect, settings)
    if left_out:
        kl = effect.kl[len(replaced) :].numpy()
        for name, of_method in asked.scores.items():
            part = of_method[places.start : places.stop].numpy()
            for metric, value in agreement(part, kl, settings.top).items():
                yield _row(name, metric, value, settings.leave_one_out or "")


Asked = tuple[str, str, str, float]


def _alterations(
    orders: dict[str, list[int]], n: int, settings: Settings
) -> Iterator[tuple[Asked, Alteration]]:
    """What is replaced for each (method, metric, replacement, fraction of the `n` tokens)."""
    for name, order in orders.items():
        for kind in settings.replacements:
            for fraction in settings.fractions:
                k = max(1, int(n * fraction + 1e-9))
                key = (kind, fraction)
                top = tuple(sorted(order[:k]))
                yield (name, "comprehensiveness", *key), Alteration(top, kind, settings.seed)
                if settings.sufficiency:
                    rest = tuple(sorted(order[k:]))
                    yield (name, "sufficiency", *key), Alteration(rest, kind, settings.seed)


def _left_out(positions: range, settings: Settings) -> list[Alteration]:
    kind = settings.leave_one_out
    return [] if kind is None else [Alteration((t,), kind, settings.seed) for t in positions]


def _areas(
    curves: list[dict[Asked, Alteration]], effect: Effects, settings: Settings
) -> Iterator[Row]:
    """Of the methods' own orders, which come first, and by how much they are ahead of the others' areas."""
    areas: list[dict[tuple[str, str, str], float]] = []
    start = 0
    for own in curves:
        falls: dict[tuple[str, str, str], list[float]] = {}
        for i, (name, metric, kind, fraction) in enumerate(own, start):
            falls.setdefault((name, metric, kind), []).append(float(effect.fall[i]))
            if not areas:
                yield _row(name, metric, float(effect.fall[i]), kind, fraction)
                yield _row(name, f"{metric}_kl", float(effect.kl[i]), kind, fraction)
                yield _row(name, f"{metric}_flip", float(effect.flip[i]), kind, fraction)
        areas.append({key: area(values, settings) for key, values in falls.items()})
        start += len(own)
    reached, *others = areas
    for (name, metric, kind), value in reached.items():
        yield _row(name, f"aopc_{metric}", value, kind)
        if others:
            gain = value - float(np.mean([other[name, metric, kind] for other in others]))
            gain *= METRICS[f"aopc_{metric}"].direction
            yield _row(name, f"aopc_{metric}_gain", gain, kind)


def area(values: Sequence[float], settings: Settings) -> float:
    """Over the fractions: the trapezoid (nats times share), or the mean (nats)."""
    y, x = np.asarray(values), np.asarray(settings.fractions)
    if settings.area == "mean":
        return float(y.mean())
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def agreement(scores: np.ndarray, left_out: np.ndarray, top: int | float) -> dict[str, float]:
    """How far scores rank tokens as leave-one-out does; NaN where either is constant."""
    from scipy import stats

    n = len(scores)
    maps = [torch.as_tensor(x, device="cpu") for x in (scores, left_out)]
    first = ranked(maps[0], 0)[0]
    flat = n < 2 or any(np.ptp(x) == 0 for x in (scores, left_out))
    kendall: Any = math.nan if flat else stats.kendalltau(scores, left_out).statistic  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "loo_spearman": rank_correlation(scores, left_out),
        "loo_kendall": float(kendall),
        "loo_jaccard": top_overlap(maps[0], maps[1], top),
        "loo_top_rank": ranked(maps[1], 0).index(first) / n,
    }


__all__ = ["COLUMNS", "AnyMethod", "Row", "agreement", "area", "error_row", "measure"]
