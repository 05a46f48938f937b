"""What each block's parts read and write, learnt from the values of one run and held to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tl_scopes.adapter.sites import Site, resid_site
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView
from tl_scopes.circuits.passes.stream import Stream, check_sum, part_weights
from tl_scopes.circuits.wiring.blocks import Attention, By, Kept, Mlp, Wiring, hook
from tl_scopes.circuits.wiring.norms import Identity, Norm, allowed, misses, norms_of
from tl_scopes.errors import NonAdditiveError, UnsupportedModelError
from tl_scopes.jacobian.forward import needed_sites

# Where an MLP's input is seen: the second on bridges whose blocks call its layers themselves (OPT).
_MLP_INPUTS = ("mlp.hook_in", "mlp.in.hook_in")


def anatomy_sites(view: ModelView, stream: Stream, by: By) -> tuple[list[Site], list[Site]]:
    """Where a run is to be kept for `learn`: what must be reached, and what may be."""
    n = view.n_layers
    needed, optional = [], []
    for i in stream.attn_layers:
        needed += [hook(i, f"attn.hook_{x}") for x in ("qkvz" if by == "head" else "qkv")]
        needed.append(hook(i, "hook_attn_out"))
        if i < stream.blocks and hasattr(view.model.blocks[i], "mlp"):
            optional += [hook(i, name) for name in ("hook_mlp_out", *_MLP_INPUTS)]
    known = view.hooks
    optional = [h for h in optional if h in known or h.endswith(_MLP_INPUTS[0])]
    found = needed_sites(view, needed, "edges", ": components tells what whole parts do")
    before = [resid_site(i, n) for i in range(stream.attn_layers.stop)]
    return [*dict.fromkeys([resid_site(0, n), *before, *found, stream.site])], [
        Site(h, h) for h in optional
    ]


def learn(view: ModelView, stream: Stream, by: By, kept: Kept) -> Wiring:
    """The wiring that the first row of a run shows, kept at `anatomy_sites`.

    Raises `NonAdditiveError` or `UnsupportedModelError` where what parts read or write is something else
    than a norm of the stream, and a sum.
    """
    row = {label: x[:1].detach().to(working_dtype(x.dtype)) for label, x in kept.items()}
    _check_sum(view, stream, row)
    attentions = tuple(_attention(view, i, by, row) for i in stream.attn_layers)
    mlps = [_mlp(view, i, row) for i in range(stream.blocks)]
    return Wiring(view, stream, by, attentions, {mlp.layer: mlp for mlp in mlps if mlp})


def _check_sum(view: ModelView, stream: Stream, kept: Kept) -> None:
    names = ["resid(0)", *(hook(i, "hook_attn_out") for i in stream.attn_layers)]
    names += [hook(i, "hook_mlp_out") for i in range(stream.blocks)]
    whole = kept[stream.site.label][0]
    parts = [kept[name][0].to(whole.device) for name in names if name in kept]
    check_sum(view, whole, parts, stream.site.label)


def _attention(view: ModelView, layer: int, by: By, kept: Kept) -> Attention:
    before = resid_site(layer, view.n_layers).label
    shown = {x: kept[hook(layer, f"attn.hook_{x}")] for x in "qkv"}
    weights = {x: _projection(view, layer, x, shown[x]) for x in "qkv"}
    # Of a model on several devices the stream may arrive on another one than the block's.
    stream = kept[before].to(shown["q"])

    def error(norm: Norm, names: str, heads: slice) -> float:
        x = norm(stream)
        found = []
        for name in names:
            W, b = weights[name]
            got = torch.einsum("rpm,hme->rphe", x, W[heads]) + b[heads]
            found.append(misses(got.flatten(2), shown[name][:, :, heads].flatten(2)))
        return max(found)

    norm = _best(view, layer, stream, lambda n: error(n, "q", slice(1)))
    if norm is None or error(norm, "qkv", slice(None)) > allowed(view):
        raise UnsupportedModelError(
            f"in block {layer} queries, keys and values are not W (norm of the stream) + b, which an edge "
            "into a head needs (another architecture, or a hook of yours in between): use components"
        )
    W_O = b_O = None
    output: Norm = Identity()
    if by == "head":
        z = kept[hook(layer, "attn.hook_z")]
        W_O, b_O = part_weights(view, layer, "head")
        n = len(weights["q"][0])
        if z.ndim != 4 or W_O.shape[0] != n or z.shape[2:] != W_O.shape[:2]:
            raise UnsupportedModelError(
                f"in block {layer} attn.hook_z has shape {list(z.shape)}, not [batch, pos, head_index, "
                'd_head] of the heads that read: use by="mlp"'
            )
        W_O = W_O.to(z)
        b_O = None if b_O is None else b_O.to(z)
        output = _output(view, layer, z, W_O, b_O, kept[hook(layer, "hook_attn_out")])
    own, biases = ({x: both[i] for x, both in weights.items()} for i in range(2))
    return Attention(layer, before, norm, own, biases, W_O, b_O, output)


def _projection(view: ModelView, layer: int, name: str, shown: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and bias of queries, keys or values, of the heads that the hook shows."""
    attn = view.model.blocks[layer].attn
    try:
        W, b = getattr(attn, f"W_{name.upper()}"), getattr(attn, f"b_{name.upper()}", None)
    except (AttributeError, RuntimeError, ValueError, TypeError):
        W = b = None
    n = shown.shape[2] if shown.ndim == 4 else 0
    if not isinstance(W, Tensor) or W.ndim != 3 or not n or W.shape[0] % n:
        raise UnsupportedModelError(
            f"block {layer} has no W_{name.upper()} [head_index, d_model, d_head] for what "
            f"attn.hook_{name} shows, which an edge into a head needs: use components"
        )
    # A HookedTransformer repeats shared keys and values for each head that reads them.
    W = W.detach()[:: W.shape[0] // n].to(shown)
    if not isinstance(b, Tensor):
        return W, W.new_zeros(n, W.shape[2])
    b = b.detach().reshape(-1, W.shape[2]).to(shown)
    return W, b[:: max(1, len(b) // n)]


def _output(
    view: ModelView, layer: int, z: Tensor, W_O: Tensor, b_O: Tensor | None, write: Tensor
) -> Norm:
    o = torch.einsum("rphe,hem->rpm", z, W_O)
    o = o if b_O is None else o + b_O
    found = _best(view, layer, o, lambda norm: misses(norm(o), write))
    if found is not None:
        return found
    scaled = Identity(float((o * write).sum() / o.square().sum()))
    if misses(scaled(o), write) <= allowed(view):
        return scaled
    raise NonAdditiveError(
        f"in block {layer} heads do not add up to what is written into the residual stream, nor to a "
        'multiple or a norm of it: use by="mlp" on this architecture'
    )


def _mlp(view: ModelView, layer: int, kept: Kept) -> Mlp | None:
    if hook(layer, "hook_mlp_out") not in kept:
        return None
    name = next((hook(layer, n) for n in _MLP_INPUTS if hook(layer, n) in kept), None)
    before = kept[resid_site(layer, view.n_layers).label]
    streams = before + kept[hook(layer, "hook_attn_out")].to(before), before
    best: tuple[float, Norm | None, bool] = torch.inf, None, False
    if name is not None and kept[name].numel() == before.numel():
        x = kept[name].reshape(before.shape)
        for parallel, stream in enumerate(s.to(x) for s in streams):
            norm = _best(view, layer, stream, lambda n, s=stream: misses(n(s), x))
            if norm is not None:
                best = min(
                    best, (misses(norm(stream), x), norm, bool(parallel)), key=lambda b: b[0]
                )
    _, norm, parallel = best
    if name is None or norm is None:
        raise UnsupportedModelError(
            f"in block {layer} the MLP's input is not shown, or no norm of the stream (another "
            "architecture, or a hook of yours in between), which an edge into it needs: use components"
        )
    return Mlp(layer, resid_site(layer, view.n_layers).label, norm, parallel, Site(name, name))


def _best(view: ModelView, layer: int, x: Tensor, error: Callable[[Norm], float]) -> Norm | None:
    """The norm of a block, or none, of the least `error`; None where all have too large a one."""
    exact = torch.finfo(x.dtype).eps ** 0.75
    best, least = None, allowed(view)
    for norm in norms_of(view.model.blocks[layer], x):
        if (found := error(norm)) <= least:
            best, least = norm, found
        if least < exact:  # the rest cannot be it too
            break
    return best
