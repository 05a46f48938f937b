"""Gradient rules by hand: a Hugging Face model whose own functions are replaced, without this package."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from support import zoo


class Shared(torch.autograd.Function):
    """Identity; what comes back is multiplied."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *g):
        return ctx.share * g[0], None


class Softmax(torch.autograd.Function):
    """softmax(x), whose Jacobian is written out: diag(s) - s s^T, of s = softmax(x / T)."""

    @staticmethod
    def forward(ctx, x, temperature):
        ctx.save_for_backward(x)
        ctx.temperature = temperature
        return x.exp() / x.exp().sum(-1, keepdim=True)

    @staticmethod
    def backward(ctx, *g):
        (x,) = ctx.saved_tensors
        s = (x / ctx.temperature).exp()
        s = s / s.sum(-1, keepdim=True)
        jacobian = torch.diag_embed(s) - s[..., :, None] * s[..., None, :]
        return (jacobian @ g[0][..., None])[..., 0], None


def gradients(
    name: str,
    tokens: list[int],
    target: int,
    temperature: float = 1.0,
    attention: float = 1.0,
    mlp: float = 1.0,
    norms: bool = False,
    inside: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """The gradient of the target's logit at the last token, at the input of the first block ("") and at the
    outputs of the modules `inside`, [pos, width].

    `attention`, `mlp`: what each factor of a product gets back.
    """
    model = zoo.hf_model(name)
    kept: dict[str, torch.Tensor] = {}

    def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: Any = None, **more: Any):
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        q, k = Shared.apply(q, attention), Shared.apply(k, attention)
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        if more.get("softcap") is not None:
            scores = torch.tanh(scores / more["softcap"]) * more["softcap"]
        n = scores.shape[-1]
        scores = scores + (mask if mask is not None else torch.full((n, n), -torch.inf).triu(1))
        pattern = Shared.apply(Softmax.apply(scores, temperature), attention)
        return (pattern @ Shared.apply(v, attention)).transpose(1, 2).contiguous(), pattern

    def normed(module: Any, args: Any, out: Any) -> Any:
        (x,) = args
        if isinstance(module, torch.nn.LayerNorm):
            x = x - x.mean(-1, keepdim=True)
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt().detach()
        gain = 1 + module.weight if name.startswith("gemma") else module.weight
        y = y * gain + (0 if getattr(module, "bias", None) is None else module.bias)
        torch.testing.assert_close(y, out, rtol=1e-9, atol=1e-9)  # the same value
        return y

    def root(module: Any, args: Any, kwargs: Any) -> Any:
        kept[""] = args[0].detach().requires_grad_()
        return (kept[""], *args[1:]), kwargs

    def keep(label: str) -> Any:
        def hook(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
            kept[label] = out
            return out.clone()

        return hook

    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    blocks[0].register_forward_pre_hook(root, with_kwargs=True)
    model.lm_head.register_forward_pre_hook(lambda module, args: kept.update(y=args[0]))
    for label in inside:
        model.get_submodule(label).register_forward_hook(keep(label))
    for path, module in model.named_modules():
        if norms and type(module).__name__.endswith("Norm"):
            module.register_forward_hook(normed)
        if path.endswith(("mlp.gate_proj", "mlp.up_proj")):
            module.register_forward_hook(lambda module, args, out: Shared.apply(out, mlp))
    with pytest.MonkeyPatch.context() as patch, zoo.exact_float64():
        patch.setattr(sys.modules[type(model).__module__], "eager_attention_forward", attend)
        model(torch.tensor([tokens]), use_cache=False)
    of = {label: x for label, x in kept.items() if label != "y"}
    logit = kept["y"][0, -1] @ model.lm_head.weight[target]
    found = torch.autograd.grad(logit, list(of.values()))
    return {label: g[0] for label, g in zip(of, found)}
