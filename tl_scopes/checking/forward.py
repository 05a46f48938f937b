"""What a forward pass must be: the Hugging Face model's, causal, and ended by the unembedding as it is known."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter import guards
from tl_scopes.adapter.last_step import verify, verify_head
from tl_scopes.adapter.prompts import bos_id, encode
from tl_scopes.adapter.sites import embed_site
from tl_scopes.checking.finding import Finding, held, skipped
from tl_scopes.checking.subject import TEXT, Subject, or_float32
from tl_scopes.errors import ScopesWarning, UnsupportedModelError
from tl_scopes.jacobian import causality, original
from tl_scopes.jacobian.forward import Stop, forward_to_stop
from tl_scopes.models.folder import disagreement
from tl_scopes.render.colours import number
from tl_scopes.scopes.prediction import FisherScope, SemanticScope

# Characters of text whose BOS is looked at: no more than the shortest context has tokens.
_FEW = 22
_GIVE = "give the Hugging Face model as original=, or check the model by its name or folder"


def weights(at: Subject) -> Finding:
    """Whether weights are raw, for every scope."""
    processing = guards.processing(at.model)
    for scope in (FisherScope(rank=1), SemanticScope()):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ScopesWarning)
            try:
                guards.check_scope(at.model, scope)
            except ScopesWarning as warned:
                raise UnsupportedModelError(str(warned)) from None
    return Finding("", "passed", processing.description, "raw")


def bos(at: Subject) -> Finding:
    """Whether text gets BOS once at most, and for the rest the ids that its tokenizer gives."""
    tokenizer = getattr(at.model, "tokenizer", None)
    if tokenizer is None:
        return skipped("the model has no tokenizer", "give token ids instead of text")
    bos = bos_id(at.view)
    text = TEXT[:_FEW]
    ids = list(encode(at.view, text, None))
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    begins = bos is not None and ids[0] == bos
    measured = f"{tokenizer.bos_token!r} once, in front" if begins else "none is put in front"
    theirs = tokenizer(text)["input_ids"]
    if theirs != ids:
        puts = "puts none" if theirs == bare else "puts one" if theirs[0] == bos else "adds others"
        measured += f"; its tokenizer alone {puts}"
    if ids[begins:] != bare:
        raise UnsupportedModelError(
            f"the text becomes other ids than its tokenizer gives ({ids[:6]}... and {bare[:6]}...): "
            "give token ids instead of text, or prepend_bos=False"
        )
    return Finding("", "passed", measured, "once at most")


def logits(at: Subject) -> Finding:
    """Whether log-probabilities are the Hugging Face model's, or a bridge's those of what it wraps."""
    off, whose = None, "the model that the bridge wraps"
    if at.view.is_bridge:
        with at.view.locked():
            off = original.apart(at.view, at.tokens)
        original.refuse(at.view, off)
    if at.original is not None:
        whose = "Hugging Face's"
        with torch.no_grad():
            off = disagreement(_pass(at, at.original).logits, at.view.forward(at.tokens))
    if off is None:
        return skipped("there is no Hugging Face model to compare with", _GIVE)
    return held(
        off,
        original.allowed(at.view.dtype),
        f"log-probabilities are {whose}, to {number(off)} of their spread",
        f"another backend{or_float32(at.view.dtype)}, or another version of transformer-lens; hooks of "
        "yours may be why",
    )


def causal(at: Subject) -> Finding:
    """Whether tokens leave what is before them alone."""
    alone = at.view.is_hooked()
    with at.view.locked():
        change = causality.lookahead(at.view, at.tokens, alone)
        if change is None:
            return skipped("a pass gives NaN, or the prompt has one token", "give a longer prompt")
        causality.refuse(at.view, change)
    measured = f"other tokens change earlier final states by {number(change[0])} of their size"
    return held(change[0], at.tolerance, measured, "")


def last_step(at: Subject) -> Finding:
    """Whether the final state and the unembedding, as the package reads it, give the logits."""
    states: list[Tensor] = []
    with torch.no_grad(), at.view.taps() as undo:
        at.view.tap_final(undo, lambda y: (states.append(y), y)[1])
        got = at.view.forward(at.tokens)[0]
        head = at.view.unembedding()
        error, allowed = verify_head(at.view, got, head.logits(head.raw_logits(states[-1][0])))
    measured = f"y W_U + b_U gives the logits to {number(error)} of the largest"
    return held(error, allowed, measured, "")


def embedding(at: Subject) -> Finding:
    """Whether the stream that the first block gets is the Hugging Face model's, and the constant by which
    the embedding's is multiplied the one that scores at `embed` are divided by."""
    view = at.view
    if not view.n_layers:
        return skipped("the model has no blocks", "")
    verify(view, at.tokens)
    # Positions that are added fall out of the difference of two prompts.
    pairs = [_embedded(at, tokens) for tokens in (at.tokens, at.tokens.flip(1))]
    (a, stream), (b, other) = pairs
    change, told = (stream - other).flatten(), view.embed_scale * (a - b).flatten()
    theirs = at.original
    if theirs is None and view.is_bridge:
        theirs = original.untouched(at.model.original_model)
    if theirs is not None:
        try:
            outputs = _pass(at, theirs, output_hidden_states=True)
            wanted = outputs.hidden_states[0][0].cpu().double()
        except (AttributeError, TypeError, IndexError):  # a model that tells none
            wanted, theirs = stream, None
        if wanted.shape == stream.shape and wanted.any():
            ratio = float((stream * wanted).sum() / wanted.square().sum())
            off = _apart(wanted, stream)
            measured = f"the first block gets {number(ratio)} of Hugging Face's"
            if off > at.tolerance:
                return held(off, at.tolerance, measured, _SCALE)
    norms = torch.linalg.vector_norm
    off = float(norms(change - told) / norms(change).clamp_min(1e-300))
    scale = float((change * told).sum() / told.square().sum().clamp_min(1e-300))
    if float(norms(change - scale * told)) > max(1e-2, at.tolerance) * float(norms(change)):
        return Finding("", "passed", "no constant: a norm follows the embedding, or the like")
    measured = f"the embedding times {number(view.embed_scale)} goes into the stream"
    if theirs is None:
        measured += " (not held against Hugging Face's)"
    return held(off, max(1e-2, at.tolerance), measured, _SCALE)


_SCALE = (
    "scores at embed would be off by that factor, and the model is another one than was trained: remove "
    "hooks on the embedding, or load the model again"
)


def _pass(at: Subject, theirs: Any, **options: Any) -> Any:
    device = next(iter(theirs.parameters())).device
    with torch.no_grad():
        return theirs(at.tokens.to(device), use_cache=False, **options)


def _embedded(at: Subject, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the embedding gives, and what enters the first block, [pos, d_model]."""
    activations: dict[str, Tensor] = {}

    def keep(name: str, a: Tensor) -> Tensor:
        activations[name] = a[0].detach().cpu().double()
        return a

    def end(a: Tensor) -> Tensor:
        keep("stream", a)
        raise Stop

    with torch.no_grad(), at.view.taps() as undo:
        at.view.tap(undo, embed_site(), lambda a: keep("embed", a))
        at.view.tap_stream(undo, end)
        forward_to_stop(at.view, tokens)
    return activations["embed"], activations["stream"]


def _apart(a: Float[Tensor, "pos d"], b: Float[Tensor, "pos d"]) -> float:
    """The largest difference at a position over its largest entry."""
    scale = torch.maximum(a.abs(), b.abs()).amax(-1).clamp_min(1e-300)
    return float(((a - b).abs().amax(-1) / scale).max())
