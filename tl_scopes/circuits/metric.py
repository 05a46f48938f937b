"""A scope's scalar as a function of logits, for activation patching."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import Prompt
from tl_scopes.adapter.sites import embed_site
from tl_scopes.adapter.unembedding import OutputTransform, Unembedding, working_dtype
from tl_scopes.circuits.passes.trace import ask, traced
from tl_scopes.errors import (
    LengthMismatchError,
    PromptError,
    ScopeParameterError,
    UnsupportedModelError,
)
from tl_scopes.jacobian.answers import Answer
from tl_scopes.scopes.base import Scope

# Share of the final state that the rounding of logits may blur.
_MOST_NOISE = 1e-2


def scope_metric(
    model: Any,
    clean_prompt: Prompt,
    scope: Scope,
    *,
    position: int = -1,
    prepend_bos: bool | None = None,
) -> ScopeMetric:
    """A scope's scalar as a metric for `transformer_lens.patching` and attribution patching.

    Target and vectors are those of the clean prompt: the target's logit (before a soft-cap) for a
    semantic scope, `||y||` for temperature, `fn` for a function scope, `<v, y>` for a direction at the
    final state, and `sum_i lambda_i <u_i, y - y_clean>^2` for Fisher, which is twice the second-order
    KL divergence from the clean prediction (zero there, and so is its gradient).

    Returns:
        `ScopeMetric`, a differentiable function of logits Float[Tensor, "batch pos d_vocab"] or
        [pos, d_vocab] to a scalar tensor, the mean over the batch, in the scalar's own units. Where a
        scope needs `y`, it is solved for from the logits: `y = (W_U W_U^T)^-1 W_U (z - b_U)`.

    Raises:
        ScopeParameterError: for a direction inside the model, which logits do not determine.
        UnsupportedModelError: where the output transform or W_U cannot be inverted.
        ScopesError: as `tl_scopes.attribute`. Calling the metric on logits of another length or
            vocabulary raises `LengthMismatchError`.

    Examples:
        >>> metric = scope_metric(model, "The capital of France is", SemanticScope(" Paris"))
        >>> patching.get_act_patch_resid_pre(model, corrupted_tokens, clean_cache, metric)
    """
    prompt_run = ask(model, clean_prompt, scope, position, prepend_bos)
    if scope.read_site is not None:
        raise ScopeParameterError(
            f"the scope reads at {scope.read_site!r}, which logits do not determine: use components "
            "or verify, which look inside, or a direction at the final state (site=None)"
        )
    with traced(prompt_run, embed_site(), []) as trace:
        answer = trace.answer
    return ScopeMetric(answer, len(prompt_run.ids))


@dataclass(frozen=True, eq=False)
class ScopeMetric:
    """See `scope_metric`. `position` and `length` are those of the clean prompt."""

    answer: Answer
    length: int

    @property
    def position(self) -> int:
        return self.answer.position

    @property
    def head(self) -> Unembedding:
        return self.answer.read.head

    def __call__(self, logits: Tensor) -> Float[Tensor, ""]:
        if not isinstance(logits, Tensor):
            raise PromptError(
                f"the metric got a {type(logits).__name__}; allowed: logits, a tensor [batch, pos, "
                "d_vocab] or [pos, d_vocab]: give what the model returns"
            )
        rows = logits[None] if logits.ndim == 2 else logits
        if rows.ndim != 3 or not len(rows) or rows.shape[1:] != (self.length, self.head.d_vocab):
            raise LengthMismatchError(
                f"the metric got logits of shape {tuple(logits.shape)}; allowed: [batch, pos, "
                f"d_vocab] or [pos, d_vocab] with pos = {self.length} (the clean prompt's tokens, BOS "
                f"included) and d_vocab = {self.head.d_vocab}"
            )
        places = self.answer.read.places
        at = [position for _, position in places] if places else self.position
        z = rows[:, at].to(self.head.W_U.device, working_dtype(rows.dtype))
        raw = _inverse(self.head.transform, z)
        return torch.stack([self._scalar(row) for row in raw]).mean()

    @property
    def clean(self) -> float:
        """The metric on the clean prompt."""
        read = self.answer.read
        read = replace(read, value=read.value.to(working_dtype(read.value.dtype)))
        return float(self.answer.scope.scalar(read, self.answer.explained, read))

    def _scalar(self, raw: Float[Tensor, "*read d_vocab"]) -> Tensor:
        answer = self.answer
        # Solving for y costs a product with W_U, which only some scopes need.
        value = answer.read.value if answer.scope.is_of_logits else self.final_state(raw)
        read = replace(answer.read, value=value, raw=raw)
        return answer.scope.scalar(read, answer.explained, answer.read)

    def final_state(self, raw: Float[Tensor, "d_vocab"]) -> Float[Tensor, "d_model"]:
        """The y whose raw logits these are, by least squares."""
        factor, condition = self._gram
        offset = raw - self.head.b_U.to(raw)
        noise = torch.finfo(self.head.W_U.dtype).eps * condition
        if noise * (self.head.d_model / self.head.d_vocab) ** 0.5 > _MOST_NOISE:
            raise UnsupportedModelError(
                f"the logits, rounded to {self.head.W_U.dtype}, do not determine the final state (the "
                f"condition of W_U is {condition:.0e}): load the model in a wider precision, or use a "
                "semantic, logit-difference or function scope"
            )
        if noise * condition <= _MOST_NOISE**2:
            pulled = (self.head.W_U.to(raw.dtype) @ offset).double()
        else:  # normal equations square the condition
            pulled = torch.zeros_like(factor[0])
            for span, rows in self.head.spans(None):
                pulled = pulled + offset[span].double() @ rows.double()
        return torch.cholesky_solve(pulled[:, None], factor)[:, 0].to(raw.dtype)

    @cached_property
    @torch.inference_mode(False)  # kept for calls that may want gradients
    def _gram(self) -> tuple[Float[Tensor, "d_model d_model"], float]:
        """The Cholesky factor of W_U W_U^T, and the condition of W_U."""
        size, device = self.head.d_model, self.head.W_U.device
        gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        for _, rows in self.head.spans(None):
            gram += rows.double().T @ rows.double()
        values = torch.linalg.eigvalsh(gram)
        condition = float((values[-1] / values[0].clamp_min(0)).sqrt())
        if not condition < 1 / torch.finfo(torch.float32).eps:
            raise UnsupportedModelError(
                "W_U does not determine the final state from logits (its rank is below d_model, or "
                "nearly so): use a semantic, logit-difference or function scope"
            )
        return torch.linalg.cholesky(gram), condition


def _inverse(transform: OutputTransform | None, z: Tensor) -> Tensor:
    """Raw logits from what the model returns: unscaled, or out of the soft-cap."""
    if transform is None:
        return z
    probe = torch.tensor([-2.0, -0.5, 0.25, 1.0, 3.0], dtype=torch.float64, device="cpu")
    seen = transform(probe)
    factor = seen[3]
    if torch.allclose(seen, factor * probe, rtol=1e-6):
        return z / factor.to(z)
    cap = transform(torch.tensor([1e9], dtype=torch.float64, device="cpu"))
    if torch.allclose(seen, cap * torch.tanh(probe / cap), rtol=1e-6):
        limit = 1 - torch.finfo(z.dtype).eps
        return cap.to(z) * torch.atanh((z / cap.to(z)).clamp(-limit, limit))
    raise UnsupportedModelError(
        "the model's output transform is neither a factor nor a soft-cap, so raw logits cannot be "
        "told from its logits: use verify, which looks inside the model"
    )
