"""Results: scores with their labels, and everything needed to read or repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.errors import PositionError, SiteError
from tl_scopes.results.characters import Spans
from tl_scopes.results.escapes import isolated, literal
from tl_scopes.results.fields import Axis, Index
from tl_scopes.results.frames import long_table
from tl_scopes.results.joining import checked_how, joined
from tl_scopes.results.records import (
    Candidate,
    Chat,
    Continuation,
    FisherInfo,
    Provenance,
    ScopeInfo,
    Stability,
    Token,
)
from tl_scopes.results.scores import Groups, Scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Scores):
    """Influence of every token of one prompt on one explained quantity, at one or more sites.

    `scores[s, t]` is the influence of token `t` at `sites[s]`, in `units`; zero after the read
    `position`. `tokens` and `str_tokens` (texts as in `Token`) hold the whole prompt as it
    was fed, BOS included (`has_bos`). `target` is None for scopes without one. `standard_error` is there
    where the scores are a sampled estimate.

    After `group` the "tokens" are groups of tokens. Then `spans[g]` is the half-open range of prompt
    tokens that group g holds, and `how` says how their scores were joined. `str_tokens` are the groups'
    texts and `tokens` the ids of their first tokens. `position` is the group that holds the read
    position, and `read` this position with the text of its token (None in a file that an older version
    wrote). `has_bos` says whether BOS is there as a group of its own. `standard_error` is the most that
    it can be, as tokens share their random directions. `stability` was measured on tokens and is left out.

    `continuation` is there where the predictions of several tokens are explained together; `position` is
    then the last that is read, and `prediction` is empty. `chat` is there where the prompt is a
    conversation.
    """

    earlier_names: ClassVar[tuple[str, ...]] = ("GroupedAttribution",)

    scores: Float[Tensor, "site pos"]
    sites: Annotated[tuple[str, ...], Axis("site")]
    tokens: Int[Tensor, "pos"]
    str_tokens: Annotated[tuple[str, ...], Axis("pos")]
    has_bos: bool
    position: Annotated[int, Index("pos")]
    scope: ScopeInfo
    target: Token | None
    units: str
    prediction: tuple[Candidate, ...]
    fisher: FisherInfo | None
    standard_error: Float[Tensor, "site pos"] | None
    provenance: Provenance
    stability: Stability | None = None
    spans: Groups = ()
    how: str = ""
    read: tuple[int, str] | None = None
    continuation: Continuation | None = None
    chat: Chat | None = None

    @property
    def read_token(self) -> tuple[int, str]:
        """The position in the prompt, and the text, of the token (not the group) that was read at."""
        return self.read or (self.position, self.str_tokens[self.position])

    def _read_in(self, spans: Spans) -> dict[str, Any]:
        group = _holding(spans, self.position)
        return {"position": group, "read": self.read_token, "stability": None}

    def _row_at(self, site: int | str) -> Tensor:
        return self.scores[site_index(self.sites, site)]

    def top(
        self,
        k: int = 5,
        site: int | str = 0,
        *,
        include_bos: bool = True,
        include_read: bool = True,
    ) -> list[tuple[int, str, float]]:
        """The `k` tokens with the highest scores at `site` as `(position, text, score)`.

        `site` is a label of `sites` or an index into it. `include_bos`, `include_read`: whether BOS,
        an attention sink, and the read position are counted like any other token (those after the
        read position are). Raises `SiteError` for a site that the result does not hold.

            >>> attribution.top(1, include_bos=False)
            [(4, ' France', 0.31)]
        """
        row = self.scores[site_index(self.sites, site)]
        order = torch.sort(row, descending=True, stable=True).indices.tolist()
        if self.has_bos and not include_bos:
            order.remove(0)
        if not include_read and self.position in order:
            order.remove(self.position)
        return [(t, self.str_tokens[t], float(row[t])) for t in order[: max(k, 0)]]

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a site and token, or a site and group with its token range.

        Examples:
            >>> attribution.to_frame().groupby("site")["score"].idxmax()
        """
        columns: dict[str, Any] = {"site": (0, self.sites)}
        if self.spans:
            columns["group"] = 1, range(len(self.spans))
            columns["start"] = 1, [start for start, _ in self.spans]
            columns["end"] = 1, [end for _, end in self.spans]
            columns["text"] = 1, self.str_tokens
        else:
            columns["position"] = 1, range(len(self.str_tokens))
            columns["token_id"] = 1, self.tokens.tolist()
            columns["token"] = 1, self.str_tokens
        columns["score"] = self.scores
        if self.standard_error is not None:
            columns["standard_error"] = self.standard_error
        return long_table(self.scores.shape, columns)

    def __repr__(self) -> str:
        target = f", target={literal(self.target.text)}" if self.target else ""
        where = self.sites[0] if len(self.sites) == 1 else f"{len(self.sites)} sites"
        top = ", ".join(f"{literal(text)} {score:.3g}" for _, text, score in self.top(3))
        return (
            f"Attribution({isolated(str(self.scope))}{target}, {where}, {self._size}, "
            f"read at {self.read_token[0]}; top: {top})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class SequenceAttribution(Scores):
    """Influence of every token on several read positions of one prompt.

    `scores[r, s, t]` is the influence of token `t` at `sites[s]` on what is predicted at read
    position `positions[r]`; zero for `t > positions[r]`. `targets`, `predictions`, `fishers`
    hold one entry a read position; so does `log_probs`, the log-probability of the token that follows it
    (None at the end). `answer_start` is the position of the first token of an answer that the model
    wrote. `chat` is there where the prompt is a conversation.

    After `group` the "tokens" are groups, as in `Attribution`. Reads stay single tokens: `positions`
    count tokens, and `read_tokens` are their texts.
    """

    earlier_names: ClassVar[tuple[str, ...]] = ("GroupedSequenceAttribution",)

    scores: Float[Tensor, "read site pos"]
    positions: Annotated[tuple[int, ...], Axis("read"), Index("token", "pos")]
    sites: Annotated[tuple[str, ...], Axis("site")]
    tokens: Int[Tensor, "pos"]
    str_tokens: Annotated[tuple[str, ...], Axis("pos")]
    has_bos: bool
    scope: ScopeInfo
    targets: Annotated[tuple[Union[Token, None], ...], Axis("read")]
    units: str
    predictions: Annotated[tuple[tuple[Candidate, ...], ...], Axis("read")]
    fishers: Annotated[tuple[Union[FisherInfo, None], ...], Axis("read")]
    standard_error: Float[Tensor, "read site pos"] | None
    provenance: Provenance
    spans: Groups = ()
    how: str = ""
    read_tokens: Annotated[tuple[str, ...], Axis("read")] = ()
    log_probs: Annotated[tuple[Union[float, None], ...], Axis("read")] = ()
    answer_start: int | None = None
    chat: Chat | None = None

    def _read_in(self, spans: Spans) -> dict[str, Any]:
        return {"read_tokens": tuple(self.str_tokens[p] for p in self.positions)}

    def _row_at(self, site: int | str) -> Tensor:
        return self.over_reads().scores[site_index(self.sites, site)]

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, position: int) -> Attribution:
        """The `Attribution` of one read position. Raises `PositionError` if it was not read.

        Examples:
            >>> attribute_sequence(model, prompt, scope).at(5).top(3)
        """
        if position not in self.positions:
            raise PositionError(
                f"read position {position} is not in this result, which holds "
                f"{list(self.positions)}; ask for one of these"
            )
        r = self.positions.index(position)
        return Attribution(
            scores=self.scores[r].clone(),
            sites=self.sites,
            tokens=self.tokens,
            str_tokens=self.str_tokens,
            has_bos=self.has_bos,
            position=_holding(self.spans, position) if self.spans else position,
            scope=self.scope,
            target=self.targets[r],
            units=self.units,
            prediction=self.predictions[r],
            fisher=self.fishers[r],
            standard_error=None if self.standard_error is None else self.standard_error[r].clone(),
            provenance=self.provenance,
            spans=self.spans,
            how=self.how,
            read=(position, self.read_tokens[r]) if self.spans else None,
            chat=self.chat,
        )

    def over_reads(self, reads: Sequence[int] | None = None) -> Attribution:
        """What moved several predictions together: the squares of their scores add up.

        Fisher's scores are squares already and add as they are; of scores that are norms, such as
        Temperature's, it is the root of the sum of squares. For Fisher this is the Fisher information of
        the tokens that follow the reads, each given the ones before it. `reads`: read positions (None:
        all). `standard_error` is the most that it can be, as reads may share their random directions.

        Returns an `Attribution`, scores Float[Tensor, "site pos"], in the same units. Its position is the
        last read.

        Raises `PositionError` for a position that was not read, or none.

        Source: the chain rule of information, `sum_i tr(J_i^T F_i J_i)`, for F of arXiv 2601.16407.

        Examples:
            >>> attribute_sequence(model, prompt, FisherScope()).over_reads([4, 5, 6]).top(3)
        """
        chosen = tuple(dict.fromkeys(self.positions if reads is None else reads))
        each = [self.at(position) for position in chosen]
        if not each:
            raise PositionError("reads is empty: give read positions, or None for all")
        rows = [self.positions.index(position) for position in chosen]
        errors = None if self.standard_error is None else self.standard_error[rows].movedim(0, -1)
        how = checked_how(self.scope, self.units, None)
        scores = self.scores[rows].movedim(0, -1)
        totals, spreads = joined(scores, errors, ((0, len(rows)),), how)
        log_probs = [self.log_probs[r] for r in rows] if self.log_probs else [None]
        following = [self._following(position) for position in chosen]
        continuation = None
        if None not in log_probs and None not in following:
            continuation = Continuation(chosen, tuple(following), tuple(log_probs))  # pyright: ignore
        return replace(
            max(each, key=lambda one: one.read_token[0]),
            scores=totals[..., 0],
            standard_error=None if spreads is None else spreads[..., 0],
            target=None,
            prediction=(),
            fisher=None,
            continuation=continuation,
        )

    def _following(self, position: int) -> Token | None:
        """The token after a read position, where it is known."""
        after = position + 1
        if self.spans or after >= len(self.str_tokens):
            return None
        return Token(int(self.tokens[after]), self.str_tokens[after])

    def to_frame(self) -> pd.DataFrame:
        """Long-form pandas table: one row a read position, site and token.

        Examples:
            >>> sequence.to_frame().pivot(index="read_position", columns="position", values="score")
        """
        import pandas as pd

        frames = [self.at(p).to_frame() for p in self.positions]
        for p, frame in zip(self.positions, frames):
            frame.insert(0, "read_position", p)
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        where = self.sites[0] if len(self.sites) == 1 else f"{len(self.sites)} sites"
        return (
            f"SequenceAttribution({isolated(str(self.scope))}, {where}, {len(self.positions)} read positions, "
            f"{self._size})"
        )


def site_index(sites: tuple[str, ...], site: int | str) -> int:
    """The row of `site` (a label or an index) in `sites`. Raises `SiteError` if there is none."""
    if isinstance(site, str) and site in sites:
        return sites.index(site)
    if isinstance(site, int) and -len(sites) <= site < len(sites):
        return site % len(sites)
    raise SiteError(
        f"this result has no site {site!r}; it holds {list(sites)}: give one of these labels "
        f"or an index below {len(sites)}"
    )


def _holding(spans: Spans, position: int) -> int:
    return next(g for g, (start, end) in enumerate(spans) if start <= position < end)
