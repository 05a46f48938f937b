"""What is drawn, apart from how: a result and its options as rows of scores with their scales."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_scopes.errors import RenderError, check_choice
from tl_scopes.render import wording
from tl_scopes.render.colours import Scale, number, percent
from tl_scopes.render.selection import Result as Result
from tl_scopes.render.selection import Site as Site
from tl_scopes.render.selection import check, choose, included
from tl_scopes.render.tokens import clipped, quoted, words
from tl_scopes.results.attribution import Attribution, SequenceAttribution
from tl_scopes.results.characters import Spans
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
    """Everything that a page, a terminal or a figure shows. `kind`: what a row is.

    `spans`: the token ranges that the "tokens" are groups of, if they are, joined as `how` says.
    """

    kind: str
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

    @property
    def title(self) -> str:
        """What is explained, in a few words."""
        return wording.title(self.scope, self.target)

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
    def subtitle(self) -> str:
        """Scope, place and size of what is shown."""
        scope, size = wording.method(self.scope), self.size
        if self.kind == "read":
            place = f"{len(self.rows)} read position{'s' * (len(self.rows) != 1)}"
            return f"{scope} · at {self.site} · {place} · {size}"
        where = self.site if len(self.rows) == 1 else f"{len(self.rows)} sites"
        return f"{scope} · at {where} · {wording.read_at(self.rows[0].read)} · {size}"

    @property
    def each(self) -> str:
        """What a row is, in a word or two."""
        return "site" if self.kind == "site" else "read position"

    @property
    def size(self) -> str:
        """How many tokens there are, and how they are grouped."""
        n, groups = len(self.tokens), ""
        if self.spans:
            how = f" ({wording.JOINED[self.how]})" if self.how else ""
            groups = f"{n} group{'s' * (n != 1)}{how} of "
            n = self.spans[-1][1]
        return f"{groups}{n} token{'s' * (n != 1)}"

    def places(self) -> list[str]:
        """Where in the prompt each token, or group of tokens, is."""
        if not self.spans:
            return [f"position {t}, id {id}" for t, id in enumerate(self.ids)]
        ranges = [f"token {a}" if b - a == 1 else f"tokens {a} to {b - 1}" for a, b in self.spans]
        return [f"group {g}, {tokens}" for g, tokens in enumerate(ranges)]

    @property
    def scale_note(self) -> str:
        """Which scale and normalisation the colours follow."""
        kind = "logarithmic colours" if self.log else "linear colours"
        if len(self.rows) == 1:
            return kind
        if self.common:
            return f"{kind}, one scale for every {self.each}"
        return f"{kind}, each {self.each} by its own largest score"

    @property
    def first(self) -> int:
        """The row to show before anything is chosen: the last read position sees the most."""
        return len(self.rows) - 1 if self.kind == "read" else 0

    @property
    def blank(self) -> bool:
        """Whether there is no colour at all."""
        return not any(row.scale.limit for row in self.rows)

    @property
    def nothing(self) -> str:
        """Why there is no colour at all, if there is none."""
        if not self.blank:
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
    chosen = choose(result, sites, site)
    if isinstance(result, Attribution):
        parts = [(words(result.sites[s]), result, s) for s in chosen]
    else:
        reads = [(a, *a.read_token) for a in map(result.at, result.positions)]
        parts = [(f"{p} {isolated(clipped(text, 24))}", a, chosen[0]) for a, p, text in reads]
    # With nothing but BOS there is nothing else to look at.
    masks = [included(a, include_bos, include_read) for _, a, _ in parts]
    if not any(inside.any() for inside in masks):
        include_bos = True
        masks = [included(a, include_bos, include_read) for _, a, _ in parts]
    lines = [
        (label, a, s, a.scores[s].double().numpy(), inside)
        for (label, a, s), inside in zip(parts, masks)
    ]
    shared = Scale.fit(np.concatenate([x[inside] for *_, x, inside in lines]), scale)
    rows = []
    for label, a, s, scores, inside in lines:
        own = shared if normalise == "all" else Scale.fit(scores[inside], scale)
        error = None if a.standard_error is None else a.standard_error[s].double().numpy()
        colours = np.where(inside, own(scores), 0.0)
        extra = (a.prediction, a.target, a.fisher)
        rows.append(
            Row(label, a.position, a.read_token, scores, error, inside, own, colours, *extra)
        )
    return Picture(
        kind="site" if isinstance(result, Attribution) else "read",
        site=words(result.sites[chosen[0]]),
        rows=tuple(rows),
        tokens=tuple(result.str_tokens),
        ids=tuple(result.tokens.tolist()),
        has_bos=bool(result.has_bos),
        scope=result.scope,
        units="no unit" if result.units == "none" else words(result.units),
        provenance=result.provenance,
        log=scale == "log",
        common=normalise == "all" or len(rows) == 1,
        include_bos=include_bos,
        include_read=include_read,
        stability=result.stability if isinstance(result, Attribution) else None,
        spans=result.spans,
        how=result.how,
    )
