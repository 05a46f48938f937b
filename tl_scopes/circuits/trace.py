"""One prompt's forward pass kept on the graph: what is explained, and activations on the way to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.padding import Ids, refuse_read
from tl_scopes.adapter.prompts import Prompt, described, encode
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import Edit, ModelView, view_of
from tl_scopes.circuits.freezing import Frozen, parse_frozen, read_held
from tl_scopes.errors import (
    LengthMismatchError,
    NumericalError,
    ScopeParameterError,
    UnsupportedModelError,
)
from tl_scopes.jacobian.answers import Answer, explain, flat_places
from tl_scopes.jacobian.backward import pull
from tl_scopes.jacobian.forward import (
    check_gradient,
    no_path,
    not_reached,
    overflow_hint,
    read_values,
)
from tl_scopes.jacobian.probes import check_site
from tl_scopes.jacobian.prompt_run import PromptRun, check_scopes
from tl_scopes.scopes.base import Scope, check_is_scope


@dataclass(eq=False)
class CircuitRun(PromptRun):
    """What a call asks, checked: a scope at a position of a prompt, and what gradients hold constant."""

    frozen: tuple[str, ...] = ()

    @property
    def scope(self) -> Scope:
        return self.reads[0][1]

    def encode_like(self, prompt: Prompt, prepend_bos: bool | None, what: str) -> list[int]:
        """Ids of another prompt that must be as long, with the same continuation if there is one. Raises
        `LengthMismatchError`."""
        ids = encode(self.view, prompt, prepend_bos)
        if self.n_prompt is not None:
            ids = Ids([*ids, *self.ids[self.n_prompt :]])
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
) -> CircuitRun:
    """Check a call's common arguments. Raises the errors that `attribute` raises for them."""
    view = view_of(model)
    check_is_scope(scope)
    held = parse_frozen(frozen)
    ids = encode(view, prompt, prepend_bos)
    prompt_run = CircuitRun.explaining(view, ids, scope, position, view.is_hooked(), frozen=held)
    check_scopes(view, [scope])
    if prompt_run.others:
        raise ScopeParameterError(
            "circuits take one continuation, but versus gives a second: drop it, and call once for each. "
            "At the prompt's tokens the total effects of components subtract; norms and flows do not"
        )
    return prompt_run


@dataclass(frozen=True, eq=False)
class Trace:
    """A forward pass on the graph. `kept`: activations by label, [batch, pos, ...].

    `weights`: of each vector's squares (squared scopes) or of its value. `vectors` have norm 1 in the
    model's dtype; `norms` are what their numbers must be multiplied by.
    """

    prompt_run: CircuitRun
    answer: Answer
    read: Float[Tensor, "*d"]
    kept: dict[str, Tensor]
    vectors: Float[Tensor, "vector *d"]
    norms: Float[Tensor, "vector"]
    weights: Float[Tensor, "vector"]

    @property
    def view(self) -> ModelView:
        return self.prompt_run.view

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
        gradients = pull(self.view, [self.read], inputs, [self.vectors])
        out = []
        for label, g in zip(labels, gradients):
            if g is None:
                held = "frozen= holds it constant, "
                raise UnsupportedModelError(
                    f'{no_path(label, held)}, components(by="layer"), or drop frozen='
                )
            out.append(g[:, 0])
        # From the label nearest to what is read: a NaN there reaches all the earlier ones.
        for label, g in zip(reversed(labels), reversed(out)):
            sizes = g.transpose(0, 1).flatten(1).abs().amax(1)
            check_gradient(self.view, label, sizes, self.prompt_run.position)
        return out

    def leads_to_read(self, label: str) -> bool:
        """Whether what is read was computed from the activation at `label`."""
        if label not in self.kept:
            return False
        (gradient,) = pull(self.view, [self.read], [self.kept[label]], [self.vectors[:1]])
        return gradient is not None

    def common(self) -> dict[str, Any]:
        """The fields that every circuit result has."""
        ids, answer = self.prompt_run.ids, self.answer
        explained = answer.explained
        about = described(self.view, ids)
        del about["chat"]
        return {
            **about,
            "position": self.prompt_run.position,
            "scope": answer.scope.info(explained),
            "target": explained.target,
            "units": answer.scope.units,
            "squared": explained.squared,
            "frozen": self.prompt_run.frozen,
            "prediction": answer.prediction,
        }

    def whole(self, values: Tensor, axes: int = 1) -> Tensor:
        """`values` over the positions that were run, in their last `axes` axes, as float32 on the
        CPU over those of the whole prompt, zero after the read. Raises `NumericalError`."""
        n = len(self.prompt_run.ids)
        out = values.detach().to("cpu", torch.float32)
        if not torch.isfinite(out).all():
            raise NumericalError(
                "NaN or infinity in the result, although activations and gradients are finite: effects "
                "overflow; scale the scope's vectors or its function down"
                f"{overflow_hint(self.view)}"
            )
        for axis in range(-axes, 0):
            out = out.narrow(axis, 0, min(out.shape[axis], n))
            pad = [0, 0] * (-axis - 1) + [0, n - out.shape[axis]]
            out = torch.nn.functional.pad(out, pad)
        return out


@contextmanager
def traced(
    prompt_run: CircuitRun, root: Site, sites: Sequence[Site], optional: Sequence[Site] = ()
) -> Iterator[Trace]:
    """Run the prompt with the graph rooted at `root`, up to what is read, keeping `sites`.

    Activations are kept under their sites' labels: `root`'s always, those of `optional` sites where
    they are reached. Gradients hold the `frozen` parts of `prompt_run` constant. Inside the context
    parameters are frozen and the model locked.
    """
    view, read_site = prompt_run.view, prompt_run.read_site
    kept: dict[str, Tensor] = {}

    def keep(label: str) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            if label == root.label:
                activation = activation.detach().requires_grad_()
            # Clones: later hooks may edit in place; and what is kept must lie on the route.
            kept[label] = activation if label == root.label else activation.clone()
            return kept[label].clone()

        return edit

    edits = {site: keep(site.label) for site in dict.fromkeys([root, *sites, *optional])}
    with prompt_run.locked():
        tokens = prompt_run.tokens(1)
        activation = read_held(view, tokens, edits, read_site, prompt_run.frozen)
        for site in (root, *sites):
            if site.label not in kept:
                raise not_reached(site.label, read_site.label if read_site else "the final state")
        if read_site is not None:
            check_site(view, read_site, activation, tokens)
        read = read_values(view, read_site, activation, *flat_places([prompt_run]))
        (answer,) = explain([prompt_run], tokens, read.detach())
        vectors, norms = answer.directions, answer.norms
        weights = answer.explained.every_weight.double().cpu()
        if not len(vectors):  # F of a prediction that is certain has no eigenpairs
            vectors, norms, weights = (
                x.new_zeros(1, *x.shape[1:]) for x in (vectors, norms, weights)
            )
        own = read if prompt_run.span else read[0]
        yield Trace(prompt_run, answer, own, kept, vectors.to(read.dtype), norms, weights)
