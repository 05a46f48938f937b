"""A plain second implementation of the Jacobians, for tests to compare with. It uses no code of tl_scopes.

A zero tensor is added to the activation at a site, the model's own whole forward pass runs to the logits, and the
derivatives are taken with respect to that tensor: by autograd, or by finite differences. Rows of a batch do not mix,
so `n` copies of the prompt give `n` rows of a Jacobian in one backward pass.

Sites: "embed"; an int `l` for the residual stream entering block `l` (or the final norm); "final" for the vector that
the unembedding multiplies; a hook name.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Union

import torch
from torch import Tensor

from support import zoo

RefSite = Union[str, int]

HEADS = "blocks.1.attn.hook_z"
SITES: tuple[RefSite, ...] = ("embed", 0, 1, 2, 3, HEADS, "final")
# BOS and six words: longer than the sliding windows of the zoo, and one token follows the read position.
TOKENS: list[int] = zoo.tokenizer()("The cat sat on the mat").input_ids
POSITION = len(TOKENS) - 2
STEP = 1e-4  # of finite differences; their error is of order STEP**4, their rounding error 1e-12


def _pre_hook(module: torch.nn.Module, edit: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Edit a module's first input."""

    def hook(_, args, kwargs):
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": edit(kwargs["hidden_states"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


