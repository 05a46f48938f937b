"""What every function ought to give: plain autograd on an untouched Hugging Face model, no code of tl_scopes.

The prompt is copied along the batch, whose rows do not mix: one backward pass gives a row of a Jacobian a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

IDS = (0, 9, 17, 33, 5, 41, 28, 60)
POSITION = len(IDS) - 2
# What gradients are added up in.
PRECISE = {
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
_OUT = ("o_proj", "out_proj", "c_proj", "dense", "wo", "Wo")


class Held(TorchFunctionMode):
    """Takes constants out of gradients by what is computed, wherever it is: one over the root of
    squares is the scale of a norm, a softmax over positions a pattern of attention."""

    def __init__(self, parts: Sequence[str]) -> None:
        super().__init__()
        self.norms, self.patterns = "norms" in parts, "patterns" in parts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.norms and name in ("layer_norm", "rms_norm"):
            return _composed(name, func, args, kwargs)
        out = func(*args, **kwargs)
        powers = [x for x in args[1:] if isinstance(x, float)]
        root = name == "rsqrt" or (name in ("pow", "__pow__") and powers == [-0.5])
        attention = name == "softmax" and out.ndim > 2 and out.shape[-1] >= len(IDS)
        return out.detach() if (self.norms and root) or (self.patterns and attention) else out


def _composed(name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
    """A fused norm as gain * (x - mean) * scale + bias, the scale held."""
    every = dict(
        zip(("x", "shape", "weight", "bias" if name == "layer_norm" else "eps", "eps"), args)
    )
    every |= {"x" if key == "input" else key: value for key, value in kwargs.items()}
    x = every["x"]
    base = (x - x.mean(-1, keepdim=True) if name == "layer_norm" else x).to(PRECISE[x.dtype])
    eps = every.get("eps")
    eps = (1e-5 if name == "layer_norm" else torch.finfo(x.dtype).eps) if eps is None else eps
    out = (base * (base.square().mean(-1, keepdim=True) + eps).rsqrt().detach()).to(x.dtype)
    out = out if every.get("weight") is None else out * every["weight"]
    return out if every.get("bias") is None else out + every["bias"]


class Run:
    """One forward pass over `copies` of the prompt; `at` has what can be differentiated, by site:
    "embed", a layer's number, ("z", layer), "y", "logits"."""

    def __init__(self, model: Any, copies: int, held: Sequence[str] = ()) -> None:
        self.at: dict[Any, Tensor] = {}
        self.blocks = blocks_of(model)
        self.projections = [projection_of(block, model) for block in self.blocks]
        head = model.get_output_embeddings()
        n = len(self.blocks)
        with ExitStack() as undo:

            def on(module: nn.Module, before: bool, see: Callable[[Tensor], Tensor]) -> None:
                hook = _before(see) if before else _after(see)
                add = module.register_forward_pre_hook if before else module.register_forward_hook
                undo.callback(add(hook, **({"with_kwargs": True} if before else {})).remove)

            on(model.get_input_embeddings(), False, self._start)
            for layer, block in enumerate(self.blocks):
                on(block, True, self._seen(layer))
                projection = self.projections[layer]
                if projection is not None:
                    on(projection, True, self._seen(("z", layer)))
            on(self.blocks[-1], False, self._seen(n))
            on(head, True, self._seen("y"))
            if held:
                undo.enter_context(Held(held))
            ids = torch.tensor([IDS] * copies)
            self.at["logits"] = model(input_ids=ids, use_cache=False).logits
        self.W_U = head.weight.detach()
        self.scale = _scale(self.at["embed"].detach()[0], self.at[0].detach()[0])

    def _start(self, x: Tensor) -> Tensor:
        if "embed" in self.at:
            return x
        self.at["embed"] = x.detach().requires_grad_()
        return self.at["embed"]

    def _seen(self, site: Any) -> Callable[[Tensor], Tensor]:
        def see(x: Tensor) -> Tensor:
            self.at[site] = x.view_as(x)
            return self.at[site]

        return see

    def pull(self, of: Any, cotangents: Tensor, sites: Sequence[Any]) -> list[Tensor]:
        """Gradients of <cotangents, what is at `of`> at the sites, each [copy, pos, d]."""
        found = torch.autograd.grad(
            self.at[of],
            [self.at[s] for s in sites],
            cotangents,
            retain_graph=True,
            allow_unused=True,
        )
        out = []
        for site, g in zip(sites, found):
            g = torch.zeros_like(self.at[site]) if g is None else g
            out.append(g.to(PRECISE[g.dtype]) / (self.scale if site == "embed" else 1.0))
        return out

    def value(self, site: Any) -> Tensor:
        """What is at a site of the first copy, [pos, d]."""
        found = self.at[site].detach()[0]
        return found.to(PRECISE[found.dtype])

    def read(self, rows: Tensor, of: str = "y") -> Tensor:
        """Cotangents of row i of `rows` at the read position of copy i, none elsewhere."""
        out = torch.zeros_like(self.at[of])
        out[: len(rows), POSITION] = rows.to(out.dtype)
        return out


def _before(see: Callable[[Tensor], Tensor]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (see(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": see(kwargs["hidden_states"])}

    return hook


def _after(see: Callable[[Tensor], Tensor]) -> Any:
    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        return (see(out[0]), *out[1:]) if isinstance(out, (tuple, list)) else see(out)

    return hook


def _scale(rows: Tensor, stream: Tensor) -> float:
    """What multiplies the embedding before the first block; 1 where more than that happens to it."""
    if rows.shape != stream.shape:
        return 1.0
    rows, stream = rows.double(), stream.double()
    scale = float((rows * stream).sum() / rows.square().sum())
    return scale if torch.allclose(stream, scale * rows, rtol=1e-2, atol=1e-3) else 1.0


def blocks_of(model: Any) -> list[nn.Module]:
    """The decoder's blocks: the first list of modules that is as long as the model is deep."""
    deep = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == deep:
            return list(module)
    raise LookupError(f"no list of {deep} blocks")


def projection_of(block: nn.Module, model: Any) -> nn.Module | None:
    """The matrix that takes all heads' outputs to the stream, if the block has one."""
    for name, module in block.named_modules():
        parts = name.split(".")
        inside = any("attention" in part or "attn" in part for part in parts[:-1])
        if inside and parts[-1] in _OUT and hasattr(module, "weight"):
            return module
    return None


def heads_of(model: Any, width: int) -> int:
    heads = int(model.config.get_text_config().num_attention_heads)
    return heads if width % heads == 0 else math.gcd(heads, width)
