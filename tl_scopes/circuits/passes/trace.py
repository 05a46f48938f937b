"""A forward pass kept on the graph: what is explained of each prompt, and activations on the way to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Union

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.padding import Ids, refuse_read
from tl_scopes.adapter.prompts import Prompt, described, encode
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.view import Edit, ModelView, view_of
from tl_scopes.errors import (
    LengthMismatchError,
    NumericalError,
    ScopeParameterError,
    UnsupportedModelError,
)
from tl_scopes.jacobian.answers import Answer, explain, flat_places
from tl_scopes.jacobian.backward import pull
from tl_scopes.jacobian.batches import padded
from tl_scopes.jacobian.forward import (
    check_gradient,
    no_path,
    not_reached,
    overflow_hint,
    read_values,
)
from tl_scopes.jacobian.probes import check_site
from tl_scopes.jacobian.prompt_run import PromptRun, check_scopes
from tl_scopes.jacobian.ruled import read_ruled
from tl_scopes.rules import Frozen, Rules, check_rules, holding, under
from tl_scopes.scopes.base import Scope, check_is_scope

# What gradients hold constant beside the rules of a scope, or all rules in place of the scope's.
Held = Union[Frozen, Rules]


def asked(frozen: Frozen, rules: Rules | None) -> Held:
    """The rules that a call gives, if it does, with what it holds constant. Raises `ScopeParameterError`."""
    check_rules(rules)
    return frozen if rules is None else holding(rules, frozen)


@dataclass(eq=False)
class CircuitRun(PromptRun):
    """What a call asks, checked: a scope at a position of a prompt, under gradient rules."""

    @property
    def scope(self) -> Scope:
        return self.reads[0][1]

    @property
    def frozen(self) -> tuple[str, ...]:
        """What gradients hold constant."""
        return () if self.rules is None else tuple(self.rules.frozen or ())

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
    rules: Held = None,
) -> CircuitRun:
    """Check a call's common arguments; `rules` as `asked` gives them. Raises what `attribute` raises."""
    return ask_of(view_of(model), prompt, scope, position, prepend_bos, rules)


def ask_of(
    view: ModelView,
    prompt: Prompt,
    scope: Any,
    position: int = -1,
    prepend_bos: bool | None = None,
    rules: Held = None,
    hooked: bool | None = None,
) -> CircuitRun:
    """The same, of a model that this call has checked already. `hooked`: whether hooks of the user's are
    on it, where that is known too."""
    check_is_scope(scope)
    scope = under(scope, rules if isinstance(rules, Rules) else holding(scope.rules, rules))
    ids = encode(view, prompt, prepend_bos)
    hooked = view.is_hooked() if hooked is None else hooked
    prompt_run = CircuitRun.explaining(view, ids, scope, position, hooked)
    check_scopes(view, [scope])
    if prompt_run.others:
        raise ScopeParameterError(
            "circuits take one continuation, but versus gives a second: drop it, and call once for each. "
            "At the prompt's tokens the total effects of components subtract; norms and flows do not"
        )
    return prompt_run


@dataclass(frozen=True, eq=False)
class Batch:
    """A forward pass on the graph, over prompts of one length. `kept`: activations by label,
    [row, pos, ...].

    `weights`: of each vector's squares (squared scopes) or of its value. `vectors` have norm 1 in the
    model's dtype; `norms` are what their numbers must be multiplied by. Where a prompt has fewer vectors
    than another one, zeros stand in their place.
    """

    runs: Sequence[CircuitRun]
    answers: Sequence[Answer]
    read: Float[Tensor, "read *d"]
    kept: dict[str, Tensor]
    vectors: Float[Tensor, "vector read *d"]
    norms: Float[Tensor, "row vector"]
    weights: Float[Tensor, "row vector"]
    remembered: dict[tuple[str, ...], list[Tensor]] = field(default_factory=dict)

    @property
    def view(self) -> ModelView:
        return self.runs[0].view

    def gradients(self, labels: Sequence[str]) -> list[Float[Tensor, "vector row pos ..."]]:
        """The gradient of every prompt's own vectors at each label, by one backward pass.

        For vectors of norm 1: numbers made of them still have to be multiplied by `norms`.
        Raises `UnsupportedModelError` for an activation with no path to what is read, or where
        tokens after the read position have influence; `NumericalError`.
        """
        key = tuple(labels)
        if key in self.remembered:
            return self.remembered[key]
        out = []
        inputs = [self.kept[label] for label in labels]
        for label, g in zip(labels, pull(self.view, [self.read], inputs, [self.vectors])):
            if g is None:
                held = "frozen= holds it constant, "
                raise UnsupportedModelError(
                    f'{no_path(label, held)}, components(by="layer"), or drop frozen='
                )
            out.append(g)
        # From the label nearest to what is read: a NaN there reaches all the earlier ones.
        for label, g in zip(reversed(labels), reversed(out)):
            sizes = g.transpose(0, 2).flatten(1).abs().amax(1)
            check_gradient(self.view, label, sizes, self.runs[0].position)
        self.remembered.clear()
        self.remembered[key] = out
        return out