class Reference:
    """Forward passes of one zoo model over copies of one prompt, and derivatives at one read position."""

    def __init__(
        self, name: str, tokens: Sequence[int] = TOKENS, position: int = POSITION, model=None
    ) -> None:
        self.model = zoo.shared(name) if model is None else model
        self.traits = zoo.traits(name)
        self.hooked = name.startswith("hooked")
        self.tokens = torch.tensor([list(tokens)])
        self.position = position
        self.n_layers = self.model.cfg.n_layers

    def _edit(self, site: RefSite, edit: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        model = self.model
        if site == "embed":
            if not self.traits & {"learned", "embed_norm"}:
                site = 0  # nothing comes between the scaled embedding and the first block
            elif self.hooked and "embed_norm" in self.traits:
                return _pre_hook(model.embed.ln, edit)
            else:
                return model.embed.register_forward_hook(lambda module, args, out: edit(out)).remove
        if site == self.n_layers and "no_norm" not in self.traits:
            return _pre_hook(model.ln_final, edit)
        if site in (self.n_layers, "final"):
            return _pre_hook(model.unembed, edit)
        if isinstance(site, int):
            return _pre_hook(model.blocks[site], edit)
        stack = contextlib.ExitStack()
        stack.enter_context(
            model.hooks(fwd_hooks=[(site, lambda activation, hook: edit(activation))])
        )
        return stack.close

    def forward(
        self, deltas: dict[RefSite, Tensor], watch: Sequence[RefSite] = (), copies: int = 1
    ) -> dict[RefSite, Tensor]:
        """Activations (after the deltas) at the sites of `deltas` and `watch`, "final", and "logits", by site."""
        seen: dict[RefSite, Tensor] = {}

        def edit(site: RefSite, activation: Tensor) -> Tensor:
            if site in deltas:
                activation = activation + deltas[site]
            seen[site] = activation
            return activation

        with contextlib.ExitStack() as undo, zoo.exact_float64():
            for site in dict.fromkeys([*deltas, *watch, "final"]):
                undo.callback(self._edit(site, functools.partial(edit, site)))
            seen["logits"] = self.model(self.tokens.expand(copies, -1))
        return seen

    @functools.cache
    def shape(self, site: RefSite) -> tuple[int, ...]:
        """[pos, *d] of the activation at a site."""
        with torch.no_grad():
            return tuple(self.forward({}, [site])[site].shape[1:])

    @functools.cache
    def at_read(self, what: RefSite) -> Tensor:
        """The unperturbed activation, or the logits, at the read position."""
        with torch.no_grad():
            return self.forward({}, [] if what == "logits" else [what])[what][0, self.position]

    @functools.cache
    def jacobians(self, of: RefSite) -> dict[RefSite, Tensor]:
        """d(what is read at the read position) / d(activation), [output, pos, *d], at all of `SITES` before it."""
        n = self.at_read(of).numel()
        sites = [
            site
            for site in SITES
            if site != of
            and not (isinstance(of, int) and site in range(of, 99))
            and not (site == HEADS and isinstance(of, int) and of < 2)
        ]
        sites = [site for site in sites if of == "logits" or site != "final"]
        deltas = {
            s: torch.zeros(n, *self.shape(s), dtype=torch.float64, requires_grad=True)
            for s in sites
        }
        seen = self.forward(deltas, [] if of == "logits" else [of], copies=n)
        diagonal = seen[of][:, self.position].reshape(n, n).diagonal().sum()
        return dict(zip(sites, torch.autograd.grad(diagonal, list(deltas.values()))))

    def jacobian(self, site: RefSite, of: RefSite = "final") -> Tensor:
        """d(what is read at the read position) / d(activation at `site`): [output, pos, *d]."""
        return self.jacobians(of)[site]

    @functools.cache
    def perturbed(self, site: RefSite) -> dict[RefSite, tuple[Tensor, ...]]:
        """What is read with every coordinate at `site` moved by -2, -1, 1 and 2 steps: [pos * d, output] each."""
        n = torch.tensor(self.shape(site)).prod().item()
        deltas = STEP * torch.eye(n, dtype=torch.float64).reshape(n, *self.shape(site))
        with torch.no_grad():
            many = torch.cat([steps * deltas for steps in (-2, -1, 1, 2)])
            seen = self.forward({site: many}, [2], copies=4 * n)
        return {of: seen[of][:, self.position].chunk(4) for of in (2, "final", "logits")}

    def finite_difference(
        self, site: RefSite, fn: Callable[[Tensor], Tensor], of: RefSite = "final"
    ) -> Tensor:
        """The gradient of the scalar `fn` (over the last axis of what is read) at `site`, [pos, *d]."""
        far_down, down, up, far_up = (fn(value) for value in self.perturbed(site)[of])
        return ((8 * (up - down) - (far_up - far_down)) / (12 * STEP)).reshape(self.shape(site))

    def hessian_diagonal(self, site: RefSite, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """The diagonal of the Hessian of the scalar `fn(logits at the read position)` at `site`, [pos, *d]."""
        shape = self.shape(site)
        n = torch.tensor(shape).prod().item()
        delta = torch.zeros(n, *shape, dtype=torch.float64, requires_grad=True)
        value = fn(self.forward({site: delta}, copies=n)["logits"][:, self.position]).sum()
        (gradient,) = torch.autograd.grad(value, delta, create_graph=True)
        (second,) = torch.autograd.grad(gradient.reshape(n, n).diagonal().sum(), delta)
        return second.reshape(n, n).diagonal().reshape(shape)


@functools.cache
def of(name: str) -> Reference:
    """The reference of a shared zoo model, with what it has computed so far."""
    return Reference(name)


def norms(gradient: Tensor) -> Tensor:
    """2-norm of each row along the last axis."""
    return torch.linalg.vector_norm(gradient, dim=-1)


def centred_rows(ref: Reference, site: RefSite) -> tuple[Tensor, Tensor]:
    """The next-token distribution p [d_vocab], and d(logit_v - mean logit under p)/d(site), [d_vocab, pos, *d]."""
    p = torch.softmax(ref.at_read("logits"), dim=-1)
    rows = ref.jacobian(site, "logits")
    return p, rows - torch.tensordot(p, rows, dims=1)


def fisher_matrix(ref: Reference) -> Tensor:
    """F [d_model, d_model] at the final state, from the derivative of the model's own logits there."""
    p, rows = centred_rows(ref, "final")
    rows = rows[:, ref.position]
    return rows.T @ (p[:, None] * rows)


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-9) -> None:
    """Within `tolerance` of the largest entry."""
    assert got.dtype == torch.float64
    assert wanted.abs().max() > 1e-3, "nothing to compare"
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))
