"""What is drawn, apart from how: a result and its options as rows of scores with their scales."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tl_scopes.errors import RenderError, check_choice
from tl_scopes.render import wording
from tl_scopes.render.colours import Scale, number, percent
from tl_scopes.render.selection import Result as Result
from tl_scopes.render.selection import Site as Site
from tl_scopes.render.selection import answer_of, check, choose, holding, included, reads_drawn
from tl_scopes.render.tokens import clipped, quoted, words
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.characters import Spans
from tl_scopes.results.circuits import CircuitResult
from tl_scopes.results.escapes import isolated
from tl_scopes.results.records import Candidate, FisherInfo, Provenance, ScopeInfo, Stability, Token


@dataclass(frozen=True)
class Row:
    """One line of scores: a site of an `Attribution`, or a read position of a sequence.

    `position`: the token, or group of tokens, that was read in; `read`: the position and the text of
    the token itself. `scores`, `error`, `colours`, `included`: [pos]. `colours` are in [-1, 1], zero where a token
    is not `included` in the colour scale (BOS, the read position, what comes after it).
    """

    label: str
    position: int
    read: tuple[int, str]
    scores: np.ndarray
    error: np.ndarray | None
    included: np.ndarray
    scale: Scale
    colours: np.ndarray
    prediction: tuple[Candidate, ...]
    target: Token | None
    fisher: FisherInfo | None

    def strongest(self, k: int) -> list[int]:
        """Positions of the `k` largest magnitudes inside the colour scale, zeros left out."""
        size = np.where(self.included, np.abs(self.scores), 0.0)
        order = np.argsort(-size, kind="stable")[: max(k, 0)]
        return [int(t) for t in order if size[t] > 0]


@dataclass(frozen=True)
class Picture:
    """Everything that a page, a terminal or a figure shows.

    `kind`: whether a row has its own "site" or its own "read" position; `each`: what a row is, in a word
    or two; `first`: the row that is shown before anything is chosen. `title` says what is explained,
    `subtitle` scope, place and size, `scale_note` which scale and normalisation the colours follow.
    `spans`: the token ranges that the "tokens" are groups of, if they are, joined as `how` says.
    `answer`: the first token of an answer, if there is one. `others`: for each token what others in its place
    would change, "" where that was not asked.
    """

    kind: str
    title: str
    subtitle: str
    each: str
    first: int
    scale_note: str
    site: str
    rows: tuple[Row, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    has_bos: bool
    scope: ScopeInfo
    units: str
    provenance: Provenance
    log: bool
    common: bool
    include_bos: bool
    include_read: bool
    stability: Stability | None = None
    spans: Spans = ()
    how: str = ""
    answer: int | None = None
    others: tuple[str, ...] = ()

    @property
    def follows(self) -> str:
        """What begins at `answer`, in a word."""
        return "continuation" if self.kind == "site" else "answer"

    @property
    def target(self) -> Token | None:
        """The token that every row explains, if there is one."""
        return self.rows[0].target if self.kind == "site" else None

    @property
    def signed(self) -> bool:
        """Whether some score that has a colour is negative."""
        return any(row.scale.signed for row in self.rows)

    @property
    def signs(self) -> str:
        """What the two colours mean, where there are two."""
        return wording.signs(self.scope, self.target) if self.signed else ""

    @property
    def size(self) -> str:
        """How many tokens there are, and how they are grouped."""
        return wording.size(len(self.tokens), self.spans, self.how)

    def places(self) -> list[str]:
        """Where in the prompt each token, or group of tokens, is."""
        if not self.spans:
            others = self.others or [""] * len(self.ids)
            return [f"position {t}, id {id}{o}" for t, (id, o) in enumerate(zip(self.ids, others))]
        ranges = [f"token {a}" if b - a == 1 else f"tokens {a} to {b - 1}" for a, b in self.spans]
        return [f"group {g}, {tokens}" for g, tokens in enumerate(ranges)]

    @property
    def nothing(self) -> str:
        """Why there is no colour at all, if there is none."""
        if any(row.scale.limit for row in self.rows):
            return ""
        if not any(row.included.any() for row in self.rows):
            return "no token is left to colour"
        others = any(row.scores[~row.included].any() for row in self.rows)
        return f"every {'other ' if others else ''}score is zero"

    def left_out(self) -> list[str]:
        """Which tokens have no colour although they have a score, one phrase each."""
        notes = []
        if self.has_bos and not self.include_bos:
            notes.append(f"BOS {quoted(self.tokens[0], 24)}")
        if not self.include_read:
            notes.append("the read position")
        return notes

    def notes(self) -> list[str]:
        """What a legend says: the scale, the signs, and what has no colour."""
        left = self.left_out()
        uncoloured = f"{' and '.join(left)} not coloured" if left else ""
        return [x for x in (self.scale_note, self.signs, uncoloured, self.nothing) if x]


def about(picture: Picture, row: Row) -> list[str]:
    """Sentences on how much, and how surely, the scores of `row` hold."""
    lines = []
    if row.fisher is not None:
        f = row.fisher
        kept = f"the top {len(f.eigenvalues)} hold" if f.eigenvalues else "its exact part holds"
        rest = f"; {f.samples} random directions estimate the rest" if f.samples else ""
        if f.left_out > 1e-9:
            rest += f"; unlikely tokens that hold {percent(f.left_out)} of it are left out"
        if f.residual > 1e-3:
            rest += (
                "; the prediction is flat and its leading directions nearly equal, so they were "
                f"told apart to {percent(f.residual)} of the largest eigenvalue only"
            )
        lines.append(
            f"Fisher information: {kept} {percent(f.share)} of the trace {number(f.trace)}{rest}."
        )
    if row.error is not None:
        strongest = row.strongest(1)
        if strongest:
            t = strongest[0]
            share = percent(row.error[t] / abs(row.scores[t]))
            lines.append(
                f"Sampled: the largest score is {number(row.scores[t])} ± {number(row.error[t])} "
                f"(one standard error, {share})."
            )
    sites = [each.label for each in picture.rows] if picture.kind == "site" else [picture.site]
    return lines + wording.convergence(picture.scope, sites, picture.units)


def source(picture: Picture) -> str:
    """Where the result comes from, on one line."""
    p = picture.provenance
    parts = [
        p.model,
        p.model_class,
        f"{p.dtype} on {p.device}",
        f"weights {p.processing}",
        p.precision,
        wording.hooked(p.hooks),
        wording.ruled(p.rules),
    ]
    if picture.stability is not None:
        s = picture.stability
        parts.append(
            f"against {s.precision}: rank correlation {number(min(s.rank_correlation))}, "
            f"largest error {percent(max(s.largest_error))} of the largest score"
        )
    parts += [f"{name} {version}" for name, version in p.versions.items()]
    return words(" · ".join(part for part in parts if part))


one_of = functools.partial(check_choice, error=RenderError)


def build(
    result: Result,
    *,
    scale: str = "linear",
    normalise: str = "site",
    include_bos: bool = False,
    include_read: bool = True,
    sites: Site | Sequence[Site] | None = None,
    site: Site | None = None,
) -> Picture:
    """Check `result` and the options, and lay out the rows. See `tl_scopes.render.html`."""
    if not isinstance(result, (Attribution, SequenceAttribution)):
        raise RenderError(
            f"got a {type(result).__name__}; only an Attribution or a SequenceAttribution can be "
            "drawn: pass what tl_scopes.attribute or attribute_sequence returned"
        )
    one_of("scale", scale, ("linear", "log"))
    one_of("normalise", normalise, ("site", "all"))
    one_of("include_bos", include_bos, (False, True))
    one_of("include_read", include_read, (False, True))
    check(result)
    drawn = choose(result, sites, site, isinstance(result, Attribution))
    if isinstance(result, Attribution):
        parts = [(words(result.sites[s]), result, s) for s in drawn]
    else:
        reads = [(r, result.at(result.positions[r])) for r in reads_drawn(result)]
        labels = [(_told(result, r), a) for r, a in reads]
        parts = [(f"{p} {isolated(clipped(text, 24))}", a, drawn[0]) for (p, text), a in labels]
    # With nothing but BOS there is nothing else to look at.
    masks = [included(a, include_bos, include_read) for _, a, _ in parts]
    if not any(inside.any() for inside in masks):
        include_bos = True
        masks = [included(a, include_bos, include_read) for _, a, _ in parts]
    values = [a.scores[s].double().numpy() for _, a, s in parts]
    shared = Scale.fit(np.concatenate([x[seen] for x, seen in zip(values, masks)]), scale)
    rows = []
    for (label, a, s), x, seen in zip(parts, values, masks):
        fitted = shared if normalise == "all" else Scale.fit(x[seen], scale)
        error = None if a.standard_error is None else a.standard_error[s].double().numpy()
        numbers = (x, error, seen, fitted, np.where(seen, fitted(x), 0.0))
        rows.append(
            Row(label, a.position, a.read_token, *numbers, a.prediction, a.target, a.fisher)
        )
    n, site_name = len(rows), words(result.sites[drawn[0]])
    told = ""
    if isinstance(result, Attribution):
        each, place = "site", [f"at {site_name if n == 1 else f'{n} sites'}"]
        if result.continuation:
            told = "each token that is explained"
            place += wording.continued(result.continuation)
        else:
            place.append(wording.read_at(rows[0].read))
    else:
        each = "read position" if result.answer_start is None else "answer token"
        told = "" if result.answer_start is None else "each token of the answer"
        place = [f"at {site_name}", wording.counted(n, each), *wording.answered(result)]
    single = isinstance(result, Attribution)
    size = wording.size(len(result.str_tokens), result.spans, result.how)
    common = normalise == "all" or n == 1
    extent = f"one scale for every {each}" if common else f"each {each} by its own largest score"
    colours = "logarithmic colours" if scale == "log" else "linear colours"
    return Picture(
        **of_result(result, rows),
        kind="site" if single else "read",
        title=wording.title(result.scope, rows[0].target if single else None, told),
        subtitle=wording.DOT.join([wording.method(result.scope), *place, size]),
        each=each,
        first=0 if single else n - 1,  # the last read position sees the most
        scale_note=colours if n == 1 else f"{colours}, {extent}",
        site=site_name,
        units="no unit" if result.units == "none" else words(result.units),
        log=scale == "log",
        common=common,
        include_bos=include_bos,
        include_read=include_read,
        stability=result.stability if isinstance(result, Attribution) else None,
        spans=result.spans,
        how=result.how,
        answer=answer_of(result),
    )


def _told(result: SequenceAttribution, r: int) -> tuple[int, str]:
    """Position and text of the token that names a read: the one read at, of an answer the one that follows."""
    p = result.positions[r]
    names = dict(zip(result.positions, result.read_tokens)) if result.spans else {}
    if result.answer_start is None:
        return p, names.get(p) or result.str_tokens[p]
    target = result.targets[r]
    at = holding(result, p + 1)
    if at == len(result.str_tokens):
        return p + 1, target.text if target else "…"
    return p + 1, names.get(p + 1, result.str_tokens[at])


def of_result(result: Result | CircuitResult, rows: Sequence[Row]) -> dict[str, Any]:
    """The fields of a `Picture` with `rows` that come from its result as they are."""
    n = len(rows[0].scores)
    return {
        "rows": tuple(rows),
        "tokens": tuple(result.str_tokens[:n]),
        "ids": tuple(result.tokens.tolist()[:n]),
        "has_bos": bool(result.has_bos),
        "scope": result.scope,
        "provenance": result.provenance,
    }
