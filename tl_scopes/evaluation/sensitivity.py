"""How far scores move when the input embeddings are moved a little.

Steps: maps without noise; noise of a share of each embedding's norm, in a random direction; maps anew
for each draw. Cost: the methods' own, once and for each draw once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_scopes.adapter.prompts import Prompts, bos_id
from tl_scopes.adapter.sites import embed_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.baselines.random import generator
from tl_scopes.errors import check_number, check_whole
from tl_scopes.evaluation.maps import Maps
from tl_scopes.evaluation.methods import Methods, likeness
from tl_scopes.jacobian.forward import activations

if TYPE_CHECKING:
    import pandas as pd


def input_stability(
    model: Any,
    prompts: Prompts,
    methods: Methods,
    *,
    scale: float = 0.05,
    draws: int = 4,
    seed: int = 0,
    position: int = -1,
    prepend_bos: bool | None = None,
    continuations: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """How far each method's scores move when noise is added to the token embeddings.

    Each draw adds to every token's embedding a random vector of `scale` times that embedding's norm,
    in a direction drawn from a normal distribution. BOS, with which every prompt begins, is left as
    it is, and left out of the comparison. A method that explains the model's top prediction goes on
    explaining the token that was predicted without noise.

    Args:
        model: a HookedTransformer or TransformerBridge.
        prompts: texts, or lists of token ids.
        methods: scopes and methods, in a list or in a dict by label.
        scale: norm of the noise as a share of each embedding's.
        draws: how many times noise is drawn.
        seed: of the noise, which depends on it, the draw and the prompt's ids alone.
        position, prepend_bos: as in `attribute_batch`.
        continuations: what follows each prompt, as in `measure`.

    Returns:
        Rows of `index` (of the prompt), `method` (label), `draw` (from 0), `scale`, `spearman` (rank
        correlation of the scores with and without noise over the tokens up to the read; NaN for a
        single token) and `change` (`max |a - b| / max |a|`, a without noise). The largest `change` over
        the draws is max-sensitivity as `captum.metrics.sensitivity_max` estimates it, with
        `norm_ord=inf` and noise on a sphere around each token's embedding instead of captum's uniform
        box around all of them.

    Raises:
        ScopeParameterError: for scale, draws, seed or methods.
        ScopesError: as `attribute`.

    Examples:
        >>> frame = evaluation.input_stability(model, prompts, [ts.SemanticScope()], scale=0.02)
        >>> frame.groupby("method")["spearman"].mean()

    Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, "On the (In)fidelity and Sensitivity of
    Explanations", arXiv 1901.09392.
    """
    import pandas as pd

    check_whole("draws", draws, 1)
    check_whole("seed", seed, 0)
    check_number(
        "scale",
        scale,
        lambda x: 0 < x < math.inf,
        "a positive number, the noise's share of each embedding's norm",
    )
    maps = Maps(model, prompts, methods, position, prepend_bos, continuations)
    rows = []
    for index, ids in enumerate(maps.prompts):
        still, moved = maps.now(index)[index], []
        for draw in range(draws):
            with _noisy(maps.view, _noise(maps.view, ids, scale, seed, draw)):
                moved.append(maps.now(index)[index])
        for place, label in enumerate(maps.methods):
            for draw in range(draws):
                a, b = still[place], moved[draw][place]
                rows.append((index, label, draw, scale, likeness(a, b), _change(a, b)))
    columns = ["index", "method", "draw", "scale", "spearman", "change"]
    return pd.DataFrame(rows, columns=columns)


def _change(a: Float[Tensor, "pos"], b: Float[Tensor, "pos"]) -> float:
    difference, largest = float((a - b).abs().max()), float(a.abs().max())
    if largest:
        return difference / largest
    return math.inf if difference else 0.0


def _noise(
    view: ModelView, ids: list[int], scale: float, seed: int, draw: int
) -> Float[Tensor, "pos d_model"]:
    with view.locked():
        tokens = torch.tensor([ids], device=view.device)
        clean = activations(view, tokens, [embed_site()])["embed"][0]
    norms = torch.linalg.vector_norm(clean.cpu().double(), dim=-1, keepdim=True)
    drawn = torch.randn(
        clean.shape, generator=generator(seed, draw, ids), dtype=torch.float64, device="cpu"
    )
    noise = scale * norms * drawn / torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)
    if ids[0] == bos_id(view):
        noise[0] = 0
    return noise.to(clean)


@contextmanager
def _noisy(view: ModelView, noise: Float[Tensor, "pos d_model"]) -> Iterator[None]:
    """`noise` on the embeddings of this thread's forward passes, below whatever taps come later."""

    def add(activation: Tensor) -> Tensor:
        # A pass may end before the prompt does, or be a longer one of another prompt.
        shared = noise[: activation.shape[1]]
        rest = activation.shape[1] - len(shared)
        return activation + torch.nn.functional.pad(shared, (0, 0, 0, rest))

    # Not a stack of the view's own, which the end of every locked() inside would close.
    undo = ExitStack()
    with view.lock:
        try:
            try:
                view.tap(undo, embed_site(), add)
                yield
            finally:
                undo.close()
        finally:
            undo.close()  # once more, should Ctrl-C have struck meanwhile
