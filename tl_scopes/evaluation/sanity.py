"""Whether scores depend on what the model has learnt: cascading randomisation of its parameters.

Steps: maps of the intact model; random parameters from the last block on, in the model's place but not
in its memory (`randomised`); maps anew at each depth, compared by rank. Cost: the methods' own, once and
for each depth once more.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Union, get_args

import torch
from torch import Tensor, nn

from tl_scopes.adapter import guards, internals
from tl_scopes.adapter.prompts import Prompts
from tl_scopes.adapter.unembedding import working_dtype
from tl_scopes.adapter.view import ModelView, view_of
from tl_scopes.adapter.weights import substituted
from tl_scopes.baselines.random import generator
from tl_scopes.errors import (
    ScopeParameterError,
    UnsupportedModelError,
    check_choice,
    check_number,
    check_whole,
)
from tl_scopes.evaluation.maps import Maps
from tl_scopes.evaluation.methods import Methods, likeness, top_overlap

if TYPE_CHECKING:
    import pandas as pd

How = Literal["normal", "shuffle", "initial"]
Depth = Union[int, float]

# What `initializer_range` is where a model's config does not say.
_INITIAL = 0.02
# A bridge whose weights were processed computes with plain tensors beside its parameters.
_PROCESSED = "_processed_"


def randomisation(
    model: Any,
    prompts: Prompts,
    methods: Methods,
    *,
    depths: Sequence[Depth] | None = None,
    how: How = "normal",
    seed: int = 0,
    position: int = -1,
    prepend_bos: bool | None = None,
    continuations: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """How similar each method's scores stay when the model's last blocks are made random.

    At depth d the last d blocks hold random parameters; those of depth d + 1 hold the same ones and
    one block more. Embeddings, final norm and unembedding stay. A map that shows what the model has
    learnt becomes another one; a map whose similarity stays at 1 shows its input alone. A method
    that explains the model's top prediction goes on explaining what the intact model predicts.

    Args:
        model: a HookedTransformer or TransformerBridge. Its weights stay as they are: random ones
            stand for them in this thread alone. Other threads' calls of this package on the model
            wait meanwhile; other passes of theirs do not notice.
        prompts: texts, or lists of token ids.
        methods: scopes and methods, in a list or in a dict by label.
        depths: numbers of blocks, from 1 to n_layers, or shares of them as floats (0.25 randomises
            the blocks from floor(0.75 n_layers) on); None: every number.
        how: what replaces a parameter. "normal": draws with its own mean and standard deviation, so
            that one whose entries are all equal, such as the gain of a fresh norm, stays. "shuffle": its
            own entries in another order. "initial": what a new model starts from and what the paper's
            authors use: matrices of standard deviation `initializer_range` (0.02 where the config does
            not say), biases 0, norms without effect.
        seed: of the draws; a parameter's depend on it, its block and its name alone.
        position, prepend_bos: as in `attribute_batch`.
        continuations: what follows each prompt, as in `measure`.

    Returns:
        Rows of `index` (of the prompt), `method` (label), `depth` (blocks randomised), `blocks` (which:
        "28-29"), `similarity` (Spearman's rank correlation with the intact model's scores over the tokens
        up to the read, BOS left out; 1 where both maps are constant, 0 where one is, NaN for a single
        token) and `overlap` (Jaccard index of the highest tenth of the tokens).

    Raises:
        ScopeParameterError: for depths, how, seed or methods.
        NumericalError: where random weights overflow, as they may in float16.
        ScopesError: as `attribute`.

    Examples:
        >>> frame = evaluation.randomisation(model, prompts, [ts.SemanticScope()], depths=[0.5, 1.0])
        >>> frame.groupby("depth")["similarity"].mean()

    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, "Sanity Checks for Saliency Maps",
    arXiv 1810.03292 (cascading randomisation).
    """
    import pandas as pd

    _check_draws(how, seed)
    view = view_of(model)
    counts = parse_depths(depths, view.n_layers)
    maps = Maps(model, prompts, methods, position, prepend_bos, continuations)
    intact, last = maps.now(), view.n_layers - 1
    altered = {}
    with randomised(view, (), seed, how) as randomise:
        for depth in counts:
            randomise(range(last, last - depth, -1))
            altered[depth] = maps.now()
    rows = []
    for index, of_prompt in intact.items():
        for place, (label, a) in enumerate(zip(maps.methods, of_prompt)):
            for depth in counts:
                b = altered[depth][index][place]
                blocks = str(last) if depth == 1 else f"{last - depth + 1}-{last}"
                rows.append((index, label, depth, blocks, likeness(a, b), top_overlap(a, b)))
    columns = ["index", "method", "depth", "blocks", "similarity", "overlap"]
    return pd.DataFrame(rows, columns=columns)


@contextmanager
def randomised(
    view: ModelView, blocks: Iterable[int], seed: int = 0, how: How = "normal"
) -> Iterator[Callable[[Iterable[int]], None]]:
    """The model with random parameters in `blocks`; calling what this yields randomises further ones.

    They stand for the model's own in this thread alone. A parameter that blocks share with each
    other is randomised once, one that they share with the embedding or the unembedding never;
    buffers stay. Arguments as of `randomisation`. Raises `ScopeParameterError`.
    """
    _check_draws(how, seed)
    owned = _Owned(view)
    drawn: set[int] = set()
    with substituted(view) as substitution:

        def randomise(further: Iterable[int]) -> None:
            for block in further:
                for name, holder, tensor in owned.of(block):
                    if id(tensor) not in drawn:
                        drawn.add(id(tensor))
                        source = generator(seed, block, name)
                        learnt = tensor.detach()
                        fresh = _drawn(learnt, how, source, name, holder, owned.initial)
                        substitution.replace(tensor, fresh)

        randomise(blocks)
        yield randomise


class _Owned:
    """Which tensors belong to which block of a model and to nothing else."""

    def __init__(self, view: ModelView) -> None:
        self.blocks = [view.model.blocks[i] for i in range(view.n_layers)]
        inside = {id(m) for block in self.blocks for m in guards.every_module(block)}
        outside = [m for m in view.every_module() if id(m) not in inside]
        self.kept = {id(p) for p in guards.every_parameter(outside)}
        config = getattr(getattr(view.model, "original_model", None), "config", view.cfg)
        initial = getattr(config, "initializer_range", None)
        self.initial = float(initial) if initial and initial > 0 else _INITIAL

    def of(self, block: int) -> Iterator[tuple[str, nn.Module, Tensor]]:
        if not 0 <= block < len(self.blocks):
            raise ScopeParameterError(
                f"block {block!r} does not exist: the model has {len(self.blocks)}, from 0"
            )
        for path, module in self.blocks[block].named_modules():
            plain = {k: v for k, v in vars(module).items() if k.startswith(_PROCESSED)}
            for name, tensor in (internals.parameters(module) | plain).items():
                floating = isinstance(tensor, Tensor) and tensor.is_floating_point()
                if floating and id(tensor) not in self.kept:
                    yield f"{path}.{name}", module, tensor


def _drawn(
    data: Tensor, how: How, source: torch.Generator, name: str, holder: nn.Module, initial: float
) -> Tensor:
    """What replaces `data`, drawn on the CPU so that it is the same on every device."""
    fresh = torch.empty_like(data)
    if how == "shuffle":
        order = torch.randperm(data.numel(), generator=source, device="cpu")
        return fresh.copy_(data.flatten()[order.to(data.device)].reshape(data.shape))
    precise = working_dtype(data.dtype)
    if how == "initial" and _is_gain(holder, name):
        return fresh.fill_(0.0 if _adds_one(holder, data) else 1.0)
    if how == "initial" and _is_bias(name):
        return fresh.zero_()
    noise = torch.randn(data.shape, generator=source, dtype=precise, device="cpu").to(data.device)
    if how == "initial":
        return fresh.copy_(noise * initial)
    learnt = data.to(precise)
    return fresh.copy_(learnt.mean() + learnt.std(correction=0) * noise)


def _is_gain(holder: nn.Module, name: str) -> bool:
    return "Norm" in type(holder).__name__ and not _is_bias(name)


def _adds_one(norm: nn.Module, gain: Tensor) -> bool:
    """Whether a norm multiplies by 1 + weight, as Gemma's does: it gives something for a weight of 0."""
    if type(norm).__module__.startswith("transformer_lens"):  # with hooks inside, which would fire
        return False
    twin = copy.copy(norm)
    parameters = internals.parameters(norm).items()
    zeros = {k: p if p is None else torch.zeros_like(p) for k, p in parameters}
    internals.give(twin, parameters=zeros)
    x = torch.arange(gain.numel(), dtype=gain.dtype, device=gain.device).reshape(1, 1, *gain.shape)
    try:
        with torch.no_grad():
            return bool(twin.forward(x).any())
    except TypeError:  # one that takes more than the stream
        return False


def _is_bias(name: str) -> bool:
    last = name.rpartition(".")[2].removeprefix(_PROCESSED).lstrip("_")
    return last in ("b", "bias") or last.startswith("b_") or last.endswith("_bias")


def _check_draws(how: Any, seed: Any) -> None:
    check_whole("seed", seed, 0)
    check_choice("how", how, get_args(How))


def parse_depths(depths: Sequence[Depth] | None, n_layers: int) -> list[int]:
    """Numbers of blocks, ascending."""
    if not n_layers:
        raise UnsupportedModelError("the model has no blocks, so there is nothing to randomise")
    if depths is None:
        return list(range(1, n_layers + 1))
    listed = list(depths) if isinstance(depths, Iterable) else [depths]
    counts = set()
    for depth in listed:
        check_number(
            "depth",
            depth,
            lambda d: 1 <= d <= n_layers if isinstance(d, int) else 0 < d <= 1,
            f"a number of blocks, 1 to {n_layers}, or a share of them as a float in (0, 1]",
        )
        if isinstance(depth, float):
            depth = n_layers - math.floor((1 - depth) * n_layers + 1e-9)
        counts.add(depth)
    if not counts:
        raise ScopeParameterError("depths is empty: give at least one, or None for all")
    return sorted(counts)
