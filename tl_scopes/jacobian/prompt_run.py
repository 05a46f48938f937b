"""One prompt of a model: what is read of it and where, and what must be run for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter import guards, last_step
from tl_scopes.adapter.padding import following
from tl_scopes.adapter.prompts import Prompt, bos_id, encode, resolve_position, resolve_token
from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.view import Edit, ModelView, view_of
from tl_scopes.errors import SiteError
from tl_scopes.jacobian import original, slope
from tl_scopes.jacobian.checkpointing import exceeds_budget, kept_bytes, recompute_blocks
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
from tl_scopes.scopes.base import Read, Scope

# Tokens, over all copies of the prompt, that share a forward pass without gradients.
BATCH_TOKENS = 2048
# What autograd may keep of the copies that share a pass with gradients.
GRADIENT_BYTES = 1 << 30


def check_scopes(view: ModelView, scopes: Sequence[Scope]) -> None:
    """Raises `ScopeParameterError` or `ProcessedWeightsError`; may warn."""
    for scope in {id(s): s for s in scopes}.values():
        scope.validate(view.d_model)
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
    scopes; these read the final state. All of them read at the same site. `hooked`: whether hooks of
    the user's are on the model, which may count on the whole prompt.

    Everything but the plain facts is to be used inside `with prompt_run.locked()`.
    """

    view: ModelView
    ids: list[int]
    position: int
    hooked: bool
    reads: Sequence[tuple[int, Scope]] = ()
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

    @property
    def length(self) -> int:
        """Tokens that must be run: none after the last read can matter, except to hooks."""
        return len(self.ids) if self.hooked else self.position + 1

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

    def states(self, rows: int, edits: Mapping[Site, Edit]) -> Float[Tensor, "row *d"]:
        """What is read of copies of the prompt, with activations edited at sites."""
        site = self.read_site
        many = torch.is_grad_enabled() and exceeds_budget(self.view, rows, self.length)

        def prepare(undo: ExitStack) -> None:
            if many:
                recompute_blocks(self.view, undo, spared=None if site is None else site.block)

        read = read_under(self.view, self.tokens(rows), edits, site, prepare)
        return read_values(self.view, site, read, range(rows), [self.position] * rows)

    def rest(self, site: Site) -> Callable[[Tensor], Tensor]:
        """The model from `site` on, [row, pos, ...] to final states [row, d_model].

        The activation that it takes is what the hook at the site shows.
        """

        def forward(activation: Tensor) -> Tensor:
            y = self.states(len(activation), {site: lambda a: activation.to(a)})
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
        self.expect(y[0, self.position])
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

    def expect(self, final_state: Float[Tensor, "d_model"]) -> None:
        """The intact final state, where another pass has come by it."""
        self.remembered["final state",] = final_state

    @cached_property
    def read(self) -> Read:
        """The intact final state and its logits. Raises `NumericalError` unless they are finite."""
        if ("final state",) not in self.remembered:
            self.look()
        with torch.no_grad():
            y = self.remembered["final state",]
            head = self.view.unembedding()
            (raw,) = head.raw_logits(y[None])
        if not torch.isfinite(raw).all():
            refuse_nonfinite(self.view, self.tokens(1), "the logits")
        return Read(y, raw, head, lambda t: resolve_token(self.view, t), self.next_id)
