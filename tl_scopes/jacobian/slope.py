"""Whether the gradient that autograd gives is the slope of what the model computes, by finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_scopes.adapter.sites import Site, embed_site
from tl_scopes.adapter.view import ModelView
from tl_scopes.errors import TrainingModeError, UnsupportedModelError
from tl_scopes.jacobian import causality
from tl_scopes.jacobian.culprits import culprit, hooks_named, rooted
from tl_scopes.jacobian.forward import read_under

# So many tokens are nudged at most. A model that was tested on fewer than _ENOUGH is tested again when a
# longer prompt comes.
_TOKENS, _ENOUGH = 16, 8
# Random directions beside the gradient's own, which sees nothing where the gradient is zero.
_DIRECTIONS = 3
# How many sets of circumstances are remembered (hooks on and off, a rerun in double).
_REMEMBERED = 8


@dataclass(frozen=True)
class _Allowance:
    """Sizes of a nudge, over the embedding's own, in the order tried; what it may be off by.

    `gradient`: along the gradient, `random`: along random directions. Honest models (40 tiny ones, the
    two bundled ones on ten prompts) are off by 1e-2 in float32 and float64, by 0.3 at most in half
    precision. A step at which a ReLU or a router switches makes the next size necessary.
    """

    gradient_steps: tuple[float, ...]
    random_steps: tuple[float, ...]
    gradient: float
    random: float
    repeated: float

    def same(self, y: Tensor, other: Tensor) -> bool:
        """Whether two passes over the same tokens gave the same final state, to rounding."""
        difference = torch.linalg.vector_norm(y - other)
        return bool(difference <= self.repeated * torch.linalg.vector_norm(other))


_PRECISE = _Allowance((3e-4, 1e-4, 1e-2), (1e-3, 1e-4, 1e-2), 0.1, 0.1, 1e-3)
_HALF = _Allowance((), (0.2, 0.1), 0.0, 0.45, 0.25)
# In half precision: a change of the final state below this many of its roundings tells nothing.
_ROUNDINGS = 4
# Two passes over the same tokens that differ by more than this share of what nudges change are random.
_UNSTEADY = 0.1


@dataclass(frozen=True)
class _Slopes:
    """Of <v, y> along some directions: as nudges of one size measured them, and as the gradient has it.

    `usual`: what the size of the gradient lets expect, should both happen to be small. Differences
    below `floor` are rounding.
    """

    measured: Float[Tensor, "direction"]
    promised: Float[Tensor, "direction"]
    usual: float
    floor: float

    @property
    def off(self) -> float:
        """By how much they differ, over the larger one."""
        largest = max(_rms(self.measured), _rms(self.promised), self.usual)
        beyond = max(0.0, _rms(self.measured - self.promised) - self.floor)
        return beyond / largest if largest > 0 else 0.0

    def is_like(self, *others: _Slopes) -> bool:
        """Whether nudges of another size measured the same, so that the gradient is to blame: not
        a ReLU or a router that switched on the way, nor rounding inside the model."""
        missed = _rms(self.measured - self.promised)
        return any(_rms(self.measured - o.measured) <= missed / 4 for o in others)


def refuse_another(view: ModelView, tokens: Int[Tensor, "1 pos"], whole: bool) -> None:
    """On a model's first use, and under new circumstances: nudge the embedding, compare slopes.

    `tokens`: ids of a prompt; only the first few are run, unless `whole` (hooks may count on all).
    Inside `view.locked()`; nothing is asked where gradients are off. Raises `UnsupportedModelError`
    that names what cuts or changes the gradient, or `TrainingModeError`.
    """
    if not torch.is_grad_enabled():
        return
    length = tokens.shape[1] if whole else min(tokens.shape[1], _TOKENS)
    circumstances = view.circumstances()
    known = next((n for facts, n in view.followed if facts == circumstances), 0)
    if known >= min(length, _ENOUGH):
        return
    told = _measure(view, tokens[:, :length], whole, embed_site())
    causality.refuse(view, causality.lookahead(view, tokens[:, :length], alone=whole))
    if told is not None:
        # A bridge wires its modules in its first pass: found under what it was before.
        rest = [entry for entry in view.followed if entry[0] != circumstances]
        view.followed = [*rest[1 - _REMEMBERED :], (circumstances, length)]


def deviation(
    view: ModelView, tokens: Int[Tensor, "1 pos"], site: Site, whole: bool
) -> tuple[float | None, float]:
    """By how much gradient and slope differ at any site, over the larger one, and what is allowed.

    None where a pass overflows. As `refuse_another` otherwise, but asked anew each time.
    """
    length = tokens.shape[1] if whole else min(tokens.shape[1], _TOKENS)
    allowed = _HALF.random if _is_rounded(view) else _PRECISE.gradient
    return _measure(view, tokens[:, :length], whole, site), allowed


def _measure(
    view: ModelView, tokens: Int[Tensor, "1 pos"], alone: bool, site: Site
) -> float | None:
    """By how much they differ; None where a pass overflows, which the caller reports."""
    root, y = rooted(view, tokens, site=site)
    if not torch.isfinite(y).all():
        return None
    generator = torch.Generator("cpu").manual_seed(0)
    v = torch.randn(len(y), generator=generator, dtype=torch.float64, device="cpu")
    v /= torch.linalg.vector_norm(v)
    gradient = _gradient(y, root, v)
    if not torch.isfinite(gradient).all():
        return None
    there = root.detach()[0].cpu().double()
    moves = _directions(gradient, there, 1 if alone else _DIRECTIONS, generator)
    if _is_rounded(view):
        return _hold_changes(view, tokens, root, y, moves[1:], alone, site)
    return _hold_slopes(view, tokens, gradient, y, v, moves, alone, site)


def _is_rounded(view: ModelView) -> bool:
    """Whether the model computes in less than single precision, products alone included."""
    if view.dtype == torch.float32:
        return torch.get_float32_matmul_precision() != "highest"
    return view.dtype != torch.float64


def _hold_changes(
    view: ModelView, tokens: Tensor, root: Tensor, y: Tensor, moves: Tensor, alone: bool, site: Site
) -> float | None:
    """By steps that are large enough to stand out of rounding, and by what each of them changes most:
    <v, y> with `v` the change of the final state itself, whose size is then the slope."""
    before, n = y.detach().cpu().double(), len(moves)
    least = _ROUNDINGS * torch.finfo(view.dtype).eps * torch.linalg.vector_norm(before)
    missed: list[_Slopes] = []
    for step in _HALF.random_steps:
        states, seen = _nudged(view, tokens, moves * step, alone, site)
        if not torch.isfinite(states).all():
            return None
        if not _HALF.same(states[-1], before):
            _refuse_unsteady(view)
        changes = states[:n] - states[n : 2 * n]
        some = (_norms(changes) > least).nonzero()[:, 0].tolist()
        measured = _norms(changes)[some]
        promised = [
            (seen[i] * _gradient(y, root, changes[i] / _norms(changes[i]))).sum() for i in some
        ]
        slopes = _Slopes(
            measured / (2 * step), measured.new_tensor(promised) / (2 * step), 0.0, 0.0
        )
        if not some or slopes.off <= _HALF.random:
            return slopes.off if some else 0.0
        missed.append(slopes)
    _refuse(view, tokens, missed[0], _HALF.random, site)


def _gradient(y: Tensor, root: Tensor, v: Tensor) -> Float[Tensor, "pos d_model"]:
    """Of <v, y> with respect to what was rooted, as autograd has it."""
    found = None
    if y.requires_grad:
        (found,) = torch.autograd.grad(y, root, v.to(y), allow_unused=True, retain_graph=True)
    return (torch.zeros_like(root) if found is None else found)[0].cpu().double()


def _hold_slopes(
    view: ModelView,
    tokens: Tensor,
    gradient: Float[Tensor, "pos d_model"],
    y: Tensor,
    v: Float[Tensor, "d_model"],
    moves: Float[Tensor, "direction pos d_model"],
    alone: bool,
    site: Site,
) -> float | None:
    """By small steps, along the gradient and in random directions."""
    allowed = _PRECISE
    typical = float((_norms(gradient) * _norms(moves[-1])).norm()) / len(y) ** 0.5
    y = y.detach().cpu().double()
    rounding = 8 * torch.finfo(torch.float32).eps  # norms are taken in it, in a float64 model too
    looked = {"gradient": slice(0, 1), "random": slice(1, None)}
    found: dict[str, list[_Slopes]] = {kind: [] for kind in looked}
    mixed = unsteady = False

    def refuse(kind: str, slopes: _Slopes) -> None:
        if unsteady:
            _refuse_unsteady(view)
        _refuse(view, tokens, slopes, getattr(allowed, kind), site)

    for step, random_step in zip(allowed.gradient_steps, allowed.random_steps):
        steps = torch.full((len(moves),), random_step, dtype=torch.float64, device="cpu")
        steps[0] = step
        moved = moves * steps[:, None, None]
        states, seen = _nudged(view, tokens, moved, alone, site)
        if not torch.isfinite(states).all():
            return None
        if not allowed.same(states[-1], y):
            if alone or not allowed.same(rooted(view, tokens)[1].detach().cpu().double(), y):
                _refuse_unsteady(view)
            mixed = alone = True
            states, seen = _nudged(view, tokens, moved, alone, site)
        n = len(moves)
        changes = states[:n] - states[n : 2 * n]
        noise = torch.linalg.vector_norm(states[-1] - y)
        unsteady = unsteady or bool(noise > _UNSTEADY * _norms(changes).max())
        measured = changes @ v / (2 * steps)
        promised = (seen * gradient).sum((1, 2)) / (2 * steps)
        for kind, some in list(looked.items()):
            floor = rounding * float(y.square().mean().sqrt()) / (2 * float(steps[some][0]))
            usual = typical if kind == "random" else 0.0
            found[kind].append(_Slopes(measured[some], promised[some], usual, floor))
            if found[kind][-1].off <= getattr(allowed, kind):
                del looked[kind]
            elif found[kind][-1].is_like(*found[kind][:-1]):
                refuse(kind, found[kind][-1])
        if not looked:
            break
    # Random directions move the final state little: rounding inside the model may hide what they do.
    if "gradient" in looked or ("random" in looked and not gradient.any()):
        kind = next(iter(looked))
        refuse(kind, found[kind][0])
    if mixed:
        raise UnsupportedModelError(
            "rows of a batch change each other's final state: something in the model looks at the "
            "whole batch (a scale over all of it, as dynamic quantisation has). Load the model in "
            "float32, bfloat16 or float16"
        )
    return max(tried[-1].off for kind, tried in found.items() if kind not in looked)


def _directions(
    gradient: Float[Tensor, "pos d_model"],
    embedded: Float[Tensor, "pos d_model"],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "direction pos d_model"]:
    """The gradient's own and `count` random ones, for a step of one: no longer than the embedding.

    Positions that would move the prediction more than most (BOS) are moved less, so that a gradient
    that is wrong at the others shows.
    """
    sizes = _norms(embedded)
    influence = _norms(gradient) * sizes
    some = influence[influence > 0]
    if len(some):
        sizes = sizes * (some.median() / influence).clamp_max(1)
    random = torch.randn(
        count, *embedded.shape, generator=generator, dtype=torch.float64, device="cpu"
    )
    moves = torch.cat([gradient[None], random])
    return moves / _norms(moves).clamp_min(1e-300)[..., None] * sizes[:, None]


def _nudged(
    view: ModelView, tokens: Int[Tensor, "1 pos"], moves: Tensor, alone: bool, site: Site
) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, "direction pos d_model"]]:
    """Last final states after each move, after its opposite, and after none; and by how much what is
    at `site` really moved. `alone`: row by row, for hooks that may be made for one."""
    shifts = torch.cat([moves, -moves, torch.zeros_like(moves[:1])])
    seen: list[Tensor] = []
    states: list[Tensor] = []
    for rows in shifts.split(1 if alone else len(shifts)):

        def nudge(a: Tensor, rows: Tensor = rows) -> Tensor:
            seen.append((a.detach().double() + rows.to(a.device)).to(a.dtype))
            return seen[-1].clone()

        with torch.no_grad():
            y = read_under(view, tokens.repeat(len(rows), 1), {site: nudge})
        states.append(y[:, -1].cpu().double())
    moved = torch.cat(seen).cpu().double()
    return torch.cat(states), moved[: len(moves)] - moved[len(moves) : 2 * len(moves)]


def _refuse_unsteady(view: ModelView) -> None:
    if any(module.training for module in view.every_module()):
        raise TrainingModeError(
            "the model is in training mode, and two passes over the same tokens differ: something "
            "in it is random or keeps count. Call model.eval() first"
        )
    raise UnsupportedModelError(
        "two passes over the same tokens differ: the model, or a hook of yours, is random or keeps "
        f"count, and a score would be of one draw{hooks_named(view)}. Make it give the same twice"
    )


def _refuse(
    view: ModelView, tokens: Tensor, slopes: _Slopes, allowed: float, site: Site
) -> NoReturn:
    what = "the embedding" if site.is_embed else site.label
    raise UnsupportedModelError(
        "autograd's gradient is not the slope of what the model computes: "
        f"{_rms(slopes.promised):.3g} by the gradient, {_rms(slopes.measured):.3g} measured with a "
        f"nudge of {what} ({slopes.off:.0%} off, allowed {allowed:.0%}). "
        f"{culprit(view, tokens)}"
    )


def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
