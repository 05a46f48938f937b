"""One prompt's forward pass kept on the graph: what is explained, and activations on the way to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.padding import refuse_read
from tl_scopes.adapter.prompts import Prompt, described, encode, resolve_position
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.circuits.freezing import Frozen, freeze_patterns, hold_norms, parse_frozen
from tl_scopes.errors import (
    LengthMismatchError,
    NumericalError,
    SiteError,
    UnsupportedModelError,
)
from tl_scopes.jacobian import forward, probes
from tl_scopes.jacobian.answers import Answer, Job, check_scopes, explain, read_values, verify_once
from tl_scopes.jacobian.backward import pull
from tl_scopes.scopes.base import Scope, check_is_scope


@dataclass(frozen=True, eq=False)
class Question:
    """What a call asks, checked: a scope at a position of a prompt."""

    view: ModelView
    ids: list[int]
    position: int
    scope: Scope
    frozen: tuple[str, ...]
    hooked: bool

    @property
    def read_site(self) -> Site | None:
        """Where the scope reads; None: the final state."""
        request = self.scope.read_site
        return None if request is None else self.view.site(request)

    @property
    def run(self) -> list[int]:
        """The ids that must be run: none after the read position can matter, except to hooks."""
        return self.ids if self.hooked else self.ids[: self.position + 1]

    def encode_like(self, prompt: Prompt, prepend_bos: bool | None, what: str) -> list[int]:
        """Ids of another prompt that must be as long. Raises `LengthMismatchError`."""
        ids = encode(self.view, prompt, prepend_bos)
        if len(ids) != len(self.ids):
            raise LengthMismatchError(
                f"the {what} has {len(ids)} tokens, the prompt {len(self.ids)} (BOS included): "
                "positions must correspond, so give one of the same length"
            )
        refuse_read(ids, self.position)
        return ids


def ask(
    model: Any,
    prompt: Prompt,
    scope: Any,
    position: int = -1,
    prepend_bos: bool | None = None,
    frozen: Frozen = None,
) -> Question:
    """Check a call's common arguments. Raises the errors that `attribute` raises for them."""
    view = view_of(model)
    check_is_scope(scope)
    parts = parse_frozen(frozen)
    ids = encode(view, prompt, prepend_bos)
    own = getattr(scope, "position", None)
    at = resolve_position(position if own is None else own, ids)
    check_scopes(view, [scope])
    return Question(view, ids, at, scope, parts, view.is_hooked())


@dataclass(frozen=True, eq=False)
class Trace:
    """A forward pass on the graph. `kept`: activations by label, [batch, pos, ...].

    `weights`: of each vector's squares (squared scopes) or of its value. `vectors` have norm 1 in the
    model's dtype; `norms` are what their numbers must be multiplied by.
    """

    question: Question
    answer: Answer
    read: Float[Tensor, "*d"]
    kept: dict[str, Tensor]
    vectors: Float[Tensor, "vector *d"]
    norms: Float[Tensor, "vector"]
    weights: Float[Tensor, "vector"]

    @property
    def squared(self) -> bool:
        return self.answer.explained.squared

    def gradients(self, labels: Sequence[str]) -> list[Float[Tensor, "vector pos ..."]]:
        """The gradient of every vector at each label, by one backward pass.

        For vectors of norm 1: numbers made of them still have to be multiplied by `norms`.
        Raises `UnsupportedModelError` for an activation with no path to what is read, or where
        tokens after the read position have influence; `NumericalError`.
        """
        inputs = [self.kept[label] for label in labels]
        found = pull(self.question.view, [self.read], inputs, [self.vectors])
        out = []
        for label, g in zip(labels, found):
            if g is None:
                raise UnsupportedModelError(
                    f"{label!r} has no path to what is read: its activation is a by-product on this "
                    "architecture, frozen= holds it constant, or a hook of yours replaces what "
                    'follows; use the residual stream (components: by="layer"), or drop frozen='
                )
            out.append(g[:, 0])
        # From the label nearest to what is read: a NaN there reaches all the earlier ones.
        for label, g in zip(reversed(labels), reversed(out)):
            self._check(label, g)
        return out

    def leads_to_read(self, label: str) -> bool:
        """Whether what is read was computed from the activation at `label`."""
        if label not in self.kept:
            return False
        (found,) = pull(self.question.view, [self.read], [self.kept[label]], [self.vectors[:1]])
        return found is not None

    def _check(self, label: str, gradient: Float[Tensor, "vector pos ..."]) -> None:
        if not torch.isfinite(gradient).all():
            raise NumericalError(
                f"NaN or infinity in the gradient at {label!r}, although the forward pass was finite: "
                "check the weights and hooks between there and what is read"
                f"{forward.overflow_hint(self.question.view)}"
            )
        if gradient[:, self.question.position + 1 :].any():
            forward.refuse_noncausal(label, self.question.position)

    def common(self) -> dict[str, Any]:
        """The fields that every circuit result has."""
        ids, answer = self.question.ids, self.answer
        view = self.question.view
        explained = answer.explained
        return {
            **described(view, ids),
            "position": self.question.position,
            "scope": answer.scope.info(explained),
            "target": explained.target,
            "units": answer.scope.units,
            "squared": explained.squared,
            "frozen": self.question.frozen,
            "prediction": answer.prediction,
        }

    def whole(self, values: Tensor, axes: int = 1) -> Tensor:
        """`values` over the positions that were run, in their last `axes` axes, as float32 on the
        CPU over those of the whole prompt, zero after the read. Raises `NumericalError`."""
        n = len(self.question.ids)
        out = values.detach().to("cpu", torch.float32)
        if not torch.isfinite(out).all():
            raise NumericalError(
                "NaN or infinity in the result, although activations and gradients are finite: effects "
                "overflow; scale the scope's vectors or its function down"
                f"{forward.overflow_hint(self.question.view)}"
            )
        for axis in range(-axes, 0):
            out = out.narrow(axis, 0, min(out.shape[axis], n))
            pad = [0, 0] * (-axis - 1) + [0, n - out.shape[axis]]
            out = torch.nn.functional.pad(out, pad)
        return out


