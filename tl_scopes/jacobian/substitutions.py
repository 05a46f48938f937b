"""Which other tokens would change the prediction most, from one backward pass, and what they really change.

Formula: token t' in the place of token t moves what a vector v explains by `v^T J_t (E[t'] - E[t])` to first
order, where E is what the model writes at the embedding. Of several vectors the squares add up, each times
its weight.

Steps: one forward and one backward pass a vector, as in `attribute`, with the gradients at the embedding kept;
their products with E, a chunk of the vocabulary at a time; on request real forward passes of what is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union

import torch
from torch import Tensor

from tl_scopes.adapter.prompts import Mask, Prompt, encode, resolve_position, resolve_token
from tl_scopes.adapter.sites import embed_site
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.errors import (
    PositionError,
    ScopeParameterError,
    TargetError,
    check_choice,
    check_whole,
)
from tl_scopes.jacobian.answers import Limits, run
from tl_scopes.jacobian.likely import (
    N_LIKELY,
    Kept,
    check_places,
)
from tl_scopes.jacobian.prompt_run import PromptRun, check_scopes
from tl_scopes.jacobian.swaps import Swaps
from tl_scopes.results.records import effect_units
from tl_scopes.results.substitutions import Substitutions
from tl_scopes.scopes.base import Scope, check_is_scope

Among = Union[Literal["likely", "all"], Sequence[Union[int, str]], Tensor]


def substitutions(
    model: Any,
    prompt: Prompt,
    scope: Scope,
    at: int | Sequence[int] | None = None,
    *,
    k: int = 10,
    among: Among = "likely",
    n_likely: int = N_LIKELY,
    verified: bool = False,
    position: int = -1,
    prepend_bos: bool | None = None,
    attention_mask: Mask | None = None,
    chunk_size: int | None = None,
    checkpoint_blocks: bool | None = None,
) -> Substitutions:
    """Which other tokens, in the place of one of the prompt's, would move what `scope` explains most.

    To first order: the gradient at the embedding times the change of the embedding. A score of `attribute`
    asks about every direction of the embedding; a text can only change to other tokens.

    Args:
        model, prompt, scope, position, prepend_bos, attention_mask, chunk_size, checkpoint_blocks: as in
            `attribute`. The target is that of the prompt as it is. The tokens of a `ContinuationScope` may
            be replaced too, as what the later ones are read after; what is explained of them stays.
        at: the tokens to replace, one at a time: a position, or several; None for all after BOS, up to
            the read position.
        k: how many substitutions are listed up, and how many down.
        among: the other tokens: `"likely"`, those that the model itself holds likeliest in that place, the
            token's own aside (the first token has none); `"all"` of the vocabulary, at the price of one
            product with the embedding matrix; or ids, or texts that are one token each.
        n_likely: how many are likely.
        verified: also run the model on each text that is listed, and say what really changed: `measured`
            beside each effect (for Fisher the quadratic form of the change of y, in nats), and over all
            `rank_agreement` and `sign_agreement`.

    Returns:
        `Substitutions`, effects in the unit of what is explained (logit, nats): signed, or for several vectors
        (Fisher) the sum of weighted squares.

    Raises:
        PositionError: for a position beyond the read, or the first token among likely ones.
        TargetError: for an id or a text that is no token.
        UnsupportedModelError: where hooks of yours make embeddings depend on the position.
        ScopesError: as `attribute`.

    Source: first-order substitution scores, as in HotFlip (Ebrahimi et al., arXiv 1712.06751).

        >>> found = substitutions(model, "The capital of France is", SemanticScope(" Paris"), at=4)
        >>> found.up[0][0].text, found.down[0][0].effect
    """
    view = view_of(model)
    limits = Limits(chunk_size, checkpoint_blocks)
    ids = encode(view, prompt, prepend_bos, attention_mask)
    check_whole("k", k, 1)
    check_whole("n_likely", n_likely, 1)
    check_choice("verified", verified, (True, False))
    named = _named(view, among)
    check_is_scope(scope)
    one = PromptRun.explaining(view, ids, scope, position, view.is_hooked())
    check_scopes(view, [scope])
    places = _places(one, at, likely=named is None)
    kept: list[Kept] = []

    def keep(*given: Any) -> Kept:
        kept.append(Kept(places, n_likely if named is None else None, *given))
        return kept[0]

    ((answer,),) = run([one], (embed_site(),), limits, keep)
    whole = answer.attribution(view, one.shown)
    change = Swaps(one, answer, kept[0], k)
    with one.locked(gradients=False), torch.no_grad():
        check_places(one, one.tokens(1))
        listed = change.among_likely() if named is None else change.among(named)
        if verified:
            listed = change.verified(listed)
    return Substitutions(
        positions=tuple(places),
        up=tuple(up for up, _ in listed),
        down=tuple(down for _, down in listed),
        among=among if isinstance(among, str) else "ids",  # pyright: ignore[reportArgumentType]
        signed=change.signed,
        tokens=whole.tokens,
        str_tokens=whole.str_tokens,
        has_bos=whole.has_bos,
        position=whole.position,
        scope=whole.scope,
        target=whole.target,
        units=effect_units(whole.units),
        prediction=whole.prediction,
        fisher=whole.fisher,
        provenance=whole.provenance,
        continuation=whole.continuation,
        chat=whole.chat,
    )


def _named(view: ModelView, among: Any) -> list[int] | None:
    """The ids that `among` names, each once; None: likely ones. Raises `TargetError` or
    `ScopeParameterError`."""
    d_vocab = int(view.cfg.d_vocab)
    if isinstance(among, str):
        check_choice("among", among, ("likely", "all"), hint=", or a list of token ids or texts")
        return None if among == "likely" else list(range(d_vocab))
    each = among.flatten().tolist() if isinstance(among, Tensor) else among
    if not isinstance(each, (list, tuple, range)) or not each:
        raise ScopeParameterError(
            f'among is {among!r}; allowed: "likely", "all", or a list of token ids or texts'
        )
    ids = [t if type(t) is int else resolve_token(view, t).id for t in each]
    wrong = next((i for i in ids if not 0 <= i < d_vocab), None)
    if wrong is not None:
        raise TargetError(f"among holds {wrong}, outside the vocabulary, 0 to {d_vocab - 1}")
    return list(dict.fromkeys(ids))


def _places(one: PromptRun, at: Any, likely: bool) -> list[int]:
    """Positions from 0, each once. Raises `PositionError`."""
    last = one.position if one.shared is None else one.shared - 1
    if at is None:
        every = list(range(max(one.first, int(likely)), last + 1))
        if not every:
            raise PositionError(
                "the prompt has one token, which nothing predicts, so that none is likely in its place: give "
                'among="all", or a longer prompt'
            )
        return every
    if isinstance(at, str) or not (hasattr(at, "__index__") or isinstance(at, Iterable)):
        raise PositionError(
            f"at is {at!r}; allowed: a position, a list of positions, or None for all"
        )
    each = [at] if hasattr(at, "__index__") else list(at)
    places = list(dict.fromkeys(resolve_position(t, one.shown) for t in each))
    if not places:
        raise PositionError("at is empty: give positions, or None for all")
    if max(places) > last:
        raise PositionError(
            f"token {max(places)} comes after the last read, at {last}, and cannot matter: give one up to there"
        )
    if likely and 0 in places:
        raise PositionError(
            'nothing predicts the first token, so that none is likely in its place: give among="all", or '
            "other positions"
        )
    return places
