"""What a token, or another activation, is replaced by."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.prompts import bos_id
from tl_scopes.adapter.sites import Site
from tl_scopes.adapter.unembedding import widest_dtype, working_dtype
from tl_scopes.errors import ScopeParameterError, check_choice
from tl_scopes.jacobian.forward import read_under, refuse_nonfinite
from tl_scopes.jacobian.prompt_run import PromptRun

Replacement = Literal["zero", "pad", "bos", "mean", "hide", "likely"]
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)
# Tokens of the vocabulary that are embedded at once for their mean: 40 MiB at d_model 640.
_EMBEDDED_AT_ONCE = 16384
# Places whose predictions are held at once: 16 of 262,144 tokens are 32 MiB in float64.
_PLACES = 16
# Draws that share the predictions.
_DRAWS = 8


def replacement(prompt_run: PromptRun, site: Site, kind: str) -> Tensor:
    """What an activation at `site` is replaced by, as the hook there shows it: [] or [..., d].

    "zero"; at the embedding also "pad" and "bos", the embeddings of the tokenizer's tokens, and
    "mean", that of the whole vocabulary; at other sites "mean" is over the prompt's own positions, BOS
    left out. Raises `ScopeParameterError`.
    """
    check_choice("replacement", kind, REPLACEMENTS)
    key = ("replacement", site.label, kind)
    if key not in prompt_run.remembered:
        prompt_run.remembered[key] = _replacement(prompt_run, site, kind)
    return prompt_run.remembered[key]


def _replacement(prompt_run: PromptRun, site: Site, kind: str) -> Tensor:
    view = prompt_run.view
    if kind == "zero":
        return torch.zeros((), device=view.device)
    if kind == "mean" and not site.is_embed:
        x = prompt_run.activation(site)[0]
        return x[prompt_run.first : prompt_run.position + 1].mean(0)
    if not site.is_embed:
        _refuse_embedding(kind, site)
    if kind == "mean":
        return _mean_embedding(prompt_run)
    name = f"{kind}_token_id"
    token = getattr(getattr(view.model, "tokenizer", None), name, None)
    if kind == "bos":
        token = bos_id(view)
    if token is None or not 0 <= int(token) < int(view.cfg.d_vocab):
        raise ScopeParameterError(
            f"{kind!r} needs the embedding of the tokenizer's {name}, which is {token}: use "
            '"zero" or "mean"'
        )
    return prompt_run.embedded(torch.tensor([[int(token)]], device="cpu"))[0, 0]


def _refuse_embedding(kind: str, site: Site) -> None:
    raise ScopeParameterError(
        f'{kind!r} is the embedding of a token, so it replaces at the site "embed" only, not at '
        f'{site.label!r}: use "zero" or "mean" there'
    )


def _mean_embedding(prompt_run: PromptRun) -> Float[Tensor, "d_model"]:
    """Over the vocabulary."""
    view = prompt_run.view
    d_vocab = int(view.cfg.d_vocab)
    width = min(view.n_ctx or 1024, 1024)
    # Hooks of the user's may be made for one row.
    rows = 1 if prompt_run.hooked else max(1, _EMBEDDED_AT_ONCE // width)
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for ids in torch.arange(d_vocab, device="cpu").split(rows * width):
        whole = ids[: len(ids) // width * width].view(-1, width)
        for part in (whole, ids[whole.numel() :][None]):
            if part.numel():
                total = total + prompt_run.embedded(part).sum((0, 1), dtype=torch.float64).cpu()
    return (total / d_vocab).to(view.device, working_dtype(view.dtype))


def likely(prompt_run: PromptRun, site: Site, seed: int, draw: int) -> Float[Tensor, "pos d_model"]:
    """The embeddings, as the hook shows them, of tokens that the model itself expects in the places of the
    prompt's. Raises `ScopeParameterError` elsewhere than at the embedding."""
    if not site.is_embed:
        _refuse_embedding("likely", site)
    block, row = divmod(draw, _DRAWS)
    key = ("likely", seed, block)
    if key not in prompt_run.remembered:
        rows = likely_tokens(prompt_run, seed, block).split(1 if prompt_run.hooked else _DRAWS)
        prompt_run.remembered[key] = torch.cat([prompt_run.embedded(ids) for ids in rows])
    return prompt_run.remembered[key][row]


def likely_tokens(prompt_run: PromptRun, seed: int, block: int = 0) -> Int[Tensor, "draw pos"]:
    """Eight draws of a token for each place, by what the model predicts there from the intact tokens before.

    The first token stays, since nothing predicts it, and so does BOS. Each token is the quantile of one
    uniform number, which the seed, the draw and the prompt's length alone decide. Inside
    `prompt_run.locked()`. Raises `NumericalError`.
    """
    ids = torch.tensor([prompt_run.run] * _DRAWS, device="cpu")
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (block + 1, *ids.shape)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")[block]
    with torch.no_grad():
        (states,) = read_under(prompt_run.view, prompt_run.tokens(1), {})
        head, before = prompt_run.view.unembedding(), states[:-1]
        for start in range(0, len(before), _PLACES):
            y = before[start : start + _PLACES]
            logits = head.logits(head.raw_logits(y)).to(widest_dtype(y.device))
            if not torch.isfinite(logits).all():
                refuse_nonfinite(prompt_run.view, prompt_run.tokens(1), "the logits")
            below = logits.softmax(-1).cumsum(-1)
            places = slice(start + 1, start + 1 + len(y))
            # Of what the sum comes to, which rounding may leave short of one.
            u = uniform[:, places].T.to(below) * below[:, -1:]
            drawn = torch.searchsorted(below, u.contiguous(), right=True)
            ids[:, places] = drawn.clamp_max(below.shape[1] - 1).T.cpu()
    return ids