@dataclass(frozen=True, eq=False)
class Trace:
    """One prompt of a batch. `kept`: activations by label, [1, pos, ...]."""

    batch: Batch
    row: int = 0

    @property
    def view(self) -> ModelView:
        return self.batch.view

    @property
    def prompt_run(self) -> CircuitRun:
        return self.batch.runs[self.row]

    @property
    def answer(self) -> Answer:
        return self.batch.answers[self.row]

    @property
    def squared(self) -> bool:
        return self.answer.explained.squared

    @cached_property
    def kept(self) -> dict[str, Tensor]:
        if len(self.batch.runs) == 1:  # on the graph: more may be pulled back to them
            return self.batch.kept
        return {label: x[self.row, None] for label, x in self.batch.kept.items()}

    @property
    def n_vectors(self) -> int:
        return max(1, len(self.answer.norms))

    @property
    def norms(self) -> Float[Tensor, "vector"]:
        return self.batch.norms[self.row, : self.n_vectors]

    @property
    def weights(self) -> Float[Tensor, "vector"]:
        return self.batch.weights[self.row, : self.n_vectors]

    def gradients(self, labels: Sequence[str]) -> list[Float[Tensor, "vector pos ..."]]:
        """Those of `Batch.gradients` that are this prompt's."""
        return [g[: self.n_vectors, self.row] for g in self.batch.gradients(labels)]

    def leads_to_read(self, label: str) -> bool:
        """Whether what is read was computed from the activation at `label`."""
        if label not in self.batch.kept:
            return False
        batch = self.batch
        (gradient,) = pull(self.view, [batch.read], [batch.kept[label]], [batch.vectors[:1]])
        return gradient is not None

    def common(self) -> dict[str, Any]:
        """The fields that every circuit result has."""
        ids, answer = self.prompt_run.ids, self.answer
        explained = answer.explained
        about = described(self.view, ids, self.prompt_run.rules)
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
    """`traced_rows` of one prompt."""
    with traced_rows([prompt_run], root, sites, optional) as batch:
        yield Trace(batch)


@contextmanager
def traced_rows(
    runs: Sequence[CircuitRun],
    root: Site,
    sites: Sequence[Site],
    optional: Sequence[Site] = (),
    edits: Mapping[Site, Edit] = MappingProxyType({}),
) -> Iterator[Batch]:
    """Run prompts of one length with the graph rooted at `root`, up to what is read, keeping `sites`.

    Activations are kept under their sites' labels: `root`'s always, those of `optional` sites where
    they are reached. `edits` come before that, at `root` and elsewhere. Gradients follow the rules
    of the runs, which have the same. Inside the context parameters are frozen and the model locked.
    """
    view, read_site = runs[0].view, runs[0].read_site
    kept: dict[str, Tensor] = {}

    def keep(site: Site) -> Edit:
        label, first = site.label, edits.get(site, lambda activation: activation)

        def edit(activation: Tensor) -> Tensor:
            activation = first(activation)
            if label == root.label:
                activation = activation.detach().requires_grad_()
            # Clones: later hooks may edit in place; and what is kept must lie on the route.
            kept[label] = activation if label == root.label else activation.clone()
            return kept[label].clone()

        return edit

    every_edit = {**edits, **{site: keep(site) for site in [root, *sites, *optional]}}
    with runs[0].locked():
        tokens = padded(runs)
        activation = read_ruled(view, tokens, every_edit, read_site, runs[0].rules)
        for site in (root, *sites):
            if site.label not in kept:
                raise not_reached(site.label, read_site.label if read_site else "the final state")
        if read_site is not None:
            check_site(view, read_site, activation, tokens)
        read = read_values(view, read_site, activation, *flat_places(runs))
        answers = explain(runs, tokens, read.detach())
        most = max(1, *(len(answer.norms) for answer in answers))
        # F of a prediction that is certain has no eigenpairs, and leaves zeros.
        vectors = read.new_zeros(most, *read.shape)
        norms, weights = torch.zeros(2, len(runs), most, dtype=torch.float64, device="cpu")
        for i, answer in enumerate(answers):
            k = len(answer.norms)
            own = answer.directions.to(vectors)
            vectors[:k, answer.flat] = own if runs[i].span else own[:, None]
            norms[i, :k] = answer.norms
            weights[i, :k] = answer.explained.every_weight
        yield Batch(runs, answers, read, kept, vectors, norms, weights)
