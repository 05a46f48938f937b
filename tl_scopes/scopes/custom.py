"""Scopes of your own: any function of the logits, any direction at any site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.refusals import refuse_surrogates
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.errors import ScopeParameterError
from tl_scopes.rules import Ruled
from tl_scopes.scopes.base import Explained, Read, Scope


@dataclass(frozen=True)
class FunctionScope(Ruled, Scope):
    """Influence on any scalar of the logits: `v` is the gradient of `fn` at `y`.

    `fn` takes the logits of one position, Float[Tensor, "d_vocab"] after the model's output
    transform, in float32 at least, and returns a differentiable scalar: entropy, a margin, a
    log-probability, KL to a reference. `label` names it in results. Units: fn per unit of residual.
    Raises `ScopeParameterError` where `fn` gives no such scalar, or no finite gradient.
    Source: `||v^T J_t||` of arXiv 2601.16407 with `v = d fn / d y`.

        >>> margin = FunctionScope(lambda logits: logits.max() - logits.mean(), label="margin")
    """

    fn: Callable[[Float[Tensor, "d_vocab"]], Tensor]
    label: str | None = None
    name = "function"
    explains = "a function of the logits"
    is_of_logits = True
    units = "fn per unit of residual"

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ScopeParameterError(
                f"fn is {self.fn!r}; give a function from the logits [d_vocab] to a scalar tensor"
            )
        refuse_surrogates(self.label or "", "the label", ScopeParameterError)

    def parameters(self) -> dict[str, Any]:
        return {"fn": self.label or getattr(self.fn, "__name__", type(self.fn).__name__)}

    @property
    def explains_centred_logit(self) -> bool:
        return True

    def explain(self, read: Read) -> Explained:
        assert read.raw is not None
        with torch.enable_grad():
            raw = read.raw.detach().requires_grad_()
            # A clone: fn may edit in place, to ban a token, say.
            value = self.fn(read.head.logits(raw.clone()))
            if not isinstance(value, Tensor) or value.numel() != 1:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ScopeParameterError(
                    f"fn returned {got}; it must return a tensor with one number"
                )
            if value.is_complex():
                raise ScopeParameterError(
                    f"fn returned a {value.dtype}, which has no one slope: return a real number, its "
                    ".real, .imag or .abs() say"
                )
            if not value.requires_grad:
                raise ScopeParameterError(
                    "fn's value does not depend differentiably on the logits: use torch operations "
                    "on the tensor it is given, without .detach(), .item() or argmax"
                )
            (slope,) = torch.autograd.grad(value.sum(), raw, allow_unused=True)
        if slope is None or not torch.isfinite(slope).all():
            what = "none" if slope is None else "one that is not finite"
            raise ScopeParameterError(
                f"fn has {what} as its gradient with respect to the logits of this prompt; "
                "check it at these logits (0 * log 0 in an entropy, say)"
            )
        return Explained.single(read.head.pull(slope[:, None])[0])

    def scalar(self, read: Read, explained: Explained, at: Read) -> Tensor:
        """`fn` of the logits."""
        assert read.raw is not None
        return self.fn(read.head.logits(read.raw).clone()).reshape(())


@dataclass(frozen=True, eq=False)
class DirectionScope(Ruled, Scope):
    """Influence on `<v, h>`, a given direction read at any site: probe, steering vector, SAE row.

    `v`: Float[Tensor, "d"] of the width of the activation at `site`; at a hook with heads
    [head_index, d_head], or [d_head] at one of them (`"blocks.3.attn.hook_z[2]"`). `site`: a layer,
    hook name or `"resid(l)"`; None reads the final state `y`. `position`: the read position; None
    takes the call's. Score `||v^T dh/dr_t||_2`, linear in `v`. Units: unit of `<v, h>` per unit of
    residual. The model is run no further than `site`, so results at other sites than the final
    state carry no prediction. Raises `ScopeParameterError` for a vector of another shape.

    What is added to `<v, h>` (a bias, `b_dec`, `b_enc`) changes nothing; what multiplies it does.
    Load the model with weights processed as they were where `v` was made.

    - Linear probe: `coef_[i]`; behind a `StandardScaler`, `coef_[i] / scale_`.
    - Steering vector: itself, where it is added.
    - Jacobian-lens vector of layer `l`: `lens.lens_vectors(model, token, l)[0]` of a `JacobianLens`,
      at `site=l + 1`, the output of block `l`.
    - SAELens feature `i`, or a transcoder's: its pre-activation `(x - b_dec) @ W_enc[:, i] +
      b_enc[i]` makes `v = W_enc[:, i]` at `site=sae.cfg.metadata.hook_name`. Times
      `r_mag[i].exp()` for a gated SAE's magnitude, `W_dec[i].norm()` for
      `rescale_acts_by_decoder_norm`, the scaling factor where `expected_average_only_in` is not
      folded yet. An SAE of `hook_z`: `.unflatten(0, (n_heads, d_head))`.
    - An SAE that normalises each input (`layer_norm`, `constant_norm_rescale`) is not linear.
      Attach it to SAELens's `HookedSAETransformer` or `SAETransformerBridge` and read a one-hot
      `v` of width `d_sae` at its hook `hook_sae_acts_pre` (`site=hook_name +
      ".hook_sae_acts_pre"`; on the bridge `model.get_sae_hook_name(sae, "hook_sae_acts_pre")`).
      Any SAE but a matching-pursuit one has that hook.
    - Any other scalar of `h`: its gradient at the activation of this prompt.

        >>> attribute(model, prompt, DirectionScope(probe.coef_[0], site=12, label="French"))
    """

    v: Float[Tensor, "*d"]
    site: str | int | None = None
    position: int | None = None
    label: str | None = field(default=None, kw_only=True)
    name = "direction"
    explains = "the reading along a direction"
    units = "unit of <v, h> per unit of residual"

    def __post_init__(self) -> None:
        refuse_surrogates(self.label or "", "the label", ScopeParameterError)
        try:
            # A copy: a probe that is trained on must not change a scope that was made of it.
            here = self.v.device if isinstance(self.v, Tensor) else "cpu"
            v = torch.as_tensor(self.v, device=here).detach().clone()
        except (TypeError, ValueError, RuntimeError):
            v = None
        if v is None or v.dtype.is_complex:
            got = (
                f"a {type(self.v).__name__}" if v is None else f"{v.dtype} of shape {list(v.shape)}"
            )
            raise ScopeParameterError(
                f"the direction is {got}; give a real vector (tensor, array or list) of the site's "
                "width"
            )
        if not v.dtype.is_floating_point:
            v = v.float()
        if v.ndim == 0 or not torch.isfinite(v).all():
            raise ScopeParameterError(
                f"the direction has shape {tuple(v.shape)} and "
                f"{int((~torch.isfinite(v)).sum())} entries that are not finite; "
                "give a finite vector of the site's width"
            )
        object.__setattr__(self, "v", v)
        object.__setattr__(self, "read_site", self.site)

    def parameters(self) -> dict[str, Any]:
        shape = tuple(self.v.shape)
        norm = float(self.v.cpu().double().norm())
        return {"label": self.label, "site": self.site, "shape": shape, "norm": norm}

    def explain(self, read: Read) -> Explained:
        if self.v.shape != read.value.shape:
            where = "the final state" if self.site is None else f"site {self.site!r}"
            raise ScopeParameterError(
                f"the direction has shape {tuple(self.v.shape)}, the activation at {where} has "
                f"{tuple(read.value.shape)} per position: give a vector of that shape"
            )
        v = self.v.to(read.value.device, working_dtype(read.value.dtype))
        if not torch.isfinite(v).all():
            raise ScopeParameterError(
                f"the direction's norm {self.parameters()['norm']:.3g} is too large for the "
                f"model's {v.dtype}: scale it down, the score is linear in it"
            )
        return Explained.single(v)


def entropy() -> FunctionScope:
    """The scope of the prediction's entropy, in nats: which tokens make the model spread its bets.

    Source: Shannon's `-sum_v p_v log p_v`, by `FunctionScope`.

        >>> attribute(model, "The capital of France is", entropy())
    """
    return FunctionScope(_entropy, label="entropy")


def _entropy(logits: Float[Tensor, "d_vocab"]) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum()
