"""Scores over the tokens of a prompt, or over groups of them: what every such result can do."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from torch import Tensor

from tl_scopes.errors import NumericalError, ScopeParameterError, check_choice
from tl_scopes.results.base import Result
from tl_scopes.results.characters import Spans, together
from tl_scopes.results.fields import Axis
from tl_scopes.results.joining import checked_how, joined
from tl_scopes.results.records import Chat, ScopeInfo, Share
from tl_scopes.results.spans import found_spans

_S = TypeVar("_S", bound="Scores")
# One range a group, in the prompt's order; the last ends where the prompt does.
Groups = Annotated[Spans, Axis("pos"), Axis("token", lambda spans: spans[-1][1])]


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Result):
    """Scores over the tokens of a prompt, or over groups of them."""

    if TYPE_CHECKING:  # what both kinds have, each in its own place among its fields
        scores: Tensor
        standard_error: Tensor | None
        tokens: Tensor
        str_tokens: tuple[str, ...]
        chat: Chat | None
        has_bos: bool
        scope: ScopeInfo
        units: str
        spans: Spans
        how: str

        def _read_in(self, spans: Spans) -> dict[str, Any]: ...

        def _row_at(self, site: int | str) -> Tensor: ...

    def group(self: _S, by: Any = "word", how: str | None = None) -> _S:
        """Join the scores of words, sentences, lines, messages or any spans of tokens.

        Args:
            by: `"word"`, `"sentence"`, `"line"` (see `tl_scopes.results.spans`); of a conversation also
                `"message"` (each with the template's text of its turn), `"role"` (messages in a row
                that have the same), `"content"` (what each message says, and the template's text
                between, apart); text that is no message's stays apart; or a list of spans in
                any order that do not overlap: texts that stand in the prompt once (`"Eiffel Tower"`),
                characters of such a text (`(prompt, 4, 16)` for `prompt[4:16]`), or half-open ranges
                `(start, end)` of token positions. Texts take every token that they touch. Tokens
                outside stay alone, but those of one character stay together.
            how: `"sum"`, `"norm"` (root of the sum of squares) or `"max"` (the largest magnitude, with
                its sign). None: the one that is exact, `"norm"` for scores that are the norm of a
                gradient, `"sum"` for Fisher, signed sums and shares of attention; leave-one-out has
                none. `tl_scopes.results.joining` says why.

        Returns the same kind of result, whose "tokens" are groups, in the same units.

        Raises `ScopeParameterError` for spans that are none, overlap or part the tokens of one
        character, texts that the prompt does not hold, or more than once, an unknown `how`, none where
        nothing is exact, and a result that is grouped already; `PositionError` for spans beyond the
        prompt.

            >>> attribution.group("sentence").top(3)
        """
        if self.spans:
            raise ScopeParameterError(
                f"this result holds {len(self.spans)} groups already; only tokens can be joined: "
                "group the result that it was made of"
            )
        spans = found_spans(self.str_tokens, self.has_bos, by, self.chat)
        how = checked_how(self.scope, self.units, how)
        scores, error = joined(self.scores, self.standard_error, spans, how)
        return replace(
            self,
            scores=scores,
            standard_error=error,
            tokens=self.tokens[[start for start, _ in spans]],
            str_tokens=tuple(together(self.str_tokens[a:b]) for a, b in spans),
            has_bos=self.has_bos and spans[0] == (0, 1),
            spans=spans,
            how=how,
            **self._read_in(spans),
        )

    def share(
        self,
        role: str,
        site: int | str = 0,
        how: str | None = None,
        *,
        include_template: bool = False,
        include_bos: bool = False,
    ) -> Share:
        """How much the messages of a role hold of what moved the prediction, in a conversation; of several
        reads, of what moved all of them (`over_reads`).

        `score`: the scores of what they say, joined as `group` joins them (`how`: `"norm"`, `"sum"`, or
        None for the exact one). `share`: of that of all tokens, BOS aside (`include_bos`), those of the
        template and of the answer too. Where scores add up it is their sum over the whole sum, in which
        signed ones cancel; of norms it is the sum of squares over all squares, so that shares of
        different tokens add up. `include_template`: count the template's text of their turns to them.

        Raises `ScopeParameterError` for a role that the conversation does not have, a prompt that is
        none, groups, or a `how` that is not allowed; `SiteError`; `NumericalError` where all are zero.

            >>> score, share = attribution.share("system")
        """
        chat = self.chat
        if chat is None:
            raise ScopeParameterError(
                "shares are of the messages of a conversation, but the prompt was text or token ids: give "
                "a list of messages as the prompt"
            )
        if self.spans:
            raise ScopeParameterError(
                "shares are of tokens, but this result holds groups: ask the result that it was made of"
            )
        check_choice("role", role, tuple(dict.fromkeys(chat.roles)))
        row = self._row_at(site)
        tokens = range(int(self.has_bos and not include_bos), len(row))
        of_role = [t for t in tokens if chat.role_of(t) == role]
        own = [t for t in of_role if include_template or chat.is_content[t]]
        if not own:
            raise ScopeParameterError(
                f"messages of the role {role!r} say nothing here (the answer is not part of the prompt, or "
                "they are empty): choose another role, or include_template=True"
            )
        way = checked_how(self.scope, self.units, how)
        check_choice("how", way, ("sum", "norm"))
        part, whole = (
            float(joined(row[chosen].double(), None, ((0, len(chosen)),), way)[0])
            for chosen in (own, [*tokens])
        )
        if whole == 0:
            raise NumericalError(
                "all scores add up to zero at this site, so that nothing has a share: choose another site"
            )
        return Share(part, part / whole if way == "sum" else (part / whole) ** 2)

    def to_json(self) -> str:
        """All fields on one line of JSON. JSON has no infinity: one (a Fisher score that overflows
        float32, say) is null.

            >>> json.loads(attribution.to_json())["scores"]
        """

        def finite(value: Any) -> Any:
            if isinstance(value, list):
                return [finite(item) for item in value]
            return value if math.isfinite(value) else None

        values = asdict(self)
        return json.dumps(values, default=lambda tensor: finite(tensor.tolist()), allow_nan=False)

    @property
    def _size(self) -> str:
        if not self.spans:
            return f"{len(self.str_tokens)} tokens"
        return f"{len(self.spans)} groups ({self.how}) of {self.spans[-1][1]} tokens"