@contextmanager
def traced(
    question: Question, root: Site, sites: Sequence[Site], optional: Sequence[Site] = ()
) -> Iterator[Trace]:
    """Run the prompt with the graph rooted at `root`, up to what is read, keeping `sites`.

    Activations are kept under their sites' labels: `root`'s always, those of `optional` sites where
    they are reached. Gradients hold the question's `frozen` parts constant. Inside the context
    parameters are frozen and the model locked.
    """
    view, read_site = question.view, question.read_site
    kept: dict[str, Tensor] = {}
    found: list[Tensor] = []

    def keep(label: str) -> Callable[[Tensor], Tensor]:
        def edit(activation: Tensor) -> Tensor:
            if label == root.label:
                activation = activation.detach().requires_grad_()
            # Clones: later hooks may edit in place; and what is kept must lie on the route.
            kept[label] = activation if label == root.label else activation.clone()
            return kept[label].clone()

        return edit

    def stop(activation: Tensor) -> Tensor:
        found.append(activation)
        raise forward.Stop

    with view.locked():
        tokens = torch.tensor([question.run], device=view.device)
        verify_once(view, tokens, question.hooked)
        with view.taps() as undo:
            if "norms" in question.frozen:
                hold_norms(view, undo)
            for site in dict.fromkeys([root, *sites, *optional]):
                view.tap(undo, site, keep(site.label))
            if "patterns" in question.frozen:
                freeze_patterns(view, undo)
            if read_site is None:
                view.tap_final(undo, stop)
            else:
                view.tap(undo, read_site, stop)
            forward.forward_to_stop(view, tokens)
        _check_reached(question, root, sites, kept, found)
        if read_site is None:
            at = forward.at_head(view, found[0])
        else:
            at = found[0]
            _check_read_axes(view, read_site, at, tokens)
        read = read_values(view, read_site, at, [0], [question.position])
        job = Job(question.ids, [(question.position, question.scope)], question.hooked)
        (answer,) = explain(view, [job], tokens, read.detach(), at_final=read_site is None)
        vectors, norms = answer.explained.vectors, answer.norms
        weights = answer.explained.every_weight.double().cpu()
        if not len(vectors):  # F of a prediction that is certain has no eigenpairs
            vectors, norms, weights = (
                x.new_zeros(1, *x.shape[1:]) for x in (vectors, norms, weights)
            )
        safe = torch.where(norms > 0, norms, 1).reshape(-1, *[1] * (read.ndim - 1))
        units = (vectors / safe.to(vectors)).to(read.dtype)
        yield Trace(question, answer, read[0], kept, units, norms, weights)


def _check_read_axes(view: ModelView, site: Site, read: Tensor, tokens: Tensor) -> None:
    probes.check_axes(site.label, read, tokens)
    if site.is_named and read.shape[1] == read.shape[2]:
        probes.check_second_axis(view, tokens, site)


def _check_reached(
    question: Question,
    root: Site,
    sites: Sequence[Site],
    kept: dict[str, Tensor],
    found: list[Tensor],
) -> None:
    if not found:
        raise SiteError(
            f"the forward pass does not reach {question.scope.read_site!r}; some hooks fire only "
            "after a setting of the model such as set_use_attn_result(True)"
        )
    for site in (root, *sites):
        if site.label not in kept:
            where = "the final state" if question.read_site is None else question.read_site.label
            raise SiteError(
                f"the forward pass does not reach {site.label!r} before {where}: give a site that "
                "comes before what is read"
            )
