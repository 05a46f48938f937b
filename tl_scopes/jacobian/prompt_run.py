"""One prompt of a model: what is read of it and where, and what must be run for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter import guards, last_step
from tl_scopes.adapter.padding import Ids, chat_of, following
from tl_scopes.adapter.prompts import Prompt, bos_id, encode, resolve_position, resolve_token
from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.unembedding import Unembedding
from tl_scopes.adapter.view import Edit, ModelView, view_of
from tl_scopes.errors import PositionError, ScopeParameterError, SiteError
from tl_scopes.jacobian import original, slope
from tl_scopes.jacobian.checkpointing import exceeds_budget, kept_bytes
from tl_scopes.jacobian.forward import (
    look,
    no_path,
    not_reached,
    reached_again,
    read_under,
    read_values,
    refuse_nonfinite,
)
from tl_scopes.jacobian.probes import check_site
from tl_scopes.jacobian.ruled import read_ruled
from tl_scopes.rules import Rules, check_rules, rules_of
from tl_scopes.scopes.base import Place, Read, Row, Scope

# Tokens, over all copies of the prompt, that share a forward pass without gradients.
BATCH_TOKENS = 2048
# What autograd may keep of the copies that share a pass with gradients.
GRADIENT_BYTES = 1 << 30

_R = TypeVar("_R", bound="PromptRun")


def check_scopes(view: ModelView, scopes: Sequence[Scope]) -> None:
    """Raises `ScopeParameterError` or `ProcessedWeightsError`; may warn."""
    for scope in {id(s): s for s in scopes}.values():
        scope.validate(view.d_model)
        check_rules(scope.rules)
        guards.check_scope(view.model, scope)


def read_position(method: Any, position: int) -> int:
    """Where a scope or method reads that may have a position of its own, such as a direction."""
    own = getattr(method, "position", None)
    return position if own is None else own


@dataclass(eq=False)
class PromptRun:
    """A prompt of a model, and what was already asked of it. `position`, the last one that is read,
    counts from 0.

    `reads`: the scopes that are explained, each with its read position; empty for methods that are not
    scopes; these read the final state. All of them read at the same site,
    by the same gradient rules. `hooked`: whether hooks of
    the user's are on the model, which may count on the whole prompt.

    A scope of a continuation makes `ids` longer by it: `n_prompt` tokens of them are the prompt's, and
    `span` are the places that it reads. `others` are further rows of ids that begin with the prompt.

    Everything but the plain facts is to be used inside `with prompt_run.locked()`.
    """

    view: ModelView
    ids: list[int]
    position: int
    hooked: bool
    reads: Sequence[tuple[int, Scope]] = ()
    span: tuple[Place, ...] = ()
    others: Sequence[Row] = ()
    n_prompt: int | None = None
    remembered: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    """What several methods ask for: intact activations, gradients there, replacements."""

    @classmethod
    def ask(
        cls, model: Any, prompt: Prompt, position: int = -1, prepend_bos: bool | None = None
    ) -> PromptRun:
        """Raises the errors that `attribute` raises for a model, prompt or position."""
        view = view_of(model)
        ids = encode(view, prompt, prepend_bos)
        return cls(view, ids, resolve_position(position, ids), view.is_hooked())

    @classmethod
    def explaining(
        cls: type[_R],
        view: ModelView,
        ids: list[int],
        scope: Scope,
        position: int,
        hooked: bool,
        **more: Any,
    ) -> _R:
        """What `scope` has run and reads of the prompt. Raises `PositionError`, `TargetError`,
        `PromptTooLongError`, or `ScopeParameterError` for two rows under hooks of the user's."""
        at = resolve_position(read_position(scope, position), ids)
        rows = scope.rows(view, ids)
        if rows is None:
            return cls(view, ids, at, hooked, [(at, scope)], **more)
        if at + 1 != len(ids):
            raise PositionError(
                f"the read position is {at}, but a continuation follows the prompt's last token, at "
                f"{len(ids) - 1}: drop position, or give the prompt up to there"
            )
        if hooked and len(rows) > 1:
            raise ScopeParameterError(
                "versus runs two rows of different lengths at once, which hooks of yours on the model may "
                "not be made for: remove them, or explain the two continuations one by one"
            )
        first, *others = rows
        last = max(first.reads)
        return cls(
            view,
            Ids(first.ids, chat=chat_of(ids, len(first.ids))),
            last,
            hooked,
            [(last, scope)],
            span=tuple((i, position) for i, row in enumerate(rows) for position in row.reads),
            others=others,
            n_prompt=len(ids),
            **more,
        )

    @property
    def length(self) -> int:
        """Tokens that must be run: none after the last read can matter, except to hooks."""
        return len(self.ids) if self.hooked else self.position + 1

    @property
    def rows(self) -> list[list[int]]:
        """The ids of every row that must be run."""
        return [self.run, *(row.ids[: max(row.reads) + 1] for row in self.others)]

    @property
    def shared(self) -> int | None:
        """How many tokens its rows have in common, where there are several: only these have scores."""
        return self.n_prompt if self.others else None

    @cached_property
    def alone(self: _R) -> list[_R]:
        """A run of each of its rows by itself: of a continuation, and of the one that it is compared with."""
        if not self.others:
            return [self]
        rows = [self.ids, *(row.ids for row in self.others)]
        runs = []
        for i, ids in enumerate(rows):
            span = tuple((0, position) for row, position in self.span if row == i)
            last = span[-1][1]
            reads = [(last, scope) for _, scope in self.reads]
            runs.append(
                replace(
                    self,
                    ids=Ids(ids),
                    position=last,
                    reads=reads,
                    span=span,
                    others=(),
                    remembered={},
                )
            )
        return runs

    @property
    def shown(self) -> list[int]:
        """The ids that a result holds."""
        n = len(self.ids) if self.shared is None else self.shared
        return Ids(self.ids[:n], chat=chat_of(self.ids, n))

    def places(self, position: int) -> tuple[Place, ...]:
        """What a scope reads that has the read position `position`."""
        return self.span or ((0, position),)

    def follows(self, place: Place) -> int | None:
        """The token after a place."""
        row, position = place
        return following(self.ids if row == 0 else self.others[row - 1].ids, position)

    def read_of(self, value: Tensor, raw: Tensor | None, head: Unembedding, position: int) -> Read:
        """What a scope sees of the values at its places; of a single one without an axis for it."""
        places = self.places(position)
        after = [self.follows(place) for place in places]
        ids = tuple(i for i in after if i is not None) if self.span else ()
        return Read(
            value if self.span else value[0],
            None if raw is None else raw if self.span else raw[0],
            head,
            lambda t: resolve_token(self.view, t),
            after[0],
            places if self.span else (),
            ids,
        )

    @property
    def run(self) -> list[int]:
        """The ids that must be run."""
        return self.ids[: self.length]

    @property
    def read_site(self) -> Site | None:
        """Where its scopes read; None: the final state."""
        request = self.reads[0][1].read_site if self.reads else None
        return None if request is None else self.view.site(request)

    @property
    def rules(self) -> Rules | None:
        """Of the gradients of what its scopes read, who all have the same; None: plain gradients."""
        return rules_of(self.reads[0][1]) if self.reads else None

    @property
    def first(self) -> int:
        """The first position after BOS, which methods do not replace."""
        return int(self.ids[0] == bos_id(self.view) and len(self.ids) > 1)

    @property
    def next_id(self) -> int | None:
        """The token that follows the read position in the prompt."""
        return following(self.ids, self.position)

    @contextmanager
    def locked(self, gradients: bool = True):
        """`view.locked()`, once the model is known to be what the mathematics takes it for.

        On its first use, and whenever its hooks or weights changed, that means: its last step is
        `y W_U + b_U`, a bridge is the model that it wraps, and, for `gradients`, it is causal and its
        gradient is its slope. Raises `UnsupportedModelError`.
        """
        with self.view.locked():
            tokens = self.tokens(1)
            with torch.set_grad_enabled(gradients):
                last_step.verify_once(self.view, tokens, self.hooked)
                original.refuse_another(self.view, tokens)
                slope.refuse_another(self.view, tokens, self.hooked)
            yield

    def tokens(self, rows: int) -> Int[Tensor, "row pos"]:
        return torch.tensor([self.run] * rows, device=self.view.device)

    def rows_at_once(self, gradients: bool = False) -> int:
        """Copies of the prompt that may share a forward pass."""
        if self.hooked:  # by hooks that may be made for one row
            return 1
        width = self.length
        if gradients:
            return max(1, GRADIENT_BYTES // max(1, kept_bytes(self.view, 1, width)))
        return max(1, BATCH_TOKENS // width)

    def states(
        self, rows: int, edits: Mapping[Site, Edit], rules: Rules | None = None
    ) -> Float[Tensor, "row *d"]:
        """What is read of copies of the prompt, with activations edited at sites: of a span
        [row, read, d_model]. Gradients follow `rules`."""
        site = self.read_site
        many = torch.is_grad_enabled() and exceeds_budget(self.view, rows, self.length)
        read = read_ruled(self.view, self.tokens(rows), edits, site, rules, many)
        if self.span:
            return read[:, [position for _, position in self.span]]
        return read_values(self.view, site, read, range(rows), [self.position] * rows)

    def rest(self, site: Site, rules: Rules | None = None) -> Callable[[Tensor], Tensor]:
        """The model from `site` on, [row, pos, ...] to final states [row, d_model]. Gradients follow `rules`.

        The activation that it takes is what the hook at the site shows.
        """

        def forward(activation: Tensor) -> Tensor:
            y = self.states(len(activation), {site: lambda a: activation.to(a)}, rules)
            if torch.is_grad_enabled() and activation.requires_grad and not y.requires_grad:
                raise SiteError(no_path(site.label))
            return y

        return forward

    def look(self, sites: Sequence[Site] = ()) -> None:
        """Run the intact prompt once, for `read` and for the activations at all of `sites`.

        Raises `SiteError` where `attribute` does.
        """
        tokens = self.tokens(1)
        seen, y = look(self.view, tokens, sites)
        self.expect(y[0, [p for _, p in self.span]] if self.span else y[0, self.position])
        for site in sites:
            if len(seen[site.label]) != 1:
                raise (reached_again if seen[site.label] else not_reached)(site.label)
            (activation,) = seen[site.label]
            check_site(self.view, site, activation, tokens)
            self.remembered["activation", site.label] = activation

    def activation(self, site: Site) -> Float[Tensor, "1 pos *d"]:
        """What the hook at `site` shows of the intact prompt. Raises `SiteError`."""
        key = ("activation", site.label)
        if key not in self.remembered and site.is_embed:
            self.remembered[key] = self.embedded(self.tokens(1))
        elif key not in self.remembered:
            self.look([site])
        return self.remembered[key].clone()

    def embedded(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """What the hook at the embedding shows of any ids: the pass ends there."""
        with torch.no_grad():
            return read_under(self.view, ids.to(self.view.device), {}, embed_site())

    def expect(self, final_state: Float[Tensor, "*read d_model"]) -> None:
        """The intact final state, where another pass has come by it."""
        self.remembered["final state",] = final_state

    @cached_property
    def read(self) -> Read:
        """The intact final state and its logits. Raises `NumericalError` unless they are finite."""
        if ("final state",) not in self.remembered:
            self.look()
        y, head = self.remembered["final state",], self.view.unembedding()
        if self.span:  # its scope takes up logits a few at a time
            return self.read_of(y, None, head, self.position)
        with torch.no_grad():
            raw = head.raw_logits(y[None])
        if not torch.isfinite(raw).all():
            refuse_nonfinite(self.view, self.tokens(1), "the logits")
        return self.read_of(y[None], raw, head, self.position)
