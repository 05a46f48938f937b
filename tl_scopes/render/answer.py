"""An answer, or a conversation, laid out to be pointed at: what was read for each token, turn by turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from tl_scopes.render.colours import Scale, percent
from tl_scopes.render.picture import Picture, Row, build
from tl_scopes.render.selection import Result, Site, check, choose, holding, reads_drawn
from tl_scopes.render.tokens import words
from tl_scopes.render.wording import DOT
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.joining import exact_how, joined

# Of the map of all scores: more would be pixels too small to point at.
CELLS = 60_000


@dataclass(frozen=True)
class Answer:
    """What a page shows that is pointed at.

    `picture`: every read at the first of `sites`, or the one read of an `Attribution`. `places`: where each
    token stands. `overview`: what
    the map shows, None where it would be too large, or one line. `whole`: the row of all reads together.
    `scores`, `errors`: [site, read, pos]. `how`: how scores of several reads join, "norm", "sum" or ""
    (not at all). `common`: whether one scale was asked for. `reads`: for each token, and for what comes
    after the last, the rows of `picture` that predict it. `chosen`: the log-probability of the token
    that follows each read. `turns`: what is said, by whom. `template`: the tokens that a chat template
    put in.
    """

    picture: Picture
    places: tuple[str, ...]
    overview: Picture | None
    whole: Row
    sites: tuple[str, ...]
    scores: np.ndarray
    errors: np.ndarray | None
    how: str
    common: bool
    reads: tuple[tuple[int, ...], ...]
    chosen: tuple[float | None, ...]
    turns: tuple[tuple[str, range], ...]
    template: frozenset[int]


def speaks(result: Result) -> bool:
    """Whether `result` is shown as an answer rather than as a prompt with one read position."""
    if isinstance(result, SequenceAttribution):
        return True
    return result.continuation is not None or result.chat is not None


def lay_out(
    result: Result,
    *,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
    **options: Any,
) -> Answer:
    """Check `result` and the options, which are those of `build`, and lay out the page."""
    check(result)
    drawn = choose(result, sites, site, True)
    common = options.get("normalise") == "all"
    overview = build(
        result, sites=drawn if isinstance(result, Attribution) else drawn[0], **options
    )
    names, told = tuple(words(result.sites[s]) for s in drawn), overview.subtitle
    n, how = len(overview.tokens), exact_how(result.scope, result.units) or ""
    scores, errors = result.scores.double(), result.standard_error
    if isinstance(result, Attribution):
        rows, chosen, reads = [0], (None,), ((),) * (n + 1)
        scores, errors = scores[None], None if errors is None else errors[None]
    else:
        rows = reads_drawn(result)
        after = [holding(result, result.positions[r] + 1) for r in rows]
        reads = tuple(tuple(i for i, t in enumerate(after) if t == at) for at in range(n + 1))
        chosen = tuple(result.log_probs[r] if result.log_probs else None for r in rows)
        if len(drawn) > 1:
            told = told.replace(f"{DOT}at {names[0]}{DOT}", f"{DOT}at {len(drawn)} sites{DOT}", 1)
    kept = scores[rows][:, drawn].transpose(0, 1).numpy()
    spread = None if errors is None else errors[rows][:, drawn].transpose(0, 1).double().numpy()
    picture = replace(overview, subtitle=told, scale_note=_scale(overview, how, common))
    picture = replace(picture, rows=overview.rows[: len(rows)])
    joinable = list(range(len(rows))) if how else [overview.first]
    whole = together(picture, kept[0], joinable, how, bool((kept < 0).any()))
    one_line = isinstance(result, Attribution) and len(drawn) == 1
    mapped = len(overview.rows) * n <= CELLS and not one_line
    turns, template = _turns(result, picture)
    return Answer(
        picture, _places(result, picture), overview if mapped else None, whole, names, kept, spread,
        how, common, reads, chosen, turns, template,
    )  # fmt: skip


def together(
    picture: Picture, scores: np.ndarray, rows: Sequence[int], how: str, signed: bool = False
) -> Row:
    """The row of several reads at one site: `scores` [read, pos] of `rows` joined. A read position that
    takes no part in the colours takes none in the sums either."""
    last = max((picture.rows[r] for r in rows), key=lambda row: row.position)
    if len(rows) == 1:
        return replace(last, scale=replace(last.scale, signed=signed or last.scale.signed))
    parts = scores[list(rows)]
    if not picture.include_read:
        parts[range(len(rows)), [picture.rows[r].position for r in rows]] = 0.0
    total = joined(torch.from_numpy(parts.T), None, ((0, len(rows)),), how)[0][:, 0].numpy()
    included = np.array([picture.rows[r].included for r in rows]).any(0)
    scale = Scale.fit(total[included], "log" if picture.log else "linear", signed)
    return replace(
        last, label="", scores=total, error=None, included=included, scale=scale, prediction=(),
        colours=np.where(included, scale(total), 0.0), target=None, fisher=None,
    )  # fmt: skip


def _scale(picture: Picture, how: str, common: bool) -> str:
    """Which scale colours follow, and how several reads join."""
    kind = "logarithmic colours" if picture.log else "linear colours"
    if picture.kind == "site":
        return f"{kind}, by the largest score"
    if not how:
        return f"{kind}, each token by its own largest score"
    joins = "root of the sum of squares" if how == "norm" else "sum"
    own = "what is chosen by its own largest score"
    if common:
        own = "one scale for every single token, another for several"
    return f"{kind}, {own}; several tokens: {joins}"


def _places(result: Result, picture: Picture) -> tuple[str, ...]:
    """Where tokens stand, and how likely those of a continuation were."""
    places = picture.places()
    if isinstance(result, Attribution) and result.continuation and not result.spans:
        for p, x in zip(result.continuation.reads, result.continuation.log_probs):
            if p + 1 < len(places):
                places[p + 1] += f", probability {percent(math.exp(x))}"
    return tuple(places)


def _turns(
    result: Result, picture: Picture
) -> tuple[tuple[tuple[str, range], ...], frozenset[int]]:
    """Runs of tokens with who says them, and which tokens hold no content. A group is said by who says its
    first token."""
    n, chat = len(picture.tokens), result.chat
    spans = result.spans or [(t, t + 1) for t in range(n)]
    if chat is None:
        start = picture.answer
        if start is None:
            return (("", range(n)),), frozenset()
        return (("prompt", range(start)), (picture.follows, range(start, n))), frozenset()
    turns, at = [], 0
    for message, run in groupby(chat.messages[start] for start, _ in spans):
        end = at + len(list(run))
        turns.append((chat.roles[message] if message >= 0 else "", range(at, end)))
        at = end
    return tuple(turns), frozenset(
        t for t, (a, b) in enumerate(spans) if not any(chat.is_content[a:b])
    )
