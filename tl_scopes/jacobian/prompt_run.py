"""One prompt, read at one position: what methods that are no scopes ask of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.padding import following
from tl_scopes.adapter.prompts import Prompt, bos_id, encode, resolve_position, resolve_token
from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.view import Edit, ModelView, view_of
from tl_scopes.errors import SiteError
from tl_scopes.jacobian.answers import verify_once
from tl_scopes.jacobian.checkpointing import exceeds_budget, kept_bytes, recompute_blocks
from tl_scopes.jacobian.forward import Stop, forward_to_stop, look, read_under, refuse_nonfinite
from tl_scopes.jacobian.probes import check_axes, check_second_axis
from tl_scopes.scopes.base import Read

# Tokens, over all copies of the prompt, that share a forward pass without gradients.
BATCH_TOKENS = 2048
# What autograd may keep of the copies that share a pass with gradients.
GRADIENT_BYTES = 1 << 30


@dataclass(eq=False)
class PromptRun:
    """A prompt of a model, and what was already asked of it. `position` counts from 0.

    Everything but `ask` and the plain facts is to be used inside `with prompt_run.locked()`.
    """

    view: ModelView
    ids: list[int]
    position: int
    hooked: bool
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
    def run(self) -> list[int]:
        """The ids that must be run: none after the read position can matter, except to hooks."""
        return self.ids if self.hooked else self.ids[: self.position + 1]

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
        """`view.locked()`, with the model's last step known and, for `gradients`, its slope."""
        with self.view.locked():
            with torch.set_grad_enabled(gradients):
                verify_once(self.view, self.tokens(1), self.hooked)
            yield

    def tokens(self, rows: int) -> Int[Tensor, "row pos"]:
        return torch.tensor([self.run] * rows, device=self.view.device)

    def rows_at_once(self, gradients: bool = False) -> int:
        """Copies of the prompt that may share a forward pass."""
        if self.hooked:  # by hooks that may be made for one row
            return 1
        width = len(self.run)
        if gradients:
            return max(1, GRADIENT_BYTES // max(1, kept_bytes(self.view, 1, width)))
        return max(1, BATCH_TOKENS // width)

    def states(self, rows: int, edits: Mapping[Site, Edit]) -> Float[Tensor, "row d_model"]:
        """The final states of copies of the prompt, with activations edited at sites."""
        many = torch.is_grad_enabled() and exceeds_budget(self.view, rows, len(self.run))

        def prepare(undo: ExitStack) -> None:
            if many:
                recompute_blocks(self.view, undo, spared=None)

        return read_under(self.view, self.tokens(rows), edits, prepare=prepare)[:, self.position]

    def rest(self, site: Site) -> Callable[[Tensor], Tensor]:
        """The model from `site` on, [row, pos, ...] to final states [row, d_model].

        The activation that it takes is what the hook at the site shows.
        """

        def forward(activation: Tensor) -> Tensor:
            y = self.states(len(activation), {site: lambda a: activation.to(a)})
            if torch.is_grad_enabled() and activation.requires_grad and not y.requires_grad:
                raise SiteError(
                    f"site {site.label!r} has no path to what is read: its activation is a "
                    "by-product on this architecture, or a hook of yours replaces what follows; "
                    "use the residual stream, or another hook"
                )
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
                raise SiteError(
                    f"the forward pass reaches site {site.label!r} {len(seen[site.label])} times before "
                    "the final state; it must be once: use the residual stream, or another hook (some "
                    "fire only after a setting of the model such as set_use_attn_result(True))"
                )
            (found,) = seen[site.label]
            check_axes(site.label, found, tokens)
            if site.is_named and found.shape[1] == found.shape[2]:
                check_second_axis(self.view, tokens, site)
            self.remembered["activation", site.label] = found

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
        found: list[Tensor] = []

        def stop(a: Tensor) -> Tensor:
            found.append(a.clone())
            raise Stop

        with torch.no_grad(), self.view.taps() as undo:
            self.view.tap(undo, embed_site(), stop)
            forward_to_stop(self.view, ids.to(self.view.device))
        return found[0]

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
