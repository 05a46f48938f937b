"""What of a result is asked for, and whether it can be drawn at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tl_scopes.errors import RenderError
from tl_scopes.results.attribution import Attribution, SequenceAttribution, site_index

Result = Attribution | SequenceAttribution
Site = int | str


def check(result: Result) -> None:
    """Refuse what no picture can show."""
    n, shape = len(result.str_tokens), tuple(result.scores.shape)
    reads = () if isinstance(result, Attribution) else (len(result.positions),)
    if not shape or 0 in shape:
        raise RenderError(f"scores of shape {shape} hold nothing to draw: attribute a prompt first")
    if shape != (*reads, len(result.sites), n) or result.tokens.numel() != n:
        raise RenderError(
            f"scores of shape {shape} do not fit {len(result.sites)} sites and {n} tokens: draw "
            "the result as tl_scopes returned it"
        )
    bad = ~result.scores.isfinite()
    if result.standard_error is not None:
        bad = bad | ~result.standard_error.isfinite()
    if bad.any():
        where = [int(i) for i in bad.nonzero()[0]]
        raise RenderError(
            f"{int(bad.sum())} of {bad.numel()} scores are NaN or infinite (first: site "
            f"{result.sites[where[-2]]!r}, position {where[-1]}); only finite scores can be drawn: "
            "attribute again, in float32 or wider"
        )


def choose(
    result: Result, sites: Site | Sequence[Site] | None, site: Site | None, several: bool
) -> list[int]:
    """Rows of the sites that are asked for. `several`: whether the drawing has room for more than one."""
    if sites is not None and site is not None:
        raise RenderError(f"got sites={sites!r} and site={site!r}; they mean the same: pass one")
    wanted = site if site is not None else sites
    if wanted is None:
        return list(range(len(result.sites))) if several else [0]
    names = [wanted] if isinstance(wanted, (int, str)) else list(wanted)
    if not names:
        raise RenderError(
            f"sites={wanted!r} chooses nothing; name at least one of {list(result.sites)}"
        )
    if len(names) > 1 and not several:
        raise RenderError(
            f"sites={wanted!r} names {len(names)} sites; here a SequenceAttribution is drawn at one, "
            "with a row for each read position: pass site=..., draw .at(position), or make its page"
        )
    return [site_index(result.sites, name) for name in names]


def included(a: Attribution, include_bos: bool, include_read: bool) -> np.ndarray:
    """Which tokens take part in the colours, [pos]."""
    inside = np.arange(len(a.str_tokens)) <= a.position
    if a.has_bos and not include_bos:
        inside[0] = False
    if not include_read:
        inside[a.position] = False
    return inside


def reads_drawn(result: SequenceAttribution) -> list[int]:
    """Rows of the reads that are drawn: those of an answer alone, where there is one."""
    start = result.answer_start
    rows = [r for r, p in enumerate(result.positions) if start is not None and p + 1 >= start]
    return rows or list(range(len(result.positions)))


def holding(result: Result, position: int) -> int:
    """The token, or the group, that has the prompt's token `position`; after the last, one more."""
    if not result.spans:
        return position
    return next((g for g, (_, end) in enumerate(result.spans) if position < end), len(result.spans))


def answer_of(result: Result) -> int | None:
    """The first token, or group, of an answer that stands in the result, if one does."""
    if isinstance(result, SequenceAttribution):
        start = result.answer_start
    else:
        start = min(result.continuation.reads) + 1 if result.continuation else None
    at = None if start is None else holding(result, start)
    return at if at is not None and at < len(result.str_tokens) else None
